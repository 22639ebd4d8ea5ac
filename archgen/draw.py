"""Pictures of architectures: a cell as a layered graph, a network of stages as a column of blocks."""

from __future__ import annotations

import random
import re
import textwrap
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from archgen.graph import Architecture, Node, Value
from archgen.hub import replacing

if TYPE_CHECKING:
    from archgen.space import SearchSpace

# Everything is measured in inches from the top left corner, and text in points.
DPI, PIXELS_WIDE, PIXELS_HIGH = 150, 3000, 20_000  # of a PNG; large sheets get fewer dots per inch
MARGIN, SEPARATION, LANE, ROUNDING = 0.22, 0.24, 0.2, 0.07
TEXT, SMALL, LINE = 8.0, 7.0, 0.145  # points of text, points of small text, inches of a line

# Colours keep apart in the three common kinds of colour blindness: warm against blue, and dark against light.
INK, GREY, FAINT, PANEL = "#1f2937", "#6b7280", "#c9ced6", "#f3f4f6"
CONVOLUTIONS = {1: "#fcd98d", 2: "#f9bf62", 3: "#f29f3d", 5: "#c94f0e", 7: "#8f2d06", 9: "#5c1c04"}  # by kernel
POOLINGS = {"avg": "#a9d3f2", "max": "#2c6fae"}
SKIP, END, POOLING = "#d8dde4", "#374151", "#7fb9e6"
OTHERS = ("#7cc7b6", "#c3abe0", "#e3a3c4", "#c3ca72", "#24706a", "#65499a", "#953f6f", "#626c17")


# ---- what a picture is made of -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Box:
    """A rounded box around `x, y`, with text in its middle."""

    x: float
    y: float
    width: float
    height: float
    text: str
    face: str
    ink: str = INK
    line: str = "none"  # colour of a dashed outline


@dataclass(frozen=True)
class Curve:
    """A smooth line through points, vertical in each of them; with a head it is an arrow."""

    points: tuple[tuple[float, float], ...]
    colour: str
    head: bool = True


@dataclass(frozen=True)
class Words:
    """Text that starts at `x` or is centred on it; `y` is the middle of its height."""

    x: float
    y: float
    text: str
    size: float = SMALL
    colour: str = GREY
    bold: bool = False
    family: str = "DejaVu Sans"
    align: str = "left"


@dataclass
class Picture:
    """Shapes on a sheet of `width` by `height`: from the back, panels, curves, boxes and words."""

    width: float
    height: float
    panels: list[Box] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)


# ---- what is shown -------------------------------------------------------------------------------------------------
def live_nodes(architecture: Architecture) -> set[int]:
    """Positions of the nodes on a path from input to output that meets no operation the space calls zero."""
    zero, last = architecture.space.zero, len(architecture.nodes) - 1
    reached, needed = {0}, {last}
    for source, target in sorted(architecture.edges):
        if source in reached and architecture.nodes[target].op not in zero:
            reached.add(target)
    for source, target in sorted(architecture.edges, key=lambda edge: -edge[1]):
        if target in needed and architecture.nodes[source].op not in zero:
            needed.add(source)
    return reached & needed


def colour_of(node: Node, space: SearchSpace) -> str:
    """Fill of a node: by operation, convolutions darker with their kernel; the same in every picture of the space."""
    op, kernel = node.op.lower(), dict(node.attributes).get("kernel")
    if node.op in ("input", "output"):
        return END
    if node.op in space.identity:
        return SKIP
    if "pool" in op:
        return next((colour for word, colour in POOLINGS.items() if word in op), POOLING)
    if "conv" in op or kernel is not None:
        size = re.search(r"(\d+)x\1", op)
        return kernel_colour(kernel if kernel is not None else int(size[1]) if size else 3)
    names = dict.fromkeys(str(value) for name, value in space.node_labels if name == "op")
    rest = [
        n
        for n in names
        if n not in space.identity | space.zero and not re.search("pool|conv|^(in|out)put$", n.lower())
    ]
    return OTHERS[rest.index(node.op) % len(OTHERS)] if node.op in rest else OTHERS[0]


