"""Search spaces: what is legal, how it is written, what a user can declare and what is refused."""

import json
from copy import deepcopy
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import archgen
from archgen.build import measure
from archgen.space import ABSENT, OPEN, declare, load_space, shipped_spaces

NESTED = {
    "name": "nested",
    "nodes": {
        "a": {
            "op": ["x", "y", "z"],
            "size": {"options": [1, 2], "when": {"op": ["x", "y"]}},
            "depth": {"options": [5, 7, 9], "when": {"size": [2]}},
            "bias": {"options": [True, False], "when": {"op": "z"}},
        },
        "b": {"op": ["x", "skip"], "size": [4]},
    },
    "optional_edges": [["input", "b"], ["a", "output"]],
    "identity": ["skip"],
}
STAGES = {
    "name": "stages",
    "nodes": {
        "one": {"layers": [1, 2], "kernel1": [3, 5], "kernel2": {"options": [3, 5, 7], "when": {"layers": [2]}},
                "expand": [2]},
        "two": {"layers": [1], "kernel": [3, 5], "expand": [1, 3], "squeeze_excitation": [True, False]},
    },
    "builder": "inverted_residual",
    "skeleton": {"stem": 8, "channels": [12, 16], "strides": [1, 2], "head": 24, "resolution": 16, "classes": 5},
}  # fmt: skip
SPACES = {name: load_space(name) for name in shipped_spaces()} | {"nested": declare(NESTED), "stages": declare(STAGES)}
MODEST = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

every_space = pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- views ----------------------------------------------------------------------------------------------------------
@every_space
def test_round_trips(space):
    """Codes, graph, native string and JSON name one member; edges and attributes may come in any order."""
    for row in space.sample(40, seeded()):
        architecture = space.decode(row)
        assert torch.equal(space.encode(architecture), row)
        assert space.parse(str(architecture)) == architecture == space.parse(f"  {architecture}\n")
        assert space.parse(architecture.to_json()) == architecture
        entry = {"arch": "ignored", "graph": architecture.to_dict()}
        entry["graph"]["edges"].reverse()
        entry["graph"]["nodes"] = [dict(reversed(node.items())) for node in entry["graph"]["nodes"]]
        assert space.parse(json.dumps(entry)) == architecture


@every_space
def test_different_members_are_written_differently(space):
    codes = space.sample(500, seeded()).unique(dim=0)
    assert len({str(space.decode(row)) for row in codes}) == len(codes)


@every_space
def test_samples_are_legal_and_reach_every_option(space):
    codes = space.sample(3000, seeded())
    assert torch.equal(codes, space.sample(3000, seeded())) and space.feasible(codes).all()
    seen = [len(column.unique()) for column in codes.T]
    assert space.rule is not None or seen == [len(hole.options) for hole in space.holes]


@every_space
def test_decode_refuses_what_is_illegal(space):
    codes = space.sample(1, seeded())[0]
    for wrong in (OPEN, len(space.holes[0].options)):
        with pytest.raises(ValueError, match="no legal member"):
            space.decode([wrong, *codes[1:].tolist()])
    with pytest.raises(ValueError, match=f"{space.name} has {len(codes)} holes, got {len(codes) - 1}"):
        space.decode(codes[1:])


def test_a_hole_is_absent_exactly_where_its_condition_fails():
    space = SPACES["nested"]
    depth = next(index for index, hole in enumerate(space.holes) if hole.name == "a.depth")
    codes = space.sample(500, seeded())
    words = [[hole.options[code] for hole, code in zip(space.holes, row, strict=True)] for row in codes.tolist()]
    assert {(row[1] == 2, row[depth] != ABSENT) for row in words} == {(True, True), (False, False)}
    assert str(space.decode(codes[0])).count("|") == 2
    assert all(dict(space.decode(row).nodes[1].attributes).get("size") in (1, 2, None) for row in codes[:20])


