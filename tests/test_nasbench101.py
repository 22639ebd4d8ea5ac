"""Properties of the NAS-Bench-101 space: legality, strings, costs, networks."""

import itertools
import json

import networkx
import pytest
import torch

from archgen.build import measure
from archgen.space import OPEN
from archgen.spaces.nasbench101 import INNER, OPS, PAIRS, SPACE, VERTICES, Codec, rule


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mask(codes, decided, seed=0):
    return torch.where(torch.rand(codes.shape, generator=seeded(seed)) < decided, codes, OPEN)


def codes_of(architecture):
    """Codes without `SearchSpace.encode`, which checks legality: one row at a time is too slow for a table."""
    last = len(architecture.nodes) - 1
    edges = {(s, t if t < last else VERTICES - 1) for s, t in architecture.edges}
    ops = [OPS.index(node.op) for node in architecture.nodes[1:-1]]
    return [*ops, *[0] * (INNER - len(ops)), *(int(pair in edges) for pair in PAIRS)]


def is_pruned_cell(codes):
    """The benchmark's check in plain Python: pruning changes nothing, 7 vertices, 9 edges, present vertices first."""
    ops, edges = codes[:INNER], [pair for pair, code in zip(PAIRS, codes[INNER:], strict=True) if code]
    count = sum(op > 0 for op in ops)
    graph = networkx.DiGraph(edges)
    graph.add_nodes_from([0, *range(1, count + 1), VERTICES - 1])
    live = (networkx.descendants(graph, 0) | {0}) & (networkx.ancestors(graph, VERTICES - 1) | {VERTICES - 1})
    return all(ops[:count]) and live == {0, *range(1, count + 1), 6} == set(graph) and len(edges) <= 9


# ---- legality ------------------------------------------------------------------------------------------------------
def test_legal_codes_are_distinct_and_complete():
    """The legal codes are those that the exact rule accepts: checked on all cells of up to three inner vertices."""
    legal = SPACE.legal_codes
    assert legal.shape == (1_293_208, 26) and SPACE.size == 1_293_208
    small = [pair for pair in PAIRS if not {4, 5} & set(pair)]
    edges = torch.tensor(list(itertools.product((0, 1), repeat=len(small))))
    codes = torch.zeros(4, len(edges), 26, dtype=torch.long)
    codes[:, :, [INNER + PAIRS.index(pair) for pair in small]] = edges
    for k in range(4):
        codes[k, :, :k] = 1
    rows = [tuple(row) for row in codes.flatten(0, 1).tolist() if is_pruned_cell(row)]
    few = legal[(legal[:, 3] == 0) & (legal[:, :3] < 2).all(-1)]
    assert sorted(rows) == sorted(map(tuple, few.tolist()))


def test_samples_are_legal_by_the_benchmarks_own_check():
    codes = SPACE.sample(2000, seeded())
    assert rule(codes).all()
    assert all(map(is_pruned_cell, codes.tolist()))


def test_rule_rejects_what_the_benchmark_rejects():
    """Complete codes one to three changes away from legal ones."""
    codes = SPACE.sample(3000, seeded())
    for seed in range(3):
        hole = torch.randint(26, (3000,), generator=seeded(seed))
        value = torch.randint(4, (3000,), generator=seeded(10 + seed)) % SPACE.option_mask.sum(-1)[hole]
        codes[torch.arange(3000), hole] = value
        verdict = rule(codes)
        assert verdict.tolist() == [is_pruned_cell(row) for row in codes.tolist()]
    assert 0.05 < verdict.float().mean() < 0.95


