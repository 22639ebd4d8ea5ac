"""Exact costs against published tables, built networks and themselves; bounds of partial encodings."""

import time
from dataclasses import replace

import pytest
import torch
from pyarrow import parquet

from archgen.build import measure
from archgen.space import OPEN, declare, load_space, shipped_spaces

STAGES = {
    "name": "stages",
    "nodes": {
        "one": {"layers": [1, 2, 3], "kernel1": [3, 5], "kernel2": {"options": [3, 7], "when": {"layers": [2, 3]}},
                "kernel3": [3, 5], "expand": [1, 2], "activation": ["relu", "gelu"]},
        "two": {"layers": [2], "kernel": [5], "expand": [1, 3], "squeeze_excitation": [True, False]},
        "three": {"kernel": [3], "expand": [2], "squeeze_excitation": [True]},
    },
    "builder": "inverted_residual",
    "skeleton": {"stem": 8, "channels": [12, 20, 20], "strides": [2, 1, 1], "head": 24, "features": 10, "classes": 5,
                 "resolution": 45, "activation": "hardswish",
                 "squeeze": {"of": "middle", "divisor": 8, "gate": "hardsigmoid", "activation": "relu"}},
}  # fmt: skip
GRAPH = {
    "name": "graph",
    "nodes": {
        "a": {"op": ["x", "skip", "zero"], "layers": {"options": [0, 1, 3], "when": {"op": ["x"]}}},
        "b": {"op": ["x", "zero"]},
        "c": {"op": ["x", "skip"], "layers": [2]},
    },
    "edges": [["input", "a"], ["a", "b"], ["c", "output"]],
    "optional_edges": [["input", "b"], ["input", "c"], ["a", "c"], ["b", "c"], ["b", "output"], ["input", "output"]],
    "identity": ["skip"],
    "zero": ["zero"],
}
SPACES = {name: load_space(name) for name in shipped_spaces()} | {"stages": declare(STAGES), "graph": declare(GRAPH)}
BUILT = {name: space for name, space in SPACES.items() if "params_m" in space.cost.names}
NB201 = SPACES["nasbench201"]

every_space = pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))
every_built_space = pytest.mark.parametrize("space", BUILT.values(), ids=list(BUILT))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ones(millions):
    """A published column of millions in ones."""
    return (torch.tensor(millions, dtype=torch.float64) * 1e6).round()


# ---- against published tables ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("dataset", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_nasbench201_costs_are_the_published_ones(outside, dataset, classes):
    """Parameters and MACs of all 15,625 cells, to the unit."""
    space = replace(NB201, skeleton={**NB201.skeleton, "classes": classes})
    columns = parquet.read_table(outside("nas_bench_201.parquet")).to_pydict()
    codes = torch.tensor([[node_codes(op) for op in row] for row in zip(*cell_columns(columns), strict=True)])
    params, macs = space.cost.params_and_macs(codes)
    assert len(codes) == len(codes.unique(dim=0)) == 15_625
    assert torch.equal(params, ones(columns[f"{dataset}_params_m"]))
    assert torch.equal(macs, ones(columns[f"{dataset}_flops_m"]))


def cell_columns(columns):
    return (columns[f"op_{source}_{target}"] for source, target in ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)))


def node_codes(op):
    return NB201.holes[0].options.index(op)


def test_mnasnet_costs_against_accel_nasbench(outside):
    """Parameters of all 5,138 rows to the unit; MACs, published in another convention, correlate with 0.9983."""
    space = SPACES["mnasnet"]
    columns = parquet.read_table(outside("accel_nasbench.parquet")).to_pydict()
    letters = {"expand": "e", "kernel": "k", "layers": "l", "squeeze_excitation": "se"}
    codes = []
    for hole in space.holes:
        node, attribute = hole.name.split(".")
        words = columns[f"{node}_{letters[attribute]}"]
        codes.append([hole.options.index(type(hole.options[0])(word)) for word in words])
    params, macs = space.cost.params_and_macs(torch.tensor(codes).T)
    assert len(params) == 5138 and torch.equal(params, ones(columns["params_m"]))
    assert torch.corrcoef(torch.stack([macs, ones(columns["macs_m"])]))[0, 1] > 0.998


# ---- against built networks -----------------------------------------------------------------------------------------
@every_built_space
def test_built_networks_have_the_counted_costs(space):
    """Parameters of the module, and MACs of running it on the meta device; NAS-Bench-201 counts its last bias too."""
    bias = space.skeleton["classes"] if space.name == "nasbench201" else 0
    side = space.skeleton["resolution"]
    for row in space.sample(6, seeded()):
        architecture = space.decode(row)
        with torch.device("meta"):
            network = architecture.build()
        params, macs = measure(network, (3, side, side))
        assert [params, macs + bias] == space.cost.params_and_macs(row[None])[:, 0].tolist()


