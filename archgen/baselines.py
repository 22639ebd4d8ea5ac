"""What the search loop is compared with, in the same harness: every method asks a study until the budget is spent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from archgen.benchmark import BudgetExhausted
from archgen.constraint import neighbours
from archgen.goal import met
from archgen.space import SearchSpace
from archgen.study import Study, can_list, size_of

POPULATION, TOURNAMENT = 20, 10  # of regularized evolution
NSGA_POPULATION = 20
REJECTED = 10_000  # suggestions in a row that are no members before NSGA-II gives up
START, POOL, PARENTS = 10, 2000, 5  # random networks, candidates at most, and the best whose neighbours are candidates


@dataclass(frozen=True)
class Method:
    """One way to search.

    Attributes:
        run: Asks a study, until the study stops it: `(study, generator, batch_size)`.
        pareto: Whether it takes two objectives.
        batched: Whether it asks several networks at once.
    """

    run: Callable[[Study, torch.Generator, int], None]
    pareto: bool = False
    batched: bool = False


def random(study: Study, generator: torch.Generator, batch_size: int) -> None:
    """Members at random."""
    while True:
        study.ask(study.problem.sample(1, generator))


def evolution(study: Study, generator: torch.Generator, batch_size: int) -> None:
    """Regularized evolution: the oldest dies, a child of the best of a tournament takes its place.

    Source: Real et al., AAAI 2019, https://arxiv.org/abs/1802.01548; a child differs in one decision.
    """
    alive: deque[tuple[Tensor, float]] = deque(maxlen=POPULATION)
    while True:
        if len(alive) < POPULATION:
            child = study.problem.sample(1, generator)
        else:
            chosen = torch.randperm(len(alive), generator=generator)[:TOURNAMENT].tolist()
            parent = max((alive[place] for place in chosen), key=lambda one: one[1])[0]
            near = admitted_neighbours(study, parent)
            if len(near):
                child = near[torch.randint(len(near), (1,), generator=generator)]
            else:
                child = study.problem.sample(1, generator)
        alive.append((child[0], study.ask(child)[0, 0].item()))


def local(study: Study, generator: torch.Generator, batch_size: int) -> None:
    """Local search: neighbours in random order, move to the first that is better, start again where none is.

    Source: White et al., UAI 2021, https://arxiv.org/abs/2005.02960; neighbours differ in one decision.
    """
    while True:
        here = study.problem.sample(1, generator)
        level, moved = study.ask(here)[0, 0], True
        while moved:
            moved = False
            near = admitted_neighbours(study, here[0])
            for row in torch.randperm(len(near), generator=generator).tolist():
                value = study.ask(near[row : row + 1])[0, 0]
                if value > level:
                    here, level, moved = near[row : row + 1], value, True
                    break


def largest(study: Study, generator: torch.Generator, batch_size: int) -> None:
    """Walk down the parameter count; networks of equal size in random order."""
    while True:
        codes = study.problem.members
        if codes is None:  # the largest of many, and their neighbours
            codes = study.problem.sample(4 * POOL, generator)
            codes = torch.cat([codes, largest_found(study, codes)])
        codes = codes[torch.randperm(len(codes), generator=generator)]
        size = size_of(study.problem.space, codes)
        for row in size.argsort(descending=True, stable=True).tolist():
            study.ask(codes[row : row + 1])


def largest_found(study: Study, codes: Int[Tensor, "rows holes"], keep: int = 200) -> Int[Tensor, "more holes"]:
    """Members reached from the largest of some by changing one decision at a time, as long as they grow."""
    space, best = study.problem.space, codes
    top = -torch.inf
    while True:
        size = size_of(space, best)
        best = best[size.argsort(descending=True)[:keep]]
        if size.max() <= top:
            return best
        top = size.max()
        more = torch.cat([best, neighbours(space, best)]).unique(dim=0)
        best = more[study.problem.admits(more)]


def admitted_neighbours(study: Study, codes: Int[Tensor, " holes"]) -> Int[Tensor, "near holes"]:
    """Members that differ from one in a single decision."""
    near = neighbours(study.problem.space, codes[None])
    near = near[(near != codes).any(-1)]
    return near[study.problem.admits(near)]


# ---- from kept libraries --------------------------------------------------------------------------------------------
def bo(study: Study, generator: torch.Generator, batch_size: int) -> None:
    """Bayesian optimization by BoTorch: a Gaussian process on one-hot decisions and exact costs, expected improvement.

    Kernel, fit and acquisition are the library's own; the candidates are up to 2,000 members and the neighbours of the
    five best.
    """
    from botorch.acquisition import qLogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.optim import optimize_acqf_discrete
    from botorch.sampling import SobolQMCNormalSampler
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(study.seed)  # the library draws from the global generator
    study.ask(study.problem.sample(START, generator))
    while True:
        level = study.objectives[:, :1]
        known = met(level)
        level = level.clamp_min(level[known].min() if known.any() else 0.0).nan_to_num(neginf=0.0)
        model = SingleTaskGP(describe(study.problem.space, study.codes), level)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        sampler = SobolQMCNormalSampler(torch.Size([64]), seed=study.seed)
        acquisition = qLogExpectedImprovement(model, best_f=level.max(), sampler=sampler)
        pool = bo_pool(study, generator)
        choices = describe(study.problem.space, pool)
        chosen, _ = optimize_acqf_discrete(acquisition, q=min(batch_size, len(pool)), choices=choices)
        study.ask(pool[torch.cdist(chosen.double(), choices).argmin(-1)])


def bo_pool(study: Study, generator: torch.Generator) -> Int[Tensor, "pool holes"]:
    """Candidates that were not asked yet."""
    problem = study.problem
    best = study.objectives[:, 0].topk(min(PARENTS, len(study))).indices
    near = [admitted_neighbours(study, study.codes[row]) for row in best.tolist()]
    pool = problem.listed(torch.cat([problem.sample(POOL, generator), *near])).unique(dim=0)
    fresh = ~(pool[:, None] == study.codes).all(-1).any(-1)
    return pool[fresh] if fresh.any() else pool


def describe(space: SearchSpace, codes: Int[Tensor, "rows holes"]) -> Float[Tensor, "rows features"]:
    """One-hot decisions, and exact costs on a logarithmic scale."""
    hot = torch.nn.functional.one_hot(codes, space.n_options)[:, space.option_mask].double()
    cost = torch.stack(list(space.cost.exact(codes).values()), -1).double()
    bounds = torch.stack([torch.stack(ends).double() for ends in space.cost.bounds(space.option_mask[None]).values()])
    low, high = bounds[:, 0, 0].clamp_min(0).log1p(), bounds[:, 1, 0].log1p()
    return torch.cat([hot, (cost.clamp_min(0).log1p() - low) / (high - low).clamp_min(1e-9)], -1)


def nsga2(study: Study, generator: torch.Generator, batch_size: int) -> None:
    """NSGA-II by Optuna, with a population of 20; what is no member is told to it as a failure, and free.

    In a space that is too large to list, of which a table has some members, the nearest of them is asked.

    Source: Deb et al., IEEE TEC 2002; the implementation is Optuna's `NSGAIISampler`.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.NSGAIISampler(population_size=NSGA_POPULATION, seed=study.seed)
    directions = ["maximize"] * (2 if study.problem.goal.minimize else 1)
    optimizer = optuna.create_study(directions=directions, sampler=sampler)
    scattered = study.problem.members is not None and not can_list(study.problem.space)
    rejected = 0
    while rejected < REJECTED:
        trial = optimizer.ask()
        codes = suggested(trial, study.problem.space)
        if scattered:
            members = study.problem.members
            codes = members[(members != codes).sum(-1).argmin()][None]
        rejected = 0 if study.problem.admits(codes) else rejected + 1
        if rejected:
            optimizer.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        values = study.ask(codes)[0]
        if values.isfinite().all():
            optimizer.tell(trial, values.tolist())
        else:
            optimizer.tell(trial, state=optuna.trial.TrialState.FAIL)
    raise BudgetExhausted(f"{REJECTED:,} suggestions in a row were no members that the search admits")


def suggested(trial: object, space: SearchSpace) -> Int[Tensor, "1 holes"]:
    """The encoding that a trial of Optuna suggests; decisions whose condition does not hold are not asked for."""
    codes: list[int] = []
    for hole in space.holes:
        first = 0 if hole.when is None else 1
        absent = hole.when is not None and codes[hole.when[0]] not in hole.when[1]
        options = range(first, len(hole.options))
        codes.append(0 if absent else trial.suggest_categorical(hole.name, options))
    return torch.tensor([codes])


BASELINES = {
    "random": Method(random, pareto=True),
    "evolution": Method(evolution),
    "local": Method(local),
    "largest": Method(largest, pareto=True),
    "bo": Method(bo, batched=True),
    "nsga2": Method(nsga2, pareto=True),
}
