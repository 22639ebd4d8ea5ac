"""`archgen search`: trials of a method with counted queries, resumable, summed up as curves with confidence bands."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from archgen.baselines import BASELINES, Method
from archgen.benchmark import BudgetExhausted, Table, find_table, join
from archgen.checks import check_counts
from archgen.constraint import Constraint
from archgen.curves import Optimum, summarize
from archgen.explore import explore
from archgen.fit import Job, train_jobs
from archgen.goal import Goal, met
from archgen.graph import Architecture
from archgen.hub import shipped_checkpoints
from archgen.images import ImageSet, load_images
from archgen.pipeline import ArchitecturePipeline
from archgen.processes import make_accelerator
from archgen.results import Results
from archgen.space import SearchSpace, load_space
from archgen.study import Generate, Problem, Study, can_list, members_of, table_problem
from archgen.trainer import PRESETS, Machine, Recipe

METHODS = {"archgen": Method(explore, pareto=True, batched=True), **BASELINES}
TRAINED = ("valid_acc_pct", "test_acc_pct")  # columns of a search that trains


def search(
    space: str,
    table: str | None = None,
    target: str | None = None,
    minimize: str | None = None,
    where: str = "",
    transfer: str | None = None,
    data: str | None = None,
    preset: str = "default",
    epochs: int | None = None,
    resolution: int | None = None,
    classes: list[int | str] | None = None,
    train_size: int | None = None,
    skeleton: dict[str, Any] | None = None,
    method: str = "archgen",
    budget: int = 100,
    trials: int = 1,
    batch_size: int = 3,
    seed: int = 0,
    out: str = "out/search",
    cpu: bool = False,
) -> dict[str, Any]:
    """Search a space with few measurements, each counted once for every distinct network.

    Networks are looked up in a table, or trained. Every measurement is on the disk when it is known: started again
    with the same words, a search that was stopped goes on and ends as if it had not been.

    Args:
        space: Name or YAML file of the search space.
        table: Table to look networks up in, or several joined by +; see `archgen.benchmark.find_table`.
        target: Column to be as high as possible; where networks are trained, `valid_acc_pct` or `test_acc_pct`.
        minimize: A column or exact cost to be as low as possible at the same time.
        where: What every result has to meet: exact costs and counts as in `sample`, which are never violated, and
            measured columns as "column <= number", which count as measured together with the target.
        transfer: A column of another data set, all of whose labels are known beforehand.
        data: Instead of a table: images to train networks on, as in `fit`.
        preset: How they are trained, as in `fit`.
        epochs: Passes over the training images, if not those of the preset.
        resolution: Side of the images; needed where they differ in size.
        classes: Only these classes, by name or position.
        train_size: Only so many training images.
        skeleton: Settings of the space's skeleton to change, such as {width: 8, cells: 1}.
        method: archgen, random, evolution, local, largest, bo or nsga2, or several separated by commas.
        budget: Distinct networks that a trial measures.
        trials: Repetitions, with this seed and those that follow it.
        batch_size: Networks that archgen and bo measure at once.
        seed: Seed of the first trial.
        out: Folder for `results-0.jsonl`, one line a query, and the summaries `search.json` and `search.svg`.
        cpu: Whether not to train on a GPU that is there.

    Returns:
        For each method the best that was found and how many queries it took; the curves are in `search.json`.

    Raises:
        ValueError: If the request is at fault.
    """
    methods = [word.strip() for word in method.split(",") if word.strip()]
    if unknown := [name for name in methods or [method] if name not in METHODS]:
        raise ValueError(f"no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    check_counts(budget=budget, trials=trials, batch_size=batch_size)
    if (table is None) == (data is None):
        raise ValueError("a search needs either a --table to look networks up in, or --data to train them on")
    if minimize is not None and (narrow := [name for name in methods if not METHODS[name].pareto]):
        able = ", ".join(name for name, one in METHODS.items() if one.pareto)
        raise ValueError(f"{narrow[0]} takes one objective; for two there are {able}")
    if transfer is not None and (deaf := [name for name in methods if name != "archgen"]):
        raise ValueError(f"{deaf[0]} learns nothing from labels of another data set; archgen does")
    if table is not None:
        training = {"preset": preset != "default", "epochs": epochs, "train_size": train_size, "cpu": cpu}
        training |= {"skeleton": skeleton, "resolution": resolution, "classes": classes}
        if given := [name for name, value in training.items() if value]:
            raise ValueError(f"{given[0]} goes with --data; a table has what was measured")
        problem, optimum = _table_search(space, table, target, minimize, where, transfer)
    else:
        if transfer is not None:
            raise ValueError("transfer takes labels from a --table")
        if preset not in PRESETS:
            raise ValueError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
        recipe = PRESETS[preset] if epochs is None else replace(PRESETS[preset], epochs=epochs)
        scaled, images = load_space(space).scaled(skeleton), load_images(data, resolution, classes, train_size)
        goal = Goal.parse(scaled, TRAINED, target or TRAINED[0], minimize, where)
        problem, optimum = training_problem(goal, scaled, images, recipe, seed, out, cpu), None
    studies = {name: run_trials(problem, name, budget, trials, batch_size, seed, Results(out)) for name in methods}
    return summarize(problem, studies, budget, optimum, Path(out))


def _table_search(
    space: str, table: str, target: str | None, minimize: str | None, where: str, transfer: str | None
) -> tuple[Problem, Optimum]:
    """What a table is searched for, and the best that there is."""
    if target is None:
        raise ValueError("a search in a table needs the --target column")
    names = [table] if Path(table).exists() else table.split("+")
    read = [Table.read(find_table(name.strip()), load_space(space)) for name in names]
    joined = read[0] if len(read) == 1 else join(read)
    goal = Goal.parse(joined.space, list(joined.columns), target, minimize, where)
    problem = table_problem(joined, goal, transfer)
    return problem, Optimum.of(problem)


def training_problem(
    goal: Goal, space: SearchSpace, images: ImageSet, recipe: Recipe, seed: int, out: str | Path, cpu: bool
) -> Problem:
    """A search that trains what it asks; trainings are kept in a folder `fit`, and none is done twice.

    Args:
        goal: What is looked for, among the columns `TRAINED`.
        space: The search space.
        images: The task.
        recipe: How networks are trained.
        seed: Of every training.
        out: Folder of the search.
        cpu: Whether not to use a GPU that is there.

    Raises:
        ValueError: If the best epoch cannot be chosen by images that are set aside, or no member meets the goal.
    """
    images.held_out(recipe.validation)  # refuses what cannot be held out before anything is trained
    if not recipe.validation and "valid_acc_pct" in goal.columns:
        raise ValueError("nothing is set aside for validation by this recipe; --target test_acc_pct")
    results = Results(Path(out) / "fit")
    machine = Machine(make_accelerator(out, recipe.mixed_precision, None, {}, cpu))
    if machine.accelerator.num_processes > 1:
        raise ValueError("a search trains in one process; start several searches, each with its own --out")
    columns = [name for name in goal.columns if name in TRAINED]

    def measure(architectures: list[Architecture]) -> Tensor:
        found = train_jobs([Job(one, images, recipe, seed) for one in architectures], results, machine)
        rows = [[record.get(name, math.nan) for name in columns] for record in found]
        return torch.tensor(rows, dtype=torch.float64)

    members = members_of(space, goal.constraint) if can_list(space) else None
    if members is not None and not len(members):
        goal.constraint.witness()  # says why
    generate = shipped_generator(space, goal.constraint) if members is None else None
    key = Job(space.decode_all(space.sample(1, torch.Generator().manual_seed(0)))[0], images, recipe, seed).key
    name = f"{key['task']} {key['data']} {key['recipe']} seed {seed}"
    return Problem(space, goal, measure, name, members, generate=generate)


def shipped_generator(space: SearchSpace, constraint: Constraint | None) -> Generate | None:
    """Draws from the checkpoint that comes with a space, if there is one: of sizes within a quarter of a network's."""
    if space.name not in shipped_checkpoints():
        return None
    pipeline = ArchitecturePipeline.load(space.name)
    if pipeline.space.skeleton != space.skeleton:
        return None  # it knows the sizes of other networks
    pipeline.set_progress_bar_config(disable=True)
    where = None if constraint is None else constraint.text

    def generate(n: int, like: Tensor, generator: torch.Generator) -> Tensor:
        exact = {name: value.item() for name, value in space.cost.exact(like[None]).items()}
        sizes = {
            name: [0.8 * exact[name], 1.25 * exact[name]] for name in pipeline.conditions if exact.get(name, 0) > 0
        }
        return pipeline(n=n, where=where, condition=sizes, generator=generator).codes

    return generate


# ---- trials ---------------------------------------------------------------------------------------------------------
def run_trials(
    problem: Problem, method: str, budget: int, trials: int, batch_size: int, seed: int, journal: Results | None
) -> list[Study]:
    """Repeat a method; trials that are complete in the journal are taken from there.

    Raises:
        ValueError: If the method needs a library that is not installed.
    """
    chosen = METHODS[method]
    recipe = f"{method} {batch_size}" if chosen.batched else method
    studies, best = [], []
    progress = tqdm(range(trials), desc=method)
    for trial in progress:
        study = Study(problem, budget, recipe, seed + trial, journal)
        if not study.replay():
            try:
                chosen.run(study, torch.Generator().manual_seed(seed + trial), batch_size)
            except BudgetExhausted:
                pass  # the end of every trial
            except ImportError as error:
                raise ValueError(f"{method} needs {error.name}: pip install archgen[search]") from error
        studies.append(study)
        found = study.objectives[met(study.objectives), 0]
        best += [found.max().item()] if len(found) else []
        progress.set_postfix({"best": f"{sum(best) / len(best):.4g}"} if best else {})
    return studies
