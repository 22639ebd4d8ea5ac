"""Networks and their exact costs: an architecture as an `nn.Module`, encodings as parameters, MACs, depth."""

from __future__ import annotations

import copy
import math
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from archgen.graph import Architecture, Node, Value
from archgen.space import ABSENT, Hole, SearchSpace, Slot

MILLION = 1e6
Bounds = tuple[Tensor, Tensor]


# ---- exact cost of encodings ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Term:
    """A cost that depends on a few holes: one value for each combination of their options.

    Attributes:
        holes: Positions of the holes.
        table: `(features, options of the first hole, options of the second, ...)`.
    """

    holes: tuple[int, ...]
    table: Float[Tensor, "features ..."]


class TermSum:
    """A sum of terms, evaluated for many encodings at once, with bounds where holes are open.

    Args:
        terms: The summands. Those over the same holes are added up, which makes the bounds tighter.
        n_features: Features of every term.
        reduce: Whether to add the terms up; else each stays a column of its own.
    """

    def __init__(self, terms: Iterable[Term], n_features: int, reduce: bool = True):
        merged: dict[Any, Tensor] = {}
        for index, term in enumerate(terms):
            key = term.holes if reduce else (index, *term.holes)
            merged[key] = merged[key] + term.table if key in merged else term.table
        tables = list(merged.values())
        holes = [key if reduce else key[1:] for key in merged]
        arity = max(map(len, holes), default=1)
        combos = max((table[0].numel() for table in tables), default=1)
        self.reduce = reduce
        self.holes = torch.zeros(len(holes), arity, dtype=torch.long)
        self.strides = torch.zeros(len(holes), arity, dtype=torch.long)
        self.codes = torch.zeros(len(holes), combos, arity, dtype=torch.long)
        self.valid = torch.zeros(len(holes), combos, dtype=torch.bool)
        self.values = torch.zeros(n_features, len(holes), combos, dtype=torch.float64)
        for row, (scope, table) in enumerate(zip(holes, tables, strict=True)):
            shape, size = table.shape[1:], table[0].numel()
            grid = torch.tensor(list(product(*map(range, shape)))).reshape(size, len(scope))
            self.holes[row, : len(scope)] = torch.tensor(scope)
            self.holes[row, len(scope) :] = scope[0]
            self.codes[row, :size, : len(scope)] = grid
            self.codes[row, :size, len(scope) :] = grid[:, :1]
            self.strides[row, : len(scope)] = torch.tensor([math.prod(shape[i + 1 :]) for i in range(len(shape))])
            self.valid[row, :size] = True
            self.values[:, row, :size] = table.reshape(n_features, size).double()

    def exact(self, codes: Int[Tensor, "batch holes"]) -> Float[Tensor, "features batch *terms"]:
        """Values of complete encodings."""
        index = (codes[:, self.holes] * self.strides).sum(-1)  # (B, T)
        value = self.values[:, torch.arange(len(self.holes)), index]  # (F, B, T)
        return value.sum(-1) if self.reduce else value

    def bounds(self, domains: Bool[Tensor, "batch holes options"]) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds `(features, batch, *terms)` of every completion that the domains allow."""
        possible = domains[:, self.holes[:, None], self.codes].all(-1) & self.valid  # (B, T, C)
        low = torch.where(possible, self.values[:, None], torch.inf).amin(-1)  # (F, B, T)
        high = torch.where(possible, self.values[:, None], -torch.inf).amax(-1)
        return (low.sum(-1), high.sum(-1)) if self.reduce else (low, high)


class Cost:
    """Exact costs of encodings of a space: what `--where` and the conditions of the generator can name.

    `params_m` and `macs_m` are in millions; `depth` is the largest number of operations on one path from input to
    output (identities count nothing, a stage counts its layers), -1 where no path is left.

    Attributes:
        listable: Number of encodings that are priced in a moment.

    Args:
        space: The search space.
        terms: Parameters and MACs as a sum of terms with two features; none if the space has no builder.
    """

    listable = 300_000

    def __init__(self, space: SearchSpace, terms: Iterable[Term] = ()):
        self.space = space
        terms = list(terms)
        self.names: tuple[str, ...] = ("params_m", "macs_m", "depth") if terms else ("depth",)
        self._additive = TermSum(terms, 2)
        self._weights = TermSum([_depth_term(space, slot) for slot in range(len(space.slots))], 1, reduce=False)

    @cached_property
    def separable(self) -> bool:
        """Whether every cost is a sum over the nodes, each of which counts by its own holes alone."""
        space = self.space
        chain = space.edges == tuple((slot, slot + 1) for slot in range(len(space.slots) - 1))
        owners = [{space.holes[hole].span for hole in holes} for holes in self._additive.holes.tolist()]
        return chain and not space.open_edges and not space.zero and all(len(owner) == 1 for owner in owners)

    def exact(self, codes: Int[Tensor, "batch holes"]) -> dict[str, Float[Tensor, " batch"]]:
        """Costs of complete encodings, by name, as float64."""
        result = {}
        if len(self.names) > 1:
            params, macs = self.params_and_macs(codes)
            result = {"params_m": params / MILLION, "macs_m": macs / MILLION}
        weights = self._weights.exact(codes)[0]
        present = {hole.span: codes[:, i] == 1 for i, hole in enumerate(self.space.holes) if hole.kind == "edge"}
        return {**result, "depth": self._longest_path(weights, present)}

    def operations(self, codes: Int[Tensor, "batch holes"]) -> dict[str, Int[Tensor, " batch"]]:
        """How many nodes of complete encodings have each operation, input, output and absent nodes left out."""
        counts: dict[str, Tensor] = {}
        for slot in self.space.slots[1:-1]:
            column = next((i for i, hole in enumerate(self.space.holes) if hole.name == f"{slot.name}.op"), None)
            for code, op in enumerate(slot.choices["op"]):
                if op != self.space.absent:
                    here = torch.ones_like(codes[:, 0]) if column is None else (codes[:, column] == code).long()
                    counts[op] = counts.get(op, 0) + here
        return counts

    def bounds(self, domains: Bool[Tensor, "batch holes options"]) -> dict[str, Bounds]:
        """Lower and upper bound of each cost over every completion that the domains allow.

        They hold for all completions, and meet where every hole has one option left.
        """
        result = {}
        if len(self.names) > 1:
            low, high = self.params_and_macs_bounds(domains)
            result = {name: (low[i] / MILLION, high[i] / MILLION) for i, name in enumerate(("params_m", "macs_m"))}
        low, high = self._weights.bounds(domains)
        edges = [(i, hole.span) for i, hole in enumerate(self.space.holes) if hole.kind == "edge"]
        certain = {span: domains[:, i, 1] & ~domains[:, i, 0] for i, span in edges}
        possible = {span: domains[:, i, 1] for i, span in edges}
        depth = self._longest_path(low[0], certain), self._longest_path(high[0], possible)
        return {**result, "depth": depth}

    def params_and_macs(self, codes: Int[Tensor, "batch holes"]) -> Float[Tensor, "2 batch"]:
        """Parameters and MACs, in ones, of complete encodings."""
        return self._additive.exact(codes)

    def params_and_macs_bounds(self, domains: Bool[Tensor, "batch holes options"]) -> Bounds:
        """Bounds `(2, batch)` of parameters and MACs, in ones."""
        return self._additive.bounds(domains)

    def _longest_path(self, weights: Tensor, present: dict[tuple[int, int], Tensor]) -> Float[Tensor, " batch"]:
        batch, n_slots = weights.shape
        reach = weights.new_full((batch, n_slots), -torch.inf)
        reach[:, 0] = 0.0
        for target in range(1, n_slots):
            sources = [reach[:, s] for s, t in self.space.edges if t == target]
            sources += [torch.where(flag, reach[:, s], -torch.inf) for (s, t), flag in present.items() if t == target]
            if sources:
                reach[:, target] = torch.stack(sources).amax(0) + weights[:, target]
        depth = reach[:, -1]
        return torch.where(depth.isinf(), -1.0, depth)


def table_of(holes: list[Hole], value: Callable[[dict[str, Value]], Iterable[float]]) -> Float[Tensor, "features ..."]:
    """Tabulate `value`, a function of the holes' attributes, over all their options."""
    rows = [
        list(value({hole.attribute: option for hole, option in zip(holes, options, strict=True)}))
        for options in product(*(hole.options for hole in holes))
    ]
    sizes = [len(hole.options) for hole in holes]
    return torch.tensor(rows, dtype=torch.float64).T.reshape(-1, *sizes)


