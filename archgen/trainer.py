"""Trains one network on images: the recipe, the machine, the steps, and a state from which it goes on bit by bit."""

from __future__ import annotations

import json
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from archgen.classifier import Classifier, load_weights
from archgen.graph import Architecture
from archgen.hub import BadFile, read_state, replacing, save_state
from archgen.images import Images, ImageSet, augment
from archgen.synchronize import synchronize_batch_norm

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: everything that decides what becomes of it, beside the data and the seed.

    SGD with Nesterov momentum; the learning rate rises linearly, then falls to 0 along half a cosine, step by step.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step and process; what is left of an epoch after the last whole batch is skipped.
        lr: Largest learning rate.
        warmup: Epochs until it is reached.
        momentum: Of SGD.
        weight_decay: Of all weights.
        label_smoothing: Probability taken from the label and spread over all classes.
        clip: Largest norm of the gradient; 0 for none.
        flip: Whether images are mirrored at random.
        crop: Largest random shift, in pixels.
        cutout: Side of the random square that is blanked, in pixels.
        ema: Decay of the average of the weights that is evaluated and kept; 0 for none.
        validation: Share of the training images that is set aside, to choose the best epoch by where one network is
            trained; of a list each is kept as it is after its last epoch.
        mixed_precision: `no`, `bf16` or `fp16`.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.1
    warmup: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    clip: float = 5.0
    flip: bool = False
    crop: int = 1
    cutout: int = 0
    ema: float = 0.0
    validation: float = 0.1
    mixed_precision: str = "no"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be trained with."""
        for one in fields(self):
            if isinstance(one.default, float):  # equal recipes are written alike, 0 as 0.0
                object.__setattr__(self, one.name, float(getattr(self, one.name)))
        wrong = [name for name in ("epochs", "batch_size") if getattr(self, name) < 1]
        wrong += [name for name in ("lr",) if not getattr(self, name) > 0]
        rest = ("warmup", "weight_decay", "clip", "crop", "cutout")
        wrong += [name for name in rest if not 0 <= getattr(self, name) < math.inf]
        wrong += [
            name for name in ("momentum", "label_smoothing", "ema", "validation") if not 0 <= getattr(self, name) < 1
        ]
        if wrong:
            raise ValueError(f"{wrong[0]} is out of range: {getattr(self, wrong[0])}")
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"mixed_precision is no, bf16 or fp16, got {self.mixed_precision!r}")


# Dong & Yang, ICLR 2020, arXiv 2001.00326, table 1 (200 epochs) and section 2.3 (12 epochs)
NB201 = Recipe(epochs=200, batch_size=256, warmup=0.0, clip=0.0, flip=True, crop=4, validation=0.0)
PRESETS = {"default": Recipe(), "nasbench201-12": replace(NB201, epochs=12), "nasbench201-200": NB201}


@dataclass(frozen=True)
class Machine:
    """How a network is trained here; it changes speed and memory, and the result by rounding at most.

    Attributes:
        accelerator: Device, precision and processes.
        together: Whether all processes train one network; else each trains its own.
        accumulate: Parts that a batch is cut into to save memory; batch normalization sees the parts.
        channels_last: Whether channels vary fastest in memory.
        compile: Whether the network is compiled.
        save_every: Seconds between saved states; 0 saves every step.
    """

    accelerator: Accelerator
    together: bool = False
    accumulate: int = 1
    channels_last: bool = False
    compile: bool = False
    save_every: float = 30.0

    @property
    def share(self) -> tuple[int, int]:
        """Rank and number of the processes that train the same network."""
        return (self.accelerator.process_index, self.accelerator.num_processes) if self.together else (0, 1)


class Diverged(Exception):
    """The loss is no longer a number."""


class Training:
    """One network in training.

    Every draw depends on the seed and the step alone, so that a run resumed from a saved state ends with the same
    weights, to the bit, as one that was never stopped.

    Args:
        architecture: What to train.
        images: The task, on the CPU or on the device; `held_out` images are taken away already.
        held_out: Images and labels to choose the best epoch by; none to take the last.
        recipe: How to train it.
        machine: Where.
        seed: Seed of the weights, the order of the images and their augmentation.
        weights: Weights to start from.
    """

    def __init__(
        self,
        architecture: Architecture,
        images: ImageSet,
        held_out: tuple[Images, Int[Tensor, " images"]],
        recipe: Recipe,
        machine: Machine,
        seed: int = 0,
        weights: dict[str, Tensor] | None = None,
    ):
        accelerator = machine.accelerator
        self.images, self.held_out, self.recipe, self.machine, self.seed = images, held_out, recipe, machine, seed
        rank, processes = machine.share
        whole = min(recipe.batch_size * processes, len(images.train) // processes * processes)
        if whole < processes:
            raise ValueError(f"{len(images.train)} training images are too few for {processes} processes")
        self.batch, self.rows = whole, slice(rank * whole // processes, (rank + 1) * whole // processes)
        self.epoch_steps = len(images.train) // whole
        self.steps = recipe.epochs * self.epoch_steps
        torch.manual_seed(seed)
        self.model = Classifier(architecture, images.classes, images.shape, *images.statistics)
        if weights is not None:
            load_weights(self.model, weights, "the weights given")
        if processes > 1:
            self.model = synchronize_batch_norm(self.model)
        self.model.to(accelerator.device)
        if machine.channels_last:
            self.model.to(memory_format=torch.channels_last)
        fused = accelerator.device.type in ("cpu", "cuda")
        optimizer = torch.optim.SGD(
            self.model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0, fused=fused,
        )  # fmt: skip
        registers = machine.together or accelerator.scaler is not None  # accelerate holds on to what it prepares
        self.optimizer = accelerator.prepare(optimizer) if registers else optimizer
        self.average = None
        if recipe.ema:
            average = get_ema_multi_avg_fn(recipe.ema)
            self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.wrapped = accelerator.prepare(self.model) if machine.together else self.model
        self.forward = torch.compile(self.wrapped) if machine.compile else self.wrapped
        self.fill = (images.statistics[0] * 255).round().to(torch.uint8).to(accelerator.device)
        self.step, self.seconds = 0, 0.0
        self.best, self.best_weights = -1.0, {}
        self.metrics: list[dict[str, float]] = []
        self._order: Tensor | None = None
        self._sums = [torch.zeros((), device=accelerator.device)] * 2  # of the epoch: losses, images classified right

    @property
    def evaluated(self) -> Classifier:
        """The network that is evaluated and kept: the averaged one where there is an average."""
        return self.model if self.average is None else self.average.module

    def run(self, state: Path, folder: Path | None = None, key: str = "", bar: bool = True) -> dict[str, float | None]:
        """Take all steps that are left.

        Args:
            state: File of the state of the run.
            folder: Where `best.safetensors`, `last.safetensors` and `metrics.jsonl` go; nothing is kept if absent.
            key: What the state is of; a state of anything else is not resumed.
            bar: Whether to show progress.

        Returns:
            Accuracies in percent, the training loss, and the seconds that it took, over all attempts.

        Raises:
            Diverged: If the loss is no longer finite.
            ValueError: If the state is damaged or belongs to another run, or something cannot be written.
        """
        writes = self.machine.share[0] == 0
        self._resume(state, key)
        started, before = time.monotonic(), self.seconds
        saved = started
        progress = tqdm(total=self.steps, initial=self.step, unit="step", disable=not (bar and writes))
        while self.step < self.steps:
            self._sums = [total + part for total, part in zip(self._sums, self._step(), strict=True)]
            self.step += 1
            self.seconds = before + time.monotonic() - started
            progress.update()
            if self.step % self.epoch_steps == 0:
                line = self._end_epoch(folder if writes else None)
                shown = {name: f"{line[name]:.4g}" for name in ("train_loss", "valid_acc_pct") if name in line}
                progress.set_postfix(shown)
            if writes and time.monotonic() - saved >= self.machine.save_every and self.step < self.steps:
                self._save(state, key)
                saved = time.monotonic()
        progress.close()
        return self._finish(folder if writes else None)

    def _step(self) -> tuple[Tensor, Tensor]:
        """One step: the mean loss of this process's part of the batch, and how many of it were classified right."""
        accelerator, recipe = self.machine.accelerator, self.recipe
        epoch, position = divmod(self.step, self.epoch_steps)
        if position == 0 or self._order is None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = torch.randperm(len(self.images.train), generator=generator)
        chosen = self._order[position * self.batch : (position + 1) * self.batch][self.rows]
        images, labels = self.images.train[chosen], self.images.train_labels[chosen]
        if recipe.flip or recipe.crop or recipe.cutout:
            generator = torch.Generator().manual_seed(-1 - self.seed * 1_000_003 - self.step)
            images = augment(
                images, generator, recipe.flip, recipe.crop, recipe.cutout, self.fill, self.rows, self.batch
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.model.train()
        total, right = 0.0, 0.0
        parts = list(zip(images.chunk(self.machine.accumulate), labels.chunk(self.machine.accumulate), strict=True))
        for number, (x, y) in enumerate(parts, 1):
            later = number < len(parts) and self.machine.together
            with accelerator.no_sync(self.wrapped) if later else nullcontext():
                with accelerator.autocast():
                    logits = self.forward(self._pixels(x))
                loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
                accelerator.backward(loss * (len(y) / len(labels)))
            total = total + loss.detach() * (len(y) / len(labels))
            right = right + (logits.detach().argmax(-1) == y).sum()
        if recipe.clip:
            accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return total, right

    def _rate(self) -> float:
        """Learning rate of the step to come."""
        warmup = self.recipe.warmup * self.epoch_steps
        if self.step < warmup:
            return self.recipe.lr * (self.step + 1) / (warmup + 1)
        done = (self.step - warmup) / max(1, self.steps - warmup)
        return self.recipe.lr * 0.5 * (1 + math.cos(math.pi * done))

    def _pixels(self, images: Images) -> Float[Tensor, "batch channels height width"]:
        pixels = images.float() / 255
        return pixels.contiguous(memory_format=torch.channels_last) if self.machine.channels_last else pixels

    def _end_epoch(self, folder: Path | None) -> dict[str, float]:
        """What an epoch came to; the best weights are kept."""
        loss, right = self._sum(torch.stack(self._sums)).tolist()
        self._sums = [torch.zeros_like(part) for part in self._sums]
        count = self.machine.share[1] * self.epoch_steps
        line = {
            "epoch": self.step // self.epoch_steps,
            "step": self.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": loss / count,
            "train_acc_pct": 100 * right / (self.epoch_steps * self.batch),
            "seconds": round(self.seconds, 3),
        }
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} in epoch {line['epoch']}")
        keeps = folder is not None or self.machine.together
        if len(self.held_out[0]) and (keeps or self.step == self.steps):
            line["valid_acc_pct"] = self.accuracy(*self.held_out)
            if line["valid_acc_pct"] > self.best:
                self.best = line["valid_acc_pct"]
                self.best_weights = {name: value.clone() for name, value in self.evaluated.state_dict().items()}
                if folder is not None:
                    self._keep(folder / "best.safetensors")
        self.metrics.append(line)
        if folder is not None:
            with replacing(folder / "metrics.jsonl") as temporary:
                temporary.write_text("".join(json.dumps(entry) + "\n" for entry in self.metrics))
        if self.machine.accelerator.trackers and keeps:
            self.machine.accelerator.log({k: v for k, v in line.items() if k != "step"}, step=self.step)
        return line

    def _finish(self, folder: Path | None) -> dict[str, float | None]:
        """Accuracies of the network that is kept: that of the best epoch where there is one, else the last."""
        if folder is not None:
            self._keep(folder / "last.safetensors")
        if self.best_weights:
            self.evaluated.load_state_dict(self.best_weights)
        if folder is not None:
            self._keep(folder / "best.safetensors")
        last = self.metrics[-1]
        return {
            "test_acc_pct": self.accuracy(self.images.test, self.images.test_labels),
            "valid_acc_pct": self.best if self.best_weights else None,
            "train_acc_pct": last["train_acc_pct"],
            "train_loss": last["train_loss"],
            "seconds": round(self.seconds, 3),
        }

    @torch.no_grad()
    def accuracy(self, images: Images, labels: Int[Tensor, " images"]) -> float:
        """Share of images classified right, in percent; each process takes its share of them."""
        rank, processes = self.machine.share
        network = self.evaluated.eval()
        right = torch.zeros((), device=self.machine.accelerator.device)
        for x, y in zip(
            images[rank::processes].split(EVALUATION_BATCH),
            labels[rank::processes].split(EVALUATION_BATCH),
            strict=True,
        ):
            with self.machine.accelerator.autocast():
                right += (network(self._pixels(x)).argmax(-1) == y).sum()
        return 100 * self._sum(right).item() / len(images)

    def _sum(self, value: Tensor) -> Tensor:
        return self.machine.accelerator.reduce(value, "sum") if self.machine.together else value

    # ---- what is kept ----------------------------------------------------------------------------------------------
    def _keep(self, path: Path) -> None:
        """Write the weights; the file appears when it is whole."""
        weights = {name: value.contiguous() for name, value in self.evaluated.state_dict().items()}
        with replacing(path) as temporary:
            temporary.write_bytes(save(weights))

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "average": self.average}
        if (scaler := self.machine.accelerator.scaler) is not None:
            parts["scaler"] = scaler
        return {name: part for name, part in parts.items() if part is not None}

    def _save(self, path: Path, key: str) -> None:
        entry = {name: part.state_dict() for name, part in self._parts().items()}
        numbers = {"step": self.step, "seconds": self.seconds, "best": self.best, "best_weights": self.best_weights}
        save_state({**entry, **numbers, "sums": self._sums, "metrics": json.dumps(self.metrics), "key": key}, path)

    def _resume(self, path: Path, key: str) -> None:
        saved = read_state(path) if self.machine.share[0] == 0 and path.is_file() else None
        if self.machine.share[1] > 1:
            (saved,) = broadcast_object_list([saved])  # other machines may not see the file
        if saved is None:
            return
        if saved["key"] != key:
            raise BadFile(f"{path} is the state of another run; finish that one, remove it, or choose another --out")
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        device = self.machine.accelerator.device
        self.step, self.seconds, self._sums = saved["step"], saved["seconds"], [x.to(device) for x in saved["sums"]]
        self.best, self.best_weights = saved["best"], saved["best_weights"]
        self.metrics = json.loads(saved["metrics"])