# ---- legality -------------------------------------------------------------------------------------------------------
def all_legal(entry):
    """Legal codes of a declaration without a rule, from its own words."""
    rows = [[]]
    for node in entry["nodes"].values():
        choices = [[]]
        for attribute, spec in node.items():
            options, when = (spec["options"], spec["when"]) if isinstance(spec, dict) else (spec, {})
            extended = []
            for chosen in choices:
                values = dict(chosen)
                met = all(values[parent] in ([v] if isinstance(v, str) else v) for parent, v in when.items())
                extended += [[*chosen, (attribute, option)] for option in (options if met else [ABSENT])]
            choices = extended
        rows = [row + choice for row, choice in product(rows, choices)]
    names = [f"{node}.{attribute}" for node, spec in entry["nodes"].items() for attribute in spec]
    flags = list(product((False, True), repeat=len(entry.get("optional_edges", []))))
    space = declare(entry)
    codes = []
    for row, extra in product(rows, flags):
        named = {name: value for name, (_, value) in zip(names, row, strict=True)}
        values = [named.get(hole.name) for hole in space.holes if hole.kind != "edge"]
        codes.append([h.options.index(v) for h, v in zip(space.holes, [*values, *extra], strict=True)])
    return torch.tensor(codes)


@pytest.mark.parametrize("entry", [NESTED, STAGES], ids=["nested", "stages"])
def test_domains_and_feasibility_are_exact(entry):
    """Against brute force on all partial codes: feasible where a legal row agrees, and the domains are their union."""
    space, legal = declare(entry), all_legal(entry)
    assert sorted(legal.tolist()) == sorted(space.legal_codes.tolist()) and space.size == len(legal)
    partial = torch.tensor(list(product(*([OPEN, *range(len(hole.options))] for hole in space.holes))))
    agrees = ((legal[:, None] == partial) | (partial == OPEN)).all(-1)  # (L, P)
    feasible = space.feasible(partial)
    assert torch.equal(feasible, agrees.any(0)) and 0.01 < feasible.double().mean() < 0.99
    present = legal[..., None] == torch.arange(space.n_options)  # (L, H, O)
    union = torch.einsum("lp,lho->pho", agrees[:, feasible].double(), present.double()) > 0
    assert torch.equal(space.domains(partial[feasible]), union)


def declaration_of(name):
    """What the YAML file of a shipped space says."""
    return yaml.safe_load((Path(archgen.__file__).parent / "spaces" / f"{name}.yaml").read_text())


def test_domains_are_exact_for_once_for_all_stages():
    """One stage of MobileNetV3, masked at random, against its 7,371 members."""
    entry = declaration_of("mobilenetv3")
    entry = {"name": "stage", "nodes": {"stage": entry["nodes"]["stage1"]}}
    space, legal = declare(entry), all_legal(entry)
    assert len(legal) == space.size == 7371
    noise = torch.randint(4, (200, len(space.holes)), generator=seeded(3)) % space.option_mask.sum(-1)
    codes = torch.where(torch.rand(200, 1, generator=seeded(4)) < 0.5, space.sample(200, seeded()), noise)
    codes = torch.where(torch.rand(codes.shape, generator=seeded(1)) < 0.5, codes, OPEN)
    for row, feasible, domain in zip(codes, space.feasible(codes), space.domains(codes), strict=True):
        agreeing = legal[((legal == row) | (row == OPEN)).all(-1)]
        assert feasible == bool(len(agreeing))
        if feasible:
            assert torch.equal(domain, (agreeing[..., None] == torch.arange(space.n_options)).any(0))


def test_sizes_are_the_published_ones():
    sizes = {"nasbench201": 15_625, "nasbench101": 1_293_208, "mnasnet": 36**6 * 48, "mobilenetv3": 7371**5}
    assert {name: SPACES[name].size for name in sizes} == sizes
    assert len(SPACES["nasbench201"].legal_codes) == 15_625
    with pytest.raises(ValueError, match=r"mnasnet has 1\.04e\+11 members, too many to list"):
        _ = SPACES["mnasnet"].legal_codes


# ---- a user's space -------------------------------------------------------------------------------------------------
USER_YAML = """
name: attention_or_not
source: a test
nodes:
  stem: {op: [conv], width: [8, 12]}
  left:
    op: [conv, skip, zero]
    width: {options: [8, 12], when: {op: conv}}
    kernel: {options: [1, 3], when: {op: conv}}
  right: {op: [attention, pool], heads: {options: [1, 2, 4], when: {op: attention}}}
edges: [[input, stem], [stem, left], [stem, right], [right, output]]
optional_edges: [[left, right]]
identity: [skip]
zero: [zero]
builder: user_blocks:block
skeleton: {resolution: 8, classes: 3}
"""
USER_MODULE = """
from torch import nn


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return super().forward(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).reshape(x.shape)


def block(op, shape, width=8, kernel=3, heads=1):
    if op == "conv":
        return nn.Sequential(nn.Conv2d(shape[0], width, kernel, padding=kernel // 2), nn.BatchNorm2d(width), nn.ReLU())
    return nn.AvgPool2d(3, 1, 1) if op == "pool" else Attention(shape[0], heads, batch_first=True)
"""


