"""Steering by rewards: the distribution, hard constraints on the way, Pareto sets, and functions that misbehave."""

import json
from dataclasses import replace

import pytest
import torch

from archgen import gradient
from archgen import pipeline as pipeline_module
from archgen.benchmark import Table, find_table
from archgen.constraint import Constraint, Infeasible
from archgen.gradient import NoisyPredictor, Pull
from archgen.images import load_images
from archgen.pareto import non_dominated, spread
from archgen.pipeline import ArchitecturePipeline
from archgen.scheduler import VEScheduler
from archgen.space import load_space
from archgen.steering import Objectives, rewarded

LATENCY = "cpu_b1_t1_latency_ms"


@pytest.fixture(scope="module")
def pipeline():
    loaded = ArchitecturePipeline.load("nasbench201")
    loaded.set_progress_bar_config(disable=True)
    return loaded


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def convolutions(architectures) -> list[float]:
    return [float(sum("conv" in node.op for node in one.nodes)) for one in architectures]


def test_samples_follow_the_tilted_distribution(pipeline):
    """Shares of each number of convolutions against `C(6, k) 2^k 3^(6 - k) exp(strength k)`: 5 standard errors."""
    strength, n = 1.5, 4096
    result = pipeline(n=n, reward=convolutions, strength=strength, distinct=False, batch_size=n, generator=seeded())
    share = torch.bincount(torch.tensor(convolutions(result.architectures)).long(), minlength=7) / n
    count = torch.arange(7.0)
    ways = torch.tensor([1.0, 6, 15, 20, 15, 6, 1])
    exact = ways * 2**count * 3 ** (6 - count) * (strength * count).exp()
    exact = exact / exact.sum()
    assert (share - exact).abs().max() < 5 * (0.25 / (n / 4)) ** 0.5  # some of a population have common ancestors


def test_no_strength_leaves_the_generator_as_it_is_and_more_of_it_gives_more(pipeline):
    means = [
        sum(convolutions(pipeline(n=512, reward=convolutions, strength=strength, distinct=False,
                                  generator=seeded()).architectures)) / 512
        for strength in (0.0, 1.0, 4.0)
    ]  # fmt: skip
    assert means[0] == pytest.approx(2.4, abs=0.2)  # two of five operations
    assert means[0] + 0.5 < means[1] < means[2]


def test_the_hard_constraint_and_the_start_hold_under_a_reward(pipeline):
    where = "params_m <= 0.4 and depth >= 2"
    codes = pipeline(n=40, where=where, reward=convolutions, generator=seeded()).codes
    assert Constraint(where, pipeline.space).holds(codes).all()
    start = pipeline.space.decode(pipeline.space.sample(1, seeded(3))[0])
    codes = pipeline(n=20, like=start, change=2, reward=convolutions, distinct=False, generator=seeded()).codes
    assert (codes != pipeline.space.encode(start)).sum(-1).max() <= 2


def test_the_best_come_first_and_a_seed_repeats_them(pipeline):
    first, again = (pipeline(n=20, reward=convolutions, generator=seeded(5)) for _ in range(2))
    assert torch.equal(first.codes, again.codes)
    values = convolutions(first.architectures)
    assert values == sorted(values, reverse=True)
    assert [record["reward"] for record in first.records()] == values


def test_each_architecture_is_asked_for_once_and_never_returned_without_a_value(pipeline):
    seen = []

    def partial(architectures):
        seen.extend(map(str, architectures))
        return [float("nan") if "pool" in str(one) else 1.0 for one in architectures]

    result = pipeline(n=50, reward=partial, generator=seeded())
    assert len(seen) == len(set(seen))
    assert not any("pool" in str(one) for one in result.architectures)


def test_other_spaces_are_steered_too():
    for name in ("nasbench101", "mnasnet", "mobilenetv3"):
        loaded = ArchitecturePipeline.load(name)
        loaded.set_progress_bar_config(disable=True)
        result = loaded(n=4, reward=lambda found: [len(one.nodes) for one in found], particles=8, generator=seeded())
        assert len(result.architectures) == 4
        assert loaded.space.feasible(result.codes).all()