def holes_of(space: SearchSpace, slot: int, attributes: Iterable[str]) -> tuple[tuple[int, ...], list[Hole]]:
    """The open ones among some attributes of a node: their positions and themselves."""
    wanted = set(attributes)
    found = [
        (index, hole)
        for index, hole in enumerate(space.holes)
        if hole.kind != "edge" and hole.span[0] == slot and hole.attribute in wanted
    ]
    return tuple(index for index, _ in found), [hole for _, hole in found]


def fixed_of(slot: Slot) -> dict[str, Value]:
    """Attributes of a node that have one option."""
    return {name: options[0] for name, options in slot.choices.items() if len(options) == 1 and name not in slot.when}


def _depth_term(space: SearchSpace, slot: int) -> Term:
    """How much a node adds to a path: nothing, one, its layers, or no path at all."""

    def weight(chosen: dict[str, Value]) -> list[float]:
        values = {**fixed_of(space.slots[slot]), **chosen}
        if values["op"] in space.zero:
            return [-math.inf]
        if values["op"] in space.identity | {"input", "output"}:
            return [0.0]
        layers = values.get("layers", 1)
        return [float(layers) if layers != ABSENT else 0.0]

    index, holes = holes_of(space, slot, ("op", "layers"))
    if not index:
        index, holes = (0,), [Hole("", "", (0,) * len(space.holes[0].options), (0, 0), "")]
    return Term(index, table_of(holes, weight))


