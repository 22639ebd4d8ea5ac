"""Fine-tuning: a checkpoint learns new properties from few labels, or moves to a new space, and keeps what it knew."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from archgen.adapt import adapted
from archgen.checks import check_counts
from archgen.denoiser import GraphDenoiser
from archgen.guidance import LegalDecision
from archgen.hub import resolve
from archgen.pipeline import ArchitecturePipeline
from archgen.pool import SMALLEST_TAIL, Events, Pool, completed, distilled, make_pool
from archgen.processes import make_accelerator
from archgen.space import OPEN, SearchSpace, load_space
from archgen.train import Optim, Run

FEWEST = 20  # labels of a column
GRID = 10_001  # values that stand for the distribution of a condition whose labels are gone
MEMORIES = 12_000  # draws under old conditions; as many as members, about, so that they count as much
CALLS = 64  # network calls for them


def finetune(
    checkpoint: str,
    table: str = "",
    targets: str = "",
    out: str = "out/finetune",
    space: str | None = None,
    max_steps: int = 400,
    batch_size: int = 256,
    pool_size: int = 20_000,
    optim: Optim | None = None,
    events: Events | None = None,
    seed: int = 0,
    save_every: int = 100,
    samples: int = 500,
) -> None:
    """Teach a checkpoint new properties, or a new space, from a table of a hundred rows or more.

    Members without a label are labelled by a predictor that learns from those that have one. On its own space the
    checkpoint keeps all its conditions and answers to them as before, to the bit: what names a new condition goes to a
    network of its own, which starts from what the old one knows, and learns the new conditions beside the old. To a
    new space it takes what the two have in common, and learns all exact costs there. Started again in the same way, a
    run that was stopped ends with the same weights to the bit.

    Args:
        checkpoint: Name of a shipped checkpoint, a folder, or a Hub id.
        table: Path or name of a table of measured architectures.
        targets: Its columns to learn, separated by commas; they become conditions.
        out: Folder of the new checkpoint.
        space: Name or YAML file of the space of the table; the checkpoint's own if absent.
        max_steps: Optimizer steps.
        batch_size: Architectures a step and process.
        pool_size: Members learned from where the space is too large to list.
        optim: Optimization; by default with at most 50 steps of warm-up.
        events: How conditions are shown.
        seed: Seed of everything drawn.
        save_every: Steps between saved states.
        samples: Samples for the numbers on the card; without any there is no card.

    Raises:
        ValueError: If the request is at fault.
    """
    recipe = {k: asdict(v) if isinstance(v, (Optim, Events)) else v for k, v in locals().items()}
    del recipe["out"], recipe["samples"]  # they change nothing that is learned
    folder = _checked_folder(out, recipe)
    source = ArchitecturePipeline.load(checkpoint)
    where = source.space if space is None else load_space(space)
    grows = where.spec == source.space.spec
    kept = source.conditions if grows else list(where.cost.names)
    labels = {name: [table, name] for name in _new_names(targets, kept)}
    pool = make_pool(where, [name for name in kept if name in where.cost.names], labels, pool_size, seed=seed)
    counts, members = {name: _count(name, pool.values[name]) for name in labels}, len(pool.codes)
    accelerator = make_accelerator(folder / "state", "no", None, recipe)
    run = (growth if grows else move)(accelerator, source, where, pool, list(labels), events or Events(), seed)
    optim = optim or Optim(warmup_steps=min(50, max_steps // 5))
    run.fit(optim, max_steps, batch_size, seed, save_every, folder / "state" / "state.pt", recipe)
    predictor = distilled(where, pool, list(labels), seed)
    if grows and source.predictor is not None:
        predictor = source.predictor.joined(predictor)
    rows = dict.fromkeys([*kept, *labels], members) | (source.config.rows if grows else {})
    facts = {"recipe": {**recipe, "labels": labels}, "rows": members, "labels": counts}
    facts["command"] = _command(recipe, out)
    facts = _inherited(checkpoint, facts) if grows else facts
    text_denoiser = source.text_denoiser if grows else None
    run.write(folder, rows, facts, samples, False, predictor, text_denoiser)


def _command(recipe: dict[str, Any], out: str) -> str:
    """What to type to make the same again."""
    words = ["archgen", "finetune", recipe["checkpoint"]]
    for name, parameter in signature(finetune).parameters.items():
        if name in recipe and name != "checkpoint" and recipe[name] != parameter.default:
            value = recipe[name]
            words += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return shlex.join([*words, "--out", out])


def _checked_folder(out: str, recipe: dict[str, Any]) -> Path:
    check_counts(**{name: recipe[name] for name in ("max_steps", "batch_size", "pool_size", "save_every")})
    done = not (Path(out) / "state" / "state.pt").exists()
    if done and (Path(out) / "model_index.json").exists():
        raise ValueError(f"{out} holds a checkpoint already; choose another folder")
    return Path(out)


def _inherited(checkpoint: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What was done, with the labels that the original had learned from."""
    path = resolve(checkpoint) / "training.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    recipe = {**facts["recipe"], "labels": before.get("recipe", {}).get("labels", {}) | facts["recipe"]["labels"]}
    return {**facts, "recipe": recipe, "labels": before.get("labels", {}) | facts["labels"]}


