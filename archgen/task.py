"""A data set as a condition: how accurate architectures will be on it, from its images and from evaluations there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from archgen.evidence import STATISTICS, describe
from archgen.features import features_of
from archgen.hub import component, reading
from archgen.images import ImageSet
from archgen.space import load_space

SIDE = STATISTICS.index("side")
RICH = 5  # evaluations from which a task has a level and a spread of its own
STRETCHES = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0)  # of the spread, tried when there are evaluations
RIDGE = 0.3  # penalty on how level and spread go with the images


class Accuracy(NamedTuple):
    """Predicted test accuracies of architectures on one task, in percent, without the noise of a single training.

    Attributes:
        mean: Expected accuracies.
        std: Their standard deviations.
    """

    mean: Float[Tensor, " rows"]
    std: Float[Tensor, " rows"]


class Posterior(NamedTuple):
    """What is expected of one task: accuracies in percent are linear in the features of cells and a constant.

    Attributes:
        mean: Of the weights; the last is the constant's.
        covariance: Of the weights.
        noise: Variance of a single evaluation.
    """

    mean: Float[Tensor, " weights"]
    covariance: Float[Tensor, "weights weights"]
    noise: float


class TaskPredictor(ModelMixin, ConfigMixin):
    """Gaussian-process regression over architectures and tasks, given images, evaluations, both or neither.

    The accuracy of architecture a on task t is `level(t) + spread(t) f(t, a)` and noise. f is a Gaussian process with
    covariance `k(a, a') (common + images r(t, t') + own [t = t'])`: what all tasks share, what tasks with like images
    share, and what a task has for itself. k and r are squared exponentials of the architectures' features and of the
    images' statistics, each in a basis of chosen points (Williams & Seeger, 2001), so what is learned is a Gaussian
    over weights. Images say which weights a task has; each evaluation made on the task updates them exactly. Tasks
    without images lend what they share with all others.

    The default variances and lengths were chosen by leaving out a source, or a fifth of the tasks, of the training
    part of tasks201.

    Args:
        space: What `load_space` reads.
        cells: Points of the basis over architectures.
        tasks: Points of the basis over tasks.
        common: Variance of what all tasks share, in units of the spread between architectures.
        images: Variance of what goes with the images.
        own: Variance of what a task has for itself.
        noise: Variance of a single evaluation.
        level: Variance of a task's level about what is known of it.
        side: How far apart the logarithms of the images' sides are for tasks to be alike.
        look: Share of `images` that goes with the other statistics, too.
        length: Root mean square of the standardized statistics' differences for tasks to be alike.
        reach: Distance of architectures that are alike, in units of that of random ones.
    """

    @register_to_config
    def __init__(
        self,
        space: str,
        cells: int = 96,
        tasks: int = 10,
        common: float = 0.3,
        images: float = 0.4,
        own: float = 0.3,
        noise: float = 0.35,
        level: float = 0.3,
        side: float = 0.6,
        look: float = 0.2,
        length: float = 0.5,
        reach: float = 0.7,
    ):
        super().__init__()
        self.search_space = load_space(space)
        statistics, weights = len(STATISTICS), (1 + tasks, cells)
        shapes = {
            "cell_basis": (cells, cells), "task_points": (tasks, statistics), "task_basis": (tasks, tasks),
            "centre": (statistics,), "scale": (statistics,), "mean": weights,
            "factor": (*weights, math.prod(weights)), "ends": (2, 1 + tasks), "doubt": (2,),
        }  # fmt: skip
        self.register_buffer("cell_codes", torch.zeros(cells, len(self.search_space.holes), dtype=torch.long))
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    @classmethod
    def load(cls, name: str | Path) -> TaskPredictor:
        """Read a predictor from a folder, or a shipped one by its name; nothing in it is executed.

        Raises:
            ValueError: If there is none, or it is damaged.
        """
        if (folder := component(name, "predictor")) is not None:
            with reading(folder):
                return cls.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        raise ValueError(f"no task predictor {str(name)!r}: it is a folder with a config.json, or the name 'tasks201'")

    def describe(self, images: ImageSet) -> Float[Tensor, " statistics"]:
        """What `predict` needs to know of a task's images; made once where it is asked often."""
        return describe(images)

    @torch.no_grad()
    def predict(
        self,
        codes: Int[Tensor, "rows holes"],
        images: ImageSet | Float[Tensor, " statistics"] | None = None,
        observed: tuple[Int[Tensor, "known holes"], Float[Tensor, " known"]] | None = None,
    ) -> Accuracy:
        """Test accuracies on one task.

        Args:
            codes: The architectures.
            images: The task's images, or what `describe` made of them; absent, the task could be any.
            observed: Architectures evaluated on the task, and their accuracies in percent.

        Raises:
            ValueError: If an evaluation is no percentage.
        """
        if images is None:
            images = torch.full((len(STATISTICS),), torch.nan)
        evidence = self.describe(images) if isinstance(images, ImageSet) else images
        task = self._task_features(evidence[None])[0]
        none = observed is None or not len(observed[0])
        posterior = self._expect(task) if none else self._learn(task, *observed)
        x = self._with_constant(codes)
        std = ((x @ posterior.covariance) * x).sum(-1).clamp_min(0).sqrt()
        return Accuracy((x @ posterior.mean).clamp(0, 100).float(), std.float())

    @torch.no_grad()
    def fit(
        self,
        evidence: Float[Tensor, "tasks statistics"],
        task: Int[Tensor, " rows"],
        codes: Int[Tensor, "rows holes"],
        accuracy: Float[Tensor, " rows"],
    ) -> TaskPredictor:
        """Learn from evaluations on many tasks.

        Args:
            evidence: What `describe` says of each task, NaN where it is not known.
            task: The task of each evaluation.
            codes: What was evaluated.
            accuracy: The result, in percent.

        Raises:
            ValueError: If a task has no evaluation, or none has enough for a level and a spread of its own.
        """
        complete = evidence[~evidence.isnan().any(-1)].double()
        if len(complete) > 1:
            self.centre[:], self.scale[:] = complete.mean(0), complete.std(0)
        self._place_points(evidence, codes)
        features = self._task_features(evidence)
        level, spread = self._fit_ends(features, task, accuracy.double())
        self._fit_weights(features, task, codes, (accuracy - level[task]) / spread[task])
        return self

    # ---- what it believes -------------------------------------------------------------------------------------------
    def _expect(self, task: Float[Tensor, " features"], stretch: float = 1.0) -> Posterior:
        """What images say of a task; `stretch` multiplies the spread that they suggest."""
        factor = torch.einsum("t,tcd->cd", task, self.factor.double())
        own = (self.config.own + self.config.images * novelty(task)) * torch.eye(len(factor), dtype=factor.dtype)
        level, log_spread = self.ends.double() @ task
        spread = log_spread.exp() * stretch
        return Posterior(
            torch.cat([spread * (task @ self.mean.double()), level[None]]),
            torch.block_diag(spread**2 * (factor @ factor.T + own), self.doubt[0].double().square()),
            float(self.config.noise * spread**2),
        )

    def _learn(
        self, task: Float[Tensor, " features"], codes: Int[Tensor, "known holes"], accuracy: Float[Tensor, " known"]
    ) -> Posterior:
        """What images and evaluations say, under the spread that is likeliest."""
        y = accuracy.double()
        if not ((y >= 0) & (y <= 100)).all():
            raise ValueError(f"evaluations are accuracies from 0 to 100 percent, got {y.tolist()[:5]}")
        x, doubt, found = self._with_constant(codes), float(self.doubt[1]), []
        for stretch in STRETCHES:
            posterior, evident = update(self._expect(task, stretch), x, y)
            found.append((float(evident - 0.5 * (math.log(stretch) / doubt) ** 2), posterior))
        return max(found, key=lambda pair: pair[0])[1]

    # ---- features ---------------------------------------------------------------------------------------------------
    def _scaled_cells(self, codes: Int[Tensor, "rows holes"]) -> Float[Tensor, "rows columns"]:
        """Features of architectures, in units of the kernel's length."""
        features = features_of(self.search_space)
        return features(codes) / (self.config.reach * len(features.groups) ** 0.5)

    def _with_constant(self, codes: Int[Tensor, "rows holes"]) -> Float[Tensor, "rows weights"]:
        """Architectures in their basis, and a one."""
        k = squared_exponential(self._scaled_cells(codes), self._scaled_cells(self.cell_codes))
        return F.pad(k @ self.cell_basis.double(), (0, 1), value=1.0)

    def _standardized(self, evidence: Float[Tensor, "tasks statistics"]) -> Float[Tensor, "tasks statistics"]:
        """Statistics in units of their spread over the tasks learned from; those not known are average."""
        return ((evidence.double() - self.centre) / self.scale.clamp_min(1e-6)).nan_to_num()

    def _alike(self, x: Float[Tensor, "rows statistics"], y: Float[Tensor, "points statistics"]) -> Tensor:
        """Covariance of tasks, from 0 to 1: `side (1 - look + look rest)`."""
        length, side = self.config.length * x.shape[1] ** 0.5, float(self.scale[SIDE]) / self.config.side
        look = squared_exponential(x / length, y / length)
        near = squared_exponential(x[:, SIDE, None] * side, y[:, SIDE, None] * side)
        return near * (1 - self.config.look + self.config.look * look)

    def _task_features(self, evidence: Float[Tensor, "tasks statistics"]) -> Float[Tensor, "tasks features"]:
        """One, and tasks in their basis; zeros there where nothing is known."""
        known = ~evidence.isnan().all(-1, keepdim=True)
        r = self._alike(self._standardized(evidence), self.task_points.double()) @ self.task_basis.double()
        return F.pad(torch.where(known, r, 0.0), (1, 0), value=1.0)

    # ---- learning ---------------------------------------------------------------------------------------------------
    def _place_points(self, evidence: Float[Tensor, "tasks statistics"], codes: Int[Tensor, "rows holes"]) -> None:
        """Choose the points of both bases among what there is."""
        cells = codes.unique(dim=0)
        chosen, basis = spanning_points(self._scaled_cells(cells), self.config.cells, squared_exponential)
        self.cell_codes[: len(chosen)], self.cell_basis[: len(chosen), : len(chosen)] = cells[chosen], basis
        known = self._standardized(evidence[~evidence.isnan().all(-1)]).unique(dim=0)
        chosen, basis = spanning_points(known, self.config.tasks, self._alike)
        self.task_points[: len(chosen)], self.task_basis[: len(chosen), : len(chosen)] = known[chosen], basis

    def _fit_ends(
        self, features: Float[Tensor, "tasks features"], task: Int[Tensor, " rows"], accuracy: Float[Tensor, " rows"]
    ) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
        """Learn how images tell level and spread; return those of the tasks that it learns from.

        Tasks with few evaluations that nothing tells apart share theirs.
        """
        if len(missing := (task.bincount(minlength=len(features)) == 0).nonzero()):
            raise ValueError(f"task {missing[0].item()} has no evaluation to learn from")
        place = torch.arange(len(features))
        alike = (features * 1e6).round().unique(dim=0, return_inverse=True)[1]
        rich = task.bincount(minlength=len(features)) >= RICH
        unit = torch.where(rich, place, len(features) + alike).unique(return_inverse=True)[1]
        row = unit[task]
        count = row.bincount().double()
        if not (count >= RICH).any():
            raise ValueError(f"no task has {RICH} evaluations to learn a level and a spread from")
        level = row.bincount(accuracy) / count
        variance = row.bincount((accuracy - level[row]).square()) / (count - 1).clamp_min(1)
        usual = variance[count >= RICH].median()
        variance = (variance * count + usual * RICH / 2) / (count + RICH / 2)
        ends = torch.stack([level, variance.sqrt().clamp_min(0.1).log()], -1)  # (units, 2)
        x = features[torch.full((len(count),), len(place)).scatter_reduce(0, unit, place, "amin")]
        self.ends[:] = ridge(x, ends).T
        self.doubt[:] = ends.std(0, correction=0).clamp_min(0.1)
        return level[unit], ends[unit, 1].exp()

    def _fit_weights(
        self,
        features: Float[Tensor, "tasks features"],
        task: Int[Tensor, " rows"],
        codes: Int[Tensor, "rows holes"],
        y: Float[Tensor, " rows"],
    ) -> None:
        """The exact posterior of the weights, with what each task has for itself integrated out."""
        x = self._with_constant(codes)[:, :-1]
        rows = torch.cat([torch.einsum("rt,rc->rtc", features[task], x).flatten(1), y[:, None]], -1)
        white = []
        for mine in task.argsort(stable=True).split(task.unique(return_counts=True)[1].tolist()):
            noise = self.config.own * x[mine] @ x[mine].T + self.config.level
            root = torch.linalg.cholesky(noise + self.config.noise * torch.eye(len(mine), dtype=x.dtype))
            white.append(torch.linalg.solve_triangular(root, rows[mine], upper=False))
        inputs, targets = torch.cat(white).split([rows.shape[1] - 1, 1], dim=1)
        prior = x.new_full(self.mean.shape, self.config.images)
        prior[0] = self.config.common
        inverse = torch.linalg.inv(torch.linalg.cholesky(inputs.T @ inputs + (1 / prior).flatten().diag()))
        self.factor[:] = inverse.T.reshape(self.factor.shape)
        self.mean[:] = (inverse.T @ (inverse @ (inputs.T @ targets))).reshape(self.mean.shape)


