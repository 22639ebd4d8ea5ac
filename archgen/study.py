"""Where a search takes place: something that measures networks, and a study that counts what is asked of it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from archgen.benchmark import BudgetExhausted, Table
from archgen.constraint import Constraint
from archgen.goal import Goal
from archgen.graph import Architecture
from archgen.results import Results
from archgen.space import SearchSpace

ENUMERABLE = 50_000  # encodings: up to here every network of a space is a candidate at once
TRIES = 16  # batches drawn before members that meet a constraint are constructed
IDLE = 1000  # requests in a row that hold no new network before a study ends

Generate = Callable[[int, Int[Tensor, " holes"], torch.Generator], Int[Tensor, "drawn holes"]]
Measure = Callable[[list[Architecture]], Float[Tensor, "networks columns"]]


# ---- what is searched -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that the trials of a search share.

    Attributes:
        space: The search space.
        goal: What is looked for.
        measure: Values of networks in the columns that are `measured`, NaN where they cannot be had.
        name: Of what measures, such as a table and the digest of its values; part of the key of every result.
        members: One encoding for each network that may be asked, where they can be listed.
        transfer: What another data set says of encodings, NaN where it says nothing: no query, but stated.
        labels: How many labels of the other data set there are.
        generate: Draws so many members like one, for spaces that cannot be listed.
    """

    space: SearchSpace
    goal: Goal
    measure: Measure
    name: str
    members: Int[Tensor, "members holes"] | None = None
    transfer: Callable[[Int[Tensor, "rows holes"]], Float[Tensor, "rows columns"]] | None = None
    labels: int = 0
    generate: Generate | None = None

    @property
    def measured(self) -> list[str]:
        """Columns of the goal that are measured; the others are exact costs."""
        return [name for name in self.goal.columns if name not in self.space.cost.names]

    def complete(
        self, codes: Int[Tensor, "rows holes"], measured: Float[Tensor, "*draws rows measured"]
    ) -> Float[Tensor, "*draws rows columns"]:
        """All columns of the goal: the measured ones, and between them the exact costs."""
        known = dict(zip(self.measured, measured.double().unbind(-1), strict=True))
        if len(known) < len(self.goal.columns):
            exact = self.space.cost.exact(codes)
            known |= {name: exact[name].double().expand(measured.shape[:-1]) for name in exact if name not in known}
        return torch.stack([known[name] for name in self.goal.columns], -1)

    def admits(self, codes: Int[Tensor, "rows holes"]) -> Bool[Tensor, " rows"]:
        """Which encodings may be asked: they are legal, meet the constraint and, where members are listed, are one."""
        admitted = self.space.feasible(codes)
        if self.goal.constraint is not None:
            admitted &= self.goal.constraint.holds(codes)
        if self.members is not None:
            for row in admitted.nonzero()[:, 0].tolist():
                admitted[row] = self.space.decode(codes[row]).hash in _places(self)
        return admitted

    def listed(self, codes: Int[Tensor, "rows holes"]) -> Int[Tensor, "rows holes"]:
        """The encodings in which the same networks stand among the members; others as they are.

        Whatever encoding a method comes upon, a network is thus measured in one, and has one value.
        """
        if self.members is None:
            return codes
        found = [_places(self).get(one.hash, -1) for one in self.space.decode_all(codes)]
        place = torch.tensor(found, dtype=torch.long)
        return torch.where((place >= 0)[:, None], self.members[place], codes)

    def sample(self, n: int, generator: torch.Generator) -> Int[Tensor, "n holes"]:
        """Members drawn at random.

        Raises:
            ValueError: If none is found that meets the constraint.
        """
        if self.members is not None:
            return self.members[torch.randint(len(self.members), (n,), generator=generator)]
        if self.goal.constraint is None:
            return self.space.sample(n, generator)
        found = torch.empty(0, len(self.space.holes), dtype=torch.long)
        for _ in range(TRIES):
            drawn = self.space.sample(max(64, 4 * n), generator)
            found = torch.cat([found, drawn[self.goal.constraint.holds(drawn)]])
            if len(found) >= n:
                return found[:n]
        more = self.goal.constraint.witness(generator)
        return torch.cat([found, more[torch.randint(len(more), (n - len(found),), generator=generator)]])


@cache
def _places(problem: Problem) -> dict[str, int]:
    """Where each network stands among the members, by canonical hash."""
    return {one.hash: place for place, one in enumerate(problem.space.decode_all(problem.members))}


