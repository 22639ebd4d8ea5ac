"""Figures of measured numbers, as the suffix of their file says: .png, .svg or .pdf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from archgen.hub import replacing


def draw_learning_curve(metrics: Sequence[dict[str, float]], path: str | Path) -> None:
    """Draw loss and accuracies over the epochs of a training.

    Args:
        metrics: One entry an epoch, as `archgen fit` writes them to `metrics.jsonl`.
        path: The picture to write.

    Raises:
        ValueError: If matplotlib is not installed, or the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("figures need matplotlib: pip install archgen[plot]") from error
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = [entry["epoch"] for entry in metrics]
    marker = "o" if len(epochs) < 3 else None
    loss.plot(epochs, [entry["train_loss"] for entry in metrics], marker=marker)
    loss.set(xlabel="epoch", ylabel="training loss")
    for name, label in (("train_acc_pct", "training"), ("valid_acc_pct", "validation")):
        points = [(entry["epoch"], entry[name]) for entry in metrics if name in entry]
        if points:
            accuracy.plot(*zip(*points, strict=True), marker=marker, label=label)
    best = max(
        (entry for entry in metrics if "valid_acc_pct" in entry), key=lambda e: e["valid_acc_pct"], default=None
    )
    if best is not None:
        accuracy.axvline(best["epoch"], color="0.7", linewidth=0.8, zorder=0)
        accuracy.set_title(f"best: {best['valid_acc_pct']:.2f} % in epoch {best['epoch']}", fontsize="small")
    accuracy.set(xlabel="epoch", ylabel="accuracy, %")
    accuracy.legend(frameon=False, fontsize="small")
    for axes in (loss, accuracy):
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
