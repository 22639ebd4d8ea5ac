"""Benchmark tables bound to a search space, an oracle that counts its queries, converters of official files."""

from __future__ import annotations

import bz2
import difflib
import io
import math
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from archgen.graph import Architecture
from archgen.hub import replacing
from archgen.space import ABSENT, Hole, SearchSpace

READABLE = (".parquet", ".csv", ".safetensors")
LIMIT = 512 << 20  # bytes of one decompressed pickle; official records have 0.3 MB


# ---- tables ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Table:
    """Measured facts about architectures, one row each.

    Attributes:
        space: The search space of the rows.
        codes: Encodings, all legal and different.
        columns: Numeric columns, float64, NaN where nothing finite was measured; units stand in the names.
        path: Where it was read; names the table in errors.
        merged: Rows of the file that were averaged into an earlier row of the same encoding and other values.
    """

    space: SearchSpace
    codes: Int[Tensor, "rows holes"]
    columns: dict[str, Float[Tensor, " rows"]]
    path: str = "the table"
    merged: int = 0

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def name(self) -> str:
        """File name without its suffix."""
        return Path(self.path).stem

    @classmethod
    def read(cls, path: str | Path, space: SearchSpace) -> Table:
        """Read a parquet, csv or safetensors file; nothing in it is executed. Errors count rows from 0.

        Parquet and csv name an architecture by the columns that the space declares or, in any space, by `arch`, its
        native string. Safetensors hold `codes` (rows, holes) and, in the metadata, the name of the `space`.

        Raises:
            ValueError: If the file cannot be read, is empty, lacks a key column, or a row is no member of the space.
        """
        path = Path(path)
        if path.suffix not in READABLE:
            raise ValueError(f"a table is one of {', '.join(READABLE)}, got {path}")
        if not path.is_file():
            raise ValueError(f"no file {path}")
        codes, columns = (_read_safetensors if path.suffix == ".safetensors" else _read_arrow)(path, space)
        if not len(codes):
            raise ValueError(f"{path} has no rows")
        legal = (codes >= 0).all(-1) & torch.cat([space.feasible(part) for part in codes.split(8192)])
        if not legal.all():
            row = int(legal.int().argmin())
            raise ValueError(f"{path}, row {row}: {codes[row].tolist()} encodes no member of {space.name}")
        codes, columns, merged = _merge(codes, columns)
        return cls(space, codes, columns, str(path), merged)

    def column(self, name: str) -> Float[Tensor, " rows"]:
        """One column, by its name.

        Raises:
            ValueError: If there is none of that name, or nothing finite in it.
        """
        if name not in self.columns:
            close = difflib.get_close_matches(name, self.columns, n=3)
            meant = f"did you mean {' or '.join(close)}? " if close else ""
            raise ValueError(f"{self.path} has no column {name!r}; {meant}it has {', '.join(self.columns) or 'none'}")
        if not self.columns[name].isfinite().any():
            raise ValueError(f"{self.path}: column {name!r} is empty in all of its {len(self)} rows")
        return self.columns[name]

    def row(self, architecture: Architecture) -> int:
        """Position of an architecture or, where it has no row of its own, of one that is isomorphic to it.

        Raises:
            ValueError: If there is neither.
        """
        row = self._index.get(tuple(self.space.encode(architecture).tolist()))
        row = self._hashes.get(architecture.hash) if row is None else row
        if row is None:
            raise ValueError(f"{self.path} has no row for {architecture}")
        return row

    @cached_property
    def _index(self) -> dict[tuple[int, ...], int]:
        return {tuple(codes): row for row, codes in enumerate(self.codes.tolist())}

    @cached_property
    def _hashes(self) -> dict[str, int]:
        rows = range(len(self) - 1, -1, -1)  # the first of isomorphic rows stays
        return {_relaxed(self.space).decode(self.codes[row]).hash: row for row in rows}

    def write(self, path: str | Path) -> None:
        """Write a parquet, csv or safetensors file that `read` reads back; the file appears when it is complete.

        Raises:
            ValueError: If the suffix is another, the folder is missing, or a column has the name of the key.
        """
        path = _checked_output(path, READABLE)
        key = "codes" if path.suffix == ".safetensors" else "arch"
        if key in self.columns:
            raise ValueError(f"{self.path}: a column is called {key!r}, which names the architectures; rename it")
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            tensors = {name: tensor.contiguous().clone() for name, tensor in {key: self.codes, **self.columns}.items()}
            with replacing(path) as temporary:
                save_file(tensors, temporary, metadata={"space": self.space.name})
            return
        space = _relaxed(self.space)
        _write_arrow({key: [str(space.decode(codes)) for codes in self.codes], **self.columns}, path)


