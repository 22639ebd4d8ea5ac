"""Gradient guidance of the variance-exploding process against steering by resampling, with the same predictor.

`OMP_NUM_THREADS=1 python sampling/compare_guidance.py`

A predictor learns CIFAR-100 test accuracy from the labels of 1,000 cells drawn at random; all other labels only judge.
Both are to draw from `p(x) exp(strength f(x))`, where `f` is what it predicts: steering asks it of complete cells, the
gradient is that of a network which learned from it what noisy cells will be worth. Strengths are those at which the
exact distribution has an effective size (1 / sum of p^2) of 1,000, 100 and 10 cells. Needs `nas_bench_201`.
"""

from __future__ import annotations

import json
import time

import torch
from check_steering import tilted
from torch import Tensor

from archgen.benchmark import Table, find_table
from archgen.hub import replacing
from archgen.pipeline import ArchitecturePipeline

COLUMN = "cifar100_test_acc_200ep_pct"
WAYS = (  # checkpoint, network calls, factor of the strength; DiffusionNAG makes 2,000 calls and tunes the factor
    ("nasbench201", None, 1.0),
    *(("nasbench201-ve", calls, times) for calls, times in ((36, 1.0), (200, 1.0), (200, 4.0), (2000, 1.0))),
)
PLACE = 5 ** torch.arange(5, -1, -1)  # of the six options in the number of a cell


def sampled(pipeline: ArchitecturePipeline, n: int, strength: float, calls: int | None) -> dict[str, float | Tensor]:
    """Numbers of the cells drawn, evaluations of the denoiser for each, and seconds of the processor for 1,000."""
    evaluated = []
    hook = pipeline.denoiser.register_forward_pre_hook(lambda _, inputs: evaluated.append(len(inputs[0])))
    begin = time.process_time()
    codes = pipeline(
        n=n, maximize=COLUMN, strength=strength, steps=calls, distinct=False, batch_size=n,
        generator=torch.Generator().manual_seed(0),
    ).codes  # fmt: skip
    seconds = time.process_time() - begin
    hook.remove()
    return {"cells": (codes * PLACE).sum(-1), "evaluations": sum(evaluated) / n, "seconds": 1000 * seconds / n}


def compare(n: int = 512, seed: int = 0, out: str = "out/guidance.json") -> None:
    """Draw with both, at each strength.

    Args:
        n: Samples a row.
        seed: Of the choice of labelled cells.
        out: File for the numbers.
    """
    pipelines = {name: ArchitecturePipeline.load(name) for name in ("nasbench201", "nasbench201-ve")}
    table = Table.read(find_table("nas_bench_201"), pipelines["nasbench201"].space)
    chosen = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))[:1000]
    labelled = Table(table.space, table.codes[chosen], {COLUMN: table.column(COLUMN)[chosen]})
    truth = torch.empty(len(table), dtype=torch.float64)
    truth[(table.codes * PLACE).sum(-1)] = table.column(COLUMN)
    for pipeline in pipelines.values():
        pipeline.set_progress_bar_config(disable=True)
        predictor = pipeline.learn(labelled, [COLUMN], seed)  # the same for both
    value = predictor.predict(table.space.legal_codes).mean[:, 0].double()
    rows = []
    for size in (1000, 100, 10):
        strength, exact = tilted(value, size)
        rise = (exact * value).sum() - value.mean()
        shown = {"effective_size": size, "strength": round(strength, 3),
                 "exact_mean_cifar100_test": (exact * truth).sum().item()}  # fmt: skip
        for name, calls, times in WAYS:
            result = sampled(pipelines[name], n, times * strength, calls)
            cells = result.pop("cells")
            rows.append({
                **shown, "exact_different_share": different(exact, n), "checkpoint": name, "calls": calls,
                "times_strength": times, "gain": ((value[cells].mean() - value.mean()) / rise).item(),
                "mean_cifar100_test": truth[cells].mean().item(), "different_share": len(cells.unique()) / n, **result,
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")


def different(exact: Tensor, n: int) -> float:
    """Expected share of different cells among `n` independent draws."""
    return ((1 - (1 - exact) ** n).sum() / n).item()


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(compare)
