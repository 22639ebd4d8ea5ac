"""Absorbing against variance-exploding diffusion: quality and time at growing numbers of network calls.

`python sampling/compare_processes.py --out sampling/processes.json --figure sampling/processes.svg`

Both checkpoints have the same network size and data. Needs `nas_bench_201.parquet` (see datasets/README.md).
"""

from __future__ import annotations

import json
import time
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from archgen.benchmark import Table, find_table
from archgen.hub import replacing
from archgen.pipeline import ArchitecturePipeline

CALLS = {"absorbing": (1, 2, 3, 4, 6), "ve": (4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000)}


def pair_divergence(codes: Tensor, options: int) -> float:
    """Mean over pairs of holes of KL(samples || uniform) in nat, less its expectation for perfect samples."""
    total, n = 0.0, len(codes)
    pairs = list(combinations(range(codes.shape[1]), 2))
    for i, j in pairs:
        share = torch.bincount(codes[:, i] * options + codes[:, j], minlength=options**2).double() / n
        seen = share[share > 0]
        total += float((seen * (seen * options**2).log()).sum()) - (options**2 - 1) / (2 * n)
    return total / len(pairs)


def measure(pipeline: ArchitecturePipeline, truth: Table, calls: int, n: int) -> dict[str, float]:
    """Quality of free samples, true accuracy of those asked to be accurate, and seconds for a thousand."""
    begin = time.perf_counter()
    free = pipeline(n=n, steps=calls, distinct=False, batch_size=n, generator=torch.Generator().manual_seed(0)).codes
    seconds = time.perf_counter() - begin
    wish = {"cifar100_test": [pipeline.denoiser.quantile("cifar100_test", 0.99), 100.0]}
    asked = pipeline(
        n=n, steps=calls, condition=wish, distinct=False, batch_size=n, generator=torch.Generator().manual_seed(1)
    ).codes
    rows = torch.tensor([truth.row(pipeline.space.decode(code)) for code in asked])
    accuracy = truth.column("cifar100_test_acc_200ep_pct")[rows]
    inside = (accuracy >= wish["cifar100_test"][0]).double().mean().item()
    return {"calls": calls, "seconds for 1000": 1000 * seconds / n, "pair KL, nat": pair_divergence(free, 5),
            "mean cifar100_test, top 1 % asked": accuracy.mean().item(), "share in the top 1 %": inside}  # fmt: skip


def plot(results: dict[str, list[dict[str, float]]], path: str) -> None:
    """Three panels over the number of network calls."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = [("pair KL, nat", "distance from uniform, nat"), ("share in the top 1 %", "share in the top 1 % asked"),
              ("seconds for 1000", "seconds for 1,000 architectures")]  # fmt: skip
    for axes, (key, label) in zip(figure.subplots(1, 3), panels, strict=True):
        for process, colour in (("absorbing", "#b2182b"), ("ve", "#2166ac")):
            rows = results[process]
            axes.plot([r["calls"] for r in rows], [max(r[key], 1e-4) for r in rows], "o-", color=colour, label=process)
        axes.set(xscale="log", xlabel="network calls", ylabel=label, yscale="linear" if "share" in key else "log")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix[1:])


def compare(
    absorbing: str = "nasbench201",
    ve: str = "checkpoints/nasbench201-ve",
    n: int = 2048,
    out: str = "out/processes.json",
    figure: str = "out/processes.svg",
) -> None:
    """Measure both processes.

    Args:
        absorbing: Checkpoint of the absorbing process.
        ve: Checkpoint of the variance-exploding one.
        n: Samples for each point.
        out: File for the numbers.
        figure: File for the picture.
    """
    results: dict[str, list[dict[str, float]]] = {}
    for process, checkpoint in (("absorbing", absorbing), ("ve", ve)):
        pipeline = ArchitecturePipeline.load(checkpoint)
        pipeline.set_progress_bar_config(disable=True)
        truth = Table.read(find_table("nas_bench_201.parquet"), pipeline.space)
        results[process] = []
        for calls in CALLS[process]:
            results[process].append(measure(pipeline, truth, calls, n))
            print(process, json.dumps(results[process][-1]), flush=True)
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(results, indent=1))
    plot(results, figure)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(compare)
