"""Batch normalization over all processes, on any device: torch's own needs a GPU."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as distributed
from jaxtyping import Float
from torch import Tensor, nn


class SynchronizedBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics are those of the batches of all processes, which have the same size."""

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """Normalize with the statistics of all processes in training, with the running ones else."""
        if not self.training:
            return super().forward(x)
        count = x.numel() / x.shape[1] * dist.get_world_size()
        shift = self.running_mean.clone()  # close to the mean, so that the squares do not swallow the variance
        centred = x - shift[:, None, None]
        sums = distributed.all_reduce(torch.stack([centred.sum((0, 2, 3)), (centred * centred).sum((0, 2, 3))]))
        mean, square = sums / count
        variance = (square - mean * mean).clamp(min=0)
        mean = mean + shift
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = (variance + self.eps).rsqrt() * self.weight
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


def synchronize_batch_norm(network: nn.Module) -> nn.Module:
    """Make every batch normalization of a network one over all processes; its weights and their names stay.

    Args:
        network: Changed in place.

    Returns:
        The network.
    """
    if torch.cuda.is_available():
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm
    return network
