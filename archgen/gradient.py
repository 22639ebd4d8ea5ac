"""Gradient guidance: the variance-exploding process bent by the gradient of what a predictor of noisy options says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from archgen.denoiser import GraphDenoiser
from archgen.scheduler import VEScheduler
from archgen.space import SearchSpace

WIDTH, DEPTH = 32, 2
STEPS, BATCH, RATE = 2_000, 256, 4e-3


class NoisyPredictor(nn.Module):
    """Expects properties from the noisy options that the variance-exploding process passes through.

    A small graph transformer reads options and time. By least squares at all noise levels it learns the mean over the
    architectures that the noise may hide.

    Source: An et al., ICLR 2024, arXiv 2305.16943, section 3.2. Other than there, the network is the generator's, not
    one of directed graph convolutions, and properties keep their units, so that strengths mean the same everywhere.

    Args:
        space: The search space.
        scheduler: The process.
        properties: Number of properties.
        seed: Seed of the weights and of all that `fit` draws.
    """

    def __init__(self, space: SearchSpace, scheduler: VEScheduler, properties: int, seed: int = 0):
        super().__init__()
        self.scheduler, self.seed = scheduler, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.trunk = GraphDenoiser.for_space(space, [], width=WIDTH, depth=DEPTH)
            self.head = nn.Linear(WIDTH, properties)
        self.register_buffer("middle", torch.zeros(properties))
        self.register_buffer("scale", torch.ones(properties))

    def forward(
        self, x: Float[Tensor, "batch holes options"], t: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch properties"]:
        """Expected properties, in their own units.

        Args:
            x: Noisy options of unit variance, as `VEScheduler.inputs` gives them.
            t: Noise level in [0, 1].
        """
        known = self.trunk.represent(x, t, x.new_full((1, 0, 2), torch.nan))  # (B, H, C)
        return self.middle + self.scale * self.head(known.mean(1))

    def fit(self, codes: Int[Tensor, "rows holes"], values: Float[Tensor, "rows properties"]) -> NoisyPredictor:
        """Learn from architectures, to which noise of all levels is added anew at each step.

        Args:
            codes: The architectures.
            values: Their properties.

        Raises:
            ValueError: If a value is missing.
        """
        if not values.isfinite().all():
            raise ValueError("the gradient is learned from labels without gaps; let a predictor fill them")
        self.middle, self.scale = values.mean(0).float(), values.std(0).float().clamp_min(1e-6)
        target = (values.float() - self.middle) / self.scale
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(self.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
        for _ in tqdm(range(STEPS), desc="gradient", leave=False):
            rows = torch.randint(len(codes), (BATCH,), generator=generator)
            x, t, _ = self.scheduler.noised(codes[rows], generator, self.trunk.valid)
            loss = F.mse_loss((self(x, t) - self.middle) / self.scale, target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return self.eval()


@dataclass(frozen=True)
class Pull:
    """The gradient by which DiffusionNAG bends the process towards `p(x) exp(strength property(x))`.

    Attributes:
        predictor: Of the property, from noisy options.
        column: Which of its properties.
        strength: Weight of the property, per unit of it; negative towards low values.
    """

    predictor: NoisyPredictor
    column: int
    strength: float

    def __call__(self, state: dict[str, Tensor], t: float) -> Float[Tensor, "batch holes options"]:
        """What is added to the score of a state at noise level `t`."""
        with torch.inference_mode(False), torch.enable_grad():
            x = state["x"].clone().requires_grad_()
            expected = self.predictor(*self.predictor.scheduler.inputs({"x": x}, t))[:, self.column]
            (gradient,) = torch.autograd.grad(self.strength * expected.sum(), x)
        return gradient