def _new_names(targets: str, kept: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in targets.split(",") if name.strip()))
    if not names:
        raise ValueError("targets names at least one column of the table")
    if known := [name for name in names if name in kept]:
        raise ValueError(f"{known[0]!r} is a condition already; give the column another name")
    return names


def _count(name: str, values: Float[Tensor, " rows"]) -> int:
    """Number of labels of a column, if that is enough."""
    known = values[values.isfinite()]
    if len(known) < FEWEST:
        raise ValueError(f"column {name!r} has {len(known)} values, at least {FEWEST} are needed")
    if known.min() == known.max():
        raise ValueError(f"column {name!r} is {known[0].item():g} in all rows: there is nothing to learn")
    return len(known)


class Growth(Run):
    """A run whose network comes beside the one that was there, and answers what names a new condition.

    Args:
        accelerator: Placement, precision and processes.
        space: The search space.
        denoiser: The network that learns.
        scheduler: The diffusion process.
        pool: What it learns from.
        events: How conditions are shown.
        original: The network that stays as it is.
    """

    def __init__(self, *parts: Any, original: GraphDenoiser):
        super().__init__(*parts)
        self.original = original

    def averaged(self) -> GraphDenoiser:
        """The original, and the network with its averaged weights for what names a new condition."""
        return self.original.to(self.denoiser.device).followed_by(super().averaged()).eval()


def growth(
    accelerator: Accelerator,
    source: ArchitecturePipeline,
    space: SearchSpace,
    pool: Pool,
    names: list[str],
    events: Events,
    seed: int,
) -> Growth:
    """The run that teaches a checkpoint new properties of its own space.

    Args:
        accelerator: Placement, precision and processes.
        source: The checkpoint.
        space: Its space.
        pool: Members with exact costs, some of them labelled.
        names: The new properties.
        events: How conditions are shown.
        seed: Of everything drawn.
    """
    measured = set(source.conditions) - set(space.cost.names)
    generator = torch.Generator().manual_seed(seed)
    memories = remember(source, MEMORIES, events, generator) if measured else None
    members, pool = len(pool.codes), learnable(space, pool, names, memories, seed)
    pool.leading = len(names)
    torch.manual_seed(seed)
    denoiser = adapted(source.denoiser, space, space, [*source.conditions, *names])
    known = {name: pool.values[name].view(pool.copies, -1)[:, :members].flatten() for name in names}
    denoiser.set_distribution(known)
    events = replace(events, free=0.0)
    return Growth(accelerator, space, denoiser, source.scheduler, pool, events, original=source.denoiser)


