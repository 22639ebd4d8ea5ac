"""Tables from what others keep otherwise: official files of benchmarks, and results of `archgen fit`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from archgen.benchmark import checked_output, write_columns
from archgen.hub import brief, reading
from archgen.results import columns_of, read_results
from archgen.unpickle import read_pickle

# NATS-Bench trains on these data sets and evaluates on these splits; CIFAR-10's validation uses half the training set.
EVALUATIONS = {
    "cifar10_val": ("cifar10-valid", "x-valid"),
    "cifar10_test": ("cifar10", "ori-test"),
    "cifar100_val": ("cifar100", "x-valid"),
    "cifar100_test": ("cifar100", "x-test"),
    "imagenet16_120_val": ("ImageNet16-120", "x-valid"),
    "imagenet16_120_test": ("ImageNet16-120", "x-test"),
}


def convert(source: str, path: str, out: str = "table.parquet") -> None:
    """Turn a benchmark's official files, or the results of `archgen fit`, into a table.

    Args:
        source: `nats-bench`, `hw-nas-bench` or `fit`.
        path: NATS-Bench's folder `NATS-tss-v1_0-...-simple` or `NATS-sss-...`; HW-NAS-Bench's pickle; what `archgen
            fit` wrote for a list: its folder, one of its files, or several of them, separated by commas, to be merged.
        out: The table to write, .parquet or .csv: `arch_index` and `arch_str`, or `arch`, and columns with units in
            their names.

    Raises:
        ValueError: If there is no such format, or the files are not of it; nothing is written then.
    """
    formats = {"nats-bench": _convert_nats, "hw-nas-bench": _convert_hw, "fit": _convert_fit}
    if source not in formats:
        raise ValueError(f"no format {source!r}; known: {', '.join(formats)}")
    output = checked_output(out, (".parquet", ".csv"))
    rows = formats[source](Path(path))
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    write_columns(columns, output)


def _convert_nats(folder: Path) -> list[dict[str, Any]]:
    """One row for each record of a folder: `meta.pickle.pbz2` names the architectures, `NNNNNN.pickle.pbz2` is one."""
    if not (folder / "meta.pickle.pbz2").is_file():
        raise ValueError(f"{folder} has no meta.pickle.pbz2; give NATS-Bench's folder NATS-tss-v1_0-...-simple")
    files = sorted(folder.glob("[0-9]*.pickle.pbz2"))
    rows = []
    with reading(folder / "meta.pickle.pbz2"):
        names = list(read_pickle(folder / "meta.pickle.pbz2")["meta_archs"])
    for file in tqdm(files, desc=folder.name, unit="record", disable=None):
        record = read_pickle(file)
        try:
            rows.append(_nats_row(record, int(file.name.partition(".")[0]), names))
        except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(f"{file} is no record of NATS-Bench: {type(error).__name__} {brief(error)}") from error
    if not rows:
        raise ValueError(f"{folder} has no record NNNNNN.pickle.pbz2")
    print(f"{folder.name}: {len(rows)} of {len(names)} architectures converted", file=sys.stderr)
    return rows


def _nats_row(record: Mapping[str, Any], index: int, names: list[str]) -> dict[str, Any]:
    """Means over all seeds of the accuracies after the last epoch, for each length of training, and costs."""
    row: dict[str, Any] = {"arch_index": index, "arch_str": names[index]}
    for key in sorted(record, key=int):
        result, epochs = record[key], int(key)
        if (result["arch_index"], result["arch_str"]) != (index, names[index]):
            raise ValueError(f"it is of {result['arch_str']!r}, number {result['arch_index']}")
        trials = {
            dataset: [result["all_results"][dataset, seed] for seed in seeds]
            for dataset, seeds in result["dataset_seed"].items()
        }
        for name, (dataset, split) in EVALUATIONS.items():
            accuracies = [trial["eval_acc1es"][f"{split}@{epochs - 1}"] for trial in trials.get(dataset, ())]
            row |= {f"{name}_acc_{epochs}ep_pct": _mean(accuracies)} if accuracies else {}
        for dataset in [name for name in trials if name != "cifar10-valid"]:
            times = [sum(trial["train_times"].values()) for trial in trials[dataset]]
            row[f"{_prefix(dataset)}_train_time_{epochs}ep_s"] = _mean(times)
            for name, field in (("params", "params"), ("flops", "flop")):  # of the longest training
                row[f"{_prefix(dataset)}_{name}_m"] = _cost(field, trials[dataset], result["dataset_seed"][dataset])
    return row


def _prefix(dataset: str) -> str:
    return dataset.lower().replace("-", "_")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(map(float, values)) / len(values)


def _cost(field: str, trials: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> float:
    """Millions of parameters or multiply-adds; where the seeds disagree, an old error, NATS-Bench's API takes 888."""
    values = [float(trial[field]) for trial in trials]
    return _mean(values) if len({f"{value:.5f}" for value in values}) == 1 else values[list(seeds).index(888)]


def _convert_hw(path: Path) -> list[dict[str, Any]]:
    """One row for each architecture: `["nasbench201"][dataset]` has a sequence per metric, and `config` names them."""
    content = read_pickle(path)
    units = {"latency": "_ms", "energy": "_mj"}
    try:
        tables = content["nasbench201"]
        names = [[config["arch_str"] for config in metrics["config"]] for metrics in tables.values()]
        if any(other != names[0] for other in names):
            raise ValueError("the order of architectures differs between its data sets")
        rows: list[dict[str, Any]] = [{"arch_index": index, "arch_str": name} for index, name in enumerate(names[0])]
        for dataset, metrics in tables.items():
            for metric in [name for name in metrics if name != "config"]:
                column = f"{_prefix(dataset)}_{metric}{units.get(metric.rpartition('_')[2], '')}"
                for row, value in zip(rows, metrics[metric], strict=True):
                    row[column] = float(value) if value >= 0 else None  # -1: the device could not run it
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no pickle of HW-NAS-Bench: {type(error).__name__} {brief(error)}") from error
    return rows


def _convert_fit(path: Path) -> list[dict[str, Any]]:
    """One row for each network that was trained: accuracies averaged over seeds, see `archgen.results.columns_of`."""
    paths = [path] if path.exists() else [word.strip() for word in str(path).split(",") if word.strip()]
    records = read_results(paths)
    try:
        rows = list(columns_of(records).values())
        done = sum(record["status"] == "done" for record in records)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not of `archgen fit`: {type(error).__name__} {brief(error)}") from error
    failed = len(records) - done
    if not rows:
        raise ValueError(f"{path} holds no result of `archgen fit`" + (f", but {failed} failures" if failed else ""))
    print(f"{path}: {done} results of {len(rows)} architectures, {failed} failures", file=sys.stderr)
    return rows
