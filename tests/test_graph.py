"""Architectures: JSON, what the hash sees and does not see."""

import hashlib
import json
from collections import defaultdict
from itertools import combinations, groupby

import networkx
import pytest
import torch
from pyarrow import parquet
from torch import nn

from archgen.graph import Architecture, Node, graph_from_dict
from archgen.space import declare, load_space
from archgen.spaces.nasbench201 import POINTS, Cell

# Graphs of any size and shape can stand in this space, since the hash asks it for the names of operations alone.
FREE = declare(
    {"name": "free", "nodes": {"a": {"op": ["x", "y", "skip", "none"]}}, "identity": ["skip"], "zero": ["none"]}
)
NB201 = load_space("nasbench201")


def graph(ops, edges, space=FREE):
    return Architecture(tuple(Node(op) for op in ["input", *ops.split(), "output"]), tuple(edges), space)


def random_graph(generator, inner, ops=("x", "y"), density=0.5):
    """A labelled DAG with `inner` nodes between input and output."""
    chosen = torch.randint(len(ops), (inner,), generator=generator).tolist()
    kept = torch.rand(inner + 2, inner + 2, generator=generator) < density
    return graph(" ".join(ops[i] for i in chosen), [pair for pair in combinations(range(inner + 2), 2) if kept[pair]])


def relabelled(architecture, generator):
    """The same graph with its inner nodes in another topological order and its edges in any order."""
    edges, last = set(architecture.edges), len(architecture.nodes) - 1
    order, waiting = [0], list(range(1, last))
    while waiting:
        ready = [v for v in waiting if not any((u, v) in edges for u in waiting)]
        order.append(ready[torch.randint(len(ready), (), generator=generator)])
        waiting.remove(order[-1])
    place = {old: new for new, old in enumerate([*order, last])}
    moved = [(place[s], place[t]) for s, t in architecture.edges]
    shuffled = [moved[i] for i in torch.randperm(len(moved), generator=generator)]
    return Architecture(tuple(architecture.nodes[old] for old in [*order, last]), tuple(shuffled), architecture.space)


def live_part(architecture):
    """What the input reaches and the output sees, as networkx has it; `input` and `output` always stay."""
    whole = networkx.DiGraph(architecture.edges)
    last = len(architecture.nodes) - 1
    whole.add_nodes_from(range(last + 1))
    live = (
        networkx.descendants(whole, 0) & networkx.ancestors(whole, last)
        if networkx.has_path(whole, 0, last)
        else set()
    )
    part = networkx.DiGraph(whole.subgraph({0, last, *live}))
    networkx.set_node_attributes(part, {v: architecture.nodes[v].op for v in part}, "op")
    return part


def same(a, b):
    return networkx.is_isomorphic(a, b, node_match=lambda one, other: one["op"] == other["op"])


# ---- JSON -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["nasbench201", "nasbench101", "mnasnet", "mobilenetv3"])
def test_json_round_trip(name):
    space = load_space(name)
    for row in space.sample(20, torch.Generator().manual_seed(0)):
        architecture = space.decode(row)
        again = graph_from_dict(json.loads(architecture.to_json()), space)
        assert again == architecture and again.hash == architecture.hash and again.to_json() == architecture.to_json()


def test_pyg_has_one_operation_a_node_and_every_edge():
    for name in ("nasbench101", "mobilenetv3"):
        space = load_space(name)
        architecture = space.decode(space.sample(1, torch.Generator().manual_seed(1))[0])
        data = architecture.to_pyg()
        assert [tuple(pair) for pair in data.edge_index.T.tolist()] == list(architecture.edges)
        assert data.x.sum(1).tolist() == [1 + len(node.attributes) for node in architecture.nodes]


@pytest.mark.parametrize("edge", [(1, 1), (2, 1), (-1, 1), (0, 3), (3, 4)])
def test_edges_run_forward(edge):
    with pytest.raises(ValueError, match=rf"edge {edge[0]} -> {edge[1]} does not run forward among 3 nodes"):
        graph("x", [(0, 1), edge])


