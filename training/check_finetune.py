"""How well a checkpoint learns a column it never saw, or a new space, from few labels: beside training from nothing.

python training/check_finetune.py digits energy mnasnet --labels 50 100 200 500 1000 --out out/check_finetune

`digits`: nasbench201 learns test accuracy on digits201; `energy`: energy on an FPGA (table hw_nas_bench_201, where
ARCHGEN_BENCHMARKS points); `mnasnet`: mobilenetv3 moves to the space of archgen/spaces/mnasnet.yaml and its accuracies
(table accel_nasbench), `mnasnet-latency` to this project's latencies. From nothing means `train` with the same labels,
steps and batches, completed by the same predictor. Everything is judged by rows whose labels were not used; samples in
mnasnet, which no table holds, by a predictor that learned from up to 2,000 rows. Finished entries are kept in
`results.json`; started again, the check goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from archgen.benchmark import Table, find_table
from archgen.denoiser import reachable_range
from archgen.finetune import finetune
from archgen.guidance import log_likelihood
from archgen.hub import replacing
from archgen.pipeline import ArchitecturePipeline
from archgen.pool import Events, make_pool
from archgen.predictor import PropertyPredictor
from archgen.space import SearchSpace, load_space
from archgen.train import Optim, train

ROOT = Path(__file__).parents[1]
MNASNET = str(ROOT / "archgen" / "spaces" / "mnasnet.yaml")
JUDGING = 2_000  # rows that the judge of a large space learns from


@dataclass(frozen=True)
class Case:
    """What is learned: by which checkpoint, in which space, from which column."""

    checkpoint: str
    space: str
    table: str
    column: str
    moves: bool = False


CASES = {
    "digits": Case("nasbench201", "nasbench201", "digits201", "digits_n300r_test_acc_pct"),
    "energy": Case("nasbench201", "nasbench201", "hw_nas_bench_201", "cifar10_fpga_energy_mj"),
    "latency": Case("nasbench201", "nasbench201", "cpu_latency/nasbench201", "cpu_b1_t1_latency_ms"),
    "mnasnet": Case("mobilenetv3", MNASNET, "accel_nasbench", "imagenet_proxy_val_top1_pct", True),
    "mnasnet-latency": Case("mobilenetv3", MNASNET, "cpu_latency/mnasnet", "cpu_b1_t1_latency_ms", True),
}


class Judge:
    """The true values of members: of held-out rows, by their network, or by a predictor that learned from more."""

    def __init__(self, space: SearchSpace, codes: Tensor, values: Tensor, held: Tensor):
        self.space = space
        self.codes, self.values = codes[held], values[held]
        self.predictor, self.known = None, {}
        if space.size > 10**6:
            learned = slice(-JUDGING, None)
            self.predictor = PropertyPredictor(space).fit(self.codes[learned], self.values[learned, None].float())
        else:
            hashes = [architecture.hash for architecture in space.decode_all(self.codes)]
            self.known = dict(zip(hashes, self.values.tolist(), strict=True))

    def __call__(self, codes: Tensor) -> Tensor:
        """Values, NaN where nobody knows."""
        if self.predictor is not None:
            return self.predictor.predict(codes).mean[:, 0].double()
        hashes = [architecture.hash for architecture in self.space.decode_all(codes)]
        return torch.tensor([self.known.get(key, torch.nan) for key in hashes], dtype=torch.float64)


@torch.inference_mode()
def surprise(pipeline: ArchitecturePipeline, codes: Tensor, wishes: Tensor) -> Tensor:
    """Negative log-likelihood of each architecture under its own wishes, its holes in one random order, in nat."""

    def network(x: Tensor, t: None) -> Tensor:
        return pipeline.denoiser(x, t, wishes, reachable_range(pipeline.space, x, pipeline.conditions))

    return -log_likelihood(network, codes, torch.Generator().manual_seed(0))


def about(pipeline: ArchitecturePipeline, wishes: dict[str, Tensor], rows: int) -> Tensor:
    """Wishes as the pipeline's network takes them: `(rows, conditions, 2)`."""
    blank = torch.full((rows, 2), torch.nan)
    return torch.stack([wishes.get(name, blank).float() for name in pipeline.conditions], 1)


