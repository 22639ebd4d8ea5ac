"""Steering: sequential Monte Carlo over complete architectures, towards anything that can be computed of them."""

from __future__ import annotations

import math
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from archgen.graph import Architecture
from archgen.guidance import CachedNetwork, LegalDecision, unique_rows
from archgen.scheduler import draw
from archgen.space import OPEN, SearchSpace

SHARE = 0.01  # of the generator's draws the results are like, in the sense of entropy, where no strength is given
KEPT = 0.5  # effective share of the particles after each rise of the strength
SWEEP = 8  # most holes that are drawn again, one after the other, at each strength
BLOCKS = 2  # moves of several holes at each strength

RewardFunction = Callable[[list[Architecture]], Sequence[float]]
Source = Callable[[Int[Tensor, "batch holes"]], Float[Tensor, " batch"]]


def load_function(name: str) -> RewardFunction:
    """The function that `module:function` names; the module may lie in the current folder.

    Raises:
        ValueError: If there is no such function.
    """
    if name.count(":") != 1:
        raise ValueError(f"a reward is named module:function, got {name!r}")
    sys.path.insert(0, os.getcwd())
    try:
        function = pkgutil.resolve_name(name)
    except Exception as error:  # the module is the user's code
        raise ValueError(f"no reward {name!r}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(function):
        raise ValueError(f"the reward {name!r} is no function")
    return function


def rewarded(function: RewardFunction, space: SearchSpace) -> Source:
    """A user's function of architectures as a function of encodings, checked.

    Args:
        function: Maps architectures to one number each; NaN for one that has no value, which is never returned.
        space: Of the encodings.

    Returns:
        A function that raises a `ValueError` if the user's raises, or returns anything but one number each.
    """
    name = getattr(function, "__name__", type(function).__name__)

    def ask(codes: Int[Tensor, "batch holes"]) -> Float[Tensor, " batch"]:
        architectures = space.decode_all(codes)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                values = torch.as_tensor(function(architectures), dtype=torch.float64).detach().cpu()
        except Exception as error:  # whatever the user's code raises, or returns that is no numbers
            raise ValueError(f"the reward {name} failed with {type(error).__name__}: {error}") from error
        if values.shape != (len(architectures),):
            got = f"{tuple(values.shape)} for {len(architectures)} architectures"
            raise ValueError(f"the reward {name} returns one number for each architecture, got shape {got}")
        if len(infinite := values.isposinf().nonzero()):
            raise ValueError(f"the reward {name} of {architectures[int(infinite[0])]} is infinite")
        return values

    return ask


class Objectives:
    """What is to be as high as possible, for encodings; each encoding is asked for once.

    Args:
        sources: For each objective its name, 1 to maximize and -1 to minimize, and what computes it, NaN where nothing
            is known.
    """

    def __init__(self, sources: list[tuple[str, int, Source]]):
        self.sources = sources
        self.names = [name for name, _, _ in sources]
        self._place: dict[bytes, int] = {}
        self._codes: list[Tensor] = []
        self._values: list[Tensor] = []

    def __call__(self, codes: Int[Tensor, "batch holes"]) -> Float[Tensor, "batch objectives"]:
        """Values, the larger the better; minus infinity in all objectives where one is not known."""
        if not len(codes):
            return torch.empty(0, len(self.sources), dtype=torch.float64)
        distinct, inverse = unique_rows(codes)
        keys = [row.tobytes() for row in distinct.to(torch.int16).numpy()]
        fresh = [row for row, key in enumerate(keys) if key not in self._place]
        if fresh:
            asked = distinct[fresh]
            values = torch.stack([sign * source(asked).double() for _, sign, source in self.sources], -1)
            values[~values.isfinite().all(-1)] = -torch.inf
            self._place.update({keys[row]: len(self._place) + index for index, row in enumerate(fresh)})
            self._codes, self._values = [*self._codes, asked], [*self._values, values]
        return self.asked[1][torch.tensor([self._place[key] for key in keys])][inverse]

    def in_own_units(self, codes: Int[Tensor, "batch holes"]) -> dict[str, Float[Tensor, " batch"]]:
        """Values by objective, those to minimize as they are."""
        values = self(codes)
        return {name: sign * values[:, column] for column, (name, sign, _) in enumerate(self.sources)}

    @property
    def asked(self) -> tuple[Int[Tensor, "asked holes"], Float[Tensor, "asked objectives"]]:
        """All encodings asked for so far, and their values."""
        self._codes, self._values = [torch.cat(self._codes)], [torch.cat(self._values)]
        return self._codes[0], self._values[0]


class Scalarization:
    """One number for several objectives: the worst of them, as weighted by each population (Chebyshev's).

    Args:
        objectives: What is to be as high as possible.
        codes: Draws by which the objectives are brought to one scale: their median and quartiles.
        weights: Of each population; `(populations, objectives)`.
    """

    def __init__(
        self,
        objectives: Objectives,
        codes: Int[Tensor, "batch holes"],
        weights: Float[Tensor, "populations objectives"],
    ):
        values = objectives(codes)
        values = values[values.isfinite().all(-1)]
        if not len(values):
            raise ValueError(f"{', '.join(objectives.names)}: unknown for all architectures that were drawn")
        low, self.middle, high = values.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=0)
        self.scale = (high - low).clamp_min(1e-12)
        self.ideal = (values.amax(0) - self.middle) / self.scale + 1
        self.objectives, self.weights = objectives, weights

    def __call__(
        self, codes: Int[Tensor, "batch holes"], population: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Minus the largest weighted distance from the ideal."""
        distance = self.ideal - (self.objectives(codes) - self.middle) / self.scale
        return -(self.weights[population] * distance).amax(-1)


class Steering:
    """Particles that follow `p(x) exp(strength f(x))`, where `p` is what the generator draws and `f` any reward.

    The strength rises from 0; each time the particles are weighted by the rise and resampled within their population,
    then moved by steps that leave the present distribution as it is: one hole is opened and drawn again among all its
    options with exact weights, or several are opened, completed by the generator, and accepted by Metropolis' rule.
    All rewards are those of complete, legal architectures: no noisy-input predictor, no gradient.

    Source: Del Moral, Doucet & Jasra, J. R. Stat. Soc. B 2006; steering of diffusion by resampling: Singhal et al.,
    ICML 2025, arXiv 2501.06848.

    Args:
        network: An absorbing network under some wishes.
        decide: Draws that stay legal.
        complete: Completes encodings with open holes as the generator does.
        admitted: Whether complete encodings meet the hard constraint.
        reward: Of complete encodings, each in the population given with it; minus infinity forbids.
        strength: Weight of the reward, per its unit; if absent, as much as leaves a `SHARE` of the generator's draws.
        particles: Size of a population; within one, particles compete.
        generator: Source of randomness.
    """

    def __init__(
        self,
        network: CachedNetwork,
        decide: LegalDecision,
        complete: Callable[[Int[Tensor, "batch holes"]], Int[Tensor, "batch holes"]],
        admitted: Callable[[Int[Tensor, "batch holes"]], Bool[Tensor, " batch"]],
        reward: Callable[[Int[Tensor, "batch holes"], Int[Tensor, " batch"]], Float[Tensor, " batch"]],
        strength: float | None,
        particles: int,
        generator: torch.Generator | None,
    ):
        self.network, self.decide, self.complete, self.admitted = network, decide, complete, admitted
        self.reward, self.strength, self.particles, self.generator = reward, strength, particles, generator
        self.space = decide.space

    def __call__(self, codes: Int[Tensor, "batch holes"]) -> Int[Tensor, "batch holes"]:
        """Turn draws of the generator into draws of the steered distribution.

        Args:
            codes: Complete encodings that are admitted, in populations of `particles`.

        Raises:
            ValueError: If no draw has a value.
        """
        value = self._value(codes, torch.arange(len(codes)))
        if not value.isfinite().any():
            raise ValueError("the reward is NaN or minus infinity for all architectures that were drawn")
        strength = log_mean = 0.0  # log of the mean of exp(strength f) over what the generator draws
        done = False
        while not done:
            rise, done, gain = self._rise(value, strength, log_mean)
            codes, value = self._resample(codes, value, rise)
            strength, log_mean = strength + rise, log_mean + gain
            for _ in range(2 if done else 1):
                codes, value = self._move(codes, value, strength)
        return codes

    def _rise(self, value: Float[Tensor, " batch"], strength: float, log_mean: float) -> tuple[float, bool, float]:
        """How much the strength can rise while `KEPT` of the particles stay effective.

        Returns:
            The rise, whether it is the last, and what it adds to the logarithm of the mean weight. Without a given
            strength the last one brings the divergence from the generator's distribution to `log(1 / SHARE)`.
        """
        known = value[value.isfinite()]
        count = int(value.view(-1, self.particles).isfinite().any(-1).sum()) * self.particles  # where any has a value
        top, spread = known.max(), (known.max() - known.min()).item()

        def after(rise: float) -> tuple[float, float, float]:
            weight = (rise * (known - top)).exp()
            gain = (weight.sum() / count).log().item() + rise * top.item()
            mean = ((weight * known).sum() / weight.sum()).item()
            kept = (weight.sum() ** 2 / (weight**2).sum() / count).item()
            return kept, (strength + rise) * mean - log_mean - gain, gain

        def small(rise: float) -> bool:
            kept, divergence, _ = after(rise)
            return kept >= KEPT and (self.strength is not None or divergence <= -math.log(SHARE))

        most = self.strength - strength if self.strength is not None else 1e3 / spread if spread else 0.0
        if small(most) or not most:
            return most, True, after(most)[2]
        low, high = 0.0, most
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if small(middle) else (low, middle)
        kept, _, gain = after(high)
        return high, self.strength is None and kept >= KEPT, gain

    def _resample(
        self, codes: Int[Tensor, "batch holes"], value: Float[Tensor, " batch"], rise: float
    ) -> tuple[Int[Tensor, "batch holes"], Float[Tensor, " batch"]]:
        """Systematic resampling within each population, with weights `exp(rise * value)`."""
        log_weight = (rise * value).where(value.isfinite(), -torch.inf).view(-1, self.particles)
        barren = log_weight.isneginf().all(-1, keepdim=True)
        weight = log_weight.masked_fill(barren, 0.0).softmax(-1)
        start = torch.rand(len(weight), 1, generator=self.generator, dtype=torch.float64)
        points = (start + torch.arange(self.particles)) / self.particles
        chosen = torch.searchsorted(weight.cumsum(-1).contiguous(), points).clamp_max(self.particles - 1)
        rows = (chosen + self.particles * torch.arange(len(weight))[:, None]).flatten()
        return codes[rows], value[rows]

    def _move(
        self, codes: Int[Tensor, "batch holes"], value: Float[Tensor, " batch"], strength: float
    ) -> tuple[Int[Tensor, "batch holes"], Float[Tensor, " batch"]]:
        """A sweep of single holes, each particle in its own order, then some blocks."""
        order = torch.rand(codes.shape, generator=self.generator).argsort(-1)
        for hole in order.T[:SWEEP]:
            codes, value = self._redraw(codes, value, strength, hole)
        for _ in range(BLOCKS):
            codes, value = self._reblock(codes, value, strength)
        return codes, value

    def _redraw(
        self,
        codes: Int[Tensor, "batch holes"],
        value: Float[Tensor, " batch"],
        strength: float,
        hole: Int[Tensor, " batch"],
    ) -> tuple[Int[Tensor, "batch holes"], Float[Tensor, " batch"]]:
        """Draw one hole of each particle again, among all its options: Gibbs sampling, exact."""
        rows = torch.arange(len(codes))
        opened = codes.clone()
        opened[rows, hole] = OPEN
        logits = self.network(opened, None)[rows, hole].double().cpu()
        row, option = self.decide.allowed(opened, hole).nonzero(as_tuple=True)
        trial = opened[row]
        trial[torch.arange(len(row)), hole[row]] = option
        gain = self._value(trial, row)
        values = torch.full(logits.shape, -torch.inf, dtype=torch.float64).index_put((row, option), gain)
        wish = torch.where(values.isfinite(), logits + strength * values, -torch.inf)
        stuck = wish.isneginf().all(-1)
        picked = torch.where(stuck, codes[rows, hole], draw(wish.masked_fill(stuck[:, None], 0.0), self.generator))
        opened[rows, hole] = picked
        return opened, torch.where(stuck, value, values[rows, picked])

    def _reblock(
        self, codes: Int[Tensor, "batch holes"], value: Float[Tensor, " batch"], strength: float
    ) -> tuple[Int[Tensor, "batch holes"], Float[Tensor, " batch"]]:
        """Open several holes of each particle, let the generator complete them, accept by the change of the reward."""
        number = torch.randint(2, max(3, codes.shape[1] // 2 + 1), (len(codes), 1), generator=self.generator)
        rank = torch.rand(codes.shape, generator=self.generator).argsort(-1).argsort(-1)
        opened = rank < number
        for index, one in enumerate(self.space.holes):  # what exists only under an opened choice is opened with it
            if one.when is not None:
                opened[:, index] |= opened[:, one.when[0]]
        trial = self.complete(codes.masked_fill(opened, OPEN))
        proposed = self._value(trial, torch.arange(len(codes)))
        chance = torch.where(proposed.isfinite(), strength * (proposed - value), -torch.inf)
        accepted = torch.rand(len(codes), generator=self.generator, dtype=torch.float64).log() < chance
        return torch.where(accepted[:, None], trial, codes), torch.where(accepted, proposed, value)

    def _value(self, codes: Int[Tensor, "batch holes"], particle: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Rewards of what these particles may become; minus infinity where the hard constraint is missed."""
        values = torch.full((len(codes),), -torch.inf, dtype=torch.float64)
        admitted = self.admitted(codes)
        if admitted.any():
            values[admitted] = self.reward(codes[admitted], particle[admitted] // self.particles)
        return values
