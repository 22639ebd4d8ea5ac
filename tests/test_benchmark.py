"""Tables bind rows to architectures, and the oracle counts networks."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet

from archgen import benchmark
from archgen.benchmark import BudgetExhausted, Oracle, Table, find_table, join
from archgen.space import declare, load_space

NB201 = load_space("nasbench201")
CELL = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"
CELLS = [CELL.replace("nor_conv_3x3", op) for op in ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")]


def make(space, rows=20, seed=0):
    """A table of different random members, one column full and one with holes."""
    codes = space.sample(2 * rows, torch.Generator().manual_seed(seed)).unique(dim=0)[:rows]
    values = torch.rand(len(codes), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Table(space, codes, {"accuracy_pct": 100 * values, "latency_ms": values.where(values > 0.5, torch.nan)})


def write(path, columns):
    (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(pa.table(columns), path)
    return path


def equal(a, b):
    return torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0))


# ---- tables ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", benchmark.READABLE)
@pytest.mark.parametrize("name", ["nasbench201", "nasbench101", "mnasnet", "mobilenetv3"])
def test_what_is_written_is_read_back(tmp_path, name, suffix):
    """Codes and values are bit-identical, missing values stay missing, and no temporary file stays."""
    table = make(load_space(name))
    table.write(tmp_path / f"t{suffix}")
    again = Table.read(tmp_path / f"t{suffix}", table.space)
    assert torch.equal(again.codes, table.codes) and list(again.columns) == list(table.columns)
    assert all(equal(again.columns[key], table.columns[key]) for key in table.columns)
    assert (again.merged, again.name, os.listdir(tmp_path)) == (0, "t", [f"t{suffix}"])


SPELLINGS = {
    "bool": bool, "int": int, "float": float, "word": lambda v: ("no", "yes")[v], "Word": lambda v: str(bool(v)),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_options_are_found_in_their_spellings(tmp_path, spelling, suffix):
    space = load_space("mnasnet")
    table = make(space)
    columns = {"score": table.columns["accuracy_pct"].tolist()}
    for hole, codes in zip(space.holes, table.codes.T.tolist(), strict=True):
        spell = SPELLINGS[spelling] if hole.attribute == "squeeze_excitation" else (str, float)[spelling == "float"]
        name = hole.name.replace(".", "_").replace("squeeze_excitation", "se")
        for word, letter in (("expand", "e"), ("kernel", "k"), ("layers", "l")):
            name = name.replace(f"_{word}", f"_{letter}")
        columns[name] = [spell(hole.options[code]) for code in codes]
    again = Table.read(write(tmp_path / f"t{suffix}", columns), space)
    assert torch.equal(again.codes, table.codes) and list(again.columns) == ["score"]


@pytest.mark.parametrize("absent", [None, "absent", ""])
def test_a_hole_that_is_not_there_is_empty_in_its_column(tmp_path, absent):
    space = load_space("mobilenetv3")
    table = make(space)
    columns = {"score": table.columns["accuracy_pct"].tolist()}
    for hole, codes in zip(space.holes, table.codes.T.tolist(), strict=True):
        words = [hole.options[code] for code in codes]
        columns[hole.name.replace(".", "_")] = [absent if word == "absent" else str(word) for word in words]
    assert torch.equal(Table.read(write(tmp_path / "t.csv", columns), space).codes, table.codes)
    row = columns["stage1_layers"].index("2")
    columns["stage1_kernel4"][row] = "5"
    with pytest.raises(ValueError, match=rf"t\.csv, row {row}: .* encodes no member of mobilenetv3"):
        Table.read(write(tmp_path / "t.csv", columns), space)


def test_a_declared_space_reads_its_default_columns_and_optional_edges(tmp_path):
    space = declare({"name": "tiny", "nodes": {"a": {"op": ["x", "y"]}, "b": {"op": ["x", "y"]}},
                     "optional_edges": [["input", "b"]]})  # fmt: skip
    columns = {"a_op": ["x", "y"], "b_op": ["y", "y"], "input->b": [True, False], "loss": [1.0, 2.0]}
    assert Table.read(write(tmp_path / "t.parquet", columns), space).codes.tolist() == [[0, 1, 1], [1, 1, 0]]


def test_rows_of_one_architecture_are_averaged_and_counted(tmp_path):
    """Equal rows merge silently to the exact value; of differing ones the finite values are averaged."""
    value = 0.1 + 0.2
    columns = {"arch_str": [CELLS[0]] * 3 + [CELLS[1]] * 2 + [CELLS[2]] * 2, "a": [value] * 3 + [1.0, 3.0, None, 5.0],
               "b": [value] * 3 + [None, None, 7.0, 7.0]}  # fmt: skip
    table = Table.read(write(tmp_path / "t.parquet", columns), NB201)
    assert [str(NB201.decode(codes)) for codes in table.codes] == CELLS
    assert table.columns["a"].tolist() == [value, 2.0, 5.0] and table.merged == 2
    assert table.columns["b"][[0, 2]].tolist() == [value, 7.0] and table.columns["b"][1].isnan()


def test_types_are_inferred_from_all_rows_and_infinity_is_missing(tmp_path):
    empty = [f"{CELLS[0]},,"] * 30_000  # 2 MB
    lines = ["arch,x,note", *empty, f"{CELLS[1]},2.5,word", f"{CELLS[2]},inf,"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    table = Table.read(tmp_path / "t.csv", NB201)
    assert list(table.columns) == ["x"] and table.column("x").nan_to_num(-1).tolist() == [-1, 2.5, -1]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"arch_str": [CELL, "|x~0|"], "a": [1, 2]}, r"row 1: a nasbench201 cell is written"),
        ({"arch_str": [None], "a": [1.0]}, r"row 0: a nasbench201 cell"),
        ({"cell": [CELL], "a": [1.0]}, r"no column 'arch_str', and no 'arch'"),
        ({"arch_str": pa.array([], pa.string()), "a": pa.array([], pa.float64())}, r"has no rows"),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_wrong_row_is_named(tmp_path, columns, sentence, suffix):
    path = write(tmp_path / f"t{suffix}", columns)
    with pytest.raises(ValueError, match=sentence) as error:
        Table.read(path, NB201)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_column_that_is_not_there_or_empty_is_named(tmp_path):
    columns = {"arch": CELLS, "cifar10_test": [1.0, 2, 3], "gone": pa.array([None] * 3, pa.float64())}
    table = Table.read(write(tmp_path / "t.parquet", columns), NB201)
    with pytest.raises(ValueError, match=r"no column 'cifar10_tset'; did you mean cifar10_test\? it has cifar10_test"):
        table.column("cifar10_tset")
    with pytest.raises(ValueError, match="'gone' is empty in all of its 3 rows"):
        table.column("gone")


@pytest.mark.parametrize(
    ("tensors", "space", "sentence"),
    [
        ({"codes": torch.zeros(2, 6, dtype=torch.int8)}, "mnasnet", "a table of mnasnet, not of nasbench201"),
        ({"a": torch.zeros(2)}, "nasbench201", "needs integer 'codes'"),
        ({"codes": torch.zeros(2, 6)}, "nasbench201", "needs integer 'codes'"),
        ({"codes": torch.zeros(2, 5, dtype=torch.int8)}, "nasbench201", "needs integer 'codes'"),
        ({"codes": torch.full((2, 6), -1)}, "nasbench201", "row 0: .* encodes no member"),
        ({"codes": torch.full((2, 6), 5)}, "nasbench201", "row 0: .* encodes no member"),
        ({"codes": torch.zeros(2, 6, dtype=torch.int8), "a": torch.zeros(3)}, "nasbench201", "column 'a' needs 2"),
    ],
)
def test_safetensors_of_another_shape_are_refused(tmp_path, tensors, space, sentence):
    from safetensors.torch import save_file

    save_file(tensors, tmp_path / "t.safetensors", metadata={"space": space})
    with pytest.raises(ValueError, match=sentence):
        Table.read(tmp_path / "t.safetensors", NB201)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    path.write_text("old")

    def fail(table, target):
        Path(target).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(parquet, "write_table", fail)
    with pytest.raises(ValueError, match=r"cannot write .*t\.parquet: disk full"):
        make(NB201).write(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["t.parquet"]
    for wrong in ("t.json", "no/t.csv"):
        with pytest.raises(ValueError, match=r"the output is one of|no folder"):
            make(NB201).write(tmp_path / wrong)


def test_join_is_an_outer_join():
    a, b = make(NB201, 20, seed=1), make(NB201, 20, seed=2)
    b = Table(NB201, torch.cat([a.codes[5:9], b.codes]).unique(dim=0), {}, "b")
    b.columns["energy_mj"] = torch.arange(len(b), dtype=torch.float64)
    both = join([a, b])
    assert len(both) == len({tuple(codes) for t in (a, b) for codes in t.codes.tolist()})
    for table in (a, b):
        for name, values in table.columns.items():
            rows = [both.row(NB201.decode(codes)) for codes in table.codes]
            assert equal(both.columns[name][rows], values)
            assert both.columns[name].isfinite().sum() == values.isfinite().sum()


def test_join_refuses_what_disagrees():
    a = make(NB201)
    assert len(join([a, Table(NB201, a.codes, dict(a.columns), "b")]).columns) == 2
    with pytest.raises(ValueError, match="'accuracy_pct' differs between the table and b; rename"):
        join([a, Table(NB201, a.codes, {"accuracy_pct": a.columns["accuracy_pct"] + 1}, "b")])
    with pytest.raises(ValueError, match="tables of one space"):
        join([a, make(load_space("mnasnet"))])
    with pytest.raises(ValueError, match="tables of one space"):
        join([])


def test_find_table_looks_where_it_is_told(tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    for place in ("one.csv", "b/two.parquet"):
        (tmp_path / place).touch()
    monkeypatch.setenv("ARCHGEN_BENCHMARKS", f"{tmp_path}{os.pathsep}{tmp_path / 'b'}{os.pathsep}{tmp_path / 'none'}")
    assert find_table("two") == find_table("two.parquet") == find_table(str(tmp_path / "b/two.parquet"))
    with pytest.raises(ValueError, match=r"no table 'three'; archgen's own are .*; found in .*: one, two"):
        find_table("three")


# ---- damaged files --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The bytes of one small file of each kind."""
    folder = tmp_path_factory.mktemp("samples")
    for suffix in benchmark.READABLE:
        make(NB201, 3).write(folder / f"t{suffix}")
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_raise_one_sentence(samples, damaged, tmp_path, data):
    """Cut anywhere or with bytes changed, a file is read or refused; nothing but ValueError comes out."""
    suffix = data.draw(st.sampled_from(sorted(samples)))
    path = tmp_path / f"t{suffix}"
    path.write_bytes(damaged(data, samples[suffix]))
    try:
        Table.read(path, NB201)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
