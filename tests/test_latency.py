"""Latency: what is measured, told from what stands there already, and written."""

import io
import json

import pytest
import torch
from torch import nn

from archgen import latency as module
from archgen.benchmark import Table
from archgen.cli import main
from archgen.latency import latency, measure, quiet, summarize
from archgen.space import load_space

SPACE = load_space("nasbench201")
SMALL = {"space": "nasbench201", "skeleton": {"width": 1, "cells": 1}, "resolution": 8, "rounds": 2, "seconds": 1e-6}
COLUMN = "cpu_b1_t1_resolution8_width1_cells1"
FRAGILE = """
import torch
from torch import nn

class Greedy(nn.Module):
    def forward(self, x):
        raise MemoryError("no room")

def make_block(op, shape):
    if op == "missing":
        raise RuntimeError("it has no\\nkernel")
    return {"conv": nn.Conv2d(shape[0], shape[0], 1), "skip": nn.Identity(), "greedy": Greedy()}[op]
"""


def cell(op: str) -> str:
    return f"|{op}~0|+|{op}~0|{op}~1|+|{op}~0|{op}~1|{op}~2|"


def rows(path, space=SPACE) -> dict[str, float]:
    """Latencies of a table by native string."""
    table = Table.read(path, space)
    name = next(name for name in table.columns if name.endswith("_latency_ms"))
    return {
        str(space.decode(codes)): value for codes, value in zip(table.codes, table.columns[name].tolist(), strict=True)
    }


@pytest.fixture
def costs(monkeypatch) -> list[int]:
    """Networks take as many ms as they have parameters; the list says how many were built in each chunk."""
    chunks = []

    def counted(builds, *_):
        chunks.append(len(builds))
        return [[float(sum(p.numel() for p in build().parameters()))] for build in builds], {}

    monkeypatch.setattr(module, "measure", counted)
    return chunks


def test_convolutions_take_longer_than_skips(tmp_path, monkeypatch, capsys):
    """Twenty times the multiply-adds, three times the time at least."""
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{cell('nor_conv_3x3')}\n\n{cell('skip_connect')}\n" * 2))
    latency("-", space="nasbench201", rounds=3, seconds=1e-6, out=str(tmp_path / "t.csv"))
    found = rows(tmp_path / "t.csv")
    assert len(found) == 2
    assert found[cell("nor_conv_3x3")] > 3 * found[cell("skip_connect")] > 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("fastest") and said[1].endswith(cell("skip_connect"))
    assert said[3].startswith("slowest") and said[3].endswith(cell("nor_conv_3x3"))


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".safetensors"])
def test_the_table_is_one_like_any_other(tmp_path, suffix):
    latency("random:4", **SMALL, out=str(tmp_path / "below" / f"t{suffix}"))
    table = Table.read(tmp_path / "below" / f"t{suffix}", SPACE)
    assert sorted(table.columns) == [f"{COLUMN}_latency_ms", f"{COLUMN}_spread_pct"]
    assert (table.column(f"{COLUMN}_latency_ms") > 0).all()
    assert (table.column(f"{COLUMN}_spread_pct") >= 0).all()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"t{suffix}"]


def test_only_what_is_missing_is_measured(tmp_path, costs, capsys):
    out = str(tmp_path / "t.csv")
    latency("random:7", **SMALL, out=out)
    before = rows(out)
    latency("random:9", **SMALL, out=out)
    latency("random:9", **SMALL, out=out)
    assert costs == [7, module.REFERENCES + 2]
    assert list(rows(out).items())[:7] == list(before.items())
    assert [line for line in capsys.readouterr().out.splitlines() if "now" in line][1].endswith(
        "2 of them measured now"
    )