def quality(folder: Path, column: str, judge: Judge) -> dict[str, float]:
    """How well a checkpoint does what it is asked for in a column; errors in standard deviations of the column."""
    pipeline = ArchitecturePipeline.load(folder)
    pipeline.set_progress_bar_config(disable=True)
    codes, values = judge.codes[:1000], judge.values[:1000]
    wishes = {column: values[:, None].expand(-1, 2)}
    result: dict[str, float] = {"nll": surprise(pipeline, codes, about(pipeline, wishes, len(codes))).mean().item()}
    for wish in ("maximize", "minimize"):
        found = judge(pipeline(n=100, generator=torch.Generator().manual_seed(0), **{wish: column}).codes)
        result |= {wish: found.nanmean().item(), f"{wish}, judged": int(found.isfinite().sum())}
    gaps = []
    for level in (0.1, 0.3, 0.5, 0.7, 0.9):
        asked, generator = judge.values.quantile(level).item(), torch.Generator().manual_seed(0)
        drawn = pipeline(n=300, condition={column: asked}, distinct=False, generator=generator).codes
        gaps.append((judge(drawn) - asked).abs().nanmean())
    result["error"] = (torch.stack(gaps).mean() / judge.values.std()).item()
    return result


def loss_of_old(folder: Path, rows: int = 1000) -> float:
    """Nat per architecture that nasbench201 lost on members drawn under all its conditions, with their true values.

    Zero by construction, unless a fine-tuned network answers what it was not asked to learn.
    """
    recipe = yaml.safe_load((ROOT / "training" / "nasbench201.yaml").read_text())
    pool = make_pool(load_space("nasbench201"), recipe["costs"], recipe["labels"], 20_000)
    codes, intervals = pool.draw(rows, Events(), torch.Generator().manual_seed(0))
    wishes = dict(zip(pool.values, intervals.unbind(1), strict=True))
    before, after = (ArchitecturePipeline.load(name) for name in ("nasbench201", folder))
    lost = [surprise(pipeline, codes, about(pipeline, wishes, rows)).mean().item() for pipeline in (after, before)]
    return lost[0] - lost[1]


def compare(case: Case, n: int, seed: int, folder: Path, steps: int, batch_size: int) -> dict[str, object]:
    """One row of the table: fine-tuned and from nothing, with `n` labels."""
    space = load_space(case.space)
    table = Table.read(find_table(case.table), space)
    known = table.column(case.column).isfinite().nonzero().flatten()
    known = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
    codes, values = table.codes[known], table.columns[case.column][known]
    if len(known) < 1.2 * n:
        raise ValueError(f"{case.table} has {len(known)} rows, too few to learn from {n} and judge by the others")
    folder.mkdir(parents=True, exist_ok=True)
    labels = str(folder / "labels.csv")
    Table(space, codes[:n], {case.column: values[:n]}).write(labels)
    judge = Judge(space, codes, values, torch.arange(len(codes)) >= n)
    size = {"max_steps": steps, "batch_size": batch_size, "pool_size": 20_000, "seed": seed, "samples": 0}
    result: dict[str, object] = {"labels": n, "seed": seed, "steps": steps, "held_out": len(judge.codes)}
    for name in ("fine-tuned", "from nothing"):
        out, begun = folder / name.replace(" ", "-"), time.process_time()
        whole = not out.exists()  # else a part of it was done before
        if not (out / "model_index.json").exists():
            if name == "fine-tuned":
                moved = case.space if case.moves else None
                finetune(case.checkpoint, table=labels, targets=case.column, out=str(out), space=moved, **size)
            else:
                fresh = {"labels": {case.column: [labels, case.column]}, "complete_labels": True}
                train(case.space, str(out), **fresh, optim=Optim(lr=1.5e-3, warmup_steps=min(50, steps // 5)), **size)
        seconds = round(time.process_time() - begun, 1) if whole else None
        result[name] = {**quality(out, case.column, judge), "cpu_seconds": seconds}
    if not case.moves:
        result["old conditions lose, nat"] = loss_of_old(folder / "fine-tuned")
    return result


def main() -> None:
    """Fill in the entries that are missing, and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 100, 200, 500, 1000])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--out", default="out/check_finetune", help="folder of checkpoints and results")
    options = parser.parse_args()
    path = Path(options.out) / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for case in options.cases:
        for n in options.labels:
            for seed in range(options.seeds):
                key = f"{case}-{n}-{seed}-{options.steps}"
                if key not in results:
                    folder = Path(options.out) / key
                    results[key] = compare(CASES[case], n, seed, folder, options.steps, options.batch_size)
                    with replacing(path) as temporary:
                        temporary.write_text(json.dumps(results, indent=1) + "\n")
                print(key, json.dumps(results[key]), flush=True)


if __name__ == "__main__":
    main()