@pytest.mark.parametrize("decided", [0.2, 0.4, 0.6, 0.8])
def test_rule_is_exact_for_partial_codes(decided):
    """Feasible exactly where one of all legal encodings agrees: masked legal codes, perturbed ones, and noise.

    Which operation a vertex has changes nothing but its presence, so one operation stands for three.
    """
    legal = SPACE.legal_codes
    legal = legal[(legal[:, :INNER] < 2).all(-1)]  # one encoding for each set of edges
    codes = SPACE.sample(800, seeded())
    flip = torch.rand(codes.shape, generator=seeded(1)) < torch.tensor([0.0, 0.03, 0.1, 1.0]).repeat(200)[:, None]
    noise = torch.randint(4, codes.shape, generator=seeded(2)) % SPACE.option_mask.sum(-1)
    codes = mask(torch.where(flip, noise, codes), decided, seed=3)
    verdict = rule(codes)
    present = codes.clone()
    present[:, :INNER] = present[:, :INNER].clamp(max=1)
    either = torch.stack([((legal == row) | (row == OPEN)).all(-1).any() for row in present])
    assert torch.equal(verdict, either)
    assert verdict.any() and not verdict.all()


def test_hash_counts_isomorphism_classes():
    """Distinct hashes of all cells of up to five vertices, against pairwise isomorphism tests."""
    legal = SPACE.legal_codes
    cells = [SPACE.decode(row) for row in legal[(legal[:, 3:INNER] == 0).all(-1)][::4].tolist()]
    classes = {}
    for cell in cells:
        graph = networkx.DiGraph(cell.edges)
        networkx.set_node_attributes(graph, {i: node.op for i, node in enumerate(cell.nodes)}, "op")
        classes.setdefault(cell.hash, []).append(graph)

    def same(a, b):
        return networkx.is_isomorphic(a, b, node_match=lambda one, other: one["op"] == other["op"])

    assert all(same(graphs[0], graph) for graphs in classes.values() for graph in graphs[1:])
    firsts = sorted(
        (len(g), g.size(), sorted(op for _, op in g.nodes(data="op")), key) for key, (g, *_) in classes.items()
    )
    for _, group in itertools.groupby(firsts, key=lambda entry: entry[:3]):
        graphs = [classes[entry[3]][0] for entry in group]
        assert not any(same(a, b) for a, b in itertools.combinations(graphs, 2))


# ---- strings -------------------------------------------------------------------------------------------------------
def test_strings_round_trip():
    for row in SPACE.sample(50, seeded()):
        cell = SPACE.decode(row)
        assert SPACE.parse(str(cell)) == cell and str(SPACE.parse(str(cell))) == str(cell)
        assert torch.equal(SPACE.encode(cell), row)
        assert codes_of(cell) == row.tolist()


def test_parse_prunes_as_the_benchmark_does():
    matrix = [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    text = f'{json.dumps(matrix)} ["input", "maxpool3x3", "conv1x1-bn-relu", "conv3x3-bn-relu", "output"]'
    assert str(SPACE.parse(text)) == '[[0, 1, 0], [0, 0, 1], [0, 0, 0]] ["input", "maxpool3x3", "output"]'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is written"),
        ("[[0, 1], [0, 0]", "is written"),
        ('[[0, 1], [0, 0]] ["input", "output"] 1', "is written"),
        ('[[0, 1], [0, 0]] {"a": 1}', "list of words"),
        ('[[0, 1]] ["input", "output"]', "2 x 2"),
        ("[] []", "no path"),
        ('[[0, 2], [0, 0]] ["input", "output"]', "zeros and ones"),
        ('[[0, 1], [1, 0]] ["input", "output"]', "upper triangular"),
        ('[[0, 0], [0, 0]] ["input", "output"]', "no path"),
        ('[[0, 1], [0, 0]] ["output", "input"]', "starts with"),
        ('[[0, 1, 0], [0, 0, 1], [0, 0, 0]] ["input", "none", "output"]', "is one of"),
        (f'{json.dumps([[int(t == s + 1) for t in range(8)] for s in range(8)])} '
         f'{json.dumps(["input", *["maxpool3x3"] * 6, "output"])}', "at most 7"),
        (f'{json.dumps([[int(t > s) for t in range(5)] for s in range(5)])} '
         f'{json.dumps(["input", *["maxpool3x3"] * 3, "output"])}', "at most 7 vertices and 9 edges"),
    ],
)  # fmt: skip
def test_parse_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        SPACE.parse(text)


