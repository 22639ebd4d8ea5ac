"""Benchmark tables bound to a search space, and an oracle that counts its queries."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from archgen.graph import Architecture
from archgen.hub import brief, reading, replacing, shipped_folder
from archgen.space import ABSENT, Hole, SearchSpace

READABLE = (".parquet", ".csv", ".safetensors")


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
        """File name without its suffix; of joined tables all of them."""
        return " + ".join(Path(path).stem for path in self.path.split(" + "))

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
        if merged:
            warnings.warn(f"{path}: {merged} rows contradict others of the same architecture; averaged", stacklevel=2)
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
        path = checked_output(path, READABLE)
        key = "codes" if path.suffix == ".safetensors" else "arch"
        if key in self.columns:
            raise ValueError(f"{self.path}: a column is called {key!r}, which names the architectures; rename it")
        if path.suffix == ".safetensors":
            from safetensors.torch import save

            tensors = {name: tensor.contiguous().clone() for name, tensor in {key: self.codes, **self.columns}.items()}
            with replacing(path) as temporary:
                temporary.write_bytes(save(tensors, metadata={"space": self.space.name}))
            return
        space = _relaxed(self.space)
        write_columns({key: [str(space.decode(codes)) for codes in self.codes], **self.columns}, path)


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


def find_file(name: str) -> Path:
    """A file by its path, or by its name in the folders of ARCHGEN_BENCHMARKS.

    Without that variable a checkout looks into `../shared/data`.

    Raises:
        ValueError: If there is none.
    """
    for path in (Path(name), *(folder / name for folder in _folders())):
        if path.is_file():
            return path
    raise ValueError(f"no file {name!r}, neither here nor in {os.pathsep.join(map(str, _folders()))}")


def find_table(name: str) -> Path:
    """A table by its path, by its name among archgen's own, or by its name in the folders of ARCHGEN_BENCHMARKS.

    Archgen's own are `<folder>` for `datasets/<folder>/table.csv`, and `<folder>/<name>` for others there. Names of
    tables measured by others go with or without a suffix.

    Raises:
        ValueError: If there is none; the sentence lists what there is.
    """
    if Path(name).is_file():
        return Path(name)
    own = _own_tables()
    if name in own:
        return own[name]
    found = [path for folder in _folders() if folder.is_dir() for path in sorted(folder.iterdir())]
    found = [path for path in found if path.suffix in READABLE]
    for path in found:
        if name in (path.name, path.stem):
            return path
    listed = ", ".join(path.stem for path in found) or "nothing"
    places = os.pathsep.join(map(str, _folders()))
    raise ValueError(f"no table {name!r}; archgen's own are {', '.join(own) or 'none'}; found in {places}: {listed}")


def _own_tables() -> dict[str, Path]:
    """Tables of architectures that are shipped, by name; other files there are lists of something else."""
    tables = {}
    for path in sorted(shipped_folder("datasets").glob("*/*.csv")):
        with path.open(encoding="utf-8") as file:
            if file.readline().replace('"', "").startswith("arch,"):
                tables[path.parent.name if path.stem == "table" else f"{path.parent.name}/{path.stem}"] = path
    return tables


def _folders() -> list[Path]:
    """Where tables measured by others are looked for."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    return [Path(f) for f in os.environ.get("ARCHGEN_BENCHMARKS", str(beside)).split(os.pathsep) if f]


# ---- reading and writing --------------------------------------------------------------------------------------------
@cache
def _relaxed(space: SearchSpace) -> SearchSpace:
    """The space without its rule, which is slow one row at a time and is checked for all rows at once."""
    return replace(space, rule=None, enumerate_legal=None)


def _read_safetensors(path: Path, space: SearchSpace) -> tuple[Tensor, dict[str, Tensor]]:
    from safetensors import safe_open

    with reading(path), safe_open(path, framework="pt") as file:
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

    with reading(path):
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
    with reading(path):
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
            raise ValueError(f"{path}, row {row}: {brief(error)}") from error
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


def checked_output(path: str | Path, suffixes: Sequence[str]) -> Path:
    """The path of a file that may be written.

    Raises:
        ValueError: If the suffix is another, or the folder is missing.
    """
    path = Path(path)
    if path.suffix not in suffixes:
        raise ValueError(f"the output is one of {', '.join(suffixes)}, got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent} to write {path.name} into")
    return path


def write_columns(columns: Mapping[str, list | Tensor], path: Path) -> None:
    """Write columns of equal length as csv or parquet; the file appears when it is complete.

    Raises:
        ValueError: If it cannot be written.
    """
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