def test_a_pareto_set_is_the_front_of_the_space(pipeline):
    """Few parameters against depth: the whole front is listed, and is found."""
    result = pipeline(n=16, maximize="depth", minimize="params_m", generator=seeded())
    cost = pipeline.space.cost.exact(pipeline.space.legal_codes)
    exact = {}
    for depth, params in zip(cost["depth"].tolist(), cost["params_m"].tolist(), strict=True):
        exact[depth] = min(params, exact.get(depth, torch.inf))
    values = torch.tensor([[depth, -params] for depth, params in exact.items()])
    front = {tuple(row) for row in values[non_dominated(values)].tolist()}
    found = {(r["depth"], -r["params_m"]) for r in result.records()}
    assert {(d, round(p, 5)) for d, p in found} == {(d, round(p, 5)) for d, p in front}


def test_non_dominated_is_what_comparing_all_pairs_says():
    values = torch.randint(0, 6, (200, 3), generator=seeded()).double()
    values[7] = -torch.inf
    better = (values[:, None] >= values).all(-1) & (values[:, None] > values).any(-1)
    assert torch.equal(non_dominated(values), ~better.any(0) & values.isfinite().all(-1))


def test_spread_keeps_the_ends():
    values = torch.stack([torch.linspace(0, 1, 50), 1 - torch.linspace(0, 1, 50)], -1)
    kept = spread(values, 5)
    assert {0, 49} <= set(kept.tolist())
    assert values[kept, 0].sort().values.diff().min() > 0.15
    assert len(spread(values, 80)) == 50


@pytest.fixture(scope="module")
def learned():
    """A pipeline that has learned the latencies that this project measured."""
    loaded = ArchitecturePipeline.load("nasbench201")
    loaded.set_progress_bar_config(disable=True)
    table = Table.read(find_table("cpu_latency/nasbench201"), loaded.space)
    loaded.learn(table, [LATENCY])
    return loaded, table


def test_a_table_makes_its_columns_something_to_ask_for(learned):
    loaded, table = learned
    fast = loaded(n=16, minimize=LATENCY, generator=seeded())
    means = [record["predicted"][LATENCY]["mean"] for record in fast.records()]
    assert means == sorted(means)
    assert sum(means) / len(means) < table.column(LATENCY).quantile(0.05)
    assert max(means) < table.column(LATENCY).quantile(0.1)
    front = loaded(n=8, maximize="depth", minimize=LATENCY, generator=seeded())
    values = torch.tensor([[r["depth"], -r[LATENCY]] for r in front.records()])
    assert non_dominated(values).all()
    assert len(set(values[:, 0].tolist())) > 2


def test_a_bound_says_how_many_rows_it_needs(learned):
    loaded, (_, table) = ArchitecturePipeline.load("nasbench201"), learned
    few = Table(table.space, table.codes[:40], {LATENCY: table.columns[LATENCY][:40]}, "few.csv")
    loaded.learn(few, [LATENCY])
    with pytest.raises(ValueError, match="needs 9 rows"):
        loaded(n=1, where=f"{LATENCY} <= 1000 @ 90%", generator=seeded())


def test_a_confidence_holds_for_what_is_sampled(learned):
    loaded, table = learned
    limit = table.column(LATENCY).median().item()
    result = loaded(n=30, where=f"{LATENCY} <= {limit} @ 90%", generator=seeded())
    assert len(result.architectures) == 30
    means = torch.tensor([record["predicted"][LATENCY]["mean"] for record in result.records()])
    assert (means < limit).all()
    with pytest.raises(Infeasible, match="nearest"):
        loaded(n=1, where=f"{LATENCY} <= 0.001 @ 90%", generator=seeded())


def test_a_data_set_is_a_condition_and_evaluations_on_it_are_evidence(pipeline, tmp_path):
    images = load_images("digits")
    free = pipeline(n=20, task=images, generator=seeded())
    values = [record["task_acc_pct"] for record in free.records()]
    assert values == sorted(values, reverse=True)
    cells = pipeline.space.decode_all(pipeline.space.sample(12, seeded()))
    levels = []
    for accuracy in (20.0, 95.0):
        key = {"task": "digits", "recipe": "r", "seed": 0, "status": "done", "test_acc_pct": accuracy}
        key |= {"data": images.digest}
        lines = [json.dumps({"hash": cell.hash, "arch": str(cell), **key}) + "\n" for cell in cells]
        (tmp_path / "results-0.jsonl").write_text("".join(lines))
        told = pipeline(n=20, task=images, evaluated=tmp_path, generator=seeded())
        levels.append(sum(record["task_acc_pct"] for record in told.records()) / 20)
    assert levels[0] < 60 < levels[1]
    with pytest.raises(ValueError, match="another, 8 x 8 pixels, but of digits"):
        pipeline(n=2, task=replace(images, name="another", test_labels=images.test_labels.flip(0)), evaluated=tmp_path)


