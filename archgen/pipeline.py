"""ArchitecturePipeline: everything a user loads and calls."""

from __future__ import annotations

import json
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
from jaxtyping import Bool, Float, Int
from torch import Tensor

# The components are imported by module, since from_pretrained looks them up among the loaded modules.
from archgen.constraint import Constraint
from archgen.denoiser import GraphDenoiser, reachable_range
from archgen.graph import Architecture
from archgen.hub import resolve
from archgen.scheduler import AbsorbingScheduler, VEScheduler, draw
from archgen.space import OPEN, SearchSpace, load_space

IDLE_ROUNDS = 6  # ever larger batches without a new architecture before the search for more is given up
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
        constraint = Constraint(where, self.space) if where else None
        template = self._template(like, change)
        if constraint is not None:
            fallback = constraint.witness(generator)
        wishes = self._wishes(n, condition, maximize, minimize, constraint)
        extreme = bool(maximize or minimize) or any(isinstance(wish, str) for wish in (condition or {}).values())
        if guidance is None:
            guidance = 1.5 if extreme else 1.0
        network = CachedNetwork(self.denoiser, self.space, wishes, guidance)
        held = [each for each in (constraint, self._steer(condition or {})) if each is not None]
        found: dict[Any, tuple[Architecture, Tensor]] = {}
        drawn = idle = 0
        progress = self.progress_bar(total=n)
        while len(found) < n and idle < IDLE_ROUNDS:
            size = min(batch_size, max(n - len(found), 64 << idle if drawn else 1))
            codes = self._draw_batch(size, template, change, held, network, steps, generator)
            before = len(found)
            if constraint is not None:
                if idle and like is None:  # drawing alone does not get there: walk from what was drawn, then list
                    near = constraint.descend(codes, time.monotonic() + 1.0, keep=max(48, 2 * size))
                    codes = torch.cat([codes, near, fallback])
                codes = codes[constraint.holds(codes)]
            drawn += size
            for architecture, row in zip(self.space.decode_all(codes), codes, strict=True):
                key = architecture.hash if distinct else len(found)
                if key not in found and len(found) < n:
                    found[key] = (architecture, row)
            progress.update(len(found) - before)
            idle = 0 if len(found) > before else idle + 1
        progress.close()
        codes = torch.stack([row for _, row in found.values()]) if found else template[None][:0]
        return ArchitectureOutput([architecture for architecture, _ in found.values()], codes, drawn)

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
        for t, s in pairwise(list(scheduler.times(steps, n_open))):
            x, level = scheduler.inputs(state, float(t))
            state = scheduler.step(network(x, level), float(t), float(s), state, decide, generator)
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

    def _wishes(
        self,
        n: int,
        condition: Mapping[str, Wish] | None,
        maximize: str | Iterable[str],
        minimize: str | Iterable[str],
        constraint: Constraint | None,
    ) -> Float[Tensor, "conditions 2"]:
        wishes: dict[str, Wish] = {}
        for names, wish in ((maximize, "high"), (minimize, "low")):
            for name in [names] if isinstance(names, str) else names:
                wishes[name] = wish
        for name, wish in (condition or {}).items():
            if name in wishes:
                raise ValueError(f"{name} is asked for twice")
            wishes[name] = wish
        intervals = torch.full((len(self.conditions), 2), torch.nan)
        for row, name in enumerate(self.conditions):  # a hard constraint steers the network too
            ends = constraint.interval(name) if constraint and name in constraint.names else (-torch.inf, torch.inf)
            if ends[0] <= ends[1] and ends != (-torch.inf, torch.inf):
                intervals[row] = torch.tensor(ends)
        for name, wish in wishes.items():
            if name not in self.conditions:
                raise ValueError(
                    f"this checkpoint knows no {name!r}; it knows {', '.join(self.conditions) or 'nothing'}"
                )
            intervals[self.conditions.index(name)] = self._interval(name, wish, n)
        return intervals

    def _steer(self, condition: Mapping[str, Wish]) -> Constraint | None:
        """Asked values and intervals of what can be counted, as a constraint on the way, not on the result."""
        parts = []
        for name, wish in condition.items():
            if name in self.space.cost.names and not isinstance(wish, str):
                low, high = (wish, wish) if isinstance(wish, (int, float)) else wish
                parts.append(f"{low - NEAR * abs(low)!r} <= {name} <= {high + NEAR * abs(high)!r}")
        return Constraint(" and ".join(parts), self.space) if parts else None

    def _interval(self, name: str, wish: Wish, n: int) -> Float[Tensor, 2]:
        """What a wish means in the units of the property.

        "As high as possible" is the top of what was learned from, no larger than what `n` distinct results need.
        """
        if isinstance(wish, str):
            rows = self.config.rows.get(name, 10_000)
            share = min(0.5, max(10, 1.15 * n) / rows)
            if wish not in ("high", "low"):
                raise ValueError(f"{name} can be a number, [low, high], 'high' or 'low', got {wish!r}")
            level = self.denoiser.quantile(name, 1 - share if wish == "high" else share)
            return torch.tensor([level, torch.inf] if wish == "high" else [-torch.inf, level])
        ends = [wish, wish] if isinstance(wish, (int, float)) else list(wish)
        if len(ends) != 2 or not all(isinstance(end, (int, float)) for end in ends) or not ends[0] <= ends[1]:
            raise ValueError(f"{name} can be a number, [low, high], 'high' or 'low', got {wish!r}")
        return torch.tensor(ends, dtype=torch.float64).float()