# ---- linear algebra -------------------------------------------------------------------------------------------------
def squared_exponential(x: Float[Tensor, "rows columns"], y: Float[Tensor, "points columns"]) -> Tensor:
    """Covariance `exp(-|x - y|^2 / 2)`, (rows, points)."""
    return torch.exp(-0.5 * torch.cdist(x, y).square())


def spanning_points(
    x: Float[Tensor, "rows columns"], n: int, kernel: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Int[Tensor, " points"], Float[Tensor, "points points"]]:
    """Points whose covariances tell most of all rows', by pivoted Cholesky decomposition, and the basis they make.

    Args:
        x: Where to choose from.
        n: How many, at most.
        kernel: Covariance, 1 on the diagonal.

    Returns:
        Their positions, and a matrix that turns covariances with them into features whose products are covariances.
    """
    left, columns, chosen = x.new_ones(len(x)), x.new_zeros(len(x), 0), []
    while len(chosen) < min(n, len(x)) and left.max() > 1e-3:
        chosen.append(int(left.argmax()))
        column = kernel(x, x[chosen[-1:]])[:, 0] - columns @ columns[chosen[-1]]
        columns = torch.cat([columns, (column / left[chosen[-1]].sqrt())[:, None]], -1)
        left = left - columns[:, -1].square()
    points = torch.tensor(chosen, dtype=torch.long)
    return points, torch.linalg.inv(columns[points].tril()).T