@pytest.fixture
def user_space(tmp_path, monkeypatch):
    """Thirty lines: a YAML file and a module with one function."""
    assert len(USER_YAML.strip().splitlines() + USER_MODULE.strip().splitlines()) < 30
    (tmp_path / "user_blocks.py").write_text(USER_MODULE)
    (tmp_path / "mine.yaml").write_text(USER_YAML)
    monkeypatch.syspath_prepend(tmp_path)
    return load_space(tmp_path / "mine.yaml")


def test_a_users_space_samples_parses_builds_and_is_priced(user_space):
    """Counted costs equal the finished network's; a sum of two widths is refused when it is built."""
    assert user_space.size == 2 * (4 + 2) * 4 * 2 and len(user_space.legal_codes) == user_space.size
    built = 0
    for row in user_space.sample(40, seeded()):
        architecture = user_space.decode(row)
        assert user_space.parse(str(architecture)) == architecture == user_space.parse(architecture.to_json())
        values = [dict(node.attributes).get("width") for node in architecture.nodes]
        if (2, 3) in architecture.edges and values[2] not in (None, values[1]):
            with pytest.raises(
                ValueError, match=r"inputs of node 3 \(.*\) differ in shape: \[\(8, 8, 8\), \(12, 8, 8\)"
            ):
                architecture.build()
            continue
        network, cost = architecture.build(), user_space.cost.exact(row[None])
        counted = (round(1e6 * cost["params_m"].item()), round(1e6 * cost["macs_m"].item()))
        assert counted == measure(network, (3, 8, 8))
        assert network(torch.randn(2, 3, 8, 8)).shape == (2, 3)
        assert architecture.build(num_classes=7, in_channels=1)(torch.randn(2, 1, 8, 8)).shape == (2, 7)
        built += 1
    assert built > 20


def test_a_users_builder_that_is_not_there_or_returns_no_module_is_named(user_space, tmp_path):
    architecture = user_space.decode(user_space.sample(1, seeded())[0])
    for builder, sentence in (
        ("no_such_module:block", "cannot import its builder 'no_such_module:block'"),
        ("user_blocks:blok", "cannot import its builder 'user_blocks:blok'"),
        ("builtins:dict", r"a builder returns an nn\.Module, got dict for conv width="),
    ):
        space = declare({**user_space.declaration, "builder": builder})
        with pytest.raises(ValueError, match=sentence):
            space.parse(str(architecture)).build()


def test_a_space_of_stages_needs_no_python():
    space = SPACES["stages"]
    for row in space.sample(10, seeded()):
        network = space.decode(row).build()
        assert network(torch.randn(2, 3, 16, 16)).shape == (2, 5)
        assert measure(network, (3, 16, 16)) == tuple(space.cost.params_and_macs(row[None])[:, 0].long().tolist())


def test_a_space_without_a_builder_says_what_to_give():
    space = SPACES["nested"]
    architecture = space.decode(space.sample(1, seeded())[0])
    assert space.cost.names == ("depth",) and len(architecture.hash) == 16
    with pytest.raises(ValueError, match="give its YAML a 'builder'"):
        architecture.build()


def test_a_declaration_survives_json_and_yaml():
    """As text, since what sorts the keys of a mapping, as the configurations of diffusers do, makes another space."""
    for name in ("nasbench201", "mnasnet"):
        assert SPACES[name].spec == name
        assert load_space(name) is SPACES[name]
    declared = [declare(declaration_of(name)) for name in ("mnasnet", "mobilenetv3")]
    for space in (*declared, SPACES["nested"], SPACES["stages"]):
        for read, text in (
            (str, space.spec),
            (yaml.safe_load, yaml.safe_dump(dict(space.declaration), sort_keys=False)),
        ):
            again = load_space(read(text))
            assert again.holes == space.holes and again.edges == space.edges and again.declaration == space.declaration


