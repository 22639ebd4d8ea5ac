"""Trains generated networks on image data: one over all processes, or a list of them spread over the processes."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from tqdm.auto import tqdm

from archgen.checks import check_counts
from archgen.classifier import describe, read_network, read_weights
from archgen.graph import Architecture
from archgen.hub import BadFile, brief, replacing
from archgen.images import ImageSet, load_images
from archgen.processes import end_training, make_accelerator
from archgen.results import Results, key_of
from archgen.space import load_space, read_architectures, rescale
from archgen.trainer import PRESETS, Diverged, Machine, Recipe, Training

ATTEMPTS = 5  # times that a network may take its process down before it is given up


@dataclass(frozen=True)
class Job:
    """One network to train: an architecture, a task, a recipe and a seed.

    Attributes:
        architecture: What to train.
        images: The task, with all its training images.
        recipe: How to train it.
        seed: Seed of the training.
        weights: Digest of the weights that it starts from; empty for none.
    """

    architecture: Architecture
    images: ImageSet
    recipe: Recipe
    seed: int
    weights: str = ""

    @cached_property
    def key(self) -> dict[str, Any]:
        """What tells its result from others."""
        architecture, skeleton = self.architecture, dict(self.architecture.space.skeleton)
        settings = json.dumps([asdict(self.recipe), skeleton, self.weights], sort_keys=True, default=str)
        name = next((name for name, recipe in PRESETS.items() if recipe == self.recipe), f"{self.recipe.epochs}ep")
        digest = hashlib.blake2b(settings.encode(), digest_size=3).hexdigest()
        recipe = f"{name}-{digest}"
        images = self.images
        return {"hash": architecture.hash, "task": images.name, "data": images.digest, "recipe": recipe,
                "seed": self.seed}  # fmt: skip

    @property
    def name(self) -> str:
        """The key as one word, for files."""
        return hashlib.blake2b(json.dumps(self.key).encode(), digest_size=8).hexdigest()


def train_jobs(
    jobs: Sequence[Job], results: Results, machine: Machine, share: tuple[int, int] = (0, 1), bar: bool = True
) -> list[dict[str, Any]]:
    """Train a list of networks, each on its own, and append what came of each to the results.

    A network that cannot be trained is recorded with the reason. Jobs that have a result already are not done again.

    Args:
        jobs: What to train.
        results: Where the results are kept; states of unfinished trainings lie beside them.
        machine: Where to train.
        share: Number of this process, and number of processes: it takes every so many-th job.
        bar: Whether to show progress.

    Returns:
        The results of this process's jobs, in order.

    Raises:
        ValueError: If a result cannot be written.
    """
    torch.optim.SGD([torch.zeros(1)])  # torch's first optimizer imports for seconds: not while an attempt is counted
    progress = tqdm(jobs[share[0] :: share[1]], unit="network", disable=not bar)
    found, failed, best = [], 0, -math.inf
    split: dict[tuple[str, float], tuple] = {}
    for job in progress:
        record, state = results.get(job.key), results.folder / "state" / f"{job.name}.pt"
        if record is None:
            place = (job.images.digest, job.recipe.validation)
            if place not in split:
                split = {place: _on_device(job.images, job.recipe.validation, machine)}  # of one task at a time
            with _attempt(state.with_name(f"attempt-{share[0]}.json"), job, state) as attempts:
                record = _train_job(job, split[place], machine, state, attempts)
                results.append(record)
            if machine.accelerator.trackers and record["status"] == "done":
                shown = {name: record[name] for name in ("test_acc_pct", "train_loss", "seconds")}
                machine.accelerator.log(shown, step=len(results.records))
        state.unlink(missing_ok=True)
        found.append(record)
        failed += record["status"] == "failed"
        best = max(best, record.get("test_acc_pct", best))
        progress.set_postfix(best=f"{best:.2f}", failed=failed)
    return found


def _on_device(images: ImageSet, validation: float, machine: Machine) -> tuple[ImageSet, tuple[Tensor, Tensor]]:
    """The task without what is held out, and that, where the network is trained."""
    rest, *held_out = images.held_out(validation)
    device = machine.accelerator.device
    moved = replace(
        rest, train=rest.train.to(device), train_labels=rest.train_labels.to(device), test=rest.test.to(device),
        test_labels=rest.test_labels.to(device),
    )  # fmt: skip
    return moved, (held_out[0].to(device), held_out[1].to(device))


def _train_job(job: Job, task: tuple, machine: Machine, state: Path, attempts: int) -> dict[str, Any]:
    """The result of one job, or the reason why there is none."""
    record = {**job.key, "space": job.architecture.space.name, "arch": str(job.architecture)}
    reason = None
    if attempts > ATTEMPTS:
        reason = f"it ended the process {ATTEMPTS} times"
    else:
        try:
            training = Training(job.architecture, *task, job.recipe, machine, job.seed)
            record |= {"status": "done", **training.run(state, key=job.name, bar=False)}
        except BadFile:
            raise
        except Diverged as error:
            reason = f"diverged: {error}"
        except Exception as error:
            full = isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error)
            reason = "out of memory" if full else f"{type(error).__name__}: {brief(error)}"
    if reason is not None or machine.accelerator.scaler is not None:
        machine.accelerator.free_memory()
    return record if reason is None else {**record, "status": "failed", "reason": reason}


@contextmanager
def _attempt(path: Path, job: Job, state: Path) -> Iterator[int]:
    """How often a job was begun without its state having moved on, so that no network can stop a list for ever."""
    moved = state.stat().st_mtime_ns if state.is_file() else 0
    count = 1
    if path.is_file():
        last = json.loads(path.read_text())
        count += last["count"] if (last["job"], last["moved"]) == (job.name, moved) else 0
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"job": job.name, "moved": moved, "count": count}))
    try:
        yield count
    finally:  # not reached where the process is killed
        path.unlink(missing_ok=True)


def fit(
    archs: str,
    data: str = "digits",
    out: str = "out/fit",
    space: str | None = None,
    skeleton: dict[str, Any] | None = None,
    resolution: int | None = None,
    classes: list[int | str] | None = None,
    train_size: int | None = None,
    test_rest: bool = False,
    preset: str = "default",
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    warmup: float | None = None,
    weight_decay: float | None = None,
    label_smoothing: float | None = None,
    flip: bool | None = None,
    crop: int | None = None,
    cutout: int | None = None,
    ema: float | None = None,
    validation: float | None = None,
    mixed_precision: str | None = None,
    seed: int = 0,
    seeds: int = 1,
    halving: int | None = None,
    share: str | None = None,
    weights: str | None = None,
    accumulate: int = 1,
    channels_last: bool = False,
    compile: bool = False,
    cpu: bool = False,
    save_every: float = 30.0,
    trackers: list[str] | None = None,
) -> dict[str, Any] | None:
    """Train generated networks: one, or a list of them.

    One network is trained by all processes (`torchrun`, `accelerate launch`); `out` gets its weights, its learning
    curve, and what `archgen.load_network` needs. Of a list each process trains its share, one network at a time; `out`
    gets one line a network in `results-*.jsonl`, with the reason where it failed. Started again with the same words, a
    run that was stopped goes on, and ends with the same weights to the bit.

    Args:
        archs: A native string, a file of JSON lines as `sample` writes, - for standard input, or `random:N` for random
            members of the space.
        data: `digits`, a folder of images, an .npz or a .parquet file (see `archgen.images.load_images`).
        out: Folder for what comes of it.
        space: Name or YAML file of the search space; found out if absent.
        skeleton: Settings of the space's skeleton to change, such as {width: 8, cells: 1}.
        resolution: Side that the images are scaled to.
        classes: Only these classes, by name or position.
        train_size: Only so many training images.
        test_rest: Whether the training images that are left are for testing, too.
        preset: What the settings below are where they are absent: `default`, or the published `nasbench201-12` or
            `nasbench201-200`.
        epochs: Passes over the training images.
        batch_size: Images a step and process.
        lr: Largest learning rate.
        warmup: Epochs until it is reached.
        weight_decay: Of all weights.
        label_smoothing: Probability taken from the label and spread over the classes.
        flip: Whether images are mirrored at random.
        crop: Largest random shift, in pixels.
        cutout: Side of a random square that is blanked, in pixels.
        ema: Decay of the average of the weights that is evaluated and kept.
        validation: Share of the training images that the best epoch of one network is chosen by; each of a list is
            kept as it is after its last epoch.
        mixed_precision: `no`, `bf16` or `fp16`.
        seed: Seed of weights, order and augmentation.
        seeds: Trainings of each network, with this seed and those that follow it.
        halving: Successive halving: train all briefly, keep the best 1 of so many, train those so many times longer.
        share: Part of a list to train, such as 2/4, on machines that do not know of each other.
        weights: Start from these: a folder that `fit` wrote, or a .safetensors file.
        accumulate: Parts that a batch is cut into to save memory.
        channels_last: Whether channels vary fastest in memory.
        compile: Whether the network is compiled; takes a minute at first.
        cpu: Whether not to use a GPU that is there.
        save_every: Seconds between saved states.
        trackers: `wandb` (offline unless WANDB_MODE says otherwise), `tensorboard`, or none.

    Raises:
        ValueError: If the request is at fault.

    Returns:
        Accuracies in percent of one network, or the sum of what became of a list; on the first process alone.
    """
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    given = locals()
    changed = {name: given[name] for name in asdict(Recipe()) if given.get(name) is not None}
    recipe = replace(PRESETS[preset], **changed)
    check_counts(accumulate=accumulate, seeds=seeds)
    chosen = None if space is None else load_space(space)
    architectures = rescale(read_architectures(archs, chosen, seed), skeleton)
    many = len(architectures) > 1 or seeds > 1
    if (halving or share) and not many:
        raise ValueError("halving and share are for lists of architectures")
    if weights and many:
        raise ValueError("weights belong to one network, so they cannot start a list")
    images = load_images(data, resolution, classes, train_size, test_rest)
    images.held_out(recipe.validation)  # refuses what cannot be held out before anything is written
    start, digest = (None, "") if weights is None else read_weights(weights)
    accelerator = make_accelerator(out, recipe.mixed_precision, trackers, asdict(recipe), cpu)
    machine = Machine(accelerator, not many, accumulate, channels_last, compile, save_every)
    try:
        if not many:
            result = fit_one(Job(architectures[0], images, recipe, seed, digest), out, machine, start)
            return result if machine.accelerator.is_main_process else None
        jobs = [Job(a, images, recipe, seed + k) for k in range(seeds) for a in architectures]
        return _fit_list(jobs, Path(out), machine, halving, share)
    finally:
        end_training(machine.accelerator)


def _fit_list(
    jobs: list[Job], out: Path, machine: Machine, halving: int | None, share: str | None
) -> dict[str, Any] | None:
    """Train the jobs of this process, in rungs where they are halved, and sum up on the first process."""
    if halving is not None and (halving < 2 or not jobs[0].recipe.validation):
        raise ValueError("halving is at least 2, and chooses by validation, a share of the training images above 0")
    jobs = list({key_of(job.key): job for job in jobs}.values())  # equal networks are trained once
    state = machine.accelerator.state
    rank, processes = state.process_index, state.num_processes
    file = rank
    if share is not None:
        file, parts = _parse_share(share)
        jobs = jobs[file::parts]
    results = Results(out, file)
    epochs, rungs = jobs[0].recipe.epochs if jobs else 1, 0
    if halving is not None:
        rungs = int(min(math.log(epochs, halving), math.log(max(len(jobs), 1), halving)) + 1e-9)
    found: list[dict[str, Any]] = []
    for rung in range(rungs, -1, -1):
        jobs = [
            replace(job, recipe=replace(job.recipe, epochs=max(1, epochs // (halving or 1) ** rung))) for job in jobs
        ]
        found = train_jobs(jobs, results, machine, (rank, processes), bar=state.is_local_main_process)
        if processes > 1:
            found = gather_object(found)
        score = {key_of(record): record["valid_acc_pct"] for record in found if record["status"] == "done"}
        jobs = [job for job in jobs if key_of(job.key) in score]
        if rung:
            jobs = sorted(jobs, key=lambda job: -score[key_of(job.key)])[: max(1, len(jobs) // halving)]
    return _summary(found, results) if state.is_main_process else None


def _parse_share(share: str) -> tuple[int, int]:
    """`2/4` is the second of four: position 1 of 4."""
    words = share.split("/")
    if len(words) != 2 or not all(map(str.isdecimal, words)) or not 1 <= int(words[0]) <= int(words[1]):
        raise ValueError(f"share is written 2/4 for the second of four parts, got {share!r}")
    return int(words[0]) - 1, int(words[1])


def _summary(found: list[dict[str, Any]], results: Results) -> dict[str, Any]:
    done = [record for record in found if record["status"] == "done"]
    reasons = Counter(record["reason"] for record in found if record["status"] == "failed")
    best = max(done, key=lambda record: record["test_acc_pct"], default=None)
    shown = ("arch", "test_acc_pct", "valid_acc_pct", "seed")
    return {
        "done": len(done),
        "failed": dict(reasons),
        "best": {name: best[name] for name in shown} if best else None,
        "results": str(results.path),
    }


def fit_one(job: Job, out: str | Path, machine: Machine, weights: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """Train one network and keep it.

    Args:
        job: What to train.
        out: Folder for `network.json`, `best.safetensors`, `last.safetensors`, `metrics.jsonl` and `curve.png`.
        machine: Where to train.
        weights: Weights to start from.

    Returns:
        Its accuracies in percent, and what it is.

    Raises:
        ValueError: If the folder holds another network, or cannot be written.
        RuntimeError: If the training diverges.
    """
    folder, writes = Path(out), machine.share[0] == 0
    entry = {
        "key": job.key,
        **describe(job.architecture, job.images.classes, job.images.shape),
        "recipe": asdict(job.recipe),
        "result": None,
    }
    known = read_network(folder) if writes and (folder / "network.json").is_file() else None
    if machine.share[1] > 1:
        (known,) = broadcast_object_list([known])  # other machines may not see the folder
    if known is not None and known["key"] != job.key:
        raise ValueError(f"{folder} holds another network or another training of it; choose another --out")
    if known is not None and known["result"] is not None:
        return {**known["result"], "network": str(folder)}
    task = _on_device(job.images, job.recipe.validation, machine)
    training = Training(job.architecture, *task, job.recipe, machine, job.seed, weights)
    if writes:
        _write_json(folder / "network.json", entry)
    try:
        result = training.run(folder / "state" / "state.pt", folder, job.name)
    except Diverged as error:
        raise RuntimeError(f"the training diverged: {error}; a smaller --lr may help") from error
    if writes:
        if find_spec("matplotlib"):
            from archgen.plot import draw_learning_curve

            draw_learning_curve(training.metrics, folder / "curve.png")
        _write_json(folder / "network.json", {**entry, "result": result})
        shutil.rmtree(folder / "state", ignore_errors=True)
    machine.accelerator.wait_for_everyone()
    return {**result, "network": str(folder)}


def _write_json(path: Path, entry: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
