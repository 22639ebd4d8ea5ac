"""ArchitecturePipeline: everything a user loads and calls."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from jaxtyping import Float, Int
from torch import Tensor

# The components are imported by module, since from_pretrained looks them up among the loaded modules.
from archgen.benchmark import Table
from archgen.calibrate import set_aside
from archgen.checks import check_counts
from archgen.constraint import Bound, Constraint
from archgen.denoiser import GraphDenoiser
from archgen.gradient import NoisyPredictor, Pull
from archgen.graph import Architecture
from archgen.guidance import CachedNetwork, Telling, unique_rows
from archgen.hub import resolve
from archgen.images import ImageSet
from archgen.pareto import non_dominated, spread
from archgen.predictor import PropertyPredictor
from archgen.results import read_results
from archgen.sampler import Sampler
from archgen.scheduler import AbsorbingScheduler, VEScheduler
from archgen.space import OPEN, SearchSpace, load_space
from archgen.steering import Objectives, RewardFunction, Source, load_function, rewarded
from archgen.task import TaskPredictor
from archgen.understanding import Refused, Understanding, understand
from archgen.vocabulary import wished
from archgen.wishes import Wish, Wishes, merged

ACCURACY = re.compile(r"acc|top-?1|_(val|valid|test)$")  # in names of measured properties
IDLE_ROUNDS = 6  # ever larger batches without a new architecture before the search for more is given up
SHARPER = 1.5  # guidance towards extremes, where nothing else is asked for
LEAST_ROWS = 10  # of a table that something is to be learned from
TOLD = 10_000  # members from which is learned what their noisy options say
POPULATIONS = 16  # with a weighting of the objectives each, along a Pareto front


@dataclass
class ArchitectureOutput(BaseOutput):
    """What a call of the pipeline returns.

    Attributes:
        architectures: The sampled architectures.
        codes: Their encodings, `(found, holes)`.
        drawn: How many were drawn to find them.
        objectives: What they were steered towards, with all that was computed on the way.
        understanding: What the text was understood to ask for.
        predict: Computes `predicted`.
    """

    architectures: list[Architecture]
    codes: Tensor
    drawn: int
    objectives: Objectives | None = None
    understanding: Understanding | None = None
    predict: Callable[[], dict[str, Tensor]] = dict

    @cached_property
    def predicted(self) -> dict[str, Float[Tensor, "found 2"]]:
        """Mean and standard deviation of each property that the checkpoint predicts, computed when first asked for."""
        return self.predict()

    @cached_property
    def costs(self) -> dict[str, Float[Tensor, " found"]]:
        """Exact costs of the architectures, by name."""
        return self.architectures[0].space.cost.exact(self.codes) if self.architectures else {}

    def part(self, start: int, stop: int) -> ArchitectureOutput:
        """Some of the architectures, in a row."""
        rows = slice(start, stop)

        def predict() -> dict[str, Tensor]:
            return {name: values[rows] for name, values in self.predicted.items()}

        return replace(self, architectures=self.architectures[rows], codes=self.codes[rows], predict=predict)

    def records(self, predicted: bool = True) -> list[dict[str, Any]]:
        """One JSON object an architecture: `space`, `arch`, `hash`, `graph`, costs, objectives, `predicted`.

        Args:
            predicted: Whether what is predicted is wanted, which takes longest.
        """
        moments = self.predicted if predicted else {}
        numbers = self.costs | (self.objectives.in_own_units(self.codes) if self.objectives else {})
        return [
            {
                "space": architecture.space.name,
                "arch": str(architecture),
                "hash": architecture.hash,
                "graph": {key: value for key, value in architecture.to_dict().items() if key != "space"},
                **{name: _number(value[row].item()) for name, value in numbers.items()},
                "predicted": {name: _moments(values[row]) for name, values in moments.items()},
            }
            for row, architecture in enumerate(self.architectures)
        ]


class Found:
    """What was found so far.

    Args:
        enough: How many are wanted.
        distinct: Whether no two may be equal networks.
        space: Of the encodings.

    Attributes:
        drawn: How many were drawn.
        idle: How many batches in a row brought nothing new.
    """

    def __init__(self, enough: int, distinct: bool, space: SearchSpace):
        self.enough, self.distinct, self.space = enough, distinct, space
        self.drawn = self.idle = 0
        self._rows: dict[str | int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def full(self) -> bool:
        """Whether enough were found."""
        return len(self) >= self.enough

    @property
    def codes(self) -> Int[Tensor, "found holes"]:
        """Their encodings."""
        return torch.stack([*self._rows.values()]) if self._rows else torch.empty(0, len(self.space.holes)).long()

    def add(self, codes: Int[Tensor, "met holes"], drawn: int) -> int:
        """Take in what is new, in order, until enough are there.

        Args:
            codes: Complete encodings.
            drawn: How many were drawn to get them.

        Returns:
            How many were new.
        """
        before = len(self)
        keys = [a.hash for a in self.space.decode_all(codes)] if self.distinct else range(before, before + len(codes))
        for key, row in zip(keys, codes, strict=True):
            if not self.full:
                self._rows.setdefault(key, row)
        self.drawn += drawn
        self.idle = 0 if len(self) > before else self.idle + 1
        return len(self) - before


class ArchitecturePipeline(DiffusionPipeline):
    """Samples architectures of one search space under any combination of conditions and constraints.

    Args:
        denoiser: The network.
        scheduler: The diffusion process: absorbing or variance-exploding.
        predictor: Of measured properties, if there is one.
        text_denoiser: A network that was trained with texts, if there is one.
        space: Name of the search space, or its declaration.
        rows: For each condition the number of rows it was learned from; "as high as possible" is relative to them.
    """

    _optional_components = ["predictor", "text_denoiser"]  # noqa: RUF012

    def __init__(
        self,
        denoiser: GraphDenoiser,
        scheduler: AbsorbingScheduler | VEScheduler,
        predictor: PropertyPredictor | None = None,
        text_denoiser: GraphDenoiser | None = None,
        space: str | dict[str, Any] = "nasbench201",
        rows: dict[str, int] | None = None,
    ):
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler, predictor=predictor, text_denoiser=text_denoiser)
        self.register_to_config(space=space, rows=rows or {})
        self.space = load_space(space)
        self._learned: PropertyPredictor | None = None
        self._noisy: NoisyPredictor | None = None

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
        pipeline = super().from_pretrained(resolve(checkpoint), use_safetensors=True, **kwargs)
        networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
        for parameter in chain.from_iterable(network.parameters() for network in networks):
            parameter.data = parameter.data.clone()  # where a file has them they are not aligned, and round otherwise
        return pipeline

    @property
    def conditions(self) -> list[str]:
        """Names of the properties that can be asked for."""
        return list(self.denoiser.config.conditions)

    @property
    def accuracies(self) -> list[str]:
        """Which of `conditions` are accuracies; the first is meant where a text wishes for accuracy."""
        measured = [name for name in self.conditions if name not in self.space.cost.names]
        return [name for name in measured if ACCURACY.search(name)]

    @property
    def predicted(self) -> list[str]:
        """Names of the measured properties that are predicted."""
        return [name for predictor in self._predictors for name in predictor.config.names]

    @property
    def _predictors(self) -> list[PropertyPredictor]:
        return [predictor for predictor in (self._learned, self.predictor) if predictor is not None]

    def _predictor_of(self, name: str) -> tuple[PropertyPredictor, int]:
        predictor = next(one for one in self._predictors if name in one.config.names)
        return predictor, predictor.config.names.index(name)

    def _bound(self, codes: Int[Tensor, "batch holes"], bound: Bound) -> Float[Tensor, " batch"]:
        """What the predicted property keeps with that confidence, by split-conformal calibration."""
        (predictor, column), side = self._predictor_of(bound.name), "upper" if bound.upper else "lower"
        rows = int((~predictor.bounds.residuals[:, column].isnan()).sum())
        least = math.ceil(round(bound.level / (1 - bound.level), 6))
        if rows < least:
            raise ValueError(
                f"a bound of {100 * bound.level:g} % on {bound.name} needs {least} rows to calibrate with, a fifth of "
                f"those of a table, and there are {rows}"
            )
        return getattr(predictor.bounds, side)(predictor.predict(codes), bound.level)[:, column]

    def learn(self, table: Table, columns: list[str], seed: int = 0) -> PropertyPredictor:
        """Learn to predict measured properties, so that they can be asked for; the checkpoint stays as it is.

        Some rows are set aside to calibrate the confidence of bounds, see `set_aside`. For the variance-exploding
        process, what was learned is taught on to a predictor of noisy options.

        Args:
            table: Of this pipeline's space.
            columns: What to learn of it.
            seed: Seed of the choice of rows.

        Returns:
            What predicts them from now on.

        Raises:
            ValueError: If a column is missing or empty, is an exact cost, or there are less than 10 rows.
        """
        if exact := [name for name in columns if name in self.space.cost.names]:
            raise ValueError(f"{exact[0]} is counted exactly, so that it is not learned from {table.path}")
        labels = torch.stack([table.column(name) for name in columns], -1)
        if (rows := int(labels.isfinite().any(-1).sum())) < LEAST_ROWS:
            raise ValueError(f"{table.path}: at least {LEAST_ROWS} rows are needed to learn from, got {rows}")
        kept, rest = set_aside(labels, torch.Generator().manual_seed(seed))
        predictor = PropertyPredictor(self.space, seed, columns).fit(table.codes[rest], labels[rest])
        self._learned = predictor.calibrate(table.codes[kept], labels[kept])
        if isinstance(self.scheduler, VEScheduler):
            told = self.space.sample(TOLD, torch.Generator().manual_seed(seed))
            noisy = NoisyPredictor(self.space, self.scheduler, len(columns), seed)
            self._noisy = noisy.fit(told, predictor.predict(told).mean)
        return predictor

    @torch.inference_mode()
    def __call__(
        self,
        n: int = 16,
        text: str | Understanding | None = None,
        text_weight: float = 1.0,
        where: str | None = None,
        condition: Mapping[str, Wish] | None = None,
        maximize: str | Iterable[str] = (),
        minimize: str | Iterable[str] = (),
        reward: str | RewardFunction | None = None,
        strength: float | None = None,
        particles: int = 64,
        task: ImageSet | None = None,
        evaluated: str | Path | None = None,
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
            text: What is asked for, in words, or what `understand` made of them. What can be counted is met by every
                result; of what meets it, the most fitting are taken or, if what is measured is to be as high or low
                as possible too, the best in that.
            text_weight: How much the words themselves steer the generator, beside what was understood of them.
            where: Hard constraint on what can be counted, and on bounds of what is predicted, met by every result (see
                `Constraint`).
            condition: For learned properties a value, an interval `(low, high)`, `"high"` or `"low"`. Of what can be
                counted, a value is kept within 1 % as far as bounds can tell, but nothing is refused.
            maximize: Properties that are to be as high as possible. Of several objectives, `minimize` and `reward`
                among them, that are counted or predicted, the result is a Pareto set: none of it is worse than
                another in all of them. Of one that was learned as a condition, the upper tail is asked for; with a
                `strength`, or if it was learned from a table, it steers as a reward does.
            minimize: Properties that are to be as low as possible.
            reward: A function of a list of architectures, or its `module:function`, that returns one number each: the
                larger, the more often they are drawn; NaN for never.
            strength: Weight of the reward or of what stands in its place, per unit of it: results follow
                `p(x) exp(strength reward(x))`, where `p` is what would be drawn without. If absent, as much as leaves
                one in a hundred. The variance-exploding process is bent so by the gradient of one property that was
                learned from a table (DiffusionNAG's guidance) and needs a number.
            particles: Architectures that compete with each other while they are steered.
            task: A data set on which the networks are to be accurate, by a predictor learned from many small tasks;
                for `nasbench201`.
            evaluated: Results of `archgen fit` on that data set, a file or a folder, from which is learned too.
            like: An architecture to start from.
            change: How many holes of `like` are opened again.
            guidance: Weight of the conditions: 0 ignores them, 1 is what was learned, more exaggerates; 1.5 if absent
                and something is to be as high or as low as possible, else 1.
            steps: Network calls for each batch; the scheduler's own number if absent.
            distinct: Whether no two results may be equal networks (equal hashes); in a Pareto set none are.
            batch_size: How many are sampled at once; a Pareto set comes from 16 times `particles`.
            generator: Source of randomness, on the CPU.

        Returns:
            The architectures; fewer than `n` where no more distinct ones, or no more of a Pareto set, were found.

        Raises:
            ValueError: If a request is malformed or names an unknown property.
            archgen.constraint.Infeasible: If no member of the space meets `where`.
            archgen.understanding.Refused: If the text asks for nothing that the space could give.
        """
        check_counts(n=n, steps=steps, batch_size=batch_size, change=change, particles=particles)
        understanding = self._understood(text)
        if understanding is not None:
            where = " and ".join(f"({part})" for part in (understanding.where, where) if part)
            named = {*_listed(maximize), *_listed(minimize), *(condition or {})}
            if wished(understanding.request) and not named & set(self.accuracies):
                maximize = [*_listed(maximize), *self.accuracies[:1]]
        goals = merged(None, _listed(maximize), _listed(minimize))
        traded = len(goals) + (reward is not None) + (task is not None) > 1 and all(map(self._computable, goals))
        taught = self._learned.config.names if self._learned is not None else []
        steered = [name for name in goals if name in taught or (strength is not None and self._computable(name))]
        shown = {
            name: wish for name, wish in goals.items()
            if name in self.conditions and name not in steered and not traded
        }  # fmt: skip
        objectives = self._objectives(
            {name: wish for name, wish in goals.items() if name not in shown}, reward, task, evaluated
        )
        asked = merged(condition, (), ())
        if twice := set(asked) & set(goals):
            raise ValueError(f"{sorted(twice)[0]} is asked for twice")
        wishes = Wishes(self.denoiser, self.space, self.config.rows, {**asked, **shown})
        telling = self._telling(understanding, text_weight)
        sampler = self._sampler(n, wishes, where, like, change, guidance, steps, generator, telling)
        if strength is not None and not (objectives is not None and 0 <= strength < float("inf")):
            reason = "is a number of at least 0" if objectives is not None else "goes with a reward or an objective"
            raise ValueError(f"strength {reason}, got {strength!r}")
        if objectives is None:
            believed = bool(where) and wishes.measured and isinstance(self.scheduler, AbsorbingScheduler)
            most = max(n, min((8 if believed else 4) * n, 256)) if believed or understanding else n
            found = self._collect(
                n, sampler.batch, distinct, batch_size, most, sampler.few(most) if distinct else None
            )
            codes = found.codes
            if len(codes) > n:
                fit = wishes.promise(codes) if believed else understanding.score(codes)
                codes = codes[fit.argsort(descending=True, stable=True)[:n]]
            return replace(self.output(codes, found.drawn), understanding=understanding)
        if isinstance(self.scheduler, VEScheduler):
            sampler = replace(sampler, pull=self._pull(objectives, strength))
        elif len(objectives.names) > 1:
            if strength is not None:
                raise ValueError("strength weighs one objective; several give a Pareto set, without weights")
            return replace(self._front(n, sampler, objectives, particles), understanding=understanding)

        def steered(size: int, idle: int) -> Tensor:
            if sampler.pull is not None:
                return sampler.batch(size, idle)
            codes = sampler.steered(max(1, size // particles), particles, objectives, strength)
            return codes[objectives(codes)[:, 0].isfinite()]

        found = self._collect(n, steered, distinct, batch_size)
        best_first = objectives(found.codes)[:, 0].argsort(descending=True, stable=True)
        return replace(self.output(found.codes[best_first], found.drawn, objectives), understanding=understanding)

    @torch.inference_mode()
    def free(
        self, n: int, generator: torch.Generator | None = None, telling: Telling | None = None
    ) -> Int[Tensor, "n holes"]:
        """Encodings as the generator draws them without conditions, some perhaps of equal networks.

        Args:
            n: How many.
            generator: Source of randomness, on the CPU.
            telling: What words say to the network that was trained with texts.
        """
        wishes = Wishes(self.denoiser, self.space, self.config.rows, {})
        return self._sampler(n, wishes, None, None, None, None, None, generator, telling).draw(n)

    def _understood(self, text: str | Understanding | None) -> Understanding | None:
        """What a text asks of this pipeline's space."""
        if not isinstance(text, str):
            return text
        (result,) = understand([text], self.space.name)
        if isinstance(result, Refused):
            raise result
        return result

    def _telling(self, understanding: Understanding | None, weight: float) -> Telling | None:
        """What the words say to the network that was trained with texts."""
        if understanding is None or self.text_denoiser is None or not weight:
            return None
        if self.text_denoiser.config.hears != understanding.model.heard_sha256():
            raise ValueError(
                "the network that texts steer was trained with another text model than the one that read the text; "
                "train it again with archgen train_told, or let words not steer it, text_weight=0"
            )
        return Telling(self.text_denoiser, understanding.tokens, weight)

    def _objectives(
        self,
        goals: Mapping[str, str],
        reward: str | RewardFunction | None,
        task: ImageSet | None,
        evaluated: str | Path | None,
    ) -> Objectives | None:
        """What is to be computed of complete architectures, if anything."""
        sources = [(name, 1 if wish == "high" else -1, self._source(name)) for name, wish in goals.items()]
        if reward is not None:
            function = load_function(reward) if isinstance(reward, str) else reward
            sources.append(("reward", 1, rewarded(function, self.space)))
        if task is not None:
            predictor = TaskPredictor.load("tasks201")
            if predictor.search_space.name != self.space.name:
                raise ValueError(f"tasks are known to {predictor.search_space.name} alone, not to {self.space.name}")
            evidence, observed = predictor.describe(task), self._evaluations(evaluated, task)
            sources.append(("task_acc_pct", 1, lambda codes: predictor.predict(codes, evidence, observed).mean))
        elif evaluated is not None:
            raise ValueError("evaluated says what is known of a task; give 'task' too")
        return Objectives(sources) if sources else None

    def _evaluations(self, path: str | Path | None, task: ImageSet) -> tuple[Tensor, Tensor] | None:
        """Architectures evaluated by `archgen fit` on a data set, and their test accuracies in percent."""
        if path is None:
            return None
        done = [one for one in read_results([path]) if one["status"] == "done" and one.get("test_acc_pct") is not None]
        others = ", ".join(dict.fromkeys(record["task"] for record in done if record["data"] != task.digest))
        done = [record for record in done if record["data"] == task.digest]
        if not done:
            of_others = f", but of {others}" if others else ""
            raise ValueError(
                f"{path} holds no result of a network trained on {task.name}, {task.shape[1]} x {task.shape[2]} pixels"
                f"{of_others}"
            )
        codes = torch.stack([self.space.encode(self.space.parse(record["arch"])) for record in done])
        return codes, torch.tensor([float(record["test_acc_pct"]) for record in done])

    def _computable(self, name: str) -> bool:
        return name in self.space.cost.names or name in self.predicted

    def _source(self, name: str) -> Source:
        """What computes a property of complete encodings."""
        if name in self.space.cost.names:
            return lambda codes: self.space.cost.exact(codes)[name]
        if name in self.predicted:
            predictor, column = self._predictor_of(name)
            return lambda codes: predictor.predict(codes).mean[:, column]
        known = ", ".join(dict.fromkeys([*self.conditions, *self.space.cost.names, *self.predicted]))
        raise ValueError(f"this checkpoint cannot compute {name!r}, it knows {known}; a table could teach it")

    def _pull(self, objectives: Objectives, strength: float | None) -> Pull:
        """What bends the variance-exploding process towards an objective."""
        (name, sign, _), *others = objectives.sources
        known = self._learned.config.names if self._noisy is not None else []
        if others or name not in known:
            raise ValueError(
                "the variance-exploding process is guided by one property learned from a table; other rewards, or "
                "several objectives, need a checkpoint of the absorbing process"
            )
        if strength is None:
            raise ValueError(f"the variance-exploding process needs a strength, per unit of {name}")
        return Pull(self._noisy.to(self.device), known.index(name), sign * strength)

    def _sampler(
        self,
        n: int,
        wishes: Wishes,
        where: str | None,
        like: str | Architecture | None,
        change: int | None,
        guidance: float | None,
        steps: int | None,
        generator: torch.Generator | None,
        telling: Telling | None,
    ) -> Sampler:
        """What draws for this request."""
        constraint = Constraint(where, self.space, self.predicted, self._bound) if where else None
        template = self._template(like, change)
        fallback = template[None][:0] if constraint is None else constraint.witness(generator)
        held = [] if constraint is None else [constraint]
        free = CachedNetwork(self.denoiser, self.space, torch.full((len(self.conditions), 2), torch.nan), 1.0)
        sampler = Sampler(
            free, self.scheduler, self.space, template, change, constraint, held, steps, generator, fallback
        )
        pilot = None
        if constraint is not None and wishes.extremes and isinstance(self.scheduler, AbsorbingScheduler):
            pilot = self._pilot(sampler)
        if guidance is None:
            guidance = SHARPER if wishes.extremes else 1.0
        network = CachedNetwork(self.denoiser, self.space, wishes.intervals(n, constraint, pilot), guidance, telling)
        held = [each for each in (constraint, wishes.steer()) if each is not None]
        return replace(sampler, network=network, held=held)

    def _pilot(self, sampler: Sampler, size: int = 128) -> Int[Tensor, "drawn holes"]:
        """Some members that meet the constraint, drawn without wishes."""
        codes = replace(sampler, template=torch.full_like(sampler.template, OPEN), change=None, steps=8).batch(size)
        return codes if len(codes) >= size // 8 else torch.cat([codes, sampler.fallback[:size]])

    def _collect(
        self, n: int, draw: Callable[[int, int], Tensor], distinct: bool, batch_size: int, most: int | None = None,
        all_there_are: Int[Tensor, "found holes"] | None = None,
    ) -> Found:  # fmt: skip
        """Draw until enough are found, or no more are.

        Args:
            n: How many are wanted.
            draw: Draws so many, knowing how many batches in a row brought nothing new.
            distinct: Whether no two may be equal networks.
            batch_size: How many are drawn at once.
            most: How many more than wanted are taken, if the first batches bring them.
            all_there_are: What could be found, if that is known; then nothing is drawn.
        """
        found = Found(most or n, distinct, self.space)
        if all_there_are is not None:
            found.add(all_there_are, len(all_there_are))
            return found
        with self.progress_bar(total=found.enough) as progress:
            while not found.full and found.idle < (IDLE_ROUNDS if len(found) < n else 1):
                size = min(batch_size, max(found.enough - len(found), 64 << found.idle if found.drawn else 1))
                progress.update(found.add(draw(size, found.idle), size))
        return found

    def _front(self, n: int, sampler: Sampler, objectives: Objectives, particles: int) -> ArchitectureOutput:
        """The Pareto set of everything that populations with different weightings of the objectives came across."""
        weights = torch.rand(POPULATIONS, len(objectives.names), generator=sampler.generator, dtype=torch.float64)
        first = (torch.arange(POPULATIONS, dtype=torch.float64) + 0.5) / POPULATIONS
        if weights.shape[1] == 2:
            weights = torch.stack([first, 1 - first], -1)
        drawn = sampler.steered(POPULATIONS, particles, objectives, None, weights / weights.sum(-1, keepdim=True))
        if not len(drawn):
            return self.output(drawn, 0, objectives)
        codes, values = objectives.asked
        codes, values = codes[front := non_dominated(values)], values[front]
        found = Found(len(codes), True, self.space)
        found.add(codes, len(objectives.asked[0]))
        values = objectives(found.codes)
        kept = spread(values, n)
        kept = kept[values[kept, 0].argsort()]
        return self.output(found.codes[kept], found.drawn, objectives)

    def output(
        self, codes: Int[Tensor, "found holes"], drawn: int, objectives: Objectives | None = None
    ) -> ArchitectureOutput:
        """Encodings as a result, with what the predictors of now say of them."""
        predictors = [*self._predictors]

        def predict() -> dict[str, Tensor]:
            predicted = {}
            different, inverse = unique_rows(codes)
            for predictor in predictors if len(codes) else []:
                prediction = predictor.predict(different)
                moments = torch.stack([prediction.mean, prediction.std], -1)[inverse]
                predicted |= {name: moments[:, column] for column, name in enumerate(predictor.config.names)}
            return predicted

        return ArchitectureOutput(self.space.decode_all(codes), codes, drawn, objectives, predict=predict)

    def _template(self, like: str | Architecture | None, change: int | None) -> Int[Tensor, " holes"]:
        if like is None:
            if change is not None:
                raise ValueError("change says how many holes of 'like' to open; give 'like' too")
            return torch.full((len(self.space.holes),), OPEN)
        if change is None:
            raise ValueError("like says where to start from; give 'change' too, the number of holes to open again")
        architecture = like if isinstance(like, Architecture) else self.space.parse(like)
        if change > len(self.space.holes):
            raise ValueError(f"{self.space.name} has {len(self.space.holes)} holes, cannot change {change}")
        return self.space.encode(architecture)


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _moments(pair: Float[Tensor, "2"]) -> dict[str, float]:
    mean, std = (float(f"{value:.6g}") for value in pair.tolist())
    return {"mean": mean, "std": std}


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() else value