def test_every_cut_file_is_refused(samples, tmp_path, suffix):
    for share in (0, 0.1, 0.5, 0.9):
        path = tmp_path / f"t{suffix}"
        path.write_bytes(samples[suffix][: int(share * len(samples[suffix]))])
        with pytest.raises(ValueError, match="cannot read"):
            Table.read(path, NB201)


# ---- oracle ---------------------------------------------------------------------------------------------------------
def same(a, b):
    """Two spellings of one network: the operation runs over the first or the last of the paths of two."""
    return f"|{a}~0|+|none~0|{b}~1|+|none~0|none~1|skip_connect~2|", f"|{a}~0|+|none~0|none~1|+|none~0|{b}~1|none~2|"


def test_the_oracle_counts_networks_not_spellings():
    first, twin = map(NB201.parse, same("nor_conv_3x3", "nor_conv_1x1"))
    other = NB201.parse(CELLS[2])
    codes = torch.stack([NB201.encode(a) for a in (first, twin, other)])
    oracle = Oracle(Table(NB201, codes, {"x": torch.tensor([1.0, 2.0, torch.nan], dtype=torch.float64)}), "x")
    assert first.hash == twin.hash and codes[0].tolist() != codes[1].tolist()
    assert oracle([twin, first, twin]).tolist() == [2.0, 2.0, 2.0] and oracle.queries == 1
    assert oracle(codes)[:2].tolist() == [2.0, 2.0] and oracle(codes)[2].isnan() and oracle.queries == 2
    assert oracle.history[0] == (str(twin), 2.0) and oracle.history[1][0] == str(other)


