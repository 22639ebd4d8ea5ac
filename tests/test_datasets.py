"""The project's own tables: what is in them, and that their numbers say more than their noise."""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev, variance

import pytest

from archgen.benchmark import Table, find_table
from archgen.graph import Architecture
from archgen.images import load_images
from archgen.space import load_space

ROOT = Path(__file__).parents[1] / "datasets"
ACCURACY = "digits_n300r_test_acc_pct"


def rows(path):
    with (ROOT / path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def digits():
    return Table.read(find_table("digits201"), load_space("nasbench201"))


def test_digits201_has_many_different_networks(digits):
    networks = {architecture.hash for architecture in digits.space.decode_all(digits.codes)}
    assert len(networks) == len(digits) >= 1500
    accuracy = digits.column(ACCURACY)
    assert accuracy.isfinite().all() and accuracy.min() >= 0 and accuracy.max() <= 100


def test_cells_of_digits201_differ_by_more_than_the_noise(digits):
    """Standard deviation between cells, and the root mean square of that over three seeds of a cell."""
    noise = digits.column("digits_n300r_test_acc_std_pct")
    several = noise.isfinite()
    assert several.sum() >= 100 and (digits.column("digits_n300r_seeds")[several] == 3).all()
    between, within = digits.column(ACCURACY).std(), noise[several].square().mean().sqrt()
    print(f"between cells {between:.2f}, over seeds {within:.2f}, ratio {between / within:.2f}")
    assert between >= 2.5 * within
    assert between >= 4 * noise[several].median()  # most cells are steadier than the few that barely learn


def test_tasks201_splits_by_source():
    tasks, results = rows("tasks201/tasks.csv"), rows("tasks201/table.csv")
    assert len(tasks) >= 150 and len(results) >= 2000
    by_name = {task["task"]: task for task in tasks}
    assert {result["task"] for result in results} == by_name.keys()
    parts = defaultdict(set)
    for result in results:
        task = by_name[result["task"]]
        assert task["source"].startswith(result["source"]) and task["split"] == result["split"]
        parts[result["split"]].add(result["source"])
    assert parts.keys() == {"train", "test"} and not parts["train"] & parts["test"]


def test_results_of_tasks201_are_of_members_and_once_each():
    space, results = load_space("nasbench201"), rows("tasks201/table.csv")
    known: dict[str, Architecture] = {name: space.parse(name) for name in {result["arch"] for result in results}}
    keys = [(result["task"], known[result["arch"]].hash, result["seed"]) for result in results]
    assert len(set(keys)) == len(keys)
    assert all(0 <= float(result["test_acc_pct"]) <= 100 for result in results)


def test_cells_of_tasks201_differ_by_more_than_the_noise():
    """Over the tasks with three seeds: standard deviation between cells against that over seeds."""
    groups = defaultdict(lambda: defaultdict(list))
    for result in rows("tasks201/table.csv"):
        groups[result["task"]][result["arch"]].append(float(result["test_acc_pct"]))
    ratios = []
    for cells in groups.values():
        several = [values for values in cells.values() if len(values) == 3]
        if len(several) >= 10:
            within = mean(variance(values) for values in several) ** 0.5
            ratios.append(stdev(mean(values) for values in several) / within)
    print("ratios", [round(ratio, 2) for ratio in ratios])
    assert len(ratios) >= 5 and mean(ratios) > 1


def test_tasks_are_rebuilt_from_their_source():
    """One of the built-in source, without the script."""
    task = next(task for task in rows("tasks201/tasks.csv") if task["source"] == "digits")
    images = load_images("digits").of_classes([int(word) for word in task["classes"].split()])
    images = images.limited(int(task["train_size"]), int(task["test_size"]), seed=int(task["seed"]))
    images = images.resized(int(task["resolution"]))
    assert images.shape == (1, int(task["resolution"]), int(task["resolution"]))
    assert len(images.train) == int(task["train_size"]) and len(images.test) == int(task["test_size"])


@pytest.mark.parametrize(("space", "least"), [("nasbench201", 1000), ("mnasnet", 500)])
def test_cpu_latency_is_a_table_like_any_other(space, least):
    table = Table.read(find_table(f"cpu_latency/{space}"), load_space(space))
    latency = table.column("cpu_b1_t1_latency_ms")
    assert len(table) >= least and latency.isfinite().all() and (latency > 0).all()
    macs = table.space.cost.exact(table.codes)["macs_m"]
    ranks = [values.argsort().argsort().double() for values in (latency, macs)]
    covariance = ((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())).mean()
    assert covariance / (ranks[0].std() * ranks[1].std()) > 0.5  # more multiply-adds take longer
