"""SearchSpace: a template graph with holes. A new benchmark is a new value of this class, or a short YAML file."""

from __future__ import annotations

import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import import_module
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from archgen.graph import Architecture, Node, Value, graph_from_dict

if TYPE_CHECKING:
    from torch import nn

    from archgen.build import Cost

OPEN = -1  # the code of a hole that is not decided yet
ABSENT = "absent"  # the option of a hole whose condition does not hold
SAID = re.compile(r'\s*\{"text":')  # begins a line in which `ask` says what it understood, among architectures


@dataclass(frozen=True)
class Hole:
    """One decision.

    Attributes:
        name: `node.attribute` or `source->target`.
        kind: What is decided: `op`, `edge`, or an attribute's name without digits behind; holes of a kind share words.
        options: What can be chosen; the position is the code.
        span: The node twice, or the two ends of the edge, as positions in the template.
        attribute: The name of the attribute decided, `op`, or `edge`.
        when: `(hole, codes)`: the hole is `absent` unless that hole has one of these codes.
    """

    name: str
    kind: str
    options: tuple[Value, ...]
    span: tuple[int, int]
    attribute: str
    when: tuple[int, frozenset[int]] | None = None


@dataclass(frozen=True)
class Slot:
    """One node of the template.

    Attributes:
        name: Unique name in the template.
        choices: Options of `op` and of each attribute; one option is a fixed value.
        when: Attributes that exist only under some values of another: `{"kernel3": ("layers", (3, 4))}`.
    """

    name: str
    choices: Mapping[str, tuple[Value, ...]]
    when: Mapping[str, tuple[str, tuple[Value, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """A finite family of labelled DAGs: a template whose nodes and edges are fixed or open.

    Attributes:
        name: Key shared by `datasets/`, `training/`, `checkpoints/` and `sampling/`.
        slots: Nodes in topological order; the first is the input, the last the output.
        edges: Fixed edges, as pairs of positions.
        open_edges: Edges that may be there or not, one hole each.
        source: Paper or table that fixes this definition.
        identity: Operations that hand their input on; they add nothing to the depth.
        zero: Operations that output zeros; no path runs through them.
        absent: The operation of nodes that are not there at all; they come last among the open nodes.
        canonical: What the hash compares: `graph`, or `expression` where shared parts equal copies.
        rule: `codes (batch, holes) -> (batch,)`: whether partial codes have a legal completion; exact.
        enumerate_legal: All legal codes, for spaces with a rule that are small enough to list.
        native: `module:name` of an object with `parse(text, space)` and `format(architecture)`; generic if absent.
        columns: Columns of a benchmark table that, joined by a space, are the native string; or, by attribute, the
            name of the column that holds it, with `{node}` for the node's name.
        builder: `module:name` of a class that builds networks of this space and prices them (see `build.Builder`).
        skeleton: What the builder is told beside the architecture: channels, strides, classes, resolution.
        declaration: The YAML this space was read from, so that a checkpoint can carry it; empty for spaces in code.
    """

    name: str
    slots: tuple[Slot, ...]
    edges: tuple[tuple[int, int], ...]
    open_edges: tuple[tuple[int, int], ...] = ()
    source: str = ""
    identity: frozenset[str] = frozenset()
    zero: frozenset[str] = frozenset()
    absent: str | None = None
    canonical: str = "graph"
    rule: Callable[[Tensor], Tensor] | None = None
    enumerate_legal: Callable[[], Tensor] | None = None
    native: str | None = None
    columns: tuple[str, ...] | Mapping[str, str] = ()
    builder: str | None = None
    skeleton: Mapping[str, Any] = field(default_factory=dict)
    declaration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        """What `load_space` reads back: the declaration as one line of JSON, since its order matters, or the name."""
        return json.dumps(self.declaration, default=str) if self.declaration else self.name

    def scaled(self, skeleton: Mapping[str, Any] | None) -> SearchSpace:
        """The same members in a larger or smaller network: other settings of the skeleton, such as width and cells.

        Raises:
            ValueError: If the skeleton has no such setting, or its value is of another kind.
        """
        changes = dict(skeleton or {})
        for key, value in changes.items():
            known = self.skeleton.get(key)
            if known is None or key == "block":
                settings = ", ".join(name for name in self.skeleton if name != "block") or "none"
                raise ValueError(f"the skeleton of {self.name} has no {key!r}; its settings are {settings}")
            numbers = value if isinstance(value, list | tuple) else [value]
            if type(value) is not type(known) or any(type(n) is int and n < 1 for n in numbers):
                raise ValueError(f"{key!r} of {self.name}'s skeleton is like {known!r}, got {value!r}")
        if not changes:
            return self
        declaration = dict(self.declaration)
        if declaration:
            declaration["skeleton"] = {**declaration.get("skeleton", {}), **changes}
        return replace(self, skeleton={**self.skeleton, **changes}, declaration=declaration)

    # ---- holes ---------------------------------------------------------------------------------------------------
    @cached_property
    def holes(self) -> tuple[Hole, ...]:
        """All decisions, node by node in topological order, then the open edges."""
        holes: list[Hole] = []
        for position, slot in enumerate(self.slots):
            index: dict[str, int] = {}
            for attribute, options in slot.choices.items():
                if len(options) == 1 and attribute not in slot.when:
                    continue
                when = None
                if attribute in slot.when:
                    parent, values = slot.when[attribute]
                    codes = frozenset(holes[index[parent]].options.index(value) for value in values)
                    when, options = (index[parent], codes), (ABSENT, *options)
                index[attribute] = len(holes)
                kind = attribute.rstrip("0123456789") or attribute
                holes.append(Hole(f"{slot.name}.{attribute}", kind, options, (position,) * 2, attribute, when))
        for source, target in self.open_edges:
            name = f"{self.slots[source].name}->{self.slots[target].name}"
            holes.append(Hole(name, "edge", (False, True), (source, target), "edge"))
        return tuple(holes)

    @cached_property
    def n_options(self) -> int:
        """The largest number of options of any hole."""
        return max(len(hole.options) for hole in self.holes)

    @cached_property
    def option_mask(self) -> Bool[Tensor, "holes options"]:
        """Which codes each hole has at all."""
        sizes = torch.tensor([len(hole.options) for hole in self.holes])
        return torch.arange(self.n_options) < sizes[:, None]

    @cached_property
    def node_labels(self) -> dict[tuple[str, Value], int]:
        """Every `(attribute, value)` that a node can carry, with its column in the one-hot node features."""
        pairs = dict.fromkeys(
            (name, value) for slot in self.slots for name in slot.choices for value in slot.choices[name]
        )
        return {pair: column for column, pair in enumerate(pairs)}

    @property
    def size(self) -> int:
        """Number of legal encodings (isomorphic networks counted separately)."""
        if self.enumerate_legal is not None:
            return len(self.legal_codes)
        counts: list[list[int]] = [[1] * len(hole.options) for hole in self.holes]
        total = 1
        for index in range(len(self.holes) - 1, -1, -1):  # children come after their parents
            hole = self.holes[index]
            if hole.when is None:
                total *= sum(counts[index])
                continue
            parent, active = hole.when
            for code in range(len(counts[parent])):
                counts[parent][code] *= sum(counts[index][1:]) if code in active else counts[index][0]
        return total

    @cached_property
    def legal_codes(self) -> Int[Tensor, "legal holes"]:
        """Every legal encoding, for spaces that can be listed.

        Raises:
            ValueError: If the space is too large.
        """
        if self.enumerate_legal is not None:
            return self.enumerate_legal()
        if self.size > 2_000_000:
            raise ValueError(f"{self.name} has {self.size:.3g} members, too many to list")
        codes = torch.empty(1, 0, dtype=torch.long)
        for index, hole in enumerate(self.holes):
            options = torch.arange(len(hole.options))
            codes = torch.cat([codes.repeat_interleave(len(options), 0), options.repeat(len(codes))[:, None]], dim=1)
            if hole.when is not None:
                codes = codes[self._active(codes, index) == (codes[:, index] > 0)]
        return codes

    def _active(self, codes: Tensor, index: int) -> Bool[Tensor, " batch"]:
        parent, active = self.holes[index].when
        return torch.isin(codes[:, parent], torch.tensor(sorted(active), device=codes.device))

    # ---- legality ------------------------------------------------------------------------------------------------
    def domains(self, codes: Int[Tensor, "batch holes"]) -> Bool[Tensor, "batch holes options"]:
        """Options each hole still has under the decided ones; exact for conditions, before the space's rule.

        Conditions form a tree, so a pass from the leaves and one from the roots leave no option without a completion.
        """
        mask = self.option_mask.to(codes.device)
        decided = torch.arange(self.n_options, device=codes.device) == codes[..., None]
        allowed = torch.where((codes == OPEN)[..., None], mask, decided)
        conditional = [index for index, hole in enumerate(self.holes) if hole.when is not None]
        if not conditional:
            return allowed
        activating = self._activating.to(codes.device)  # (holes, options)
        for index in reversed(conditional):
            parent = self.holes[index].when[0]
            present, absent = allowed[:, index, 1:].any(-1, keepdim=True), allowed[:, index, :1]
            allowed[:, parent] &= torch.where(activating[index], present, absent)
        for index in conditional:
            parent = self.holes[index].when[0]
            active = (allowed[:, parent] & activating[index]).any(-1)
            inactive = (allowed[:, parent] & ~activating[index]).any(-1)
            allowed[:, index, 0] &= inactive
            allowed[:, index, 1:] &= active[:, None]
        return allowed

    @cached_property
    def _activating(self) -> Bool[Tensor, "holes options"]:
        """For each conditional hole, the codes of its parent that make it present."""
        table = torch.zeros(len(self.holes), self.n_options, dtype=torch.bool)
        for index, hole in enumerate(self.holes):
            if hole.when is not None:
                table[index, sorted(hole.when[1])] = True
        return table

    def feasible(self, codes: Int[Tensor, "batch holes"]) -> Bool[Tensor, " batch"]:
        """Whether partial codes have a legal completion; for complete codes, whether they are legal."""
        possible = self.domains(codes).any(-1).all(-1)
        return possible if self.rule is None else possible & self.rule(codes)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Int[Tensor, "n holes"]:
        """Draw encodings: uniformly where the space has a rule, else each hole uniformly given those it depends on."""
        if self.enumerate_legal is not None:
            return self.legal_codes[torch.randint(len(self.legal_codes), (n,), generator=generator)]
        codes = torch.full((n, len(self.holes)), OPEN)
        for index, hole in enumerate(self.holes):
            first = 0 if hole.when is None else 1
            drawn = torch.randint(first, len(hole.options), (n,), generator=generator)
            codes[:, index] = drawn if hole.when is None else drawn * self._active(codes, index)
        return codes

    # ---- codes <-> architectures <-> strings ---------------------------------------------------------------------
    def decode(self, codes: Int[Tensor, " holes"] | Iterable[int]) -> Architecture:
        """The architecture of one complete encoding.

        Raises:
            ValueError: If the codes are incomplete or illegal.
        """
        return self.decode_all(torch.as_tensor(codes, dtype=torch.long).reshape(1, -1))[0]

    def decode_all(self, codes: Int[Tensor, "batch holes"]) -> list[Architecture]:
        """The architectures of complete encodings.

        Raises:
            ValueError: If some are incomplete or illegal.
        """
        if codes.shape[1] != len(self.holes):
            raise ValueError(f"{self.name} has {len(self.holes)} holes, got {codes.shape[1]} codes")
        legal = ((codes >= 0) & (codes < self.option_mask.sum(-1))).all(-1)
        legal &= self.feasible(torch.where(legal[:, None], codes, 0))
        if not legal.all():
            raise ValueError(f"these codes are no legal member of {self.name}: {codes[~legal][0].tolist()}")
        return [self._assemble(row) for row in codes.tolist()]

    def _assemble(self, codes: list[int]) -> Architecture:
        chosen = {hole.name: hole.options[code] for hole, code in zip(self.holes, codes, strict=True)}
        edges = [*self.edges]
        edges += [e for e in self.open_edges if chosen[f"{self.slots[e[0]].name}->{self.slots[e[1]].name}"]]
        nodes, position = [], {}
        for index, slot in enumerate(self.slots):
            values = {name: chosen.get(f"{slot.name}.{name}", options[0]) for name, options in slot.choices.items()}
            if values["op"] == self.absent:
                continue
            position[index] = len(nodes)
            nodes.append(Node(values.pop("op"), tuple((k, v) for k, v in values.items() if v != ABSENT)))
        edges = sorted((position[source], position[target]) for source, target in edges)
        return Architecture(tuple(nodes), tuple(edges), self)

    def encode(self, architecture: Architecture) -> Int[Tensor, " holes"]:
        """The codes of an architecture, whatever the order of its edges and attributes; the inverse of `decode`.

        Raises:
            ValueError: If the architecture is no member of the space.
        """
        if len(architecture.nodes) != len(self.slots) and self.absent is None:
            raise ValueError(f"{self.name} has {len(self.slots)} nodes, got {len(architecture.nodes)}")
        last = len(architecture.nodes) - 1
        place = {index: (len(self.slots) - 1 if index == last else index) for index in range(last + 1)}
        node_at = {place[index]: node for index, node in enumerate(architecture.nodes)}
        edges = {(place[source], place[target]) for source, target in architecture.edges}
        codes = []
        for hole in self.holes:
            if hole.kind == "edge":
                codes.append(int(hole.span in edges))
                continue
            node = node_at.get(hole.span[0])
            values = {"op": node.op, **dict(node.attributes)} if node else {"op": self.absent}
            value = values.get(hole.attribute, ABSENT)
            if value not in hole.options:
                raise ValueError(f"{hole.name} of {self.name} is one of {list(hole.options)}, got {value!r}")
            codes.append(hole.options.index(value))
        result = torch.tensor(codes, dtype=torch.long)
        try:
            same = _content(self.decode(result)) == _content(architecture)
        except ValueError:
            same = False
        if not same:
            raise ValueError(f"this graph is no member of {self.name}")
        return result

    @cached_property
    def _codec(self) -> Any:
        return pkgutil.resolve_name(self.native) if self.native else GenericCodec

    def parse(self, text: str) -> Architecture:
        """The architecture that a native string, or a graph in JSON, names.

        Raises:
            ValueError: If the text names no member of the space.
        """
        text = text.strip()
        if text.startswith("{"):
            entry = _read_json(text)
            return self.decode(self.encode(graph_from_dict(entry.get("graph", entry), self)))
        return self._codec.parse(text, self)

    def format(self, architecture: Architecture) -> str:
        """The native string of an architecture; `parse` reads it back."""
        return self._codec.format(architecture)

    # ---- what the builder knows ----------------------------------------------------------------------------------
    @cached_property
    def _builder(self) -> Any:
        return pkgutil.resolve_name(self.builder or "archgen.build:Builder")(self)

    @property
    def cost(self) -> Cost:
        """Exact costs of encodings and bounds for partial ones."""
        return self._builder.cost

    def build(self, architecture: Architecture, num_classes: int | None, in_channels: int) -> nn.Module:
        """See `Architecture.build`."""
        return self._builder.network(architecture, num_classes or self.skeleton.get("classes", 10), in_channels)


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from error


def _content(architecture: Architecture) -> tuple[list[tuple[str, dict[str, Value]]], list[tuple[int, int]]]:
    return [(node.op, dict(node.attributes)) for node in architecture.nodes], sorted(architecture.edges)


class GenericCodec:
    """Strings of declared spaces: nodes joined by ` | `, each `attribute=value ...`; edges as `source->target`."""

    @staticmethod
    def format(architecture: Architecture) -> str:
        """Print what is open in the template."""
        space = architecture.space
        parts: dict[int, list[str]] = {}
        for hole, code in zip(space.holes, space.encode(architecture).tolist(), strict=True):
            value = hole.options[code]
            if hole.kind == "edge":
                parts.setdefault(len(space.slots), []).extend([hole.name] * bool(value))
            elif value != ABSENT:
                word = ("no", "yes")[value] if isinstance(value, bool) else value
                parts.setdefault(hole.span[0], []).append(f"{hole.attribute}={word}")
        return " | ".join(" ".join(part) for part in parts.values())

    @staticmethod
    def parse(text: str, space: SearchSpace) -> Architecture:
        """Read what `format` printed.

        Raises:
            ValueError: If a node or an attribute is missing, unknown or doubled.
        """
        parts = [part.split() for part in text.split("|")]
        owners = list(dict.fromkeys(hole.span[0] for hole in space.holes if hole.kind != "edge"))
        expected = len(owners) + bool(space.open_edges)
        if len(parts) != expected:
            raise ValueError(f"{space.name} expects {expected} parts joined by '|', got {len(parts)} in {text[:80]!r}")
        words = [
            f"{space.slots[owner].name}.{word}" for owner, part in zip(owners, parts, strict=False) for word in part
        ]
        words += [f"{word}=yes" for word in (parts[-1] if space.open_edges else [])]
        given: dict[str, str] = {}
        for word in words:
            name, _, value = word.partition("=")
            if name in given:
                raise ValueError(f"{name} is given twice in {text[:80]!r}")
            given[name] = value
        codes = []
        for hole in space.holes:
            default = {"edge": "no"}.get(hole.kind, ABSENT if hole.when else None)
            word = given.pop(hole.name, default)
            spelled = [("no", "yes")[o] if isinstance(o, bool) else str(o) for o in hole.options]
            if word not in spelled:
                got = "nothing" if word is None else repr(word)
                raise ValueError(f"{hole.name} of {space.name} is one of {spelled}, got {got}")
            codes.append(spelled.index(word))
        if given:
            raise ValueError(f"{space.name} has no {next(iter(given))!r}")
        return space.decode(codes)


# ---- declaring and finding spaces ----------------------------------------------------------------------------------
DECLARED = {"name", "source", "nodes", "edges", "optional_edges", "identity", "zero", "canonical", "columns",
            "builder", "skeleton"}  # fmt: skip


def declare(entry: Any) -> SearchSpace:
    """A search space from its declaration: the contents of a YAML file. The order of nodes and attributes counts.

    Args:
        entry: `name`; `nodes`: `{node: {op: [...], attribute: [...] or {options: [...], when: {attribute: [...]}}}}`;
            optionally `edges` (a chain if absent) and `optional_edges` as pairs of node names with `input` and
            `output`, `identity`, `zero`, `canonical`, `source`, `columns`, `builder`, `skeleton`.

    Raises:
        ValueError: If the declaration is malformed; the sentence names the place.
    """
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ValueError("a space needs a 'name' and 'nodes'")
    name = entry["name"]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"the name of a space is made of letters, digits, '_', '.' and '-', got {name[:80]!r}")
    if unknown := set(entry) - DECLARED:
        raise ValueError(f"space {name}: unknown key {sorted(map(str, unknown))[0]!r}; known: {sorted(DECLARED)}")
    nodes = entry.get("nodes")
    if not isinstance(nodes, Mapping) or not nodes:
        raise ValueError(f"space {name}: 'nodes' maps each node to its options")
    slots = [_declare_slot(name, str(node), spec) for node, spec in nodes.items()]
    slots = [Slot("input", {"op": ("input",)}), *slots, Slot("output", {"op": ("output",)})]
    position = {slot.name: index for index, slot in enumerate(slots)}
    if len(position) < len(slots):
        raise ValueError(f"space {name}: nodes differ in name, and 'input' and 'output' are implied")
    chain = [[a.name, b.name] for a, b in pairwise(slots)]
    edges = _declare_edges(name, entry.get("edges", chain), position)
    open_edges = _declare_edges(name, entry.get("optional_edges", []), position)
    if doubled := set(edges) & set(open_edges):
        raise ValueError(f"space {name}: an edge is both fixed and optional: {sorted(doubled)[0]}")
    _check_settings(name, entry, {op for slot in slots[1:-1] for op in slot.choices["op"]})
    builder = entry.get("builder")
    space = SearchSpace(
        name=name,
        slots=tuple(slots),
        edges=tuple(edges),
        open_edges=tuple(open_edges),
        source=str(entry.get("source", "")),
        identity=frozenset(entry.get("identity", ())),
        zero=frozenset(entry.get("zero", ())),
        canonical=entry.get("canonical", "graph"),
        columns=dict(entry.get("columns", {})),
        builder={None: None, "inverted_residual": "archgen.build:InvertedResidualBuilder"}.get(
            builder, "archgen.build:CallableBuilder"
        ),
        skeleton={**entry.get("skeleton", {}), "block": builder},
        declaration=dict(entry),
    )
    if not space.holes:
        raise ValueError(f"space {name} has nothing to decide: every node has one option")
    return space


def _check_settings(name: str, entry: Mapping[str, Any], operations: set[Value]) -> None:
    for key in ("identity", "zero"):
        words = entry.get(key, [])
        if not isinstance(words, list) or not all(isinstance(op, str) and op in operations for op in words):
            known = sorted(map(str, operations))
            raise ValueError(f"space {name}: {key!r} lists some of the operations {known}, got {words!r}")
    for key in ("columns", "skeleton"):
        if not isinstance(entry.get(key, {}), Mapping):
            raise ValueError(f"space {name}: {key!r} maps words to values, got {entry[key]!r}")
    for key, value in entry.get("skeleton", {}).items():
        if key in ("classes", "resolution") and not (type(value) is int and value > 0):
            raise ValueError(f"space {name}: {key!r} of the skeleton is a positive whole number, got {value!r}")
    canonical = entry.get("canonical", "graph")
    if canonical not in ("graph", "expression"):
        raise ValueError(f"space {name}: 'canonical' is 'graph' or 'expression', got {canonical!r}")
    builder = entry.get("builder")
    if not (builder in (None, "inverted_residual") or re.fullmatch(r"[\w.]+:[\w.]+", str(builder))):
        raise ValueError(f"space {name}: 'builder' is 'inverted_residual' or 'module:function', got {builder!r}")


def _declare_slot(space: str, node: str, spec: Any) -> Slot:
    if not re.fullmatch(r"[\w-]+", node):
        raise ValueError(
            f"space {space}: the name of a node is made of letters, digits, '_' and '-', got {node[:80]!r}"
        )
    if not isinstance(spec, Mapping):
        raise ValueError(f"space {space}: node {node!r} maps attributes to lists of options")
    choices: dict[str, tuple[Value, ...]] = {"op": ("block",)}
    when: dict[str, tuple[str, tuple[Value, ...]]] = {}
    for attribute, options in spec.items():
        where = f"space {space}: {node}.{attribute}"
        if not str(attribute).isidentifier() or re.fullmatch(r"(edge|shape)\d*|op\d+|True|False|None", str(attribute)):
            raise ValueError(f"{where}: an attribute is a word, and not 'edge', 'shape', or 'op' with a digit behind")
        if isinstance(options, Mapping):
            condition = options.get("when")
            if set(options) != {"options", "when"} or not isinstance(condition, Mapping) or len(condition) != 1:
                raise ValueError(f"{where} is a list, or {{options: [...], when: {{attribute: [...]}}}}")
            (parent, values), options = next(iter(condition.items())), options["options"]
            values = tuple(values) if isinstance(values, list) else (values,)
            known = choices.get(parent, ())
            if attribute == "op" or len(known) < 2 or not values or not all(value in known for value in values):
                raise ValueError(f"{where}: 'when' needs an earlier open attribute and some of its options")
            when[attribute] = (parent, values)
        options = tuple(options) if isinstance(options, list) else (options,)
        if not options or not all(
            isinstance(o, (int, str)) or (isinstance(o, float) and isfinite(o)) for o in options
        ):
            raise ValueError(f"{where} needs a list of numbers or words, got {list(options)}")
        spelled = [("no", "yes")[o] if isinstance(o, bool) else str(o) for o in options]
        if min(len(set(spelled)), len(set(options))) < len(options) or not all(map(_is_word, spelled)):
            raise ValueError(
                f"{where}: options differ, hold no blank, '|' or '=', and are not 'absent'; got {spelled}"
            )
        if attribute == "op" and not all(isinstance(o, str) for o in options):
            raise ValueError(f"{where}: operations are words, got {list(options)}")
        if attribute == "layers" and not all(type(o) is int and o >= 0 for o in options):
            raise ValueError(f"{where}: layers are counted in whole numbers, got {list(options)}")
        choices[attribute] = options
    return Slot(node, choices, when)


def _is_word(text: str) -> bool:
    return re.fullmatch(r"[^\s|=]+", text) is not None and text != ABSENT


def _declare_edges(space: str, edges: Any, position: Mapping[str, int]) -> list[tuple[int, int]]:
    result = []
    for edge in edges if isinstance(edges, list) else [edges]:
        if not (isinstance(edge, list) and len(edge) == 2 and all(str(end) in position for end in edge)):
            raise ValueError(f"space {space}: an edge is a pair of {list(position)}, got {edge!r}")
        source, target = (position[str(end)] for end in edge)
        if source >= target:
            raise ValueError(f"space {space}: edge {edge[0]} -> {edge[1]} runs backward; list nodes in order")
        result.append((source, target))
    if len(set(result)) < len(result):
        raise ValueError(f"space {space}: an edge is listed twice")
    return sorted(result)


@cache
def shipped_spaces() -> list[str]:
    """Names of the spaces that come with archgen."""
    folder = Path(__file__).parent / "spaces"
    return sorted(
        path.stem for path in folder.iterdir() if path.suffix in (".py", ".yaml") and path.stem != "__init__"
    )


def load_space(space: str | Path | Mapping[str, Any] | SearchSpace) -> SearchSpace:
    """A search space by name, by the path of a YAML file, or from a declaration, as a mapping or in JSON.

    Raises:
        ValueError: If there is no such space, or its declaration is malformed.
    """
    if isinstance(space, SearchSpace):
        return space
    if isinstance(space, Mapping):
        return declare(space)
    name = str(space)
    if name.startswith("{"):
        return declare(_read_json(name))
    if name in shipped_spaces():
        return _load_shipped(name)
    if Path(name).suffix in (".yaml", ".yml"):
        return _read_declaration(Path(name))
    raise ValueError(f"no space {name!r}; shipped: {', '.join(shipped_spaces())}, or give the path of a .yaml file")


@cache
def _load_shipped(name: str) -> SearchSpace:
    folder = Path(__file__).parent / "spaces"
    if (folder / f"{name}.py").exists():
        return import_module(f"archgen.spaces.{name}").SPACE
    return replace(_read_declaration(folder / f"{name}.yaml"), declaration={})  # its name says it all


def _read_declaration(path: Path) -> SearchSpace:
    import yaml

    try:
        entry = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no file {path}") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is no readable YAML: {' '.join(str(error).split())[:200]}") from error
    return declare(entry)


def read_architectures(text: str, space: SearchSpace | None = None, seed: int = 0) -> list[Architecture]:
    """Architectures from a native string, from JSON, or from the path of a file of JSON lines as `sample` writes.

    Args:
        text: A native string, a JSON object, the path of a `.json` or `.jsonl` file, - for JSON lines or native
            strings on standard input, or `random:N` for so many different random members of the space.
        space: The space of a native string, by default the shipped one that it is a member of; files say their own.
        seed: Of random members; fewer of them are the first of more.

    Raises:
        ValueError: If the text is none of these, or there are no architectures in it.
    """
    if match := re.fullmatch(r"random:(\d+)", text):
        return _random_members(int(match[1]), space, seed)
    if text == "-":
        source, lines = "standard input", sys.stdin.read().splitlines()
    elif Path(text).suffix in (".json", ".jsonl") and not text.lstrip().startswith("{"):
        source = text
        try:
            lines = Path(text).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read {text}: {getattr(error, 'strerror', None) or error}") from error
    else:
        return [_read_line(text, space)]
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not SAID.match(line):
            try:
                found.append(_read_line(line, space))
            except ValueError as error:
                raise ValueError(f"{source}, line {number}, holds no architecture: {error}") from error
    if not found:
        raise ValueError(f"{source} holds no architecture")
    return found


def rescale(architectures: Iterable[Architecture], skeleton: Mapping[str, Any] | None) -> list[Architecture]:
    """The same architectures in larger or smaller networks, see `SearchSpace.scaled`; those of a space share one.

    Raises:
        ValueError: If a space has no such setting.
    """
    architectures = list(architectures)
    spaces = {space: space.scaled(skeleton) for space in dict.fromkeys(one.space for one in architectures)}
    return [replace(one, space=spaces[one.space]) for one in architectures]


def _random_members(n: int, space: SearchSpace | None, seed: int) -> list[Architecture]:
    if space is None:
        raise ValueError(f"random:{n} needs the name of a space")
    if not 1 <= n <= space.size:
        raise ValueError(f"{space.name} has {space.size:,} members to draw from, asked for {n}")
    generator, drawn, idle = torch.Generator().manual_seed(seed), {}, 0
    while len(drawn) < n:
        known = len(drawn)
        drawn |= dict.fromkeys(map(tuple, space.sample(1024, generator).tolist()))
        idle = idle + 1 if len(drawn) == known else 0
        if idle == 100:
            raise ValueError(f"{space.name} seems to have {known:,} members, asked for {n}")
    return space.decode_all(torch.tensor(list(drawn)[:n]))


def _read_line(line: str, space: SearchSpace | None) -> Architecture:
    """One architecture, as JSON or as a native string of the space or of a shipped one."""
    if line.lstrip().startswith("{"):
        try:
            entry = json.loads(line)
            return (space or load_space(entry["space"])).parse(json.dumps(entry))
        except json.JSONDecodeError as error:
            raise ValueError(f"that is no JSON: {error}") from error
        except (KeyError, TypeError) as error:
            raise ValueError("a JSON object names its 'space' and has 'nodes' and 'edges', or a 'graph'") from error
    if space is not None:
        return space.parse(line)
    for name in shipped_spaces():
        try:
            return load_space(name).parse(line)
        except ValueError:
            continue
    raise ValueError(f"{line[:80]!r} is no member of {', '.join(shipped_spaces())}; name its space")
