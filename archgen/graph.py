"""Architecture: a network as a labelled directed acyclic graph, the one representation that everything else views."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch_geometric.data import Batch, Data

    from archgen.space import SearchSpace

Value = int | float | bool | str


@dataclass(frozen=True)
class Node:
    """One operation of an architecture.

    Attributes:
        op: Operation name, as the search space spells it; `input` and `output` mark the two ends.
        attributes: Named settings of the operation, in the order of the space, for example `(("kernel", 5),)`.
    """

    op: str
    attributes: tuple[tuple[str, Value], ...] = ()

    @property
    def label(self) -> str:
        """Operation and attributes on one line, for pictures and hashes."""
        return " ".join([self.op, *(f"{name}={value}" for name, value in self.attributes)])


@dataclass(frozen=True)
class Architecture:
    """A directed acyclic graph of operations.

    Attributes:
        nodes: Operations in topological order, from `input` to `output`.
        edges: Pairs `(source, target)` of positions in `nodes`, `source < target`.
        space: The search space it belongs to; it prints, builds and prices the architecture.

    Raises:
        ValueError: If an edge does not run forward between two nodes.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    space: SearchSpace = field(repr=False)

    def __post_init__(self) -> None:
        """Check that the edges run forward."""
        for source, target in self.edges:
            if not 0 <= source < target < len(self.nodes):
                raise ValueError(f"edge {source} -> {target} does not run forward among {len(self.nodes)} nodes")

    def __str__(self) -> str:
        """The native string of the search space."""
        return self.space.format(self)

    @property
    def hash(self) -> str:
        """Canonical hash: 16 hex digits, equal for equal networks whatever the order of their nodes.

        Nodes that cannot reach the output or be reached from the input, operations that the space calls `zero`, and
        those it calls `identity` are removed first. What is left is compared as the space says: as a graph, by colour
        refinement over both directions, or as an expression, where a shared sub-expression equals two copies of it.
        """
        simplified = simplify(self)
        digest = expression_hash if self.space.canonical == "expression" else refinement_hash
        return digest(*simplified)

    def to_dict(self) -> dict[str, Any]:
        """The graph as JSON values: `space`, `nodes` with `op` and attributes, `edges`."""
        nodes = [{"op": node.op, **dict(node.attributes)} for node in self.nodes]
        return {"space": self.space.name, "nodes": nodes, "edges": [list(edge) for edge in self.edges]}

    def to_json(self) -> str:
        """The graph as one line of JSON."""
        return json.dumps(self.to_dict())

    def to_pyg(self) -> Data:
        """The graph as a PyTorch Geometric `Data`.

        Returns:
            `x`: one-hot operations and attribute values, `(nodes, labels of the space)`; `edge_index`: `(2, edges)`.
        """
        import torch
        from torch_geometric.data import Data

        labels = self.space.node_labels
        x = torch.zeros(len(self.nodes), len(labels))
        for row, node in enumerate(self.nodes):
            x[row, labels["op", node.op]] = 1.0
            for name, value in node.attributes:
                x[row, labels[name, value]] = 1.0
        return Data(x=x, edge_index=torch.tensor(self.edges, dtype=torch.long).reshape(-1, 2).T.contiguous())

    def build(self, num_classes: int | None = None, in_channels: int = 3) -> nn.Module:
        """The architecture as a PyTorch module that maps images to logits.

        Args:
            num_classes: Width of the classifier; the space's own default when absent.
            in_channels: Channels of the images.
        """
        return self.space.build(self, num_classes=num_classes, in_channels=in_channels)


def to_batch(architectures: Iterable[Architecture]) -> Batch:
    """Architectures of one space as one PyTorch Geometric `Batch`."""
    from torch_geometric.data import Batch

    return Batch.from_data_list([architecture.to_pyg() for architecture in architectures])


def graph_from_dict(entry: Any, space: SearchSpace) -> Architecture:
    """Read what `Architecture.to_dict` wrote.

    Raises:
        ValueError: If the entry has no `nodes` and `edges`, or they are not a graph.
    """
    try:
        nodes = tuple(
            Node(node["op"], tuple((key, value) for key, value in node.items() if key != "op"))
            for node in entry["nodes"]
        )
        edges = tuple((index(source), index(target)) for source, target in entry["edges"])
        hash((nodes, edges))  # lists and mappings are no values
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError("a graph needs 'nodes', each with an 'op', and 'edges', pairs of node positions") from error
    return Architecture(nodes, edges, space)


def simplify(architecture: Architecture) -> tuple[list[str], list[list[int]]]:
    """Labels of the live nodes and, for each, the live nodes whose outputs it sums (repeated when summed twice).

    Zero operations and dead ends are dropped; identity operations hand their inputs on.
    """
    space, nodes = architecture.space, architecture.nodes
    incoming: list[list[int]] = [[] for _ in nodes]
    for source, target in architecture.edges:
        incoming[target].append(source)
    last = len(nodes) - 1
    terms: list[list[int]] = []  # of each node: the non-identity nodes that its output sums
    for position, node in enumerate(nodes):
        summed = [term for source in incoming[position] for term in terms[source]]
        if node.op in space.zero or (position and not summed):
            terms.append([])
        elif node.op in space.identity:
            terms.append(summed)
        else:
            terms.append([position])
        incoming[position] = summed
    live = {last}
    for position in range(last, -1, -1):
        if position in live:
            live.update(incoming[position])
    order = {position: rank for rank, position in enumerate(sorted(live))}
    return [nodes[p].label for p in order], [[order[term] for term in incoming[p]] for p in order]


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def expression_hash(labels: list[str], inputs: list[list[int]]) -> str:
    """Hash of the output as an expression of the input: sums are unordered, sharing is not seen."""
    digests: list[str] = []
    for label, sources in zip(labels, inputs, strict=True):
        digests.append(_digest((label, sorted(digests[source] for source in sources))))
    return digests[-1]


def refinement_hash(labels: list[str], inputs: list[list[int]]) -> str:
    """Hash of the graph by colour refinement over both directions (Weisfeiler & Leman 1968)."""
    outputs: list[list[int]] = [[] for _ in labels]
    for position, sources in enumerate(inputs):
        for source in sources:
            outputs[source].append(position)
    colours = [_digest(label) for label in labels]
    for _ in labels:
        refined = [
            _digest((colour, sorted(colours[i] for i in sources), sorted(colours[i] for i in targets)))
            for colour, sources, targets in zip(colours, inputs, outputs, strict=True)
        ]
        stable = len(set(refined)) == len(set(colours))
        colours = refined
        if stable:
            break
    return _digest(sorted(colours))
