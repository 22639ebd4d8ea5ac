"""Predicts measured properties of the members of any search space, with uncertainty, from few labels or many."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin  # by name: from_pretrained looks it up in this module
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from archgen.calibrate import SMALLEST, Conformal, Prediction
from archgen.ensemble import GraphEnsemble
from archgen.features import features_of
from archgen.gaussian import GaussianProcess, LinearScale, NormalScale
from archgen.space import SearchSpace, load_space

EXACT = 2_000  # labels of a property that its Gaussian process takes in; where there are more, graph networks follow
MEMBERS = 4  # graph networks
PART = 4096  # rows handled at once
FEW = 40  # labels, up to which ranks are learned
SCALES = (NormalScale, LinearScale)  # on which a property is learned, by whether it is standardized
LINEAR = ("costs", "shape", "numbers")  # groups of features that have a linear effect, beside the extra columns


class PropertyPredictor(ModelMixin, ConfigMixin):
    """Learns properties of architectures from the labels of some.

    Each property is a Gaussian process over features of the graph (see `GraphFeatures`). Labels are learned as normal
    scores of their ranks, so that outliers such as untrainable networks do not rule the fit, or standardized,
    whichever orders those labels better that are left out; what is predicted is mapped back. Of a property with more
    than `EXACT` labels the process takes in so many, and an ensemble of graph networks learns from all labels what it
    leaves over.

    Args:
        space: The search space, its name, or its declaration.
        seed: Seed of all that `fit` draws.
        names: Names of the properties, in the order of the labels' columns.
        sizes: What was learned, for loading: rows kept, properties, extra columns, parameters of a kernel, networks,
            calibration rows.
        standardized: For loading: which properties were learned so; none if absent.
    """

    def __init__(
        self,
        space: SearchSpace | str,
        seed: int = 0,
        names: list[str] | None = None,
        sizes: list[int] | None = None,
        standardized: list[bool] | None = None,
    ):
        super().__init__()
        self.space = load_space(space)
        self._resize(seed, names, sizes or [0] * 6, standardized)

    def _resize(self, seed: int, names: list[str] | None, sizes: list[int], standardized: list[bool] | None) -> None:
        """Make room for what `fit` finds or a file holds."""
        standardized = standardized or [False] * sizes[1]
        self.register_to_config(space=self.space.spec, seed=seed, names=names, sizes=sizes, standardized=standardized)
        rows, properties, extra, kernel, members, calibration = sizes
        self.register_buffer("codes", torch.zeros(rows, len(self.space.holes), dtype=torch.int16))
        self.register_buffer("labels", torch.zeros(rows, properties))
        self.register_buffer("extra", torch.zeros(rows, extra))
        self.register_buffer("kernel", torch.zeros(properties, kernel, dtype=torch.float64))
        self.register_buffer("residuals", torch.zeros(calibration, properties))
        self.register_buffer("spread", torch.ones(properties))  # by which predicted deviations were too small
        columns = len(features_of(self.space).group) + 2 * extra if members else 0  # which take a while
        self.ensemble = GraphEnsemble(self.space, columns, properties, members)
        self._processes: list[GaussianProcess] = []  # made from the buffers when needed
        self._scales: list[NormalScale | LinearScale] = []

    # ---- learning ------------------------------------------------------------------------------------------------
    def fit(
        self,
        codes: Int[Tensor, "rows holes"],
        labels: Float[Tensor, "rows properties"],
        extra: Float[Tensor, "rows columns"] | None = None,
    ) -> PropertyPredictor:
        """Learn from labels, and forget earlier ones.

        Args:
            codes: The labelled architectures.
            labels: Their measured properties; NaN where one is missing.
            extra: More that is known of each, such as zero-cost scores or accuracy on another data set; NaN where
                missing. What predicts is then told the same of every architecture.

        Raises:
            ValueError: If rows or names do not match, or a property has no label.
        """
        codes, labels, extra = codes.cpu(), labels.cpu().float(), self._extra_of(codes, extra)
        known = labels.isfinite()
        self._check(known, codes, extra)
        chosen = chosen_labels(known, torch.Generator().manual_seed(self.config.seed))
        kept = chosen.any(-1).nonzero().flatten()
        members = MEMBERS if known.sum(0).max() > EXACT else 0
        kernel = 2 * (len(features_of(self.space).groups) + (extra.shape[1] > 0)) + 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            sizes = [len(kept), labels.shape[1], extra.shape[1], kernel, members, 0]
            self._resize(self.config.seed, self.config.names, sizes, None)
        self.codes, self.extra = codes[kept].to(torch.int16), extra[kept]
        self.labels = labels[kept].masked_fill(~chosen[kept], torch.nan)
        self._condition(tune=True)
        if members:
            self._correct(codes, labels, extra, chosen)
        return self

    def _correct(self, codes: Tensor, labels: Tensor, extra: Tensor, chosen: Tensor) -> None:
        """Train the networks on what the processes leave over; those have not seen a row when they guess it."""
        x = self._inputs(codes, extra)
        base = torch.cat([self._guess(part)[0] for part in x.split(PART)])
        for i, process in enumerate(self._processes):
            base[chosen[:, i], i] = process.left_out()
        target = torch.stack([scale.score(labels[:, i]) for i, scale in enumerate(self._scales)], -1)
        self.ensemble.fit(codes, x, base, target, self.config.seed)

    def calibrate(
        self,
        codes: Int[Tensor, "rows holes"],
        labels: Float[Tensor, "rows properties"],
        extra: Float[Tensor, "rows columns"] | None = None,
    ) -> PropertyPredictor:
        """Learn how far predictions are off: gives `bounds` and the size of deviations; the next `fit` forgets it.

        Args:
            codes: Architectures that `fit` was not given.
            labels: Their measured properties; NaN where one is missing.
            extra: As in `predict`.
        """
        self.spread.fill_(1.0)
        residuals = Conformal.fit(self.predict(codes, extra), labels.cpu().float()).residuals
        self.spread.copy_(residuals.abs().nanquantile(0.683, 0).nan_to_num(1.0).clamp_min(1e-3))  # one deviation
        self.residuals = residuals / self.spread
        self.register_to_config(sizes=[*self.config.sizes[:-1], len(codes)])
        return self

    def joined(self, other: PropertyPredictor) -> PropertyPredictor:
        """One predictor of what either predicts, each property as before; of those without columns and networks."""
        rows, properties, _, _, _, calibration = map(sum, zip(self.config.sizes, other.config.sizes, strict=True))
        sizes = [rows, properties, 0, self.kernel.shape[1], 0, calibration]
        names = [*self.config.names, *other.config.names]
        standardized = [*self.config.standardized, *other.config.standardized]
        both = PropertyPredictor(self.space, self.config.seed, names, sizes, standardized)
        both.codes.copy_(torch.cat([self.codes, other.codes]))
        both.labels.copy_(_beside(self.labels, other.labels))
        both.residuals.copy_(_beside(self.residuals, other.residuals))
        both.kernel.copy_(torch.cat([self.kernel, other.kernel]))
        both.spread.copy_(torch.cat([self.spread, other.spread]))
        return both

    @property
    def bounds(self) -> Conformal:
        """Bounds of given probability for predictions; infinite before `calibrate`."""
        return Conformal(self.residuals.cpu())

    def _check(self, known: Bool[Tensor, "rows properties"], codes: Tensor, extra: Tensor) -> None:
        names = self.config.names or [f"number {i}" for i in range(known.shape[1])]
        if not len(codes) == len(known) == len(extra):
            rows = f"{len(known)} rows of labels and {len(extra)} of extra columns"
            raise ValueError(f"each architecture has a row of labels, got {len(codes)} architectures, {rows}")
        if len(names) != known.shape[1]:
            raise ValueError(f"the predictor learns {', '.join(names)}, got {known.shape[1]} columns of labels")
        if not known.any(0).all():
            raise ValueError(f"property {names[int(known.any(0).int().argmin())]} has no label to learn from")

    # ---- predicting ----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def predict(
        self, codes: Int[Tensor, "rows holes"], extra: Float[Tensor, "rows columns"] | None = None
    ) -> Prediction:
        """Mean and standard deviation of what would be measured.

        Args:
            codes: Complete encodings.
            extra: What else is known of them, if `fit` was told of others.

        Raises:
            ValueError: If nothing was learned, or `extra` has other columns than in `fit`.
        """
        found = []
        for part, x in self._parts(codes, extra):
            mean, std = self._scored(part, x)
            moments = [scale.moments(mean[:, i], std[:, i]) for i, scale in enumerate(self._scales)]
            found.append(torch.stack([torch.stack(pair, -1) for pair in moments], -2))  # (rows, properties, 2)
        mean, std = torch.cat(found).float().unbind(-1)
        return Prediction(mean, std.clamp_min(SMALLEST) * self.spread.cpu())

    @torch.no_grad()
    def quantile(
        self,
        codes: Int[Tensor, "rows holes"],
        deviations: Float[Tensor, " properties"],
        extra: Float[Tensor, "rows columns"] | None = None,
    ) -> Float[Tensor, "rows properties"]:
        """What would be measured if each property came out so many standard deviations above its median.

        Args:
            codes: Complete encodings.
            deviations: On the scale on which a property is learned, where it is normal; below the median if negative.
            extra: As in `predict`.
        """
        found = []
        for part, x in self._parts(codes, extra):
            mean, std = self._scored(part, x)
            found.append(self._labels(mean + deviations * std))
        return torch.cat(found)

    @torch.no_grad()
    def draw(
        self,
        codes: Int[Tensor, "rows holes"],
        k: int,
        generator: torch.Generator | None = None,
        extra: Float[Tensor, "rows columns"] | None = None,
        noise: bool = False,
    ) -> Float[Tensor, "k rows properties"]:
        """Draws from what the true values could be: each is one function, evaluated at all rows.

        Args:
            codes: Complete encodings.
            k: Number of draws.
            generator: Source of randomness.
            extra: As in `predict`.
            noise: Whether the noise of a new measurement is drawn too.
        """
        if len(self.ensemble.networks):
            found = [self.ensemble.predict(part, x, self._guess(x)[0]) for part, x in self._parts(codes, extra)]
            members = torch.cat([one for one, _ in found], 1)  # (members, rows, properties)
            std = torch.cat([noise for _, noise in found])
            weight = torch.randn(k, len(members), generator=generator, dtype=members.dtype)
            spread = (members - members.mean(0)) / (len(members) - 1) ** 0.5
            scores = members.mean(0) + torch.einsum("km,mrp->krp", weight, spread)
        else:
            x = torch.cat([x for _, x in self._parts(codes, extra)])
            scores = torch.stack([process.draw(x, k, generator) for process in self._processes], -1)
            std = torch.stack([process.noise.sqrt() for process in self._processes])
        if noise:
            scores = scores + std * torch.randn(scores.shape, generator=generator, dtype=scores.dtype)
        return self._labels(scores)

    # ---- inside --------------------------------------------------------------------------------------------------
    def _parts(self, codes: Tensor, extra: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Encodings and what the processes see of them, so many at a time."""
        if not len(self.codes):
            raise ValueError("the predictor has learned nothing yet: call fit")
        if not self._processes:  # the buffers were loaded
            self._condition()
        codes, extra = codes.cpu(), self._extra_of(codes, extra)
        if extra.shape != (len(codes), self.extra.shape[1]):
            wanted, got = (len(codes), self.extra.shape[1]), tuple(extra.shape)
            raise ValueError(f"extra columns are those that fit was given, of shape {wanted}, got {got}")
        for rows in tqdm(torch.arange(len(codes)).split(PART), desc="predictor", leave=False, delay=2):
            yield codes[rows], self._inputs(codes[rows], extra[rows])

    def _condition(self, tune: bool = False) -> None:
        """Make the processes from the buffers."""
        x = self._inputs(self.codes.cpu(), self.extra.cpu())
        features = features_of(self.space)
        group = torch.cat([features.group, torch.full((x.shape[1] - len(features.group),), len(features.groups))])
        linear = [name in LINEAR for name in features.groups] + [True] * (self.extra.shape[1] > 0)
        self._scales, self._processes = [], []
        for i, label in enumerate(self.labels.cpu().T):
            rows, label = x[label.isfinite()], label[label.isfinite()]
            kinds = SCALES if tune and len(label) > FEW else [SCALES[self.config.standardized[i]]]
            found = []
            for kind in kinds:
                scale, process = kind(label), GaussianProcess(group, linear)
                process.log = self.kernel[i].cpu()
                if tune:
                    process.tune(rows, scale.score(label))
                found.append((scale, process.condition(rows, scale.score(label))))
            scale, process = found[0]
            if len(found) > 1:
                scale, process = max(found, key=lambda one: rank_correlation(one[1].left_out(), label))
            self.kernel[i] = process.log
            self._scales.append(scale)
            self._processes.append(process)
        self.register_to_config(standardized=[isinstance(scale, LinearScale) for scale in self._scales])

    def _inputs(
        self, codes: Int[Tensor, "rows holes"], extra: Float[Tensor, "rows columns"]
    ) -> Float[Tensor, "rows inputs"]:
        """Features and extra columns; of those outliers are drawn in, and what is missing is marked."""
        x = features_of(self.space)(codes.long())
        if not extra.shape[1]:
            return x
        low, middle, high = (self.extra.cpu().double().nanquantile(level, 0) for level in (0.25, 0.5, 0.75))
        level = ((extra - middle) / (high - low).clamp_min(1e-9)).asinh()
        marked = torch.cat([level.nan_to_num(), level.isnan().double()], -1)
        return torch.cat([x, marked / (2 * extra.shape[1]) ** 0.5], -1)

    def _guess(self, x: Float[Tensor, "rows inputs"]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the scores by the processes alone, each (rows, properties)."""
        means, stds = zip(*(process.predict(x) for process in self._processes), strict=True)
        return torch.stack(means, -1), torch.stack(stds, -1)

    def _scored(self, codes: Int[Tensor, "rows holes"], x: Float[Tensor, "rows inputs"]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the scores, each (rows, properties), by all that was learned."""
        mean, std = self._guess(x)
        if len(self.ensemble.networks):
            members, noise = self.ensemble.predict(codes, x, mean)
            mean, std = members.mean(0), (noise.square() + members.var(0, correction=0)).sqrt()
        return mean, std

    def _labels(self, scores: Float[Tensor, "*draws rows properties"]) -> Float[Tensor, "*draws rows properties"]:
        return torch.stack([scale.label(scores[..., i]) for i, scale in enumerate(self._scales)], -1).float()

    @staticmethod
    def _extra_of(codes: Tensor, extra: Tensor | None) -> Tensor:
        return torch.zeros(len(codes), 0) if extra is None else extra.cpu().float()


def chosen_labels(
    known: Bool[Tensor, "rows properties"], generator: torch.Generator
) -> Bool[Tensor, "rows properties"]:
    """At most `EXACT` labels of each property; those of the same rows as far as may be."""
    order = torch.randperm(len(known), generator=generator)
    chosen = torch.zeros_like(known)
    chosen[order] = known[order] & (known[order].cumsum(0) <= EXACT)
    return chosen


def rank_correlation(one: Float[Tensor, " rows"], other: Float[Tensor, " rows"]) -> float:
    """Spearman's; 0 where either is constant."""
    return torch.nan_to_num(torch.corrcoef(torch.stack([_ranks(one), _ranks(other)]))[0, 1]).item()


def _ranks(values: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Ranks from 0, equal values at the middle of theirs."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts + 1) / 2)[place].double()


def _beside(one: Float[Tensor, "rows columns"], other: Float[Tensor, "more others"]) -> Float[Tensor, "all wide"]:
    """Rows and columns of two tables in one, NaN where neither has a value."""
    result = torch.full([a + b for a, b in zip(one.shape, other.shape, strict=True)], torch.nan)
    result[: len(one), : one.shape[1]], result[len(one) :, one.shape[1] :] = one, other
    return result