def move(
    accelerator: Accelerator,
    source: ArchitecturePipeline,
    space: SearchSpace,
    pool: Pool,
    names: list[str],
    events: Events,
    seed: int,
) -> Run:
    """The run that takes a checkpoint to another space; the arguments are those of `growth`."""
    pool = learnable(space, pool, names, None, seed)
    torch.manual_seed(seed)
    denoiser = adapted(source.denoiser, source.space, space, [*space.cost.names, *names])
    denoiser.set_distribution(pool.values)
    return Run(accelerator, space, denoiser, source.scheduler, pool, events)


Memories = tuple[Int[Tensor, "draws holes"], dict[str, Float[Tensor, "draws 2"]]]


def remember(source: ArchitecturePipeline, n: int, events: Events, generator: torch.Generator) -> Memories:
    """What a checkpoint draws under random values and intervals of its measured conditions, whose labels are gone.

    Args:
        source: The checkpoint.
        n: How many draws.
        events: How conditions are shown; half of the draws are asked for one, the others for more.
        generator: Source of randomness.

    Returns:
        The draws, and for each condition what was asked of them, NaN where nothing was.
    """
    names = [name for name in source.conditions if name not in source.space.cost.names]
    levels = torch.linspace(0, 1, GRID, dtype=torch.float64)
    grid = Pool(
        torch.zeros(GRID, 1, dtype=torch.long), {name: source.denoiser.quantiles(name, levels) for name in names}
    )
    first = torch.randint(len(names), (n,), generator=generator)
    more = torch.rand(n, generator=generator) < 0.5
    asked = {name: torch.full((n, 2), torch.nan) for name in source.conditions}
    for index, name in enumerate(names):
        also = more & (torch.rand(n, generator=generator) < events.also)
        sharpest = SMALLEST_TAIL / source.config.rows.get(name, GRID)
        for chosen, smallest in ((also, 0.3), (first == index, sharpest)):
            low, high, _, _ = grid.intervals(name, n, events, smallest, generator)
            asked[name][chosen] = torch.stack([low, high], -1)[chosen]
    parts = torch.stack([*asked.values()], 1).split(1024)
    codes = torch.cat([_draw_each(source, part, generator) for part in tqdm(parts, desc="memories", leave=False)])
    return codes, {name: asked[name] for name in names}


@torch.inference_mode()
def _draw_each(
    source: ArchitecturePipeline, wishes: Float[Tensor, "draws conditions 2"], generator: torch.Generator
) -> Int[Tensor, "draws holes"]:
    """One draw for each row of wishes about measured properties."""
    scheduler, denoiser, space = source.scheduler, source.denoiser, source.space
    codes = torch.full((len(wishes), len(space.holes)), OPEN, device=denoiser.device)
    decide = LegalDecision(space, [], generator)
    state = scheduler.start(codes, denoiser.valid, generator)
    for t, s in pairwise(scheduler.times(CALLS, codes.shape[1]).tolist()):
        logits = denoiser(*scheduler.inputs(state, t), wishes.to(denoiser.device))
        state = scheduler.step(logits, t, s, state, decide, generator)
    return state.cpu()


def learnable(space: SearchSpace, pool: Pool, names: Sequence[str], memories: Memories | None, seed: int) -> Pool:
    """Members and memories with values of every new property, as measured or else as a predictor learns from those.

    Args:
        space: The search space.
        pool: Members, some of them labelled.
        names: The new properties.
        memories: Draws of the original and what was asked of them.
        seed: Seed of the predictor.
    """
    drawn, asked = memories or (pool.codes[:0], {})
    known = torch.stack([pool.values[name] for name in names], -1)
    known = torch.cat([known, torch.full((len(drawn), len(names)), torch.nan)])
    codes = torch.cat([pool.codes.long(), drawn.long()])
    exact = space.cost.exact(codes)
    values = dict(zip(names, known.T, strict=True))
    values |= {name: exact[name].float() for name in pool.values if name in exact}
    blank = torch.full((len(pool.codes), 2), torch.nan)
    given = {name: torch.cat([blank, wish]) for name, wish in asked.items()}
    labels = completed(space, codes, known, seed).unbind(-1)
    return Pool(codes.to(torch.int16), values, given).filled(dict(zip(names, labels, strict=True)))
