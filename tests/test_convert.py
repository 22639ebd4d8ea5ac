"""Official files become tables without running code, and so do results of training."""

import bz2
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from archgen import unpickle
from archgen.benchmark import Table
from archgen.cli import main
from archgen.convert import convert
from archgen.results import Results
from archgen.space import load_space
from archgen.unpickle import read_pickle

NB201 = load_space("nasbench201")
CELL = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"
CELLS = [CELL.replace("nor_conv_3x3", op) for op in ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")]


# ---- pickles --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_pickles_are_read(tmp_path, protocol):
    plain = OrderedDict(a=[1, 2.5, None, True], b=("x", {"y": 1}), c=np.float64(0.1), d=np.float32(0.5))
    plain |= {"set": {1, 2}} if protocol > 2 else {}  # protocol 2 spells it in the words of Python 2
    plain |= {"e": np.arange(5), "f": np.linspace(0, 1, 4, dtype=">f4"), "g": np.array([{"k": 1}], dtype=object)}
    (tmp_path / "t.pickle").write_bytes(pickle.dumps(plain, protocol=protocol))
    got = read_pickle(tmp_path / "t.pickle")
    assert {k: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in plain.items()} == got


class Reduce:
    """Pickles as a call."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args, state)[: 2 + (state is not None)]

    def __reduce__(self):
        return self.reduced


def attacks(sentinel):
    """Pickles that would touch a file, or get hold of what could; the name of each says how."""
    touch = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w')"
    array, scalar = np._core.multiarray._reconstruct, np._core.multiarray.scalar
    text = f"{code}\n".encode()
    calls = {
        "system": Reduce(os.system, touch),
        "eval": Reduce(eval, code),
        "exec": Reduce(exec, code),
        "open": Reduce(open, str(sentinel), "w"),
        "getattr": Reduce(getattr, Reduce(__import__, "os"), "system"),
        "torch": torch.zeros(2),
        "touch": Reduce(Path.touch, Path(sentinel)),
        "nested": {"nasbench201": [Reduce(OrderedDict), Reduce(os.system, touch)]},
        "factory": Reduce(OrderedDict, [Reduce(map, eval, [code])]),
        "loads": Reduce(pickle.loads, pickle.dumps(Reduce(os.system, touch))),
        "object scalar": Reduce(scalar, np.dtype("O"), b"8 bytes."),
        "object array": Reduce(array, np.ndarray, (0,), b"b", state=(1, (1,), np.dtype("O"), False, b"8 bytes.")),
        "record": Reduce(scalar, np.dtype([("a", "O")]), b"8 bytes."),
        "overlong": Reduce(array, np.ndarray, (0,), b"b", state=(1, (1 << 40,), np.dtype("f8"), False, b"8 bytes.")),
        "dtype": Reduce(np.dtype, "f8, O"),
    }
    raw = {
        "inst": b"(S'" + touch.encode() + b"'\nios\nsystem\n.",
        "global": b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR.",
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x13ndarray.__class__.x\x93.",
        "module": b"cnumpy\n__loader__\n.",
        "change": b"ccollections\nOrderedDict\n}S'_call'\ncos\nsystem\nsb.",
        "slots": b"ccollections\nOrderedDict\n(N}S'_call'\nI1\nstb.",
        "new": b"\x80\x02cnumpy\ndtype\n)\x81.",
        "persistent": b"Pabc\n.",
        "extension": b"\x80\x02\x82\x01.",
        "text": text,
    }
    return {name: pickle.dumps(content, protocol=4) for name, content in calls.items()} | raw


@pytest.mark.parametrize("name", attacks(Path("x")))
@pytest.mark.parametrize("suffix", [".pickle", ".pbz2"])
def test_a_pickle_with_code_in_it_is_refused_unrun(tmp_path, name, suffix):
    content = attacks(tmp_path / "sentinel")[name]
    path = tmp_path / f"t{suffix}"
    path.write_bytes(bz2.compress(content) if suffix == ".pbz2" else content)
    with pytest.raises(ValueError, match=r"^(refused: .* asks for|cannot read) ") as error:
        read_pickle(path)
    assert os.listdir(tmp_path) == [path.name] and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=str(path)):
        convert("hw-nas-bench", str(path), str(tmp_path / "out.csv"))
    assert os.listdir(tmp_path) == [path.name]


def test_a_refusal_names_what_was_asked_for_and_changes_nothing(tmp_path):
    path = tmp_path / "t.pickle"
    path.write_bytes(attacks("x")["slots"])
    with pytest.raises(ValueError, match="may not change what it calls"):
        read_pickle(path)
    path.write_bytes(attacks("x")["nested"])
    with pytest.raises(ValueError, match=r"asks for posix\.system, but facts are numbers, words and containers"):
        read_pickle(path)
    path.write_bytes(pickle.dumps(OrderedDict(a=1)))
    assert read_pickle(path) == {"a": 1}


def test_a_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickle, "LIMIT", 1 << 20)
    (tmp_path / "t.pbz2").write_bytes(bz2.compress(bytes(1 << 21)))
    with pytest.raises(ValueError, match=r"refused: .* holds more than 1 MiB"):
        read_pickle(tmp_path / "t.pbz2")


@pytest.fixture(scope="module")
def samples():
    """The bytes of one small pickle, plain and compressed."""
    content = OrderedDict(a=[np.float64(1.5), np.arange(3.0)], b={"c": ("x", {1, 2})})
    plain = pickle.dumps(content, protocol=4)
    return {".pickle": plain, ".pbz2": bz2.compress(plain)}


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_pickles_raise_one_sentence(samples, damaged, tmp_path, data):
    """Cut anywhere or with bytes changed, a pickle is read or refused; nothing but ValueError comes out."""
    suffix = data.draw(st.sampled_from(sorted(samples)))
    path = tmp_path / f"t{suffix}"
    path.write_bytes(damaged(data, samples[suffix]))
    try:
        read_pickle(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("suffix", [".pickle", ".pbz2"])
def test_every_cut_pickle_is_refused(samples, tmp_path, suffix):
    for share in (0, 0.1, 0.5, 0.9):
        path = tmp_path / f"t{suffix}"
        path.write_bytes(samples[suffix][: int(share * len(samples[suffix]))])
        with pytest.raises(ValueError, match="cannot read"):
            read_pickle(path)


# ---- official files -------------------------------------------------------------------------------------------------
def trial(accuracy, epochs, flops=10.0):
    names = [f"{split}@{epoch}" for split in ("x-valid", "x-test", "ori-test") for epoch in range(epochs)]
    accuracies = {name: accuracy if name.endswith(f"@{epochs - 1}") else 0.0 for name in names}
    return {"eval_acc1es": accuracies, "train_times": OrderedDict.fromkeys(range(epochs), 2.0), "epochs": epochs,
            "params": np.float64(0.5), "flop": flops, "net_state_dict": None}  # fmt: skip


def nats(folder, index=1, archs=CELLS, **changes):
    """A NATS-Bench folder of one record: three seeds of CIFAR-10 and one of its half."""
    trials = {("cifar10", seed): trial(90.0 + k, 12, 10.0 + (seed == 888)) for k, seed in enumerate((777, 888, 999))}
    trials["cifar10-valid", 777] = trial(80.0, 12)
    result = {"arch_index": index, "arch_str": archs[index], "all_results": trials,
              "dataset_seed": {"cifar10-valid": [777], "cifar10": [777, 888, 999]}, **changes}  # fmt: skip
    folder.mkdir(exist_ok=True)
    for name, content in (("meta", {"meta_archs": archs}), (f"{index:06d}", OrderedDict({"12": result}))):
        (folder / f"{name}.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(content, protocol=4)))
    return str(folder)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_nats_bench_is_averaged_over_its_seeds(tmp_path, capsys, suffix):
    """Accuracies are means; costs on which the seeds disagree are those of seed 888, as in NATS-Bench's API."""
    out = tmp_path / f"t{suffix}"
    convert("nats-bench", nats(tmp_path / "n"), str(out))
    table = Table.read(out, NB201)
    row = {name: values.item() for name, values in table.columns.items()}
    assert str(NB201.decode(table.codes[0])) == CELLS[1] and "1 of 3 architectures" in capsys.readouterr().err
    assert row == {
        "arch_index": 1, "cifar10_val_acc_12ep_pct": 80.0, "cifar10_test_acc_12ep_pct": 91.0,
        "cifar10_train_time_12ep_s": 24.0, "cifar10_params_m": 0.5, "cifar10_flops_m": 11.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arch_index": 2}, "000001.pickle.pbz2 is no record of NATS-Bench: .* number 2"),
        ({"all_results": {}}, "is no record of NATS-Bench: KeyError"),
        ({"dataset_seed": 3}, "is no record of NATS-Bench: AttributeError"),
        ({"dataset_seed": {"cifar10": []}}, "is no record of NATS-Bench: ZeroDivisionError"),
    ],
)
def test_a_wrong_record_is_named_and_nothing_is_written(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        convert("nats-bench", nats(tmp_path / "n", **changes), str(tmp_path / "t.csv"))
    assert os.listdir(tmp_path) == ["n"]


def test_convert_says_what_it_needs(tmp_path):
    for source, path, out, sentence in (
        ("nas-bench", tmp_path, "t.csv", "no format 'nas-bench'; known: nats-bench, hw-nas-bench, fit"),
        ("nats-bench", tmp_path, "t.csv", r"has no meta\.pickle\.pbz2; give NATS-Bench's folder"),
        ("nats-bench", tmp_path, "t.safetensors", r"the output is one of \.parquet, \.csv"),
        ("hw-nas-bench", tmp_path / "none", "t.csv", "cannot read .*none"),
    ):
        with pytest.raises(ValueError, match=sentence):
            convert(source, str(path), str(tmp_path / out))
    (tmp_path / "t.pickle").write_bytes(pickle.dumps({"fbnet": {}}))
    with pytest.raises(ValueError, match=r"t\.pickle is no pickle of HW-NAS-Bench: KeyError 'nasbench201'"):
        convert("hw-nas-bench", str(tmp_path / "t.pickle"), str(tmp_path / "t.csv"))


@pytest.mark.parametrize("kind", ["tss", "sss"])
def test_official_nats_records_give_the_shared_numbers(tmp_path, outside, kind):
    """Every column that both tables have agrees to 1e-6 on the three sample records."""
    folder = outside(f"official_format/NATS-{kind}-v1_0-{dict(tss='3ffb9', sss='50262')[kind]}-simple")
    convert("nats-bench", str(folder), str(tmp_path / "t.parquet"))
    got = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert [row["arch_index"] for row in got] == [0, 11, 284] and all(None not in row.values() for row in got)
    if kind == "sss":
        assert got[1]["arch_str"] == "8:8:8:16:32" and "cifar10_test_acc_90ep_pct" in got[1]
        return
    known = parquet.read_table(outside("nas_bench_201.parquet")).to_pylist()
    shared = got[0].keys() & known[0].keys()
    assert len(shared) == 14
    for row in got:
        for name in shared:
            assert row[name] == pytest.approx(known[row["arch_index"]][name], abs=1e-6), name


def hw(archs, columns):
    """HW-NAS-Bench's pickle from columns `dataset/metric`."""
    tables = {}
    for name, values in columns.items():
        dataset, metric = name.split("/")
        tables.setdefault(dataset, {"config": [{"arch_str": arch, "C": 16} for arch in archs]})[metric] = values
    return {"nasbench201": tables, "fbnet": {"edgegpu_latency": {"Skip": 0.1}}}


def test_hw_nas_bench_is_read_with_its_units(tmp_path):
    columns = {"cifar10/edgegpu_latency": [np.float64(1.5), np.float32(2.5), 3.5],
               "cifar10/edgetpu_latency": np.array([0.5, -1, 1.5]),
               "ImageNet16-120/fpga_energy": [1, 2, 3]}  # fmt: skip
    content = hw(CELLS, columns)
    (tmp_path / "t.pickle").write_bytes(pickle.dumps(content))
    convert("hw-nas-bench", str(tmp_path / "t.pickle"), str(tmp_path / "t.parquet"))
    table = Table.read(tmp_path / "t.parquet", NB201)
    assert table.column("cifar10_edgegpu_latency_ms").tolist() == [1.5, 2.5, 3.5]
    assert table.column("cifar10_edgetpu_latency_ms").nan_to_num(-7).tolist() == [0.5, -7, 1.5]
    assert table.column("imagenet16_120_fpga_energy_mj").tolist() == [1, 2, 3]


def test_hw_nas_bench_gives_the_shared_table(tmp_path, outside):
    """A pickle of the official layout becomes the shared table, and holds the numbers of upstream's notebook."""
    known = parquet.read_table(outside("hw_nas_bench_201.parquet"))
    names = {name: name.replace("_", "/", 1).rsplit("_", 1)[0] for name in known.column_names[2:]}
    columns = {new: np.nan_to_num(known[name].to_numpy(), nan=-1) for name, new in names.items()}
    (tmp_path / "t.pickle").write_bytes(pickle.dumps(hw(known["arch_str"].to_pylist(), columns)))
    convert("hw-nas-bench", str(tmp_path / "t.pickle"), str(tmp_path / "t.parquet"))
    got = parquet.read_table(tmp_path / "t.parquet")
    for name in known.column_names:
        assert np.array_equal(got[name].to_numpy(), known[name].to_numpy(), equal_nan=name in names), name
    for entry in json.loads(outside("official_format/hw_nas_bench_official_example_values.json").read_text()):
        for metric, value in entry["metrics"].items():
            unit = {"latency": "ms", "energy": "mj"}.get(metric.rpartition("_")[2])
            name = f"{entry['dataset']}_{metric}_{unit}"
            if name in got.column_names and isinstance(entry["index"], int):
                assert got[name][entry["index"]].as_py() == pytest.approx(value, rel=1e-12)


# ---- results of fit -------------------------------------------------------------------------------------------------
NETS = [
    f"|{op}~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|none~2|"
    for op in ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
]


def result(arch=NETS[0], task="digits", seed=0, accuracy=90.0, **changes):
    """A line of `archgen fit`."""
    return {"hash": NB201.parse(arch).hash, "task": task, "data": f"{task}-1", "recipe": "default-1", "seed": seed,
            "space": "nasbench201", "arch": arch, "status": "done", "test_acc_pct": accuracy,
            "train_acc_pct": 99.0} | changes  # fmt: skip


FAILED = {"status": "failed", "reason": "out of memory", "test_acc_pct": None}
RESULTS = [
    *(result(seed=seed, accuracy=90.0 + seed, valid_acc_pct=80.0 + 2 * seed) for seed in range(3)),
    result(task="mnist", accuracy=50.0),
    result(NETS[1], accuracy=10.0),
    result(NETS[1], "mnist", **FAILED),
    result(NETS[2], **FAILED),
]


def keep(folder, records, share=0):
    """A folder as `archgen fit` leaves it."""
    results = Results(folder, share)
    for record in records:
        results.append(record)
    return results.path


def table_of(path, out):
    convert("fit", str(path), str(out))
    return Table.read(out, NB201)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_results_are_averaged_over_seeds(tmp_path, capsys, suffix):
    """Mean and sample standard deviation; failures are counted, and have no row and no value."""
    keep(tmp_path / "run", RESULTS)
    table = table_of(tmp_path / "run", tmp_path / f"t{suffix}")
    assert [str(NB201.decode(codes)) for codes in table.codes] == NETS[:2]
    assert {name: values.nan_to_num(-1).tolist() for name, values in table.columns.items()} == {
        "digits_test_acc_pct": [91.0, 10.0], "digits_test_acc_std_pct": [1.0, -1], "digits_valid_acc_pct": [82.0, -1],
        "digits_seeds": [3, 1], "mnist_test_acc_pct": [50.0, -1], "mnist_seeds": [1, -1],
    }  # fmt: skip
    assert "5 results of 2 architectures, 2 failures" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["run", f"t{suffix}"]


def test_folders_of_two_machines_are_one(tmp_path):
    """Whether their files are merged, named one by one, or copied together; what both did counts once."""
    keep(tmp_path / "whole", RESULTS)
    whole = table_of(tmp_path / "whole", tmp_path / "whole.csv")
    one, two = keep(tmp_path / "one", RESULTS[:4], 0), keep(tmp_path / "two", RESULTS[2:], 1)
    folders, again = f"{tmp_path / 'one'}, {tmp_path / 'two'}", f"{one},{tmp_path / 'two'},{one}"
    merged = [table_of(path, tmp_path / "merged.csv") for path in (folders, f"{one},{two}", again)]
    two.rename(tmp_path / "one" / two.name)
    for table in (*merged, table_of(tmp_path / "one", tmp_path / "merged.csv")):
        assert torch.equal(table.codes, whole.codes) and list(table.columns) == list(whole.columns)
        assert all(
            torch.equal(table.columns[key].nan_to_num(-1), whole.columns[key].nan_to_num(-1)) for key in whole.columns
        )
    assert (tmp_path / "merged.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_what_failed_on_one_machine_counts_where_it_went_well_on_another(tmp_path, capsys):
    one, two = keep(tmp_path / "one", [result(**FAILED)]), keep(tmp_path / "two", [result()])
    for path in (f"{one},{two}", f"{two},{one}"):
        assert table_of(path, tmp_path / "t.csv").column("digits_test_acc_pct").tolist() == [90.0]
        assert "1 results of 1 architectures, 0 failures" in capsys.readouterr().err


def test_spellings_of_one_network_share_the_row_of_the_first(tmp_path):
    twin = NETS[0].replace("|none~0|nor_conv_3x3~1|none~2|", "|none~0|none~1|nor_conv_3x3~2|")
    twin = twin.replace("|nor_conv_3x3~0|+|none~0|", "|none~0|+|nor_conv_3x3~0|")
    path = keep(tmp_path / "run", [result(accuracy=1.0), result(twin, seed=1, accuracy=2.0)])
    table = table_of(path, tmp_path / "t.csv")
    assert str(NB201.decode(table.codes[0])) == NETS[0] != twin and table.column("digits_test_acc_pct").tolist() == [
        1.5
    ]


def test_a_comma_in_the_name_of_a_folder_is_no_separator(tmp_path):
    keep(tmp_path / "a,b", RESULTS[:1])
    assert len(table_of(tmp_path / "a,b", tmp_path / "t.csv")) == 1


def test_a_torn_last_line_is_ignored(tmp_path):
    path = keep(tmp_path / "run", RESULTS)
    whole = table_of(path, tmp_path / "t.csv").columns
    line = json.dumps(result(NETS[2])).encode() + b"\n"
    for end in (1, 20, len(line) - 1):
        path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in RESULTS) + line[:end])
        torn = table_of(path, tmp_path / "t.csv").columns
        assert torn.keys() == whole.keys() and len(torn["digits_seeds"]) == 2
    path.write_bytes(path.read_bytes() + line[end:])
    assert len(table_of(path, tmp_path / "t.csv")) == 3


