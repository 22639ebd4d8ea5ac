"""NAS-Bench-101: cells of at most seven vertices and nine edges; operations and edges are open."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from archgen.build import Bounds, Builder, Cost
from archgen.graph import Architecture, Node
from archgen.space import OPEN, SearchSpace, Slot

OPS = ("none", "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3")  # none: the vertex is absent
INNER, VERTICES, MAX_EDGES = 5, 7, 9
PAIRS = tuple(combinations(range(VERTICES), 2))

# Row k: the vertices of a cell with k inner ones.
PRESENT = torch.tensor([[v <= k or v == VERTICES - 1 for v in range(VERTICES)] for k in range(INNER + 1)])


# ---- which codes are legal -----------------------------------------------------------------------------------------
def matrices(codes: Shaped[Tensor, "batch holes"]) -> Shaped[Tensor, "batch source target"]:
    """What the edge holes hold as adjacency matrices of all seven slots; zero where a pair has no hole."""
    dense = codes.new_zeros(len(codes), VERTICES * VERTICES)
    dense[:, [VERTICES * source + target for source, target in PAIRS]] = codes[:, INNER:]
    return dense.reshape(-1, VERTICES, VERTICES)


def _word(members: list[bool]) -> int:
    """A set of up to 64 numbers as a signed 64-bit integer."""
    word = sum(1 << number for number, member in enumerate(members) if member)
    return word - (1 << 64) if word >> 63 else word


WITHOUT = [_word([not subset >> target & 1 for subset in range(64)]) for target in range(6)]
OF_SIZE = [_word([subset.bit_count() == size for subset in range(64)]) for size in range(7)]


def matching(allowed: Bool[Tensor, "*batch source target"]) -> Int[Tensor, "*batch"]:
    """Size of the largest set of allowed edges that share no source and no target; edges run forward, 7 vertices.

    Bit `s` of a word says whether the targets in the set `s` can be matched; one source after the other adds sets.
    """
    covered = torch.ones(allowed.shape[:-2], dtype=torch.long, device=allowed.device)
    for source in range(VERTICES - 1):
        before = covered
        for target in range(source, VERTICES - 1):  # of the vertices 1 to 6
            larger = (before & WITHOUT[target]) << (1 << target)
            covered = covered | larger * allowed[..., source, target + 1]
    return torch.stack([(covered & OF_SIZE[size]) != 0 for size in range(1, 7)]).sum(0)


def rule(codes: Int[Tensor, "batch holes"]) -> Bool[Tensor, " batch"]:
    """Whether partial codes (-1 where open) can be completed to a pruned cell of the benchmark; exact.

    A pruned cell has its present vertices first, each but the output with an edge out, each but the input with an edge
    in, and at most nine edges. For each number of inner vertices, the vertices that still lack an edge need at least
    `lacking ends - largest matching` more: an edge serves two lacking ends where it is matched, else one.
    """
    present = PRESENT.to(codes.device)  # (K, V)
    adjacency, ops = matrices(codes), codes[:, None, :INNER]  # (B, V, V), (B, 1, I)
    ones, free = adjacency == 1, adjacency == OPEN
    leaving, arriving = ones.any(-1), ones.any(-2)  # (B, V)
    consistent = ((ops == OPEN) | ((ops > 0) == present[:, 1:-1])).all(-1)
    consistent &= ~((leaving | arriving)[:, None] & ~present).any(-1)
    sample, inner = consistent.nonzero(as_tuple=True)  # N cases to look at: a sample and a number of inner vertices
    present = present[inner]
    free = free[sample] & present[:, :, None] & present[:, None, :]  # (N, V, V)
    lack_out, lack_in = present & ~leaving[sample], present & ~arriving[sample]  # (N, V)
    lack_out[:, -1] = lack_in[:, 0] = False
    served = (~lack_out | free.any(-1)).all(-1) & (~lack_in | free.any(-2)).all(-1)
    both = matching(free & lack_out[:, :, None] & lack_in[:, None, :])
    edges = ones.sum((-1, -2))[sample] + lack_out.sum(-1) + lack_in.sum(-1) - both
    legal = torch.zeros(len(codes), dtype=torch.bool, device=codes.device)
    legal[sample[served & (edges <= MAX_EDGES)]] = True
    return legal


def enumerate_legal() -> Int[Tensor, "legal holes"]:
    """All 1,293,208 legal codes: 6,472 sets of edges, each with every choice of operations of the present vertices."""
    sets = torch.arange(1 << len(PAIRS), dtype=torch.int32)  # bit p: the pair p is an edge
    sets = sets[sum((sets >> p & 1 for p in range(1, len(PAIRS))), sets & 1) <= MAX_EDGES]
    cells = [_edge_sets(sets, present) for present in PRESENT.tolist()]
    legal = torch.empty(sum(3**k * len(edges) for k, edges in enumerate(cells)), INNER + len(PAIRS), dtype=torch.long)
    for k, block in enumerate(legal.split([3**k * len(edges) for k, edges in enumerate(cells)])):
        block = block.view(len(cells[k]), 3**k, -1)
        block[..., :INNER] = torch.tensor(list(product(*[(1, 2, 3)] * k, *[(0,)] * (INNER - k))))
        block[..., INNER:] = cells[k][:, None]
    return legal


def _edge_sets(sets: Int[Tensor, " sets"], present: list[bool]) -> Int[Tensor, "cells pairs"]:
    """Those among some sets of edges that join the present vertices, and no others, to a pruned cell."""
    sets = sets[sets & _word([not (present[s] and present[t]) for s, t in PAIRS]) == 0]
    for vertex in (v for v in range(VERTICES) if present[v]):
        if vertex < VERTICES - 1:
            sets = sets[sets & _word([source == vertex for source, _ in PAIRS]) != 0]
        if vertex > 0:
            sets = sets[sets & _word([target == vertex for _, target in PAIRS]) != 0]
    return sets[:, None] >> torch.arange(len(PAIRS)) & 1


# ---- strings -------------------------------------------------------------------------------------------------------
class Codec:
    """Native strings: adjacency matrix and operations in JSON, `[[0, 1], [0, 0]] ["input", "output"]`."""

    @staticmethod
    def format(architecture: Architecture) -> str:
        """Print the two columns of the benchmark's tables, joined by a blank."""
        size = range(len(architecture.nodes))
        matrix = [[int((source, target) in architecture.edges) for target in size] for source in size]
        return f"{json.dumps(matrix)} {json.dumps([node.op for node in architecture.nodes])}"

    @staticmethod
    def parse(text: str, space: SearchSpace) -> Architecture:
        """Read a matrix and operations; vertices on no path from input to output are pruned, as the benchmark does.

        Raises:
            ValueError: If the benchmark would not accept the cell.
        """
        matrix, ops = _read(text)
        size = range(len(ops))
        if any(matrix[source][target] for source in size for target in range(source + 1)):
            raise ValueError("the matrix of a nasbench101 cell is upper triangular, with a zero diagonal")
        from_input, to_output = {0}, {len(ops) - 1}
        for vertex in size:
            if any(matrix[source][vertex] for source in from_input):
                from_input.add(vertex)
        for vertex in reversed(size):
            if any(matrix[vertex][target] for target in to_output):
                to_output.add(vertex)
        kept = sorted(from_input & to_output)
        if len(kept) < 2:
            raise ValueError("no path runs from the input to the output of this nasbench101 cell")
        nodes = tuple(Node(ops[vertex]) for vertex in kept)
        edges = tuple((s, t) for s, t in combinations(range(len(kept)), 2) if matrix[kept[s]][kept[t]])
        _check(nodes, edges)
        return Architecture(nodes, edges, space)


