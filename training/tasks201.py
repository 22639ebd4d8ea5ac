"""Trains the predictor of accuracies on tasks known by their images: checkpoints/tasks201.

python training/tasks201.py     # a minute on one core, most of it to describe the images

Needs the images of the sources, and metad2a_meta_train_tasks.parquet, where ARCHGEN_BENCHMARKS points. Learns from the
training part of datasets/tasks201 and from MetaD2A's evaluations; training/check_tasks.py judges it on the rest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from archgen.hub import replacing_folder
from archgen.space import load_space
from archgen.task import TaskPredictor
from archgen.taskset import read_measured, read_metad2a, read_tasks


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="checkpoints/tasks201")
    folder = Path(parser.parse_args().out)
    space = load_space("nasbench201")
    data = read_measured(read_tasks("train"), space).and_those(read_metad2a(space))
    predictor = TaskPredictor(space.name).fit(data.evidence, data.task, data.codes, data.accuracy)
    with replacing_folder(folder) as temporary:
        predictor.save_pretrained(temporary / "predictor")
    print(f"{len(data.codes):,} evaluations on {len(data.evidence):,} tasks: {folder / 'predictor'}")


if __name__ == "__main__":
    main()