def join(tables: Sequence[Table]) -> Table:
    """Put the columns of several tables of one space side by side; NaN where a table has no row.

    Raises:
        ValueError: If the spaces differ, or two tables disagree on a column of the same name.
    """
    if len({table.space.name for table in tables}) != 1:
        raise ValueError(f"join needs tables of one space, got {[table.space.name for table in tables]}")
    index = {codes: row for row, codes in enumerate(dict.fromkeys(codes for t in tables for codes in t._index))}
    columns: dict[str, Tensor] = {}
    owner: dict[str, str] = {}
    for table in tables:
        rows = torch.tensor([index[codes] for codes in table._index])
        for name, values in table.columns.items():
            column = torch.full((len(index),), torch.nan, dtype=torch.float64).index_copy(0, rows, values)
            known = columns.get(name, column)
            both = known.isfinite() & column.isfinite()
            if not torch.isclose(known[both], column[both], rtol=1e-9, atol=0).all():
                raise ValueError(f"column {name!r} differs between {owner[name]} and {table.path}; rename one of them")
            columns[name] = torch.where(known.isfinite(), known, column)
            owner.setdefault(name, table.path)
    path = " + ".join(table.path for table in tables)
    return Table(tables[0].space, torch.tensor(list(index)), columns, path, sum(table.merged for table in tables))


def find_table(name: str) -> Path:
    """A table by its path, or by its name, with or without suffix, in the folders of ARCHGEN_BENCHMARKS.

    Without that variable a checkout looks into `../shared/data`.

    Raises:
        ValueError: If there is none; the sentence lists what there is.
    """
    if Path(name).is_file():
        return Path(name)
    beside = Path(__file__).parents[2] / "shared" / "data"
    folders = [Path(f) for f in os.environ.get("ARCHGEN_BENCHMARKS", str(beside)).split(os.pathsep) if f]
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    found = [path for path in found if path.suffix in READABLE]
    for path in found:
        if name in (path.name, path.stem):
            return path
    listed = ", ".join(path.stem for path in found) or "nothing"
    raise ValueError(f"no table {name!r}; found in {os.pathsep.join(map(str, folders))}: {listed}")


# ---- reading and writing --------------------------------------------------------------------------------------------
@cache
def _relaxed(space: SearchSpace) -> SearchSpace:
    """The space without its rule, which is slow one row at a time and is checked for all rows at once."""
    return replace(space, rule=None, enumerate_legal=None)


