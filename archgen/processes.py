"""Where training runs: device, precision, the processes that take part, and how they part again."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration

HALF_ON_CPU = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # instructions without which bf16 is emulated


def make_accelerator(
    folder: str | Path, mixed_precision: str, trackers: Sequence[str] | None, config: dict[str, Any], cpu: bool = False
) -> Accelerator:
    """An accelerator that logs to a folder: W&B (offline unless WANDB_MODE says otherwise), TensorBoard, or nothing.

    Args:
        folder: Where trackers write.
        mixed_precision: `no`, `bf16` or `fp16`; `bf16` is `no` on a CPU that would only emulate it, at a tenth of the
            speed.
        trackers: Their names.
        config: What is trained, for them.
        cpu: Whether not to use a GPU that is there.
    """
    cpu = cpu or not torch.cuda.is_available()
    if cpu and mixed_precision == "bf16" and emulates_half():
        print("archgen: this CPU has no instructions for bf16, training in full precision", file=sys.stderr)
        mixed_precision = "no"
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        cpu=cpu,  # without this, accelerate sees one process under torchrun
        log_with=trackers or None,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # dead ends, open masks
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(Path(folder) / "tensorboard")),
    )
    if trackers:
        Path(folder).mkdir(parents=True, exist_ok=True)
        wandb = {"mode": os.environ.get("WANDB_MODE", "offline"), "dir": str(folder)}
        flat = {key: str(value) for key, value in config.items()}
        accelerator.init_trackers("archgen", config=flat, init_kwargs={"wandb": wandb})
    return accelerator


def emulates_half() -> bool:
    """Whether the CPU lacks instructions for bf16, as far as this PyTorch can tell."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else None
    return found is not None and not any(found.get(name) for name in HALF_ON_CPU)


def end_training(accelerator: Accelerator) -> None:
    """Finish the trackers and leave the other processes; the caller holds no wrapped network any more.

    A wrapped one (DDP) that outlived the process group would be the last to hold it, and destroy it with Python's lock
    taken, waiting for threads of gloo that may be waiting for that lock: such a process never ends (pytorch#56297).
    """
    accelerator.free_memory()
    accelerator.end_training()
