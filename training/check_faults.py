"""Kills trainings and searches at random moments, and fills their disk; they must end as if nothing had been.

python training/check_faults.py --times 20

One network, saved at every step, is killed (SIGKILL) so often at random moments of training and of writing; a list of
networks and a search likewise; then a list is trained so many times with files limited to a random size, as on a full
disk. No file may be half-written, and the weights and results at the end are compared, bit by bit, with those of runs
that nothing happened to.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from archgen.classifier import load_network
from archgen.fit import fit
from archgen.results import read_results
from archgen.search import search
from archgen.space import load_space

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
SETTINGS = {"skeleton": {"width": 4, "cells": 1}, "train_size": 200, "batch_size": 20, "cpu": True, "save_every": 0.0}


def child(work: Callable[[], object], seconds: float | None = None, limit: int | None = None) -> int:
    """Run in a process of its own, killed after some seconds, or with files limited in size: its exit status."""
    process = os.fork()
    if not process:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            work()
            os._exit(0)
        except ValueError:  # the one sentence of a request that cannot be met
            os._exit(2)
        except BaseException:
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def whole(folder: Path) -> None:
    """Check that no file under a final name is half-written."""
    for path in folder.rglob("*"):
        if path.name.startswith(".") or not path.is_file() or ".new-" in str(path):
            continue
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.name == "metrics.jsonl":
            [json.loads(line) for line in path.read_text().splitlines()]
    read_results([folder])


def results(folder: Path) -> list[dict]:
    """All results, without the seconds."""
    found = [{k: v for k, v in record.items() if k != "seconds"} for record in read_results([folder])]
    return sorted(found, key=lambda record: record["hash"])


def repeat(work: Callable[[], object], folder: Path, times: int, draw: Callable[[], dict]) -> int:
    """Interrupt `work` so many times, or until it is done, then let it end."""
    hits = 0
    for _ in range(times):
        hits += child(work, **draw()) != 0
        if folder.exists():  # it may have been killed before
            whole(folder)
    status = child(work)
    if status:
        raise SystemExit(f"the run could not be finished: status {status}")
    return hits


def main() -> None:
    """Interrupt and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chance, found = random.Random(options.seed), {}
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        space = load_space("nasbench201")
        cells = space.decode_all(space.sample(6, torch.Generator().manual_seed(0)))
        (top / "cells.jsonl").write_text("\n".join(cell.to_json() for cell in cells))

        def one(folder: str) -> None:
            fit(CELL, out=str(top / folder), epochs=12, **SETTINGS)

        def many(folder: str) -> None:
            fit(str(top / "cells.jsonl"), out=str(top / folder), epochs=2, **SETTINGS)

        def look(folder: str) -> None:
            search("nasbench201", "digits201", "digits_n300r_test_acc_pct", budget=24, out=str(top / folder))

        child(lambda: one("warm-up"))
        for name, work in (("network", one), ("list", many), ("search", look)):
            started = time.monotonic()
            child(lambda work=work, name=name: work(name))
            duration = time.monotonic() - started
            killed = top / f"{name}-killed"
            found[f"{name}, kills"] = repeat(
                lambda work=work, killed=killed: work(killed.name),
                killed,
                options.times,
                lambda duration=duration: {"seconds": chance.uniform(0.1, 0.6) * duration},
            )
        for which in ("best", "last"):
            pair = [load_network(top / folder, which).state_dict() for folder in ("network", "network-killed")]
            equal = all(torch.equal(pair[0][tensor], pair[1][tensor]) for tensor in pair[0])
            found[f"network, {which} weights bit-equal"] = equal
        for name in ("list", "search"):
            found[f"{name}, results equal"] = results(top / name) == results(top / f"{name}-killed")
        curves = [(top / folder / "search.json").read_text() for folder in ("search", "search-killed")]
        found["search, curves equal"] = curves[0] == curves[1]
        fill = lambda: {"limit": chance.choice([0, 300, 1500, 4000, 12_000, 29_000])}  # noqa: E731
        found["list, full disks"] = repeat(lambda: many("list-filled"), top / "list-filled", options.times, fill)
        found["list, results equal after full disks"] = results(top / "list") == results(top / "list-filled")
    print(json.dumps(found, indent=1))
    if not all(value for value in found.values() if isinstance(value, bool)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
