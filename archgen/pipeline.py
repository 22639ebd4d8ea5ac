"""ArchitecturePipeline: everything a user loads and calls."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from jaxtyping import Float, Int
from torch import Tensor

# The components are imported by module, since from_pretrained looks them up among the loaded modules.
from archgen.constraint import Constraint
from archgen.denoiser import GraphDenoiser
from archgen.graph import Architecture
from archgen.guidance import Belief, CachedNetwork, LegalDecision
from archgen.hub import resolve
from archgen.scheduler import AbsorbingScheduler, VEScheduler
from archgen.space import OPEN, load_space

IDLE_ROUNDS = 6  # ever larger batches without a new architecture before the search for more is given up
SHARPER = 1.5  # guidance towards extremes, where nothing else is asked for
NEAR = 0.01  # relative: how close draws are kept to an asked value of a cost, where some completion gets there

Wish = float | int | str | tuple[float, float] | list[float]


@dataclass
class ArchitectureOutput(BaseOutput):
    """What a call of the pipeline returns.

    Attributes:
        architectures: The sampled architectures.
        codes: Their encodings, `(found, holes)`.
        drawn: How many were drawn to find them.
    """

    architectures: list[Architecture]
    codes: Tensor
    drawn: int

    @cached_property
    def costs(self) -> dict[str, Float[Tensor, " found"]]:
        """Exact costs of the architectures, by name."""
        return self.architectures[0].space.cost.exact(self.codes) if self.architectures else {}

    def records(self) -> list[dict[str, Any]]:
        """One JSON object an architecture: `space`, `arch`, `hash`, `graph`, the costs, `predicted`."""
        return [
            {
                "space": architecture.space.name,
                "arch": str(architecture),
                "hash": architecture.hash,
                "graph": {key: value for key, value in architecture.to_dict().items() if key != "space"},
                **{name: _number(value[row].item()) for name, value in self.costs.items()},
                "predicted": {},
            }
            for row, architecture in enumerate(self.architectures)
        ]


class ArchitecturePipeline(DiffusionPipeline):
    """Samples architectures of one search space under any combination of conditions and constraints.

    Args:
        denoiser: The network.
        scheduler: The diffusion process: absorbing or variance-exploding.
        space: Name of the search space, or its declaration.
        rows: For each condition the number of rows it was learned from; "as high as possible" is relative to them.
    """

    def __init__(
        self,
        denoiser: GraphDenoiser,
        scheduler: AbsorbingScheduler | VEScheduler,
        space: str | dict[str, Any] = "nasbench201",
        rows: dict[str, int] | None = None,
    ):
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler)
        self.register_to_config(space=space, rows=rows or {})
        self.space = load_space(space)

    @classmethod
    def load(cls, checkpoint: str | Path) -> ArchitecturePipeline:
        """A pipeline from a path, the name of a shipped checkpoint, or a Hub id; no code is executed from it.

        Raises:
            ValueError: If there is no such checkpoint or it is damaged.
        """
        folder = resolve(checkpoint)
        try:
            return cls.from_pretrained(folder)
        except Exception as error:  # diffusers raises whatever the reader of the damaged part raises
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"the checkpoint {folder} cannot be loaded: {type(error).__name__}: {reason}") from error

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, **kwargs: Any) -> ArchitecturePipeline:
        """As `DiffusionPipeline.from_pretrained`, for the names of shipped checkpoints too; reads safetensors only."""
        return super().from_pretrained(resolve(checkpoint), use_safetensors=True, **kwargs)

    @property
    def conditions(self) -> list[str]:
        """Names of the properties that can be asked for."""
        return list(self.denoiser.config.conditions)

    @torch.inference_mode()
    def __call__(
        self,
        n: int = 16,
        where: str | None = None,
        condition: Mapping[str, Wish] | None = None,
        maximize: str | Iterable[str] = (),
        minimize: str | Iterable[str] = (),
        like: str | Architecture | None = None,
        change: int | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        distinct: bool = True,
        batch_size: int = 1024,
        generator: torch.Generator | None = None,
    ) -> ArchitectureOutput:
        """Sample architectures.

        Args:
            n: How many.
            where: Hard constraint on what can be counted, met by every result (see `Constraint`).
            condition: For learned properties a value, an interval `(low, high)`, `"high"` or `"low"`. Of what can be
                counted, a value is kept within 1 % as far as bounds can tell, but nothing is refused.
            maximize: Properties that are to be as high as possible.
            minimize: Properties that are to be as low as possible.
            like: An architecture to start from; `change` of its holes are opened again.
            change: How many holes of `like` to open; all but those that must stay if absent.
            guidance: Weight of the conditions: 0 ignores them, 1 is what was learned, more exaggerates; 1.5 if absent
                and something is to be as high or as low as possible, else 1.
            steps: Network calls for each batch; the scheduler's own number if absent.
            distinct: Whether no two results may be equal networks (equal hashes).
            batch_size: How many are sampled at once.
            generator: Source of randomness, on the CPU.

        Returns:
            The architectures; fewer than `n` where no more distinct ones were found.

        Raises:
            ValueError: If a request is malformed or names an unknown property.
            archgen.constraint.Infeasible: If no member of the space meets `where`.
        """
        _check_counts(n=n, steps=steps, batch_size=batch_size, change=change)
        wishes = self._check_wishes(condition, maximize, minimize)
        constraint = Constraint(where, self.space) if where else None
        template = self._template(like, change)
        fallback = template[None][:0] if constraint is None else constraint.witness(generator)
        extremes = {name: wish for name, wish in wishes.items() if isinstance(wish, str)}
        pilot = self._pilot(constraint, fallback, generator) if constraint is not None and extremes else None
        intervals = self._intervals(n, wishes, constraint, pilot)
        if guidance is None:
            guidance = SHARPER if extremes else 1.0
        network = CachedNetwork(self.denoiser, self.space, intervals, guidance)
        held = [each for each in (constraint, self._steer(wishes)) if each is not None]
        believed = constraint is not None and set(extremes) - set(self.space.cost.names)
        enough = max(n, min(8 * n, 256)) if believed and isinstance(self.scheduler, AbsorbingScheduler) else n
        drawn, idle, found = 0, 0, {}
        progress = self.progress_bar(total=enough)
        while len(found) < enough and idle < (IDLE_ROUNDS if len(found) < n else 1):
            size = min(batch_size, max(enough - len(found), 64 << idle if drawn else 1))
            codes = self._draw_batch(size, template, change, held, network, steps, generator)
            if constraint is not None:
                if idle and like is None:  # drawing alone does not get there: walk from what was drawn, then list
                    near = constraint.descend(codes, time.monotonic() + 1.0, keep=max(48, 2 * size))
                    codes = torch.cat([codes, near, fallback])
                codes = codes[constraint.holds(codes)]
            before, drawn = len(found), drawn + size
            for architecture, row in zip(self.space.decode_all(codes), codes, strict=True):
                key = architecture.hash if distinct else len(found)
                if key not in found and len(found) < enough:
                    found[key] = (architecture, row)
            progress.update(len(found) - before)
            idle = 0 if len(found) > before else idle + 1
        progress.close()
        architectures = [architecture for architecture, _ in found.values()]
        codes = torch.stack([row for _, row in found.values()]) if found else template[None][:0]
        if len(found) > n:
            best = self._promise(codes, extremes).argsort(descending=True, stable=True)[:n]
            architectures, codes = [architectures[row] for row in best.tolist()], codes[best]
        return ArchitectureOutput(architectures, codes, drawn)

    def _draw_batch(
        self,
        size: int,
        template: Int[Tensor, " holes"],
        change: int | None,
        held: list[Constraint],
        network: CachedNetwork,
        steps: int | None,
        generator: torch.Generator | None,
    ) -> Int[Tensor, "size holes"]:
        codes = self._reopen(template, size, change, generator)
        decide = LegalDecision(self.space, held, generator)
        n_open = int((codes == OPEN).sum(-1).max())
        scheduler, device = self.scheduler, self.denoiser.device
        state = scheduler.start(codes.to(device), self.denoiser.valid, generator)
        for t, s in pairwise(scheduler.times(steps, n_open).tolist()):
            x, level = scheduler.inputs(state, t)
            state = scheduler.step(network(x, level), t, s, state, decide, generator)
        return state.cpu()

    def _template(self, like: str | Architecture | None, change: int | None) -> Int[Tensor, " holes"]:
        if like is None:
            if change is not None:
                raise ValueError("change says how many holes of 'like' to open; give 'like' too")
            return torch.full((len(self.space.holes),), OPEN)
        architecture = like if isinstance(like, Architecture) else self.space.parse(like)
        if change is not None and change > len(self.space.holes):
            raise ValueError(f"{self.space.name} has {len(self.space.holes)} holes, cannot change {change}")
        return self.space.encode(architecture)

    def _reopen(
        self, template: Tensor, size: int, change: int | None, generator: torch.Generator | None
    ) -> Int[Tensor, "size holes"]:
        codes = template.repeat(size, 1)
        if (template == OPEN).any():
            return codes
        rank = torch.rand(codes.shape, generator=generator).argsort(-1).argsort(-1)
        return codes.masked_fill(rank < (len(template) if change is None else change), OPEN)

    def _check_wishes(
        self, condition: Mapping[str, Wish] | None, maximize: str | Iterable[str], minimize: str | Iterable[str]
    ) -> dict[str, Wish]:
        """All wishes by property, each well formed."""
        pairs = [(name, wish) for name, wish in (condition or {}).items()]
        for names, wish in ((maximize, "high"), (minimize, "low")):
            pairs += [(name, wish) for name in ([names] if isinstance(names, str) else names)]
        wishes: dict[str, Wish] = {}
        for name, wish in pairs:
            if name not in self.conditions:
                raise ValueError(
                    f"this checkpoint knows no {name!r}; it knows {', '.join(self.conditions) or 'nothing'}"
                )
            if name in wishes:
                raise ValueError(f"{name} is asked for twice")
            ends = [wish, wish] if isinstance(wish, (int, float)) else wish
            numbers = isinstance(ends, (list, tuple)) and all(isinstance(end, (int, float)) for end in ends)
            if not (
                wish in ("high", "low") if isinstance(wish, str) else numbers and len(ends) == 2 and ends[0] <= ends[1]
            ):
                raise ValueError(f"{name} can be a number, [low, high], 'high' or 'low', got {wish!r}")
            wishes[name] = wish if isinstance(wish, str) else (float(ends[0]), float(ends[1]))
        return wishes

    def _intervals(
        self,
        n: int,
        wishes: Mapping[str, Wish],
        constraint: Constraint | None = None,
        pilot: Int[Tensor, "drawn holes"] | None = None,
    ) -> Float[Tensor, "conditions 2"]:
        """What the wishes, and a hard constraint, ask of each condition."""
        intervals = torch.full((len(self.conditions), 2), torch.nan)
        for row, name in enumerate(self.conditions):  # a hard constraint steers the network too
            ends = constraint.interval(name) if constraint and name in constraint.names else (-torch.inf, torch.inf)
            if ends[0] <= ends[1] and ends != (-torch.inf, torch.inf):
                intervals[row] = torch.tensor(ends)
        for name, wish in wishes.items():
            if isinstance(wish, str):
                share = min(0.5, max(10, 1.15 * n) / self.config.rows.get(name, 10_000))
                interval = self._tail(name, wish, share if pilot is None else self._share(name, wish, share, pilot))
            else:
                interval = torch.tensor(wish, dtype=torch.float64).float()
            intervals[self.conditions.index(name)] = interval
        return intervals

    def _steer(self, wishes: Mapping[str, Wish]) -> Constraint | None:
        """Asked values and intervals of what can be counted, as a constraint on the way, not on the result."""
        parts = []
        for name, wish in wishes.items():
            if name in self.space.cost.names and not isinstance(wish, str):
                low, high = wish
                parts.append(f"{low - NEAR * abs(low)!r} <= {name} <= {high + NEAR * abs(high)!r}")
        return Constraint(" and ".join(parts), self.space) if parts else None

    def _tail(self, name: str, wish: str, share: float) -> Float[Tensor, "2"]:
        """The interval that holds this share of what was learned from, at the upper or the lower end."""
        level = self.denoiser.quantile(name, 1 - share if wish == "high" else share)
        return torch.tensor([level, torch.inf] if wish == "high" else [-torch.inf, level])

    def _pilot(
        self, constraint: Constraint, fallback: Tensor, generator: torch.Generator | None, size: int = 256
    ) -> Int[Tensor, "drawn holes"]:
        """Some members that meet a constraint, drawn without wishes."""
        free = CachedNetwork(self.denoiser, self.space, torch.full((len(self.conditions), 2), torch.nan), 1.0)
        template = torch.full((len(self.space.holes),), OPEN)
        codes = self._draw_batch(size, template, None, [constraint], free, 8, generator)
        codes = codes[constraint.holds(codes)]
        return codes if len(codes) >= size // 8 else torch.cat([codes, fallback[:size]])

    def _within(self, name: str, wish: str, share: float, belief: Belief) -> Float[Tensor, " batch"]:
        """Whether members are in the tail: counted, or as far as the network believes it."""
        interval = self._tail(name, wish, share)
        if name in self.space.cost.names:
            value = self.space.cost.exact(belief.codes)[name]
            return ((interval[0] <= value) & (value <= interval[1])).double()
        asked = torch.full((len(self.conditions), 2), torch.nan)
        asked[self.conditions.index(name)] = interval
        return belief(asked, share)

    def _share(self, name: str, wish: str, share: float, pilot: Int[Tensor, "drawn holes"]) -> float:
        """The smallest tail, in steps of two from `share`, that two in a hundred pilot draws are in."""
        if name not in self.space.cost.names and not isinstance(self.scheduler, AbsorbingScheduler):
            return share  # the other process gives no likelihood
        belief = Belief(self.denoiser, self.space, pilot)
        while share < 0.5 and self._within(name, wish, share, belief).mean() < 0.02:
            share = 2 * share
        return min(share, 0.5)

    def _promise(self, codes: Int[Tensor, "batch holes"], extremes: Mapping[str, str]) -> Float[Tensor, " batch"]:
        """How far out in the tails asked for the network believes each member to be: the sum over halved tails."""
        belief = Belief(self.denoiser, self.space, codes)
        tails = [0.5**step for step in range(1, 11)]
        return sum(self._within(name, wish, tail, belief) for name, wish in extremes.items() for tail in tails)


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is a whole number of at least 1, got {value!r}")


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() else value