def test_a_reward_may_need_gradients(pipeline):
    def slope(found):
        weight = torch.ones(len(found), requires_grad=True)
        (weight * torch.arange(len(found))).sum().backward()
        return weight.grad

    assert len(pipeline(n=4, reward=slope, generator=seeded()).codes) == 4


def test_what_a_small_change_cannot_reach_gives_an_empty_result(pipeline):
    start = pipeline.space.parse(str(pipeline.space.decode(torch.zeros(6, dtype=torch.long))))
    result = pipeline(n=4, like=start, change=1, where="count(nor_conv_3x3) == 6", reward=convolutions)
    assert result.records() == []


def test_a_reward_that_is_known_to_few_is_followed(pipeline):
    """Also where most populations hold nothing that has a value."""
    known = lambda found: [float("nan") if str(one).count("pool") < 3 else 7.0 for one in found]  # noqa: E731
    found = pipeline(n=64, reward=known, particles=4, distinct=False, generator=seeded()).architectures
    assert found and all(str(one).count("pool") >= 3 for one in found)


def test_a_start_needs_the_number_of_changes(pipeline):
    with pytest.raises(ValueError, match="change"):
        pipeline(n=2, like=pipeline.space.decode(torch.zeros(6, dtype=torch.long)))


@pytest.mark.parametrize("request_", [{"evaluated": "nowhere"}, {"evaluated": ".", "task": True}])
def test_evaluations_that_are_none_are_refused(pipeline, request_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError):
        pipeline(n=2, **{**request_, **({"task": load_images("digits")} if "task" in request_ else {})})


def failing(_):
    raise KeyError("oh")


@pytest.mark.parametrize(
    ("reward", "match"),
    [
        (failing, "failed with KeyError"), (lambda found: [1.0], "one number for each"),
        (lambda found: ["a"] * len(found), "failed with"), (lambda found: [float("nan")] * len(found), "NaN"),
        (lambda found: [float("inf")] * len(found), "infinite"), (lambda found: None, "failed with"),
        ("nowhere:f", "no reward"), ("json", "module:function"), ("json:nothing", "no reward"),
        ("json:__doc__", "no func"),
    ],
)  # fmt: skip
def test_functions_at_fault_are_refused_in_one_sentence(pipeline, reward, match):
    with pytest.raises(ValueError, match=match) as caught:
        pipeline(n=4, reward=reward, generator=seeded())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("request_", [{"strength": -1.0}, {"strength": float("nan")}, {"particles": 0},
                                      {"maximize": ["depth", "nothing"]}, {"minimize": "nothing"},
                                      {"maximize": "depth", "strength": 1.0}])  # fmt: skip
def test_bad_settings_are_refused(pipeline, request_):
    with pytest.raises(ValueError):
        pipeline(n=4, reward=convolutions, **request_)


def test_values_are_kept_by_encoding(pipeline):
    asked = []
    objectives = Objectives([("convolutions", 1, rewarded(lambda found: asked.extend(found) or convolutions(found),
                                                          pipeline.space))])  # fmt: skip
    codes = pipeline.space.sample(64, seeded())
    first = objectives(codes)
    assert torch.equal(objectives(codes.flip(0)), first.flip(0))
    assert len(asked) == len(codes.unique(dim=0))
    assert torch.equal(first[:, 0], torch.tensor(convolutions(pipeline.space.decode_all(codes)), dtype=torch.float64))


@pytest.fixture(scope="module")
def noisy():
    """A predictor of parameters and depth from noisy options, trained for a few seconds."""
    space = load_space("nasbench201")
    codes = space.sample(2000, seeded())
    costs = space.cost.exact(codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "STEPS", 150)
        return NoisyPredictor(space, VEScheduler(), 2).fit(codes, torch.stack([costs["params_m"], costs["depth"]], -1))


def ranks(values: torch.Tensor) -> torch.Tensor:
    return values.argsort().argsort().double()


