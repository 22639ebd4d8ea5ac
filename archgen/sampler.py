"""Sampler: draws complete, legal encodings under one request."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from archgen.constraint import Constraint
from archgen.gradient import Pull
from archgen.guidance import CachedNetwork, LegalDecision
from archgen.scheduler import AbsorbingScheduler, VEScheduler
from archgen.space import OPEN, SearchSpace
from archgen.steering import Objectives, Scalarization, Steering

PATIENCE = 20  # batches in which populations are looked for that meet a hard constraint


@dataclass
class Sampler:
    """How encodings are drawn for one request.

    Attributes:
        network: The network under the wishes.
        scheduler: The diffusion process.
        space: Of the encodings.
        template: Codes to start from, open where they are to be decided.
        change: How many holes of a complete template are opened; all if absent.
        constraint: Hard constraint.
        held: What draws are kept within reach of, as far as bounds can tell.
        steps: Network calls for each batch.
        generator: Source of randomness.
        fallback: Some members that meet the constraint.
        pull: What bends the variance-exploding process, if anything.
    """

    network: CachedNetwork
    scheduler: AbsorbingScheduler | VEScheduler
    space: SearchSpace
    template: Int[Tensor, " holes"]
    change: int | None = None
    constraint: Constraint | None = None
    held: list[Constraint] = field(default_factory=list)
    steps: int | None = None
    generator: torch.Generator | None = None
    fallback: Int[Tensor, "found holes"] | None = None
    pull: Pull | None = None

    def draw(self, size: int) -> Int[Tensor, "size holes"]:
        """Members, as the generator draws them; they need not meet the constraint."""
        codes = self.template.repeat(size, 1)
        if not (self.template == OPEN).any():
            rank = torch.rand(codes.shape, generator=self.generator).argsort(-1).argsort(-1)
            opened = len(self.template) if self.change is None else self.change
            codes = codes.masked_fill(rank < opened, OPEN)
        return self.complete(codes)

    def complete(self, codes: Int[Tensor, "batch holes"]) -> Int[Tensor, "batch holes"]:
        """Decide what is open."""
        n_open = int((codes == OPEN).sum(-1).max())
        decide = LegalDecision(self.space, self.held, self.generator)
        scheduler, denoiser = self.scheduler, self.network.denoiser
        state = scheduler.start(codes.to(denoiser.device), denoiser.valid, self.generator)
        for t, s in pairwise(scheduler.times(self.steps, n_open).tolist()):
            x, level = scheduler.inputs(state, t)
            bent = {} if self.pull is None else {"gradient": self.pull(state, t)}
            state = scheduler.step(self.network(x, level), t, s, state, decide, self.generator, **bent)
        return state.cpu()

    def admitted(self, codes: Int[Tensor, "batch holes"]) -> Bool[Tensor, " batch"]:
        """Whether complete encodings meet the constraint and are near enough to the template."""
        if self.change is None:
            near = torch.ones(len(codes), dtype=torch.bool)
        else:
            near = (codes != self.template).sum(-1) <= self.change
        return near if self.constraint is None else near & self.constraint.holds(codes)

    def batch(self, size: int, idle: int = 0) -> Int[Tensor, "met holes"]:
        """Members that meet the constraint, out of so many drawn.

        Args:
            size: How many are drawn.
            idle: How many batches brought nothing new: then members are looked for that drawing does not reach.
        """
        codes = self.draw(size)
        if self.constraint is None:
            return codes
        if idle and self.change is None:  # drawing alone does not get there: walk from what was drawn, or list
            known = self._known()
            if not self.constraint.listed:
                near = self.constraint.descend(codes, keep=max(48, 2 * size))
                known = torch.cat([near, known])
            codes = torch.cat([codes, known])
        return codes[self.admitted(codes)]

    def few(self, most: int) -> Int[Tensor, "found holes"] | None:
        """All members that meet the constraint, in random order, if they are known and so few."""
        free = self.change is None and bool((self.template == OPEN).all())
        if not free or self.constraint is None or not self.constraint.listed or len(self.fallback) > most:
            return None
        return self._known()

    def _known(self) -> Int[Tensor, "found holes"]:
        return self.fallback[torch.randperm(len(self.fallback), generator=self.generator)]

    def populations(self, count: int, particles: int) -> Int[Tensor, "batch holes"]:
        """Members that meet the constraint, `count * particles` of them; some repeated where few are found."""
        codes = self.batch(count * particles)
        for idle in range(PATIENCE):
            if len(codes) >= count * particles:
                break
            codes = torch.cat([codes, self.batch(count * particles, idle)])
        return codes[torch.arange(count * particles) % len(codes)] if len(codes) else codes

    def steered(
        self,
        count: int,
        particles: int,
        objectives: Objectives,
        strength: float | None,
        weights: Float[Tensor, "count objectives"] | None = None,
    ) -> Int[Tensor, "batch holes"]:
        """Populations steered towards one objective or, with weights of each, towards several.

        Args:
            count: Populations.
            particles: Members of each.
            objectives: What is to be high.
            strength: Weight of the objective, see `Steering`.
            weights: Of the objectives, for each population.
        """
        codes = self.populations(count, particles)
        if not len(codes):
            return codes
        if weights is None:
            reward = lambda codes, population: objectives(codes)[:, 0]  # noqa: E731
        else:
            reward = Scalarization(objectives, codes, weights)
        decide = LegalDecision(self.space, self.held, self.generator)
        steering = Steering(
            self.network, decide, self.complete, self.admitted, reward, strength, particles, self.generator
        )
        return steering(codes)
