"""The search loop: learn from what was measured, propose networks, measure the most promising batch, repeat."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from archgen.benchmark import BudgetExhausted
from archgen.goal import met
from archgen.pareto import improvement
from archgen.predictor import PropertyPredictor
from archgen.space import OPEN, SearchSpace
from archgen.study import Problem, Study, size_of

START = 5  # networks asked before anything is learned
DRAWS = 128  # functions drawn from the posterior for each batch
PROMISING = 512  # candidates that they are drawn for
FRESH, PARENTS, CHILDREN, ROUNDS = 512, 16, 32, 3  # candidates in spaces that cannot be listed
TRIES = 8  # proposals without a new network before the search ends
CHANGES = 3  # most holes that are opened again in one of the best


def explore(study: Study, generator: torch.Generator, batch_size: int) -> None:
    """The loop: learn from all that was measured, ask the batch that promises the largest improvement, repeat.

    Args:
        study: What is searched.
        generator: Source of randomness.
        batch_size: Networks asked at once.
    """
    problem, proposals = study.problem, Proposals(study, generator)
    study.ask(first_batch(problem, generator))
    while True:
        if study.measured.isfinite().any(0).all():
            surrogate = Surrogate(study)
            candidates = next((found for _ in range(TRIES) if len(found := proposals(surrogate))), None)
            if candidates is None:
                raise BudgetExhausted(f"no network was found beside the {len(study)} that were measured")
            study.ask(choose(candidates, surrogate, batch_size, generator))
        else:  # there is nothing to learn from yet
            study.ask(problem.sample(batch_size, generator))


def _extra(problem: Problem, codes: Int[Tensor, "rows holes"]) -> dict[str, Tensor]:
    """What another data set says, as the predictor takes it."""
    return {} if problem.transfer is None else {"extra": problem.transfer(codes)}


def first_batch(problem: Problem, generator: torch.Generator) -> Int[Tensor, "start holes"]:
    """What is asked before anything is known: the best of another data set, or members of all sizes.

    Sizes are spread evenly over the logarithm of the parameter count, from the smallest to the largest.
    """
    pool = problem.sample(2048, generator) if problem.members is None else problem.members
    if problem.transfer is not None:
        score = problem.transfer(pool)[:, 0].nan_to_num(nan=-torch.inf)
        return pool[score.topk(min(START, len(pool))).indices]
    size = size_of(problem.space, pool).clamp_min(1e-6).log()
    size = size + 0.03 * (size.amax() - size.amin()) * torch.rand(size.shape, generator=generator, dtype=torch.float64)
    levels = torch.linspace(size.min().item(), size.max().item(), START, dtype=torch.float64)
    return pool[(size - levels[:, None]).abs().argmin(-1).unique()]


class Surrogate:
    """What was measured says of the objectives of other networks.

    Args:
        study: What was measured.
    """

    def __init__(self, study: Study):
        self.problem = study.problem
        self.predictor = PropertyPredictor(study.problem.space, seed=study.seed)
        self.predictor.fit(study.codes, study.measured, **_extra(study.problem, study.codes))
        known = _padded(study.objectives)
        self.front = known[known.isfinite().all(-1)]
        within = self.front[met(self.front)]
        worst = within if len(within) else self.front
        self.reference = worst.amin(0) if len(worst) else torch.zeros(2, dtype=torch.float64)
        if not study.problem.goal.minimize:
            self.reference[1] = 0.0

    def optimistic(self, codes: Int[Tensor, "rows holes"]) -> Float[Tensor, " rows"]:
        """Improvement where every measured column comes out one standard deviation better than expected."""
        goal = self.problem.goal
        sign = {limit.column: -limit.sign for limit in goal.limits} | {goal.minimize: -1, goal.maximize: 1}
        shift = torch.tensor([sign[name] for name in self.problem.measured])
        measured = self.predictor.quantile(codes, shift, **_extra(self.problem, codes))
        gain = self.gain(self._objectives(codes, measured))
        return gain + 1e-9 * measured[:, 0]  # the order of those without any

    def draws(
        self, codes: Int[Tensor, "rows holes"], k: int, generator: torch.Generator
    ) -> Float[Tensor, "k rows objectives"]:
        """Objectives as they may be measured: functions drawn jointly, and the noise of a new measurement."""
        measured = self.predictor.draw(codes, k, generator, **_extra(self.problem, codes), noise=True)
        return self._objectives(codes, measured)

    def gain(self, objectives: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
        """How much objectives add to what was measured."""
        return improvement(objectives, self.front, self.reference)

    def _objectives(
        self, codes: Int[Tensor, "rows holes"], measured: Float[Tensor, "*draws rows measured"]
    ) -> Float[Tensor, "*draws rows objectives"]:
        measured = measured.double()
        return _padded(self.problem.goal.objectives(self.problem.complete(codes, measured)))


def _padded(objectives: Float[Tensor, "*batch objectives"]) -> Float[Tensor, "*batch two"]:
    """A single objective beside a constant: what it adds to the best is then an area too."""
    return torch.cat([objectives, torch.ones_like(objectives)], -1)[..., :2]


def choose(
    candidates: Int[Tensor, "rows holes"], surrogate: Surrogate, n: int, generator: torch.Generator
) -> Int[Tensor, "n holes"]:
    """A batch of the largest expected improvement: one after the other, each for what it adds to those before.

    With one objective this is the exact greedy batch of q-expected improvement over the draws. With two, what the
    chosen ones cover together is bounded by what one of them covers.
    """
    if len(candidates) > PROMISING:
        candidates = candidates[surrogate.optimistic(candidates).topk(PROMISING).indices]
    drawn = surrogate.draws(candidates, DRAWS, generator)  # (k, rows, 2)
    gain = surrogate.gain(drawn)
    shared, chosen = torch.zeros_like(gain), []
    for _ in range(min(n, len(candidates))):
        value = (gain - shared).mean(0)
        value[chosen] = -torch.inf
        chosen.append(int(value.argmax()))
        shared = shared.maximum(surrogate.gain(drawn.minimum(drawn[:, chosen[-1:]])))
    return candidates[chosen]


class Proposals:
    """Candidates for the next batch: all members of a small space, else draws, and changes of the best.

    Where the problem has a generator, it is asked for networks of the size of the best so far each time that the
    number of queries has doubled; other draws are uniform.

    Args:
        study: What is searched.
        generator: Source of randomness.
    """

    def __init__(self, study: Study, generator: torch.Generator):
        self.study, self.generator = study, generator
        self._drawn, self._at = study.codes, 0

    def __call__(self, surrogate: Surrogate) -> Int[Tensor, "candidates holes"]:
        """Members that were not asked yet, in whatever encoding."""
        problem = self.study.problem
        if problem.members is not None:
            return self._new(problem.members)
        self._draw()
        order = self.study.objectives[:, 0].argsort(descending=True)
        best = self.study.codes[order[:PARENTS]]
        found = torch.cat([self._drawn, problem.sample(FRESH, self.generator)])
        for _ in range(ROUNDS):  # climb what is expected
            near = remask(problem.space, best.repeat(CHILDREN, 1), self.generator)
            found = torch.cat([found, near[problem.admits(near)]]).unique(dim=0)
            found = self._new(found)
            if not len(found):
                return found
            value = surrogate.optimistic(found)
            best = found[value.topk(min(PARENTS, len(found))).indices]
        return found[~self.study.asked(problem.space.decode_all(found))]

    def _new(self, codes: Int[Tensor, "rows holes"]) -> Int[Tensor, "new holes"]:
        asked = set(map(tuple, self.study.codes.tolist()))
        return codes[torch.tensor([tuple(row) not in asked for row in codes.tolist()], dtype=torch.bool)]

    def _draw(self) -> None:
        """Ask the generator for networks as large as the best so far."""
        problem, now = self.study.problem, len(self.study)
        if problem.generate is not None and now >= 2 * self._at:
            self._at = now
            best = self.study.codes[self.study.objectives[:, 0].argmax()]
            drawn = problem.generate(FRESH // 2, best, self.generator)
            self._drawn = drawn[problem.admits(drawn)]


def remask(
    space: SearchSpace, codes: Int[Tensor, "rows holes"], generator: torch.Generator
) -> Int[Tensor, "rows holes"]:
    """Open one to three holes of each row again and decide them at random; a row may come out as it was.

    Holes that the new choices switch on are decided too, and those that they switch off become absent.
    """
    rank = torch.rand(codes.shape, generator=generator).argsort(-1).argsort(-1)
    opened = rank < torch.randint(1, CHANGES + 1, (len(codes), 1), generator=generator)
    for index, hole in enumerate(space.holes):
        if hole.when is not None:
            opened[:, index] |= opened[:, hole.when[0]]
    result = codes.masked_fill(opened, OPEN)
    for index in range(codes.shape[1]):
        allowed = space.domains(result)[:, index].double()
        drawn = torch.multinomial(allowed, 1, generator=generator)[:, 0]
        result[:, index] = torch.where(opened[:, index], drawn, result[:, index])
    return torch.where(space.feasible(result)[:, None], result, codes)
