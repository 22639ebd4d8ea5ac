"""Search: what is counted, what is kept, what a goal means, and that every method plays by the same rules."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archgen import search
from archgen.benchmark import BudgetExhausted, Oracle, Table, find_table
from archgen.cli import main
from archgen.constraint import Constraint
from archgen.curves import Optimum, curve_of
from archgen.explore import Surrogate, choose, first_batch, remask
from archgen.goal import Goal, Limit, met
from archgen.pareto import hypervolumes, improvement
from archgen.results import Results
from archgen.search import METHODS, run_trials
from archgen.space import load_space
from archgen.study import (
    Problem,
    Study,
    members_of,
    size_of,
    table_problem,
)

CHAIN = {
    "name": "chain",
    "nodes": {
        "a": {"op": ["conv", "pool", "skip"]},
        "b": {"op": ["conv", "pool", "skip"]},
        "c": {"op": ["conv", "pool", "skip"], "kernel": {"options": [3, 5], "when": {"op": ["conv"]}}},
    },
    "identity": ["skip"],
}


@pytest.fixture(scope="module")
def chain():
    return load_space(CHAIN)


@pytest.fixture(scope="module")
def table(chain):
    """Every member: convolutions help, pools help less, and networks of equal hash differ by a little noise."""
    codes = chain.legal_codes
    noise = torch.rand(len(codes), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    worth = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    accuracy = 80 + worth[codes[:, :3]].sum(-1) + (codes[:, 3] == 2) + 0.1 * noise
    latency = 1 + worth[codes[:, :3]].sum(-1) + 0.1 * noise
    return Table(chain, codes, {"acc_pct": accuracy, "other_pct": accuracy + 0.05, "latency_ms": latency}, "chain.csv")


def problem_of(table, where="", minimize=None, transfer=None):
    return table_problem(table, Goal.parse(table.space, list(table.columns), "acc_pct", minimize, where), transfer)


def run(problem, method, budget, seed=0, journal=None):
    (study,) = run_trials(problem, method, budget, 1, 2, seed, journal)
    return study


# ---- counting -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_every_method_spends_the_budget_on_distinct_networks(table, method):
    study = run(problem_of(table), method, 12)
    hashes = [table.space.decode(codes).hash for codes in study.codes]
    assert len(study) == len(set(hashes)) == 12
    oracle = Oracle(table, "acc_pct")
    assert torch.equal(oracle(study.codes), study.values[:, 0])
    assert oracle.queries == 12


@pytest.mark.parametrize("method", ["archgen", "random", "local", "largest"])
def test_a_method_ends_where_a_space_does(table, method):
    """36 encodings, fewer networks: whatever the budget, all are found once."""
    study = run(problem_of(table), method, 1000)
    assert len(study) == len(members_of(table.space, None)) < len(table)


def test_isomorphic_networks_are_free_and_get_the_same_value(table):
    study = Study(problem_of(table), 100, "by hand", 0)
    space = table.space
    first, second = (
        space.encode(space.parse(f"op={a} | op={b} | op=pool")) for a, b in (("conv", "skip"), ("skip", "conv"))
    )
    assert not torch.equal(first, second)
    one, other = study.ask(torch.stack([first, second]))
    assert torch.equal(one, other)
    assert len(study) == 1


def test_a_network_has_one_value_in_whatever_encoding_a_search_comes_upon_it(table):
    """Encodings of one network were measured apart; what counts, for the optimum too, is the one that is listed."""
    problem = problem_of(table)
    listed = problem.listed(table.codes)
    assert len(listed.unique(dim=0)) == len(problem.members) < len(table)
    hashes = [[one.hash for one in table.space.decode_all(codes)] for codes in (table.codes, listed)]
    assert hashes[0] == hashes[1]
    others = 20.0 * (listed != table.codes).any(-1)
    problem = problem_of(Table(table.space, table.codes, {"acc_pct": table.column("acc_pct") + others}, "twins.csv"))
    study = Study(problem, 1000, "by hand", 0)
    with pytest.raises(BudgetExhausted):
        study.ask(table.codes[others.argsort(descending=True)])
    assert study.objectives.max().item() == Optimum.of(problem).value < 91


def test_what_fits_into_the_budget_is_kept(table):
    study = Study(problem_of(table), 3, "by hand", 0)
    with pytest.raises(BudgetExhausted):
        study.ask(members_of(table.space, None)[:10])
    assert len(study) == 3


def test_seeds_decide_everything(table):
    problem = problem_of(table)
    runs = [run(problem, "archgen", 10, seed) for seed in (1, 1, 2)]
    assert torch.equal(runs[0].codes, runs[1].codes)
    assert not torch.equal(runs[0].codes, runs[2].codes)


def test_results_of_another_table_of_the_same_name_are_not_taken_for_its_own(table, tmp_path):
    journal, other = Results(tmp_path), {"acc_pct": -table.column("acc_pct")}
    run(problem_of(table), "largest", 6, journal=journal)
    turned = problem_of(Table(table.space, table.codes, other, table.path))
    study = run(turned, "largest", 6, journal=journal)
    assert (study.values < 0).all() and len(journal.records) == 12


def test_a_search_that_lists_nothing_ends_where_no_new_network_is_left(table):
    goal = Goal.parse(table.space, ["acc_pct"], "acc_pct", None, "count(skip) >= 2")
    measure = table_problem(table, goal).measure
    problem = Problem(table.space, goal, measure, "by rows")
    asked = []
    study = Study(problem, 100, "by hand", 0)
    study.ask, ask = lambda codes: asked.append(len(study)) or ask(codes), study.ask
    with pytest.raises(BudgetExhausted, match="no network was found"):
        METHODS["archgen"].run(study, torch.Generator().manual_seed(0), 2)
    hashes = {one.hash for one in table.space.decode_all(table.codes[goal.constraint.holds(table.codes)])}
    assert len(study) == len(hashes) and len(asked) <= len(hashes)


def test_of_a_few_measured_members_of_a_large_space_the_nearest_is_asked():
    space = load_space("mnasnet")
    codes = space.sample(60, torch.Generator().manual_seed(0))
    macs = space.cost.exact(codes)["macs_m"].double()
    problem = table_problem(
        Table(space, codes, {"acc_pct": macs}, "few.csv"), Goal.parse(space, ["acc_pct"], "acc_pct")
    )
    assert len(run(problem, "nsga2", 10)) == 10


# ---- goals ----------------------------------------------------------------------------------------------------------
def test_limits_on_measured_columns_are_told_from_exact_ones(table):
    goal = Goal.parse(
        table.space, list(table.columns), "acc_pct", None, "latency_ms <= 5 and depth >= 2 and acc_pct >= 1"
    )
    assert goal.limits == (Limit("latency_ms", 1, 5.0), Limit("acc_pct", -1, 1.0))
    assert goal.constraint.names == ("depth",)
    assert goal.columns == ("acc_pct", "latency_ms")


def test_exact_costs_stay_exact_where_a_table_has_a_column_of_them():
    goal = Goal.parse(load_space("mnasnet"), ["acc_pct", "macs_m"], "acc_pct", None, "macs_m < 350 and acc_pct >= 60")
    assert goal.constraint.names == ("macs_m",) and goal.limits == (Limit("acc_pct", -1, 60.0),)
    goal = Goal.parse(load_space("nasbench101"), ["acc_pct"], "acc_pct", None, "count(conv3x3-bn-relu) >= 2")
    assert "conv3x3-bn-relu" in goal.constraint.text


@pytest.mark.parametrize(
    ("target", "minimize", "where", "said"),
    [
        ("accuracy", None, "", "no column 'accuracy'"),
        ("acc_pct", "acc_pct", "", "high and low at once"),
        ("acc_pct", "watts", "", "no column 'watts'"),
        ("acc_pct", None, "latency_ms <= depth", "column <= number"),
        ("acc_pct", None, "latency_ms < 5", "column <= number"),
        ("acc_pct", None, "depth >=", "cannot read"),
        ("acc_pct", None, "watts <= 5", "watts"),
    ],
)
def test_goals_that_mean_nothing_are_refused(table, target, minimize, where, said):
    with pytest.raises(ValueError, match=said):
        Goal.parse(table.space, list(table.columns), target, minimize, where)


def test_objectives_rank_what_exceeds_a_limit_by_its_excess_below_all_else(table):
    goal = Goal.parse(table.space, list(table.columns), "acc_pct", None, "latency_ms <= 5")
    values = torch.tensor([[90.0, 4], [10, 5], [99, 6], [99, 9], [math.nan, 4]], dtype=torch.float64)
    found = goal.objectives(values)[:, 0]
    assert found.argsort(descending=True).tolist() == [0, 1, 2, 3, 4]
    assert found[:2].tolist() == [90, 10]
    assert met(found[:, None]).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("method", ["archgen", "random", "evolution", "local", "largest"])
def test_exact_constraints_hold_for_every_network_asked(table, method):
    problem = problem_of(table, "depth <= 2 and latency_ms <= 6")
    study = run(problem, method, 8)
    assert problem.goal.constraint.holds(study.codes).all()


def test_a_network_may_be_asked_where_any_of_its_encodings_meets_the_constraint():
    space = load_space("nasbench201")
    where = Constraint("count(skip_connect) >= 3", space)
    meeting = space.legal_codes[where.holds(space.legal_codes)]
    members = members_of(space, where)
    assert where.holds(members).all()
    assert {one.hash for one in space.decode_all(members)} == {one.hash for one in space.decode_all(meeting)}
    assert len(members) > int(where.holds(members_of(space, None)).sum())  # of whose encodings each is the cheapest


def test_values_in_large_units_are_no_violated_limits(table):
    large = Table(
        table.space, table.codes, {"acc_pct": table.columns["acc_pct"], "flops": 1e12 * table.codes[:, 0].double()}
    )
    problem = table_problem(large, Goal.parse(large.space, list(large.columns), "acc_pct", "flops"))
    assert Optimum.of(problem).reference[1] == -2e12


def test_the_loop_finds_the_best_within_a_measured_limit(table):
    problem = problem_of(table, "latency_ms <= 5.5")
    best = Optimum.of(problem).value
    assert run(problem, "archgen", 14).objectives.max().item() == pytest.approx(best, abs=0.11)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8))
def test_hypervolume_is_the_area_of_the_cells_dominated(points):
    values = torch.tensor(points, dtype=torch.float64)
    cells = {(x, y) for a, b in points for x in range(1, a) for y in range(1, b)}
    found = hypervolumes(values, torch.ones(2, dtype=torch.float64))
    assert found[-1].item() == pytest.approx(len(cells))
    assert (found.diff() >= 0).all()


def test_nothing_is_gained_by_what_is_dominated():
    front = torch.tensor([[3.0, 1], [1, 3]], dtype=torch.float64)
    points = torch.tensor([[1.0, 1], [3, 1], [2, 2], [4, 1], [-torch.inf, 5]], dtype=torch.float64)
    gained = improvement(points, front, torch.zeros(2, dtype=torch.float64))
    assert gained.tolist() == [0, 0, 1, 1, 0]


def test_two_objectives_cover_more_of_the_area_than_chance(table):
    """Pools are slow and help little, so that a network with one is seldom worth a query."""
    slow = 1 + torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64)[table.codes[:, :3]].sum(-1)
    columns = {"acc_pct": table.column("acc_pct"), "latency_ms": slow}
    problem = problem_of(Table(table.space, table.codes, columns, "slow.csv"), minimize="latency_ms")
    optimum, budget = Optimum.of(problem), 10
    found = {
        method: torch.stack([
            curve_of(run(problem, method, budget, seed), budget, optimum, optimum.reference)[-1] for seed in range(4)
        ]).mean()
        for method in ("archgen", "random")
    }  # fmt: skip
    assert found["random"] < found["archgen"] <= 100 + 1e-9


# ---- the loop -------------------------------------------------------------------------------------------------------
def test_a_batch_is_distinct_and_new(table):
    problem = problem_of(table)
    study, generator = Study(problem, 100, "by hand", 0), torch.Generator().manual_seed(0)
    study.ask(first_batch(problem, generator))
    batch = choose(problem.members, Surrogate(study), 4, generator)
    assert len(batch.unique(dim=0)) == 4


def test_first_batch_spans_the_sizes(table):
    problem = problem_of(table)
    size = size_of(table.space, problem.members)
    first = size_of(table.space, first_batch(problem, torch.Generator().manual_seed(0)))
    assert first.min() <= size.quantile(0.2) and first.max() >= size.quantile(0.8)


@pytest.mark.parametrize("name", ["mnasnet", "mobilenetv3", "nasbench101", "nasbench201"])
def test_opened_again_means_another_member_nearby(name):
    space, generator = load_space(name), torch.Generator().manual_seed(0)
    codes = space.sample(50, generator)
    near = remask(space, codes, generator)
    assert space.feasible(near).all() and (near >= 0).all()
    assert (near != codes).any(-1).float().mean() > 0.05  # most changes of a NAS-Bench-101 cell are illegal


def test_spaces_too_large_to_list_are_searched_by_climbing():
    """The loop comes nearer to a target cell of MnasNet than random draws do, within an exact limit."""
    space = load_space("mnasnet")
    goal = Goal.parse(space, ["score"], "score", None, "macs_m <= 500")

    def measure(architectures):
        codes = torch.stack([space.encode(one) for one in architectures])
        return codes.double().sum(-1, keepdim=True)

    problem = Problem(space, goal, measure, "sum of codes")
    found = {method: run(problem, method, 24) for method in ("archgen", "random")}
    assert goal.constraint.holds(found["archgen"].codes).all()
    assert found["archgen"].objectives.max() > found["random"].objectives.max()


def test_transfer_starts_with_the_best_of_the_other_data(table):
    problem = problem_of(table, transfer="other_pct")
    study = run(problem, "archgen", 6)
    assert problem.labels == len(table)
    assert study.objectives[:5].max().item() == pytest.approx(Optimum.of(problem).value, abs=0.11)


# ---- faults and resuming --------------------------------------------------------------------------------------------
def test_missing_values_and_unknown_networks_are_failed_queries(table):
    columns = {"acc_pct": table.columns["acc_pct"].clone()}
    columns["acc_pct"][::2] = torch.nan
    study = run(problem_of(Table(table.space, table.codes, columns, "holes.csv")), "archgen", 14)
    assert len(study) == 14
    assert study.objectives.isfinite().any() and (~study.objectives.isfinite()).any()
    part = Table(table.space, table.codes[5:9], {"acc_pct": table.columns["acc_pct"][5:9]}, "part.csv")
    problem = problem_of(part)
    others = table.codes[~problem.admits(table.codes)]
    assert len(others) and problem.measure(table.space.decode_all(others)).isnan().all()


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("method", ["archgen", "evolution", "local", "bo", "nsga2"])
def test_a_killed_search_goes_on_as_if_it_had_not_been(table, tmp_path, method):
    whole = run(problem_of(table), method, 16)
    problem, left = problem_of(table), 11

    def dying(architectures):
        nonlocal left
        left -= len(architectures)
        if left < 0:
            raise Killed
        return problem.measure(architectures)

    fragile = Problem(problem.space, problem.goal, dying, problem.name, problem.members)
    with pytest.raises(Killed):
        run(fragile, method, 16, journal=Results(tmp_path))
    before = len(Results(tmp_path).records)
    assert 0 < before < 16
    left = 16 - before  # what is in the journal is not measured again
    resumed = run(fragile, method, 16, journal=Results(tmp_path))
    assert torch.equal(resumed.codes, whole.codes)
    left = 0
    again = run(fragile, method, 16, journal=Results(tmp_path))
    assert torch.equal(again.values, whole.values)


def test_a_resumed_search_that_asks_otherwise_says_so(table, tmp_path, capsys):
    whole = run(problem_of(table), "evolution", 12, journal=Results(tmp_path))
    path = tmp_path / "results-0.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[3:9]))
    run(problem_of(table), "evolution", 12, journal=Results(tmp_path))
    assert "holds 6 networks that this trial asked before" in capsys.readouterr().err
    again = run(problem_of(table), "evolution", 12, journal=Results(tmp_path / "other"))
    assert torch.equal(again.codes, whole.codes) and "asked before" not in capsys.readouterr().err


# ---- the command ----------------------------------------------------------------------------------------------------
def test_the_command_writes_curves_and_a_figure(table, tmp_path, capsys):
    (tmp_path / "chain.yaml").write_text(json.dumps(CHAIN))
    table.write(tmp_path / "chain.csv")
    words = f"search {tmp_path}/chain.yaml --table {tmp_path}/chain.csv --target acc_pct --method archgen,random"
    words = [*words.split(), "--budget", "8", "--trials", "2", "--out", str(tmp_path / "out")]
    main(words)
    shown = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out" / "search.json").read_text())
    assert shown["methods"]["archgen"]["queries"] == 16
    assert len(written["methods"]["random"]["curves"][0]) == len(written["methods"]["random"]["mean"]) == 8
    assert "<svg" in (tmp_path / "out" / "search.svg").read_text()
    main(words)
    assert json.loads((tmp_path / "out" / "search.json").read_text()) == written


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "acc_pct", "--method", "magic"], "no method 'magic'"),
        ([], "--target"),
        (["--target", "acc"], "no column 'acc'"),
        (["--target", "acc_pct", "--budget", "0"], "budget is a whole number of at least 1"),
        (["--target", "acc_pct", "--data", "digits"], "either a --table"),
        (["--target", "acc_pct", "--transfer", "nothing"], "no column 'nothing'"),
        (["--target", "acc_pct", "--transfer", "acc_pct"], "what is searched for"),
        (["--target", "acc_pct", "--transfer", "other_pct", "--method", "local"], "learns nothing"),
        (["--target", "acc_pct", "--epochs", "3"], "goes with --data"),
        (["--target", "acc_pct", "--where", "latency_ms <= -1"], "no network"),
        (["--target", "acc_pct", "--minimize", "latency_ms", "--method", "bo"], "takes one objective"),
    ],
)
def test_requests_at_fault_are_refused_in_one_sentence(table, tmp_path, capsys, words, said):
    (tmp_path / "chain.yaml").write_text(json.dumps(CHAIN))
    table.write(tmp_path / "chain.csv")
    start = ["search", f"{tmp_path}/chain.yaml", "--table", f"{tmp_path}/chain.csv", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        main([*start, *words])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_networks_are_trained_where_there_is_no_table(tmp_path):
    words = {"skeleton": {"width": 4, "cells": 1}, "epochs": 1, "train_size": 80, "cpu": True}
    entry = search.search("nasbench201", data="digits", method="random", budget=2, out=str(tmp_path), **words)
    assert entry["methods"]["random"]["queries"] == 2 and entry["methods"]["random"]["failed"] == 0
    assert len(Results(tmp_path / "fit").records) == 2


@pytest.mark.slow
def test_the_loop_beats_chance_on_nasbench201(outside):
    path = outside("nas_bench_201.parquet")
    read = Table.read(find_table(str(path)), load_space("nasbench201"))
    problem = table_problem(read, Goal.parse(read.space, list(read.columns), "cifar100_val_acc_12ep_pct"))
    found = {method: run(problem, method, 30).objectives.max() for method in ("archgen", "random")}
    assert found["archgen"] > found["random"]