@pytest.mark.parametrize(
    "entry",
    [
        {}, {"nodes": []}, {"nodes": 3, "edges": []}, {"nodes": [{}], "edges": []}, {"nodes": ["x"], "edges": []},
        {"nodes": None, "edges": None}, {"nodes": [{"op": "x"}], "edges": 1}, {"nodes": [{"op": []}], "edges": []},
        {"nodes": [{"op": "x", "k": {}}], "edges": []}, {"nodes": [{"op": "x"}] * 2, "edges": [[0, 1.5]]},
        {"nodes": [{"op": "x"}] * 2, "edges": [[0, float("inf")]]}, {"nodes": [{"op": "x"}] * 2, "edges": ["01"]},
        {"nodes": [{"op": "x"}] * 2, "edges": [[0, 1, 1]]},
    ],
)  # fmt: skip
def test_what_is_no_graph_is_refused(entry):
    with pytest.raises(ValueError, match="a graph needs 'nodes', each with an 'op', and 'edges'"):
        graph_from_dict(entry, FREE)


# ---- the hash of graphs ---------------------------------------------------------------------------------------------
def test_the_hash_is_16_hex_digits_and_stays():
    """Files and logs hold hashes, so they may not change from version to version."""
    assert graph("x y", [(0, 1), (1, 2), (0, 2), (2, 3)]).hash == "2d2684571efaaa1f"
    assert NB201.decode([3, 1, 0, 2, 4, 3]).hash == "1664d8b6b83b37e9"


def test_the_hash_does_not_see_the_order_of_nodes():
    generator = torch.Generator().manual_seed(0)
    moved = 0
    for number in range(200):
        one = random_graph(generator, 1 + number % 12, ("x", "y", "skip", "none"), density=0.2 + 0.05 * (number % 10))
        other = relabelled(one, generator)
        moved += other != one
        assert other.hash == one.hash
    assert moved > 100


def test_the_hash_tells_apart_what_networkx_does():
    """On 3,000 random DAGs of up to seven nodes; colour refinement fails on larger regular ones alone."""
    generator = torch.Generator().manual_seed(0)
    classes = defaultdict(list)
    for number in range(3000):
        one = random_graph(generator, 2 + number % 4, density=0.6)
        classes[one.hash].append(live_part(one))
    assert all(same(graphs[0], other) for graphs in classes.values() for other in graphs[1:])
    firsts = [graphs[0] for graphs in classes.values()]

    def facts(part):
        return sorted((op, part.in_degree(v), part.out_degree(v)) for v, op in part.nodes(data="op"))

    alike = [list(group) for _, group in groupby(sorted(firsts, key=facts), key=facts)]
    pairs = [pair for group in alike for pair in combinations(group, 2)]
    assert len(firsts) > 500 and len(pairs) > 50 and not any(same(a, b) for a, b in pairs)


def test_the_hash_sees_attributes():
    space = load_space("mnasnet")
    codes = space.sample(1, torch.Generator().manual_seed(0))[0]
    others = []
    for hole in range(len(space.holes)):
        other = codes.clone()
        other[hole] = (other[hole] + 1) % len(space.holes[hole].options)
        others.append(space.decode(other).hash)
    assert len({space.decode(codes).hash, *others}) == len(space.holes) + 1


EQUAL = {
    "identity": (("x skip y", [(0, 1), (1, 2), (2, 3), (3, 4)]), ("x y", [(0, 1), (1, 2), (2, 3)])),
    "zero": (("x none", [(0, 1), (1, 3), (0, 2), (2, 3)]), ("x", [(0, 1), (1, 2)])),
    "behind a zero": (("none x y", [(0, 1), (1, 2), (2, 4), (0, 3), (3, 4)]), ("y", [(0, 1), (1, 2)])),
    "no way out": (("x y", [(0, 1), (1, 3), (0, 2), (1, 2)]), ("x", [(0, 1), (1, 2)])),
    "no way in": (("x y", [(0, 2), (1, 2), (2, 3)]), ("y", [(0, 1), (1, 2)])),
    "no path": (("x y", [(0, 1), (2, 3)]), ("", [])),
    "summed twice": (("x skip skip", [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)]),
                     ("x skip", [(0, 1), (1, 2), (1, 3), (2, 3)])),
}  # fmt: skip


