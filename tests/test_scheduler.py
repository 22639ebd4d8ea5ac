"""Both diffusion processes against closed forms."""

from itertools import pairwise

import pytest
import torch

from archgen.scheduler import AbsorbingScheduler, VEScheduler, draw
from archgen.space import OPEN

VALID = torch.ones(6, 5, dtype=torch.bool)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def first_option(logits, codes, chosen):
    """Decides every chosen hole for its likeliest option."""
    return torch.where(chosen, logits.argmax(-1), codes)


def test_draws_follow_the_softmax():
    """Frequencies of 60,000 draws, within 4 standard errors; what has no chance is never drawn."""
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    share = torch.bincount(draw(logits.expand(60_000, 4), seeded()), minlength=4).double() / 60_000
    expected = logits.double().softmax(-1)
    assert share[3] == 0
    assert ((share - expected).abs() <= 4 * (expected * (1 - expected) / 60_000).sqrt()).all()


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 5, 6, 7, 100, None])
def test_every_call_decides_some_holes_and_the_last_decides_all(calls):
    scheduler = AbsorbingScheduler()
    codes, logits = torch.full((8, 6), OPEN), torch.zeros(8, 6, 5)
    times = scheduler.times(calls, 6).tolist()
    assert len(times) - 1 == min(calls or 6, 6)
    for t, s in pairwise(times):
        after = scheduler.step(logits, t, s, codes, first_option, seeded())
        assert ((codes == OPEN).sum(-1) > (after == OPEN).sum(-1)).all()
        assert torch.equal(after[codes != OPEN], codes[codes != OPEN])
        codes = after
    assert (codes != OPEN).all()


def test_each_hole_is_as_likely_to_be_decided():
    """One of six holes at the first of six calls: 4 standard errors at 12,000 samples."""
    codes = AbsorbingScheduler().step(
        torch.zeros(12_000, 6, 5), 1.0, 5 / 6, torch.full((12_000, 6), OPEN), first_option, seeded()
    )
    share = (codes != OPEN).double().mean(0)
    assert ((share - 1 / 6).abs() <= 4 * (5 / 36 / 12_000) ** 0.5).all()


def test_training_opens_a_uniform_number_of_holes_and_weighs_them_equally():
    codes = torch.zeros(12_000, 6, dtype=torch.long)
    x, t, weight = AbsorbingScheduler().noised(codes, seeded(), VALID)
    assert t is None
    assert torch.equal(weight > 0, x == OPEN)
    assert torch.allclose(weight.sum(-1), torch.ones(12_000))
    share = torch.bincount((x == OPEN).sum(-1), minlength=7)[1:].double() / 12_000
    assert ((share - 1 / 6).abs() <= 4 * (5 / 36 / 12_000) ** 0.5).all()


def test_noise_grows_geometrically():
    scheduler = VEScheduler(sigma_min=0.1, sigma_max=10.0)
    assert [scheduler.sigma(t).item() for t in (0.0, 0.5, 1.0)] == pytest.approx([0.1, 1.0, 10.0])
    x, t, _ = scheduler.noised(torch.zeros(4000, 6, dtype=torch.long), seeded(), VALID)
    sigma = scheduler.sigma(t)[:, None, None]
    noise = (x * (1 + sigma**2).sqrt() - scheduler.clean(torch.zeros(4000, 6, dtype=torch.long), VALID)) / sigma
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_two_calls_a_level_and_the_last_is_free_of_noise():
    times = VEScheduler().times(2000, 6).tolist()
    assert len(times) - 1 == 2000
    assert times[:3] == [1.0, 1.0, 0.999]
    assert times[-1] == 0.0


@pytest.mark.parametrize("calls", [50, 400])
def test_the_reverse_process_recovers_a_known_distribution(calls):
    """With the exact posterior of independent options as network, samples have their frequencies (0.03)."""
    scheduler, chance = VEScheduler(), torch.tensor([0.5, 0.3, 0.1, 0.1, 0.0])
    options = torch.eye(5) * 2 - 1

    def posterior(x, t):  # log p(option | x) from the Gaussian likelihoods
        distance = ((x[..., None, :] * (1 + scheduler.sigma(t) ** 2).sqrt() - options) ** 2).sum(-1)
        return chance.log() - distance / (2 * scheduler.sigma(t) ** 2)

    generator = seeded()
    state = scheduler.start(torch.full((2000, 6), OPEN), VALID, generator)

    def decide(logits, codes, chosen):
        return draw(logits, generator)

    times = scheduler.times(calls, 6).tolist()
    for t, s in pairwise(times):
        x, _ = scheduler.inputs(state, t)
        state = scheduler.step(posterior(x, t), t, s, state, decide, generator)
    share = torch.bincount(state.flatten(), minlength=5).double() / state.numel()
    assert (share - chance).abs().max() < 0.03


def test_decided_holes_stay():
    scheduler = VEScheduler()
    codes = torch.full((4, 6), OPEN)
    codes[:, 2] = 3
    state = scheduler.start(codes, VALID, seeded())
    for t, s in ((1.0, 1.0), (1.0, 0.5), (0.5, 0.0)):
        state = scheduler.step(torch.zeros(4, 6, 5), t, s, state, first_option, seeded())
    assert (state[:, 2] == 3).all()


def test_time_runs_backward_only():
    with pytest.raises(ValueError, match="0 <= s < t"):
        AbsorbingScheduler().step(torch.zeros(1, 6, 5), 0.5, 0.5, torch.full((1, 6), OPEN), first_option)
    with pytest.raises(ValueError, match="0 <= s <= t"):
        VEScheduler().step(torch.zeros(1, 6, 5), 0.5, 0.6, {}, first_option)
