"""Pool: what a generator learns from, drawn under any subset of the conditions without bias."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from archgen.benchmark import Table, find_table
from archgen.calibrate import set_aside
from archgen.predictor import PropertyPredictor
from archgen.space import SearchSpace

PUPILS = 1000  # members, see `distilled`
SMALLEST_TAIL = 10  # members: the sharpest "as high as possible" that is trained
COPIES, DOUBT = 8, 0.5  # see `completed`


@dataclass
class Events:
    """How often and how sharply conditions are shown.

    Args:
        free: Share of samples without any condition.
        alone: Share with one condition; the rest has one and each other with probability `also`.
        also: Probability of each further condition.
        point: Share of conditions that are a value; of the rest, half are intervals and half open to one side.
    """

    free: float = 0.2
    alone: float = 0.4
    also: float = 0.3
    point: float = 0.35


@dataclass
class Pool:
    """What the generator learns from: encodings and what is known of each.

    Attributes:
        codes: `(rows, holes)`.
        values: For each condition `(rows,)`, NaN where unknown.
        given: For further conditions what was asked of a row when it was drawn, `(rows, 2)`, NaN where nothing was.
        leading: How many of the conditions can be the first that is drawn; all if absent.
        measured: For conditions that are measured, how many values were used; the others are predicted from them.
        copies: Rows of each member, which differ in the values that are predicted; those of a copy are consecutive.
    """

    codes: Int[Tensor, "rows holes"]
    values: dict[str, Float[Tensor, " rows"]]
    given: dict[str, Float[Tensor, "rows 2"]] = field(default_factory=dict)
    leading: int | None = None
    measured: dict[str, int] = field(default_factory=dict)
    copies: int = 1
    order: dict[str, Tensor] = field(default_factory=dict, repr=False)
    ranked: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Sort the rows by every condition."""
        for name, value in self.values.items():
            known = value.isfinite().nonzero().flatten()
            self.order[name] = known[value[known].argsort(stable=True)]
            self.ranked[name] = value[self.order[name]].contiguous()

    def filled(self, labels: Mapping[str, Float[Tensor, "copies rows"]]) -> Pool:
        """Copies of all rows, each with values of its own for some conditions."""
        copies = len(next(iter(labels.values())))
        values = {n: labels[n].flatten() if n in labels else value.repeat(copies) for n, value in self.values.items()}
        given = {name: value.repeat(copies, 1) for name, value in self.given.items()}
        return Pool(self.codes.repeat(copies, 1), values, given, self.leading, self.measured, copies)

    def draw(
        self, n: int, events: Events, generator: torch.Generator
    ) -> tuple[Int[Tensor, "n holes"], Float[Tensor, "n conditions 2"]]:
        """Draw conditions, then rows uniformly among those that meet them.

        The first condition comes before the row, so its interval tells nothing but that the row lies in it. A further
        one is the row's own value, or a wide interval drawn without looking; rows outside are drawn again.

        Returns:
            Codes, and for each condition, of `values` and then of `given`, the interval asked for, NaN where none is.
        """
        names = list(self.values)
        kind = torch.rand(n, generator=generator)
        first = torch.randint(self.leading or len(names), (n,), generator=generator)
        first = first.masked_fill(kind < events.free, -1)
        more = kind >= events.free + events.alone
        intervals = torch.full((n, len(names), 2), torch.nan)
        span = torch.stack([torch.zeros(n, dtype=torch.long), torch.full((n,), len(self.codes))], -1)
        asked = torch.zeros(n, len(names), 2)
        secondary = torch.zeros(n, len(names), dtype=torch.bool)
        as_point = torch.zeros(n, len(names), dtype=torch.bool)
        for c, name in enumerate(names):
            mine = first == c
            smallest = SMALLEST_TAIL * self.copies / len(self.ranked[name])
            low, high, begin, end = self.intervals(name, n, events, smallest, generator)
            span[mine] = torch.stack([begin, end], -1)[mine]
            also = more & ~mine & (torch.rand(n, generator=generator) < events.also)
            wide_low, wide_high, _, _ = self.intervals(name, n, events, 0.3, generator)
            asked[:, c, 0] = torch.where(mine, low, wide_low)
            asked[:, c, 1] = torch.where(mine, high, wide_high)
            secondary[:, c] = also
            as_point[:, c] = torch.rand(n, generator=generator) < events.point
        rows = torch.zeros(n, dtype=torch.long)
        todo = torch.ones(n, dtype=torch.bool)
        for _ in range(8):
            offset = torch.rand(n, generator=generator, dtype=torch.float64) * (span[:, 1] - span[:, 0])
            pick = span[:, 0] + offset.long()
            for c in range(-1, len(names)):
                mine = todo & (first == c)
                rows[mine] = pick[mine] if c < 0 else self.order[names[c]][pick[mine]]
            own = torch.stack([self.values[name][rows] for name in names], -1)
            inside = (asked[..., 0] <= own) & (own <= asked[..., 1])
            todo = (secondary & ~as_point & ~inside & own.isfinite()).any(-1)
            if not todo.any():
                break
        kept = secondary & own.isfinite() & (as_point | inside)
        points = as_point & own.isfinite()
        for c in range(len(names)):
            mine = first == c
            intervals[mine, c] = asked[mine, c]
            value = torch.where(points[:, c, None], own[:, c, None], asked[:, c])
            intervals[kept[:, c], c] = value[kept[:, c]].float()
        given = [value[rows] for value in self.given.values()]
        return self.codes[rows].long(), torch.cat([intervals, *(one[:, None] for one in given)], 1)

    def intervals(
        self, name: str, n: int, events: Events, smallest: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Intervals of a condition drawn without looking at a row.

        Args:
            name: The condition.
            n: How many.
            events: How many of them are values.
            smallest: Share of the rows in the sharpest; from 0.3 on none is a value.
            generator: Source of randomness.

        Returns:
            Their lower and upper ends, and between which ranks the rows inside are.
        """
        ranked = self.ranked[name]
        total = len(ranked)
        kind, place, size = torch.rand(3, n, generator=generator)
        share = torch.exp(size * math.log(max(smallest, 1 / total)))  # log-uniform in [smallest, 1]
        point = (kind < events.point) & (smallest < 0.3)
        side = (kind - events.point) / (1 - events.point)
        start = torch.where(side < 0.5, place * (1 - share), torch.where(side < 0.75, 1 - share, 0.0))
        rare = torch.searchsorted(ranked, ranked[0] + size * (ranked[-1] - ranked[0])).double() / total
        place = torch.where(kind < 0.5 * events.point, place, rare)  # half the values by frequency, half evenly spaced
        start, stop = torch.where(point, place, start), torch.where(point, place, start + share)
        low = ranked[(start * total).long().clamp(0, total - 1)]
        high = ranked[(stop * total - 1e-6).long().clamp(0, total - 1)]
        low, high = torch.where(point, low, torch.minimum(low, high)), torch.where(point, low, high)
        begin, end = torch.searchsorted(ranked, low), torch.searchsorted(ranked, high, right=True)
        low = torch.where(~point & (begin == 0), -torch.inf, low)
        high = torch.where(~point & (end == total), torch.inf, high)
        return low.float(), high.float(), begin, end


def make_pool(
    space: SearchSpace,
    costs: Sequence[str],
    labels: Mapping[str, Sequence[str]],
    size: int,
    limit: int | None = None,
    complete: bool = False,
    seed: int = 0,
) -> Pool:
    """The members that a generator learns from, with what is known of each.

    Args:
        space: The search space.
        costs: Exact costs to condition on.
        labels: For each measured property `[table, column]`.
        size: Members drawn where the space cannot be listed.
        limit: Labelled architectures used, chosen at random; all if absent.
        complete: Whether a predictor learned from them labels the rest.
        seed: Seed of the draws.

    Raises:
        ValueError: If a table or a column is missing, or a cost is none of the space's.
    """
    generator = torch.Generator().manual_seed(seed)
    if unknown := set(costs) - set(space.cost.names):
        raise ValueError(f"{space.name} has no cost {sorted(unknown)[0]!r}; it has {', '.join(space.cost.names)}")
    listed = space.enumerate_legal is None and space.size <= size
    codes = space.legal_codes if listed else space.sample(size, generator)
    tables = {file: Table.read(find_table(file), space) for file in dict.fromkeys(file for file, _ in labels.values())}
    codes = torch.cat([codes, *(table.codes for table in tables.values())]).unique(dim=0)
    exact = space.cost.exact(codes)
    values = {name: exact[name].float() for name in costs}
    order = torch.rand(len(codes), generator=generator).argsort()
    for name, (file, column) in labels.items():
        values[name] = torch.full((len(codes),), torch.nan)
        place = torch.cat([codes, tables[file].codes]).unique(dim=0, return_inverse=True)[1][len(codes) :]
        values[name][place] = tables[file].column(column).float()
    known = torch.stack([values[name].isfinite() for name in labels]).any(0) if labels else order < 0
    if limit is not None and limit < known.sum():
        known &= order < order[known].sort().values[limit]
        for name in labels:
            values[name][~known] = torch.nan
    measured = {name: int(values[name].isfinite().sum()) for name in labels}
    pool = Pool(codes.to(torch.int16), values, measured=measured)
    known = torch.stack([values[name] for name in labels], -1) if labels else torch.empty(0)  # (N, labels)
    if not complete or known.isfinite().all():
        return pool
    return pool.filled(dict(zip(labels, completed(space, codes, known, seed).unbind(-1), strict=True)))


def distilled(space: SearchSpace, pool: Pool, names: Sequence[str], seed: int) -> PropertyPredictor:
    """A small predictor of measured properties that holds no measurement, for a checkpoint.

    A predictor learns from all labels but those that are set aside, see `set_aside`; another one learns what that says
    of `PUPILS` members, and is calibrated by the labels that were set aside.

    Args:
        space: The search space.
        pool: Members, some of them labelled.
        names: The properties.
        seed: Seed of both.
    """
    labels = torch.stack([pool.values[name] for name in names], -1)
    codes, generator = pool.codes.long(), torch.Generator().manual_seed(seed)
    kept, rest = set_aside(labels, generator)
    teacher = PropertyPredictor(space, seed).fit(codes[rest], labels[rest])
    told = codes[torch.randperm(len(codes), generator=generator)[:PUPILS]]
    pupil = PropertyPredictor(space, seed, list(names)).fit(told, teacher.predict(told).mean)
    return pupil.calibrate(codes[kept], labels[kept])


def completed(
    space: SearchSpace, codes: Int[Tensor, "rows holes"], known: Float[Tensor, "rows labels"], seed: int
) -> Float[Tensor, "copies rows labels"]:
    """Labels of all members, `COPIES` times: as measured, and where they are NaN as a predictor learns from those.

    What is predicted is not certain, and a generator that learned expectations alone would be surer than it may be.
    So each copy is a draw of what the predictor holds for possible, `DOUBT` of the way from what it expects: of whole
    draws the highest are those of which least is known.
    """
    rows = known.isfinite().any(-1)
    predictor = PropertyPredictor(space, seed=seed).fit(codes[rows], known[rows])
    drawn = predictor.draw(codes, COPIES, torch.Generator().manual_seed(seed))
    return torch.where(known.isfinite(), known, torch.lerp(predictor.predict(codes).mean, drawn, DOUBT).to(known))
