"""Trains what a recipe in `training/` names: the generator of a search space, under any subset of its conditions."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from archgen.benchmark import Table, find_table
from archgen.denoiser import GraphDenoiser, reachable_range
from archgen.evaluate import evaluate
from archgen.hub import read_state, replacing_folder, save_state
from archgen.pipeline import ArchitecturePipeline
from archgen.predictor import PropertyPredictor
from archgen.scheduler import AbsorbingScheduler, VEScheduler
from archgen.space import SearchSpace, load_space
from archgen.trainer import make_accelerator

SMALLEST_TAIL = 10  # rows: the sharpest "as high as possible" that is trained


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


@dataclass
class Events:
    """How often and how sharply conditions are shown.

    Args:
        free: Share of samples without any condition.
        alone: Share with one condition; the rest has one and each other with probability `also`.
        also: Probability of each further condition.
        point: Share of conditions that are a value; of the rest, half are intervals and half open to one side.
    """

    free: float = 0.2
    alone: float = 0.4
    also: float = 0.3
    point: float = 0.35


@dataclass
class Pool:
    """What the generator learns from: encodings and what is known of each.

    Attributes:
        codes: `(rows, holes)`.
        values: For each condition `(rows,)`, NaN where unknown.
    """

    codes: Int[Tensor, "rows holes"]
    values: dict[str, Float[Tensor, " rows"]]
    order: dict[str, Tensor] = field(default_factory=dict, repr=False)
    ranked: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Sort the rows by every condition."""
        for name, value in self.values.items():
            known = value.isfinite().nonzero().flatten()
            self.order[name] = known[value[known].argsort(stable=True)]
            self.ranked[name] = value[self.order[name]].contiguous()

    def draw(
        self, n: int, events: Events, generator: torch.Generator
    ) -> tuple[Int[Tensor, "n holes"], Float[Tensor, "n conditions 2"]]:
        """Draw conditions, then rows uniformly among those that meet them.

        The first condition comes before the row, so its interval tells nothing but that the row lies in it. A further
        one is the row's own value, or a wide interval drawn without looking; rows outside are drawn again.

        Returns:
            Codes, and for each condition the interval asked for, NaN where none is.
        """
        names = list(self.values)
        kind = torch.rand(n, generator=generator)
        first = torch.randint(len(names), (n,), generator=generator).masked_fill(kind < events.free, -1)
        more = kind >= events.free + events.alone
        intervals = torch.full((n, len(names), 2), torch.nan)
        span = torch.stack([torch.zeros(n, dtype=torch.long), torch.full((n,), len(self.codes))], -1)
        asked = torch.zeros(n, len(names), 2)
        secondary = torch.zeros(n, len(names), dtype=torch.bool)
        as_point = torch.zeros(n, len(names), dtype=torch.bool)
        for c, name in enumerate(names):
            mine = first == c
            low, high, begin, end = self._events(name, n, events, SMALLEST_TAIL / len(self.ranked[name]), generator)
            span[mine] = torch.stack([begin, end], -1)[mine]
            also = more & ~mine & (torch.rand(n, generator=generator) < events.also)
            wide_low, wide_high, _, _ = self._events(name, n, events, 0.3, generator)
            asked[:, c, 0] = torch.where(mine, low, wide_low)
            asked[:, c, 1] = torch.where(mine, high, wide_high)
            secondary[:, c] = also
            as_point[:, c] = torch.rand(n, generator=generator) < events.point
        rows = torch.zeros(n, dtype=torch.long)
        todo = torch.ones(n, dtype=torch.bool)
        for _ in range(8):
            offset = torch.rand(n, generator=generator, dtype=torch.float64) * (span[:, 1] - span[:, 0])
            pick = span[:, 0] + offset.long()
            for c in range(-1, len(names)):
                mine = todo & (first == c)
                rows[mine] = pick[mine] if c < 0 else self.order[names[c]][pick[mine]]
            own = torch.stack([self.values[name][rows] for name in names], -1)
            inside = (asked[..., 0] <= own) & (own <= asked[..., 1])
            todo = (secondary & ~as_point & ~inside & own.isfinite()).any(-1)
            if not todo.any():
                break
        kept = secondary & own.isfinite() & (as_point | inside)
        points = as_point & own.isfinite()
        for c in range(len(names)):
            mine = first == c
            intervals[mine, c] = asked[mine, c]
            value = torch.where(points[:, c, None], own[:, c, None], asked[:, c])
            intervals[kept[:, c], c] = value[kept[:, c]].float()
        return self.codes[rows].long(), intervals

    def _events(
        self, name: str, n: int, events: Events, smallest: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Intervals of a condition drawn without looking at a row, and the ranks of the rows inside."""
        ranked = self.ranked[name]
        total = len(ranked)
        kind, place, size = torch.rand(3, n, generator=generator)
        share = torch.exp(size * math.log(max(smallest, 1 / total)))  # log-uniform in [smallest, 1]
        point = (kind < events.point) & (smallest < 0.3)
        side = (kind - events.point) / (1 - events.point)
        start = torch.where(side < 0.5, place * (1 - share), torch.where(side < 0.75, 1 - share, 0.0))
        rare = torch.searchsorted(ranked, ranked[0] + size * (ranked[-1] - ranked[0])).double() / total
        place = torch.where(kind < 0.5 * events.point, place, rare)  # half the values by frequency, half evenly spaced
        start, stop = torch.where(point, place, start), torch.where(point, place, start + share)
        low = ranked[(start * total).long().clamp(0, total - 1)]
        high = ranked[(stop * total - 1e-6).long().clamp(0, total - 1)]
        low, high = torch.where(point, low, torch.minimum(low, high)), torch.where(point, low, high)
        begin, end = torch.searchsorted(ranked, low), torch.searchsorted(ranked, high, right=True)
        low = torch.where(~point & (begin == 0), -torch.inf, low)
        high = torch.where(~point & (end == total), torch.inf, high)
        return low.float(), high.float(), begin, end


def make_pool(
    space: SearchSpace,
    costs: Sequence[str],
    labels: Mapping[str, Sequence[str]],
    size: int,
    limit: int | None = None,
    complete: bool = False,
    seed: int = 0,
) -> Pool:
    """The members that a generator learns from, with what is known of each.

    Args:
        space: The search space.
        costs: Exact costs to condition on.
        labels: For each measured property `[table, column]`.
        size: Members drawn where the space cannot be listed.
        limit: Labelled architectures used, chosen at random; all if absent.
        complete: Whether a predictor learned from them labels the rest.
        seed: Seed of the draws.

    Raises:
        ValueError: If a table or a column is missing, or a cost is none of the space's.
    """
    generator = torch.Generator().manual_seed(seed)
    if unknown := set(costs) - set(space.cost.names):
        raise ValueError(f"{space.name} has no cost {sorted(unknown)[0]!r}; it has {', '.join(space.cost.names)}")
    listed = space.enumerate_legal is None and space.size <= size
    codes = space.legal_codes if listed else space.sample(size, generator)
    tables = {file: Table.read(find_table(file), space) for file in dict.fromkeys(file for file, _ in labels.values())}
    codes = torch.cat([codes, *(table.codes for table in tables.values())]).unique(dim=0)
    exact = space.cost.exact(codes)
    values = {name: exact[name].float() for name in costs}
    labelled = torch.rand(len(codes), generator=generator).argsort() < (limit or len(codes))
    for name, (file, column) in labels.items():
        values[name] = torch.full((len(codes),), torch.nan)
        place = torch.cat([codes, tables[file].codes]).unique(dim=0, return_inverse=True)[1][len(codes) :]
        values[name][place] = tables[file].column(column).float()
        values[name][~labelled] = torch.nan
    if complete and labels:
        known = torch.stack([values[name] for name in labels], -1)  # (N, labels)
        rows = known.isfinite().all(-1)
        guess = PropertyPredictor(space, seed=seed).fit(codes[rows], known[rows]).predict(codes)
        for column, name in enumerate(labels):
            values[name] = torch.where(values[name].isfinite(), values[name], guess[:, column])
    return Pool(codes.to(torch.int16), values)


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
    for name in ("max_steps", "batch_size", "pool_size", "save_every"):
        if recipe[name] < 1:
            raise ValueError(f"{name} is at least 1, got {recipe[name]}")
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
    if accelerator.is_main_process:
        rows = {name: int(value.isfinite().sum()) for name, value in pool.values.items()}
        pipeline = ArchitecturePipeline(run.averaged(), run.scheduler, space=where.spec, rows=rows)
        facts = {"name": folder.name, "recipe": recipe, "rows": len(pool.codes),
                 "labels": {name: min(rows[name], label_limit or rows[name]) for name in labels or {}},
                 "parameters": sum(p.numel() for p in denoiser.parameters()), "seconds": round(run.seconds, 1),
                 "loss": run.loss, "processes": accelerator.num_processes, "torch": torch.__version__}  # fmt: skip
        with replacing_folder(folder) as temporary:
            pipeline.save_pretrained(temporary)
            (temporary / "training.json").write_text(json.dumps(facts, indent=1))
        (folder / "state" / "state.pt").unlink(missing_ok=True)
        if samples:
            evaluate(str(folder), n=samples, write=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()


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
        self.denoiser, self.model = denoiser, accelerator.prepare(denoiser)
        self.average: EMAModel | None = None
        self.seconds, self.loss = 0.0, math.nan

    def fit(
        self, optim: Optim, max_steps: int, batch_size: int, seed: int, save_every: int, state: Path, recipe: dict
    ) -> None:
        """Take all steps that are left.

        Every draw depends on the seed, the step and the process alone, so the state needs no random generators.
        """
        accelerator = self.accelerator
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, betas=(0.9, 0.98)
        )
        optimizer = accelerator.prepare(optimizer)
        schedule = get_scheduler(
            "cosine", optimizer.optimizer, num_warmup_steps=optim.warmup_steps, num_training_steps=max_steps
        )
        self.average = EMAModel(self.denoiser.parameters(), decay=optim.ema, use_ema_warmup=True, power=0.75)
        self.average.to(accelerator.device)
        parts = {"model": self.denoiser, "optimizer": optimizer.optimizer, "schedule": schedule, "ema": self.average}
        begin = self._resume(state, parts, recipe)
        started, before = time.monotonic(), self.seconds
        bar = tqdm(range(begin, max_steps), initial=begin, total=max_steps, disable=not accelerator.is_main_process)
        for step in bar:
            mark = (seed * 1_000_003 + step) * 1024 + accelerator.process_index
            loss = self._loss(batch_size, torch.Generator().manual_seed(mark))
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(self.model.parameters(), optim.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            self.average.step(self.denoiser.parameters())
            self.seconds = before + time.monotonic() - started
            if step % 50 == 0 or step == max_steps - 1:
                self.loss = loss.item()
                bar.set_postfix(loss=f"{self.loss:.4f}")
                accelerator.log({"loss": self.loss, "lr": schedule.get_last_lr()[0]}, step=step)
            if accelerator.is_main_process and (step + 1) % save_every == 0:
                saved = {name: part.state_dict() for name, part in parts.items()}
                progress = {"step": step + 1, "seconds": self.seconds, "recipe": json.dumps(recipe)}
                save_state({**saved, **progress}, state)

    def _resume(self, path: Path, parts: dict, recipe: dict) -> int:
        if not path.exists():
            return 0
        saved = read_state(path, self.accelerator.device)
        if saved["recipe"] != json.dumps(recipe):
            raise ValueError(f"{path} belongs to another recipe; finish that one, remove it, or choose another out")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        self.seconds = saved["seconds"]
        return int(saved["step"])

    def _loss(self, batch_size: int, generator: torch.Generator) -> Tensor:
        codes, intervals = self.pool.draw(batch_size, self.events, generator)
        device = self.accelerator.device
        codes, intervals = codes.to(device), intervals.to(device)
        x, t, weight = self.scheduler.noised(codes, generator, self.denoiser.valid)
        within = None if t is not None else reachable_range(self.space, x, list(self.pool.values))
        with self.accelerator.autocast():
            logits = self.model(x, t, intervals, within)
        loss = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten(), reduction="none").view_as(weight)
        return (loss * weight).sum(-1).mean()

    def averaged(self) -> GraphDenoiser:
        """The network with its averaged weights."""
        self.average.copy_to(self.denoiser.parameters())
        return self.denoiser.eval()