@pytest.mark.parametrize("case", EQUAL)
def test_what_computes_nothing_is_removed(case):
    one, other = (graph(*made) for made in EQUAL[case])
    assert one.hash == other.hash


def test_a_sum_of_two_equal_terms_is_not_one_of_them():
    once, twice = graph("x", [(0, 1), (1, 2)]), graph("x skip", [(0, 1), (1, 2), (1, 3), (2, 3)])
    assert once.hash != twice.hash


def test_sharing_is_seen_in_graphs_and_not_in_expressions():
    """`y(x) + y(x)` with one `x` or with two: different graphs, equal expressions."""
    shared = "x y y", [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)]
    copied = "x x y y", [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5)]
    assert graph(*shared).hash != graph(*copied).hash
    expressions = declare({**FREE.declaration, "canonical": "expression"})
    assert graph(*shared, expressions).hash == graph(*copied, expressions).hash


# ---- NAS-Bench-201: expressions -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def classes():
    """Rows of `legal_codes` of NAS-Bench-201 by the hash of their cell."""
    members = defaultdict(list)
    for row, codes in enumerate(NB201.legal_codes.tolist()):
        members[NB201.decode(codes).hash].append(row)
    return members


def test_nasbench201_has_4930_expressions_that_join_the_published_classes(classes, outside):
    """Coarser than the 6,466 classes of the benchmark: each of them lies in one of ours."""
    columns = parquet.read_table(
        outside("nas_bench_201.parquet"), columns=["arch_str", "isomorph_arch_index"]
    ).to_pydict()
    ours = {row: key for key, rows in classes.items() for row in rows}
    position = {str(NB201.decode(codes)): row for row, codes in enumerate(NB201.legal_codes.tolist())}
    pairs = {
        (published, ours[position[text]])
        for text, published in zip(columns["arch_str"], columns["isomorph_arch_index"], strict=True)
    }
    assert len(classes) == len({key for _, key in pairs}) == 4930
    assert len(pairs) == len({published for published, _ in pairs}) == 6466


def tied_cell(ops, channels, train):
    """A cell whose convolutions have weights drawn from what they compute: their kind and the sum they read."""
    cell = Cell(ops, channels).double().train(train)
    points, generator = [("x",)], torch.Generator()
    for target in (1, 2, 3):
        terms = []
        for number, (source, end) in enumerate(POINTS):
            if end != target or ops[number] == "none" or not points[source]:
                continue
            if ops[number] == "skip_connect":
                terms += points[source]
                continue
            terms.append(f"{ops[number]}({' + '.join(points[source])})")
            generator.manual_seed(int(hashlib.sha256(terms[-1].encode()).hexdigest()[:15], 16))
            for module in cell.ops[str(number)].modules():
                if isinstance(module, nn.Conv2d):
                    bound = (3 / module.weight[0].numel()) ** 0.5
                    nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
        points.append(tuple(sorted(terms)))
    return cell


@pytest.mark.parametrize("train", [False, True])
def test_cells_of_one_class_compute_the_same_function(classes, train):
    """With weights tied by expression and the biases of normalization zero, as at initialization.

    A convolution that nothing reaches then puts out zeros, which is why the hash drops it.
    """
    images = torch.randn(4, 3, 7, 6, generator=torch.Generator().manual_seed(0)).double()
    mixed = [rows for rows in classes.values() if len(rows) > 3]
    values = []
    for rows in mixed[:: max(1, len(mixed) // 40)]:
        cells = [tied_cell(tuple(node.op for node in NB201.decode(NB201.legal_codes[row]).nodes[1:-1]), 3, train)
                 for row in rows[:: max(1, len(rows) // 6)]]  # fmt: skip
        with torch.no_grad():
            outputs = torch.stack([cell(images) for cell in cells])
        torch.testing.assert_close(outputs, outputs[:1].expand_as(outputs), atol=1e-5, rtol=1e-5)
        values.append(outputs[0])
    apart = torch.stack([(one - other).abs().max() for one, other in combinations(values, 2)])
    assert len(values) >= 40 and apart.min() > 1e-3
