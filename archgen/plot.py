"""Figures of measured numbers, as the suffix of their file says: .png, .svg or .pdf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
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


def draw_front(known: Mapping[str, Sequence[float]], kept: Mapping[str, Sequence[float]], path: str | Path) -> None:
    """Draw what several objectives came to: every pair of them, with the members that were kept.

    Args:
        known: Values of all architectures that were looked at, by objective.
        kept: Values of those that are returned.
        path: The picture to write.

    Raises:
        ValueError: If matplotlib is not installed, or the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("figures need matplotlib: pip install archgen[plot]") from error
    pairs = list(combinations(known, 2))
    figure = Figure(figsize=(4.8 * len(pairs), 3.6), layout="constrained")
    for axes, (first, second) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        axes.scatter(known[first], known[second], s=4, color="0.8", linewidths=0, label="looked at", rasterized=True)
        axes.scatter(kept[first], kept[second], s=14, color="C0", label="Pareto set")
        for name, limits in ((first, axes.set_xlim), (second, axes.set_ylim)):
            limits(*_limits(known[name], kept[name]))
        axes.set(xlabel=first, ylabel=second)
        axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _limits(known: Sequence[float], kept: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis: all that is kept, and most of what is known; outliers are left out."""
    ordered = sorted(known)
    low = min(ordered[len(ordered) // 20], *kept)
    high = max(ordered[-1 - len(ordered) // 20], *kept)
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def draw_search_curves(
    bands: Mapping[str, Mapping[str, Sequence[float | None]]], label: str, optimum: float | None, path: str | Path
) -> None:
    """Draw what searches had found after each query, one line a method.

    Args:
        bands: By method, `mean` over its trials and the ends `low` and `high` of its confidence band, None if unknown.
        label: What was searched for.
        optimum: The best there is, if known.
        path: The picture to write.

    Raises:
        ValueError: If matplotlib is not installed, or the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("figures need matplotlib: pip install archgen[plot]") from error
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.subplots()
    for color, (method, one) in enumerate(bands.items()):
        known = zip(range(1, len(one["mean"]) + 1), one["mean"], one["low"], one["high"], strict=True)
        if points := [point for point in known if None not in point]:
            queries, mean, low, high = zip(*points, strict=True)
            axes.plot(queries, mean, color=f"C{color}", label=method)
            axes.fill_between(queries, low, high, color=f"C{color}", alpha=0.2, linewidth=0)
    if optimum is not None:
        axes.axhline(optimum, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    late = [value for one in bands.values() for value in one["mean"][len(one["mean"]) // 10 :] if value is not None]
    if late and max(late) > min(late):  # the first tenth, far below, would hide the rest
        margin = 0.05 * (max(late) - min(late))
        axes.set_ylim(min(late) - margin, max([*late, *([optimum] if optimum is not None else [])]) + margin)
    axes.set(xlabel="networks measured", ylabel=label)
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
