"""A data set as a condition: what its images say, and what evaluations add to it."""

import numpy as np
import pytest
import torch

from archgen.evidence import STATISTICS, describe
from archgen.hub import shipped_folder
from archgen.images import ImageSet, from_arrays, load_images
from archgen.space import load_space
from archgen.task import Posterior, TaskPredictor, spanning_points, squared_exponential, update
from archgen.taskset import Evaluations, read_measured, read_metad2a, read_tasks

SPACE = load_space("nasbench201")
SMALL = {"cells": 24, "tasks": 6}


def image_set(brightness: float = 0.5, side: int = 8, n: int = 40, classes: int = 3, seed: int = 0) -> ImageSet:
    """Noise whose contrast grows from left to right by some share."""
    random = np.random.default_rng(seed)
    pixels = random.random((n, side, side, 3)) * (1 - brightness * np.linspace(0, 1, side)[None, None, :, None])
    return from_arrays("noise", (pixels, np.arange(n) % classes), (pixels, np.arange(n) % classes))


def made_up(n_tasks: int, cells: int, seed: int = 0) -> Evaluations:
    """Tasks of two looks: in one 3 x 3 convolutions help, in the other they harm."""
    generator = torch.Generator().manual_seed(seed)
    codes = SPACE.sample(n_tasks * cells, generator)
    task = torch.arange(n_tasks).repeat_interleave(cells)
    sign = torch.where(task % 2 == 0, 1.0, -1.0)
    noise = 2 * torch.randn(len(codes), generator=generator)
    evidence = torch.randn(n_tasks, len(STATISTICS), generator=generator) * 0.1
    evidence[::2, 3:] += 2
    accuracy = 60 + 5 * sign * ((codes == 3).sum(1) - 1.2) + noise
    return Evaluations(evidence, task, codes, accuracy.double().clamp(0, 100))


@pytest.fixture(scope="module")
def data():
    return made_up(24, 12)


@pytest.fixture(scope="module")
def predictor(data):
    return TaskPredictor(SPACE.name, look=1.0, **SMALL).fit(data.evidence, data.task, data.codes, data.accuracy)


@pytest.fixture(scope="module")
def fresh():
    """Cells, and what they reach on a new task of the first look."""
    codes = SPACE.sample(60, torch.Generator().manual_seed(99))
    return codes, 60 + 5 * ((codes == 3).sum(1) - 1.2).double()


def correlation(one, other):
    return torch.corrcoef(torch.stack([one.double(), other.double()]))[0, 1].item()


# ---- what images say ------------------------------------------------------------------------------------------------
def test_a_description_does_not_depend_on_the_order_of_images_and_classes():
    images = image_set()
    order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(1))
    renamed = torch.tensor([2, 0, 1])[images.train_labels[order]]
    shuffled = ImageSet("other", images.classes, images.train[order], renamed, images.test, images.test_labels)
    assert torch.allclose(describe(images), describe(shuffled), atol=1e-5)


def test_a_description_tells_data_sets_apart():
    digits = describe(load_images("digits"))
    noise = describe(image_set(brightness=0.0, n=200))
    named = dict(zip(STATISTICS, zip(digits.tolist(), noise.tolist(), strict=True), strict=True))
    assert named["classes"][0] == pytest.approx(np.log(10))
    assert named["side"] == pytest.approx((np.log(8), np.log(8)))
    assert named["colour"] == (0, 1)
    assert named["step_1"][1] == pytest.approx(1, abs=0.05)  # unrelated pixels
    assert named["step_1"][0] < 0.6
    assert named["within_classes"][0] < 0.7 < named["within_classes"][1]
    assert named["components"][0] < named["components"][1]


@pytest.mark.parametrize(("side", "n", "level"), [(1, 4, 0.5), (8, 4, 0.0), (2, 3000, 0.3)])
def test_any_images_can_be_described(side, n, level):
    """One pixel, all black, and more images than are looked at."""
    pixels = np.full((n, side, side), level)
    images = from_arrays("plain", (pixels, np.arange(n) % 2), (pixels, np.arange(n) % 2))
    assert describe(images).isfinite().all()


