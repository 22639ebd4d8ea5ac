"""Numbers that describe the members of any search space, in groups of columns, for regression on few labels."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from archgen.graph import Architecture, simplify
from archgen.space import ABSENT, Hole, SearchSpace

SAMPLE = 2_000  # members that the scale of every column is taken from
RECURRING = 4  # of them share a path before it gets a column
SUFFIX = 4  # operations of a path that are told apart, counted from the output
SHAPE = 4  # columns of the group of that name

Counted = tuple[Counter[tuple[str, ...]], tuple[float, ...]]  # paths and shape of an architecture, see `count_paths`


class GraphFeatures:
    """Features of the members of a space. What takes long is kept for every encoding once seen.

    `costs`: logarithms of the exact costs; dead networks are marked. `numbers`: holes whose options are numbers or yes
    and no. `choices`: all other holes, one-hot. The rest is of the simplified graph, so isomorphic networks are equal
    there. `shape`: how many paths lead from input to output, how many of them without any operation, length of the
    shortest and mean length. `paths`: log(1 + n) for the n paths of each sequence of operations, where sequences
    recur. All but choices and paths are standardized, and a group is scaled so that the squared distance of two random
    members is one on average.

    Args:
        space: The search space.

    Attributes:
        groups: Names of the groups that tell members apart.
        group: Position in `groups` of each column.
    """

    def __init__(self, space: SearchSpace):
        self.space = space
        codes = space.sample(SAMPLE, torch.Generator().manual_seed(0))
        counted = _counted_paths(space, codes)
        found = Counter(path for paths, _ in counted for path in paths)
        self._column = {path: i for i, path in enumerate(sorted(p for p, n in found.items() if n >= RECURRING))}
        self._alike = not self._column and len({shape for _, shape in counted}) == 1
        self._place: dict[tuple[int, ...], int] = {}  # of an encoding in the table of its paths
        self._paths = torch.empty(0, SHAPE + len(self._column))
        if not self._alike:
            self._keep(dict(zip(map(tuple, codes.tolist()), counted, strict=True)))
        raw = self._raw(codes)
        varying = {name: x.var(0) > 1e-12 for name, x in raw.items()}
        self.groups = [name for name, columns in varying.items() if columns.any()]
        self._kept = {name: varying[name] for name in self.groups}
        self.group = torch.cat([torch.full((int(self._kept[n].sum()),), i) for i, n in enumerate(self.groups)])
        x = torch.cat([raw[name][:, kept] for name, kept in self._kept.items()], -1)
        self._mean, spread = x.mean(0), x.std(0)
        counts = self.group.bincount().double()
        for i, name in enumerate(self.groups):
            mine = self.group == i
            alike = (2 * counts[i]).sqrt() * spread[mine]  # mean squared distance: twice the sum of the variances
            total = (2 * spread[mine].square().sum()).sqrt()
            spread[mine] = total if name in ("choices", "paths") else alike
        self._scale = 1 / spread

    def __call__(self, codes: Int[Tensor, "rows holes"]) -> Float[Tensor, "rows columns"]:
        """Features of complete encodings, as float64."""
        raw = self._raw(codes)
        x = torch.cat([raw[name][:, kept] for name, kept in self._kept.items()], -1)
        return (x - self._mean) * self._scale

    def _raw(self, codes: Int[Tensor, "rows holes"]) -> dict[str, Float[Tensor, "rows _"]]:
        exact, columns = self.space.cost.exact(codes), {"numbers": [], "choices": []}
        costs = [(value.clamp_min(0) + 1e-3).log() for name, value in exact.items() if name != "depth"]
        costs += [exact["depth"].clamp_min(0).log1p(), (exact["depth"] < 0).double()]
        paths = self._counted(codes)
        for hole, code in zip(self.space.holes, codes.T, strict=True):
            values = numeric(hole)
            if values is None:
                columns["choices"].append(F.one_hot(code, len(hole.options)).double())
            else:
                columns["numbers"].append(values[code][:, None])
        result = {"costs": torch.stack(costs, -1), "shape": paths[:, :SHAPE], "paths": paths[:, SHAPE:]}
        result |= {name: torch.cat(parts, -1) for name, parts in columns.items() if parts}
        return {name: x for name, x in result.items() if x.shape[1]}

    def _counted(self, codes: Int[Tensor, "rows holes"]) -> Float[Tensor, "rows columns"]:
        """Shape, and log(1 + n) of the paths that have a column."""
        if self._alike:
            return torch.zeros(len(codes), SHAPE, dtype=torch.float64)
        keys = [tuple(row) for row in codes.tolist()]
        if new := [key for key in dict.fromkeys(keys) if key not in self._place]:
            self._keep(dict(zip(new, _counted_paths(self.space, torch.tensor(new)), strict=True)))
        return self._paths[[self._place[key] for key in keys]].double()

    def _keep(self, counted: dict[tuple[int, ...], Counted]) -> None:
        """Take the counts of encodings that were not seen yet into the table."""
        counts = torch.zeros(len(counted), self._paths.shape[1])
        for row, (paths, shape) in enumerate(counted.values()):
            counts[row, :SHAPE] = torch.tensor(shape)
            for path in paths.keys() & self._column.keys():
                counts[row, SHAPE + self._column[path]] = math.log1p(paths[path])
        self._place |= {key: len(self._place) + row for row, key in enumerate(counted)}
        self._paths = torch.cat([self._paths, counts])


def _counted_paths(space: SearchSpace, codes: Int[Tensor, "rows holes"]) -> list[Counted]:
    return [count_paths(architecture) for architecture in space.decode_all(codes)]


def count_paths(architecture: Architecture) -> Counted:
    """How often each sequence of last operations leads from input to output of the simplified graph, and its shape.

    Returns:
        The counts, and what `GraphFeatures` calls shape, counts as log(1 + n); of a dead graph nothing and zeros.
    """
    labels, inputs = simplify(architecture)
    last = len(labels) - 1
    if not last:
        return Counter(), (0.0,) * SHAPE
    ending = [Counter({(0, ()): 1})] + [Counter() for _ in inputs[1:]]  # by length and last operations
    for position in range(1, last):
        for source in inputs[position]:
            for (length, path), n in ending[source].items():
                ending[position][length + 1, (*path, labels[position])[-SUFFIX:]] += n
    paths, lengths = Counter(), Counter()
    for source in inputs[last]:
        for (length, path), n in ending[source].items():
            paths[path] += n
            lengths[length] += n
    mean = sum(length * n for length, n in lengths.items()) / lengths.total()
    counts = (lengths.total(), lengths[0])
    return paths, (*map(math.log1p, counts), float(min(lengths)), mean)


def numeric(hole: Hole) -> Float[Tensor, " options"] | None:
    """The options of a hole as numbers, logarithms where all are positive; the absent one lies in the middle.

    None if some options are words.
    """
    values = [option for option in hole.options if option != ABSENT]
    if any(isinstance(value, str) for value in values):
        return None
    numbers = torch.tensor(values, dtype=torch.float64)
    numbers = numbers.log() if (numbers > 0).all() else numbers
    absent = [numbers.mean()] if ABSENT in hole.options else []
    return torch.cat([*(value[None] for value in absent), numbers])


@cache
def features_of(space: SearchSpace) -> GraphFeatures:
    """The features of a space, made once."""
    return GraphFeatures(space)
