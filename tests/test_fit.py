"""Training of generated networks: exact resume, failures that cost only themselves, processes, what is kept."""

import gc
import json
import os
import pkgutil
import random
import signal
import time
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

import archgen
from archgen.cli import main
from archgen.fit import Job, fit, train_jobs
from archgen.images import load_images
from archgen.processes import make_accelerator
from archgen.results import Results, read_results
from archgen.space import load_space
from archgen.trainer import PRESETS, Diverged, Machine, Recipe, Training

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
SMALL = {"width": 4, "cells": 1}
QUICK = {"skeleton": SMALL, "train_size": 80, "batch_size": 20, "epochs": 3, "cpu": True}
EVERYTHING = {"flip": True, "cutout": 3, "ema": 0.8, "label_smoothing": 0.1, "accumulate": 2, "validation": 0.25}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No trackers of the environment, and a state of accelerate's own for each test."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield
    reset()


def reset():
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def weights(folder, which="best"):
    return archgen.load_network(folder, which).state_dict()


def timeless(records):
    """Records without how long they took."""
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- one network ----------------------------------------------------------------------------------------------------
def test_one_network_learns_and_loads_back(tmp_path):
    result = fit(CELL, out=str(tmp_path / "a"), skeleton={"width": 8, "cells": 1}, epochs=4, batch_size=32, cpu=True)
    assert result["test_acc_pct"] > 80
    network, images = archgen.load_network(tmp_path / "a"), load_images("digits")
    assert str(network.architecture) == CELL and network.classes == images.classes and not network.training
    with torch.no_grad():
        right = (network(images.test.float() / 255).argmax(-1) == images.test_labels).float().mean()
    assert 100 * right.item() == pytest.approx(result["test_acc_pct"], abs=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert max(line["valid_acc_pct"] for line in lines) == result["valid_acc_pct"]
    assert {path.name for path in (tmp_path / "a").iterdir()} >= {"network.json", "last.safetensors", "curve.png"}
    assert not (tmp_path / "a" / "state").exists()


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_run_stopped_at_any_step_ends_with_the_same_bits(tmp_path, monkeypatch, settings):
    fit(CELL, out=str(tmp_path / "whole"), **QUICK, **settings)
    step, taken = Training._step, 0

    def stop_now_and_then(self):
        nonlocal taken
        taken += 1
        if taken in (2, 5, 6, 9):
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Training, "_step", stop_now_and_then)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            fit(CELL, out=str(tmp_path / "parts"), save_every=0, **QUICK, **settings)
    result = fit(CELL, out=str(tmp_path / "parts"), save_every=0, **QUICK, **settings)
    for which in ("best", "last"):
        assert equal(weights(tmp_path / "whole", which), weights(tmp_path / "parts", which))
    drop = ("seconds", "network")
    whole = fit(CELL, out=str(tmp_path / "whole"), **QUICK, **settings)  # done: read, not trained
    assert {k: v for k, v in result.items() if k not in drop} == {k: v for k, v in whole.items() if k not in drop}
    files = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    assert timeless(map(json.loads, files[0])) == timeless(map(json.loads, files[1]))


