"""Images a second of `archgen fit` against a loop written by hand for the same network, and of two processes.

python training/compare_loop.py                                          # one process, in turns with the loop by hand
torchrun --standalone --nproc_per_node 2 training/compare_loop.py        # one network over two processes

Both take the same steps on the same images: SGD, normalization, cross-entropy; no augmentation. With --compile the
network of `fit` is compiled and the loop's is not. The ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from archgen.images import load_images
from archgen.processes import end_training, make_accelerator
from archgen.space import load_space
from archgen.trainer import Machine, Recipe, Training

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Take turns, and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=15, help="steps a turn")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--cells", type=int, default=2)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    accelerator = make_accelerator("out/compare_loop", "no", None, {})
    found = compared(accelerator, options)
    if accelerator.is_main_process:
        print(json.dumps(found))
    end_training(accelerator)


def compared(accelerator: Accelerator, options: argparse.Namespace) -> dict[str, float]:
    """Images a second of both, and their ratio: medians over the turns."""
    device, processes = accelerator.device, accelerator.num_processes
    images = load_images("digits", options.side)
    space = load_space("nasbench201").scaled({"width": options.width, "cells": options.cells})
    recipe = Recipe(epochs=10_000, batch_size=options.batch_size, crop=0, clip=0, validation=0.0)
    machine = Machine(accelerator, together=processes > 1, compile=options.compile)
    empty = (images.train[:0], images.train_labels[:0])
    training = Training(space.parse(CELL), images, empty, recipe, machine)

    torch.manual_seed(0)
    network = space.parse(CELL).build(num_classes=10, in_channels=1).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True, fused=True)
    pixels, labels = images.train.to(device), images.train_labels.to(device)
    mean, std = (value.to(device)[:, None, None] for value in images.statistics)

    def by_hand() -> None:
        for _ in range(options.steps):
            rows = torch.randint(len(pixels), (options.batch_size,), device=device)
            x = (pixels[rows].float() / 255 - mean) / std
            loss = F.cross_entropy(network(x), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def by_fit() -> None:
        for _ in range(options.steps):
            training._step()
            training.step += 1

    def rate(work) -> float:
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        return options.steps * options.batch_size / (time.perf_counter() - started)

    by_fit(), by_hand()  # warm
    pairs = [(rate(by_fit) * processes, rate(by_hand)) for _ in range(options.turns)]
    fit, hand = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    return {"processes": processes, "fit_images_per_s": round(fit), "loop_images_per_s": round(hand),
            "ratio": round(ratio, 3)}  # fmt: skip


if __name__ == "__main__":
    main()
