"""Random members of every shipped space, exported to ONNX and compared with their modules.

`python sampling/check_export.py --n 100 --out out/export.json`

An untrained network hardly looks at its images, so with `--lively true` normalizations get random weights and the
statistics they find. Such networks enlarge rounding ten times and more beyond what trained ones do, so a file may be
above the tolerance and right: the module itself is as far from its own float64, which is measured too. Images have 32
pixels a side for the spaces of cells and 64 for those of stages; their own 224 would only take longer.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from archgen.export import TOLERANCE, to_onnx
from archgen.hub import replacing
from archgen.space import load_space

SIDES = {"nasbench201": 32, "nasbench101": 32, "mnasnet": 64, "mobilenetv3": 64}
PASSES, BATCH = 2, 4


@torch.no_grad()
def enliven(network: nn.Module, shape: tuple[int, int, int], generator: torch.Generator) -> None:
    """Give normalizations random weights, and as statistics the average over a few batches of random images."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain average
            for parameter in (module.weight, module.bias):
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    network.train()
    for _ in range(PASSES):
        network(torch.rand(BATCH, *shape, generator=generator))


@torch.no_grad()
def rounding(network: nn.Module, shape: tuple[int, int, int], generator: torch.Generator) -> float:
    """How far the module in float32 is from itself in float64, relative to the largest logit of two images."""
    network.eval()
    images = torch.rand(2, *shape, generator=generator)
    logits, exact = network(images), copy.deepcopy(network).double()(images.double())
    return ((logits - exact).abs().max() / exact.abs().max()).item()


def check_export(
    spaces: str = "nasbench201,nasbench101,mnasnet,mobilenetv3",
    n: int = 100,
    seed: int = 0,
    lively: bool = False,
    out: str = "out/export.json",
) -> None:
    """Build, export, run the file and compare.

    Args:
        spaces: Names, separated by commas.
        n: Random members of each.
        seed: Seed of members, weights and images.
        lively: Whether normalizations are given random weights; else networks are as they are built.
        out: File for the numbers.
    """
    results = {}
    for name in spaces.split(","):
        space, shape = load_space(name), (3, SIDES[name], SIDES[name])
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # of the weights
        differences, roundings, seconds = [], [], []
        with tempfile.TemporaryDirectory() as folder:
            for architecture in tqdm(space.decode_all(space.sample(n, generator)), desc=name):
                network = architecture.build()
                if lively:
                    enliven(network, shape, generator)
                begin = time.monotonic()
                differences.append(to_onnx(network, Path(folder) / "network.onnx", shape, tolerance=math.inf))
                seconds.append(time.monotonic() - begin)
                roundings.append(rounding(network, shape, generator))
        results[name] = {
            "networks": n,
            "lively": lively,
            "side": shape[-1],
            "largest difference": max(differences),
            "median difference": statistics.median(differences),
            "above tolerance": sum(difference > TOLERANCE for difference in differences),
            "largest rounding": max(roundings),
            "median rounding": statistics.median(roundings),
            "median seconds": round(statistics.median(seconds), 2),
        }
        print(json.dumps({name: results[name]}), flush=True)
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(check_export)
