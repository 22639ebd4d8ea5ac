"""Text: numbers are read, requests mean what they say, tokens and predicates are one, refusals have reasons."""

import itertools
import json
import re
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from archgen.beams import CachedLayer
from archgen.caption import PAIRS_HELD_OUT, Writer
from archgen.constraint import Constraint, quantity
from archgen.describe import LABELS, describe, described, wiring
from archgen.language import is_held_out, kept_back, language
from archgen.meaning import WORDS
from archgen.numerals import beyond, find_numbers, small
from archgen.reading import (
    DONE,
    END,
    INDEX,
    KINDS,
    START,
    TOKENS,
    Unreadable,
    admitted,
    prepared,
    requested,
    spelled,
    transitions,
    understood,
)  # fmt: skip
from archgen.space import load_space
from archgen.text import ArchBERT, ArchBERTConfig, all_labels
from archgen.vocabulary import ATTRIBUTES, Predicate, facts_of
from archgen.wholes import COSTS, MEANS, Part

SPACES = tuple(ATTRIBUTES)


# ---- numbers --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("less than 0.4M params", [4e5]),
        ("350,000 weights", [350_000]),
        ("a third of a million", [1e6 / 3]),
        ("half a million or one and a half million", [5e5, 1.5e6]),
        ("three 3x3 convs, 2 x 3x3, a couple of 1x1s", [3, 2, 2]),
        ("100 and 150 MFLOPs", [1e8, 1.5e8]),
        ("0.3-0.4M", [3e5, 4e5]),
        ("between 0.3 and 0.6 GMACs", [3e8, 6e8]),
        ("two or three million", [2e6, 3e6]),
        ("skips == five and 320K <= params", [5, 3.2e5]),
        ("depth at most 3 or 2M params", [3, 2e6]),
        ("a network of depth 3 and 1M params", [3, 1e6]),
        ("max depth: 3 and 20 MFLOPs", [3, 2e7]),
        ("depth 3 - 300M flops", [3, 3e8]),
        ("100 - 300M flops", [1e8, 3e8]),
        ("1/2 million params, 10^6 or 1.2 x 10^6 or 3*10**5", [5e5, 1e6, 1.2e6, 3e5]),
        ("under 400_000 or 400 000 or 2 500 000", [4e5, 4e5, 2.5e6]),
        ("depth 3 100 MFLOPs", [3, 1e8]),
        ("two dozen, a dozen, half a dozen, dozen", [24, 12, 6, 12]),
        ("under half million, a quarter million", [5e5, 2.5e5]),
        ("2 and a half million, two million and a half", [2.5e6, 2.5e6]),
        ("two and a half of them", [2.5]),
        ("0.02 GFLOPs, 20MMACs, 1e6", [2e7, 2e7, 1e6]),
        ("five hundred and twenty thousand", [520_000]),
        ("three-by-three conv of depth 3", [3]),
        ("one point two million", [1.2e6]),
        ("between one and two million", [1e6, 2e6]),
        ("two hundred and fifty thousand", [250_000]),
        ("3x3 x3, skip x2", [3, 2]),
        ("a 3x3x3 kernel", []),
        ("no number here", []),
        ("two three-by-three convs, two two-layer stages", [2, 2, 2]),
        ("twenty-one, two-three", [21, 2, 3]),
        ("350.000 or 1.500.000 but 1.000", [350_000, 1_500_000, 1]),
        ("half a mil, point five million, 1 1/2 million", [5e5, 5e5, 1.5e6]),
        ("at least 200 and at most 300k", [2e5, 3e5]),
        ("between 60 and 0.08G", [60, 8e7]),
        ("3convs, 2skips, 1 TFLOP", [3, 2, 1e12]),
    ],
)
def test_numbers_are_found_as_people_write_them(text, values):
    assert [one.value for one in find_numbers(text)] == pytest.approx(values)


def test_powers_survive_normalization():
    assert [one.value for one in prepared("10\u2076 params, 2\u00d710\u2078 MACs", "nasbench201")[1]] == [1e6, 2e8]


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_can_be_prepared(text):
    words, numbers = prepared(text, "nasbench201")
    assert isinstance(words, str)
    assert len(numbers) <= 8