# ---- what is refused ------------------------------------------------------------------------------------------------
def nodes(**spec):
    return {"nodes": {"a": {"op": ["x", "y"]}, "b": spec}}


MALFORMED = {
    "no name": ({"name": None}, "needs a 'name'"),
    "a path as name": ({"name": "../a"}, "letters, digits"),
    "unknown key": ({"node": {}}, "unknown key 'node'"),
    "no nodes": ({"nodes": {}}, "'nodes' maps each node"),
    "list of nodes": ({"nodes": ["a"]}, "'nodes' maps each node"),
    "nothing to decide": ({"nodes": {"a": {"op": ["x"]}}}, "nothing to decide"),
    "node without options": ({"nodes": {"a": None}}, "maps attributes to lists"),
    "node called input": ({"nodes": {"input": {"op": ["x", "y"]}}}, "are implied"),
    "node with a blank": ({"nodes": {"a b": {"op": ["x", "y"]}}}, "the name of a node"),
    "node with a dot": ({"nodes": {"a.b": {"op": ["x", "y"]}}}, "the name of a node"),
    "attribute called edge": (nodes(edge=[1, 2]), "b.edge: an attribute is a word"),
    "attribute called op2": (nodes(op2=["x", "y"]), "b.op2: an attribute is a word"),
    "attribute with a dash": (nodes(**{"a-b": [1, 2]}), "b.a-b: an attribute is a word"),
    "no options": (nodes(k=[]), "b.k needs a list of numbers or words"),
    "nested options": (nodes(k=[[1], [2]]), "b.k needs a list of numbers or words"),
    "missing option": (nodes(k=[1, None]), "b.k needs a list of numbers or words"),
    "infinite option": (nodes(k=[1.0, float("inf")]), "b.k needs a list of numbers or words"),
    "equal options": (nodes(k=[1, 1]), "b.k: options differ"),
    "options equal in Python": (nodes(k=[1, True]), "b.k: options differ"),
    "options equal in words": (nodes(k=[True, "yes"]), "b.k: options differ"),
    "option with a blank": (nodes(k=["a b", "c"]), "b.k: options differ, hold no blank"),
    "empty option": (nodes(k=["", "c"]), "b.k: options differ, hold no blank"),
    "option called absent": (nodes(k=["absent", "c"]), "are not 'absent'"),
    "operations that are numbers": (nodes(op=[1, 2]), "b.op: operations are words"),
    "layers in words": (nodes(layers=["one", "two"]), "b.layers: layers are counted"),
    "condition without options": (nodes(k={"when": {"op": ["x"]}}), "b.k is a list, or"),
    "condition without when": (nodes(k={"options": [1, 2]}), "b.k is a list, or"),
    "two conditions": (
        nodes(j=[1, 2], i=[1, 2], k={"options": [1, 2], "when": {"j": 1, "i": 2}}),
        "b.k is a list, or",
    ),
    "condition on what comes later": (nodes(k={"options": [1, 2], "when": {"j": [1]}}, j=[1, 2]), "b.k: 'when' needs"),
    "condition on a fixed attribute": (nodes(j=[1], k={"options": [1, 2], "when": {"j": [1]}}), "b.k: 'when' needs"),
    "condition that never holds": (nodes(j=[1, 2], k={"options": [1, 2], "when": {"j": [3]}}), "b.k: 'when' needs"),
    "condition on nothing": (nodes(j=[1, 2], k={"options": [1, 2], "when": {"j": []}}), "b.k: 'when' needs"),
    "condition on lists": (nodes(j=[1, 2], k={"options": [1, 2], "when": {"j": [[1]]}}), "b.k: 'when' needs"),
    "conditional operation": (nodes(j=[1, 2], op={"options": ["x", "y"], "when": {"j": [1]}}), "b.op: 'when' needs"),
    "edge to nowhere": ({"edges": [["input", "c"]]}, "an edge is a pair of"),
    "edge of three": ({"edges": [["input", "a", "b"]]}, "an edge is a pair of"),
    "edges in words": ({"optional_edges": "input->a"}, "an edge is a pair of"),
    "edge of lists": ({"edges": [[["input"], "a"]]}, "an edge is a pair of"),
    "edge backward": ({"edges": [["b", "a"]]}, "b -> a runs backward"),
    "edge to itself": ({"edges": [["a", "a"]]}, "a -> a runs backward"),
    "edge twice": ({"edges": [["input", "a"], ["input", "a"]]}, "listed twice"),
    "edge fixed and optional": ({"edges": [["a", "b"]], "optional_edges": [["a", "b"]]}, "both fixed and optional"),
    "identity in a word": ({"identity": "x"}, "'identity' lists some of the operations"),
    "zero that is no operation": ({"zero": ["none"]}, "'zero' lists some of the operations"),
    "columns in a list": ({"columns": ["a"]}, "'columns' maps words to values"),
    "skeleton in a word": ({"skeleton": "x"}, "'skeleton' maps words to values"),
    "no classes": ({"skeleton": {"classes": 0}}, "'classes' of the skeleton"),
    "canonical": ({"canonical": "tree"}, "'graph' or 'expression'"),
    "builder": ({"builder": "mobilenet"}, "'builder' is 'inverted_residual'"),
    "builder that is no word": ({"builder": 3}, "'builder' is 'inverted_residual'"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_declaration_is_refused_in_one_sentence(case):
    change, sentence = MALFORMED[case]
    entry = {"name": "s", "nodes": {"a": {"op": ["x", "y"]}, "b": {"op": ["x", "y"]}}, **change}
    with pytest.raises(ValueError, match=sentence) as error:
        declare(entry)
    assert "\n" not in str(error.value)


def stage(**spec):
    return {"nodes": {"one": spec, "two": STAGES["nodes"]["two"]}}


UNBUILDABLE = {
    "no stem": ({"skeleton": {**STAGES["skeleton"], "stem": None}}, "needs 'stem' in whole numbers"),
    "too few channels": ({"skeleton": {**STAGES["skeleton"], "channels": [8]}}, "one number for each of the 2 nodes"),
    "unknown activation": ({"skeleton": {**STAGES["skeleton"], "activation": "swish"}}, "knows the activations relu"),
    "unknown gate": ({"skeleton": {**STAGES["skeleton"], "squeeze": {"gate": "relu"}}}, "and gates sigmoid"),
    "edges of its own": ({"optional_edges": [["input", "two"]]}, "stages follow one another"),
    "unknown attribute": (stage(kernel_size=[3, 5], expand=[1]), "one has no use for 'kernel_size'"),
    "layer that is not there": (stage(kernel=[3, 5], expand=[1], kernel2=[3, 5]), "one has no use for 'kernel2'"),
    "no kernel": (stage(expand=[1, 2]), "one needs 'kernel', or 'kernel1' for its layer 1"),
    "no second kernel": (stage(layers=[2], expand=[1, 2], kernel1=[3]), "'kernel2' for its layer 2"),
    "even kernel": (stage(kernel=[3, 4], expand=[1]), r"one\.kernel cannot be built with all of \[3, 4\]"),
    "no layers": (stage(layers=[0, 1], kernel=[3], expand=[1]), r"one\.layers cannot be built"),
    "half an expansion": (stage(kernel=[3], expand=[1, 0.5]), r"one\.expand cannot be built"),
    "wrong condition": (
        stage(
            layers=[1, 2, 3], expand=[1], kernel1=[3], kernel2={"options": [3], "when": {"layers": [2]}}, kernel3=[3]
        ),
        r"one\.kernel2: 'when' lists all 'layers' that have this one",
    ),
}


@pytest.mark.parametrize("case", UNBUILDABLE)
def test_stages_that_cannot_be_built_are_refused(case):
    change, sentence = UNBUILDABLE[case]
    space = declare({**STAGES, **change})
    with pytest.raises(ValueError, match=sentence) as error:
        _ = space.cost
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["a: [", "\x00", "- 1", "[" * 5000, "a: !!python/object:os.system x", "? [a]: b", "x: 2001-99-99"]
)
def test_files_that_are_no_declaration_are_refused(tmp_path, text):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"s\.yaml is no readable YAML|needs a 'name'") as error:
        load_space(tmp_path / "s.yaml")
    assert "\n" not in str(error.value)