def test_the_budget_is_never_exceeded_and_a_refused_batch_costs_nothing():
    table = make(NB201, 15)
    networks = [NB201.decode(codes) for codes in table.codes]
    distinct = {network.hash: network for network in networks}
    oracle = Oracle(table, "accuracy_pct", max_queries=len(distinct) - 1)
    oracle(list(distinct.values())[:3])
    with pytest.raises(BudgetExhausted, match=f"with {len(distinct) - 4} of {len(distinct) - 1} left"):
        oracle(networks)
    assert oracle.queries == 3
    oracle(list(distinct.values())[:-1])
    assert oracle.queries == len(distinct) - 1 and len(oracle(networks[:1])) == 1


def test_an_isomorphic_row_answers_and_an_unknown_architecture_does_not():
    first, twin = map(NB201.parse, same("nor_conv_3x3", "avg_pool_3x3"))
    table = Table(NB201, NB201.encode(first)[None], {"x": torch.ones(1, dtype=torch.float64)}, "t.csv")
    oracle = Oracle(table, "x")
    assert oracle([twin]).item() == 1.0
    with pytest.raises(ValueError, match=r"t\.csv has no row for \|avg_pool"):
        oracle([twin, NB201.parse(CELLS[2])])
    assert oracle.queries == 1 and oracle([]).shape == (0,)


# ---- the shared tables ----------------------------------------------------------------------------------------------
def test_nasbench201_is_read_whole_and_joined_with_its_latencies(outside):
    tables = [Table.read(outside(f"{name}.parquet"), NB201) for name in ("nas_bench_201", "hw_nas_bench_201")]
    both = join(tables)
    assert (len(both), both.merged, len(both.codes.unique(dim=0))) == (15_625, 0, 15_625)
    accuracy = both.column("cifar10_test_acc_200ep_pct")
    assert accuracy.max().item() == pytest.approx(94.3733, abs=1e-4)
    assert both.column("arch_index")[accuracy.argmax()] == 6111
    oracle = Oracle(both, "cifar10_test_acc_200ep_pct")
    assert oracle(both.codes[:300]).max() <= accuracy.max() and oracle.queries < 300


def test_accel_nasbench_is_read_and_its_doubled_rows_are_merged(outside):
    table = Table.read(outside("accel_nasbench.parquet"), load_space("mnasnet"))
    assert (len(table), table.merged) == (5_125, 13) and table.column("params_m").isfinite().all()


def test_nasbench101_is_read(outside):
    table = Table.read(outside("nas_bench_101_zen_10250.parquet"), load_space("nasbench101"))
    assert len(table) == 10_250 and table.merged == 0