def test_both_ends_of_an_interval_are_numbers():
    assert [one.value for one in prepared("skips in [1,2], under 0,4M params", "nasbench201")[1]] == [1, 2, 400_000]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[0.2,0.4]", [0.2, 0.4]),
        ("[100M,200M]", [1e8, 2e8]),
        ("300k (300,000) weights", [3e5, 3e5]),
        ("2,3 or 4 skips", [2, 3, 4]),
        ("layers 1,2,3", [1, 2, 3]),
        ("1,5 million", [1.5e6]),
        ("1\u00bd million, 2\u00bdM", [1.5e6, 2.5e6]),
        ("macs_m <= 2000", [2e9]),
    ],
)
def test_commas_and_units_are_those_of_numbers(text, values):
    assert [one.value for one in prepared(text, "nasbench201")[1]] == pytest.approx(values)


def test_millions_are_said_in_many_ways():
    for text in ("0.4M", "400k", "400,000", "0.4 million", "four hundred thousand", "400000", "0.4"):
        assert find_numbers(f"under {text} params")[0].in_millions() == pytest.approx(0.4)


# ---- what is asked --------------------------------------------------------------------------------------------------
@given(st.integers(0, 30), st.integers(0, 1000))
def test_counts_that_are_too_large_are_written_as_they_are_read(most, seed):
    number = beyond(most, Random(seed))
    assert number > most
    assert [one.value for one in find_numbers(f"{small(number, Random(seed))} skips")] == [number]