def test_an_unknown_space_is_told_what_is_shipped(tmp_path):
    assert set(shipped_spaces()) == {"mnasnet", "mobilenetv3", "nasbench101", "nasbench201"}
    for name in ("nasbench301", "", "NASBench201", "../nasbench201"):
        with pytest.raises(
            ValueError, match="shipped: mnasnet, mobilenetv3, nasbench101, nasbench201, or give the path"
        ):
            load_space(name)
    with pytest.raises(ValueError, match="no file"):
        load_space(tmp_path / "none.yaml")


PLAIN = st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.sampled_from(
    ["x", "y", "a", "b", "op", "input", "output", "layers", "kernel2", "absent", "edge", "", " ", "a|b", "é", "{"]
)  # fmt: skip
JSONLIKE = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3))


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def damaged(entry, data):
    """A copy of nested lists and mappings, with a few values at random places replaced, added or removed."""
    entry = deepcopy(entry)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(places(entry))))
        if not path:
            continue
        parent = entry
        for key in path[:-1]:
            parent = parent[key]
        action = data.draw(st.sampled_from(["replace", "remove", "rename"]))
        value = parent.pop(path[-1])
        if action != "remove":
            key = data.draw(PLAIN) if action == "rename" and isinstance(parent, dict) else path[-1]
            value = data.draw(JSONLIKE) if action == "replace" else value
            parent.insert(key, value) if isinstance(parent, list) else parent.__setitem__(key, value)
    return entry


