"""Measured tasks: how their images are made, and what architectures reached on them."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from archgen.benchmark import find_file
from archgen.evidence import STATISTICS, describe
from archgen.hub import reading, shipped_folder
from archgen.images import ImageSet, from_arrays, load_images
from archgen.space import SearchSpace

SIDE = 105  # pixels of an Omniglot drawing
DRAWERS = 14  # of 20, whose drawings are for training
METAD2A = "metad2a_meta_train_tasks.parquet"
FACTS = {"classes": math.log(20), "side": math.log(32), "colour": 1.0}  # of the tasks that have no images there


@dataclass(frozen=True)
class ImageTask:
    """How a task is made of its source: a row of `datasets/tasks201/tasks.csv`.

    Attributes:
        task: Its name.
        source: `digits`, or a file of images.
        split: `train` or `test`; all tasks of a source are in one.
        classes: Positions among the source's, separated by blanks.
        resolution: Side of the images.
        train_size: Images to learn from.
        test_size: Images to be judged on.
        seed: Of the choice of images.
    """

    task: str
    source: str
    split: str
    classes: str
    resolution: int
    train_size: int
    test_size: int
    seed: int

    def images(self) -> ImageSet:
        """The task's images.

        Raises:
            ValueError: If the source is not where ARCHGEN_BENCHMARKS points.
        """
        chosen = source_images(self.source).of_classes([int(word) for word in self.classes.split()])
        chosen = chosen.limited(self.train_size, self.test_size, seed=self.seed).resized(self.resolution)
        return replace(chosen, name=self.task)


@cache
def source_images(source: str) -> ImageSet:
    """All images of a source."""
    if source == "digits":
        return load_images(source)
    path = find_file(source)
    return _read_omniglot(path) if source.startswith("omniglot") else load_images(path)


def _read_omniglot(path: Path) -> ImageSet:
    """Drawings as packed bits, 1 for the background; strokes become white."""
    from pyarrow import parquet

    with reading(path):
        table = parquet.ParquetFile(path).read().to_pydict()
        bits = np.stack([np.unpackbits(np.frombuffer(row, np.uint8))[: SIDE**2] for row in table["bits_105x105"]])
        pixels = ((1 - bits.reshape(-1, SIDE, SIDE)) * 255).astype(np.uint8)
        labels = np.array([f"{a}/{c}" for a, c in zip(table["alphabet"], table["character"], strict=True)])
        train = np.array(table["drawer"]) <= DRAWERS
    return from_arrays("omniglot", (pixels[train], labels[train]), (pixels[~train], labels[~train]))


def read_tasks(split: str | None = None) -> list[ImageTask]:
    """The tasks of `tasks201`, or those of one split."""
    kinds = {field.name: int if field.type == "int" else str for field in fields(ImageTask)}
    with (shipped_folder("datasets") / "tasks201" / "tasks.csv").open(newline="", encoding="utf-8") as file:
        rows = [{name: kinds[name](value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [ImageTask(**row) for row in rows if split in (None, row["split"])]


@dataclass(frozen=True)
class Evaluations:
    """Accuracies measured on many tasks; what `TaskPredictor.fit` learns from.

    Attributes:
        evidence: What `describe` says of each task, NaN where it is not known.
        task: Position of the task of each evaluation.
        codes: What was evaluated.
        accuracy: Test accuracy in percent.
    """

    evidence: Float[Tensor, "tasks statistics"]
    task: Int[Tensor, " rows"]
    codes: Int[Tensor, "rows holes"]
    accuracy: Float[Tensor, " rows"]

    def of_tasks(self, chosen: Sequence[int]) -> Evaluations:
        """Those of some tasks."""
        place = torch.full((len(self.evidence),), -1)
        place[list(chosen)] = torch.arange(len(chosen))
        rows = place[self.task] >= 0
        return Evaluations(self.evidence[list(chosen)], place[self.task[rows]], self.codes[rows], self.accuracy[rows])

    def and_those(self, other: Evaluations) -> Evaluations:
        """Both, the other's tasks behind these."""
        return Evaluations(
            torch.cat([self.evidence, other.evidence]),
            torch.cat([self.task, other.task + len(self.evidence)]),
            torch.cat([self.codes, other.codes]),
            torch.cat([self.accuracy, other.accuracy]),
        )

    def without_images(self) -> Evaluations:
        """The same, with nothing known of any task."""
        return replace(self, evidence=torch.full_like(self.evidence, torch.nan))


def read_measured(tasks: Sequence[ImageTask], space: SearchSpace) -> Evaluations:
    """Every training of `tasks201` on some of its tasks, with their images described.

    Raises:
        ValueError: If the images of a source are not where ARCHGEN_BENCHMARKS points.
    """
    evidence = [describe(task.images()) for task in tqdm(tasks, desc="describing tasks", leave=False)]
    place = {task.task: index for index, task in enumerate(tasks)}
    with (shipped_folder("datasets") / "tasks201" / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] in place]
    return Evaluations(
        torch.stack(evidence),
        torch.tensor([place[row["task"]] for row in rows]),
        _encode([row["arch"] for row in rows], space),
        torch.tensor([float(row["test_acc_pct"]) for row in rows], dtype=torch.float64),
    )


def read_metad2a(space: SearchSpace) -> Evaluations:
    """MetaD2A's evaluations on tasks of 20 classes of ImageNet at 32 x 32 pixels, whose images are not at hand.

    Raises:
        ValueError: If the file is not where ARCHGEN_BENCHMARKS points, or damaged.
    """
    from pyarrow import parquet

    path = find_file(METAD2A)
    with reading(path):
        table = parquet.ParquetFile(path).read(["task_id", "arch_str", "acc_pct"]).to_pydict()
    task = torch.tensor(table["task_id"]).unique(return_inverse=True)[1]
    facts = torch.tensor([FACTS.get(name, torch.nan) for name in STATISTICS])
    accuracy = torch.tensor(table["acc_pct"], dtype=torch.float64)
    return Evaluations(facts.expand(int(task.max()) + 1, -1), task, _encode(table["arch_str"], space), accuracy)


def _encode(texts: Sequence[str], space: SearchSpace) -> Int[Tensor, "rows holes"]:
    known = {text: space.encode(space.parse(text)) for text in dict.fromkeys(texts)}
    return torch.stack([known[text] for text in texts])
