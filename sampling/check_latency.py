"""How well measured latencies repeat: the same random networks, measured twice.

`python sampling/check_latency.py --n 50 --out out/latency.json`
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from archgen.benchmark import Table
from archgen.hub import replacing
from archgen.latency import latency
from archgen.space import load_space


def compare(first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> dict[str, float]:
    """Agreement of two measurements; differences are relative to their mean.

    Returns:
        Rank correlation, the median ratio of the second to the first, and the median difference in percent, as it is
        and without that ratio, which is the drift of the whole machine.
    """
    ratio = float((second / first).median())
    differences = [2 * (a - second).abs() / (a + second) for a in (first, ratio * first)]
    plain, aligned = (round(100 * float(difference.median()), 2) for difference in differences)
    return {"spearman": round(float(spearmanr(first, second)[0]), 4), "ratio": round(ratio, 3),
            "difference_pct": plain, "without_drift_pct": aligned}  # fmt: skip


def check_latency(
    spaces: str = "nasbench201,mnasnet",
    n: int = 50,
    rounds: int = 10,
    seconds: float = 0.05,
    threads: int = 1,
    device: str = "cpu",
    seed: int = 0,
    out: str = "out/latency.json",
) -> None:
    """Measure twice and compare.

    Args:
        spaces: Search spaces, separated by commas.
        n: Random networks of each.
        rounds: Turns of every network.
        seconds: Time of a turn, in s.
        threads: Threads of torch.
        device: Where the networks run.
        seed: Seed of the networks.
        out: File for the numbers.
    """
    results = {}
    for name in spaces.split(","):
        measured, times = [], []
        with tempfile.TemporaryDirectory() as folder:
            for path in (Path(folder) / "first.csv", Path(folder) / "second.csv"):
                begin = time.monotonic()
                latency(f"random:{n}", name, threads=threads, device=device, rounds=rounds, seconds=seconds, seed=seed,
                        column="check", out=str(path))  # fmt: skip
                times.append(round(time.monotonic() - begin))
                measured.append(Table.read(path, load_space(name)).column("check_latency_ms"))
        results[name] = {"networks": n, **compare(*measured), "median_ms": round(float(measured[0].median()), 2),
                         "seconds": times}  # fmt: skip
        print(json.dumps({name: results[name]}), flush=True)
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(check_latency)