def _read(text: str) -> tuple[list[list[int]], list[str]]:
    """The two halves of a native string: a square matrix of zeros and ones, and as many words."""
    try:
        matrix, end = json.JSONDecoder().raw_decode(text)
        ops = json.loads(text[end:])
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f'a nasbench101 cell is written [[0, 1], [0, 0]] ["input", "output"], got {text[:80]!r}'
        ) from error
    if not (isinstance(ops, list) and all(isinstance(op, str) for op in ops)):
        raise ValueError(f"the operations of a nasbench101 cell are a list of words, got {json.dumps(ops)[:80]}")

    def is_row(row: Any) -> bool:
        return isinstance(row, list) and len(row) == len(ops) and all(type(x) is int and x in (0, 1) for x in row)

    if not (isinstance(matrix, list) and len(matrix) == len(ops) and all(map(is_row, matrix))):
        raise ValueError(
            f"{len(ops)} operations need a matrix of {len(ops)} x {len(ops)} zeros and ones, got {str(matrix)[:80]}"
        )
    return matrix, ops


def _check(nodes: tuple[Node, ...], edges: tuple[tuple[int, int], ...]) -> None:
    """Raise ValueError unless a pruned cell keeps the limits of the benchmark."""
    ops = [node.op for node in nodes]
    if ops[0] != "input" or ops[-1] != "output":
        raise ValueError(
            f"a nasbench101 cell starts with 'input' and ends with 'output', got {ops[0]!r} and {ops[-1]!r}"
        )
    if wrong := [op for op in ops[1:-1] if op not in OPS[1:]]:
        raise ValueError(f"an operation of nasbench101 is one of {', '.join(OPS[1:])}, got {wrong[0]!r}")
    if len(nodes) > VERTICES or len(edges) > MAX_EDGES:
        limits = f"at most {VERTICES} vertices and {MAX_EDGES} edges"
        raise ValueError(f"a nasbench101 cell has {limits} after pruning, got {len(nodes)} and {len(edges)}")