class _Unreadable(ValueError):
    """A sentence about a file that needs no more words."""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes its parser raise into one sentence."""
    try:
        yield
    except _Unreadable:
        raise
    except Exception as error:
        raise _Unreadable(f"cannot read {path}: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _read_safetensors(path: Path, space: SearchSpace) -> tuple[Tensor, dict[str, Tensor]]:
    from safetensors import safe_open

    with _reading(path), safe_open(path, framework="pt") as file:
        metadata, columns = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    if metadata.get("space", space.name) != space.name:
        raise ValueError(f"{path} is a table of {metadata['space']}, not of {space.name}")
    codes = columns.pop("codes", torch.empty(0))
    integer = not (codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool)
    if not integer or codes.dim() != 2 or codes.shape[1] != len(space.holes):
        got = f"{codes.dtype} {list(codes.shape)}"
        raise ValueError(f"{path} needs integer 'codes' of shape (rows, {len(space.holes)}), got {got}")
    for name, values in columns.items():
        if values.shape != codes.shape[:1] or values.is_complex():
            got = f"{values.dtype} {list(values.shape)}"
            raise ValueError(f"{path}: column {name!r} needs {len(codes)} numbers, got {got}")
    return codes.long(), {name: _finite(values.double()) for name, values in columns.items()}


def _read_arrow(path: Path, space: SearchSpace) -> tuple[Tensor, dict[str, Tensor]]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    with _reading(path):
        if path.suffix == ".csv":  # one block, so that the types are inferred from all rows
            options = csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1))
            table = csv.read_csv(path, options, csv.ParseOptions(newlines_in_values=True))
        else:
            table = parquet.ParquetFile(path).read()
        if len(set(table.column_names)) < table.num_columns:
            raise ValueError("two columns have the same name")
        table.validate(full=True)
    keys, bind = _keys(table.column_names, space, path)
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null)
    numeric = [f.name for f in table.schema if f.name not in keys and any(kind(f.type) for kind in kinds)]
    with _reading(path):
        values = {name: table[name].cast(pa.float64(), safe=False).to_numpy() for name in numeric}
        words = {name: table[name].to_pylist() for name in keys}
    return bind(words, space, path), {name: _finite(torch.tensor(column)) for name, column in values.items()}


def _finite(values: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    return torch.where(values.isfinite(), values, torch.nan)


Binder = Callable[[Mapping[str, list], SearchSpace, Path], Tensor]


def _keys(names: list[str], space: SearchSpace, path: Path) -> tuple[list[str], Binder]:
    """The columns that name the architecture, and what turns them into codes."""
    if isinstance(space.columns, Mapping):
        keys, bind = [_column_of(hole, space) for hole in space.holes], _bind_holes
    else:
        keys, bind = list(space.columns) or ["arch"], _bind_texts
    if missing := [key for key in keys if key not in names]:
        if "arch" not in names:
            raise ValueError(f"{path} names no architectures of {space.name}: no column {missing[0]!r}, and no 'arch'")
        keys, bind = ["arch"], _bind_texts
    return keys, bind


def _column_of(hole: Hole, space: SearchSpace) -> str:
    if hole.kind == "edge":
        return hole.name
    template = space.columns.get(hole.attribute, f"{{node}}_{hole.attribute}")
    return template.replace("{node}", space.slots[hole.span[0]].name)


def _bind_texts(columns: Mapping[str, list], space: SearchSpace, path: Path) -> Int[Tensor, "rows holes"]:
    space = _relaxed(space)
    known: dict[tuple, list[int]] = {}
    rows = list(zip(*columns.values(), strict=True))
    for row, words in enumerate(rows):
        if words in known:
            continue
        try:
            architecture = space._codec.parse(" ".join(map(str, words)).strip(), space)  # `parse` checks three times
            known[words] = space.encode(architecture).tolist()
        except ValueError as error:
            raise ValueError(f"{path}, row {row}: {_brief(error)}") from error
    return torch.tensor([known[words] for words in rows], dtype=torch.long).reshape(-1, len(space.holes))


def _bind_holes(columns: Mapping[str, list], space: SearchSpace, path: Path) -> Int[Tensor, "rows holes"]:
    codes = []
    for hole in space.holes:
        name = _column_of(hole, space)
        code_of = {word: code for code, option in enumerate(hole.options) for word in _words(option)}
        codes.append([code_of.get(_words(value)[-1], -1) for value in columns[name]])
        if -1 in codes[-1]:
            row = codes[-1].index(-1)
            options, got = [_words(option)[-1] for option in hole.options], columns[name][row]
            raise ValueError(f"{path}, row {row}: {name} is one of {', '.join(options)}, got {got!r}")
    return torch.tensor(codes, dtype=torch.long).T.contiguous()


def _words(value: Any) -> tuple[str, ...]:
    """Spellings under which an option is found; the last is the one by which a value is looked up."""
    if isinstance(value, bool):
        return (("0", "false", "no"), ("1", "true", "yes"))[value]
    if value is None or value == "" or value != value:
        return (ABSENT,)
    if isinstance(value, float) and value.is_integer():
        return (str(int(value)),)
    text = str(value).strip()
    return (text.lower() if text.lower() in ("no", "yes", "false", "true") else text,)


def _merge(codes: Tensor, columns: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], int]:
    """Average rows of one encoding; the first of them keeps its place, and its exact values where all are equal."""
    place: dict[tuple[int, ...], int] = {}
    group = torch.tensor([place.setdefault(tuple(row), len(place)) for row in codes.tolist()])
    if len(place) == len(codes):
        return codes, columns, 0
    first = torch.full((len(place),), len(codes)).scatter_reduce(0, group, torch.arange(len(codes)), "amin")
    differing, averaged = torch.zeros(len(place), dtype=torch.bool), {}
    for name, values in columns.items():
        leader = values[first]
        same = (values == leader[group]) | (values.isnan() & leader[group].isnan())
        differs = torch.zeros_like(differing).index_put((group[~same],), torch.tensor(True))
        known = values.isfinite()
        total = torch.zeros_like(leader).index_add(0, group[known], values[known])
        averaged[name] = torch.where(differs, total / group[known].bincount(minlength=len(place)), leader)
        differing |= differs
    return codes[first], averaged, int((group.bincount() - 1)[differing].sum())


def _checked_output(path: str | Path, suffixes: Sequence[str]) -> Path:
    path = Path(path)
    if path.suffix not in suffixes:
        raise ValueError(f"the output is one of {', '.join(suffixes)}, got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent} to write {path.name} into")
    return path


def _write_arrow(columns: Mapping[str, list | Tensor], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import csv, parquet

    plain = {  # NaN becomes null
        name: pa.array(values.numpy(), from_pandas=True) if isinstance(values, Tensor) else values
        for name, values in columns.items()
    }
    with replacing(path) as temporary:
        (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(pa.table(plain), temporary)


# ---- oracle ---------------------------------------------------------------------------------------------------------
class BudgetExhausted(RuntimeError):
    """An oracle was asked for more architectures than its budget admits."""


class Oracle:
    """Answers from one column of a table and counts what was asked: once for each network, however it is written.

    Args:
        table: The table.
        column: The column that is asked.
        max_queries: Budget of distinct networks; none when absent.

    Attributes:
        history: Native string and value of each network, in the order asked.

    Raises:
        ValueError: If the table has no such column.
    """

    def __init__(self, table: Table, column: str, max_queries: int | None = None):
        self.table, self.max_queries = table, max_queries
        self.history: list[tuple[str, float]] = []
        self._values = table.column(column)
        self._answers: dict[str, float] = {}  # by canonical hash

    @property
    def queries(self) -> int:
        """Number of distinct networks asked so far."""
        return len(self.history)

    def __call__(self, architectures: Iterable[Architecture] | Int[Tensor, "n holes"]) -> Float[Tensor, " n"]:
        """Values of architectures or encodings, NaN where nothing was measured; all are answered or none.

        A network isomorphic to one asked before is free and gets the same value.

        Raises:
            BudgetExhausted: If the answer would exceed the budget; nothing is counted then.
            ValueError: If an architecture is not in the table; nothing is counted then.
        """
        if isinstance(architectures, Tensor):
            architectures = map(self.table.space.decode, architectures)
        asked: dict[str, Architecture] = {}
        hashes = []
        for architecture in architectures:
            hashes.append(architecture.hash)
            asked.setdefault(hashes[-1], architecture)
        fresh = {key: architecture for key, architecture in asked.items() if key not in self._answers}
        if self.max_queries is not None and self.queries + len(fresh) > self.max_queries:
            left = self.max_queries - self.queries
            raise BudgetExhausted(f"asked for {len(fresh)} new architectures, with {left} of {self.max_queries} left")
        rows = {key: self.table.row(architecture) for key, architecture in fresh.items()}
        for key, row in rows.items():
            self._answers[key] = self._values[row].item()
            self.history.append((str(fresh[key]), self._answers[key]))
        return torch.tensor([self._answers[key] for key in hashes], dtype=torch.float64)


# ---- pickles that run no code ---------------------------------------------------------------------------------------
class _Dtype:
    """Stands for a numpy type of plain numbers, or of Python objects kept in a list."""

    __slots__ = ("code",)

    def __init__(self, code: str, *_: Any):
        if not re.fullmatch(r"[<>|=]?([biuf][1248]|O8?)", code):
            raise pickle.UnpicklingError(f"an array of {code[:20]!r}")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.code = state[1] + self.code.lstrip("<>|=")

    def values(self, data: bytes | bytearray) -> list:
        """The numbers in `data`."""
        return np.frombuffer(data, self.code).tolist()  # refuses objects


class _Array(list):
    """Stands for a numpy array: its values, flat."""

    __slots__ = ()

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, _, data = state
        self[:] = data if isinstance(data, list) else dtype.values(data)
        if len(self) != math.prod(shape):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(self)} values")


class _Inert:
    """A callable that a pickle may call, and neither change nor instantiate."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable):
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a pickle may not change what it calls")


