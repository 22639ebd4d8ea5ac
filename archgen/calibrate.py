"""Bounds that hold with a stated probability, from how far a predictor was off where it did not learn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

CALIBRATION = 500  # labelled rows that are set aside, at most
SMALLEST = 1e-20  # deviation; a predictor of equal labels is certain


@dataclass(frozen=True)
class Prediction:
    """What is predicted, in the units of the labels.

    Attributes:
        mean: Expected measurement.
        std: Its standard deviation: what the predictor does not know, and noise.
    """

    mean: Float[Tensor, "rows properties"]
    std: Float[Tensor, "rows properties"]


def set_aside(
    labels: Float[Tensor, "rows properties"], generator: torch.Generator
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " rest"]]:
    """Labelled rows to calibrate with, a fifth and `CALIBRATION` at most, and those that are left to learn from."""
    rows = labels.isfinite().any(-1).nonzero().flatten()
    rows = rows[torch.randperm(len(rows), generator=generator)]
    kept = min(CALIBRATION, len(rows) // 5)
    return rows[:kept], rows[kept:]


class Conformal:
    """Split-conformal bounds.

    What is guaranteed: if the calibration architectures and a new one are exchangeable, such as random members of the
    space, and the predictor learned from none of them, then a one-sided bound or an interval of level p holds for the
    new measurement with probability p or more (p + 1 / (n + 1) at most, without ties), on average over calibration
    sets and new architectures, however wrong the predictor is. What is not guaranteed: that it holds so often for one
    kind of architectures, or for those that were selected by their prediction, as all that a bound admits are.

    Source: Papadopoulos et al., ECML 2002; Lei et al., JASA 2018, arXiv 1604.04173, theorem 2.2.

    Args:
        residuals: `(measured - mean) / std` of the n calibration architectures; NaN where nothing was measured.
    """

    def __init__(self, residuals: Float[Tensor, "rows properties"]):
        self.residuals = residuals

    @classmethod
    def fit(cls, prediction: Prediction, labels: Float[Tensor, "rows properties"]) -> Conformal:
        """Take in what was measured of architectures that the predictor had not learned from."""
        return cls((labels - prediction.mean) / prediction.std.clamp_min(SMALLEST))

    def upper(self, prediction: Prediction, level: float) -> Float[Tensor, "rows properties"]:
        """Values that measurements stay below, or equal; infinite where the calibration rows are too few."""
        return prediction.mean + rank_value(self.residuals, level) * prediction.std.clamp_min(SMALLEST)

    def lower(self, prediction: Prediction, level: float) -> Float[Tensor, "rows properties"]:
        """Values that measurements stay above, or equal."""
        return prediction.mean - rank_value(-self.residuals, level) * prediction.std.clamp_min(SMALLEST)

    def interval(self, prediction: Prediction, level: float) -> Float[Tensor, "rows properties 2"]:
        """Both ends of what measurements stay within, around the mean."""
        reach = rank_value(self.residuals.abs(), level) * prediction.std.clamp_min(SMALLEST)
        return torch.stack([prediction.mean - reach, prediction.mean + reach], -1)


def rank_value(values: Float[Tensor, "rows properties"], level: float) -> Float[Tensor, " properties"]:
    """Of the n values in a column that are not NaN the one of rank `ceil((n + 1) level)`; infinite beyond the last.

    Raises:
        ValueError: If the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level of a bound is between 0 and 1, got {level}")
    ranked = F.pad(values.nan_to_num(torch.inf, torch.inf), (0, 0, 0, 1), value=torch.inf).sort(0).values
    ranks = [math.ceil(round((n + 1) * level, 9)) for n in (~values.isnan()).sum(0).tolist()]
    return torch.stack([ranked[rank - 1, column] for column, rank in enumerate(ranks)])
