"""Trains what a recipe in `training/` names: the generator of a search space, under any subset of its conditions."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from archgen.checks import check_counts
from archgen.denoiser import GraphDenoiser, reachable_range
from archgen.descent import Descent
from archgen.evaluate import evaluate
from archgen.hub import replacing_folder
from archgen.pipeline import ArchitecturePipeline
from archgen.pool import Events, Pool, distilled, make_pool
from archgen.predictor import PropertyPredictor
from archgen.processes import make_accelerator
from archgen.scheduler import AbsorbingScheduler, VEScheduler
from archgen.space import SearchSpace, load_space


@dataclass
class Network:
    """Size of the denoiser.

    Args:
        width: Channels of the residual stream.
        depth: Number of blocks.
        heads: Attention heads.
    """

    width: int = 64
    depth: int = 4
    heads: int = 4


@dataclass
class Optim:
    """Optimization.

    Args:
        lr: Largest learning rate of AdamW; cosine decay to zero.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Decoupled weight decay.
        clip: Largest norm of the gradient.
        ema: Decay of the averaged weights, which are the ones shipped.
    """

    lr: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999


def train(
    space: str,
    out: str,
    costs: list[str] | None = None,
    labels: dict[str, list[str]] | None = None,
    label_limit: int | None = None,
    complete_labels: bool = False,
    pool_size: int = 200_000,
    process: str = "absorbing",
    max_steps: int = 5000,
    batch_size: int = 512,
    network: Network | None = None,
    optim: Optim | None = None,
    events: Events | None = None,
    seed: int = 0,
    save_every: int = 500,
    trackers: list[str] | None = None,
    mixed_precision: str = "no",
    samples: int = 2_000,
) -> None:
    """Train the generator of a search space and write it as a checkpoint.

    Started again with the same recipe, a run that was stopped goes on from its last saved step, and ends with the same
    weights to the bit as one that was not.

    Args:
        space: Name of a search space, or the path of its YAML file.
        out: Folder of the checkpoint; the state of the run is kept in `out/state` until it is done.
        costs: Exact costs that it can be asked for; all that the space has if absent.
        labels: Measured properties that it can be asked for, each with `[table, column]`.
        label_limit: Number of labelled architectures used; all in the tables if absent.
        complete_labels: Whether a predictor learned from them labels all others.
        pool_size: Members drawn to learn from where the space is too large to list.
        process: `absorbing`, or `ve` for DiffusionNAG's.
        max_steps: Optimizer steps.
        batch_size: Architectures a step and process.
        network: Size of the denoiser.
        optim: Optimization.
        events: How conditions are shown.
        seed: Seed of everything drawn.
        save_every: Steps between saved states.
        trackers: `wandb`, `tensorboard`, or none.
        mixed_precision: `no`, `bf16` or `fp16`.
        samples: Samples for the numbers on the card; without any there is no card.

    Raises:
        ValueError: If the recipe is at fault.
    """
    recipe = {k: asdict(v) if isinstance(v, (Network, Optim, Events)) else v for k, v in locals().items()}
    del recipe["out"], recipe["samples"]  # they change nothing that is learned
    network, optim, events = network or Network(), optim or Optim(), events or Events()
    if process not in ("absorbing", "ve"):
        raise ValueError(f"process is 'absorbing' or 've', got {process!r}")
    counts = {"max_steps": max_steps, "batch_size": batch_size, "pool_size": pool_size, "save_every": save_every}
    check_counts(**counts, label_limit=label_limit)
    where = load_space(space)
    names = where.cost.names if costs is None else costs
    pool = make_pool(where, names, labels or {}, pool_size, label_limit, complete_labels, seed)
    folder = Path(out)
    accelerator = make_accelerator(folder / "state", mixed_precision, trackers, recipe)
    torch.manual_seed(seed)
    denoiser = GraphDenoiser.for_space(where, list(pool.values), **asdict(network))
    denoiser.set_distribution({name: value[value.isfinite()] for name, value in pool.values.items()})
    scheduler = AbsorbingScheduler() if process == "absorbing" else VEScheduler()
    run = Run(accelerator, where, denoiser, scheduler, pool, events)
    run.fit(optim, max_steps, batch_size, seed, save_every, folder / "state" / "state.pt", recipe)
    rows = {name: int(value.isfinite().sum()) // pool.copies for name, value in pool.values.items()}
    measured = bool(labels) and not complete_labels and accelerator.is_main_process
    predictor = distilled(where, pool, list(labels), seed) if measured else None
    facts = {"recipe": recipe, "rows": len(pool.codes) // pool.copies, "labels": pool.measured}
    run.write(folder, rows, facts, samples, predictor=predictor)


class Run:
    """One training run: its weights, their average, and how far it has got.

    Args:
        accelerator: Placement, precision and processes.
        space: The search space.
        denoiser: The network.
        scheduler: The diffusion process.
        pool: What it learns from.
        events: How conditions are shown.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        space: SearchSpace,
        denoiser: GraphDenoiser,
        scheduler: AbsorbingScheduler | VEScheduler,
        pool: Pool,
        events: Events,
    ):
        self.accelerator, self.space, self.scheduler = accelerator, space, scheduler
        self.pool, self.events = pool, events
        drawn = [*pool.values, *pool.given]
        self.columns = [drawn.index(name) for name in denoiser.config.conditions]
        self.denoiser = denoiser

    def fit(
        self, optim: Optim, max_steps: int, batch_size: int, seed: int, save_every: int, state: Path, recipe: dict
    ) -> None:
        """Take all steps that are left.

        Every draw depends on the seed, the step and the process alone, so the state needs no random generators.
        """
        self.descent = Descent(
            self.accelerator, self.denoiser, [*self.denoiser.parameters()], max_steps, optim.warmup_steps, state,
            recipe, save_every, optim.lr, optim.weight_decay, optim.clip, optim.ema,
        )  # fmt: skip
        for mark in self.descent.steps(seed):
            self.descent.down({"loss": self._loss(batch_size, torch.Generator().manual_seed(mark))})

    def _loss(self, batch_size: int, generator: torch.Generator) -> Tensor:
        codes, intervals = self.pool.draw(batch_size, self.events, generator)
        intervals = intervals[:, self.columns]
        device = self.accelerator.device
        codes, intervals = codes.to(device), intervals.to(device)
        x, t, weight = self.scheduler.noised(codes, generator, self.denoiser.valid)
        within = None if t is not None else reachable_range(self.space, x, self.denoiser.config.conditions)
        with self.accelerator.autocast():
            logits = self.descent.model(x, t, intervals, within)
        loss = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten(), reduction="none").view_as(weight)
        return (loss * weight).sum(-1).mean()

    def averaged(self) -> GraphDenoiser:
        """The network with its averaged weights."""
        return self.descent.averaged()

    def write(
        self,
        folder: Path,
        rows: dict[str, int],
        facts: dict[str, Any],
        samples: int,
        exact: bool = True,
        predictor: PropertyPredictor | None = None,
        text_denoiser: GraphDenoiser | None = None,
    ) -> None:
        """Write the checkpoint and its card, and end the run.

        Args:
            folder: Where; `folder/state` is emptied.
            rows: For each condition the number of rows it was learned from.
            facts: What `training.json` says beside what the run knows itself.
            samples: Samples for the numbers on the card; without any there is no card.
            exact: Whether distances of distributions are on it too.
            predictor: Of the measured properties.
            text_denoiser: What texts steer.
        """
        accelerator = self.accelerator
        if accelerator.is_main_process:
            denoiser = self.averaged()
            pipeline = ArchitecturePipeline(
                denoiser, self.scheduler, predictor, text_denoiser, space=self.space.spec, rows=rows
            )
            own = {
                "parameters": sum(p.numel() for p in denoiser.parameters()),
                "seconds": round(self.descent.seconds, 1),
                "loss": self.descent.losses["loss"],
                "processes": accelerator.num_processes,
                "torch": torch.__version__,
            }
            with replacing_folder(folder) as temporary:
                pipeline.save_pretrained(temporary)
                content = json.dumps({"name": folder.name, **facts, **own}, indent=1)
                (temporary / "training.json").write_text(content)
            if samples:
                evaluate(str(folder), n=samples, exact=exact, write=True)
            (folder / "state" / "state.pt").unlink(missing_ok=True)
        self.descent.end()