def kernel_colour(kernel: Value) -> str:
    """Fill of a convolution: the next smaller kernel that has a colour."""
    size = kernel if isinstance(kernel, int) else 3
    return CONVOLUTIONS[max((k for k in CONVOLUTIONS if k <= size), default=1)]


def ink_on(face: str) -> str:
    """Dark or white, whichever reads better on a colour (relative luminance of WCAG 2)."""
    channels = [int(face[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.225 else "#ffffff"


def lighter(face: str) -> str:
    """The colour of something that has no effect: seven tenths of the way to white."""
    return "#" + "".join(f"{round(255 - 0.3 * (255 - int(face[i : i + 2], 16))):02x}" for i in (1, 3, 5))


def lines_of(node: Node, name: str) -> list[str]:
    """Text of a box: the operation (or, where it is a nameless block, the node's name), then the attributes."""
    words = [f"{key}={value}" for key, value in node.attributes]
    return fold(name if node.op == "block" else node.op) + (fold(", ".join(words)) if words else [])


def fold(text: str, width: int = 20, after: str = r"\s_,-") -> list[str]:
    """Break text after blanks, `_`, `-` and `,` (or others) into lines of at most `width` letters."""
    lines = [""]
    for piece in re.findall(rf"[^{after}]+[{after}]*|[{after}]+", text):
        for part in textwrap.wrap(piece, width, drop_whitespace=False):
            if lines[-1] and len((lines[-1] + part).rstrip()) > width:
                lines.append("")
            lines[-1] += part
    return [line.strip() for line in lines]


def costs_of(architecture: Architecture) -> str:
    """One line such as `params 0.40 M, MACs 62.1 M, depth 3`; what the space cannot price is left out."""
    space = architecture.space
    cost = {name: value.item() for name, value in space.cost.exact(space.encode(architecture)[None]).items()}
    words = {"params_m": "params", "macs_m": "MACs"}
    parts = [f"{word} {amount(cost[name])}" for name, word in words.items() if name in cost]
    return ", ".join([*parts, f"depth {cost['depth']:.0f}" if cost["depth"] >= 0 else "no path to the output"])


def amount(millions: float) -> str:
    """Three digits and a unit: `0.40 M`, `62.1 M`, `1.24 G`."""
    value, unit = (millions / 1000, "G") if millions >= 999.5 else (millions, "M")
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def text_width(text: str, size: float) -> float:
    """Width of one line in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    prop = FontProperties(family="DejaVu Sans", size=size)
    return text_to_path.get_text_width_height_descent(text, prop, ismath=False)[0] / 72


# ---- layered layout (Sugiyama, Tagawa & Toda 1981; alignment as in Gansner et al. 1993) -----------------------------
@dataclass(frozen=True)
class Lattice:
    """A graph in rows: an edge that skips rows runs through one lane in each of them, so that it meets no box.

    Attributes:
        row: Row of each vertex; the nodes come first, then the lanes.
        paths: For each edge its vertices, one in each row from source to target.
        n_nodes: Number of vertices that are nodes.
    """

    row: list[int]
    paths: list[list[int]]
    n_nodes: int

    @property
    def segments(self) -> list[tuple[int, int]]:
        """Pieces of edges, from one row to the next."""
        return [pair for path in self.paths for pair in pairwise(path)]


def lattice_of(n_nodes: int, edges: Sequence[tuple[int, int]]) -> Lattice:
    """Put each node as high as its inputs let it, the output last and alone."""
    row = [0] * n_nodes
    for target in range(1, n_nodes):
        row[target] = 1 + max((row[s] for s, t in edges if t == target), default=0)
    row[-1] = 1 + max(row[:-1])
    paths = []
    for source, target in edges:
        first = len(row)
        row += range(row[source] + 1, row[target])
        paths.append([source, *range(first, len(row)), target])
    return Lattice(row, paths, n_nodes)


def arrange(lattice: Lattice, widths: Sequence[float]) -> list[float]:
    """Horizontal middles of all vertices: few crossings first, then short and straight edges.

    Args:
        lattice: The graph in rows.
        widths: Widths of all vertices.
    """
    neighbours: list[list[tuple[int, float]]] = [[] for _ in lattice.row]
    for a, b in lattice.segments:
        weight = (1.0, 2.0, 40.0)[(a >= lattice.n_nodes) + (b >= lattice.n_nodes)]
        neighbours[a].append((b, weight))
        neighbours[b].append((a, weight))
    last = lattice.n_nodes - 1
    if min(len(neighbours[0]), len(neighbours[last])) > 1:  # draw the output below the input
        neighbours[0].append((last, 2.0))
        neighbours[last].append((0, 2.0))
    shuffle, vertices, found = random.Random(0).shuffle, list(range(len(lattice.row))), {}
    for _ in range(12 if len(vertices) <= 60 else 2):
        rows: list[list[int]] = [[] for _ in range(max(lattice.row) + 1)]
        for vertex in vertices:
            rows[lattice.row[vertex]].append(vertex)
        for order in _sweep(rows, neighbours, lattice):
            found.setdefault(order, crossings(order, lattice))
        shuffle(vertices)
    fewest = min(found.values())
    best = [order for order, count in found.items() if count == fewest][:24]
    placed = [_straighten(_place(order, neighbours, widths), order, lattice, widths) for order in best]
    return min(placed, key=lambda x: round(sum(abs(x[a] - x[b]) ** 1.5 for a, b in lattice.segments), 2))


def _sweep(rows: list[list[int]], neighbours: list[list[tuple[int, float]]], lattice: Lattice) -> Iterable[tuple]:
    """Sort each row by the mean place of its neighbours above, then below, and so on; yield the orders on the way."""
    for turn in range(8):
        down = turn % 2 == 0
        place = {vertex: index / len(row) for row in rows for index, vertex in enumerate(row)}
        for row in rows if down else reversed(rows):
            mean = {}
            for vertex in row:
                seen = [place[n] for n, _ in neighbours[vertex] if (lattice.row[n] < lattice.row[vertex]) == down]
                mean[vertex] = sum(seen) / len(seen) if seen else place[vertex]
            row.sort(key=mean.__getitem__)
            place.update({vertex: (index + 0.5) / len(row) for index, vertex in enumerate(row)})
        yield tuple(map(tuple, rows))


def crossings(order: tuple[tuple[int, ...], ...], lattice: Lattice) -> int:
    """Pairs of edge pieces that cross."""
    place = {vertex: index for row in order for index, vertex in enumerate(row)}
    between: dict[int, list[tuple[int, int]]] = {}
    for a, b in lattice.segments:
        between.setdefault(lattice.row[a], []).append((place[a], place[b]))
    total = 0
    for pieces in between.values():
        ends: list[int] = []
        for _, end in sorted(pieces):
            total += len(ends) - bisect_right(ends, end)
            insort(ends, end)
    return total


def _place(order: tuple, neighbours: list[list[tuple[int, float]]], widths: Sequence[float]) -> list[float]:
    """Pull every vertex to its neighbours, row by row, without changing the order."""
    x = [0.0] * len(neighbours)
    offsets = []
    for row in order:
        steps = [0.0]
        for a, b in pairwise(row):
            steps.append(steps[-1] + (widths[a] + widths[b]) / 2 + SEPARATION)
        offsets.append(steps)
        for vertex, step in zip(row, steps, strict=True):
            x[vertex] = step - steps[-1] / 2
    for turn in range(40):
        pairs = list(zip(order, offsets, strict=True))
        for row, steps in pairs if turn % 2 else reversed(pairs):
            wanted = []
            for vertex, step in zip(row, steps, strict=True):
                weight = sum(w for _, w in neighbours[vertex])
                pull = sum(w * x[n] for n, w in neighbours[vertex]) / weight if weight else x[vertex]
                wanted.append((pull - step, weight or 1e-3))
            for vertex, step, value in zip(row, steps, _monotone(wanted), strict=True):
                x[vertex] = value + step
    return x


def _straighten(x: list[float], order: tuple, lattice: Lattice, widths: Sequence[float]) -> list[float]:
    """Give all lanes of an edge the same place where there is one free in all their rows."""
    pairs = [(a, b) for row in order for a, b in pairwise(row)]
    for path in lattice.paths:
        lanes = path[1:-1]
        if len(lanes) < 2:
            continue
        low = max((x[a] + (widths[a] + widths[b]) / 2 + SEPARATION for a, b in pairs if b in lanes), default=-1e9)
        high = min((x[b] - (widths[a] + widths[b]) / 2 - SEPARATION for a, b in pairs if a in lanes), default=1e9)
        if low <= high + 1e-6:
            middle = sum(x[v] for v in lanes) / len(lanes)
            for v in lanes:
                x[v] = min(max(middle, low), high)
    return x


def _monotone(wanted: Iterable[tuple[float, float]]) -> list[float]:
    """The ascending values nearest to weighted ones, by pooling adjacent violators."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in wanted:
        count = 1
        while pools and pools[-1][0] > value:
            before, heavy, many = pools.pop()
            value = (value * weight + before * heavy) / (weight + heavy)
            weight, count = weight + heavy, count + many
        pools.append((value, weight, count))
    return [value for value, _, count in pools for _ in range(count)]


# ---- cells ---------------------------------------------------------------------------------------------------------
def cell_picture(architecture: Architecture) -> Picture:
    """Operations as boxes in rows from input to output; faint if they have no effect, dashed if they give zeros."""
    nodes, space = architecture.nodes, architecture.space
    names = [slot.name for slot in space.slots] if len(nodes) == len(space.slots) else [node.op for node in nodes]
    lines = [lines_of(node, name) for node, name in zip(nodes, names, strict=True)]
    ops = [line for name, value in space.node_labels if name == "op" for line in fold(str(value))]
    width = 0.24 + max(text_width(line, TEXT) for line in {*ops, *(line for text in lines for line in text)})
    height = 0.17 + LINE * max(map(len, lines))
    lattice = lattice_of(len(nodes), architecture.edges)
    ends = {0, len(nodes) - 1}
    widths = [0.8 if v in ends else width if v < len(nodes) else LANE for v in range(len(lattice.row))]
    heights = [0.3 if v in ends else height for v in range(len(nodes))]
    x = arrange(lattice, widths)
    left = min(a - w / 2 for a, w in zip(x, widths, strict=True))
    x = [a - left for a in x]
    tops, bottoms = _levels(lattice, x, heights)
    picture = Picture(max(a + w / 2 for a, w in zip(x, widths, strict=True)), bottoms[-1])
    live = live_nodes(architecture)
    for v, node in enumerate(nodes):
        middle = (tops[lattice.row[v]] + bottoms[lattice.row[v]]) / 2
        face = colour_of(node, space)
        look = {"face": face, "ink": ink_on(face)}
        if node.op in space.zero:
            look = {"face": "#ffffff", "ink": GREY, "line": FAINT}
        elif v not in live and v not in ends:
            look = {"face": lighter(face), "ink": GREY}
        picture.boxes.append(Box(x[v], middle, widths[v], heights[v], "\n".join(lines[v]), **look))
    picture.curves = _edges(lattice, x, widths, (tops, bottoms), live)
    return picture


def _levels(lattice: Lattice, x: list[float], heights: list[float]) -> tuple[list[float], list[float]]:
    """Top and bottom of each row; the farther edges run sideways, the more room there is between rows."""
    n_rows = max(lattice.row) + 1
    tops, bottoms = [0.0] * n_rows, [0.0] * n_rows
    for row in range(n_rows):
        if row:
            sideways = [abs(x[a] - x[b]) for a, b in lattice.segments if lattice.row[b] == row]
            tops[row] = bottoms[row - 1] + min(0.34 + 0.09 * max(sideways, default=0.0), 0.7)
        bottoms[row] = tops[row] + max(heights[v] for v in range(lattice.n_nodes) if lattice.row[v] == row)
    return tops, bottoms


def _edges(
    lattice: Lattice, x: list[float], widths: list[float], levels: tuple[list[float], list[float]], live: set[int]
) -> list[Curve]:
    """Arrows that leave and enter boxes side by side, in the order of where they come from and go to."""
    port: dict[tuple[int, int], float] = {}  # (edge, end of it) -> x
    for end, beside in ((0, 1), (-1, -2)):
        for node in range(lattice.n_nodes):
            mine = sorted((x[path[beside]], i) for i, path in enumerate(lattice.paths) if path[end] == node)
            step = min(0.17, 0.7 * widths[node] / max(len(mine), 1))
            for rank, (_, i) in enumerate(mine):
                port[i, end] = x[node] + (rank - (len(mine) - 1) / 2) * step
        for i, path in enumerate(lattice.paths):  # an arrow alone at this end of it goes straight down if it can
            there = port.get((i, -1 - end), x[path[beside]]) if len(path) == 2 else x[path[beside]]
            alone = sum(other[end] == path[end] for other in lattice.paths) == 1
            if alone and abs(there - x[path[end]]) < 0.3 * widths[path[end]]:
                port[i, end] = there
    tops, bottoms = levels
    curves = []
    for i, path in enumerate(lattice.paths):
        lanes = [(x[v], y) for v in path[1:-1] for y in (tops[lattice.row[v]], bottoms[lattice.row[v]])]
        start = (port[i, 0], bottoms[lattice.row[path[0]]])
        finish = (port[i, -1], tops[lattice.row[path[-1]]])
        colour = GREY if {path[0], path[-1]} <= live else FAINT
        curves.append(Curve((start, *lanes, finish), colour))
    return sorted(curves, key=lambda curve: curve.colour == GREY)


# ---- stages --------------------------------------------------------------------------------------------------------
def has_stages(architecture: Architecture) -> bool:
    """Whether the nodes are a chain of stages, each with a number of `layers`."""
    chain = tuple((i, i + 1) for i in range(len(architecture.nodes) - 1))
    inner = architecture.nodes[1:-1]
    counted = [isinstance(dict(node.attributes).get("layers"), int) for node in inner]
    return architecture.edges == chain and bool(inner) and all(counted)


def layers_of(node: Node) -> tuple[list[dict[str, Value]], dict[str, Value]]:
    """Settings of each layer of a stage, and those of the stage as a whole.

    `kernel`, `expand` and `squeeze_excitation` are of every layer; with a number behind, an attribute is of one layer.
    """
    values = dict(node.attributes)
    layers: list[dict[str, Value]] = [{} for _ in range(int(values.pop("layers")))]
    whole = {}
    for name, value in values.items():
        base, digits = re.fullmatch(r"(.*?)(\d*)", name).groups()
        if digits and 1 <= int(digits) <= len(layers):
            layers[int(digits) - 1][base] = value
        elif name in ("kernel", "expand", "squeeze_excitation"):
            for layer in layers:
                layer[name] = value
        elif not digits:
            whole[name] = value
    return layers, whole


def layer_text(layer: dict[str, Value], op: str) -> str:
    """Text of a layer: `k5 e6 SE`, other settings by name; the operation where there are none."""
    words = []
    for name, value in layer.items():
        if name == "squeeze_excitation":
            words += ["SE"] * bool(value)
        else:
            words.append(f"{name[0]}{value}" if name in ("kernel", "expand") else f"{name}={value}")
    order = {"k": 0, "e": 1}
    return " ".join(sorted(words, key=lambda word: order.get(word[0], 2))) or op


@dataclass(frozen=True)
class Stage:
    """What the picture of one stage says.

    Attributes:
        lines: Name of the stage, then its shape and settings.
        stride: Stride of its first layer.
        height: Height of its layers, by the number of channels.
        layers: Text, colour and expansion of each layer.
    """

    lines: list[str]
    stride: int
    height: float
    layers: list[tuple[str, str, float]]


def stages_of(architecture: Architecture) -> list[Stage]:
    """The stages, with the channels, strides and resolution that the skeleton gives them."""
    space, nodes = architecture.space, architecture.nodes
    skeleton = space.skeleton
    side, channels, strides = 0, [0] * (len(nodes) - 2), [1] * (len(nodes) - 2)
    if skeleton.get("block") == "inverted_residual":  # other builders give these words meanings of their own
        channels, strides, side = skeleton["channels"], skeleton["strides"], -(-skeleton.get("resolution", 224) // 2)
    stages = []
    for node, slot, width, stride in zip(nodes[1:-1], space.slots[1:-1], channels, strides, strict=True):
        side = -(-side // stride)
        layers, whole = layers_of(node)
        shape = [f"{width} ch"] * bool(width) + [f"{side}x{side}"] * bool(side)
        name = slot.name if node.op == "block" else f"{slot.name} {node.op}"
        lines = [name, *([", ".join(shape)] if shape else []), *(f"{name}={value}" for name, value in whole.items())]
        boxes = []
        for layer in layers:
            face = kernel_colour(layer["kernel"]) if "kernel" in layer else colour_of(Node(node.op), space)
            expand = layer.get("expand", 0)
            boxes.append(
                (layer_text(layer, node.op), face, float(expand) if isinstance(expand, (int, float)) else 0.0)
            )
        stages.append(Stage(lines, stride, 0.26 + 0.24 * width / max(*channels, 1), boxes))
    return stages


def stage_picture(architecture: Architecture) -> Picture:
    """A column of stages; in each, its layers from left to right."""
    stages, skeleton = stages_of(architecture), architecture.space.skeleton
    label = 0.34 + max(1.1 * text_width(line, TEXT) for stage in stages for line in stage.lines)
    unit = 0.16 + max(text_width(text, TEXT) for stage in stages for text, _, _ in stage.layers or [("", "", 0)])
    rows = [[unit + 0.05 * expand for _, _, expand in stage.layers] for stage in stages]
    options = [(name.rstrip("0123456789"), value) for name, value in architecture.space.node_labels]
    most = max(value for name, value in options if name == "layers")  # as wide as the widest member of the space
    widest = max((value for name, value in options if name == "expand" and isinstance(value, (int, float))), default=0)
    picture = Picture(label + most * (unit + 0.05 * widest + 0.1), 0.0)
    ends = ["input", "output"]
    if skeleton.get("block") == "inverted_residual":
        side = skeleton.get("resolution", 224)
        ends = [f"input {side}x{side}, stem {skeleton['stem']} ch", f"head {skeleton['head']} ch, output"]
    y = _end(picture, 0.0, ends[0])
    for stage, widths in zip(stages, rows, strict=True):
        y = _arrow(picture, y, f"stride {stage.stride}" if stage.stride > 1 else "")
        y = _stage(picture, y, label, stage, widths)
    picture.height = _end(picture, _arrow(picture, y, ""), ends[1])
    if any("kernel" in dict(node.attributes) or "kernel1" in dict(node.attributes) for node in architecture.nodes):
        note = "k kernel (darker: larger), e expansion (wider: larger), height: channels"
        picture.words.append(Words(picture.width / 2, picture.height + 0.17, note, 6.5, align="center"))
        picture.height += 0.24
        picture.width = max(picture.width, text_width(note, 6.5))
    return picture


def _end(picture: Picture, y: float, text: str) -> float:
    picture.boxes.append(Box(picture.width / 2, y + 0.15, text_width(text, TEXT) + 0.4, 0.3, text, END, "#ffffff"))
    return y + 0.3


def _arrow(picture: Picture, y: float, text: str) -> float:
    picture.curves.append(Curve(((picture.width / 2, y), (picture.width / 2, y + 0.24)), GREY))
    if text:
        picture.words.append(Words(picture.width / 2 + 0.1, y + 0.11, text, 6.5))
    return y + 0.24


def _stage(picture: Picture, y: float, label: float, stage: Stage, widths: list[float]) -> float:
    """One panel: words on the left, layers on the right, joined by a line behind them."""
    height = 0.16 + max(stage.height, LINE * len(stage.lines))
    middle = y + height / 2
    picture.panels.append(Box(picture.width / 2, middle, picture.width, height, "", PANEL))
    for number, line in enumerate(stage.lines):
        at = middle + LINE * (number - (len(stage.lines) - 1) / 2)
        picture.words.append(Words(0.12, at, line, SMALL if number else TEXT, GREY if number else INK, not number))
    x = label
    for (text, face, _), width in zip(stage.layers, widths, strict=True):
        picture.boxes.append(Box(x + width / 2, middle, width, stage.height, text, face, ink_on(face)))
        x += width + 0.1
    if stage.layers:
        picture.curves.append(Curve(((label + 0.05, middle), (x - 0.15, middle)), GREY, head=False))
    return y + height


# ---- pages ---------------------------------------------------------------------------------------------------------
def picture_of(architecture: Architecture) -> Picture:
    """The drawing alone, without a heading."""
    return stage_picture(architecture) if has_stages(architecture) else cell_picture(architecture)


def draw(architecture: Architecture, path: str | Path, title: str | None = None) -> None:
    """Draw an architecture, with its native string, parameters, multiply-adds and depth above it.

    Args:
        architecture: A cell, or a chain of stages (nodes with `layers`).
        path: File to write, a PNG (150 dots per inch), SVG or PDF by its suffix; its folder is made if need be.
        title: First line of the heading; the name of the space if absent.

    Raises:
        ValueError: If the suffix is another one, matplotlib is missing, or the architecture is no member of its space.
    """
    with _matplotlib(path):
        picture, costs = picture_of(architecture), costs_of(architecture)
        heading = [
            Words(0.0, 0.1, title or architecture.space.name, 11.0, INK, bold=True),
            Words(0.0, 0.33, costs, 8.5, INK),
        ]
        width = max(picture.width, 3.2, text_width(costs, 8.5), 1.15 * text_width(heading[0].text, 11.0))
        native = str(architecture)
        if len(native) > 120:  # says no more than the picture; the hash is enough to find it again
            native = architecture.hash
        native = fold(native, int(width / 0.0545), r"\s|+")
        for number, line in enumerate(native):
            heading.append(Words(0.0, 0.53 + 0.12 * number, line, 6.5, family="DejaVu Sans Mono"))
        top = MARGIN + 0.78 + 0.12 * (len(native) - 1)
        page = Page(width + 2 * MARGIN, top + picture.height + MARGIN)
        page.add(Picture(width, 0.0, words=heading), MARGIN, MARGIN)
        page.add(picture, MARGIN + (width - picture.width) / 2, top)
        page.save(Path(path))


def draw_sheet(architectures: Iterable[Architecture], path: str | Path, columns: int = 4) -> None:
    """Draw several architectures on one sheet, numbered from 000, each with parameters, multiply-adds and depth.

    Args:
        architectures: At least one.
        path: As for `draw`.
        columns: Pictures in a row.

    Raises:
        ValueError: As for `draw`, or if there is nothing to draw.
    """
    with _matplotlib(path):
        entries = [(picture_of(architecture), costs_of(architecture)) for architecture in architectures]
        if not entries or columns < 1:
            raise ValueError(f"a sheet needs an architecture and a column, got {len(entries)} and {columns}")
        columns, gap, top = min(columns, len(entries)), 0.45, 0.42
        width = max(max(picture.width, text_width(costs, TEXT)) for picture, costs in entries) + gap
        rows = [entries[i : i + columns] for i in range(0, len(entries), columns)]
        heights = [top + max(picture.height for picture, _ in row) + gap for row in rows]
        page = Page(columns * width, sum(heights))
        for index, (picture, costs) in enumerate(entries):
            x, y = index % columns * width, sum(heights[: index // columns]) + MARGIN
            number = Words(width / 2, 0.04, f"{index:03d}", TEXT, INK, bold=True, align="center")
            caption = [number, Words(width / 2, 0.2, costs, TEXT, GREY, align="center")]
            page.add(Picture(width, 0.0, words=caption), x, y)
            page.add(picture, x + (width - picture.width) / 2, y + top)
        page.save(Path(path))


@contextmanager
def _matplotlib(path: str | Path) -> Iterator[None]:
    """Check the suffix and that matplotlib is there; settings under which equal pictures are equal files."""
    if Path(path).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"a picture is a .png, .svg or .pdf file, got {str(path)!r}")
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("drawing needs matplotlib: pip install archgen[plot]") from error
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "archgen", "text.usetex": False}):
        yield


class Page:
    """A white sheet that pictures are put on.

    Args:
        width: In inches.
        height: In inches.
    """

    def __init__(self, width: float, height: float):
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width, height), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()

    def add(self, picture: Picture, x: float, y: float) -> None:
        """Put a picture with its top left corner at `x, y`."""
        for order, boxes in ((1, picture.panels), (3, picture.boxes)):
            for box in boxes:
                self._box(box, x, y, order)
        for curve in picture.curves:
            self._curve(curve, x, y)
        for words in picture.words:
            weight = "bold" if words.bold else "normal"
            look = {"color": words.colour, "ha": words.align, "family": words.family, "weight": weight}
            self._text(x + words.x, y + words.y, words.text, words.size, look)

    def _text(self, x: float, y: float, text: str, size: float, look: dict[str, str]) -> None:
        self.axes.text(x, y, text, size=size, va="center_baseline", parse_math=False, zorder=4, **look)

    def _box(self, box: Box, x: float, y: float, order: int) -> None:
        from matplotlib.patches import FancyBboxPatch

        corner = (x + box.x - box.width / 2, y + box.y - box.height / 2)
        rounding = min(ROUNDING, box.height / 2)
        outline = {"linewidth": 0.9, "linestyle": (0, (3, 2)), "edgecolor": box.line}
        style = f"round,pad=0,rounding_size={rounding}"
        self.axes.add_patch(
            FancyBboxPatch(corner, box.width, box.height, boxstyle=style, facecolor=box.face, zorder=order, **outline)
        )
        if box.text:
            look = {"color": box.ink, "ha": "center", "family": "DejaVu Sans"}
            lines = box.text.split("\n")
            for number, line in enumerate(lines):
                at = y + box.y + LINE * (number - (len(lines) - 1) / 2)
                self._text(x + box.x, at, line, TEXT, look)

    def _curve(self, curve: Curve, x: float, y: float) -> None:
        from matplotlib.patches import PathPatch, Polygon
        from matplotlib.path import Path as Outline

        points = [(x + a, y + b) for a, b in curve.points]
        (tip_x, tip_y), back = points[-1], 0.075 if curve.head else 0.0
        points[-1] = (tip_x, tip_y - back)
        vertices, codes = [points[0]], [Outline.MOVETO]
        for (a, b), (c, d) in pairwise(points):
            straight = a == c or b == d
            vertices += [(c, d)] if straight else [(a, (b + d) / 2), (c, (b + d) / 2), (c, d)]
            codes += [Outline.LINETO] if straight else [Outline.CURVE4] * 3
        look = {"edgecolor": curve.colour, "linewidth": 1.1, "capstyle": "butt", "zorder": 2}
        self.axes.add_patch(PathPatch(Outline(vertices, codes), facecolor="none", **look))
        if curve.head:
            corners = [(tip_x, tip_y), (tip_x - 0.035, tip_y - 0.085), (tip_x + 0.035, tip_y - 0.085)]
            self.axes.add_patch(Polygon(corners, facecolor=curve.colour, linewidth=0, zorder=2))

    def save(self, path: Path) -> None:
        """Write the file in one step: whole or not at all."""
        kind = path.suffix.lower()[1:]
        width, height = self.figure.get_size_inches()
        dpi = min(DPI, PIXELS_WIDE / width, PIXELS_HIGH / height)
        dates = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
        with replacing(path) as temporary:
            self.figure.savefig(temporary, format=kind, dpi=dpi, metadata=dates)
