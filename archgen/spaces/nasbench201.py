"""NAS-Bench-201: cells of four summing points and six operations; fixed topology, the operations are open."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from archgen.build import Builder, Cost, Term, holes_of, table_of
from archgen.graph import Architecture
from archgen.space import SearchSpace, Slot

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
# Operation k runs between these summing points (0: the cell's input, 3: its output), in the native string's order.
POINTS = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


class Codec:
    """Native strings `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`."""

    @staticmethod
    def format(architecture: Architecture) -> str:
        """Print the six operations."""
        a, b, c, d, e, f = (node.op for node in architecture.nodes[1:-1])
        return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"

    @staticmethod
    def parse(text: str, space: SearchSpace) -> Architecture:
        """Read the six operations.

        Raises:
            ValueError: If the text is no cell of the space.
        """
        word = r"([a-z0-9_]+)"
        match = re.fullmatch(rf"\|{word}~0\|\+\|{word}~0\|{word}~1\|\+\|{word}~0\|{word}~1\|{word}~2\|", text)
        if not match:
            raise ValueError(f"a nasbench201 cell is written |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, got {text[:80]!r}")
        if wrong := [op for op in match.groups() if op not in OPS]:
            raise ValueError(f"an operation of nasbench201 is one of {', '.join(OPS)}, got {wrong[0]!r}")
        return space.decode([OPS.index(op) for op in match.groups()])


class ReLUConvBN(nn.Sequential):
    """Pre-activated convolution, the unit of the benchmark."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1):
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(channels_out),
        )


class Cell(nn.Module):
    """Four summing points joined by the operations that are not `none`.

    Args:
        ops: Six operation names, in the order of `POINTS`.
        channels: Channels in and out.
    """

    def __init__(self, ops: tuple[str, ...], channels: int):
        super().__init__()
        make: dict[str, Callable[[], nn.Module]] = {
            "skip_connect": nn.Identity,
            "nor_conv_1x1": lambda: ReLUConvBN(channels, channels, 1),
            "nor_conv_3x3": lambda: ReLUConvBN(channels, channels, 3),
            "avg_pool_3x3": lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
        }
        self.ops = nn.ModuleDict({str(k): make[op]() for k, op in enumerate(ops) if op != "none"})

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """The fourth point."""
        points = [x]
        for target in (1, 2, 3):
            terms = [
                self.ops[str(k)](points[source])
                for k, (source, end) in enumerate(POINTS)
                if end == target and str(k) in self.ops
            ]
            points.append(sum(terms[1:], terms[0]) if terms else torch.zeros_like(x))
        return points[3]


class Reduction(nn.Module):
    """Residual block that halves the resolution and doubles the channels, between the stages."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = ReLUConvBN(channels, 2 * channels, 3, 2), ReLUConvBN(2 * channels, 2 * channels, 3)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True), nn.Conv2d(channels, 2 * channels, 1, bias=False)
        )

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch filters rows columns"]:
        """Shortcut plus two convolutions."""
        return self.shortcut(x) + self.second(self.first(x))


class NASBench201Builder(Builder):
    """The benchmark's network: a stem, three stages of cells with a reduction between them, a classifier.

    The skeleton's `width` are the channels of the first stage (the paper's C), `cells` those of each stage (its N).
    """

    @cached_property
    def cost(self) -> Cost:
        """Costs of the skeleton's network: multiply-adds of convolutions and classifier, with its bias."""
        classes, side, base, cells = (self.space.skeleton[key] for key in ("classes", "resolution", "width", "cells"))
        widths = [base << stage for stage in range(3)]
        squares = [(-(-side // 2**stage)) ** 2 for stage in range(3)]
        params, macs = 27 * base + 2 * base, 27 * base * squares[0]
        for width, square in zip(widths, squares[1:], strict=False):
            weights = 9 * width * 2 * width + 9 * (2 * width) ** 2 + 2 * width**2
            params, macs = params + weights + 8 * width, macs + weights * square
        head = widths[-1] * classes + classes
        params, macs = params + 2 * widths[-1] + head, macs + head

        def price(chosen: dict[str, str]) -> tuple[int, int]:
            area = {"nor_conv_1x1": 1, "nor_conv_3x3": 9}.get(chosen["op"], 0)
            if not area:
                return 0, 0
            return (
                cells * sum(area * w**2 + 2 * w for w in widths),
                cells * sum(area * w**2 * s for w, s in zip(widths, squares, strict=True)),
            )

        terms = [Term((0,), torch.tensor([params, macs], dtype=torch.float64)[:, None].expand(2, len(OPS)))]
        for slot in range(1, 7):
            index, holes = holes_of(self.space, slot, ("op",))
            terms.append(Term(index, table_of(holes, price)))
        return Cost(self.space, terms)

    def network(self, architecture: Architecture, num_classes: int, in_channels: int) -> nn.Module:
        """See `Builder.network`."""
        ops = tuple(node.op for node in architecture.nodes[1:-1])
        width = self.space.skeleton["width"]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        for stage in range(3):
            layers += [Reduction(width << stage - 1)] if stage else []
            layers += [Cell(ops, width << stage) for _ in range(self.space.skeleton["cells"])]
        width <<= 2
        layers += [
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, num_classes),
        ]
        return nn.Sequential(*layers)


SPACE = SearchSpace(
    name="nasbench201",
    slots=(
        Slot("input", {"op": ("input",)}),
        *(Slot(f"edge{source}{target}", {"op": OPS}) for source, target in POINTS),
        Slot("output", {"op": ("output",)}),
    ),
    edges=(
        *((0, k + 1) for k, (source, _) in enumerate(POINTS) if source == 0),
        *(
            (j + 1, k + 1)
            for j, (_, end) in enumerate(POINTS)
            for k, (source, _) in enumerate(POINTS)
            if end == source
        ),
        *((k + 1, 7) for k, (_, target) in enumerate(POINTS) if target == 3),
    ),
    source="Dong & Yang, ICLR 2020, arXiv 2001.00326, section 2.1; operations on nodes as in DiffusionNAG",
    identity=frozenset({"skip_connect"}),
    zero=frozenset({"none"}),
    canonical="expression",
    native="archgen.spaces.nasbench201:Codec",
    columns=("arch_str",),
    builder="archgen.spaces.nasbench201:NASBench201Builder",
    skeleton={"classes": 10, "resolution": 32, "width": 16, "cells": 5},
)
