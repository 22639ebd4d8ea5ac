"""The numbers on a checkpoint's card, measured: exact distances where a space can be listed, samples elsewhere."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from archgen.benchmark import Table, find_table
from archgen.calibrate import CALIBRATION
from archgen.guidance import CACHEABLE, CachedNetwork, partial_strides
from archgen.hub import replacing, resolve
from archgen.pipeline import ArchitecturePipeline
from archgen.pool import PUPILS
from archgen.predictor import PropertyPredictor, rank_correlation
from archgen.scheduler import AbsorbingScheduler, VEScheduler
from archgen.space import OPEN
from archgen.wishes import Wishes


def computable(pipeline: ArchitecturePipeline) -> bool:
    """Whether the distribution can be computed exactly: an absorbing pipeline of a small space without rules."""
    space = pipeline.space
    states = math.prod(len(hole.options) + 1 for hole in space.holes)
    ruled = space.rule is not None or any(hole.when for hole in space.holes)
    return states <= CACHEABLE and not ruled and isinstance(pipeline.scheduler, AbsorbingScheduler)


@torch.inference_mode()
def exact_distribution(
    pipeline: ArchitecturePipeline, wishes: Float[Tensor, "conditions 2"] | None = None, guidance: float = 1.0
) -> Float[Tensor, " legal"]:
    """Probability with which the absorbing sampler draws each member, computed, not sampled.

    One hole is decided a call, in uniformly random order, so the chance of every partial encoding follows from those
    with one hole less. Spaces with conditional holes or rules, and the other process, are not computed.

    Args:
        pipeline: An absorbing pipeline of a small space.
        wishes: What is asked of each condition; nothing if absent.
        guidance: Weight of the conditions.

    Returns:
        Probabilities in the order of `space.legal_codes`.

    Raises:
        ValueError: If the space is too large or has rules.
    """
    space = pipeline.space
    if not computable(pipeline):
        raise ValueError(f"the distribution over {space.name} cannot be computed exactly")
    sizes = [len(hole.options) + 1 for hole in space.holes]
    states = torch.cartesian_prod(*(torch.arange(size) - 1 for size in sizes))  # (S, H), OPEN first
    strides = partial_strides(space)
    if wishes is None:
        wishes = torch.full((len(pipeline.conditions), 2), torch.nan)
    network = CachedNetwork(pipeline.denoiser, space, wishes, guidance)
    chance = torch.cat([network(part, None).double().softmax(-1) for part in states.split(8192)])  # (S, H, O)
    reach = torch.zeros(len(states), dtype=torch.float64)
    reach[0] = 1.0
    n_open = (states == OPEN).sum(-1)
    for level in range(len(sizes) - 1, -1, -1):
        here = (n_open == level).nonzero().flatten()
        total = torch.zeros(len(here), dtype=torch.float64)
        for hole in range(len(sizes)):
            code = states[here, hole]
            parent = here - (code + 1) * strides[hole]
            step = reach[parent] * chance[parent, hole, code.clamp_min(0)] / (level + 1)
            total += torch.where(code == OPEN, 0.0, step)
        reach[here] = total
    return reach[n_open == 0]


def divergence(p: Float[Tensor, " members"], q: Float[Tensor, " members"]) -> float:
    """Kullback-Leibler divergence of `p` from `q`, in nat; infinite where `p` has mass and `q` none."""
    inside = p > 0
    return float((p[inside] * (p[inside] / q[inside]).log()).sum())


def ask(pipeline: ArchitecturePipeline, **wishes: Any) -> Float[Tensor, "conditions 2"]:
    """The intervals that a request means."""
    return Wishes(pipeline.denoiser, pipeline.space, pipeline.config.rows, wishes).intervals(1)


def conditional_divergence(pipeline: ArchitecturePipeline, name: str) -> dict[str, float]:
    """Exact distance from the true conditional distribution, over all values of a cost.

    Returns:
        `mean`, weighted by the values' frequency, and `worst`, of KL(true || model) in nat.
    """
    value = pipeline.space.cost.exact(pipeline.space.legal_codes)[name]
    total, worst = 0.0, 0.0
    for one in value.unique().tolist():
        inside = (value == one).double()
        model = exact_distribution(pipeline, ask(pipeline, **{name: one}))
        distance = divergence(inside / inside.sum(), model)
        total, worst = total + distance * inside.mean().item(), max(worst, distance)
    return {"mean": total, "worst": worst}


def deviation(
    pipeline: ArchitecturePipeline, name: str, n: int, generator: torch.Generator, steps: int | None = None
) -> dict[str, float]:
    """How far samples are from an asked value of a cost, over values between its 2 % and 98 % quantiles.

    Returns:
        Median and 90 % quantile of the relative deviation, and the share of different encodings among all `n`.
    """
    asked = [pipeline.denoiser.quantile(name, level) for level in torch.linspace(0.02, 0.98, 20).tolist()]
    codes, gaps = [], []
    for value in asked:
        result = pipeline(n=max(1, n // 20), condition={name: value}, distinct=False, steps=steps, generator=generator)
        codes.append(result.codes)
        gaps.append((result.costs[name] - value).abs() / (abs(value) or 1))
    gap = torch.cat(gaps)
    unique = len(torch.cat(codes).unique(dim=0)) / len(gap)
    return {"median": gap.median().item(), "p90": gap.quantile(0.9).item(), "unique": unique}


def best_of(
    pipeline: ArchitecturePipeline, name: str, truth: Table, column: str, seed: int, steps: int | None = None
) -> dict[str, float]:
    """Mean true value of 1,000, 100 and 10 distinct samples asked to be as high as possible in a measured property."""
    values = truth.column(column)
    results = {}
    for n in (1000, 100, 10):
        generator = torch.Generator().manual_seed(seed)
        codes = pipeline(n=n, maximize=name, steps=steps, generator=generator).codes
        place = torch.cat([truth.codes, codes]).unique(dim=0, return_inverse=True)[1]
        row = torch.full((int(place.max()) + 1,), -1)
        row[place[: len(truth)]] = torch.arange(len(truth))
        results[str(n)] = values[row[place[len(truth) :]]].mean().item()
    return results


def quality(predictor: PropertyPredictor, truth: Table, labels: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """How a checkpoint's predictor ranks the members of a table, and how often its bounds hold.

    Args:
        predictor: What the checkpoint predicts with.
        truth: The table.
        labels: Its columns, by the properties that they are measurements of.

    Returns:
        For each property Spearman's rank correlation with what was measured, and the shares of measurements below the
        upper and above the lower bound of 90 %.
    """
    prediction, found = predictor.predict(truth.codes), {}
    upper, lower = predictor.bounds.upper(prediction, 0.9), predictor.bounds.lower(prediction, 0.9)
    for name, column in labels.items():
        at, values = predictor.config.names.index(name), truth.column(column)
        known = values.isfinite()
        below, above = ((values <= upper[:, at])[known], (values >= lower[:, at])[known])
        found[name] = {"Spearman": rank_correlation(prediction.mean[known, at], values[known]),
                       "below": below.double().mean().item(), "above": above.double().mean().item()}  # fmt: skip
    return found


def speed(pipeline: ArchitecturePipeline, batch: int, repeats: int = 3, **request: Any) -> float:
    """Architectures a second: median over the repeats, after one batch that is not counted."""
    rates = []
    for repeat in range(repeats + 1):
        generator = torch.Generator().manual_seed(repeat)
        begin = time.perf_counter()
        pipeline(n=batch, batch_size=batch, distinct=False, generator=generator, **request)
        rates.append(batch / (time.perf_counter() - begin))
    return sorted(rates[1:])[repeats // 2]


def evaluate(
    checkpoint: str,
    n: int = 10_000,
    steps: int | None = None,
    seed: int = 0,
    exact: bool = True,
    write: bool = False,
) -> dict[str, Any]:
    """Measure a checkpoint: the numbers on its card, again.

    Args:
        checkpoint: Name of a shipped checkpoint, a folder, or a Hub id.
        n: Samples for what is estimated.
        steps: Network calls for each batch; the scheduler's own number if absent.
        seed: Seed of the sampler.
        exact: Whether to compute distances of distributions too, where that is possible; takes minutes.
        write: Whether to write the numbers to the checkpoint's `results.json` and card.

    Returns:
        The numbers, by name.
    """
    pipeline = ArchitecturePipeline.load(checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    space, generator = pipeline.space, torch.Generator().manual_seed(seed)
    results: dict[str, Any] = {}
    free = pipeline(n=n, steps=steps, distinct=False, generator=generator).codes
    results["legal samples"] = space.feasible(free).double().mean().item()
    results["unique encodings"] = len(free.unique(dim=0)) / n
    costs = [name for name in pipeline.conditions if name in space.cost.names]
    exact = exact and computable(pipeline)
    if exact:
        model = exact_distribution(pipeline)
        uniform = torch.full_like(model, 1 / len(model))
        results["KL(model || uniform), nat"] = divergence(model, uniform)
        results["KL(uniform || model), nat"] = divergence(uniform, model)
    for name in costs:
        if exact:
            results[f"KL(true || model), nat, given {name}"] = conditional_divergence(pipeline, name)
        results[f"relative deviation from asked {name}"] = deviation(pipeline, name, n, generator, steps)
    folder = resolve(checkpoint)
    facts = json.loads((folder / "training.json").read_text()) if (folder / "training.json").exists() else {}
    results |= _against_tables(pipeline, (facts.get("recipe") or {}).get("labels") or {}, seed, steps)
    requests: dict[str, dict[str, Any]] = {"free": {}}
    if costs:
        value = pipeline.denoiser.quantile(costs[0], 0.5)
        requests |= {
            "conditioned": {"condition": {costs[0]: value}},
            "constrained": {"where": f"{costs[0]} <= {value}"},
        }
    rates = {kind: speed(pipeline, 1024, steps=steps, **request) for kind, request in requests.items()}
    results["architectures a second"] = {**rates, "threads": torch.get_num_threads()}
    if steps is not None:
        results["network calls"] = steps
    if write:
        with replacing(folder / "results.json") as temporary:
            temporary.write_text(json.dumps(results, indent=1))
        write_card(folder, pipeline, facts, results)
    return results


def _against_tables(
    pipeline: ArchitecturePipeline, labels: Mapping[str, tuple[str, str]], seed: int, steps: int | None
) -> dict[str, Any]:
    """What the tables that are there say of predictions, and of samples asked to be accurate."""
    results: dict[str, Any] = {}
    for file in dict.fromkeys(file for file, _ in labels.values()):
        try:
            table = Table.read(find_table(file), pipeline.space)
        except ValueError:
            continue  # a user without the table gets the other numbers
        columns = {name: column for name, (source, column) in labels.items() if source == file}
        if pipeline.predictor is not None:
            known = {name: column for name, column in columns.items() if name in pipeline.predictor.config.names}
            for name, numbers in quality(pipeline.predictor, table, known).items():
                results[f"{name} as predicted, bounds of 90 %"] = numbers
        for name, column in columns.items():
            if "acc" in column and len(table) == pipeline.space.size:
                best = best_of(pipeline, name, table, column, seed, steps)
                results[f"mean {name} of 1000/100/10, as high as possible"] = best
    return results


def write_card(
    folder: Path, pipeline: ArchitecturePipeline, facts: Mapping[str, Any], results: Mapping[str, Any]
) -> None:
    """Write the checkpoint's README from what was trained and measured."""
    recipe, space = facts.get("recipe", {}), pipeline.space
    name = facts.get("name", folder.name)
    lines = [
        "---", "library_name: archgen", "license: apache-2.0", "tags: [architecture-generation, diffusion]", "---",
        f"# {name}", "",
        f"Generates architectures of `{space.name}` ({space.size:,} encodings; {space.source}).", "",
        "```python", "from archgen import ArchitecturePipeline", "",
        f'pipe = ArchitecturePipeline.from_pretrained("{name}")', "result = pipe(n=16)", "```", "",
        "## Can be asked for", "",
        "| property | learned from |", "|---|---|",
    ]  # fmt: skip
    for condition, rows in pipeline.config.rows.items():
        label = (recipe.get("labels") or {}).get(condition)
        source = f"exact cost of {rows:,} members"
        if label:
            known = facts["labels"][condition]
            source = f"{known:,} labels: `{label[0]}`, column `{label[1]}`"
            source += f"; {rows - known:,} more are predicted from them" * (known < rows)
        lines.append(f"| `{condition}` | {source} |")
    lines += ["", "## Training", ""]
    command = facts.get("command", f"archgen train --config training/{name}.yaml")
    lines.append(
        f"`{command}`: {facts.get('rows', 0):,} architectures, "
        f"{recipe.get('max_steps', 0):,} steps of {recipe.get('batch_size', 0)}, {facts.get('parameters', 0):,} "
        f"parameters, {facts.get('seconds', 0) / 60:.1f} minutes, torch {facts.get('torch', '')}, process "
        f"`{'ve' if isinstance(pipeline.scheduler, VEScheduler) else 'absorbing'}`, seed {recipe.get('seed', 0)}."
    )
    if facts.get("labels"):
        limit = recipe.get("label_limit")
        lines += ["", f"Labels used: {sum(facts['labels'].values()):,} values in {len(facts['labels'])} columns"
                      + (f" of {limit} architectures." if limit else ".")]  # fmt: skip
        if any("nas_bench_201" in file for file, _ in recipe["labels"].values()):
            lines += ["", DATA_SOURCES]
    if pipeline.predictor is not None:
        lines += ["", "## Predictor", "", PREDICTOR]
    lines += ["", "## Measured", "", f"`archgen evaluate {name}`", "", "| what | value |", "|---|---|"]
    lines += [f"| {key} | {_show(value)} |".replace("||", "from") for key, value in results.items()]
    with replacing(folder / "README.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n")


DATA_SOURCES = (
    "Accuracies: NATS-Bench (Dong et al., 2021, MIT). Latencies: HW-NAS-Bench (Li et al., ICLR 2021, MIT). The tables "
    "are not part of this project; `archgen convert` makes them from the official files."
)

PREDICTOR = (
    "`predictor/` says what would be measured, with bounds of a stated confidence. It holds no measurement: one "
    f"predictor learns from all labels but those of {CALIBRATION} members, and says what it expects of {PUPILS:,}; "
    "from this the one that is shipped learns, and by the labels that were kept back it is calibrated. "
    "Below it is compared with all rows of the tables, from most of which the first one learned."
)


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_show(one)}" for key, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}"