@pytest.mark.parametrize("space", SPACES)
def test_what_a_request_means_is_what_its_constraint_says(space):
    facts, random = facts_of(space), Random(0)
    writer = Writer(facts, "all")
    codes = facts.members[:: max(1, len(facts.members) // 300)]
    values = facts.of(codes)
    for _ in range(60):
        text = writer.request(random)
        try:
            met = Constraint(facts.constraint(text.request), facts.space).holds(codes)
        except ValueError as error:  # depth alone is written as a number of the request's own
            pytest.fail(f"{text.request}: {error}")
        assert torch.equal(met, facts.holds(text.request, values)), text


@pytest.mark.parametrize("space", SPACES)
def test_tokens_spell_the_request_and_nothing_else(space):
    facts, random = facts_of(space), Random(1)
    writer = Writer(facts, "all")
    for _ in range(300):
        text = writer.request(random)
        try:
            tokens = spelled(text)
        except Unreadable:
            continue
        _, numbers = prepared(text.text, space)
        assert [list(map(str, clause)) for clause in understood(tokens, numbers)] == [
            list(map(str, clause)) for clause in text.request
        ]
        state, allowed = 0, admitted(space, len(numbers))
        for token in [*tokens, END]:
            assert allowed[INDEX[token]], (token, text)
            state = int(transitions()[state, INDEX[token]])
            assert state >= 0, (token, tokens)
        assert state == DONE


@pytest.mark.parametrize("space", SPACES)
def test_whatever_the_grammar_admits_is_a_request(space):
    """Random walks through the grammar can all be read, and made constraints of."""
    generator = torch.Generator().manual_seed(0)
    _, numbers = prepared("between 2 and 3 of them, 0.4M", space)
    allowed = admitted(space, len(numbers))
    for _ in range(200):
        state, tokens = 0, []
        while state != DONE and len(tokens) < 40:
            options = ((transitions()[state] >= 0) & allowed).nonzero().flatten()
            token = int(options[torch.randint(len(options), (1,), generator=generator)])
            state = int(transitions()[state, token])
            tokens.append(TOKENS[token])
        if state == DONE and tokens[0] not in ("unrelated", "unknown"):
            kind = tokens[0] if tokens[0] in KINDS else "request"
            facts_of(space).parsed(requested(kind, tokens[:-1], numbers))


@pytest.mark.parametrize("space", SPACES)
def test_questions_are_spelled_too(space):
    writer, random = Writer(facts_of(space), "all"), Random(4)
    for _ in range(200):
        text = writer.question(random)
        tokens, (_, numbers) = spelled(text), prepared(text.text, space)
        assert tokens[0] == text.kind
        asked = requested(text.kind, tokens, numbers)
        assert list(map(str, asked[0])) == list(map(str, text.request[0]))


def test_contradictions_are_written_sometimes():
    facts, random = facts_of("nasbench201"), Random(2)
    writer = Writer(facts, "all")
    met = [facts.holds(writer.request(random).request, facts.table).any().item() for _ in range(300)]
    assert 0.01 < 1 - sum(met) / len(met) < 0.25


@pytest.mark.parametrize(
    ("kind", "true"),
    [
        ("nothing_else", lambda v, request: v["none"] + sum(c[0].right for c in request) == 6),
        ("rest", lambda v, request: v[request[0][0].left[0]] + v[request[1][0].left[0]] == 6),
        ("all_but", lambda v, request: 6 - request[0][0].right <= 3),
        ("of_which", lambda v, request: v["conv3x3"] + v["conv1x1"] == request[0][0].right),
        ("one_type", lambda v, request: (v["conv3x3"] == 0) ^ (v["conv1x1"] == 0)),
        ("all_ops", lambda v, request: v["none"] <= 2),
        ("all_five", lambda v, request: v["none"] >= 1),
        ("halves", lambda v, request: v[request[0][0].left[0]] == 3 == v[request[1][0].left[0]]),
        ("some_not_all", lambda v, request: 0 < v.get(request[0][0].left[0], v["conv3x3"] + v["conv1x1"]) < 6),
        ("unweighted <=", lambda v, request: v["pool"] + v["skip"] <= request[0][0].right),
        ("sum_of_two ==", lambda v, request: len({*request[0][0].left, *request[0][0].right}) == 3),
    ],
)
def test_what_is_asked_of_a_whole_cell_is_asked_of_each_part(kind, true):
    """Each member that meets such a request has what the words say."""
    facts, random = facts_of("nasbench201"), Random(3)
    writer, seen = Writer(facts, "all"), 0
    while seen < 10:
        text = writer.request(random, 1)
        met = facts.holds(text.request, facts.table)
        if text.phrases == {kind} and met.any():
            assert all(true({name: values[row] for name, values in facts.table.items()}, text.request)
                       for row in met.nonzero().flatten()[:20].tolist()), text  # fmt: skip
            seen += 1


def test_counts_in_lists_and_in_code_are_those_of_a_member_and_what_is_allowed_asks_for_nothing():
    facts, random = facts_of("mnasnet"), Random(4)
    writer = Writer(facts, "all")
    texts = [writer.request(random, 1) for _ in range(600)]
    kinds = ("listed", "coded", "allowed", "needless")
    listed, coded, allowed, needless = ([one.request for one in texts if one.phrases == {kind}] for kind in kinds)
    for told in (listed, coded):
        assert len(told) > 3 and all(facts.holds(request, facts.table).any() for request in told)
    for asked in (allowed, needless):
        assert len(asked) > 3 and not any(asked)


def test_numbers_of_tales_are_not_asked_for():
    """A tale is told beside a request, whose numbers alone are pointed at."""
    writer, random, told = Writer(facts_of("nasbench201"), "all"), Random(5), 0
    for _ in range(3000):
        text = writer.request(random, 1)
        values = {one.right for clause in text.request for one in clause if isinstance(one.right, float)}
        if text.phrases == {"count =="} and (numbers := [one.value for one in find_numbers(text.text)])[1:]:
            told += 1
            assert values <= {*numbers}, text
    assert told > 3


@pytest.mark.parametrize("section", ["count", "depth", "params", "flops", "words"])
def test_no_phrase_has_two_meanings(section):
    meanings: dict[str, set[str]] = {}
    for meaning, forms in language()[section].items():
        for form in itertools.chain(*forms.values()) if isinstance(forms, dict) else ():
            meanings.setdefault(form.lower(), set()).add(meaning)
    assert not {form: found for form, found in meanings.items() if len(found) > 1}


def test_forms_of_whole_requests_say_what_they_mean():
    """Whatever is asked for has its slot in the words, and each number stands once."""
    for form in itertools.chain(*language()["whole"].values()):
        text, _, means = form.partition(MEANS)
        slots = re.findall(r"\{([A-Za-z])\}", text)
        parts = [part for clause in means.split("; ") if clause for part in clause.split(" | ")]
        parts = [Part.read(part) for part in parts if part not in WORDS["nasbench201"]]
        asked = {name for one in parts for name in (*one.left, *(() if isinstance(one.right, float) else one.right))}
        assert asked - {"params", "flops", "depth"} <= {slot.upper() if slot in "abc" else slot for slot in slots}, (
            form
        )
        assert all(slots.count(number) == (number in asked) for number in "nmkPF"), form
        assert all(part.left == (COSTS[part.right],) for part in parts if part.right in COSTS), form


def test_pairs_of_phrases_that_are_held_out_are_in_no_training_request():
    facts, random = facts_of("nasbench201"), Random(0)

    def held(text):
        pairs = itertools.combinations(sorted(text.phrases), 2)
        return any(is_held_out(" & ".join(pair), PAIRS_HELD_OUT) for pair in pairs)

    assert not any(held(Writer(facts, "without").request(random)) for _ in range(100))
    assert all(held(text) for text in (Writer(facts, "pairs").request(random) for _ in range(30)) if text.phrases)


def test_held_out_phrases_are_in_no_training_text():
    """Some phrase of every long list is kept back, and neither kind of writer uses the other's."""
    facts, forms = facts_of("nasbench201"), language()["absent"]["say"]
    assert 0 < len(kept_back(forms)) < len(forms) / 2 and not {*forms[:4]} & {*kept_back(forms)}
    nouns = {noun.partition("/")[0] for noun in kept_back(language()["nouns"]["pool"])}
    assert nouns.isdisjoint(singular for singular, _ in Writer(facts).phrases.nouns["pool"])
    assert {singular for singular, _ in Writer(facts, "phrases").phrases.nouns["pool"]} == nouns


# ---- facts ----------------------------------------------------------------------------------------------------------
def test_facts_are_counts_of_the_native_string():
    facts = facts_of("nasbench201")
    rows = facts.members[::997]
    values = facts.of(rows)
    for row, cell in enumerate(facts.space.decode_all(rows)):
        for name, op in (("conv3x3", "nor_conv_3x3"), ("skip", "skip_connect"), ("none", "none")):
            assert values[name][row] == str(cell).count(op)


def test_quantiles_are_values_of_the_space():
    facts = facts_of("nasbench201")
    for percent in (10, 30, 80):
        level = facts.quantile("params", percent)
        below = (facts.table["params"] <= level).double().mean()
        assert below >= percent / 100 - 1e-12
        assert (facts.table["params"] < level).double().mean() < percent / 100


def test_a_quantity_is_linear_in_its_parts():
    space = load_space("mnasnet")
    codes = space.sample(50, torch.Generator().manual_seed(0))
    layers = quantity(ATTRIBUTES["mnasnet"]["layers"], space)(codes)
    expected = [sum(dict(node.attributes).get("layers", 0) for node in one.nodes) for one in space.decode_all(codes)]
    assert layers.tolist() == expected


def test_a_request_for_high_accuracy_is_a_wish():
    facts = facts_of("nasbench201")
    request = ((Predicate(("accuracy",), ">=", "q95"),),)
    assert facts.constraint(request) == "depth >= 0"
    assert facts.holds(request, facts.table).sum() == (facts.table["depth"] >= 0).sum()


@pytest.mark.parametrize("space", SPACES)
def test_descriptions_are_true(space):
    """Numbers of a description are those of the architecture, and its wiring gives the graph back."""
    facts = facts_of(space)
    rows = facts.members[:: len(facts.members) // 20][:20]
    values = facts.of(rows)
    for row, cell in enumerate(facts.space.decode_all(rows)):
        text = describe(cell, facts)
        counts, costs, _ = text.split(". ", 2)
        said = [one.value for one in find_numbers(counts.replace("no ", "0 "))]
        names = [name for name in facts.attributes if name not in ("depth", "params", "flops")]
        if space != "mnasnet":  # whose nouns hold numbers too
            assert said == [values[name][row].item() for name in names]
        assert [one.value for one in find_numbers(costs)] == pytest.approx(
            [values["depth"][row].item(), *(1e6 * values[name][row].item() for name in ("params", "flops"))], rel=6e-3
        ) or "no path" in costs
        assert _graph_of(wiring(cell), len(cell.nodes)) == set(cell.edges)
        assert _kinds_of(wiring(cell)) == [LABELS.get(one.op, one.op.replace("_", " ")) for one in cell.nodes[1:-1]]


@pytest.mark.parametrize("space", SPACES)
def test_what_is_read_in_descriptions_is_true(space):
    facts, random = facts_of(space), Random(0)
    rows = facts.members[facts.table["depth"] >= 0][:: len(facts.members) // 100][:100]
    clauses = 0
    for row, cell in zip(rows, facts.space.decode_all(rows), strict=True):
        text = described(cell, facts, random)
        request = understood(spelled(text), prepared(text.text, space)[1])
        assert facts.holds(request, facts.of(row[None]))
        clauses += len(request)
    assert clauses > 300


def _kinds_of(text: str) -> list[str]:
    """The operations that a wiring in words tells, in order."""
    if text.startswith("From input to output"):
        parts = text.partition(": ")[2].split("; ")
    else:
        parts = [part.partition(" is ")[2].rpartition(" on ")[0] for part in text.split("; ")[:-1]]
    return [part.partition(": ")[0].rstrip(".").removeprefix("an ").removeprefix("a ") for part in parts]


def _graph_of(text: str, nodes: int) -> set[tuple[int, int]]:
    """The edges that a wiring in words tells."""
    if text.startswith("From input to output"):
        return {(index, index + 1) for index in range(text.count(";") + 2)}
    edges = set()
    for part in text.rstrip(".").lower().split("; "):
        head, _, sources = part.partition(" on ") if " is " in part else part.partition(" takes ")
        target = nodes - 1 if "output" in head else int(head.split()[1])
        edges |= {
            (0 if "input" in source else int(source.split()[-1]), target)
            for source in sources.replace(" and ", ", ").split(", ")
        }
    return edges


def test_the_graded_queries_are_apart_from_those_looked_at():
    def asked(folder):
        return [
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for path in (Path(__file__).parents[1] / folder).glob("*.jsonl")
        ]

    judging, seen = asked("tests"), {one["query"] for file in asked("training") for one in file}
    for file in judging:
        assert len([one for one in file if one["predicates"][0] not in ("UNSAT", "OOS")]) >= 60
    texts = [one["query"] for file in judging for one in file]
    assert texts and not seen & set(texts)
    assert len(set(texts)) == len(texts)


# ---- beams ----------------------------------------------------------------------------------------------------------
def test_tokens_one_by_one_say_what_all_at_once_do():
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(16, 4, 32, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    memory, mask = torch.randn(3, 7, 16), torch.arange(7) < torch.tensor([[7], [4], [1]])
    h = torch.randn(3, 5, 16)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    with torch.inference_mode():
        expected = layer(h, memory, tgt_mask=causal, memory_key_padding_mask=~mask)
        one_by_one = CachedLayer(layer, memory, mask)
        found = torch.stack([one_by_one(h[:, place, None].expand(-1, 2, -1)) for place in range(5)], 2)
    assert torch.allclose(found, expected[:, None].expand_as(found), atol=1e-5)


# ---- the model ------------------------------------------------------------------------------------------------------
def tiny_model(tokens=TOKENS):
    torch.manual_seed(0)
    bert = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16}  # fmt: skip
    return ArchBERT(ArchBERTConfig(bert, all_labels(), tokens, width=16, shared=16)).eval()


def test_one_text_for_all_architectures_says_what_it_says_to_each():
    model, memory, mask = tiny_model(), torch.randn(1, 5, 16), torch.tensor([[1, 1, 1, 1, 0]])
    nodes, there = torch.randn(4, 3, 16), torch.arange(3) < torch.tensor([[3], [2], [1], [3]])
    with torch.inference_mode():
        (odds, seen), (each, expected) = (
            model.match(nodes, there, memory.expand(count, -1, -1), mask.expand(count, -1)) for count in (1, 4)
        )
    assert torch.allclose(odds, each, atol=1e-5)
    assert torch.allclose(seen[there], expected[there], atol=1e-5)


def test_a_reader_never_writes_tokens_that_were_added_since_it_was_trained():
    before = [token for token in reversed(TOKENS) if token not in ("layers4", "skip")]
    model = tiny_model(before)
    memory, mask = torch.randn(1, 5, 16), torch.ones(1, 5)
    old = model.next_tokens(torch.tensor([[before.index(START), before.index("pool")]]), memory, mask)
    model._renew()
    new = model.next_tokens(torch.tensor([[INDEX[START], INDEX["pool"]]]), memory, mask)
    assert torch.allclose(new[..., [INDEX[token] for token in before]], old, atol=1e-6)
    assert (new[..., [INDEX["layers4"], INDEX["skip"]]] == -torch.inf).all()