def test_a_stopped_run_keeps_its_chunks(tmp_path, costs, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4)
    out, counted = str(tmp_path / "t.csv"), module.measure

    def stopped(*arguments):
        if len(costs) == 2:
            raise KeyboardInterrupt
        return counted(*arguments)

    monkeypatch.setattr(module, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        latency("random:12", **SMALL, out=out)
    assert len(rows(out)) == 8
    monkeypatch.setattr(module, "measure", counted)
    latency("random:12", **SMALL, out=out)
    assert costs == [4, 4 + 4, 5 + 4]
    assert len(rows(out)) == 12


def test_a_machine_that_slows_down_changes_nothing(tmp_path, costs, monkeypatch):
    """Networks of a later chunk, measured at half the speed, get the latency they had in the first."""
    monkeypatch.setattr(module, "CHUNK", 10)
    latency("random:30", **SMALL, out=str(tmp_path / "steady.csv"))
    counted = module.measure

    def slower(*arguments):
        times, failures = counted(*arguments)
        return [[len(costs) * time for time in one] for one in times], failures

    costs.clear()
    monkeypatch.setattr(module, "measure", slower)
    latency("random:30", **SMALL, out=str(tmp_path / "slower.csv"))
    assert rows(tmp_path / "slower.csv") == pytest.approx(rows(tmp_path / "steady.csv"))


def test_what_raises_costs_only_itself(tmp_path, monkeypatch, capsys):
    (tmp_path / "fragile.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(tmp_path)
    nodes = {"first": {"op": ["conv", "skip", "missing", "greedy"]}, "second": {"op": ["conv", "skip"]}}
    skeleton = {"resolution": 4, "classes": 2}
    declared = {"name": "brittle", "builder": "fragile:make_block", "skeleton": skeleton, "nodes": nodes}
    (tmp_path / "brittle.yaml").write_text(json.dumps(declared))
    space, out = str(tmp_path / "brittle.yaml"), str(tmp_path / "t.csv")
    for _ in range(2):  # what raised is tried again
        latency("random:8", space=space, rounds=2, seconds=1e-6, out=out)
        captured = capsys.readouterr()
        assert captured.err.splitlines()[-1].startswith("archgen: 4 of 8 networks could not be measured; the first: ")
        assert ("RuntimeError: it has no kernel" in captured.err) != ("MemoryError: no room" in captured.err)
    found = rows(out, load_space(space))
    assert len(found) == 8
    assert {arch for arch, value in found.items() if value != value} == {
        arch for arch in found if "missing" in arch or "greedy" in arch
    }
    with pytest.raises(ValueError, match="1 of 1 networks could not be measured; the first: MemoryError"):
        latency("op=greedy | op=skip", space=space, rounds=2, out=str(tmp_path / "none.csv"))
    assert not (tmp_path / "none.csv").exists()


def test_every_network_has_every_turn():
    passes = [0, 0, 0]

    class Counting(nn.Identity):
        def __init__(self, position):
            super().__init__()
            self.position = position

        def forward(self, x):
            assert torch.is_inference_mode_enabled() and not self.training
            passes[self.position] += 1
            return x

    order = []
    builds = [lambda position=position: Counting(position) for position in range(3)]
    times, failures = measure(
        builds, torch.zeros(1, 1, 1, 1), 20, 1e-9, torch.Generator().manual_seed(0), order.append
    )
    assert passes == [20 * (1 + module.PASSES)] * 3
    assert [len(one) for one in times] == [20 * module.PASSES] * 3 and not failures
    turns = [tuple(order[begin : begin + 3]) for begin in range(0, 60, 3)]
    assert all(sorted(turn) == [0, 1, 2] for turn in turns) and len(set(turns)) > 3


def test_latency_is_the_lower_decile():
    assert summarize([float(time) for time in range(10, 111)]) == pytest.approx((20, 100 * 50 / 20))
    assert all(value != value for value in summarize([]))


def test_random_members_differ_and_fewer_are_the_first_of_more():
    few, many, all_ = (module._members(f"random:{n}", "nasbench201", 1)[1] for n in (5, 3000, 15_625))
    assert many[:5] == few
    assert len(set(many)) == 3000
    assert len(set(all_)) == 15_625
    assert few != module._members("random:5", "nasbench201", 2)[1]


def test_every_setting_of_its_own_stands_in_the_name(tmp_path, costs):
    for settings, expected in (
        ({}, "cpu_b1_t1"),
        ({"skeleton": {"width": 16}, "resolution": 32, "num_classes": 10}, "cpu_b1_t1"),
        ({"batch_size": 3, "threads": 2, "num_classes": 100, "in_channels": 1}, "cpu_b3_t2_classes100_in_channels1"),
        ({"column": "phone"}, "phone"),
    ):
        out = tmp_path / "t.csv"
        latency("random:1", space="nasbench201", out=str(out), **settings)
        assert list(Table.read(out, SPACE).columns) == [f"{expected}_latency_ms", f"{expected}_spread_pct"]
        out.unlink()
    _, words = module._arrange(load_space("mnasnet"), {"channels": [8] * 7}, resolution=None, classes=None)
    assert words == "_channels" + "x".join("8" * 7)


def test_threads_and_small_numbers_are_as_before():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), quiet(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
    assert (torch.full((64,), 1e-39) * 0.5 > 0).all()


@pytest.mark.parametrize(
    "words",
    [
        ["random:3"], ["random:0", "--space", "nasbench201"], ["random:15626", "--space", "nasbench201"],
        ["nonsense", "--space", "nasbench201"], ["nonsense"], ["missing.jsonl"], ["empty.jsonl"], ["two.jsonl"],
        *(["random:1", "--space", "nasbench201", *more.split()] for more in (
            "--device abacus", "--device meta", "--batch_size 0", "--batch_size 100000000000", "--threads 0",
            "--rounds 0", "--seconds 0", "--seconds nan", "--resolution 0", "--in_channels 0", "--num_classes 0",
            "--skeleton {colour:3}", "--skeleton {width:[3]}", "--out t.txt", "--out .", "--out empty.jsonl/t.csv",
            "--out other.csv", "--out another.csv")),
    ],
)  # fmt: skip
def test_requests_at_fault_get_one_sentence_and_write_nothing(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    graphs = [load_space(name).decode(load_space(name).sample(1)[0]).to_json() for name in ("nasbench201", "mnasnet")]
    (tmp_path / "two.jsonl").write_text("\n".join(graphs))
    (tmp_path / "other.csv").write_text(f"arch,energy_mj\n{cell('none')},3\n")
    (tmp_path / "another.csv").write_text("arch,cpu_b1_t1_latency_ms,cpu_b1_t1_spread_pct\nexpand=6,3,4\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit) as caught:
        main(["latency", *words])
    said = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert [line[:9] for line in said] == ["archgen: "]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
