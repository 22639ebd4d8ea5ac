"""Optimizer steps: AdamW under a cosine schedule, with averaged weights, that go on where they were stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm.auto import tqdm

from archgen.hub import resume, save_state
from archgen.processes import end_training

MEMORY = 0.98  # of the running means of losses
SHOWN = 20  # steps between numbers on the bar and in trackers


class Descent:
    """The steps of one run of training.

    Started again with the same recipe, it goes on from its last saved step. Draws that depend on the step alone make
    it end with the same weights as one that was not stopped, so no random generator is saved.

    Args:
        accelerator: Placement, precision and processes.
        network: What learns.
        groups: Parameters, as AdamW takes them.
        max_steps: Steps in all.
        warmup: Steps of linear warm-up; after it cosine decay to zero.
        state: File of the saved state.
        recipe: Of this run, as JSON values.
        save_every: Steps between saved states; the last is saved too.
        lr: Largest learning rate, of groups without their own.
        weight_decay: Decoupled weight decay, of groups without their own.
        clip: Largest norm of the gradient.
        ema: Decay of averaged weights; none are kept if absent.
        apart: Whether parts of the network are called apart, so that the wrapper of several processes has no forward
            pass to hook into; gradients are then averaged here.

    Attributes:
        model: The network as it is to be called in training, by several processes wrapped.
        begin: The first step that is left.
        step: The one that is taken.
        seconds: Spent on steps, those before a stop too.
        losses: Running mean of each loss.
        average: Averaged weights.

    Raises:
        ValueError: If a rate is no number of at least 0, or the saved state belongs to another recipe or is damaged.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: nn.Module,
        groups: list[Any],
        max_steps: int,
        warmup: int,
        state: Path,
        recipe: dict[str, Any],
        save_every: int,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        ema: float | None = None,
        apart: bool = False,
    ):
        self.accelerator, self.network, self.max_steps = accelerator, network, max_steps
        self.state, self.recipe, self.save_every, self.clip, self.apart = state, recipe, save_every, clip, apart
        for rate in [lr, *(group["lr"] for group in groups if isinstance(group, dict) and "lr" in group)]:
            if not 0 <= rate < float("inf"):
                raise ValueError(f"a learning rate is a number of at least 0, got {rate!r}")
        self.model = network if apart else accelerator.prepare(network)
        optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.98), fused=True)
        self.optimizer = accelerator.prepare(optimizer)
        self.schedule = get_scheduler(
            "cosine", self.optimizer.optimizer, num_warmup_steps=warmup, num_training_steps=max_steps
        )
        self.parts = {"model": network, "optimizer": self.optimizer.optimizer, "schedule": self.schedule}
        if accelerator.scaler is not None:
            self.parts["scaler"] = accelerator.scaler
        self.average: EMAModel | None = None
        if ema is not None:
            self.average = EMAModel(network.parameters(), decay=ema, use_ema_warmup=True, power=0.75)
            self.average.to(accelerator.device)
            self.parts["ema"] = self.average
        saved = resume(state, self.parts, recipe, accelerator.device) or {}
        self.begin = self.step = int(saved.get("step", 0))
        self.seconds, self.losses = float(saved.get("seconds", 0.0)), dict(saved.get("losses", {}))

    def marks(self, seed: int) -> list[int]:
        """For each step that is left what its draws begin from: by the seed, the step and the process alone."""
        left = range(self.begin, self.max_steps)
        return [(seed * 1_000_003 + step) * 1024 + self.accelerator.process_index for step in left]

    def steps(self, seed: int) -> Iterator[int]:
        """The marks of all steps that are left, behind a bar; each step is to call `down` once."""
        started, before, main = time.monotonic(), self.seconds, self.accelerator.is_main_process
        marks = self.marks(seed)
        bar = tqdm(marks, "steps", self.max_steps, initial=self.begin, disable=not main)
        for step, mark in enumerate(bar, self.begin):
            self.step = step
            yield mark
            self.seconds = before + time.monotonic() - started
            last = step == self.max_steps - 1
            if step % SHOWN == 0 or last:
                bar.set_postfix({name: f"{loss:.4f}" for name, loss in self.losses.items()})
                self.accelerator.log({**self.losses, "lr": self.schedule.get_last_lr()[-1]}, step=step)
            if main and ((step + 1) % self.save_every == 0 or last):  # what follows may be stopped too
                self._save()

    def down(self, losses: dict[str, Tensor]) -> None:
        """One step down the sum of some losses.

        Raises:
            ValueError: If it is no number.
        """
        loss = sum(losses.values())
        if not loss.isfinite():
            raise ValueError(f"the loss is no number at step {self.step}; try a lower lr")
        self.accelerator.backward(loss)
        if self.apart and self.accelerator.num_processes > 1:
            self._share()
        self.accelerator.clip_grad_norm_(self.network.parameters(), self.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.step(self.network.parameters())
        for name, value in losses.items():
            now = value.item()
            self.losses[name] = MEMORY * self.losses.get(name, now) + (1 - MEMORY) * now

    def _share(self) -> None:
        """The mean of each gradient over the processes; what no process has a gradient of stays without."""
        parameters = [*self.network.parameters()]
        here = torch.tensor([float(one.grad is not None) for one in parameters], device=self.accelerator.device)
        for parameter, count in zip(parameters, self.accelerator.reduce(here, "sum").tolist(), strict=True):
            if count:
                grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(grad, "mean")

    def _save(self) -> None:
        progress = {
            "step": self.step + 1,
            "seconds": self.seconds,
            "losses": self.losses,
            "recipe": json.dumps(self.recipe),
        }
        save_state({name: part.state_dict() for name, part in self.parts.items()} | progress, self.state)

    def averaged(self) -> nn.Module:
        """The network with its averaged weights, if there are any, ready for use."""
        if self.average is not None:
            self.average.copy_to(self.network.parameters())
        return self.network.eval()

    def end(self) -> None:
        """Wait until all processes are done, and part."""
        self.accelerator.wait_for_everyone()
        del self.model
        end_training(self.accelerator)