def can_list(space: SearchSpace) -> bool:
    """Whether every network of a space can be a candidate at once."""
    return (space.enumerate_legal is not None or space.size <= ENUMERABLE) and len(space.legal_codes) <= ENUMERABLE


def members_of(space: SearchSpace, constraint: Constraint | None) -> Int[Tensor, "networks holes"]:
    """One encoding, the cheapest that meets a constraint, for each network of a space that can be listed."""
    if constraint is None:
        return _every(space)
    return _distinct(space, space.legal_codes[constraint.holds(space.legal_codes)])


@cache
def _every(space: SearchSpace) -> Int[Tensor, "networks holes"]:
    return _distinct(space, space.legal_codes)


def size_of(space: SearchSpace, codes: Int[Tensor, "rows holes"]) -> Float[Tensor, " rows"]:
    """Millions of parameters or, in a space without prices, the depth."""
    exact = space.cost.exact(codes)
    return exact.get("params_m", exact["depth"]).double()


def _distinct(space: SearchSpace, codes: Int[Tensor, "rows holes"]) -> Int[Tensor, "networks holes"]:
    """The cheapest encoding of each network among some, by size."""
    codes = codes[size_of(space, codes).argsort(stable=True)]
    first: dict[str, int] = {}
    for row, architecture in enumerate(space.decode_all(codes)):
        first.setdefault(architecture.hash, row)
    return codes[torch.tensor(list(first.values()), dtype=torch.long)]


def table_problem(table: Table, goal: Goal, transfer: str | None = None) -> Problem:
    """A search that a table answers.

    Where the table lacks networks of a small space, or the space is large, only what it has can be asked.

    Args:
        table: The measured facts.
        goal: What is looked for.
        transfer: A column of another data set whose labels are all known beforehand.

    Raises:
        ValueError: If a column is missing or empty, no row has all of them or meets the constraint, or the labels that
            are known beforehand are those that are looked for.
    """
    space = table.space
    if transfer in goal.columns:
        raise ValueError(f"{transfer} is what is searched for; transfer names a column of another data set")
    columns = [table.column(name) for name in goal.columns if name not in space.cost.names]
    values = torch.stack(columns, -1)
    if not values.isfinite().all(-1).any():
        raise ValueError(f"no row of {table.path} has all of {', '.join(goal.columns)}")
    if can_list(space) and len(table) >= len(space.legal_codes):
        members = members_of(space, goal.constraint)
    else:
        codes = table.codes[values.isfinite().all(-1)]
        members = _distinct(space, codes if goal.constraint is None else codes[goal.constraint.holds(codes)])
    if not len(members):
        raise ValueError(f"no row of {table.path} meets {goal.constraint.text!r}")

    def rows_of(architectures: list[Architecture], known: Tensor) -> Tensor:
        found = torch.full((len(architectures), known.shape[1]), torch.nan, dtype=torch.float64)
        for place, architecture in enumerate(architectures):
            try:
                found[place] = known[table.row(architecture)]
            except ValueError:
                continue  # a network that nobody measured
        return found

    if transfer is None:
        name = f"{table.name} {_digest(table.codes, values)}"
        return Problem(space, goal, lambda some: rows_of(some, values), name, members)
    other = table.column(transfer)[:, None]
    name = f"{table.name} with {transfer} {_digest(table.codes, values, other)}"
    return Problem(
        space, goal, lambda some: rows_of(some, values), name, members,
        lambda codes: rows_of(space.decode_all(codes), other), int(other.isfinite().sum()),
    )  # fmt: skip