# Stand-ins for all that official files ask for; no class or function of Python or numpy is handed out.
_ADMITTED = {
    "collections.OrderedDict": _Inert(dict),
    "builtins.set": _Inert(set),
    "_codecs.encode": _Inert(lambda text, _: text.encode("latin1")),  # how protocol 2 spells bytes
    "numpy.dtype": _Inert(_Dtype),
    "numpy.ndarray": _Inert(lambda *_: _Array()),
}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED[f"{_core}.multiarray._reconstruct"] = _Inert(lambda *_: _Array())
    _ADMITTED[f"{_core}.multiarray.scalar"] = _Inert(lambda dtype, data: dtype.values(data)[0])
    _ADMITTED[f"{_core}.numeric._frombuffer"] = _Inert(lambda data, dtype, *_: _Array(dtype.values(data)))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, path: Path):
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> _Inert:
        if f"{module}.{name}" not in _ADMITTED:
            asked = ascii(f"{module}.{name}"[:100])[1:-1]
            raise _Unreadable(f"refused: {self._path} asks for {asked}, but facts are numbers, words and containers")
        return _ADMITTED[f"{module}.{name}"]


def read_pickle(path: str | Path) -> Any:
    """Read a pickle, bz2-compressed if it ends in `.pbz2`, of containers, numbers, words and numpy arrays of those.

    Arrays come back as flat lists. Whatever else the file asks for is refused before it is called.

    Raises:
        ValueError: If the file is no pickle, asks for anything else, or holds more than 512 MiB.
    """
    path = Path(path)
    with _reading(path):
        with (bz2.open if path.suffix == ".pbz2" else open)(path, "rb") as file:
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise _Unreadable(f"refused: {path} holds more than {LIMIT >> 20} MiB")
        return _Unpickler(io.BytesIO(data), path).load()


