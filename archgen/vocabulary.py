"""Vocabulary: what can be said of the architectures of a space, as facts that are counted and predicates on them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import ceil

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from archgen.constraint import Constraint, quantity
from archgen.space import SearchSpace, load_space

SAMPLE = 20_000  # members from which quantiles are estimated where a space cannot be listed
LISTED = 50_000  # members that are looked at one by one, at most
LAYERS = " + ".join(f"{count} * count(layers == {count})" for count in (1, 2, 3, 4))

# For each space the attributes that words can name, as expressions of `Constraint`.
ATTRIBUTES: dict[str, dict[str, str]] = {
    "nasbench201": {
        "conv3x3": "count(nor_conv_3x3)", "conv1x1": "count(nor_conv_1x1)", "pool": "count(avg_pool_3x3)",
        "skip": "count(skip_connect)", "none": "count(none)",
        "depth": "depth", "params": "params_m", "flops": "macs_m",
    },
    "nasbench101": {
        "conv3x3": "count(conv3x3-bn-relu)", "conv1x1": "count(conv1x1-bn-relu)", "pool": "count(maxpool3x3)",
        "edges": "count(edge == yes)", "depth": "depth", "params": "params_m", "flops": "macs_m",
    },
    "mnasnet": {
        "se": "count(squeeze_excitation == yes)", "kernel3": "count(kernel == 3)", "kernel5": "count(kernel == 5)",
        "expand1": "count(expand == 1)", "expand4": "count(expand == 4)", "expand6": "count(expand == 6)",
        "layers1": "count(layers == 1)", "layers2": "count(layers == 2)", "layers3": "count(layers == 3)",
        "layers4": "count(layers == 4)", "layers": LAYERS,
        "depth": "depth", "params": "params_m", "flops": "macs_m",
    },
}  # fmt: skip
# Attributes that are the sum of others, and operations that exclude each other where "only" one is allowed.
SUMS = {"conv": ("conv3x3", "conv1x1"), "ops": ("conv3x3", "conv1x1", "pool")}
OPERATIONS = {
    "nasbench201": ("conv3x3", "conv1x1", "pool", "skip"),
    "nasbench101": ("conv3x3", "conv1x1", "pool"),
    "mnasnet": (),
}
NEAR = 0.1  # relative: what counts as about a number
COMPARE: dict[str, Callable[[Tensor, Tensor | float], Tensor]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
    "~": lambda value, number: abs(value - number) <= NEAR * number + 1e-12,
}  # fmt: skip
NO_PATH = "no path from input to output"  # of a cell whose depth is below 0
MILLIONS = ("params", "flops")  # attributes that are given in millions
WISHES = ("accuracy",)  # that are measured: asked to be high, not counted


@dataclass(frozen=True)
class Predicate:
    """A comparison: `conv3x3 + conv1x1 <= 2`, `params <= q30`, `pool > skip`.

    Attributes:
        left: Attributes that are added.
        compare: `<=`, `>=`, `==`, `!=`, `<`, `>`, or `~` for within a tenth.
        right: A number, in millions for `params` and `flops`; `qK`, the K-th percentile of the attribute over the
            space; or attributes that are added.
    """

    left: tuple[str, ...]
    compare: str
    right: float | str | tuple[str, ...]

    def __str__(self) -> str:
        """As a person would write it down."""
        right = " + ".join(self.right) if isinstance(self.right, tuple) else self.right
        return f"{' + '.join(self.left)} {self.compare} {right if isinstance(right, str) else f'{right:g}'}"


Clause = tuple[Predicate, ...]  # alternatives, one of which holds
Request = tuple[Clause, ...]  # all of which hold


class Facts:
    """Attributes of the members of a space.

    Args:
        space: One of those that have a vocabulary.

    Raises:
        ValueError: If the space has none.
    """

    def __init__(self, space: SearchSpace):
        check_words(space.name)
        self.space = space
        self.expressions = ATTRIBUTES[space.name]
        self.attributes = tuple(self.expressions)
        self._quantities = {name: quantity(text, space) for name, text in self.expressions.items()}

    @cached_property
    def members(self) -> Int[Tensor, "members holes"]:
        """All members of a space that can be listed, else a sample; quantiles are relative to them."""
        if self.listed:
            codes = self.space.legal_codes
        else:
            codes = self.space.sample(SAMPLE, torch.Generator().manual_seed(0)).unique(dim=0)
        return codes

    @property
    def listed(self) -> bool:
        """Whether `members` are all there are."""
        return self.space.size <= LISTED

    def of(self, codes: Int[Tensor, "batch holes"]) -> dict[str, Float[Tensor, " batch"]]:
        """All attributes of complete encodings."""
        return {name: value(codes) for name, value in self._quantities.items()}

    @cached_property
    def table(self) -> dict[str, Float[Tensor, " members"]]:
        """All attributes of `members`."""
        return self.of(self.members)

    @cache  # noqa: B019
    def quantile(self, attribute: str, percent: int) -> float:
        """The smallest value v of an attribute with P(value <= v) >= percent / 100 over the space."""
        ordered = self.table[attribute].sort().values
        return float(ordered[max(0, ceil(percent / 100 * len(ordered)) - 1)])

    def expand(self, attributes: Sequence[str]) -> tuple[str, ...]:
        """Sums written out: `conv` is `conv3x3 + conv1x1`."""
        return tuple(part for name in attributes for part in SUMS.get(name, (name,)))

    def holds(self, request: Request, values: Mapping[str, Float[Tensor, " batch"]]) -> Bool[Tensor, " batch"]:
        """Whether members meet a request; they must be connected in any case.

        Args:
            request: What is asked; wishes change nothing.
            values: Their attributes, as `of` gives them.
        """
        return self.met(request, values).all(0) & (values["depth"] >= 0)

    def met(self, request: Request, values: Mapping[str, Float[Tensor, " batch"]]) -> Bool[Tensor, "clauses batch"]:
        """Which clauses of a request members meet, wishes left out.

        Args:
            request: What is asked.
            values: Their attributes, as `of` gives them.
        """
        clauses = countable(request)
        result = torch.zeros(len(clauses), len(values["depth"]), dtype=torch.bool)
        for row, clause in zip(result, clauses, strict=True):
            for one in clause:
                row |= COMPARE[one.compare](self._sum(one.left, values), self._right(one, values))
        return result

    def _sum(self, names: Sequence[str], values: Mapping[str, Tensor]) -> Tensor:
        return sum(values[name] for name in self.expand(names))

    def _right(self, predicate: Predicate, values: Mapping[str, Tensor]) -> Tensor | float:
        right = predicate.right
        if isinstance(right, tuple):
            return self._sum(right, values)
        return self._number(predicate) if isinstance(right, str) else right

    def _number(self, predicate: Predicate) -> float:
        if isinstance(predicate.right, str):
            return self.quantile(predicate.left[0], int(predicate.right[1:]))
        return float(predicate.right)

    def constraint(self, request: Request) -> str:
        """A request, and that the network is connected, as the text of a `Constraint`."""
        clauses = [" or ".join(self._comparison(one) for one in clause) for clause in countable(request)]
        return " and ".join(["depth >= 0", *(f"({clause})" for clause in clauses)])

    def _comparison(self, one: Predicate) -> str:
        def side(names: Sequence[str]) -> str:
            return " + ".join(self.expressions[name] for name in self.expand(names))

        if one.compare == "~":
            number = self._number(one)
            return f"{(1 - NEAR) * number:.9g} <= {side(one.left)} <= {(1 + NEAR) * number:.9g}"
        right = side(one.right) if isinstance(one.right, tuple) else f"{self._number(one):.9g}"
        return f"{side(one.left)} {one.compare} {right}"

    def parsed(self, request: Request) -> Constraint:
        """A request as a constraint."""
        return Constraint(self.constraint(request), self.space)


def check_words(space: str) -> None:
    """Refuse the name of a space that there are no words for.

    Raises:
        ValueError: If it is one.
    """
    if space not in ATTRIBUTES:
        raise ValueError(f"there are words for {', '.join(ATTRIBUTES)} alone, not for {space}")


def countable(request: Request) -> Request:
    """The part of a request that can be counted, without wishes."""
    return tuple(clause for clause in request if not any(one.left[0] in WISHES for one in clause))


def wished(request: Request) -> list[str]:
    """What is measured and should be high."""
    return [one.left[0] for clause in request for one in clause if one.left[0] in WISHES and one.compare[0] == ">"]


@cache
def facts_of(name: str) -> Facts:
    """The facts of a space, made once.

    Raises:
        ValueError: If there are no words for it.
    """
    check_words(name)
    return Facts(load_space(name))