@MODEST
@given(data=st.data())
def test_any_declaration_is_refused_or_works(data):
    """A damaged or random declaration raises one sentence, or gives a space whose members can be written and read."""
    entry = data.draw(st.sampled_from([NESTED, STAGES, yaml.safe_load(USER_YAML)]))
    entry = data.draw(JSONLIKE) if data.draw(st.integers(0, 9)) == 0 else damaged(entry, data)
    try:
        space = declare(entry)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    for row in space.sample(3, seeded()):
        architecture = space.decode(row)
        assert space.parse(str(architecture)) == architecture and torch.equal(space.encode(architecture), row)
    if space.builder != "archgen.build:CallableBuilder":
        try:
            assert len(space.cost.exact(space.sample(3, seeded()))["depth"]) == 3
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("name", SPACES)
@MODEST
@given(data=st.data())
def test_any_text_is_refused_or_names_a_member(name, data):
    """Random words, damaged native strings and damaged JSON give a legal member or one sentence."""
    space = SPACES[name]
    architecture = space.decode(space.sample(1, seeded(data.draw(st.integers(0, 99))))[0])
    kind = data.draw(st.sampled_from(["text", "native", "json"]))
    text = data.draw(st.text(max_size=60))
    if kind == "native":
        text = list(str(architecture))
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(text) - 1))
            text[place : place + data.draw(st.integers(0, 3))] = data.draw(
                st.text('|~+0123=<>- [],"xé{}\x00', max_size=2)
            )
        text = "".join(text)
    if kind == "json":
        text = json.dumps(damaged(architecture.to_dict(), data), skipkeys=True)
    try:
        member = space.parse(text)
    except ValueError as error:
        assert kind == "json" or "\n" not in str(error)
        return
    assert space.feasible(space.encode(member)[None]).all() and space.parse(str(member)) == member


@pytest.mark.parametrize(
    "text", ['{"a":' * 10_000, '{"nodes": ' + "9" * 5000 + "}", '{"graph": 3}', '{"nodes": [NaN]}', "{", "{}"]
)
def test_strange_json_is_refused(text):
    for space in SPACES.values():
        with pytest.raises(ValueError, match=r"not valid JSON|a graph needs"):
            space.parse(text)


def test_options_that_are_doubled_or_unknown_are_named():
    space = SPACES["stages"]
    text = "layers=1 kernel1=3 | kernel=3 expand=1 squeeze_excitation=no"
    assert str(space.parse(text)) == text
    for old, new, sentence in (
        ("kernel1=3", "kernel1=3 kernel1=5", "one.kernel1 is given twice"),
        ("kernel1=3", "kernel1=9", r"one.kernel1 of stages is one of \['3', '5'\], got '9'"),
        ("kernel1=3", "", "one.kernel1 of stages is one of .*, got nothing"),
        ("kernel1=3", "kernel1=3 width=2", "stages has no 'one.width'"),
        ("kernel1=3", "kernel1=3 kernel2=3", "no legal member of stages"),
        ("| kernel", "| kernel=3 | kernel", "expects 2 parts"),
    ):
        with pytest.raises(ValueError, match=sentence):
            space.parse(text.replace(old, new))
