"""Several objectives at once: which members are not dominated, how they are spread, how much they dominate."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def non_dominated(values: Float[Tensor, "members objectives"]) -> Bool[Tensor, " members"]:
    """Members that no other one equals or exceeds in all objectives and exceeds in one; the larger the better.

    Members that are minus infinity are dominated.
    """
    alive = values.isfinite().all(-1)
    order = values.nan_to_num(neginf=-1e30).argsort(0).argsort(0).double().sum(-1).argsort(descending=True)
    for row in order.tolist():
        if alive[row]:
            worse = (values <= values[row]).all(-1) & (values < values[row]).any(-1)
            alive &= ~worse
    return alive


def spread(values: Float[Tensor, "members objectives"], n: int) -> Int[Tensor, " kept"]:
    """Members that lie far from each other: the best of each objective, then always the farthest from those kept.

    Args:
        values: Of members of a front.
        n: How many at most.
    """
    low, high = values.amin(0), values.amax(0)
    place = (values - low) / (high - low).clamp_min(1e-12)
    kept = list(dict.fromkeys(values.argmax(0).tolist()))[:n]
    while len(kept) < min(n, len(values)):
        gap = torch.cdist(place, place[kept]).amin(-1)
        gap[kept] = -1.0
        kept.append(int(gap.argmax()))
    return torch.tensor(kept, dtype=torch.long)


def improvement(
    points: Float[Tensor, "*batch 2"], front: Float[Tensor, "front 2"], reference: Float[Tensor, "2"]
) -> Float[Tensor, "*batch"]:
    """Area that each point dominates beyond what a front does, above a reference; the larger the better."""
    front = front[non_dominated(front)].maximum(reference)
    front = front[front[:, 0].argsort()]
    left, height = torch.cat([reference[:1], front[:, 0]]), torch.cat([front[:, 1], reference[1:]])
    right = torch.cat([front[:, 0], torch.full_like(reference[:1], torch.inf)])
    width = (points[..., :1].minimum(right) - left).clamp_min(0)
    return (width * (points[..., 1:] - height).clamp_min(0)).sum(-1)


def hypervolumes(values: Float[Tensor, "queries 2"], reference: Float[Tensor, "2"]) -> Float[Tensor, " queries"]:
    """Area dominated by the first of some points, the first two, and so on, above a reference."""
    gains = [improvement(values[row], values[:row], reference) for row in range(len(values))]
    return torch.stack(gains).cumsum(0)
