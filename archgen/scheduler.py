"""Diffusion processes over the holes of a search space: absorbing (masked) and variance-exploding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # by name: from_pretrained looks it up in this module
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from archgen.space import OPEN


@runtime_checkable
class Decide(Protocol):
    """Draws options for chosen holes; the pipeline's keeps every draw legal."""

    def __call__(
        self,
        logits: Float[Tensor, "batch holes options"],
        codes: Int[Tensor, "batch holes"],
        chosen: Bool[Tensor, "batch holes"],
    ) -> Int[Tensor, "batch holes"]:
        """Codes with the chosen holes decided."""


def draw(logits: Float[Tensor, "... options"], generator: torch.Generator | None = None) -> Int[Tensor, "..."]:
    """One option per row from `softmax(logits)`, by the Gumbel-max trick; minus infinity is never drawn."""
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64).to(logits.device)
    return (logits - (-uniform.clamp_min(1e-300).log()).log()).argmax(-1)


class AbsorbingScheduler(SchedulerMixin, ConfigMixin):
    """Masked (absorbing-state) discrete diffusion with the linear schedule `alpha(t) = 1 - t`.

    The number of open holes stands for the time, so the network needs none. With one call per hole sampling is exact
    (every step decides one hole, in uniformly random order); fewer calls decide several holes at once, independently.

    Source: Austin et al., NeurIPS 2021, arXiv 2107.03006; Sahoo et al., NeurIPS 2024, arXiv 2406.07524, eq. 7; one
    hole at a time: Zheng et al., ICLR 2025, arXiv 2409.02908.
    """

    @register_to_config
    def __init__(self) -> None:
        pass

    def times(self, calls: int | None, n_open: int) -> Float[Tensor, " levels"]:
        """Noise levels from 1 to 0, one network call between two of them; never more calls than open holes.

        Args:
            calls: Network calls; one per open hole if absent.
            n_open: Holes to decide.
        """
        return torch.linspace(1, 0, min(calls or n_open, n_open) + 1, dtype=torch.float64)

    def start(
        self,
        codes: Int[Tensor, "batch holes"],
        valid: Bool[Tensor, "holes options"],
        generator: torch.Generator | None,
    ) -> Int[Tensor, "batch holes"]:
        """The state at level 1: the codes themselves, open where they are to be generated."""
        return codes

    def inputs(self, state: Int[Tensor, "batch holes"], t: float) -> tuple[Tensor, None]:
        """What the network sees."""
        return state, None

    def noised(
        self,
        codes: Int[Tensor, "batch holes"],
        generator: torch.Generator | None,
        valid: Bool[Tensor, "holes options"],
    ) -> tuple[Tensor, None, Float[Tensor, "batch holes"]]:
        """Training inputs: a uniform number of holes, at least one, is opened.

        Returns:
            Input of the network, its time, and the weight of each hole in the loss: with `1 / open holes`, the mean is
            the evidence bound per hole (Sahoo et al., eq. 10, with the time integrated out).
        """
        batch, holes = codes.shape
        n_open = torch.randint(1, holes + 1, (batch, 1), generator=generator)
        rank = torch.rand(batch, holes, generator=generator).argsort(-1).argsort(-1)
        hidden = (rank < n_open).to(codes.device)
        return codes.masked_fill(hidden, OPEN), None, hidden / n_open.to(codes.device)

    def step(
        self,
        logits: Float[Tensor, "batch holes options"],
        t: float,
        s: float,
        state: Int[Tensor, "batch holes"],
        decide: Decide,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch holes"]:
        """Move from noise level `t` down to `s`.

        Of `m` open holes, `ceil(m s / t)` stay open, uniformly chosen: the exact posterior decides each with
        probability `(t - s) / t`; fixing their number keeps the marginals and removes the chance of an idle call.

        Raises:
            ValueError: If `s` is not below `t`.
        """
        if not 0 <= s < t:
            raise ValueError(f"need 0 <= s < t, got t={t}, s={s}")
        is_open = state == OPEN
        stay = torch.ceil(is_open.sum(-1, keepdim=True) * (s / t) - 1e-6)
        order = torch.rand(state.shape, generator=generator).to(state.device)
        rank = torch.where(is_open, order, 2.0).argsort(-1).argsort(-1)
        return decide(logits, state, is_open & (rank >= stay))


class VEScheduler(SchedulerMixin, ConfigMixin):
    """DiffusionNAG's process: a variance-exploding SDE on one-hot options, sampled by predictor and corrector.

    `sigma(t) = sigma_min (sigma_max / sigma_min)^t` on options in {-1, +1}. The network predicts the clean options;
    the score is `(E[x0 | x] - x) / sigma^2`, where DiffusionNAG predicts the score itself. One Langevin corrector and
    one Euler-Maruyama predictor call per level, the last without noise: 1,000 levels are its 2,000 calls. In place of
    its threshold at 0.5 the last prediction decides, under the space's rules.

    Source: Song et al., ICLR 2021, arXiv 2011.13456; An et al., ICLR 2024, arXiv 2305.16943, released settings.

    Args:
        sigma_min: Noise at t = 0.
        sigma_max: Noise at t = 1.
        snr: Signal-to-noise ratio of the corrector.
    """

    @register_to_config
    def __init__(self, sigma_min: float = 0.1, sigma_max: float = 5.0, snr: float = 0.16) -> None:
        pass

    def sigma(self, t: Float[Tensor, "..."] | float) -> Tensor:
        """Noise at time `t`."""
        ratio = self.config.sigma_max / self.config.sigma_min
        return self.config.sigma_min * ratio ** torch.as_tensor(t, dtype=torch.float32)

    def times(self, calls: int | None, n_open: int) -> Float[Tensor, " levels"]:
        """Noise levels from 1 to 0, each twice: once to correct, once to move on.

        Args:
            calls: Network calls, at least 2; DiffusionNAG's 2,000 if absent.
            n_open: Not used: the process does not know the holes.
        """
        levels = torch.linspace(1, 0, max(1, (calls or 2000) // 2) + 1, dtype=torch.float64)
        return torch.cat([levels[:-1].repeat_interleave(2), levels[-1:]])

    def clean(self, codes: Int[Tensor, "batch holes"], valid: Bool[Tensor, "holes options"]) -> Tensor:
        """Options in {-1, +1}; 0 where a hole has no such option."""
        return (F.one_hot(codes.clamp_min(0), valid.shape[1]) * 2.0 - 1.0) * valid

    def start(
        self,
        codes: Int[Tensor, "batch holes"],
        valid: Bool[Tensor, "holes options"],
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """The state at level 1: noise; holes that are decided already stay at their options, noised."""
        noise = torch.randn(*codes.shape, valid.shape[1], generator=generator).to(codes.device) * valid
        state = {"x": self.config.sigma_max * noise, "codes": codes, "valid": valid.to(codes.device)}
        return self._pin(state, 1.0, generator)

    def _pin(self, state: dict[str, Tensor], t: float, generator: torch.Generator | None) -> dict[str, Tensor]:
        decided = state["codes"] != OPEN
        if decided.any():
            noise = torch.randn(state["x"].shape, generator=generator).to(state["x"]) * state["valid"]
            known = self.clean(state["codes"], state["valid"]) + self.sigma(t) * noise
            state = {**state, "x": torch.where(decided[..., None], known, state["x"])}
        return state

    def inputs(self, state: dict[str, Tensor], t: float) -> tuple[Tensor, Tensor]:
        """What the network sees: options scaled to unit variance, and the time."""
        x = state["x"] / (1 + self.sigma(t) ** 2).sqrt()
        return x, torch.full((len(x),), t, dtype=torch.float32, device=x.device)

    def noised(
        self,
        codes: Int[Tensor, "batch holes"],
        generator: torch.Generator | None,
        valid: Bool[Tensor, "holes options"],
    ) -> tuple[Tensor, Tensor, Float[Tensor, "batch holes"]]:
        """Training inputs at uniformly drawn times; every hole counts the same.

        The loss is the cross-entropy of the clean options, which has the same minimiser as denoising score matching.
        """
        t = torch.rand(len(codes), generator=generator).clamp_min(1e-5).to(codes.device)
        sigma = self.sigma(t)[:, None, None]
        noise = torch.randn(*codes.shape, valid.shape[1], generator=generator).to(codes.device) * valid
        x = (self.clean(codes, valid) + sigma * noise) / (1 + sigma**2).sqrt()
        return x, t, torch.full(codes.shape, 1 / codes.shape[1], device=codes.device)

    def step(
        self,
        logits: Float[Tensor, "batch holes options"],
        t: float,
        s: float,
        state: dict[str, Tensor],
        decide: Callable[..., Tensor],
        generator: torch.Generator | None = None,
        gradient: Float[Tensor, "batch holes options"] | None = None,
    ) -> dict[str, Tensor] | Tensor:
        """Correct at level `t` when `s` equals it, else move down to `s`; at 0 the options are decided.

        Args:
            logits: Of the clean options.
            t: Noise level of the state.
            s: The next noise level.
            state: As `start` or an earlier step left it.
            decide: Draws the options in the end.
            generator: Source of randomness.
            gradient: What is added to the score, if anything.

        Raises:
            ValueError: If `s` is above `t`.
        """
        if not 0 <= s <= t:
            raise ValueError(f"need 0 <= s <= t, got t={t}, s={s}")
        if s == 0:
            return decide(logits, state["codes"], state["codes"] == OPEN)
        x, valid, sigma = state["x"], state["valid"], self.sigma(t)
        score = (logits.softmax(-1) * 2 - 1 - x) * valid / sigma**2
        if gradient is not None:
            score = score + gradient * valid
        noise = torch.randn(x.shape, generator=generator).to(x) * valid
        if s == t:
            ratio = noise.flatten(1).norm(dim=-1).mean() / score.flatten(1).norm(dim=-1).mean()
            size = 2 * (self.config.snr * ratio) ** 2
            x = x + size * score + (2 * size).sqrt() * noise
        else:
            variance = 2 * sigma**2 * math.log(self.config.sigma_max / self.config.sigma_min) * (t - s)  # g^2 dt
            x = x + variance * score + variance.sqrt() * noise
        return self._pin({**state, "x": x}, s, generator)
