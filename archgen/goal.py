"""What a search is to find: one column high, perhaps another low, under limits."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from archgen.constraint import Constraint
from archgen.space import SearchSpace

PENALTY = 1e30  # what an objective loses where a limit is exceeded; more than any objective's range


@dataclass(frozen=True)
class Limit:
    """`column <= bound` or, with a sign of -1, `column >= bound`, on something measured."""

    column: str
    sign: int
    bound: float


@dataclass(frozen=True)
class Goal:
    """What is looked for: one column as high as possible, perhaps a second as low as possible, under limits.

    Attributes:
        maximize: The column that is to be high.
        minimize: A column that is to be low at the same time, if any.
        limits: What measured columns are to keep to.
        constraint: What exact costs and counts are to keep to; no other network is ever asked.
        text: All this in words; part of the key of every result.
    """

    maximize: str
    minimize: str | None = None
    limits: tuple[Limit, ...] = ()
    constraint: Constraint | None = None
    text: str = ""

    @classmethod
    def parse(
        cls, space: SearchSpace, columns: Sequence[str], target: str, minimize: str | None = None, where: str = ""
    ) -> Goal:
        """The goal that a command names.

        Args:
            space: The search space; its exact costs can be minimized and limited.
            columns: What is measured; of exact costs among them the counted value is meant.
            target: The column to maximize.
            minimize: The column or exact cost to minimize.
            where: Comparisons joined by `and`: of a measured column with a number, or what `Constraint` reads.

        Raises:
            ValueError: If a name is unknown or the condition cannot be read.
        """
        for name, known in ((target, columns), (minimize, [*columns, *space.cost.names])):
            if name is not None and name not in known:
                raise ValueError(f"no column {name!r} to search by; there are {', '.join(known)}")
        if target in space.cost.names:
            raise ValueError(f"{target} is counted, not measured; 'minimize' and 'where' take it")
        if target == minimize:
            raise ValueError(f"{target} cannot be high and low at once")
        limits, rest = _split(where or "", [name for name in columns if name not in space.cost.names])
        constraint = Constraint(rest, space) if rest else None
        text = f"maximize {target}" + (f" minimize {minimize}" if minimize else "") + (f" where {where}" * bool(where))
        return cls(target, minimize, limits, constraint, text)

    @property
    def columns(self) -> tuple[str, ...]:
        """Everything that the objectives are computed from."""
        named = [self.maximize, *([self.minimize] if self.minimize else []), *(limit.column for limit in self.limits)]
        return tuple(dict.fromkeys(named))

    def objectives(self, values: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch objectives"]:
        """What is to be high, from the columns; far below everything where a limit is exceeded.

        Minus infinity where one of the columns is missing.
        """
        column = dict(zip(self.columns, values.unbind(-1), strict=True))
        high = [column[self.maximize], *([-column[self.minimize]] if self.minimize else [])]
        excess = torch.zeros_like(high[0])
        for limit in self.limits:
            scale = max(abs(limit.bound), 1e-3)
            excess = excess + (limit.sign * (column[limit.column] - limit.bound) / scale).clamp_min(0)
        result = torch.stack(high, -1) - torch.where(excess > 0, PENALTY * (1 + excess), 0.0)[..., None]
        return torch.where(values.isfinite().all(-1, keepdim=True), result, -torch.inf)


def met(objectives: Float[Tensor, "*batch objectives"]) -> Bool[Tensor, "*batch"]:
    """Where everything is known and no limit is exceeded."""
    return (objectives > -PENALTY / 2).all(-1)


def _split(where: str, columns: Sequence[str]) -> tuple[tuple[Limit, ...], str]:
    """The limits on measured columns in a condition, and what is left of it."""
    where = where.strip()
    try:
        tree = ast.parse(where or "True", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"cannot read the condition {where[:80]!r}: {error}") from None
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    limits, rest = [], []
    for part in parts if where else []:
        named = {node.id for node in ast.walk(part) if isinstance(node, ast.Name)} & set(columns)
        (limits if named else rest).append(part)
    return tuple(map(_limit, limits)), " and ".join(f"({ast.get_source_segment(where, part)})" for part in rest)


def _limit(part: ast.expr) -> Limit:
    try:
        assert isinstance(part, ast.Compare) and len(part.ops) == 1 and isinstance(part.left, ast.Name)
        return Limit(
            part.left.id, {ast.LtE: 1, ast.GtE: -1}[type(part.ops[0])], float(ast.literal_eval(part.comparators[0]))
        )
    except (AssertionError, KeyError, ValueError, TypeError):
        text = ast.unparse(part)[:80]
        raise ValueError(f"a limit on a measured column is written 'column <= number' or '>=', got {text!r}") from None