def test_a_task_trained_on_two_versions_of_its_images_is_refused(tmp_path):
    """Different tasks may differ."""
    keep(tmp_path / "run", [result(NETS[0]), result(NETS[1], task="other")])
    assert len(table_of(str(tmp_path / "run"), tmp_path / "t.csv")) == 2
    keep(tmp_path / "run", [result(NETS[1], data="digits-2")])
    (tmp_path / "t.csv").unlink()
    with pytest.raises(ValueError, match="task digits was trained on 2 versions of its data"):
        convert("fit", str(tmp_path / "run"), str(tmp_path / "t.csv"))
    assert not (tmp_path / "t.csv").exists()


def test_recipes_of_a_task_have_columns_of_their_own(tmp_path):
    keep(tmp_path / "run", [result(NETS[0]), result(NETS[0], recipe="longer-1"), result(NETS[1])])
    table = table_of(str(tmp_path / "run"), tmp_path / "t.csv")
    known = {name: int(column.isfinite().sum()) for name, column in table.columns.items() if "test_acc" in name}
    assert known == {"digits_default-1_test_acc_pct": 2, "digits_longer-1_test_acc_pct": 1}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no result of `archgen fit`$"),
        (b"torn", "holds no result of `archgen fit`$"),
        (json.dumps(RESULTS[-1]).encode() + b"\n", "holds no result of `archgen fit`, but 1 failures"),
        (b'{"arch": "x"}\n', r"results-0\.jsonl, line 1, is no result of `archgen fit`"),
        (b"[1]\n", "line 1, is no result of `archgen fit`"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1, is no result of `archgen fit`"),
        (b"\n", "line 1, is no result of `archgen fit`"),
        (b'{"hash": 1, "task": 1, "data": 1, "recipe": 1, "seed": 1}\n', "line 1, is no result of `archgen fit`"),
        (json.dumps(result(accuracy="x")).encode() + b"\n", "is not of `archgen fit`: TypeError"),
    ],
)
def test_files_of_something_else_are_refused_and_nothing_is_written(tmp_path, capsys, content, sentence):
    path = tmp_path / "run" / "results-0.jsonl"
    path.parent.mkdir()
    path.write_bytes(content)
    for name in (path, path.parent):
        with pytest.raises(ValueError, match=sentence) as error:
            convert("fit", str(name), str(tmp_path / "t.csv"))
        assert str(path.parent) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(SystemExit, match="2"):
        main(["convert", "fit", str(path), "--out", str(tmp_path / "t.csv")])
    assert os.listdir(tmp_path) == ["run"] and capsys.readouterr().err.count("\n") == 1


def test_results_that_are_not_there_are_named(tmp_path):
    (tmp_path / "none").mkdir()
    for path, sentence in (
        (tmp_path / "missing", "cannot read .*missing: No such file"),
        (f"{tmp_path / 'none'},{tmp_path / 'missing'}", "cannot read .*missing: No such file"),
        (tmp_path / "none", "none holds no result"),
        (",", "holds no result"),
    ):
        with pytest.raises(ValueError, match=sentence):
            convert("fit", str(path), str(tmp_path / "t.csv"))
