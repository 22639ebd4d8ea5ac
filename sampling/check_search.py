"""The figures of `archgen search`: methods side by side, the same budget, every query counted.

`python sampling/check_search.py --part accuracy --trials 40 --out out/search-accuracy`

Parts: `accuracy` (NAS-Bench-201, test accuracy and nothing else), `limited` (accuracy under a latency limit, and
digits201: larger is not better), `transfer` (the other data set's labels known), `pareto` (accuracy against parameters
and against the latency of a device), `mnasnet` (a surrogate of measured rows as oracle, multiply-adds limited).
Areas of `pareto` are shares of what all networks dominate together, each in its cheapest encoding: of all 15,625 rows,
whose twins differ by their own measurements, that is 99.97 % (parameters) and 99.71 % (latency).
Settings of the loop were chosen on validation and 12-epoch columns, never on those reported here; but that labels may
be standardized, which each run decides for itself, was added after a look at `mnasnet`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archgen.baselines import describe
from archgen.benchmark import Table, find_table
from archgen.curves import summarize
from archgen.goal import Goal
from archgen.graph import Architecture
from archgen.hub import replacing
from archgen.results import Results
from archgen.search import run_trials, search, shipped_generator
from archgen.space import SearchSpace, load_space
from archgen.study import Problem

CIFAR10, CIFAR100 = "cifar10_test_acc_200ep_pct", "cifar100_test_acc_200ep_pct"
RASPI = "cifar10_raspi4_latency_ms"
BOTH = "nas_bench_201+hw_nas_bench_201"
ALL = "archgen,random,evolution,local,largest,bo"
Run = dict[str, Any]

PARTS: dict[str, dict[str, Run]] = {
    "accuracy": {
        "CIFAR-10": {"table": "nas_bench_201", "target": CIFAR10, "method": ALL},
        "CIFAR-100": {"table": "nas_bench_201", "target": CIFAR100, "method": ALL},
    },
    "limited": {
        "CIFAR-10, raspi4 <= 10 ms": {"table": BOTH, "target": CIFAR10, "where": f"{RASPI} <= 10", "method": ALL},
        "CIFAR-100, edgegpu <= 4 ms": {
            "table": BOTH, "target": CIFAR100, "where": "cifar100_edgegpu_latency_ms <= 4", "method": ALL,
        },
        "digits201": {"table": "digits201", "target": "digits_n300r_test_acc_pct", "method": ALL},
    },
    "transfer": {
        "CIFAR-10 with CIFAR-100": {"table": "nas_bench_201", "target": CIFAR10, "transfer": CIFAR100},
        "CIFAR-100 with CIFAR-10": {"table": "nas_bench_201", "target": CIFAR100, "transfer": CIFAR10},
    },
    "pareto": {
        "CIFAR-10 and params": {
            "table": "nas_bench_201", "target": CIFAR10, "minimize": "params_m", "method": "archgen,nsga2,random",
        },
        "CIFAR-10 and raspi4": {
            "table": BOTH, "target": CIFAR10, "minimize": RASPI, "method": "archgen,nsga2,random",
        },
    },
}  # fmt: skip


# ---- a large space --------------------------------------------------------------------------------------------------
def surrogate(space: SearchSpace, folds: int = 5) -> tuple[Any, dict[str, float]]:
    """An oracle for every member of MnasNet, fitted to the measured rows, and how far it is from them.

    Returns:
        An ensemble of scikit-learn's histogram gradient boosting from one-hot decisions and exact costs to top-1
        accuracy, and its cross-validated error: root mean square in percent, and rank correlation.
    """
    import numpy as np
    from scipy.stats import spearmanr
    from sklearn.ensemble import BaggingRegressor, HistGradientBoostingRegressor
    from sklearn.model_selection import KFold, cross_val_predict

    table = Table.read(find_table("accel_nasbench"), space)
    x, y = describe(space, table.codes).numpy(), table.column("imagenet_proxy_val_top1_pct").numpy()
    boosted = HistGradientBoostingRegressor(max_iter=300, learning_rate=0.06, max_leaf_nodes=16, random_state=0)
    model = BaggingRegressor(boosted, n_estimators=5, random_state=0)
    left_out = cross_val_predict(model, x, y, cv=KFold(folds, shuffle=True, random_state=0))
    error = {
        "rows": len(y),
        "rmse_pct": float(np.sqrt(((left_out - y) ** 2).mean())),
        "spearman": float(spearmanr(left_out, y)[0]),
        "std of the rows": float(y.std()),
    }
    return model.fit(x, y), error


def mnasnet(trials: int, budget: int, methods: list[str], batch_size: int, seed: int, out: Path) -> dict[str, Any]:
    """Search MnasNet under 350 million multiply-adds, an exact limit, by the surrogate."""
    space = load_space("mnasnet")
    model, error = surrogate(space)
    print(json.dumps({"surrogate": error}), flush=True)
    goal = Goal.parse(space, ["top1_pct"], "top1_pct", None, "macs_m <= 350")

    def measure(architectures: list[Architecture]) -> Tensor:
        codes = torch.stack([space.encode(one) for one in architectures])
        return torch.from_numpy(model.predict(describe(space, codes).numpy()))[:, None]

    generate = shipped_generator(space, goal.constraint)
    problem = Problem(space, goal, measure, "surrogate of accel_nasbench", generate=generate)
    studies = {name: run_trials(problem, name, budget, trials, batch_size, seed, Results(out)) for name in methods}
    return {"surrogate": error, **summarize(problem, studies, budget, None, out)}


def check_search(
    part: str = "accuracy",
    trials: int = 40,
    budget: int | None = None,
    method: str | None = None,
    batch_size: int = 3,
    seed: int = 0,
    out: str = "out/check-search",
) -> None:
    """Run one part and print what came of it.

    Args:
        part: accuracy, limited, transfer, pareto or mnasnet.
        trials: Seeds of each method.
        budget: Queries a trial; 100, for mnasnet 200.
        method: Methods, if not all of the part.
        batch_size: Networks asked at once by the methods that learn.
        seed: The first seed.
        out: Folder; started again, what is there is not done again.
    """
    if part == "mnasnet":
        methods = (method or "archgen,random,evolution,local,bo").split(",")
        found = {"MnasNet": mnasnet(trials, budget or 200, methods, batch_size, seed, Path(out) / "mnasnet")}
    elif part in PARTS:
        found = {}
        for name, run in PARTS[part].items():
            words = {**run, **({"method": method} if method else {})}
            folder = Path(out) / "".join(letter if letter.isalnum() else "-" for letter in name)
            found[name] = search(
                "nasbench201", **words, budget=budget or 100, trials=trials, batch_size=batch_size, seed=seed,
                out=str(folder),
            )  # fmt: skip
            print(json.dumps({name: found[name]}), flush=True)
    else:
        raise ValueError(f"no part {part!r}; there are {', '.join([*PARTS, 'mnasnet'])}")
    with replacing(Path(out) / f"{part}.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(table_of(found))


def table_of(found: dict[str, Any]) -> str:
    """One line a run and method."""
    lines = []
    for name, entry in found.items():
        for method, figures in entry["methods"].items():
            after = "  ".join(
                f"{key.removeprefix('after ')}: {value['mean']:.3f} +- {value['std']:.3f}"
                for key, value in figures.items()
                if key.startswith("after") and value["mean"] is not None
            )
            share, median = figures.get("share at the goal"), figures.get("median queries to the goal")
            lines.append(f"{name:28}{method:10}{after}  share {share}  median {median}")
    return "\n".join(lines)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(check_search)
