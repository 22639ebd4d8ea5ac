"""Random constraints, feasible and not, decided and sampled under.

`python sampling/check_where.py --requests 1000 --sampled 100 --out out/where.json`
"""

from __future__ import annotations

import json
import random
import time

import torch
from tqdm.auto import tqdm

from archgen.constraint import Constraint, Infeasible
from archgen.hub import replacing
from archgen.pipeline import ArchitecturePipeline
from archgen.space import ABSENT, SearchSpace


def feasible(space: SearchSpace, rng: random.Random) -> str:
    """One to four demands that a random member meets: windows of 0.2 to 20 %, thresholds, exact depth and counts."""
    code = space.sample(1, torch.Generator().manual_seed(rng.randrange(2**40)))
    values = {name: value.item() for name, value in space.cost.exact(code).items()}
    parts = []
    for _ in range(rng.randint(1, 4)):
        name = rng.choice(["params_m", "macs_m", "depth", "count"])
        if name == "count":
            hole = rng.choice([hole for hole in space.holes if hole.kind != "edge"])
            option = rng.choice([one for one in hole.options if one not in (ABSENT, space.absent)])
            word = ("no", "yes")[option] if isinstance(option, bool) else option
            name = f"count('{word}')" if hole.kind == "op" else f"count({hole.kind} == {word})"
            low = high = count_of(Constraint(f"{name} >= 0", space), code)
        elif name == "depth":
            low = high = values[name]
        else:
            width = rng.choice([0.001, 0.01, 0.05, 0.1])
            low, high = values[name] * (1 - width), values[name] * (1 + width)
        parts.append(rng.choice([f"{low} <= {name} <= {high}", f"{name} <= {high}", f"{name} >= {low}"]))
    return " and ".join(parts)


def count_of(constraint: Constraint, code: torch.Tensor) -> float:
    """The count that a constraint `count(...) >= 0` names, for one member."""
    count, _ = next(constraint.atoms()).left.counts[0]
    return count.constant + count.weights[torch.arange(code.shape[1]), code[0]].sum().item()


def infeasible(space: SearchSpace, rng: random.Random) -> str:
    """A demand beyond what any member reaches, or one that contradicts itself, perhaps behind feasible ones."""
    bounds = space.cost.bounds(space.option_mask[None])
    name = rng.choice(list(bounds))
    low, high = (end.item() for end in bounds[name])
    middle, step = low + rng.random() * (high - low), 1 if name == "depth" else 1e-3 * (high - low)
    impossible = [f"{name} < {low - step * rng.random()}", f"{name} >= {high + step}"]
    impossible += [f"{name} <= {middle} and {name} > {middle}", f"{high + 1} <= {name} <= {high + 2}"]
    return " and ".join([feasible(space, rng)] * rng.randint(0, 1) + [rng.choice(impossible)])


def check_where(
    checkpoints: str = "nasbench201,nasbench101,mnasnet,mobilenetv3",
    requests: int = 1000,
    sampled: int = 100,
    seed: int = 0,
    out: str = "out/where.json",
) -> None:
    """Decide random constraints, and sample under some of the feasible ones.

    Args:
        checkpoints: Names, separated by commas.
        requests: Feasible and infeasible constraints each.
        sampled: How many of the feasible ones are sampled under, four architectures each.
        seed: Seed of everything drawn.
        out: File for the numbers.
    """
    results = {}
    for name in checkpoints.split(","):
        pipeline = ArchitecturePipeline.load(name)
        pipeline.set_progress_bar_config(disable=True)
        space, rng, seconds, unmet = pipeline.space, random.Random(seed), [], []
        tally = {"satisfied": 0, "refused": 0, "results": 0, "results that meet": 0}
        for number in tqdm(range(requests), desc=name):
            for text, possible in ((feasible(space, rng), True), (infeasible(space, rng), False)):
                constraint, begin = Constraint(text, space), time.perf_counter()
                try:
                    found = constraint.witness(torch.Generator().manual_seed(number))
                    tally["satisfied"] += possible and bool(constraint.holds(found).all())
                except Infeasible:
                    tally["refused"] += not possible
                    unmet += [text] if possible else []
                seconds.append(time.perf_counter() - begin)
                if possible and number < sampled:
                    codes = pipeline(n=4, where=text, generator=torch.Generator().manual_seed(number)).codes
                    tally["results"] += len(codes)
                    tally["results that meet"] += int(constraint.holds(codes).sum())
        seconds.sort()
        times = {"median s": seconds[len(seconds) // 2], "largest s": seconds[-1]}
        results[name] = {"requests of each kind": requests, **tally, **times, "not met": unmet[:5]}
        print(json.dumps({name: results[name]}), flush=True)
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(check_where)
