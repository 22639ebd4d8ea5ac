"""The command: what it writes, and how it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from archgen.cli import main, sample
from archgen.hub import replacing, shipped_checkpoints
from archgen.space import read_architectures

ROOT = Path(__file__).parents[1]


def refused(capsys, *words: str) -> str:
    """The one sentence with which a request is refused."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("archgen: ")]
    assert caught.value.code == 2
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    return lines[0]


def test_sample_writes_lines_and_pictures(tmp_path, capsys):
    out, pictures = tmp_path / "a" / "b.jsonl", tmp_path / "pictures"
    where = "params_m <= 0.4 and depth >= 2"
    main(["sample", "nasbench201", "--n", "3", "--where", where, "--maximize", "cifar100_test", "--out", str(out),
          "--draw", str(pictures)])  # fmt: skip
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == 3
    assert all(record["params_m"] <= 0.4 and record["depth"] >= 2 for record in records)
    assert sorted(path.name for path in pictures.iterdir()) == ["000.png", "001.png", "002.png", "sheet.png"]
    assert len(capsys.readouterr().out.splitlines()) == 4
    main(["build", str(out), "--num_classes", "7", "--draw", str(tmp_path / "one.svg")])
    said = capsys.readouterr().out
    assert "(1, 7)" in said
    assert records[0]["hash"] in said
    assert (tmp_path / "one.svg").read_text().lstrip().startswith("<?xml")


def test_build_reads_native_strings_json_and_standard_input(capsys, monkeypatch):
    import io

    native = "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"
    main(["build", native])
    first = capsys.readouterr().out
    architecture = read_architectures(json.dumps({"space": "nasbench201", "arch": native, **graph_of(native)}))[0]
    monkeypatch.setattr(sys, "stdin", io.StringIO(architecture.to_json() + "\n"))
    main(["build", "-"])
    assert capsys.readouterr().out == first


def graph_of(native: str) -> dict:
    from archgen.space import load_space

    return {"graph": load_space("nasbench201").parse(native).to_dict()}


@pytest.mark.parametrize(
    "words",
    [
        ["sample"], ["sample", "nothing"], ["sample", "nasbench201", "--n", "0"],
        ["sample", "nasbench201", "--n", "x"], ["sample", "nasbench201", "--steps", "-1"],
        ["sample", "nasbench201", "--wher", "depth > 1"],
        ["sample", "nasbench201", "--where", "depth >"], ["sample", "nasbench201", "--where", "price < 3"],
        ["sample", "nasbench201", "--where", "params_m < 0.01"], ["sample", "nasbench201", "--maximize", "beauty"],
        ["sample", "nasbench201", "--condition", "{params_m: [3, 1]}"],
        ["sample", "nasbench201", "--device", "abacus"],
        ["sample", "nasbench201", "--like", "nonsense"], ["sample", "nasbench201", "--like", "missing.json"],
        ["sample", "nasbench201", "--change", "2"], ["sample", "--config", "missing.yaml"],
        ["build", "nonsense"], ["build", "missing.jsonl"], ["build", "x", "--space", "nowhere"],
        ["train", "--space", "nowhere", "--out", "out/x"], ["train", "--out", "out/x"], ["evaluate", "nothing"],
        ["convert", "magic", "a", "b"], ["convert", "nats-bench", "missing", "t.parquet"], ["paint"],
    ],
)  # fmt: skip
def test_requests_at_fault_get_one_sentence_and_status_2(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(capsys, *words)
    assert not list(tmp_path.rglob("*"))


def test_damaged_recipes_and_results_are_refused(tmp_path, capsys):
    for text in ("n: [", "n: {", "checkpoint: nasbench201\nn: many\n", "colour: red\n", "- 1\n", "\x00"):
        (tmp_path / "r.yaml").write_text(text)
        refused(capsys, "sample", "--config", tmp_path / "r.yaml")
    for text in ("", "{", "[1]", '{"space": "nasbench201"}', '{"space": 3}', '{"space": "nasbench201", "graph": 1}'):
        (tmp_path / "r.jsonl").write_text(text)
        refused(capsys, "build", tmp_path / "r.jsonl")


def test_a_failed_write_leaves_what_was_there(tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    refused(capsys, "sample", "nasbench201", "--n", "1", "--out", tmp_path / "file" / "below.jsonl")
    refused(capsys, "sample", "nasbench201", "--n", "1", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=4))
def test_no_words_break_the_command(words):
    try:
        main(["build", *words])
    except SystemExit as error:
        assert error.code in (0, 2)


def test_help_is_there_without_torch():
    code = "import sys; from archgen.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "sample" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "sampling").glob("*.yaml")), ids=lambda path: path.stem)
def test_sampling_recipes_work(path, tmp_path):
    recipe = yaml.safe_load(path.read_text())
    assert recipe["checkpoint"] in shipped_checkpoints()
    assert f"archgen sample --config sampling/{path.name}" in path.read_text()
    sample(**{**recipe, "n": 2, "out": str(tmp_path / "two.jsonl")})
    assert len(read_architectures(str(tmp_path / "two.jsonl"))) == 2


def test_public_names_are_what_they_name():
    kinds = "import archgen, archgen.understanding; print({type(getattr(archgen, name)) for name in archgen.__all__})"
    assert "module" not in subprocess.run([sys.executable, "-c", kinds], capture_output=True, text=True).stdout


def test_a_device_or_a_pipe_is_written_to_and_not_replaced(tmp_path):
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "file.txt")
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and (tmp_path / "file.txt").read_text() == "new"
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDWR)
    with replacing(pipe) as temporary:
        temporary.write_text("said")
    assert os.read(reader, 10) == b"said" and not pipe.is_file()
    os.close(reader)


def test_whoever_has_seen_enough_ends_a_command_quietly():
    command = (
        f"{sys.executable} -c 'from archgen.cli import main; main()' describe random:300 --space nasbench201 | head -1"
    )
    found = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert len(found.stdout.splitlines()) == 1 and "Traceback" not in found.stderr
