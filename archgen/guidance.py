"""Guidance: the network under wishes, draws that stay legal, and what the network believes of an architecture."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from archgen.constraint import Constraint
from archgen.denoiser import GraphDenoiser, reachable_range
from archgen.scheduler import draw
from archgen.space import OPEN, SearchSpace


class CachedNetwork:
    """The denoiser under fixed conditions with classifier-free guidance; equal inputs of a batch are computed once.

    Args:
        denoiser: The network.
        space: Whose costs tell what is still within reach.
        wishes: What is asked of each condition, `(conditions, 2)`, NaN where nothing is.
        guidance: Weight of the conditional prediction (Ho & Salimans, 2022): `free + guidance (conditional - free)`.
    """

    def __init__(
        self, denoiser: GraphDenoiser, space: SearchSpace, wishes: Float[Tensor, "conditions 2"], guidance: float
    ):
        self.denoiser, self.space, self.guidance = denoiser, space, guidance
        self.asked = wishes[None].to(denoiser.device)
        self.free = torch.full_like(self.asked, torch.nan)
        known = ~wishes.isnan().any(-1)
        self.conditional = bool(known.any()) and guidance != 0
        names = denoiser.config.conditions
        self.counted = any(known[index] and name in space.cost.names for index, name in enumerate(names))

    def __call__(self, x: Tensor, t: Tensor | None) -> Float[Tensor, "batch holes options"]:
        """Logits of the clean options."""
        inverse, within = None, None
        if not x.is_floating_point():
            x, inverse = _unique_rows(x, self.denoiser.config)
            if self.conditional and self.counted:
                within = reachable_range(self.space, x, self.denoiser.config.conditions)
        logits = self.denoiser(x, t, self.asked if self.conditional else self.free, within)
        if self.conditional and self.guidance != 1:
            free = self.denoiser(x, t, self.free)
            logits = torch.where(self.denoiser.valid, free + self.guidance * (logits - free), -torch.inf)
        return logits if inverse is None else logits[inverse]


class LegalDecision:
    """Draws options for chosen holes one after the other, so that a legal completion is always left.

    Args:
        space: Whose rules hold.
        held: What is to be reachable as well, as far as bounds can tell; the first matters most.
        generator: Source of randomness.
    """

    def __init__(self, space: SearchSpace, held: list[Constraint], generator: torch.Generator | None):
        self.space, self.held, self.generator = space, held, generator
        self.free = not held and space.rule is None and all(hole.when is None for hole in space.holes)

    def __call__(
        self,
        logits: Float[Tensor, "batch holes options"],
        codes: Int[Tensor, "batch holes"],
        chosen: Bool[Tensor, "batch holes"],
    ) -> Int[Tensor, "batch holes"]:
        """Codes with the chosen holes decided."""
        device = codes.device
        logits, codes, chosen = logits.cpu(), codes.cpu().clone(), chosen.cpu()
        if self.free:
            return torch.where(chosen, draw(logits, self.generator), codes).to(device)
        order = torch.where(chosen, torch.rand(chosen.shape, generator=self.generator), 2.0).argsort(-1)
        for place in range(int(chosen.sum(-1).max()) if chosen.numel() else 0):
            rows = (chosen.sum(-1) > place).nonzero().flatten()
            holes = order[rows, place]
            allowed = self.allowed(codes[rows], holes)
            wish = logits[rows, holes].masked_fill(~allowed, -torch.inf)
            codes[rows, holes] = draw(wish, self.generator)
        return codes.to(device)

    def allowed(
        self, codes: Int[Tensor, "batch holes"], holes: Int[Tensor, " batch"]
    ) -> Bool[Tensor, "batch options"]:
        """Options of one hole per row after which a legal completion exists, and one that may meet what is held.

        Where a constraint leaves nothing, it is passed over; if it is a hard one, the row is drawn again later.
        """
        batch = torch.arange(len(codes))
        legal = self.space.domains(codes)[batch, holes]
        if self.space.rule is None and not self.held:
            return legal
        row, option = legal.nonzero(as_tuple=True)
        trial = codes[row]
        trial[torch.arange(len(row)), holes[row]] = option
        if self.space.rule is not None:
            legal = legal.clone()
            legal[row, option] = self.space.feasible(trial)
        domains = self.space.domains(trial) if self.held else trial
        for constraint in self.held:
            reachable = torch.zeros_like(legal)
            reachable[row, option] = constraint.possible(domains)
            both = legal & reachable
            legal = torch.where(both.any(-1, keepdim=True), both, legal)
        return legal


def log_likelihood(
    network: CachedNetwork, codes: Int[Tensor, "batch holes"], generator: torch.Generator | None = None
) -> Float[Tensor, " batch"]:
    """Log-probability of complete encodings whose holes are decided one after the other, in one random order each.

    Args:
        network: An absorbing network under some wishes.
        codes: The encodings.
        generator: Source of the orders; the same seed gives the same ones.
    """
    order = torch.rand(codes.shape, generator=generator).argsort(-1)
    state, rows = torch.full_like(codes, OPEN), torch.arange(len(codes))
    total = torch.zeros(len(codes), dtype=torch.float64)
    for hole in order.T:
        log_chance = network(state, None).log_softmax(-1).cpu()
        total += log_chance[rows, hole, codes[rows, hole]].double()
        state[rows, hole] = codes[rows, hole]
    return total


class Belief:
    """Probability that architectures meet a wish, by Bayes' rule from the generator alone.

    Args:
        denoiser: An absorbing network.
        space: Its space.
        codes: Complete encodings, `(batch, holes)`.
    """

    def __init__(self, denoiser: GraphDenoiser, space: SearchSpace, codes: Int[Tensor, "batch holes"]):
        self.denoiser, self.space, self.codes = denoiser, space, codes

    @cached_property
    def _prior(self) -> Float[Tensor, " batch"]:
        return self._log_likelihood(torch.full((len(self.denoiser.config.conditions), 2), torch.nan))

    def _log_likelihood(self, wishes: Float[Tensor, "conditions 2"]) -> Float[Tensor, " batch"]:
        network = CachedNetwork(self.denoiser, self.space, wishes, 1.0)
        return log_likelihood(network, self.codes, torch.Generator().manual_seed(0))

    def __call__(self, wishes: Float[Tensor, "conditions 2"], share: float) -> Float[Tensor, " batch"]:
        """Probability for each architecture.

        Args:
            wishes: What is asked of each condition, NaN where nothing is.
            share: Prior probability of the wishes.
        """
        return (share * (self._log_likelihood(wishes) - self._prior).exp()).clamp_max(1.0)


def _unique_rows(codes: Int[Tensor, "batch holes"], config: Any) -> tuple[Tensor, Tensor]:
    """Distinct rows and where each row is among them."""
    base = len(config.words[0]) + 1
    if codes.shape[1] * torch.log2(torch.tensor(float(base))) < 62:
        weights = base ** torch.arange(codes.shape[1], device=codes.device)
        keys = ((codes + 1) * weights).sum(-1)
        distinct, inverse = keys.unique(return_inverse=True)
        first = torch.empty(len(distinct), dtype=torch.long, device=codes.device)
        first[inverse] = torch.arange(len(codes), device=codes.device)
        return codes[first], inverse
    return codes.unique(dim=0, return_inverse=True)