# ---- what is predicted ----------------------------------------------------------------------------------------------
def test_images_decide_between_tasks_of_different_looks(predictor, data, fresh):
    codes, truth = fresh
    alike, unlike = (predictor.predict(codes, data.evidence[task]).mean for task in (0, 1))
    assert correlation(alike, truth) > 0.8
    assert correlation(unlike, truth) < -0.8
    blind = predictor.predict(codes).mean
    assert abs(correlation(blind, truth)) < 0.8


def test_each_evaluation_makes_it_more_certain_and_many_make_it_right(predictor, fresh):
    codes, truth = fresh
    errors, stds = [], []
    for known in (0, 1, 5, 20, 40):
        prediction = predictor.predict(codes[40:], observed=(codes[:known], truth[:known]))
        errors.append((prediction.mean - truth[40:]).abs().mean().item())
        stds.append(prediction.std.mean().item())
    assert errors[-1] < 0.75 * errors[0]
    assert stds[0] > stds[2] > stds[4]


def test_evaluations_overrule_images_that_mislead(predictor, data, fresh):
    codes, truth = fresh
    misled = [predictor.predict(codes[40:], data.evidence[1], (codes[:n], truth[:n])).mean for n in (0, 40)]
    before, after = (correlation(mean, truth[40:]) for mean in misled)
    assert before < -0.8 and after > before + 0.5


def test_the_order_of_evaluations_does_not_matter(predictor, data, fresh):
    codes, truth = fresh
    one = predictor.predict(codes, data.evidence[0], (codes[:10], truth[:10]))
    other = predictor.predict(codes, data.evidence[0], (codes[:10].flip(0), truth[:10].flip(0)))
    assert torch.allclose(one.mean, other.mean, atol=1e-3) and torch.allclose(one.std, other.std, atol=1e-3)


def test_no_evaluations_are_like_none(predictor, fresh):
    codes, truth = fresh
    assert torch.equal(predictor.predict(codes, observed=(codes[:0], truth[:0])).mean, predictor.predict(codes).mean)


def test_isomorphic_networks_reach_the_same(predictor):
    pair = ["|none~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|",
            "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"]  # fmt: skip
    codes = torch.stack([SPACE.encode(SPACE.parse(text)) for text in pair])
    mean = predictor.predict(codes).mean
    assert SPACE.decode(codes[0]).hash == SPACE.decode(codes[1]).hash
    assert mean[0].item() == pytest.approx(mean[1].item(), abs=3)


def test_tasks_without_images_are_learned_from(data, fresh):
    codes, truth = fresh
    blind = data.of_tasks(range(0, 24, 2)).without_images()
    predictor = TaskPredictor(SPACE.name, common=0.4, **SMALL)
    predictor.fit(blind.evidence, blind.task, blind.codes, blind.accuracy)
    assert correlation(predictor.predict(codes).mean, truth) > 0.8


def test_any_space_will_do():
    space = load_space("mnasnet")
    codes = space.sample(60, torch.Generator().manual_seed(0))
    accuracy = 50 + 10 * space.cost.exact(codes)["depth"].double().sub(15).div(10)
    evidence = torch.zeros(6, len(STATISTICS))
    predictor = TaskPredictor(space.name, **SMALL).fit(evidence, torch.arange(60) % 6, codes, accuracy.clamp(0, 100))
    assert correlation(predictor.predict(codes, evidence[0]).mean, accuracy) > 0.5


# ---- the algebra ----------------------------------------------------------------------------------------------------
def test_chosen_points_span_what_they_were_chosen_from():
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points, basis = spanning_points(x, 50, squared_exponential)
    features = squared_exponential(x, x[points]) @ basis
    assert len(points) < 50
    assert torch.allclose(features @ features.T, squared_exponential(x, x), atol=2e-3)


