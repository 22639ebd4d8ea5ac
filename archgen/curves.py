"""What came of a search: curves over the queries, their confidence bands, and the best that could be found."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from archgen.goal import met
from archgen.hub import replacing
from archgen.pareto import hypervolumes, non_dominated
from archgen.study import Problem, Study


@dataclass(frozen=True)
class Optimum:
    """The best that can be found.

    Attributes:
        value: The largest objective of a member, or the area that all of them dominate together.
        reference: The worst value of each objective, from where areas count.
    """

    value: float
    reference: Float[Tensor, " objectives"]

    @classmethod
    def of(cls, problem: Problem) -> Optimum:
        """The optimum of a problem that lists its members, each measured in that encoding, as in a search.

        Raises:
            ValueError: If none of them meets the goal.
        """
        measured = problem.measure(problem.space.decode_all(problem.members))
        objectives = problem.goal.objectives(problem.complete(problem.members, measured))
        objectives = objectives[met(objectives)]
        if not len(objectives):
            raise ValueError(f"no network of {problem.name} meets {problem.goal.text!r}")
        reference = objectives.amin(0)
        if objectives.shape[1] == 1:
            return cls(objectives.max().item(), reference)
        return cls(hypervolumes(objectives[non_dominated(objectives)], reference)[-1].item(), reference)


def curve_of(study: Study, budget: int, optimum: Optimum | None, reference: Tensor) -> Float[Tensor, " budget"]:
    """What a trial had found after each query: the best objective, or the share of the dominated area in percent.

    NaN before anything that meets the limits is found.
    """
    objectives = study.objectives
    if objectives.shape[1] == 1:
        found = objectives[:, 0].masked_fill(~met(objectives), -torch.inf).cummax(0).values
        found = torch.where(found.isfinite(), found, torch.nan)
    else:
        found = hypervolumes(objectives, reference)
        found = 100 * found / optimum.value if optimum else found
    return torch.cat([found, found[-1:].expand(max(0, budget - len(found)))])[:budget]


def summarize(
    problem: Problem, studies: dict[str, list[Study]], budget: int, optimum: Optimum | None, out: Path
) -> dict[str, Any]:
    """Write `search.json` and `search.svg`: curves, their mean, and a 95 % confidence band of the mean.

    Returns:
        The same without the curves.
    """
    every = torch.cat([study.objectives for group in studies.values() for study in group])
    every = every[met(every)]
    reference = optimum.reference if optimum else every.amin(0) if len(every) else torch.zeros(every.shape[1])
    entry: dict[str, Any] = {"space": problem.space.name, "measured by": problem.name, "goal": problem.goal.text}
    entry |= {"labels of the other data set": problem.labels} if problem.labels else {}
    entry |= {"optimum": optimum.value} if optimum and not problem.goal.minimize else {}
    entry |= {"reference": reference.tolist()} if problem.goal.minimize else {}
    curves = {
        name: torch.stack([curve_of(study, budget, optimum, reference) for study in group])
        for name, group in studies.items()
    }
    goal = None if optimum is None else 99.0 if problem.goal.minimize else optimum.value
    entry["methods"] = {name: {**_figures(curves[name], goal), **_counts(studies[name])} for name in studies}
    bands = {name: band(curve) for name, curve in curves.items()}
    with replacing(out / "search.json") as temporary:
        full = {
            name: {**figures, **bands[name], "curves": _plain(curves[name])}
            for name, figures in entry["methods"].items()
        }
        temporary.write_text(json.dumps({**entry, "methods": full}) + "\n", encoding="utf-8")
    if find_spec("matplotlib"):
        from archgen.plot import draw_search_curves

        area = "hypervolume" if optimum is None else "hypervolume, % of the exact one"
        label = area if problem.goal.minimize else problem.goal.maximize
        draw_search_curves(
            bands, label, None if problem.goal.minimize else optimum and optimum.value, out / "search.svg"
        )
    return {**entry, "results": str(out)}


def band(curves: Float[Tensor, "trials budget"]) -> dict[str, list[float | None]]:
    """Mean over the trials, and the 95 % confidence band of the mean; null where a trial has found nothing yet."""
    mean = curves.mean(0)
    half = 1.96 * curves.std(0) / len(curves) ** 0.5 if len(curves) > 1 else torch.zeros_like(mean)
    return {"mean": _plain(mean), "low": _plain(mean - half), "high": _plain(mean + half)}


def _figures(curves: Float[Tensor, "trials budget"], goal: float | None) -> dict[str, Any]:
    """Mean and spread after 30, 100, ... queries; of how many trials, and when, the goal was reached."""
    budget = curves.shape[1]
    figures: dict[str, Any] = {"trials": len(curves)}
    for queries in sorted({q for q in (30, 100, 200) if q < budget} | {budget}):
        values = curves[:, queries - 1]
        spread = values.std().item() if len(values) > 1 else 0.0
        figures[f"after {queries}"] = {"mean": _plain(values.mean()), "std": _plain(torch.tensor(spread))}
    if goal is not None:
        reached = curves >= goal - 1e-9
        first = torch.where(reached.any(1), reached.int().argmax(1) + 1, torch.inf)
        median = first.double().quantile(0.5).item() if reached.any(1).double().mean() > 0.5 else math.inf
        figures |= {"share at the goal": reached.any(1).double().mean().item()}
        figures |= {"median queries to the goal": median if math.isfinite(median) else None}
    return figures


def _counts(studies: list[Study]) -> dict[str, Any]:
    """Queries and failures, and the best network, if one was found that meets the limits."""
    space, level, best = studies[0].problem.space, -torch.inf, None
    for study in studies:
        value, row = study.objectives[:, 0].max(0)
        if value > level and met(study.objectives[row]):
            level, best = value, str(space.decode(study.codes[row]))
    return {
        "queries": sum(map(len, studies)),
        "failed": sum(int((~study.values.isfinite().all(-1)).sum()) for study in studies),
        "best": best,
    }


def _plain(values: Tensor) -> Any:
    """Numbers for JSON, null for NaN."""
    if values.dim():
        return [_plain(value) for value in values]
    return round(values.item(), 6) if values.isfinite() else None
