"""Gaussian processes, and the scales on which they see labels."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

TUNED_ON = 512  # rows that the kernel is tuned on; all are conditioned on
STEPS, RATE = 60, 0.1  # of Adam
CONSTANT = 0.3  # variance of the mean
WAVES = 512  # random frequencies of a drawn function
PART = 4096  # rows that a draw handles at once

# Gauss-Hermite quadrature of a normal variable, exact for polynomials of degree 17.
NODES, WEIGHTS = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(9))
WEIGHTS /= WEIGHTS.sum()


class GaussianProcess:
    """Exact regression of one property on inputs whose columns form groups.

    k(x, y) = constant + amplitude exp(-sum_g rate_g |x_g - y_g|^2) + sum_g slope_g <x_g, y_g>, and independent noise.
    Rates, slopes, amplitude and noise maximize their posterior under log-normal priors.

    Args:
        group: Group of each column, from 0.
        linear: Which groups have a slope.

    Attributes:
        log: Logarithms of rates, slopes, amplitude and noise; set to skip tuning.
    """

    def __init__(self, group: Int[Tensor, " columns"], linear: list[bool]):
        self.group, n = group, len(linear)
        self._linear = torch.tensor(linear, dtype=torch.float64)
        self._center = torch.tensor([-1.0] * n + [-0.5] * n + [-0.5, -4.0], dtype=torch.float64)
        self._width = torch.tensor([1.5] * n + [1.5] * n + [1.5, 2.0], dtype=torch.float64)
        self.log = self._center.clone()

    def tune(self, x: Float[Tensor, "rows columns"], y: Float[Tensor, " rows"]) -> GaussianProcess:
        """Set the kernel by Adam on the posterior of its parameters, from at most `TUNED_ON` of the rows."""
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:TUNED_ON]
        x, y = x[chosen], y[chosen]
        self.log = self._center.clone().requires_grad_()
        optimizer = torch.optim.Adam([self.log], RATE)
        for _ in range(STEPS):
            factor = self._factor(x)
            white = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
            prior = ((self.log - self._center) / self._width).square().sum()
            loss = 0.5 * white.square().sum() + factor.diagonal().log().sum() + 0.5 * prior
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.log = self.log.detach()
        return self

    def condition(self, x: Float[Tensor, "rows columns"], y: Float[Tensor, " rows"]) -> GaussianProcess:
        """Take in observations."""
        self._x, self._y, self._chol = x, y, self._factor(x)
        self._weight = torch.cholesky_solve(y[:, None], self._chol)
        return self

    def predict(self, x: Float[Tensor, "rows columns"]) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Mean and standard deviation of a new measurement, noise included."""
        cross = self.kernel(x, self._x)
        known = torch.linalg.solve_triangular(self._chol, cross.T, upper=False).square().sum(0)
        variance = (self._variance(x) - known).clamp_min(0) + self.noise
        return (cross @ self._weight)[:, 0], variance.sqrt()

    def draw(self, x: Float[Tensor, "rows columns"], k: int, generator: torch.Generator) -> Float[Tensor, "k rows"]:
        """Functions drawn from the posterior, without noise.

        A draw of the prior from random frequencies, moved by what the observations say of it: linear in the rows.
        Source: Wilson et al., ICML 2020, arXiv 2002.09309, eq. 13.
        """
        rate, slope, amplitude = self._parameters()

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        waves = normal(x.shape[1], WAVES) * (2 * rate).sqrt()[:, None]
        phase = 2 * torch.pi * torch.rand(WAVES, generator=generator, dtype=torch.float64)
        height, incline, level = normal(WAVES, k), normal(x.shape[1], k) * slope.sqrt()[:, None], normal(k)

        def prior(rows: Tensor) -> Tensor:
            waved = (2 * amplitude / WAVES).sqrt() * (rows @ waves + phase).cos()
            return waved @ height + rows @ incline + CONSTANT**0.5 * level  # (rows, k)

        seen = prior(self._x) + self.noise.sqrt() * normal(len(self._x), k)
        change = torch.cholesky_solve(self._y[:, None] - seen, self._chol)
        return torch.cat([prior(part) + self.kernel(part, self._x) @ change for part in x.split(PART)]).T

    def kernel(self, x: Float[Tensor, "n columns"], y: Float[Tensor, "m columns"]) -> Float[Tensor, "n m"]:
        """Prior covariance of the function between rows."""
        rate, slope, amplitude = self._parameters()
        a, b = x * rate.sqrt(), y * rate.sqrt()
        distance = (a.square().sum(-1)[:, None] + b.square().sum(-1) - 2 * a @ b.T).clamp_min(0)
        return CONSTANT + amplitude * (-distance).exp() + (x * slope) @ y.T

    @property
    def noise(self) -> Float[Tensor, ""]:
        """Variance of the noise."""
        return self.log[-1].exp() + 1e-5

    def left_out(self) -> Float[Tensor, " rows"]:
        """Mean at each observed row as the other rows predict it."""
        return self._y - self._weight[:, 0] / torch.cholesky_inverse(self._chol).diagonal()

    def _parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rate and slope of each column, and the amplitude."""
        rate, slope, rest = self.log.exp().split([len(self._linear), len(self._linear), 2])
        return rate[self.group], (slope * self._linear)[self.group], rest[0]

    def _variance(self, x: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
        _, slope, amplitude = self._parameters()
        return CONSTANT + amplitude + (x.square() * slope).sum(-1)

    def _factor(self, x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows rows"]:
        return torch.linalg.cholesky(self.kernel(x, x) + self.noise * torch.eye(len(x), dtype=x.dtype))


class LinearScale:
    """Labels less their mean, in standard deviations.

    Args:
        labels: What was measured, at least one.
    """

    def __init__(self, labels: Float[Tensor, " rows"]):
        labels = labels.double()
        spread = labels.std(unbiased=False).item()
        self._center, self._spread = labels.mean(), spread if spread > 0 else 1.0

    def score(self, labels: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Scores of labels."""
        return (labels.double() - self._center) / self._spread

    def label(self, score: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Labels of scores."""
        return self._center + self._spread * score

    def moments(
        self, mean: Float[Tensor, " n"], std: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Mean and standard deviation in units of the labels."""
        return self.label(mean), self._spread * std


class NormalScale:
    """The increasing map between labels and the normal scores of their ranks; outliers stay near the others there.

    Args:
        labels: What was measured, at least one; equal ones share the middle of their ranks.
    """

    def __init__(self, labels: Float[Tensor, " rows"]):
        self._value, counts = labels.double().unique(return_counts=True)
        self._score = torch.special.ndtri((counts.cumsum(0) - counts.double() / 2) / len(labels))

    def score(self, labels: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Normal scores of labels."""
        return piecewise(labels.double(), self._value, self._score)

    def label(self, score: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Labels of normal scores."""
        return piecewise(score.flatten(), self._score, self._value).view(score.shape)

    def moments(
        self, mean: Float[Tensor, " n"], std: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Mean and standard deviation, in units of the labels, of what is normal on the scale of scores."""
        values = self.label(mean[:, None] + std[:, None] * NODES)
        center = (values * WEIGHTS).sum(-1)
        return center, ((values - center[:, None]).square() * WEIGHTS).sum(-1).sqrt()


def piecewise(x: Float[Tensor, " n"], known: Float[Tensor, " k"], value: Float[Tensor, " k"]) -> Float[Tensor, " n"]:
    """Piecewise linear through `(known, value)`; beyond the ends with the slope of the outer twentieth.

    Args:
        x: Where to evaluate.
        known: Increasing positions; one makes a constant.
        value: Values there.
    """
    if len(known) == 1:
        return value.expand(len(x))
    right = torch.searchsorted(known, x.contiguous()).clamp(1, len(known) - 1)
    share = (x - known[right - 1]) / (known[right] - known[right - 1])
    inside = torch.lerp(value[right - 1], value[right], share.clamp(0, 1))
    step = max(1, len(known) // 20)
    below = (value[step] - value[0]) / (known[step] - known[0])
    above = (value[-1] - value[-1 - step]) / (known[-1] - known[-1 - step])
    return inside + below * (x - known[0]).clamp_max(0) + above * (x - known[-1]).clamp_min(0)