# ---- builders ------------------------------------------------------------------------------------------------------
class Builder:
    """Builds and prices the networks of a space. This one knows depth and counts alone; spaces name a better one.

    Args:
        space: The search space.
    """

    def __init__(self, space: SearchSpace):
        self.space = space

    @cached_property
    def cost(self) -> Cost:
        """Exact costs of the encodings of the space."""
        return Cost(self.space)

    def network(self, architecture: Architecture, num_classes: int, in_channels: int) -> nn.Module:
        """Build a network.

        Args:
            architecture: A member of the space.
            num_classes: Width of the classifier.
            in_channels: Channels of the input images.

        Returns:
            A module from images `(batch, in_channels, height, width)` to logits `(batch, num_classes)`.

        Raises:
            ValueError: If the space does not say how it is built.
        """
        raise ValueError(
            f"space {self.space.name} does not say how to build its networks; give its YAML a 'builder': "
            "'inverted_residual', or 'module:function' with function(op, shape, **attributes) -> nn.Module"
        )


def measure(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """Parameters and MACs of a network by running it on the meta device, where nothing is computed.

    Args:
        network: Any module; it stays where it is.
        shape: Shape of one input, without the batch.
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.empty(1, *shape, device="meta"))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2


class CallableBuilder(Builder):
    """Networks whose nodes are made by a function that the space's YAML names as `builder: module:function`.

    The function gets `op`, `shape` (channels, height, width of its input) and the node's attributes, and returns a
    module. Inputs of a node are added up; the output is pooled and classified. Costs are measured, once for each
    different node and shape of its input, so there are no bounds while holes are open.
    """

    @cached_property
    def block(self) -> Callable[..., nn.Module]:
        """The function that makes a node.

        Raises:
            ValueError: If it cannot be imported.
        """
        name = self.space.skeleton["block"]
        try:
            return pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"space {self.space.name}: cannot import its builder {name!r}: {error}") from error

    @cached_property
    def cost(self) -> Cost:
        """Costs measured on the meta device."""
        return MeasuredCost(self.space, self)

    def network(self, architecture: Architecture, num_classes: int, in_channels: int) -> nn.Module:
        """See `Builder.network`."""
        return GraphNetwork(architecture, self.block, num_classes, self.shape(in_channels))

    def shape(self, in_channels: int) -> tuple[int, int, int]:
        """Channels, height, width of the images that the blocks are shaped for."""
        return (in_channels, *[int(self.space.skeleton.get("resolution", 32))] * 2)


class MeasuredCost(Cost):
    """Parameters and MACs of networks that must be built to be counted."""

    listable, separable = 3_000, False

    def __init__(self, space: SearchSpace, builder: CallableBuilder):
        super().__init__(space)
        self.names = ("params_m", "macs_m", "depth")
        self._builder = builder
        self._known: dict[tuple[Node, tuple[int, ...]], tuple[int, int, tuple[int, ...]]] = {}

    def params_and_macs(self, codes: Tensor) -> Tensor:
        """Sums over the nodes."""
        return torch.tensor([self._price(row) for row in codes.tolist()], dtype=torch.float64).reshape(-1, 2).T

    def _price(self, codes: list[int]) -> tuple[int, int]:
        classes = int(self.space.skeleton.get("classes", 10))
        total = [0, 0]

        def add(position: int, node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
            if (node, shape) not in self._known:
                with torch.device("meta"):
                    module = make_block(self._builder.block, node, shape)
                self._known[node, shape] = (*measure(module, shape), shape_behind(module, shape))
            params, macs, behind = self._known[node, shape]
            total[0], total[1] = total[0] + params, total[1] + macs
            return behind

        width = follow_shapes(self.space.decode(codes), self._builder.shape(3), add)[0]
        return total[0] + (width + 1) * classes, total[1] + width * classes

    def params_and_macs_bounds(self, domains: Tensor) -> Bounds:
        """Unknown while a hole is open."""
        complete = (domains.sum(-1) == 1).all(-1)
        low = torch.zeros(2, len(domains), dtype=torch.float64)
        high = torch.full_like(low, torch.inf)
        if complete.any():
            low[:, complete] = high[:, complete] = self.params_and_macs(domains[complete].long().argmax(-1))
        return low, high


def make_block(block: Callable[..., nn.Module], node: Node, shape: tuple[int, ...]) -> nn.Module:
    """The module of a node.

    Raises:
        ValueError: If the function makes something else.
    """
    module = block(op=node.op, shape=shape, **dict(node.attributes))
    if not isinstance(module, nn.Module):
        raise ValueError(f"a builder returns an nn.Module, got {type(module).__name__} for {node.label}")
    return module


def shape_behind(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a module's output, without the batch, for an input of some shape; nothing is computed."""
    with torch.no_grad():
        return tuple(copy.deepcopy(module).to("meta").eval()(torch.empty(1, *shape, device="meta")).shape[1:])


def follow_shapes(
    architecture: Architecture,
    shape: tuple[int, ...],
    step: Callable[[int, Node, tuple[int, ...]], tuple[int, ...]],
) -> tuple[int, ...]:
    """Follow shapes from input to output.

    Args:
        architecture: The graph; inputs of a node are added up.
        shape: Shape of the input.
        step: From the position, the node and the shape of its input to that of its output; called for every node that
            the input reaches and that is neither identity, zero nor output.

    Returns:
        The shape of the output, or that of the input where no path is left.

    Raises:
        ValueError: If inputs that meet in a node differ in shape.
    """
    space = architecture.space
    shapes: list[tuple[int, ...] | None] = [shape]
    for position, node in enumerate(architecture.nodes[1:], 1):
        incoming = {shapes[source] for source, target in architecture.edges if target == position} - {None}
        if len(incoming) > 1:
            raise ValueError(f"inputs of node {position} ({node.label}) differ in shape: {sorted(incoming)}")
        if not incoming or node.op in space.zero:
            shapes.append(None)
        elif node.op == "output" or node.op in space.identity:
            shapes.append(incoming.pop())
        else:
            shapes.append(step(position, node, incoming.pop()))
    return shapes[-1] or shape


class GraphNetwork(nn.Module):
    """A network that follows its architecture node by node.

    Args:
        architecture: The graph.
        block: Makes the module of a node from `op`, `shape` and attributes.
        num_classes: Width of the classifier.
        shape: Channels, height, width of the images that the blocks are shaped for.

    Raises:
        ValueError: If inputs that meet in a node differ in shape.
    """

    def __init__(
        self, architecture: Architecture, block: Callable[..., nn.Module], num_classes: int, shape: tuple[int, ...]
    ):
        super().__init__()
        self.architecture = architecture
        self.inputs = [[s for s, t in architecture.edges if t == n] for n in range(len(architecture.nodes))]
        self.blocks = nn.ModuleDict()

        def add(position: int, node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
            self.blocks[str(position)] = make_block(block, node, shape)
            return shape_behind(self.blocks[str(position)], shape)

        self.classifier = nn.Linear(follow_shapes(architecture, shape, add)[0], num_classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of images."""
        values: list[Tensor | None] = [images]
        for position in range(1, len(self.inputs)):
            terms = [values[source] for source in self.inputs[position] if values[source] is not None]
            if not terms or self.architecture.nodes[position].op in self.architecture.space.zero:
                values.append(None)
                continue
            total = sum(terms[1:], terms[0])
            values.append(self.blocks[str(position)](total) if str(position) in self.blocks else total)
        features = values[-1]
        if features is None:
            return self.classifier(images.new_zeros(images.shape[0], self.classifier.in_features))
        return self.classifier(features.flatten(2).mean(-1))


# ---- stages of inverted residuals ----------------------------------------------------------------------------------
ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "hardswish": nn.Hardswish, "gelu": nn.GELU}
GATES = {"sigmoid": nn.Sigmoid, "hardsigmoid": nn.Hardsigmoid}


def divisible(channels: int, divisor: int = 8) -> int:
    """Round to a multiple of the divisor, at most 10 % down (MobileNet's `make_divisible`)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _is_count(value: Value) -> bool:
    return type(value) is int and value > 0


STAGE: dict[str, Callable[[Value], bool]] = {  # what a stage can be told
    "layers": _is_count,
    "kernel": lambda value: _is_count(value) and value % 2 == 1,
    "expand": _is_count,
    "squeeze_excitation": lambda value: isinstance(value, bool),
    "activation": ACTIVATIONS.__contains__,
}


@dataclass(frozen=True)
class Layer:
    """One inverted residual: shapes and settings, enough to build it and to price it."""

    channels_in: int
    channels_out: int
    kernel: int
    expand: int
    stride: int
    activation: str
    squeeze: int  # channels inside the squeeze-excitation; 0 for none
    gate: str

    @property
    def middle(self) -> int:
        """Channels between the two pointwise convolutions."""
        return self.channels_in * self.expand

    def cost(self, height: int, width: int) -> tuple[int, int]:
        """Parameters, and multiply-adds of the convolutions for an input of this size."""
        middle, outputs = self.middle, -(-height // self.stride) * -(-width // self.stride)
        depthwise, project = self.kernel**2 * middle, middle * self.channels_out
        params = depthwise + 2 * middle + project + 2 * self.channels_out
        macs = (depthwise + project) * outputs
        if self.expand != 1:
            params += self.channels_in * middle + 2 * middle
            macs += self.channels_in * middle * height * width
        if self.squeeze:
            params += 2 * middle * self.squeeze + self.squeeze + middle
            macs += 2 * middle * self.squeeze
        return params, macs


def _convolution(
    channels_in: int, channels_out: int, kernel: int, stride: int, activation: str | None, groups: int = 1
):
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
    ]
    return nn.Sequential(*layers, *([ACTIVATIONS[activation]()] if activation else []))


class SqueezeExcitation(nn.Module):
    """Channel gates from pooled features (Hu et al., 2018).

    Args:
        channels: Channels gated.
        squeeze: Channels between the two layers.
        activation: Activation between them.
        gate: `sigmoid` or `hardsigmoid`.
    """

    def __init__(self, channels: int, squeeze: int, activation: str, gate: str):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeeze, 1), nn.Conv2d(squeeze, channels, 1)
        self.activation = ACTIVATIONS[activation]()
        self.gate = GATES[gate]()

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """Scale every channel."""
        return x * self.gate(self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True)))))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (Sandler et al., 2018); added to its input where the shapes agree.

    Args:
        layer: Shapes and settings.
        squeeze_activation: Activation inside the squeeze-excitation.
    """

    def __init__(self, layer: Layer, squeeze_activation: str):
        super().__init__()
        middle, act = layer.middle, layer.activation
        parts = [_convolution(layer.channels_in, middle, 1, 1, act)] if layer.expand != 1 else []
        parts.append(_convolution(middle, middle, layer.kernel, layer.stride, act, groups=middle))
        if layer.squeeze:
            parts.append(SqueezeExcitation(middle, layer.squeeze, squeeze_activation, layer.gate))
        parts.append(_convolution(middle, layer.channels_out, 1, 1, None))
        self.layers = nn.Sequential(*parts)
        self.residual = layer.stride == 1 and layer.channels_in == layer.channels_out

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch filters rows columns"]:
        """Apply the block."""
        return x + self.layers(x) if self.residual else self.layers(x)


class InvertedResidualBuilder(Builder):
    """Stem, stages of inverted residuals, head: MnasNet, EfficientNet, MobileNetV3, as the skeleton says.

    A node is a stage with attributes `layers`, `kernel`, `expand`, `squeeze_excitation` and `activation`; `kernel2`
    and `expand2` are those of one layer. The skeleton gives `stem` (channels after a 3x3 convolution of stride 2),
    `channels` and `strides` of the stages, `head` (channels of the last 1x1 convolution), optionally `features` (width
    of a linear layer behind the pooling), `activation`, `squeeze` (`of`: `input` or `middle` channels, `reduction`,
    `divisor`, `gate`, `activation`), `resolution` and `classes` of the reference network.

    Raises:
        ValueError: If the skeleton does not fit the nodes.
    """

    def __init__(self, space: SearchSpace):
        super().__init__(space)
        skeleton = space.skeleton
        stages = len(space.slots) - 2
        for key, length in (("stem", None), ("head", None), ("channels", stages), ("strides", stages)):
            value = skeleton.get(key)
            numbers = [value] if length is None else value
            if not isinstance(numbers, list) or not all(isinstance(v, int) and v > 0 for v in numbers):
                raise ValueError(f"space {space.name}: the skeleton needs {key!r} in whole numbers, got {value!r}")
            if length is not None and len(numbers) != length:
                raise ValueError(f"space {space.name}: {key!r} needs one number for each of the {length} nodes")
        self.activation = skeleton.get("activation", "relu")
        self.squeeze = {"of": "input", "reduction": 4, "divisor": 1, "gate": "sigmoid", **skeleton.get("squeeze", {})}
        named = {self.activation, self.squeeze.get("activation", self.activation)}
        if not named <= set(ACTIVATIONS) or self.squeeze["gate"] not in GATES:
            known = f"activations {', '.join(ACTIVATIONS)} and gates {', '.join(GATES)}"
            raise ValueError(f"space {space.name}: the skeleton knows the {known}")
        if space.open_edges or space.edges != tuple((stage, stage + 1) for stage in range(stages + 1)):
            raise ValueError(f"space {space.name}: stages follow one another, so it lists no edges")
        for slot in space.slots[1:-1]:
            self._check(slot)

    def _check(self, slot: Slot) -> None:
        """Refuse a stage that would not be built as its author reads it."""
        where = f"space {self.space.name}: {slot.name}"
        layers = range(1, max(slot.choices.get("layers", (1,))) + 1)
        for name, options in slot.choices.items():
            kind = name.rstrip("0123456789")
            if name == "op":
                continue
            if name not in STAGE and not (kind in ("kernel", "expand") and name in {f"{kind}{n}" for n in layers}):
                raise ValueError(
                    f"{where} has no use for {name!r}; a stage has {', '.join(STAGE)}, kernel1, expand1, ..."
                )
            if not all(map(STAGE[kind], options)):
                raise ValueError(f"{where}.{name} cannot be built with all of {list(options)}")
        for kind in ("kernel", "expand"):
            if missing := [n for n in layers if not {kind, f"{kind}{n}"} & set(slot.choices)]:
                raise ValueError(f"{where} needs {kind!r}, or '{kind}{missing[0]}' for its layer {missing[0]}")
        for name, (parent, values) in slot.when.items():
            number = name.removeprefix("kernel").removeprefix("expand")
            existing = {n for n in slot.choices["layers"] if number.isdigit() and n >= int(number)}
            if parent != "layers" or set(values) != existing:
                raise ValueError(
                    f"{where}.{name}: 'when' lists all 'layers' that have this one, for kernel2, expand2, ..."
                )

    def layer(self, stage: int, number: int, values: dict[str, Value]) -> Layer | None:
        """Layer `number` (from 1) of a stage, or None where the stage ends before it."""
        kernel, expand = (values.get(f"{name}{number}", values.get(name)) for name in ("kernel", "expand"))
        if ABSENT in (kernel, expand) or number > values.get("layers", number):
            return None
        channels = [self.space.skeleton["stem"], *self.space.skeleton["channels"]]
        channels_in = channels[stage] if number == 1 else channels[stage + 1]
        squeeze = 0
        if values.get("squeeze_excitation", False):
            width = channels_in if self.squeeze["of"] == "input" else channels_in * expand
            squeeze = divisible(max(1, width // self.squeeze["reduction"]), self.squeeze["divisor"])
        stride = self.space.skeleton["strides"][stage] if number == 1 else 1
        activation = str(values.get("activation", self.activation))
        return Layer(
            channels_in, channels[stage + 1], kernel, expand, stride, activation, squeeze, self.squeeze["gate"]
        )

    @cached_property
    def cost(self) -> Cost:
        """Parameters, and multiply-adds of convolutions and linear layers (no biases, norms or activations)."""
        space, skeleton = self.space, self.space.skeleton
        size = -(-int(skeleton.get("resolution", 224)) // 2)
        params, macs = 27 * skeleton["stem"] + 2 * skeleton["stem"], 27 * skeleton["stem"] * size**2
        terms = []
        for stage, slot in enumerate(space.slots[1:-1]):
            out = -(-size // skeleton["strides"][stage])
            for number in range(1, max(slot.choices.get("layers", (1,))) + 1):
                side = size if number == 1 else out
                terms.append(self._term(stage, number, side))
            size = out
        width, head, features = skeleton["channels"][-1], skeleton["head"], skeleton.get("features")
        params, macs = params + width * head + 2 * head, macs + width * head * size**2
        for source, target in [(head, features)] if features else []:
            params, macs = params + source * target, macs + source * target
        classes = int(skeleton.get("classes", 1000))
        params, macs = params + ((features or head) + 1) * classes, macs + (features or head) * classes
        constant = torch.tensor([params, macs], dtype=torch.float64)[:, None].expand(2, len(space.holes[0].options))
        return Cost(space, [*terms, Term((0,), constant)])

    def _term(self, stage: int, number: int, side: int) -> Term:
        slot = self.space.slots[stage + 1]
        names = [name if name in slot.choices else f"{name}{number}" for name in ("kernel", "expand")]
        index, holes = holes_of(self.space, stage + 1, [*names, "squeeze_excitation", "layers"])
        if any(ABSENT in hole.options for hole in holes):  # these say already whether the layer is there
            index, holes = holes_of(self.space, stage + 1, [*names, "squeeze_excitation"])

        def price(chosen: dict[str, Value]) -> tuple[int, int]:
            layer = self.layer(stage, number, {**fixed_of(slot), **chosen})
            return layer.cost(side, side) if layer else (0, 0)

        if not index:
            constant = torch.tensor(price({}), dtype=torch.float64)[:, None]
            return Term((0,), constant.expand(2, len(self.space.holes[0].options)))
        return Term(index, table_of(holes, price))

    def network(self, architecture: Architecture, num_classes: int, in_channels: int) -> nn.Module:
        """See `Builder.network`."""
        skeleton = self.space.skeleton
        blocks = []
        for stage, node in enumerate(architecture.nodes[1:-1]):
            values = dict(node.attributes)
            layers = (self.layer(stage, number, values) for number in range(1, int(values.get("layers", 1)) + 1))
            squeeze_activation = self.squeeze.get("activation")
            blocks.append(
                nn.Sequential(*(InvertedResidual(one, squeeze_activation or one.activation) for one in layers if one))
            )
        width, head, features = skeleton["channels"][-1], skeleton["head"], skeleton.get("features")
        tail: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if features:
            tail += [nn.Linear(head, features, bias=False), ACTIVATIONS[self.activation]()]
        return nn.Sequential(
            _convolution(in_channels, skeleton["stem"], 3, 2, self.activation),
            *blocks,
            _convolution(width, head, 1, 1, self.activation),
            *tail,
            nn.Linear(features or head, num_classes),
        )