@pytest.mark.parametrize("size", [(64, 64), (37, 50)])
@every_built_space
def test_networks_classify_images_of_any_size(space, size):
    network = space.decode(space.sample(1, seeded(1))[0]).build(num_classes=7, in_channels=1)
    logits = network(torch.randn(2, 1, *size, generator=seeded()))
    assert logits.shape == (2, 7) and logits.isfinite().all()
    logits.square().sum().backward()
    unused = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not unused or space.name == "nasbench201"  # whose cells can have operations that lead nowhere


def test_the_classifier_has_the_classes_of_the_space_by_default():
    for name, classes in (("nasbench201", 10), ("stages", 5)):
        network = SPACES[name].decode(SPACES[name].sample(1, seeded())[0]).build()
        assert network(torch.randn(1, 3, 32, 32)).shape == (1, classes)


def test_a_cell_without_a_path_gives_the_same_logits_for_all_images():
    network = NB201.decode([0] * 6).build().eval()
    logits = network(torch.randn(3, 3, 32, 32, generator=seeded()))
    assert torch.equal(logits, logits[:1].expand_as(logits))


@every_space
def test_counts_of_operations(space):
    """Every node between input and output is counted once, under its operation."""
    codes = space.sample(10, seeded())
    counts = space.cost.operations(codes)
    for row, architecture in enumerate(space.decode_all(codes)):
        ops = [node.op for node in architecture.nodes[1:-1]]
        assert {op: n for op, column in counts.items() if (n := column[row].item())} == {
            op: ops.count(op) for op in ops
        }


# ---- depth and bounds -----------------------------------------------------------------------------------------------
def longest_path(architecture):
    """Operations on the longest path that runs through no zero, as the definition says."""
    space, reach = architecture.space, {0: 0}
    for position, node in enumerate(architecture.nodes[1:], 1):
        sources = [reach[s] for s, t in architecture.edges if t == position and s in reach]
        if sources and node.op not in space.zero:
            passive = node.op in space.identity or node.op == "output"
            reach[position] = max(sources) + (0 if passive else dict(node.attributes).get("layers", 1))
    return reach.get(len(architecture.nodes) - 1, -1)


@every_space
def test_depth_is_the_longest_path(space):
    codes = space.sample(300, seeded())
    expected = [longest_path(space.decode(row)) for row in codes]
    assert space.cost.exact(codes)["depth"].tolist() == expected and len(set(expected)) > 1


@pytest.mark.parametrize("decided", [0.0, 0.3, 0.6, 0.9])
@every_space
def test_bounds_contain_every_completion(space, decided):
    """Of 3,000 members some holes are opened; what the bounds say of the rest contains the members' own costs."""
    codes = space.sample(3000, seeded())
    partial = torch.where(torch.rand(codes.shape, generator=seeded(1)) < decided, codes, OPEN)
    exact, bounds = space.cost.exact(codes), space.cost.bounds(space.domains(partial))
    assert tuple(exact) == tuple(bounds) == space.cost.names
    for name, (low, high) in bounds.items():
        assert (low <= exact[name] + 1e-9).all() and (exact[name] <= high + 1e-9).all(), name


@every_space
def test_bounds_narrow_as_holes_are_decided(space):
    codes, order = space.sample(1000, seeded()), torch.rand(1000, len(space.holes), generator=seeded(1))
    before = space.cost.bounds(space.domains(torch.full_like(codes, OPEN)))
    for decided in (0.3, 0.6, 0.9, 1.0):
        after = space.cost.bounds(space.domains(torch.where(order < decided, codes, OPEN)))
        for name, (low, high) in after.items():
            assert (low >= before[name][0] - 1e-9).all() and (high <= before[name][1] + 1e-9).all(), name
        before = after


@every_space
def test_bounds_meet_on_complete_encodings(space):
    codes = space.sample(3000, seeded())
    exact = space.cost.exact(codes)
    for name, (low, high) in space.cost.bounds(space.domains(codes)).items():
        assert torch.equal(low, exact[name]) and torch.equal(high, exact[name]), name


@pytest.mark.parametrize("name", ["nasbench201", "stages", "graph"])
def test_bounds_are_tight_where_holes_are_few(name):
    """The extremes over all members are reached."""
    space = SPACES[name]
    exact = space.cost.exact(space.legal_codes)
    for cost, (low, high) in space.cost.bounds(space.option_mask[None]).items():
        assert (low.item(), high.item()) == (exact[cost].min().item(), exact[cost].max().item()), cost


@every_space
def test_a_hundred_thousand_encodings_are_priced_in_seconds(space):
    """Measured 0.02 to 0.8 s on one core; the limit leaves room for slower and busy ones. The best of three counts."""
    codes = space.sample(100_000, seeded())
    space.cost.exact(codes[:10])
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        space.cost.exact(codes)
        seconds.append(time.perf_counter() - start)
    print(f"{space.name}: {min(seconds):.2f} s for 100,000 encodings")
    assert min(seconds) < 5