# ---- costs ---------------------------------------------------------------------------------------------------------
AREA = torch.tensor([0.0, 1.0, 9.0, 0.0], dtype=torch.float64)  # weights of one filter per input channel, by code


def shared_channels(adjacency: Bool[Tensor, "batch source target"], width: int) -> Float[Tensor, "batch inner"]:
    """Channels of the inner vertices in a cell with `width` output channels; see `vertex_channels`."""
    direct = adjacency[:, 1:-1, -1]  # (B, I)
    feeding = direct.sum(-1, keepdim=True).clamp(min=1)
    share = width // feeding + (direct.cumsum(-1) <= width % feeding)
    channels = torch.where(direct, share, 0)
    for vertex in range(INNER - 2, -1, -1):
        later = torch.where(adjacency[:, vertex + 1, vertex + 2 : -1], channels[:, vertex + 1 :], 0).amax(-1)
        channels[:, vertex] = torch.where(direct[:, vertex], channels[:, vertex], later)
    return channels.double()


@dataclass(frozen=True)
class Stack:
    """Cells of one width: how many, the sum of their input channels, their pixels."""

    width: int
    cells: int
    inputs: int
    pixels: int

    def op_cost(self, area: Tensor, channels: Tensor) -> Float[Tensor, "2 ..."]:
        """Parameters and MACs of an operation in all cells."""
        weights = self.cells * area * channels**2
        return torch.stack([weights + self.cells * (area > 0) * 2 * channels, weights * self.pixels])

    def projection_cost(self, channels: Tensor) -> Float[Tensor, "2 ..."]:
        """Parameters and MACs of the projection of the cells' inputs to one vertex, in all cells."""
        weights = self.inputs * channels
        return torch.stack([weights + self.cells * 2 * channels, weights * self.pixels])