class CachedNetwork:
    """The denoiser under fixed conditions with classifier-free guidance; equal inputs of a batch are computed once.

    Args:
        denoiser: The network.
        space: Whose costs tell what is still within reach.
        wishes: What is asked of each condition, `(conditions, 2)`, NaN where nothing is.
        guidance: Weight of the conditional prediction (Ho & Salimans, 2022): `free + guidance (conditional - free)`.
    """

    def __init__(
        self, denoiser: GraphDenoiser, space: SearchSpace, wishes: Float[Tensor, "conditions 2"], guidance: float
    ):
        self.denoiser, self.space, self.guidance = denoiser, space, guidance
        self.asked = wishes[None].to(denoiser.device)
        self.free = torch.full_like(self.asked, torch.nan)
        known = ~wishes.isnan().any(-1)
        self.conditional = bool(known.any()) and guidance != 0
        names = denoiser.config.conditions
        self.counted = any(known[index] and name in space.cost.names for index, name in enumerate(names))

    def __call__(self, x: Tensor, t: Tensor | None) -> Float[Tensor, "batch holes options"]:
        """Logits of the clean options."""
        inverse, within = None, None
        if not x.is_floating_point():
            x, inverse = _unique_rows(x, self.denoiser.config)
            if self.conditional and self.counted:
                within = reachable_range(self.space, x, self.denoiser.config.conditions)
        logits = self.denoiser(x, t, self.asked if self.conditional else self.free, within)
        if self.conditional and self.guidance != 1:
            free = self.denoiser(x, t, self.free)
            logits = torch.where(self.denoiser.valid, free + self.guidance * (logits - free), -torch.inf)
        return logits if inverse is None else logits[inverse]


class LegalDecision:
    """Draws options for chosen holes one after the other, so that a legal completion is always left.

    Args:
        space: Whose rules hold.
        held: What is to be reachable as well, as far as bounds can tell; the first matters most.
        generator: Source of randomness.
    """

    def __init__(self, space: SearchSpace, held: list[Constraint], generator: torch.Generator | None):
        self.space, self.held, self.generator = space, held, generator
        self.free = not held and space.rule is None and all(hole.when is None for hole in space.holes)

    def __call__(
        self,
        logits: Float[Tensor, "batch holes options"],
        codes: Int[Tensor, "batch holes"],
        chosen: Bool[Tensor, "batch holes"],
    ) -> Int[Tensor, "batch holes"]:
        """Codes with the chosen holes decided."""
        device = codes.device
        logits, codes, chosen = logits.cpu(), codes.cpu().clone(), chosen.cpu()
        if self.free:
            return torch.where(chosen, draw(logits, self.generator), codes).to(device)
        order = torch.where(chosen, torch.rand(chosen.shape, generator=self.generator), 2.0).argsort(-1)
        for place in range(int(chosen.sum(-1).max()) if chosen.numel() else 0):
            rows = (chosen.sum(-1) > place).nonzero().flatten()
            holes = order[rows, place]
            allowed = self.allowed(codes[rows], holes)
            wish = logits[rows, holes].masked_fill(~allowed, -torch.inf)
            codes[rows, holes] = draw(wish, self.generator)
        return codes.to(device)

    def allowed(
        self, codes: Int[Tensor, "batch holes"], holes: Int[Tensor, " batch"]
    ) -> Bool[Tensor, "batch options"]:
        """Options of one hole per row after which a legal completion exists, and one that may meet what is held.

        Where a constraint leaves nothing, it is passed over; if it is a hard one, the row is drawn again later.
        """
        batch = torch.arange(len(codes))
        legal = self.space.domains(codes)[batch, holes]
        if self.space.rule is None and not self.held:
            return legal
        row, option = legal.nonzero(as_tuple=True)
        trial = codes[row]
        trial[torch.arange(len(row)), holes[row]] = option
        if self.space.rule is not None:
            legal = legal.clone()
            legal[row, option] = self.space.feasible(trial)
        domains = self.space.domains(trial) if self.held else trial
        for constraint in self.held:
            reachable = torch.zeros_like(legal)
            reachable[row, option] = constraint.possible(domains)
            both = legal & reachable
            legal = torch.where(both.any(-1, keepdim=True), both, legal)
        return legal


def _unique_rows(codes: Int[Tensor, "batch holes"], config: Any) -> tuple[Tensor, Tensor]:
    """Distinct rows and where each row is among them."""
    base = len(config.words[0]) + 1
    if codes.shape[1] * torch.log2(torch.tensor(float(base))) < 62:
        weights = base ** torch.arange(codes.shape[1], device=codes.device)
        keys = ((codes + 1) * weights).sum(-1)
        distinct, inverse = keys.unique(return_inverse=True)
        first = torch.empty(len(distinct), dtype=torch.long, device=codes.device)
        first[inverse] = torch.arange(len(codes), device=codes.device)
        return codes[first], inverse
    return codes.unique(dim=0, return_inverse=True)


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is a whole number of at least 1, got {value!r}")


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def read_architectures(text: str, space: SearchSpace | None = None) -> list[Architecture]:
    """Architectures from a native string, from JSON, or from the path of a file of JSON lines as `sample` writes.

    Args:
        text: A native string, a JSON object, or the path of a `.json` or `.jsonl` file.
        space: The space of a native string; files say their own.

    Raises:
        ValueError: If the text is neither.
    """
    path, lines = Path(text), [text]
    if text.lstrip().startswith("{"):
        path = Path("the JSON given")
    elif path.suffix not in (".json", ".jsonl"):
        if space is None:
            raise ValueError("a native string needs the name of its space")
        return [space.parse(text)]
    else:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            found.append((space or load_space(entry["space"])).parse(json.dumps(entry)))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}, holds no architecture: {error}") from error
    return found