def _digest(*tensors: Tensor) -> str:
    """Eight hex digits of what a table says, so that results of another one, or of an older state, are not its own."""
    digest = hashlib.blake2b(digest_size=4)
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---- one trial ------------------------------------------------------------------------------------------------------
class Study:
    """One trial: measures what a method asks, counts distinct networks, and keeps what it learned.

    Args:
        problem: What is searched.
        budget: Distinct networks that may be measured.
        recipe: The method in words.
        seed: Of the trial.
        journal: Where every query is written at once; what stands there already is not measured again.

    Attributes:
        codes: Encodings asked, `(queries, holes)`.
        values: All columns of the goal, `(queries, columns)`, NaN where they could not be had.
    """

    def __init__(self, problem: Problem, budget: int, recipe: str, seed: int, journal: Results | None = None):
        self.problem, self.budget, self.seed, self.journal = problem, budget, seed, journal
        self.codes = torch.empty(0, len(problem.space.holes), dtype=torch.long)
        self.values = torch.empty(0, len(problem.goal.columns), dtype=torch.float64)
        self._key = {"task": problem.goal.text, "data": problem.name, "recipe": recipe, "seed": seed}
        self._row: dict[str, int] = {}  # by canonical hash
        self._before = {one["hash"] for one in self._records}  # asked before a stop, and not yet again
        self._idle = 0

    def __len__(self) -> int:
        return len(self.codes)

    def asked(self, architectures: list[Architecture]) -> Bool[Tensor, " networks"]:
        """Which networks were asked, in whatever encoding."""
        return torch.tensor([one.hash in self._row for one in architectures], dtype=torch.bool)

    @property
    def _records(self) -> list[dict[str, Any]]:
        """What the journal has of this trial, in the order in which it was asked."""
        records = self.journal.records if self.journal else []
        return [one for one in records if all(one[name] == value for name, value in self._key.items())]

    @property
    def measured(self) -> Float[Tensor, "queries measured"]:
        """The columns that were measured, without exact costs."""
        return self.values[:, [self.problem.goal.columns.index(name) for name in self.problem.measured]]

    @property
    def objectives(self) -> Float[Tensor, "queries objectives"]:
        """What is to be high, of each network asked."""
        return self.problem.goal.objectives(self.values)

    def ask(self, codes: Int[Tensor, "rows holes"]) -> Float[Tensor, "rows objectives"]:
        """Objectives of networks; those that are isomorphic to one asked before are free and get the same values.

        Members are measured, and kept, in the encoding in which they are listed.

        Raises:
            BudgetExhausted: When the budget is spent, the last of it on the first of these, or nothing new is asked.
        """
        codes = self.problem.listed(codes)
        architectures = self.problem.space.decode_all(codes)
        hashes = [architecture.hash for architecture in architectures]
        fresh: dict[str, int] = {}
        for row, key in enumerate(hashes):
            if key not in self._row and len(fresh) < self.budget - len(self):
                fresh.setdefault(key, row)
        self._idle = 0 if fresh else self._idle + 1
        if fresh:
            rows = list(fresh.values())
            measured = self._measure({key: architectures[row] for key, row in fresh.items()})
            self._row |= {key: len(self) + place for place, key in enumerate(fresh)}
            self.codes = torch.cat([self.codes, codes[rows]])
            self.values = torch.cat([self.values, self.problem.complete(codes[rows], measured)])
        members = self.problem.members
        if len(self) >= self.budget or self._idle > IDLE or (members is not None and len(self) >= len(members)):
            raise BudgetExhausted(f"{len(self)} networks were measured")
        return self.objectives[[self._row[key] for key in hashes]]

    def _measure(self, fresh: dict[str, Architecture]) -> Float[Tensor, "fresh measured"]:
        """Values of new networks, from the journal where it has them."""
        known = {key: self.journal.get({"hash": key, **self._key}) for key in fresh} if self.journal else {}
        found = {key: record["values"] for key, record in known.items() if record is not None}
        missing = [key for key in fresh if key not in found]
        self._before -= fresh.keys()
        if missing:
            if self._before:
                print(
                    f"archgen: {self.journal.folder} holds {len(self._before)} networks that this trial asked before "
                    "it was stopped and does not ask now, as on another machine; they are not counted",
                    file=sys.stderr,
                )
                self._before = set()
            measured = self.problem.measure([fresh[key] for key in missing]).double()
            for key, row in zip(missing, measured.tolist(), strict=True):
                found[key] = row
                if self.journal is not None:
                    self.journal.append(self._record(key, fresh[key], row))
        rows = [[torch.nan if value is None else value for value in found[key]] for key in fresh]
        return torch.tensor(rows, dtype=torch.float64).reshape(len(fresh), len(self.problem.measured))

    def _record(self, key: str, architecture: Architecture, row: list[float]) -> dict[str, Any]:
        values = [value if torch.tensor(value).isfinite() else None for value in row]
        status = {"status": "failed", "reason": "not measured"} if None in values else {"status": "done"}
        return {"hash": key, **self._key, "arch": str(architecture), **status, "values": values}

    def replay(self) -> bool:
        """Take the whole trial from the journal, if it is complete there."""
        records = self._records
        if len(records) < self.budget:
            return False
        space = self.problem.space
        self.codes = torch.stack([space.encode(space.parse(one["arch"])) for one in records[: self.budget]])
        rows = [[torch.nan if value is None else value for value in one["values"]] for one in records[: self.budget]]
        self.values = self.problem.complete(self.codes, torch.tensor(rows, dtype=torch.float64))
        return True
