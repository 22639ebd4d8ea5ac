"""What the images of a data set say of it, as numbers that do not depend on the order in which it looks at them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from archgen.images import ImageSet

STATISTICS = (
    "classes", "per_class", "side", "colour", "saturation", "kurtosis", "between_images", "between_pixels",
    "step_1", "step_2", "fine", "components", "within_classes",
)  # fmt: skip
LOOKED_AT = 1024  # images that the statistics are taken from, more only where there are more classes
FINE = 0.3  # cycles a pixel above which detail is fine


@torch.no_grad()
def describe(images: ImageSet) -> Float[Tensor, " statistics"]:
    """Statistics of a task's training images and labels; `STATISTICS` names them.

    Natural logarithms of the number of classes, of images a class and of the longer side in pixels; 1 for colour, else
    0, and how much of the contrast is colour; logarithm of the kurtosis of the pixels; contrast among the images'
    means and, at a pixel, among images; half the mean squared difference of pixels one and two apart; share of fine
    detail in the power spectrum; logarithm of the effective number of principal components; share of the variance
    within classes. Contrast is in units of the standard deviation of all grey values.

    Args:
        images: The task; what is there for testing is not looked at.
    """
    rows = len(images.train)
    few = max(LOOKED_AT, len(images.classes))
    seen = images if rows <= few else images.limited(few)
    x = seen.train.double() / 255
    grey = x.mean(1)
    contrast = grey.std(correction=0).clamp_min(1e-3)
    z = (grey - grey.mean()) / contrast
    facts = x.new_tensor([len(images.classes), rows / len(images.classes), max(images.shape[1:])]).log()
    values = [
        x.new_tensor(float(images.shape[0] == 3)),
        x.std(1, correction=0).mean() / contrast,
        (z**4).mean().clamp_min(1e-3).log(),
        z.mean((1, 2)).std(correction=0),
        z.std(0, correction=0).mean(),
        difference(z, 1),
        difference(z, 2),
        fine_detail(z),
        *principal_and_within(x.flatten(1), seen.train_labels),
    ]
    return torch.cat([facts, torch.stack(values)]).float()


def difference(z: Float[Tensor, "images height width"], apart: int) -> Float[Tensor, ""]:
    """Half the mean squared difference of pixels so far apart: 1 where they are unrelated, 0 where there are none."""
    pairs = [z[:, apart:] - z[:, :-apart], z[..., apart:] - z[..., :-apart]]
    pairs = torch.cat([pair.flatten() for pair in pairs])
    return pairs.square().mean() / 2 if len(pairs) else z.new_zeros(())


def fine_detail(z: Float[Tensor, "images height width"]) -> Float[Tensor, ""]:
    """Share of the power above `FINE` cycles a pixel, the images' means left out."""
    power = torch.fft.fft2(z - z.mean((1, 2), keepdim=True)).abs().square().mean(0)
    rows, columns = (torch.fft.fftfreq(side, dtype=z.dtype) for side in z.shape[1:])
    fine = rows[:, None] ** 2 + columns**2 > FINE**2
    return power[fine].sum() / power.sum().clamp_min(1e-9)


def principal_and_within(
    x: Float[Tensor, "images pixels"], labels: Int[Tensor, " images"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Logarithm of the effective number of principal components, and the share of variance within classes."""
    x = x - x.mean(0)
    total = x.square().sum().clamp_min(1e-9)
    moments = x @ x.T if len(x) < x.shape[1] else x.T @ x
    components = total**2 / moments.square().sum().clamp_min(1e-18)
    sums = x.new_zeros(int(labels.max()) + 1, x.shape[1]).index_add(0, labels, x)
    between = (sums.square().sum(1) / labels.bincount().clamp_min(1)).sum()
    return components.clamp_min(1).log(), 1 - between / total