# ---- official files -------------------------------------------------------------------------------------------------
# NATS-Bench trains on these data sets and evaluates on these splits; CIFAR-10's validation uses half the training set.
EVALUATIONS = {
    "cifar10_val": ("cifar10-valid", "x-valid"),
    "cifar10_test": ("cifar10", "ori-test"),
    "cifar100_val": ("cifar100", "x-valid"),
    "cifar100_test": ("cifar100", "x-test"),
    "imagenet16_120_val": ("ImageNet16-120", "x-valid"),
    "imagenet16_120_test": ("ImageNet16-120", "x-test"),
}


def _prefix(dataset: str) -> str:
    return dataset.lower().replace("-", "_")


def convert(source: str, path: str, out: str = "table.parquet") -> None:
    """Turn a benchmark's official files into a table.

    Args:
        source: `nats-bench` or `hw-nas-bench`.
        path: NATS-Bench's folder `NATS-tss-v1_0-...-simple` or `NATS-sss-...`, or HW-NAS-Bench's pickle.
        out: The table to write, .parquet or .csv: `arch_index`, `arch_str`, and columns with units in their names.

    Raises:
        ValueError: If there is no such format, or the files are not of it; nothing is written then.
    """
    formats = {"nats-bench": _convert_nats, "hw-nas-bench": _convert_hw}
    if source not in formats:
        raise ValueError(f"no format {source!r}; known: {', '.join(formats)}")
    output = _checked_output(out, (".parquet", ".csv"))
    rows = formats[source](Path(path))
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    _write_arrow(columns, output)


