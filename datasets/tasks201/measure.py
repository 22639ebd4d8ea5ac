"""Measures tasks201: NAS-Bench-201 cells trained on many small image tasks.

python datasets/tasks201/measure.py --out out/tasks201     # stopped runs go on; three hours on one core

Reads the images of its sources where ARCHGEN_BENCHMARKS points, and writes tasks.csv and table.csv beside this file.
What table.csv has is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import random
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator

from archgen.fit import Job, train_jobs
from archgen.hub import replacing
from archgen.results import Results
from archgen.space import load_space
from archgen.taskset import ImageTask, source_images
from archgen.trainer import Machine, Recipe

HERE = Path(__file__).parent
RECIPE = Recipe(epochs=20, batch_size=80, crop=0, validation=0.0)
SKELETON = {"width": 4, "cells": 3}
# source: part of the table, number of tasks, cells a task, smallest and largest number of classes, sides, sizes
SOURCES = {
    "cifar10_jpeg.parquet": ("train", 65, 11, (2, 10), (8, 10, 12), (240, 320)),
    "omniglot_small.parquet": ("train", 45, 11, (8, 20), (10, 12), (None,)),
    "mnist.npz": ("train", 30, 11, (3, 10), (8, 10, 12), (160, 240)),
    "flowers17_16x16.npz": ("test", 22, 20, (3, 17), (8, 12), (None,)),
    "digits": ("test", 18, 20, (3, 10), (8,), (160, 240)),
}
SEEDS = 3  # trainings of each cell on each task: one of them is rough


def draw_tasks() -> list[ImageTask]:
    """All tasks, drawn once and for all, those of all sources in turn."""
    tasks = []
    for source, (split, number, _, (low, high), sides, sizes) in SOURCES.items():
        generator, images, stem = random.Random(source), source_images(source), source.split("_")[0].split(".")[0]
        for index in range(number):
            classes = sorted(generator.sample(range(len(images.classes)), generator.randint(low, high)))
            side, size = generator.choice(sides), generator.choice(sizes)
            subset = images.of_classes(classes)
            train_size = min(size or 400, len(subset.train))
            test_size = min(600, len(subset.test))
            tasks.append((index / number, ImageTask(
                f"{stem}-{index:02}", source, split, " ".join(map(str, classes)), side, train_size, test_size, index,
            )))  # fmt: skip
    return [task for _, task in sorted(tasks, key=lambda entry: entry[0])]


def main() -> None:
    """Measure what is missing, then write the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="out/tasks201", help="folder of the results so far")
    out = Path(parser.parse_args().out)
    space = load_space("nasbench201").scaled(SKELETON)
    machine, results = Machine(Accelerator(cpu=True), channels_last=True), Results(out)
    pool = {a.hash: a for a in space.decode_all(space.sample(40_000, torch.Generator().manual_seed(0)))}
    cells, tasks = list(pool.values()), draw_tasks()
    write_csv(HERE / "tasks.csv", [asdict(task) for task in tasks])
    table = HERE / "table.csv"
    rows = list(csv.DictReader(table.open(newline="", encoding="utf-8"))) if table.exists() else []
    known = {(row["task"], row["arch"], int(row["seed"])) for row in rows}
    for number, task in enumerate(tasks):
        print(f"{number + 1}/{len(tasks)} {task}", flush=True)
        chosen = random.Random(task.task).sample(cells, SOURCES[task.source][2])
        pairs = [(cell, seed) for seed in range(SEEDS) for cell in chosen]
        missing = [(cell, seed) for cell, seed in pairs if (task.task, str(cell), seed) not in known]
        if missing:
            images = task.images()
            train_jobs([Job(cell, images, RECIPE, seed) for cell, seed in missing], results, machine)
    by_task = {task.task: task for task in tasks}
    for record in results.records:
        if record["status"] == "done" and (record["task"], record["arch"], record["seed"]) not in known:
            task = by_task[record["task"]]
            facts = {"source": task.source.split(".")[0], "split": task.split, "arch": record["arch"]}
            numbers = {name: round(record[name], 4) for name in ("test_acc_pct", "train_acc_pct", "train_loss")}
            rows.append({"task": task.task, **facts, "seed": record["seed"], **numbers})
    write_csv(table, rows)


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows as csv, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