def test_an_update_is_the_posterior_in_closed_form():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((7, 3), (7,)))
    posterior, _ = update(Posterior(torch.ones(3).double(), 2 * torch.eye(3).double(), 0.5), x, y)
    precision = torch.eye(3).double() / 2 + x.T @ x / 0.5
    assert torch.allclose(posterior.covariance, precision.inverse())
    assert torch.allclose(posterior.mean, precision.inverse() @ (torch.ones(3).double() / 2 + x.T @ y / 0.5))


# ---- files and faults -----------------------------------------------------------------------------------------------
def test_a_saved_predictor_predicts_the_same(predictor, data, fresh, tmp_path):
    codes, truth = fresh
    predictor.save_pretrained(tmp_path)
    loaded = TaskPredictor.load(tmp_path)
    for observed in (None, (codes[:5], truth[:5])):
        one, other = (p.predict(codes, data.evidence[0], observed) for p in (predictor, loaded))
        assert torch.equal(one.mean, other.mean) and torch.equal(one.std, other.std)


def test_a_damaged_or_missing_predictor_is_refused(predictor, tmp_path):
    with pytest.raises(ValueError, match="no task predictor 'nowhere'"):
        TaskPredictor.load("nowhere")
    predictor.save_pretrained(tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot read"):
        TaskPredictor.load(tmp_path)


@pytest.mark.parametrize("wrong", [101.0, -1.0, float("nan")])
def test_evaluations_are_percentages(predictor, fresh, wrong):
    codes, _ = fresh
    with pytest.raises(ValueError, match="0 to 100 percent"):
        predictor.predict(codes, observed=(codes[:1], torch.tensor([wrong])))


def test_too_few_evaluations_to_learn_from_are_refused(data):
    few = data.task.diff(prepend=torch.tensor([-1])) > 0  # one a task
    with pytest.raises(ValueError, match="no task has 5 evaluations"):
        TaskPredictor(SPACE.name, **SMALL).fit(data.evidence, data.task[few], data.codes[few], data.accuracy[few])


def test_a_task_without_evaluations_is_refused(data):
    task = data.task + (data.task > 0)  # one of them is left out
    evidence = torch.cat([data.evidence[:1], data.evidence])
    with pytest.raises(ValueError, match="task 1 has no evaluation"):
        TaskPredictor(SPACE.name, **SMALL).fit(evidence, task, data.codes, data.accuracy)


# ---- what it learns from --------------------------------------------------------------------------------------------
def test_parts_of_evaluations_fit_together(data):
    both = data.of_tasks([0, 1]).and_those(data.of_tasks([2]))
    whole = data.of_tasks([0, 1, 2])
    for name in ("evidence", "task", "codes", "accuracy"):
        assert torch.equal(getattr(both, name), getattr(whole, name))


def test_tasks_of_digits_are_rebuilt_and_described():
    tasks = [task for task in read_tasks("test") if task.source == "digits"][:2]
    measured = read_measured(tasks, SPACE)
    assert measured.evidence.isfinite().all() and measured.evidence.shape == (2, len(STATISTICS))
    assert measured.task.bincount().tolist() == [60, 60] and SPACE.feasible(measured.codes).all()


def test_tasks_of_metad2a_have_no_images(outside):
    outside("metad2a_meta_train_tasks.parquet")
    known = read_metad2a(SPACE)
    assert known.evidence.shape == (3031, len(STATISTICS)) and len(known.codes) == 4630
    assert known.evidence.isfinite().sum(1).unique().tolist() == [3]


@pytest.mark.skipif(not (shipped_folder("checkpoints") / "tasks201").is_dir(), reason="needs checkpoints/tasks201")
def test_the_shipped_predictor_knows_tasks_that_it_has_never_seen():
    """Digits was left out of what it learned from."""
    task = next(task for task in read_tasks("test") if task.source == "digits")
    measured = read_measured([task], SPACE)
    predictor = TaskPredictor.load("tasks201")
    images = task.images()
    prediction = predictor.predict(measured.codes, images)
    assert torch.equal(prediction.mean, predictor.predict(measured.codes, predictor.describe(images)).mean)
    assert ((prediction.mean >= 0) & (prediction.mean <= 100)).all() and (prediction.std > 0).all()
    assert correlation(prediction.mean, measured.accuracy) > 0.2
