"""What predictors reach on unseen architectures: rank correlation by number of labels, and coverage of their bounds.

python training/check_predictor.py ranking --out out/ranking.json      # minutes on one core; OMP_NUM_THREADS=1
python training/check_predictor.py coverage --out out/coverage.json

Needs nas_bench_201, hw_nas_bench_201 and accel_nasbench where ARCHGEN_BENCHMARKS points; other tables are archgen's
own. Settings of the predictor were chosen on the CIFAR-10 accuracy after 12 epochs, digits201, raspi4 latency and
mnasnet, so the row of nasbench201's CIFAR-100 accuracy is the one that judges.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from scipy.stats import spearmanr
from sklearn.ensemble import GradientBoostingRegressor
from torch import Tensor
from tqdm.auto import tqdm

from archgen.benchmark import Table, find_table
from archgen.features import features_of
from archgen.gaussian import NormalScale
from archgen.hub import replacing
from archgen.predictor import PropertyPredictor
from archgen.space import load_space

RANKED = {
    "nasbench201, CIFAR-100": ("nasbench201", "nas_bench_201", "cifar100_test_acc_200ep_pct"),
    "nasbench201, digits201": ("nasbench201", "digits201", "digits_n300r_test_acc_pct"),
    "mnasnet, ImageNet proxy": ("mnasnet", "accel_nasbench", "imagenet_proxy_val_top1_pct"),
}
COUNTS = (50, 100, 200, 1000)
COVERED = {
    "hw_nas_bench_201": ["cifar10_edgegpu_latency_ms", "cifar10_raspi4_latency_ms", "cifar10_edgetpu_latency_ms"],
    "cpu_latency/nasbench201": ["cpu_b1_t1_latency_ms"],
}
LEVELS = (0.8, 0.9, 0.95)
LEARNED, CALIBRATED, TESTED = 100, 100, 2000


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation."""
    found = torch.tensor(values, dtype=torch.float64)
    return {"mean": round(found.mean().item(), 4), "std": round(found.std().item(), 4)}


def boosted(x: Tensor, label: Tensor, unseen: Tensor) -> Tensor:
    """Gradient-boosted trees on the same features and scale of labels."""
    score = NormalScale(label).score(label)
    trees = GradientBoostingRegressor(random_state=0).fit(x.numpy(), score.numpy())
    return torch.from_numpy(trees.predict(unseen.numpy()))


def ranking(draws: int) -> dict:
    """Spearman correlations over all architectures that are not isomorphic to a labelled one."""
    result = {}
    for name, (space, file, column) in RANKED.items():
        space = load_space(space)
        table = Table.read(find_table(file), space)
        kept = table.columns[column].isfinite()
        codes, label = table.codes[kept], table.columns[column][kept]
        hashes = [architecture.hash for architecture in space.decode_all(codes)]
        index = {key: number for number, key in enumerate(dict.fromkeys(hashes))}
        network = torch.tensor([index[key] for key in hashes])
        x, size = features_of(space)(codes), space.cost.exact(codes)["params_m"]
        for count in COUNTS:
            found = {"predictor": [], "boosted trees": [], "parameters": []}
            for seed in tqdm(range(draws), desc=f"{name}, {count} labels"):
                seen = torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))[:count]
                unseen = (~torch.isin(network, network[seen])).nonzero()[:, 0]
                learned = PropertyPredictor(space, seed=seed).fit(codes[seen], label[seen, None].float())
                guesses = {
                    "predictor": learned.predict(codes[unseen]).mean[:, 0],
                    "boosted trees": boosted(x[seen], label[seen], x[unseen]),
                    "parameters": size[unseen],
                }
                for method, guess in guesses.items():
                    found[method].append(float(spearmanr(guess, label[unseen])[0]))
            result[f"{name}, {count}"] = {method: spread(values) for method, values in found.items()}
    return result


def coverage(draws: int) -> dict:
    """Share of unseen architectures whose measurement keeps to the bound; each draw learns and calibrates anew."""
    space, result = load_space("nasbench201"), {}
    for file, columns in COVERED.items():
        table = Table.read(find_table(file), space)
        labels = torch.stack([table.column(name) for name in columns], -1)
        kept = labels.isfinite().all(-1)
        codes, labels = table.codes[kept], labels[kept].float()
        held = {(kind, level): [] for kind in ("upper", "lower", "interval") for level in LEVELS}
        for seed in tqdm(range(draws), desc=file):
            order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))
            seen, calibration, new = order[: LEARNED + CALIBRATED + TESTED].tensor_split(
                (LEARNED, LEARNED + CALIBRATED)
            )
            learned = PropertyPredictor(space, seed=seed).fit(codes[seen], labels[seen])
            learned.calibrate(codes[calibration], labels[calibration])
            found, truth = learned.predict(codes[new]), labels[new]
            for level in LEVELS:
                low, high = learned.bounds.interval(found, level).unbind(-1)
                held["upper", level].append(truth <= learned.bounds.upper(found, level))
                held["lower", level].append(truth >= learned.bounds.lower(found, level))
                held["interval", level].append((low <= truth) & (truth <= high))
        for (kind, level), covered in held.items():
            share = torch.stack(covered).double().mean(1)  # (draws, columns)
            for i, name in enumerate(columns):
                result[f"{name}, {kind} {level:.0%}"] = {"share": spread(share[:, i].tolist())}
    return result


def main() -> None:
    """Measure, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("ranking", "coverage"))
    parser.add_argument("--draws", type=int, help="draws of labels: 10 for ranking and 200 for coverage if absent")
    parser.add_argument("--out", type=Path, help="file; out/predictor-WHAT.json if absent")
    options = parser.parse_args()
    draws = options.draws or {"ranking": 10, "coverage": 200}[options.what]
    result = {"ranking": ranking, "coverage": coverage}[options.what](draws)
    for row, found in result.items():
        print(f"{row:50}", "  ".join(f"{name} {one['mean']:.3f} ± {one['std']:.3f}" for name, one in found.items()))
    with replacing(options.out or Path("out") / f"predictor-{options.what}.json") as temporary:
        temporary.write_text(json.dumps({"draws": draws, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
