"""Predictors: closed forms, what is invariant, what is guaranteed, and how labels of every kind are survived."""

import math

import pytest
import torch

from archgen import ensemble, predictor
from archgen.benchmark import Table, find_table
from archgen.calibrate import Conformal, Prediction, rank_value
from archgen.ensemble import loss_of, ranking_loss
from archgen.features import count_paths, features_of
from archgen.gaussian import GaussianProcess, LinearScale, NormalScale
from archgen.predictor import PropertyPredictor
from archgen.space import declare, load_space

SPACE = load_space("nasbench201")
DECLARED = {
    "name": "mine",
    "nodes": {
        "a": {"op": ["x", "y"]},
        "b": {"op": ["x", "z"], "width": [8, 16, 32], "k": {"options": [3, 5], "when": {"op": ["z"]}}},
        "c": {"rate": [0.0, 0.5], "on": [False, True]},
    },
    "identity": ["x"],
}


def ranks(values: torch.Tensor) -> torch.Tensor:
    return values.argsort(0).argsort(0).double()


def spearman(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([ranks(one), ranks(other)]))[0, 1].item()


def cost_labels(codes: torch.Tensor) -> torch.Tensor:
    """Labels that are known of every member: they grow with the depth and fall with the size."""
    exact = SPACE.cost.exact(codes)
    return (exact["depth"] - exact["params_m"])[:, None].float()


# ---- features ------------------------------------------------------------------------------------------------------
def test_isomorphic_networks_have_equal_shapes_and_paths():
    features, codes = features_of(SPACE), SPACE.legal_codes[::31]
    of_graph = torch.tensor([features.groups.index(name) for name in ("shape", "paths")])
    x = features(codes)[:, torch.isin(features.group, of_graph)]
    first: dict[str, int] = {}
    same = [first.setdefault(one.hash, row) for row, one in enumerate(SPACE.decode_all(codes))]
    assert len(first) < len(codes)
    assert torch.equal(x, x[same])


def test_paths_are_counted_as_written():
    cell = SPACE.parse("|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")
    paths, shape = count_paths(cell)
    three, one = "nor_conv_3x3", "nor_conv_1x1"
    assert paths == {(): 1, (three,): 1, (three, one, three): 1}
    assert shape == (math.log(4), math.log(2), 0.0, pytest.approx(4 / 3))
    assert count_paths(SPACE.decode([0] * 6)) == ({}, (0.0,) * 4)


@pytest.mark.parametrize("space", ["nasbench201", "nasbench101", "mnasnet", "mobilenetv3", "declared"])
def test_every_space_has_features_of_one_scale(space):
    """Two random members are at a squared distance of 1 in each group, whatever its number of columns."""
    space = declare(DECLARED) if space == "declared" else load_space(space)
    features = features_of(space)
    x = features(space.sample(600, torch.Generator().manual_seed(1)))
    assert x.shape[1] == len(features.group) and x.isfinite().all()
    for index, name in enumerate(features.groups):
        part = x[:, features.group == index]
        assert torch.pdist(part).square().mean().item() == pytest.approx(1, abs=0.25), name
    assert torch.equal(x, features(space.sample(600, torch.Generator().manual_seed(1))))


# ---- Gaussian processes --------------------------------------------------------------------------------------------
@pytest.fixture
def process() -> GaussianProcess:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    y = x[:, 0] + (2 * x[:, 1]).sin() + 0.1 * torch.randn(30, generator=generator, dtype=torch.float64)
    return GaussianProcess(torch.tensor([0, 0, 1]), [True, False]).tune(x, y).condition(x, y)


def test_predictions_are_the_closed_form(process):
    x, y = process._x, process._y
    new = torch.linspace(-2, 2, 12, dtype=torch.float64).view(4, 3)
    cross = process.kernel(new, x)
    inverse = torch.linalg.inv(process.kernel(x, x) + process.noise * torch.eye(30))
    mean, std = process.predict(new)
    assert torch.allclose(mean, cross @ inverse @ y)
    variance = process.kernel(new, new) - cross @ inverse @ cross.T
    assert torch.allclose(std.square(), variance.diagonal() + process.noise)