def update(
    posterior: Posterior, x: Float[Tensor, "rows weights"], y: Float[Tensor, " rows"]
) -> tuple[Posterior, Float[Tensor, ""]]:
    """The posterior after evaluations (Bayesian linear regression), and their log-likelihood but for a constant."""
    cross = x @ posterior.covariance
    root = torch.linalg.cholesky(cross @ x.T + posterior.noise * torch.eye(len(y), dtype=x.dtype))
    gain = torch.linalg.solve_triangular(root, cross, upper=False)
    gap = torch.linalg.solve_triangular(root, (y - x @ posterior.mean)[:, None], upper=False)[:, 0]
    evident = -0.5 * gap.square().sum() - root.diagonal().log().sum()
    return Posterior(posterior.mean + gain.T @ gap, posterior.covariance - gain.T @ gain, posterior.noise), evident


def novelty(task: Float[Tensor, " features"]) -> Float[Tensor, ""]:
    """How unlike a task is all that was learned from, from 0 to 1."""
    return 1 - task[1:].square().sum().clamp(0, 1)


def ridge(x: Float[Tensor, "rows features"], y: Float[Tensor, "rows values"]) -> Float[Tensor, "features values"]:
    """Coefficients of a linear regression whose first feature, the constant, is not penalized."""
    penalty = RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    penalty[0, 0] = 1e-9
    return torch.linalg.solve(x.T @ x + penalty, x.T @ y)