def test_with_little_noise_a_predictor_of_noisy_options_ranks_as_one_of_clean_ones(noisy):
    space = load_space("nasbench201")
    codes = space.sample(500, seeded(1))
    exact = space.cost.exact(codes)["params_m"]
    clean = noisy.scheduler.clean(codes, noisy.trunk.valid)
    with torch.no_grad():
        for t, least in ((0.0, 0.95), (0.2, 0.9)):
            x = clean + noisy.scheduler.sigma(t) * torch.randn(clean.shape, generator=seeded(2))
            said = noisy(*noisy.scheduler.inputs({"x": x}, t))[:, 0]
            assert torch.corrcoef(torch.stack([ranks(said), ranks(exact)]))[0, 1] > least
        pure = noisy(*noisy.scheduler.inputs({"x": 5 * torch.randn(clean.shape, generator=seeded(3))}, 1.0))[:, 0]
    assert pure.std() < 0.3 * exact.std()  # of noise alone it expects the mean


@pytest.mark.parametrize(("column", "strength"), [(0, 2.0), (1, -0.5)])
def test_the_gradient_points_uphill_and_is_that_of_what_is_expected(noisy, column, strength):
    """Against differences, along the gradient and across it."""
    x = torch.randn(64, 6, 5, generator=seeded())
    pull = Pull(noisy, column, strength)({"x": x}, 0.3)

    @torch.no_grad()
    def expected(x):
        return strength * noisy(*noisy.scheduler.inputs({"x": x}, 0.3))[:, column]

    uphill = pull / pull.flatten(1).norm(dim=-1)[:, None, None]
    for way in (uphill, torch.randn(x.shape, generator=seeded(1))):
        difference = (expected(x + 0.01 * way) - expected(x - 0.01 * way)) / 0.02
        assert torch.allclose(difference, (pull * way).sum((1, 2)), rtol=0.02, atol=2e-3)
    assert (expected(x + 0.01 * uphill) > expected(x)).all()


def test_only_labels_without_gaps_make_a_gradient(noisy):
    with pytest.raises(ValueError, match="gaps"):
        noisy.fit(torch.zeros(2, 6).long(), torch.tensor([[1.0, 1.0], [1.0, torch.nan]]))


@pytest.fixture(scope="module")
def bent():
    """A pipeline of DiffusionNAG's process that has learned a latency, a little."""
    loaded = ArchitecturePipeline.load("nasbench201-ve")
    loaded.set_progress_bar_config(disable=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "STEPS", 150)
        patch.setattr(pipeline_module, "TOLD", 1000)
        loaded.learn(Table.read(find_table("cpu_latency/nasbench201"), loaded.space), [LATENCY])
    return loaded


def test_no_strength_leaves_the_other_process_as_it_is_and_more_of_it_gives_more(bent):
    def sampled(**request):
        return bent(n=128, steps=20, distinct=False, generator=seeded(), **request)

    free = sampled()
    results = [sampled(minimize=LATENCY, strength=strength) for strength in (0.0, 0.5, 5.0)]
    rows = [sorted(map(tuple, one.codes.tolist())) for one in (free, results[0])]
    assert rows[0] == rows[1]  # to the bit: the same draws, in another order
    low = [one.predicted[LATENCY][:, 0].mean() for one in results]
    assert low[0] > low[1] > low[2]


def test_a_hard_constraint_holds_under_the_gradient(bent):
    where = "params_m <= 0.4 and depth >= 2"
    result = bent(n=8, steps=10, where=where, minimize=LATENCY, strength=1.0, generator=seeded())
    assert Constraint(where, bent.space).holds(result.codes).all()
    values = [record[LATENCY] for record in result.records()]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        ({"minimize": LATENCY}, "needs a strength"), ({"minimize": LATENCY, "strength": -1.0}, "at least 0"),
        ({"reward": convolutions, "strength": 1.0}, "absorbing"),
        ({"minimize": [LATENCY, "params_m"], "strength": 1.0}, "absorbing"),
        ({"maximize": "nothing", "strength": 1.0}, "nothing"),
    ],
)  # fmt: skip
def test_what_has_no_gradient_is_refused_in_one_sentence(bent, request_, match):
    with pytest.raises(ValueError, match=match):
        bent(n=2, steps=4, **request_)
