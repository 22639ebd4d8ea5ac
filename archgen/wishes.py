"""Wishes: what is asked of the properties that a generator has learned, as the intervals that its network is shown."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import product
from math import ceil, isfinite, log2

import torch
from jaxtyping import Float, Int
from torch import Tensor

from archgen.constraint import Constraint
from archgen.denoiser import GraphDenoiser
from archgen.guidance import Membership
from archgen.space import SearchSpace

NEAR = 0.01  # relative: how close draws are kept to an asked value of a cost, where some completion gets there

Wish = float | int | str | tuple[float, float] | list[float]


class Wishes:
    """What is asked of learned properties: values, intervals, or to be as high or as low as possible.

    Args:
        denoiser: The network that is to be asked.
        space: Its space.
        rows: For each condition the number of rows it was learned from.
        wishes: For each property a value, an interval, `"high"` or `"low"`.

    Raises:
        ValueError: If a property is unknown, or a wish is malformed.
    """

    def __init__(
        self, denoiser: GraphDenoiser, space: SearchSpace, rows: Mapping[str, int], wishes: Mapping[str, Wish]
    ):
        self.denoiser, self.space, self.rows = denoiser, space, rows
        self.conditions = list(denoiser.config.conditions)
        self.asked = {name: self._checked(name, wish) for name, wish in wishes.items()}
        self.extremes = {name: wish for name, wish in self.asked.items() if isinstance(wish, str)}

    def _checked(self, name: str, wish: Wish) -> str | tuple[float, float]:
        if name not in self.conditions:
            raise ValueError(f"this checkpoint knows no {name!r}; it knows {', '.join(self.conditions) or 'nothing'}")
        if wish in ("high", "low"):
            return wish
        ends = [wish, wish] if isinstance(wish, (int, float)) else wish
        numbers = isinstance(ends, (list, tuple)) and all(isinstance(end, (int, float)) for end in ends)
        if not (numbers and len(ends) == 2 and ends[0] <= ends[1]):  # which NaN is not
            raise ValueError(f"{name} can be a number, [low, high], 'high' or 'low', got {wish!r}")
        return float(ends[0]), float(ends[1])

    def intervals(
        self, n: int, constraint: Constraint | None = None, pilot: Int[Tensor, "drawn holes"] | None = None
    ) -> Float[Tensor, "conditions 2"]:
        """What the wishes, and a hard constraint, ask of each condition; NaN where nothing.

        Args:
            n: How many members are wanted: the fewer, the sharper the extremes.
            constraint: Which steers the network too.
            pilot: Members that meet the constraint, from which is seen how far extremes can go under it.
        """
        intervals = torch.full((len(self.conditions), 2), torch.nan)
        for row, name in enumerate(self.conditions):
            ends = constraint.interval(name) if constraint and name in constraint.names else (-torch.inf, torch.inf)
            if ends[0] <= ends[1] and ends != (-torch.inf, torch.inf):
                intervals[row] = torch.tensor(ends)
        for name, wish in self.asked.items():
            if isinstance(wish, str):
                share = min(0.5, max(10, 1.15 * n) / self.rows.get(name, 10_000))
                interval = self._tail(name, wish, share if pilot is None else self._share(name, wish, share, pilot))
            else:
                interval = torch.tensor(wish, dtype=torch.float64).float()
            intervals[self.conditions.index(name)] = interval
        return intervals

    def steer(self) -> Constraint | None:
        """Asked values and intervals of what can be counted, as a constraint on the way, not on the result."""
        parts = []
        for name, wish in self.asked.items():
            if name in self.space.cost.names and not isinstance(wish, str):
                low, high = wish
                ends = (f"{low - NEAR * abs(low)!r} <= ", f" <= {high + NEAR * abs(high)!r}")
                below, above = (end if isfinite(limit) else "" for end, limit in zip(ends, wish, strict=True))
                parts += [f"{below}{name}{above}"] if below or above else []
        return Constraint(" and ".join(parts), self.space) if parts else None

    @property
    def measured(self) -> bool:
        """Whether an extreme is asked of what is measured, not counted."""
        return bool(set(self.extremes) - set(self.space.cost.names))

    def promise(self, codes: Int[Tensor, "batch holes"]) -> Float[Tensor, " batch"]:
        """How far out in the tails asked for the network believes each member to be: the sum over five of them."""
        membership = Membership(self.denoiser, self.space, codes)
        tails = [0.25**step for step in range(1, 6)]
        pairs = product(self.extremes.items(), tails)
        return sum(self._within(name, wish, tail, membership) for (name, wish), tail in pairs)

    def _tail(self, name: str, wish: str, share: float) -> Float[Tensor, "2"]:
        """The interval that holds this share of what was learned from, at the upper or the lower end."""
        level = self.denoiser.quantile(name, 1 - share if wish == "high" else share)
        return torch.tensor([level, torch.inf] if wish == "high" else [-torch.inf, level])

    def _within(self, name: str, wish: str, share: float, membership: Membership) -> Float[Tensor, " batch"]:
        """Whether members are in the tail: counted, or as far as the network believes it."""
        interval = self._tail(name, wish, share)
        if name in self.space.cost.names:
            value = self.space.cost.exact(membership.codes)[name]
            return ((interval[0] <= value) & (value <= interval[1])).double()
        asked = torch.full((len(self.conditions), 2), torch.nan)
        asked[self.conditions.index(name)] = interval
        return membership(asked, share)

    def _share(self, name: str, wish: str, share: float, pilot: Int[Tensor, "drawn holes"]) -> float:
        """The smallest tail, in steps of two from `share`, that two in a hundred pilot draws are in."""
        membership = Membership(self.denoiser, self.space, pilot)
        shares = [share * 2**step for step in range(ceil(log2(0.5 / share)))]
        found = bisect_left(shares, 0.02, key=lambda each: self._within(name, wish, each, membership).mean().item())
        return [*shares, 0.5][found]


def merged(condition: Mapping[str, Wish] | None, maximize: Iterable[str], minimize: Iterable[str]) -> dict[str, Wish]:
    """All wishes by property.

    Raises:
        ValueError: If something is asked for twice.
    """
    pairs = [*(condition or {}).items(), *((name, "high") for name in maximize), *((name, "low") for name in minimize)]
    wishes: dict[str, Wish] = {}
    for name, wish in pairs:
        if name in wishes:
            raise ValueError(f"{name} is asked for twice")
        wishes[name] = wish
    return wishes
