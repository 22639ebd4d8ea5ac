"""The steered distribution of NAS-Bench-201 against the exact one, `p(x) ~ exp(strength f(x))` over all 15,625 cells.

python sampling/check_steering.py            # OMP_NUM_THREADS=1 for one core; needs the table nas_bench_201

Rewards: CIFAR-100 test accuracy; the same with a price on parameters; and a number drawn at random for each cell, of
which nothing can be learned from neighbours. Strengths are those at which the exact distribution has an effective size
(1 / sum of p^2) of 1,000, 100 and 10 cells. Seconds are those of the
processor, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch import Tensor

from archgen.benchmark import Table, find_table
from archgen.graph import Architecture
from archgen.hub import replacing
from archgen.pipeline import ArchitecturePipeline


def tilted(value: Tensor, size: float) -> tuple[float, Tensor]:
    """The strength at which the exact distribution has an effective size, and that distribution."""
    low, high = 0.0, 1e6 / (value.max() - value.min()).item()
    for _ in range(200):
        strength = (low + high) / 2
        chance = (strength * value).softmax(0)
        low, high = (strength, high) if 1 / (chance**2).sum() > size else (low, strength)
    return strength, chance


def main() -> None:
    """Sample under each reward and strength, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=262_144, help="samples a row")
    parser.add_argument("--particles", type=int, default=64)
    parser.add_argument("--out", default="out/steering.json")
    options = parser.parse_args()
    pipeline = ArchitecturePipeline.load("nasbench201")
    pipeline.set_progress_bar_config(disable=True)
    space = pipeline.space
    table = Table.read(find_table("nas_bench_201"), space)
    weights = 5 ** torch.arange(5, -1, -1)
    place = (table.codes * weights).sum(-1)
    accuracy = torch.empty(len(place), dtype=torch.float64).index_copy(
        0, place, table.columns["cifar100_test_acc_200ep_pct"]
    )
    cells = torch.cartesian_prod(*[torch.arange(5)] * 6)
    rewards = {
        "cifar100_test": accuracy,
        "cifar100_test - 20 params_m": accuracy - 20 * space.cost.exact(cells)["params_m"],
        "random": torch.randn(len(place), generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    }
    rows = []
    for name, value in rewards.items():
        for size in (1000, 100, 10):
            rows.append({"reward": name, "effective_size": size, **compare(pipeline, value, size, options)})
            print(rows[-1], flush=True)
    with replacing(options.out) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")


def compare(pipeline: ArchitecturePipeline, value: Tensor, size: int, options: argparse.Namespace) -> dict[str, float]:
    """Samples against the exact distribution."""
    strength, exact = tilted(value, size)
    weights = 5 ** torch.arange(5, -1, -1)

    def reward(architectures: list[Architecture]) -> Tensor:
        codes = torch.stack([pipeline.space.encode(one) for one in architectures])
        return value[(codes * weights).sum(-1)]

    started = time.process_time()
    result = pipeline(
        n=options.n, reward=reward, strength=strength, particles=options.particles, distinct=False,
        batch_size=4096, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    seconds = time.process_time() - started
    drawn = torch.bincount((result.codes * weights).sum(-1), minlength=len(value)).double()
    share = drawn / drawn.sum()
    inside = share > 0
    divergence = (share[inside] * (share[inside] / exact[inside]).log()).sum().item()
    gain = ((share * value).sum() - value.mean()) / ((exact * value).sum() - value.mean())
    return {
        "strength": round(strength, 4), "kl_nat": round(divergence, 4),
        "kl_of_as_many_exact_samples": round(floor(exact, options.n), 4),
        "gain": round(gain.item(), 4), "architectures_a_second": round(options.n / seconds),
    }  # fmt: skip


def floor(exact: Tensor, n: int) -> float:
    """What the divergence would be estimated at from as many independent samples of the exact distribution."""
    drawn = torch.multinomial(exact, n, replacement=True, generator=torch.Generator().manual_seed(1))
    share = torch.bincount(drawn, minlength=len(exact)).double() / n
    inside = share > 0
    return (share[inside] * (share[inside] / exact[inside]).log()).sum().item()


if __name__ == "__main__":
    main()