def test_tuning_finds_the_noise(process):
    assert 0.003 < process.noise < 0.05  # drawn with variance 0.01


def test_rows_left_out_are_predicted_as_without_them(process):
    left_out = process.left_out()
    for row in (0, 7):
        others = torch.arange(30) != row
        alone = GaussianProcess(process.group, [True, False])
        alone.log = process.log
        mean, _ = alone.condition(process._x[others], process._y[others]).predict(process._x[[row]])
        assert left_out[row].item() == pytest.approx(mean.item(), abs=1e-8)


def test_draws_have_the_mean_and_covariance_of_the_posterior(process):
    """Averaged over 20 sets of frequencies; the covariance of 4 rows, which also says that draws are joint."""
    new = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    draws = torch.cat([process.draw(new, 200, torch.Generator().manual_seed(seed)) for seed in range(20)])
    inverse = torch.linalg.inv(process.kernel(process._x, process._x) + process.noise * torch.eye(30))
    cross = process.kernel(new, process._x)
    covariance = process.kernel(new, new) - cross @ inverse @ cross.T
    scale = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - process.predict(new)[0]).abs() < 0.2 * scale).all()
    assert ((draws.T.cov() - covariance).abs() < 0.25 * scale[:, None] * scale).all()


# ---- the scale of labels -------------------------------------------------------------------------------------------
def test_scores_are_normal_and_lead_back():
    labels = torch.rand(1001, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    scale = NormalScale(labels)
    score = scale.score(labels)
    assert score.mean().abs() < 1e-9 and score.std().item() == pytest.approx(1, abs=0.01)
    assert torch.allclose(scale.label(score), labels)
    line = scale.label(torch.linspace(-6, 6, 500, dtype=torch.float64))
    assert (line.diff() > 0).all()


def test_equal_labels_share_a_score_and_one_value_is_kept():
    straight = LinearScale(torch.tensor([1.0, 2.0, 2.0, 3.0]))
    assert torch.allclose(straight.label(straight.score(torch.tensor([0.5, 9.0]))).float(), torch.tensor([0.5, 9.0]))
    assert LinearScale(torch.tensor([7.0, 7.0])).score(torch.tensor([7.0, 8.0])).tolist() == [0.0, 1.0]
    scale = NormalScale(torch.tensor([1.0, 2.0, 2.0, 3.0]))
    assert torch.allclose(scale.score(torch.tensor([1.0, 2.0, 3.0])).double()[1], torch.zeros(1, dtype=torch.float64))
    constant = NormalScale(torch.tensor([7.0, 7.0]))
    mean, std = constant.moments(torch.tensor([-3.0, 4.0]).double(), torch.ones(2).double())
    assert torch.equal(mean, torch.full((2,), 7.0, dtype=torch.float64)) and (std < 1e-9).all()


def test_moments_are_those_of_the_mapped_normal():
    """On a straight scale they are the map of the mean, and the slope times the deviation."""
    known = NormalScale(torch.special.ndtri((torch.arange(400).double() + 0.5) / 400) * 3 + 10)
    mean, std = known.moments(torch.tensor([0.0, 1.0]).double(), torch.tensor([0.5, 0.1]).double())
    assert torch.allclose(mean, torch.tensor([10.0, 13.0]).double(), atol=1e-2)
    assert torch.allclose(std, torch.tensor([1.5, 0.3]).double(), atol=1e-2)


# ---- learning ------------------------------------------------------------------------------------------------------
def test_two_hundred_cells_rank_the_others():
    """digits201, archgen's own table, at which parameters alone fail."""
    table = Table.read(find_table("digits201"), SPACE)
    order, accuracy = torch.randperm(len(table), generator=torch.Generator().manual_seed(0)), table.columns
    accuracy = accuracy["digits_n300r_test_acc_pct"]
    seen, unseen = order[:200], order[200:]
    found = PropertyPredictor(SPACE).fit(table.codes[seen], accuracy[seen, None].float()).predict(table.codes[unseen])
    params = SPACE.cost.exact(table.codes[unseen])["params_m"]
    assert spearman(found.mean[:, 0], accuracy[unseen]) > 0.84 > 0.3 > spearman(params, accuracy[unseen])
    off = ((accuracy[unseen] - found.mean[:, 0]) / found.std[:, 0]).abs()
    assert 0.8 < (off < 1.645).double().mean() < 0.97


def test_a_missing_label_leaves_the_other_properties_as_they_are():
    codes = SPACE.sample(60, torch.Generator().manual_seed(0))
    labels = cost_labels(codes)
    both = torch.cat([labels, torch.where(torch.arange(60)[:, None] < 20, labels.square(), torch.nan)], -1)
    found = PropertyPredictor(SPACE, names=["a", "b"]).fit(codes, both).predict(codes)
    alone = PropertyPredictor(SPACE).fit(codes, labels).predict(codes)
    few = PropertyPredictor(SPACE).fit(codes[:20], labels[:20].square()).predict(codes)
    assert torch.allclose(found.mean[:, :1], alone.mean, atol=1e-5)
    assert spearman(found.mean[:, 1], few.mean[:, 0]) > 0.99


def test_draws_agree_with_predictions():
    codes = SPACE.sample(150, torch.Generator().manual_seed(0))
    learned = PropertyPredictor(SPACE).fit(codes[:50], cost_labels(codes[:50]))
    found, draws = learned.predict(codes), learned.draw(codes, 200, torch.Generator().manual_seed(1))
    assert draws.shape == (200, 150, 1)
    assert ((draws.mean(0) - found.mean).abs() < found.std).double().mean() > 0.97
    assert 0.6 < (draws.std(0) / found.std)[50:].median() < 1.1
    assert torch.equal(draws, learned.draw(codes, 200, torch.Generator().manual_seed(1)))


def test_draws_with_noise_spread_as_predictions_do():
    codes = SPACE.sample(150, torch.Generator().manual_seed(0))
    noise = 0.3 * torch.randn(100, 1, generator=torch.Generator().manual_seed(1))
    learned = PropertyPredictor(SPACE).fit(codes[:100], cost_labels(codes[:100]) + noise)
    found = learned.predict(codes)
    draws = learned.draw(codes, 400, torch.Generator().manual_seed(1), noise=True)
    assert 0.85 < (draws.std(0) / found.std).median() < 1.15
    assert learned.draw(codes, 1, torch.Generator().manual_seed(1), noise=True).isfinite().all()


def test_quantiles_lie_around_the_prediction():
    codes = SPACE.sample(150, torch.Generator().manual_seed(0))
    learned = PropertyPredictor(SPACE).fit(codes[:50], cost_labels(codes[:50]))
    low, middle, high = (learned.quantile(codes, torch.tensor([z])) for z in (-1.0, 0.0, 1.0))
    assert (low <= middle).all() and (middle <= high).all()
    assert spearman(middle[:, 0], learned.predict(codes).mean[:, 0]) > 0.98


def test_the_scale_is_the_one_on_which_labels_that_are_left_out_are_ordered_better():
    codes = SPACE.sample(300, torch.Generator().manual_seed(0))
    straight = cost_labels(codes)
    wild = torch.where(torch.rand(300, 1, generator=torch.Generator().manual_seed(1)) < 0.05, -1e4, straight)
    learned = PropertyPredictor(SPACE, names=["a", "b"]).fit(codes[:100], torch.cat([straight, wild], -1)[:100])
    assert learned.config.standardized == [True, False]
    few = PropertyPredictor(SPACE).fit(codes[:40], straight[:40])
    assert few.config.standardized == [False]


def test_extra_columns_help_and_may_be_missing():
    codes = SPACE.sample(400, torch.Generator().manual_seed(0))
    labels = torch.rand(400, 1, generator=torch.Generator().manual_seed(2))  # the graph says nothing of them
    extra = torch.where(torch.arange(400)[:, None] % 10 == 0, torch.nan, 5 * labels.exp())
    learned = PropertyPredictor(SPACE).fit(codes[:50], labels[:50], extra[:50])
    found = learned.predict(codes[50:], extra[50:]).mean[:, 0]
    assert found.isfinite().all() and spearman(found, labels[50:, 0]) > 0.8
    with pytest.raises(ValueError, match="extra columns"):
        learned.predict(codes)


@pytest.mark.parametrize(
    "labels",
    [
        torch.full((12, 1), 5.0),
        torch.tensor([[0.0], [1e9]] * 6),
        torch.cat([torch.full((11, 1), torch.nan), torch.ones(1, 1)]),
        torch.arange(12.0)[:, None] * 1e-9 + 70,
    ],
    ids=["constant", "contradicting", "one row", "nearly equal"],
)
def test_labels_at_the_edge_are_learned(labels):
    codes = SPACE.sample(6, torch.Generator().manual_seed(0)).repeat_interleave(2, 0)
    learned = PropertyPredictor(SPACE).fit(codes, labels)
    found = learned.predict(SPACE.legal_codes[::100])
    assert found.mean.isfinite().all() and (found.std >= 0).all()
    assert learned.draw(codes, 3, torch.Generator().manual_seed(0)).isfinite().all()


def test_requests_at_fault_are_refused_in_a_sentence():
    codes = SPACE.sample(5, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="learned nothing"):
        PropertyPredictor(SPACE).predict(codes)
    with pytest.raises(ValueError, match="latency has no label"):
        PropertyPredictor(SPACE, names=["latency"]).fit(codes, torch.full((5, 1), torch.nan))
    with pytest.raises(ValueError, match="got 2 columns"):
        PropertyPredictor(SPACE, names=["latency"]).fit(codes, torch.ones(5, 2))
    with pytest.raises(ValueError, match="5 architectures, 4 rows"):
        PropertyPredictor(SPACE)._check(torch.ones(4, 1, dtype=torch.bool), codes, torch.empty(5, 0))


# ---- many labels ---------------------------------------------------------------------------------------------------
@pytest.fixture
def many(monkeypatch) -> None:
    """Many labels begin at 40."""
    monkeypatch.setattr(predictor, "EXACT", 40)
    monkeypatch.setattr(predictor, "MEMBERS", 2)
    monkeypatch.setattr(ensemble, "STEPS", 150)
    monkeypatch.setattr(ensemble, "BATCH", 64)


def test_graph_networks_correct_what_the_processes_leave_over(many):
    table = Table.read(find_table("digits201"), SPACE)
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
    accuracy, (seen, unseen) = table.columns["digits_n300r_test_acc_pct"][:, None].float(), order.split([1000, 500])
    learned = PropertyPredictor(SPACE).fit(table.codes[seen], accuracy[seen])
    found = learned.predict(table.codes[unseen])
    guess = torch.cat([learned._guess(x)[0] for _, x in learned._parts(table.codes[unseen], None)])
    assert spearman(found.mean[:, 0], accuracy[unseen, 0]) > spearman(guess[:, 0], accuracy[unseen, 0]) + 0.005
    draws = learned.draw(table.codes[unseen], 50, torch.Generator().manual_seed(0))
    assert draws.shape == (50, 500, 1) and spearman(draws.mean(0)[:, 0], found.mean[:, 0]) > 0.99


def test_processes_take_in_so_many_labels_of_each_property(many):
    codes = SPACE.sample(200, torch.Generator().manual_seed(0))
    labels = cost_labels(codes).repeat(1, 2)
    labels[:120, 1] = torch.nan
    learned = PropertyPredictor(SPACE).fit(codes, labels)
    assert learned.labels.isfinite().sum(0).tolist() == [40, 40]


def test_missing_labels_count_nothing():
    """Neither their values nor their gradients, and pairs without order neither."""
    mean = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    target[:, 1] = torch.nan
    total = loss_of(mean, torch.zeros(8, 2), target) + ranking_loss(mean, target)
    total.backward()
    single = loss_of(mean[:, :1], torch.zeros(8, 1), target[:, :1]) + ranking_loss(mean[:, :1], target[:, :1])
    assert total.item() == pytest.approx(single.item())
    assert mean.grad[:, 0].abs().min() > 0 and (mean.grad[:, 1] == 0).all()
    nothing = torch.full((8, 2), torch.nan)
    assert (loss_of(mean, torch.zeros(8, 2), nothing) + ranking_loss(mean, nothing)).item() == 0


# ---- saving --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("labels", [30, 90], ids=["process", "ensemble"])
def test_what_is_saved_predicts_the_same(many, monkeypatch, tmp_path, labels):
    monkeypatch.setattr(ensemble, "STEPS", 3)
    codes = SPACE.sample(200, torch.Generator().manual_seed(0))
    extra = torch.rand(200, 1, generator=torch.Generator().manual_seed(1))
    learned = PropertyPredictor(SPACE, names=["a"]).fit(codes[:labels], cost_labels(codes[:labels]), extra[:labels])
    learned.calibrate(codes[100:], cost_labels(codes[100:]), extra[100:])
    learned.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_000_000
    loaded = PropertyPredictor.from_pretrained(tmp_path)
    one, other = learned.predict(codes, extra), loaded.predict(codes, extra)
    assert torch.equal(one.mean, other.mean) and torch.equal(one.std, other.std)
    assert torch.equal(learned.bounds.upper(one, 0.9), loaded.bounds.upper(other, 0.9))
    draws = [p.draw(codes, 2, torch.Generator().manual_seed(0), extra) for p in (learned, loaded)]
    assert torch.equal(*draws)


def test_a_declared_space_travels_along(tmp_path):
    space = declare(DECLARED)
    codes = space.legal_codes
    PropertyPredictor(space).fit(codes, torch.arange(len(codes))[:, None].float()).save_pretrained(tmp_path)
    assert PropertyPredictor.from_pretrained(tmp_path).space.name == "mine"


# ---- bounds --------------------------------------------------------------------------------------------------------
def test_bounds_cover_as_often_as_they_say():
    """Exchangeable residuals of any law: ceil((n + 1) p) / (n + 1) on average, 4 standard errors of 3,000 draws."""
    residuals = torch.randn(3000, 41, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    certain = Prediction(torch.zeros(1, 3000, dtype=torch.float64), torch.ones(1, 3000, dtype=torch.float64))
    bounds, new = Conformal(residuals[:, :40].T), residuals[:, 40]
    ends = bounds.interval(certain, 0.9)[0]
    for covered in (
        new <= bounds.upper(certain, 0.9)[0],
        new >= bounds.lower(certain, 0.9)[0],
        (ends[:, 0] <= new) & (new <= ends[:, 1]),
    ):
        expected = math.ceil(41 * 0.9) / 41
        assert covered.double().mean().item() == pytest.approx(
            expected, abs=4 * (expected * (1 - expected) / 3000) ** 0.5
        )


def test_bounds_scale_with_the_unit():
    generator = torch.Generator().manual_seed(0)
    error = torch.randn(100, 1, generator=generator)
    prediction, tiny = (Prediction(torch.zeros(100, 1), torch.full((100, 1), unit)) for unit in (1.0, 1e-9))
    one, other = Conformal.fit(prediction, error), Conformal.fit(tiny, 1e-9 * error)
    assert torch.allclose(1e9 * other.upper(tiny, 0.9), one.upper(prediction, 0.9))


def test_ranks_are_those_of_finite_samples():
    values = torch.arange(1.0, 100.0)[:, None]  # 1..99
    for level in (0.8, 0.9, 0.95):
        assert rank_value(values, level).item() == round(100 * level)
    missing = torch.cat([values, torch.full((50, 1), torch.nan)])
    assert rank_value(missing, 0.9).item() == 90
    assert rank_value(values[:8], 0.9).item() == math.inf
    assert rank_value(values[:9], 0.9).item() == 9
    assert rank_value(values[:0], 0.5).item() == math.inf
    with pytest.raises(ValueError, match="between 0 and 1"):
        rank_value(values, 90.0)


def test_an_uncalibrated_predictor_promises_nothing():
    codes = SPACE.sample(20, torch.Generator().manual_seed(0))
    learned = PropertyPredictor(SPACE).fit(codes, cost_labels(codes))
    assert learned.bounds.upper(learned.predict(codes), 0.9).isinf().all()