def stacks(space: SearchSpace) -> list[Stack]:
    """The three stacks of the skeleton's network; each has twice the channels of the one before, and half its side."""
    base, cells, side = (space.skeleton[key] for key in ("width", "cells", "resolution"))
    return [
        Stack(base << k, cells, (base << max(k - 1, 0)) + (cells - 1) * (base << k), (-(-side // 2**k)) ** 2)
        for k in range(3)
    ]


class NASBench101Cost(Cost):
    """Costs of the skeleton's network: trainable parameters, multiply-adds of convolutions and the dense layer."""

    def __init__(self, space: SearchSpace):
        super().__init__(space)
        self.names = ("params_m", "macs_m", "depth")
        classes, resolution = space.skeleton["classes"], space.skeleton["resolution"]
        self._stacks = stacks(space)
        base = self._stacks[0].width
        stem, head = 27 * base, self._stacks[-1].width * classes
        self._constant = torch.tensor(
            [stem + 2 * base + head + classes, stem * resolution**2 + head], dtype=torch.float64
        )[:, None]  # (2, 1)
        feeding = torch.arange(INNER + 1).clamp(min=1)
        self._op_range, self._input_range = [], []  # low and high: (2, feeding, options) and (2, feeding)
        for end in (0, 1):
            shares = [(stack, (stack.width + end * (feeding - 1)) // feeding) for stack in self._stacks]
            self._op_range.append(sum(stack.op_cost(AREA, share[:, None].double()) for stack, share in shares))
            self._input_range.append(sum(stack.projection_cost(share.double()) for stack, share in shares))
        full = torch.ones((), dtype=torch.float64)
        self._skip = sum(stack.projection_cost(stack.width * full) for stack in self._stacks)[:, None]  # (2, 1)

    def params_and_macs(self, codes: Int[Tensor, "batch holes"]) -> Float[Tensor, "2 batch"]:
        """See `Cost.params_and_macs`."""
        adjacency, area = matrices(codes).bool(), AREA[codes[:, :INNER]]
        total = self._constant + self._skip * adjacency[:, 0, -1]
        for stack in self._stacks:
            channels = shared_channels(adjacency, stack.width)
            total = total + stack.op_cost(area, channels).sum(-1)
            total = total + (stack.projection_cost(channels) * adjacency[:, 0, 1:-1]).sum(-1)
        return total

    def params_and_macs_bounds(self, domains: Bool[Tensor, "batch holes options"]) -> Bounds:
        """See `Cost.params_and_macs_bounds`; `(inf, -inf)` where the domains leave no cell.

        With `m` inner vertices feeding the output, a vertex has between `floor(C / m)` and `ceil(C / m)` channels. So
        each number of inner vertices and each `m` that the domains admit gives an interval; the bounds span them all.
        """
        certain, possible = matrices(~domains[..., 0]), matrices(domains[..., 1])
        conv1, conv3, pool = domains[:, :INNER, 1:].unbind(-1)
        ops = torch.where(pool, 3, 2 - conv1.long()), torch.where(conv3, 2, 3 - 2 * conv1.long())  # cheapest, dearest
        low = self._constant.new_full((2, len(domains)), torch.inf)
        high = torch.full_like(low, -torch.inf)
        counts = [self._count(domains, certain, possible, k) for k in range(INNER + 1)]
        for m in range(INNER + 1):
            op_costs = [prices[:, m, code].cumsum(-1) for prices, code in zip(self._op_range, ops, strict=True)]
            for k in range(m, INNER + 1) if m else (0,):
                admitted, feeding, skip, inputs = counts[k]
                admitted = admitted & (feeding[0] <= m) & (m <= feeding[1])
                ends = []
                for end in (0, 1):
                    cost = self._constant + self._skip * skip[end] + self._input_range[end][:, m, None] * inputs[end]
                    ends.append(cost + op_costs[end][..., k - 1] if k else cost)
                low = torch.where(admitted, torch.minimum(low, ends[0]), low)
                high = torch.where(admitted, torch.maximum(high, ends[1]), high)
        complete = (domains.sum(-1) == 1).all(-1)
        if complete.any():
            low[:, complete] = high[:, complete] = self.params_and_macs(domains[complete].long().argmax(-1))
        return low, high

    @staticmethod
    def _count(domains: Tensor, certain: Tensor, possible: Tensor, k: int) -> tuple[Tensor, Bounds, Bounds, Bounds]:
        """What the domains leave of cells with `k` inner vertices.

        Returns:
            Whether any is left, and the least and most: inner vertices feeding the output, edges from input to output,
            edges from the input to inner vertices. Those last are few, since each inner vertex needs an edge out too.
        """
        source, target = (0, 1) if k else (0, VERTICES - 1)  # the only edge that can lead to the first vertex
        admitted = possible[:, source, target] & possible[:, k, -1]
        admitted &= domains[:, :k, 1:].any(-1).all(-1) & domains[:, k:INNER, 0].all(-1)
        admitted &= ~certain[:, k + 1 : -1].any((-1, -2)) & ~certain[:, :, k + 1 : -1].any((-1, -2))
        feeding = certain[:, 1:-1, -1].sum(-1), possible[:, 1 : k + 1, -1].sum(-1)
        skip = (certain[:, 0, -1] if k else torch.ones_like(admitted)).long(), possible[:, 0, -1].long()
        budget = MAX_EDGES - certain[:, 1:].sum((-1, -2)).clamp(min=k)  # for the edges from the input
        first = int(k > 0)
        least = first + certain[:, 0, 2:-1].sum(-1)
        most = (first + possible[:, 0, 2 : k + 1].sum(-1)).minimum(budget - skip[1]).clamp(min=0)
        return admitted, feeding, skip, (least, most)


# ---- networks ------------------------------------------------------------------------------------------------------
def vertex_channels(architecture: Architecture, width: int) -> list[int]:
    """Channels of every vertex of a cell with `width` output channels; 0 for the input, whose own number stands.

    Inner vertices that feed the output share its channels, the first ones taking what is left over; every other one
    has as many as the largest it feeds. Source: `compute_vertex_channels` in google-research/nasbench.
    """
    last = len(architecture.nodes) - 1
    feeding = [source for source, target in architecture.edges if source and target == last]
    channels = [0] * last + [width]
    for rank, vertex in enumerate(feeding):
        channels[vertex] = width // len(feeding) + (rank < width % len(feeding))
    for vertex in range(last - 1, 0, -1):
        if vertex not in feeding:
            channels[vertex] = max(channels[target] for source, target in architecture.edges if source == vertex)
    return channels


def conv_bn_relu(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    """Convolution, batch normalization and ReLU, with the benchmark's constants."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out, eps=1e-5, momentum=0.003),
        nn.ReLU(),
    )


class Cell(nn.Module):
    """One cell: inner vertices sum their inputs, the output concatenates what feeds it and adds the cell's input.

    Args:
        architecture: A member of the space.
        channels_in: Channels of the cell's input; it is projected to each vertex that it feeds.
        width: Channels of the cell's output.
    """

    def __init__(self, architecture: Architecture, channels_in: int, width: int):
        super().__init__()
        self.last = len(architecture.nodes) - 1
        self.channels = vertex_channels(architecture, width)
        self.sources = [[s for s, t in architecture.edges if s and t == vertex] for vertex in range(self.last + 1)]
        self.projections, self.ops = nn.ModuleDict(), nn.ModuleDict()
        for source, target in architecture.edges:
            if source == 0:
                self.projections[str(target)] = conv_bn_relu(channels_in, self.channels[target], 1)
        for vertex, node in enumerate(architecture.nodes[1:-1], 1):
            channels = self.channels[vertex]
            pool, kernel = node.op == "maxpool3x3", 3 if node.op == "conv3x3-bn-relu" else 1
            self.ops[str(vertex)] = nn.MaxPool2d(3, 1, 1) if pool else conv_bn_relu(channels, channels, kernel)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch filters height width"]:
        """Values of the output vertex; larger inputs of a vertex are cut to its first channels."""
        values = [x]
        for vertex in range(1, self.last):
            terms = [values[source][:, : self.channels[vertex]] for source in self.sources[vertex]]
            values.append(self.ops[str(vertex)](self._with_input(terms, vertex, x)))
        feeding = [values[source] for source in self.sources[self.last]]
        return self._with_input([torch.cat(feeding, 1)] if feeding else [], self.last, x)

    def _with_input(self, terms: list[Tensor], vertex: int, x: Tensor) -> Tensor:
        terms = [*terms, self.projections[str(vertex)](x)] if str(vertex) in self.projections else terms
        return sum(terms[1:], terms[0])


class NASBench101Builder(Builder):
    """The benchmark's network: a stem, three stacks of cells with max-pooling between them, a dense layer.

    The skeleton's `width` are the channels of the stem and of the first stack, `cells` the cells of each stack.
    """

    @cached_property
    def cost(self) -> NASBench101Cost:
        """Costs of the skeleton's network."""
        return NASBench101Cost(self.space)

    def network(self, architecture: Architecture, num_classes: int, in_channels: int) -> nn.Module:
        """See `Builder.network`."""
        channels = self.space.skeleton["width"]
        layers: list[nn.Module] = [conv_bn_relu(in_channels, channels, 3)]
        for number, stack in enumerate(stacks(self.space)):
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if number else []
            for _ in range(stack.cells):
                layers.append(Cell(architecture, channels, stack.width))
                channels = stack.width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


SPACE = SearchSpace(
    name="nasbench101",
    slots=(
        Slot("input", {"op": ("input",)}),
        *(Slot(f"op{vertex}", {"op": OPS}) for vertex in range(1, INNER + 1)),
        Slot("output", {"op": ("output",)}),
    ),
    edges=(),
    open_edges=PAIRS,
    absent="none",
    source="Ying et al., ICML 2019, arXiv 1902.09635, section 2; pruned cells, network of google-research/nasbench",
    rule=rule,
    enumerate_legal=enumerate_legal,
    native="archgen.spaces.nasbench101:Codec",
    columns=("module_adjacency", "module_operations"),
    builder="archgen.spaces.nasbench101:NASBench101Builder",
    skeleton={"classes": 10, "resolution": 32, "width": 128, "cells": 3},
)