@pytest.mark.parametrize("table", ["nas_bench_101_subset500.parquet", "nas_bench_101_zen_10250.parquet"])
def test_tables_are_read_and_priced(outside, table):
    """Parameters of every row equal the published ones; pruned cells print as they were."""
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = parquet.read_table(outside(table)).to_pydict()
    texts = [f"{a} {o}" for a, o in zip(columns["module_adjacency"], columns["module_operations"], strict=True)]
    cells = [Codec.parse(text, SPACE) for text in texts]
    assert all(len(cell.nodes) < len(json.loads(text.partition("]] ")[2])) or Codec.format(cell) == text
               for cell, text in zip(cells, texts, strict=True))  # fmt: skip
    codes = torch.tensor([codes_of(cell) for cell in cells])
    assert rule(codes).all()
    published = (torch.tensor(columns["params_m"], dtype=torch.float64) * 1e6).round()
    assert torch.equal(SPACE.cost.params_and_macs(codes)[0], published)


# ---- costs ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("decided", [0.0, 0.25, 0.5, 0.75, 0.95])
def test_bounds_contain_every_completion(decided):
    codes = SPACE.sample(4000, seeded())
    exact, bounds = SPACE.cost.exact(codes), SPACE.cost.bounds(SPACE.domains(mask(codes, decided)))
    assert tuple(exact) == tuple(bounds) == SPACE.cost.names == ("params_m", "macs_m", "depth")
    for name, (low, high) in bounds.items():
        assert (low <= exact[name]).all() and (exact[name] <= high).all(), name


def test_bounds_meet_on_complete_codes():
    codes = SPACE.sample(4000, seeded())
    exact = SPACE.cost.exact(codes)
    for name, (low, high) in SPACE.cost.bounds(SPACE.domains(codes)).items():
        assert torch.equal(low, exact[name]) and torch.equal(high, exact[name]), name


def test_bounds_of_the_open_space_are_near_its_extremes():
    """The largest cell reaches the upper bound; the smallest is the pooling cell or the bare skip."""
    exact = SPACE.cost.params_and_macs(SPACE.legal_codes[::7])
    low, high = SPACE.cost.params_and_macs_bounds(SPACE.option_mask[None])
    assert (low[:, 0] <= exact.amin(1)).all() and (low[:, 0] > 0.5 * exact.amin(1)).all()
    assert (high[:, 0] >= exact.amax(1)).all() and (high[:, 0] < 1.1 * exact.amax(1)).all()


def test_depth_is_the_longest_path():
    for row in SPACE.sample(50, seeded()):
        cell = SPACE.decode(row)
        longest = networkx.dag_longest_path_length(networkx.DiGraph(cell.edges)) - 1
        assert SPACE.cost.exact(row[None])["depth"].item() == longest


# ---- networks ------------------------------------------------------------------------------------------------------
def test_built_networks_have_the_counted_costs():
    """Parameters and MACs of the modules, built and run on the meta device, equal the vectorized count."""
    for row in SPACE.sample(12, seeded()):
        cell = SPACE.decode(row)
        with torch.device("meta"):
            network = cell.build()
        assert measure(network, (3, 32, 32)) == tuple(SPACE.cost.params_and_macs(row[None])[:, 0].long().tolist())


@pytest.mark.parametrize("size", [(32, 32), (19, 14)])
def test_networks_classify(size):
    """The bare skip, poolings that are cut to fewer channels, and a projected skip added to a concatenation."""
    chain = "[[0, 1, 1, 1, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]"
    texts = [
        '[[0, 1], [0, 0]] ["input", "output"]',
        '[[0, 1, 1], [0, 0, 1], [0, 0, 0]] ["input", "maxpool3x3", "output"]',
        f'{chain} ["input", "conv1x1-bn-relu", "maxpool3x3", "maxpool3x3", "output"]',
    ]
    for text in texts:
        network = SPACE.parse(text).build(num_classes=7, in_channels=1)
        logits = network(torch.randn(2, 1, *size, generator=seeded()))
        assert logits.shape == (2, 7) and logits.isfinite().all()
        logits.sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