def test_a_batch_in_parts_takes_the_same_step_up_to_batch_normalization(tmp_path):
    """With running statistics frozen there is no difference but rounding."""
    images = load_images("digits").limited(64)
    space = load_space("nasbench201").scaled(SMALL)
    found = []
    for parts in (1, 4):
        machine = Machine(Accelerator(cpu=True), accumulate=parts)
        recipe = Recipe(epochs=1, batch_size=32, crop=0, warmup=0)
        training = Training(space.parse(CELL), images, (images.train[:0], images.train_labels[:0]), recipe, machine)
        for module in training.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train = lambda mode=True, module=module: module
                module.training = False
        training._step()
        found.append(torch.cat([p.detach().flatten() for p in training.model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_the_learning_rate_rises_and_falls_to_zero():
    machine, images = Machine(Accelerator(cpu=True)), load_images("digits").limited(100)
    space = load_space("nasbench201").scaled(SMALL)
    recipe = Recipe(epochs=10, batch_size=10, warmup=2)
    training = Training(space.parse(CELL), images, (images.train[:0], images.train_labels[:0]), recipe, machine)
    rates = []
    for step in range(training.steps):
        training.step = step
        rates.append(training._rate())
    top = rates.index(max(rates))
    assert max(rates) == recipe.lr and top == 20
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 1e-3 * recipe.lr


def test_published_presets():
    """Dong & Yang, 2020: Nesterov momentum 0.9, decay 5e-4, rate 0.1 to 0 by cosine, batch 256, flips and crops."""
    for name, epochs in (("nasbench201-12", 12), ("nasbench201-200", 200)):
        recipe = PRESETS[name]
        assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum) == (epochs, 256, 0.1, 0.9)
        assert (recipe.weight_decay, recipe.crop, recipe.flip, recipe.validation) == (5e-4, 4, True, 0)
        assert (recipe.warmup, recipe.clip, recipe.ema, recipe.label_smoothing) == (0, 0, 0, 0)


def test_weights_of_another_network_are_refused(tmp_path, capsys):
    fit(CELL, out=str(tmp_path / "a"), **QUICK)
    other = CELL.replace("avg_pool_3x3", "nor_conv_3x3")
    with pytest.raises(ValueError, match="another network"):
        fit(other, out=str(tmp_path / "b"), weights=str(tmp_path / "a"), **QUICK)
    assert not (tmp_path / "b").exists()
    with pytest.raises(ValueError, match="holds another network"):
        fit(other, out=str(tmp_path / "a"), **QUICK)
    kept = (tmp_path / "a" / "best.safetensors").read_bytes()
    (tmp_path / "a" / "best.safetensors").write_bytes(kept[: len(kept) // 2])
    with pytest.raises(ValueError, match="cannot read"):
        archgen.load_network(tmp_path / "a")
    warm = fit(CELL, out=str(tmp_path / "c"), weights=str(tmp_path / "a" / "last.safetensors"), **QUICK)
    cold = fit(CELL, out=str(tmp_path / "d"), **QUICK)
    assert warm["train_loss"] < cold["train_loss"]


def test_a_folder_says_nothing_of_what_is_run(tmp_path):
    """Loading a network whose space names a builder needs the user's own word."""
    fit(CELL, out=str(tmp_path / "a"), **QUICK)
    path = tmp_path / "a" / "network.json"
    entry = json.loads(path.read_text())
    space = {"name": "evil", "nodes": {"a": {"op": ["conv", "skip"]}}, "builder": "os:system"}
    path.write_text(json.dumps({**entry, "space": json.dumps(space)}))
    with pytest.raises(ValueError, match="names the code"):
        archgen.load_network(tmp_path / "a")
    path.write_text(json.dumps(entry)[:-40])
    with pytest.raises(ValueError, match="damaged"):
        archgen.load_network(tmp_path / "a")


def test_a_training_that_diverges_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="diverged"):
        fit(CELL, out=str(tmp_path / "a"), lr=1e30, **QUICK)


@pytest.mark.parametrize(
    "words",
    [
        ["--data", "nowhere"], ["--data", "nowhere.npz"], ["--classes", "[1]"], ["--classes", "[1, 99]"],
        ["--train_size", "3"], ["--train_size", "5000"], ["--epochs", "0"], ["--batch_size", "0"], ["--lr", "-1"],
        ["--validation", "1"], ["--preset", "magic"], ["--share", "3/2"], ["--share", "1/2"], ["--halving", "2"],
        ["--skeleton", "{colour: 3}"], ["--skeleton", "{width: 0}"], ["--resolution", "0"], ["--seeds", "0"],
        ["--mixed_precision", "half"], ["--weights", "nowhere"], ["--ema", "1"], ["--accumulate", "0"],
        ["--resolution", "2000000"], ["--train_size", "20", "--validation", "0.04"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_requests_at_fault_get_one_sentence_and_status_2(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", CELL, *words])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(lines) == 1 and lines[0].startswith("archgen: ")
    assert not list(tmp_path.rglob("*"))


# ---- many -----------------------------------------------------------------------------------------------------------
def make_block(op, shape, width=4):
    """A builder of which some operations cannot be trained."""
    if op == "huge":
        return nn.Linear(1 << 24, 1 << 24)  # 2**50 bytes
    if op == "broken":
        raise RuntimeError("this block does not exist")
    layer = nn.Conv2d(shape[0], width, 3, padding=1)
    if op == "wild":
        nn.init.constant_(layer.weight, 1e38)
    return layer


FRAIL = {
    "name": "frail",
    "nodes": {f"n{k}": {"op": ["conv", "huge", "broken", "wild"], "width": [4, 5, 6, 7]} for k in range(3)},
    "builder": f"{__name__}:make_block",
    "skeleton": {"resolution": 8, "classes": 10},
}


@pytest.fixture
def frail(monkeypatch):
    """The space above, wherever this module was imported from."""
    real = pkgutil.resolve_name
    monkeypatch.setattr("pkgutil.resolve_name", lambda name: make_block if name == FRAIL["builder"] else real(name))
    return load_space(FRAIL)


def frail_jobs(space, number, bad=()):
    """Networks of ordinary operations, but for those at the places of `bad`."""
    images, recipe = load_images("digits").limited(20), Recipe(epochs=1, batch_size=20, validation=0)
    codes = torch.cartesian_prod(*[torch.arange(4)] * 3)[:number]
    columns = [next(i for i, hole in enumerate(space.holes) if hole.name == f"n{k}.width") for k in range(3)]
    table = torch.zeros(number, len(space.holes), dtype=torch.long)
    table[:, columns] = codes
    for place, op in bad:
        table[place, next(i for i, hole in enumerate(space.holes) if hole.name == "n1.op")] = op
    return [Job(architecture, images, recipe, 0) for architecture in space.decode_all(table)]


def test_failures_are_recorded_and_cost_only_themselves(frail, tmp_path):
    """Of 50 networks one runs out of memory, one raises, one diverges."""
    jobs = frail_jobs(frail, 50, [(7, 1), (20, 2), (33, 3)])
    found = train_jobs(jobs, Results(tmp_path), Machine(Accelerator(cpu=True)), bar=False)
    failed = {index: record["reason"] for index, record in enumerate(found) if record["status"] == "failed"}
    assert failed.keys() == {7, 20, 33} and sum(record["status"] == "done" for record in found) == 47
    assert failed[7] == "out of memory" and "does not exist" in failed[20] and failed[33].startswith("diverged")
    again = train_jobs(jobs, Results(tmp_path), Machine(Accelerator(cpu=True)), bar=False)
    assert again == found and len(read_results([tmp_path])) == 50


def test_a_list_killed_at_random_is_finished_by_starting_again(frail, tmp_path):
    """SIGKILL while training, saving and appending: the results are those of a run that was never killed."""
    jobs = frail_jobs(frail, 12)
    machine = Machine(Accelerator(cpu=True), save_every=0)
    train_jobs(jobs[:1], Results(tmp_path / "warm"), machine, bar=False)  # what is imported now is so in the children
    whole = train_jobs(jobs, Results(tmp_path / "whole"), machine, bar=False)
    chance, kills = random.Random(0), 0

    def done() -> int:
        return sum(len(path.read_bytes().splitlines()) for path in (tmp_path / "killed").glob("results-*.jsonl"))

    for _ in range(40):
        child = os.fork()
        if not child:
            train_jobs(jobs, Results(tmp_path / "killed"), machine, bar=False)
            os._exit(0)
        enough = done() + chance.randint(1, 2)  # however fast the machine is, some of the list is left
        while done() < enough and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            break
        kills += 1
    found = train_jobs(jobs, Results(tmp_path / "killed"), machine, bar=False)
    assert timeless(found) == timeless(whole)
    assert kills >= 2
    assert {path.suffix for path in (tmp_path / "killed").iterdir() if path.is_file()} == {".jsonl"}


def test_a_network_that_ends_its_process_every_time_is_given_up(frail, tmp_path, monkeypatch):
    jobs = frail_jobs(frail, 2)
    deaths = 0
    for _ in range(10):
        child = os.fork()
        if not child:
            monkeypatch.setattr(Training, "run", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
            train_jobs(jobs[:1], Results(tmp_path), Machine(Accelerator(cpu=True)), bar=False)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
        deaths += 1
    found = train_jobs(jobs, Results(tmp_path), Machine(Accelerator(cpu=True)), bar=False)
    assert deaths == 5 and "ended the process" in found[0]["reason"] and found[1]["status"] == "done"


def listed(tmp_path, number):
    space = load_space("nasbench201")
    lines = [a.to_json() for a in space.decode_all(space.sample(number, torch.Generator().manual_seed(1)))]
    (tmp_path / "cells.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "cells.jsonl")


def test_equal_networks_are_trained_once_and_shares_add_up(tmp_path):
    cells = listed(tmp_path, 6)
    text = Path(cells).read_text()
    Path(cells).write_text(text + "\n" + text.splitlines()[0])
    settings = {**QUICK, "epochs": 1}
    whole = fit(cells, out=str(tmp_path / "whole"), **settings)
    assert whole["done"] == 6
    for part in ("1/2", "2/2"):
        fit(cells, out=str(tmp_path / part[0]), share=part, **settings)
    merged = read_results([tmp_path / "1", tmp_path / "2"])
    key = lambda record: record["hash"]  # noqa: E731
    assert timeless(sorted(merged, key=key)) == timeless(sorted(read_results([tmp_path / "whole"]), key=key))


def test_halving_trains_the_better_ones_longer(tmp_path):
    result = fit(listed(tmp_path, 8), out=str(tmp_path / "out"), halving=2, **{**QUICK, "epochs": 4})
    records = read_results([tmp_path / "out"])
    rungs = {}
    for record in records:
        rungs.setdefault(record["recipe"], {})[record["hash"]] = record["valid_acc_pct"]
    sizes = [len(rung) for rung in rungs.values()]
    assert sizes == [8, 4, 2] and result["done"] == 2
    for earlier, later in zip(list(rungs.values()), list(rungs.values())[1:], strict=False):
        assert min(earlier[name] for name in later) >= max(earlier[name] for name in earlier.keys() - later.keys())


def test_memory_does_not_grow_with_the_list(frail, tmp_path):
    """Nothing of a network stays when the next one begins."""
    train_jobs(frail_jobs(frail, 20), Results(tmp_path), Machine(Accelerator(cpu=True)), bar=False)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is Training]


# ---- processes ------------------------------------------------------------------------------------------------------
def in_processes(count, port, work):
    """Run `work(rank)` in forked processes that know of each other."""
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_PORT": str(port)}
            reset()
            try:
                work(rank)
                status = 0
            except BaseException:
                traceback.print_exc()
                status = 1
            os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * count


def test_two_processes_train_as_one_with_twice_the_batch(tmp_path):
    """Every image is augmented alike and batch normalization sees both halves, so only rounding differs."""
    settings = {**QUICK, "epochs": 2, "validation": 0.0, "flip": True, "lr": 0.02}

    def work(rank):
        fit(CELL, out=str(tmp_path / "two"), **settings)
        if rank == 1:  # rank 0's weights are in the folder
            training = kept["training"]
            torch.save(training.model.state_dict(), tmp_path / "rank1.pt")

    kept = {}
    init = Training.__init__

    def keep(self, *args, **kwargs):
        init(self, *args, **kwargs)
        kept["training"] = self

    Training.__init__ = keep
    try:
        in_processes(2, 29573, work)
    finally:
        Training.__init__ = init
    fit(CELL, out=str(tmp_path / "one"), **{**settings, "batch_size": 40})
    two, one = weights(tmp_path / "two", "last"), weights(tmp_path / "one", "last")
    assert equal(two, torch.load(tmp_path / "rank1.pt", weights_only=True))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=name)


def test_two_processes_share_a_list(tmp_path):
    cells = listed(tmp_path, 5)
    settings = {**QUICK, "epochs": 1, "cpu": torch.cuda.is_available()}  # without a GPU nobody needs to say so
    in_processes(2, 29574, lambda rank: fit(cells, out=str(tmp_path / "two"), **settings))
    assert {path.name for path in (tmp_path / "two").glob("*.jsonl")} == {"results-0.jsonl", "results-1.jsonl"}
    fit(cells, out=str(tmp_path / "one"), **settings)
    one, two = ({r["hash"]: r["test_acc_pct"] for r in read_results([tmp_path / n])} for n in ("one", "two"))
    assert one == two


def test_a_state_of_another_recipe_is_not_taken_up(tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fit(CELL, out=str(tmp_path / "a"), save_every=0, **QUICK)
    with pytest.raises(ValueError, match="another"):
        fit(CELL, out=str(tmp_path / "a"), save_every=0, **{**QUICK, "epochs": 2})
    state = tmp_path / "a" / "state" / "state.pt"
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(ValueError, match="damaged"):
        fit(CELL, out=str(tmp_path / "a"), save_every=0, **QUICK)


def test_jobs_differ_in_key_where_they_differ_in_outcome():
    space, images = load_space("nasbench201"), load_images("digits")
    job = Job(space.parse(CELL), images, Recipe(), 0)
    others = [
        replace(job, seed=1), replace(job, recipe=Recipe(lr=0.2)), replace(job, images=images.limited(50)),
        replace(job, architecture=space.scaled(SMALL).parse(CELL)), replace(job, weights="ab"),
        replace(job, architecture=space.parse(CELL.replace("avg_pool", "nor_conv"))),
    ]  # fmt: skip
    keys = {json.dumps(each.key) for each in [job, *others]}
    assert len(keys) == 7
    assert job.key == Job(space.parse(CELL), load_images("digits"), Recipe(), 0).key
    assert replace(job, recipe=Recipe(clip=5, warmup=1)).key == job.key  # the defaults, as whole numbers


def test_a_loss_that_is_no_number_ends_a_training(frail):
    job = frail_jobs(frail, 1, [(0, 3)])[0]
    machine = Machine(Accelerator(cpu=True))
    empty = (job.images.train[:0], job.images.train_labels[:0])
    with pytest.raises(Diverged):
        Training(job.architecture, job.images, empty, job.recipe, machine).run(Path("nowhere"), bar=False)


@pytest.mark.parametrize("half", [True, False])
def test_half_precision_is_left_where_the_cpu_would_emulate_it(half, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": half}, raising=False)
    reset()
    accelerator = make_accelerator(tmp_path, "bf16", None, {}, cpu=True)
    assert accelerator.mixed_precision == ("bf16" if half else "no")
    assert ("no instructions for bf16" in capsys.readouterr().err) is not half
