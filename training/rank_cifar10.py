"""How well brief training ranks NAS-Bench-201 cells: against the accuracies after 200 epochs, beside parameters alone.

python training/rank_cifar10.py --out out/rank_cifar10     # stopped runs go on; OMP_NUM_THREADS=1 for one core

Needs CIFAR-10 as cifar10_jpeg.parquet and the table nas_bench_201 where ARCHGEN_BENCHMARKS points. Reduced, as the
constants below say: a quarter of the pixels, two fifths of the images, half the width, one cell a stage for five. They
were chosen on other cells than those that the default seed judges.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from accelerate import Accelerator
from scipy.stats import bootstrap, spearmanr

from archgen.benchmark import Table, find_file, find_table
from archgen.fit import Job, train_jobs
from archgen.hub import replacing
from archgen.images import load_images
from archgen.results import Results
from archgen.space import load_space
from archgen.trainer import Machine, Recipe

SKELETON = {"width": 8, "cells": 1}
RECIPE = Recipe(epochs=8, batch_size=64, flip=True, crop=2, validation=0.0)
TRAIN_SIZE, SIDE = 20_000, 16
TRUTH = "cifar10_test_acc_200ep_pct"


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's."""
    return float(spearmanr(one, other)[0])


def main() -> None:
    """Train the cells that are missing, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of cells")
    parser.add_argument("--out", default="out/rank_cifar10", help="folder of the results so far")
    options = parser.parse_args()
    started = time.process_time()
    space = load_space("nasbench201")
    table = Table.read(find_table("nas_bench_201"), space)
    codes = table.codes[torch.randperm(len(table), generator=torch.Generator().manual_seed(options.seed))]
    cells = {architecture.hash: architecture for architecture in space.scaled(SKELETON).decode_all(codes[:200])}
    chosen = list(cells.values())[: options.cells]
    images = load_images(find_file("cifar10_jpeg.parquet")).limited(TRAIN_SIZE).resized(SIDE)
    machine = Machine(Accelerator(), channels_last=True)
    found = train_jobs([Job(cell, images, RECIPE, 0) for cell in chosen], Results(options.out), machine)
    truth = table.column(TRUTH)[[table.row(space.parse(record["arch"])) for record in found]]
    params = space.cost.exact(torch.stack([space.encode(space.parse(r["arch"])) for r in found]))["params_m"]
    seconds = sum(record["seconds"] for record in found)
    result = {"cells": len(found), "training_minutes": round(seconds / 60, 1),
              "cpu_minutes_of_this_run": round((time.process_time() - started) / 60, 1)}  # fmt: skip
    for name, values in (
        ("test_acc_pct", torch.tensor([record["test_acc_pct"] for record in found])),
        ("train_loss, negative", -torch.tensor([record["train_loss"] for record in found])),
        ("params_m alone", params),
    ):
        pair = (values.numpy(), truth.numpy())
        band = bootstrap(
            pair, rank_correlation, paired=True, vectorized=False, n_resamples=1000, method="percentile", rng=0
        )
        result[name] = {
            "spearman": round(rank_correlation(*pair), 3),
            "band_95": [round(float(end), 3) for end in band.confidence_interval],
        }
    print(json.dumps(result, indent=1))
    with replacing(f"{options.out}/summary.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