def _convert_nats(folder: Path) -> list[dict[str, Any]]:
    """One row for each record of a folder: `meta.pickle.pbz2` names the architectures, `NNNNNN.pickle.pbz2` is one."""
    if not (folder / "meta.pickle.pbz2").is_file():
        raise ValueError(f"{folder} has no meta.pickle.pbz2; give NATS-Bench's folder NATS-tss-v1_0-...-simple")
    files = sorted(folder.glob("[0-9]*.pickle.pbz2"))
    rows = []
    with _reading(folder / "meta.pickle.pbz2"):
        names = list(read_pickle(folder / "meta.pickle.pbz2")["meta_archs"])
    for file in tqdm(files, desc=folder.name, unit="record", disable=None):
        record = read_pickle(file)
        try:
            rows.append(_nats_row(record, int(file.name.partition(".")[0]), names))
        except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(f"{file} is no record of NATS-Bench: {type(error).__name__} {_brief(error)}") from error
    if not rows:
        raise ValueError(f"{folder} has no record NNNNNN.pickle.pbz2")
    print(f"{folder.name}: {len(rows)} of {len(names)} architectures converted", file=sys.stderr)
    return rows


def _nats_row(record: Mapping[str, Any], index: int, names: list[str]) -> dict[str, Any]:
    """Means over all seeds of the accuracies after the last epoch, for each length of training, and costs."""
    row: dict[str, Any] = {"arch_index": index, "arch_str": names[index]}
    for key in sorted(record, key=int):
        result, epochs = record[key], int(key)
        if (result["arch_index"], result["arch_str"]) != (index, names[index]):
            raise ValueError(f"it is of {result['arch_str']!r}, number {result['arch_index']}")
        trials = {
            dataset: [result["all_results"][dataset, seed] for seed in seeds]
            for dataset, seeds in result["dataset_seed"].items()
        }
        for name, (dataset, split) in EVALUATIONS.items():
            accuracies = [trial["eval_acc1es"][f"{split}@{epochs - 1}"] for trial in trials.get(dataset, ())]
            row |= {f"{name}_acc_{epochs}ep_pct": _mean(accuracies)} if accuracies else {}
        for dataset in [name for name in trials if name != "cifar10-valid"]:
            times = [sum(trial["train_times"].values()) for trial in trials[dataset]]
            row[f"{_prefix(dataset)}_train_time_{epochs}ep_s"] = _mean(times)
            for name, field in (("params", "params"), ("flops", "flop")):  # of the longest training
                row[f"{_prefix(dataset)}_{name}_m"] = _cost(field, trials[dataset], result["dataset_seed"][dataset])
    return row


def _mean(values: Sequence[float]) -> float:
    return math.fsum(map(float, values)) / len(values)


def _cost(field: str, trials: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> float:
    """Millions of parameters or multiply-adds; where the seeds disagree, an old error, NATS-Bench's API takes 888."""
    values = [float(trial[field]) for trial in trials]
    return _mean(values) if len({f"{value:.5f}" for value in values}) == 1 else values[list(seeds).index(888)]


def _convert_hw(path: Path) -> list[dict[str, Any]]:
    """One row for each architecture: `["nasbench201"][dataset]` has a sequence per metric, and `config` names them."""
    content = read_pickle(path)
    units = {"latency": "_ms", "energy": "_mj"}
    try:
        tables = content["nasbench201"]
        names = [[config["arch_str"] for config in metrics["config"]] for metrics in tables.values()]
        if any(other != names[0] for other in names):
            raise ValueError("the order of architectures differs between its data sets")
        rows: list[dict[str, Any]] = [{"arch_index": index, "arch_str": name} for index, name in enumerate(names[0])]
        for dataset, metrics in tables.items():
            for metric in [name for name in metrics if name != "config"]:
                column = f"{_prefix(dataset)}_{metric}{units.get(metric.rpartition('_')[2], '')}"
                for row, value in zip(rows, metrics[metric], strict=True):
                    row[column] = float(value) if value >= 0 else None  # -1: the device could not run it
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no pickle of HW-NAS-Bench: {type(error).__name__} {_brief(error)}") from error
    return rows
