"""Guidance: the network under wishes, draws that stay legal, what words add, what the network believes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from archgen.constraint import Constraint
from archgen.denoiser import GraphDenoiser, Text, reachable_range
from archgen.scheduler import draw
from archgen.space import OPEN, SearchSpace

CACHEABLE = 200_000  # partial encodings: up to here the network's answers are all kept


def partial_strides(space: SearchSpace) -> Int[Tensor, " holes"]:
    """Weights by which `codes + 1` add up to the number of a partial encoding, in the order of the list of all."""
    sizes = torch.tensor([len(hole.options) + 1 for hole in space.holes])
    return sizes.flip(0).cumprod(0).flip(0) // sizes


@dataclass
class Telling:
    """What a request says in words, as a network that was trained with texts sees it.

    Attributes:
        network: The network; it knows no other conditions.
        text: Tokens of one text, and where they are.
        weight: Of the difference that the text makes to its prediction.
    """

    network: GraphDenoiser
    text: Text
    weight: float

    def __post_init__(self) -> None:
        """Take the tokens to where the network is."""
        memory, mask = self.text
        self.text = memory.to(self.network.device), mask.to(self.network.device)

    def __call__(self, codes: Int[Tensor, "batch holes"]) -> Float[Tensor, "batch holes options"]:
        """What the text adds to the logits; zero where a hole has no such option."""
        told, free = self.network(codes, text=self.text), self.network(codes)
        return torch.where(self.network.valid, self.weight * (told - free), 0.0)


class CachedNetwork:
    """The denoiser under fixed conditions with classifier-free guidance; equal inputs are computed once.

    In a small space they are so for good, elsewhere within a batch.

    Args:
        denoiser: The network.
        space: Whose costs tell what is still within reach.
        wishes: What is asked of each condition, `(conditions, 2)`, NaN where nothing is.
        guidance: Weight of the conditional prediction (Ho & Salimans, 2022): `free + guidance (conditional - free)`.
        telling: What is asked in words, if anything; for codes alone.
    """

    def __init__(
        self,
        denoiser: GraphDenoiser,
        space: SearchSpace,
        wishes: Float[Tensor, "conditions 2"],
        guidance: float,
        telling: Telling | None = None,
    ):
        self.telling = telling
        self.denoiser, self.space, self.guidance = denoiser, space, guidance
        self.asked = wishes[None].to(denoiser.device)
        self.free = torch.full_like(self.asked, torch.nan)
        known = ~wishes.isnan().any(-1)
        self.conditional = bool(known.any()) and guidance != 0
        names = denoiser.config.conditions
        self.counted = any(known[index] and name in space.cost.names for index, name in enumerate(names))
        states = math.prod(len(hole.options) + 1 for hole in space.holes)
        self._place = torch.full((states,), -1) if states <= CACHEABLE else None
        self._kept: Tensor | None = None

    def __call__(self, x: Tensor, t: Tensor | None) -> Float[Tensor, "batch holes options"]:
        """Logits of the clean options."""
        if x.is_floating_point():
            return self._logits(x, t, None)
        x = x.to(self.denoiser.device)
        if self._place is None:
            x, inverse = unique_rows(x)
            return self._partial(x, t)[inverse]
        number = ((x.cpu() + 1) * partial_strides(self.space)).sum(-1)
        fresh = number[self._place[number] < 0].unique()
        if len(fresh):
            strides, sizes = partial_strides(self.space), self.denoiser.valid.sum(-1).cpu() + 1
            codes = (fresh[:, None] // strides % sizes - 1).to(x.device)
            logits = self._partial(codes, t)
            self._place[fresh] = torch.arange(len(fresh)) + (0 if self._kept is None else len(self._kept))
            self._kept = logits if self._kept is None else torch.cat([self._kept, logits])
        return self._kept[self._place[number].to(x.device)]

    def _partial(self, codes: Int[Tensor, "batch holes"], t: None) -> Float[Tensor, "batch holes options"]:
        counted = self.conditional and self.counted
        within = reachable_range(self.space, codes, self.denoiser.config.conditions) if counted else None
        logits = self._logits(codes, t, within)
        return logits if self.telling is None else logits + self.telling(codes)

    def _logits(
        self, x: Tensor, t: Tensor | None, within: Float[Tensor, "batch conditions 2"] | None
    ) -> Float[Tensor, "batch holes options"]:
        logits = self.denoiser(x, t, self.asked if self.conditional else self.free, within)
        if self.conditional and self.guidance != 1:
            free = self.denoiser(x, t, self.free)
            logits = torch.where(self.denoiser.valid, free + self.guidance * (logits - free), -torch.inf)
        return logits


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


class Membership:
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


def unique_rows(codes: Int[Tensor, "batch holes"]) -> tuple[Int[Tensor, "distinct holes"], Int[Tensor, " batch"]]:
    """Distinct rows and where each row is among them."""
    base = int(codes.max()) + 2 if codes.numel() else 2
    if codes.shape[1] * math.log2(base) < 62:
        weights = base ** torch.arange(codes.shape[1], device=codes.device)
        keys = ((codes + 1) * weights).sum(-1)
        distinct, inverse = keys.unique(return_inverse=True)
        first = torch.empty(len(distinct), dtype=torch.long, device=codes.device)
        first[inverse] = torch.arange(len(codes), device=codes.device)
        return codes[first], inverse
    return codes.unique(dim=0, return_inverse=True)
