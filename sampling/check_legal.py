"""Samples of every shipped checkpoint, built and run: each is a legal member and a working network.

`python sampling/check_legal.py --n 10000 --out out/legal.json`
"""

from __future__ import annotations

import json
import time

import torch
from tqdm.auto import tqdm

from archgen.graph import Architecture
from archgen.hub import replacing
from archgen.pipeline import ArchitecturePipeline


def works(architecture: Architecture, params: float, side: int) -> bool:
    """Whether the network has the counted parameters, and maps two images to logits.

    It is built without values, which takes most of the time, and run with zeros.
    """
    with torch.device("meta"):
        network = architecture.build()
    if sum(p.numel() for p in network.parameters()) != round(params * 1e6):
        return False
    network = network.to_empty(device="cpu").eval()
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.zero_()
    classes = architecture.space.skeleton["classes"]
    return network(torch.zeros(2, 3, side, side)).shape == (2, classes)


@torch.inference_mode()
def check_legal(
    checkpoints: str = "nasbench201,nasbench101,mnasnet,mobilenetv3",
    n: int = 10_000,
    side: int = 8,
    seed: int = 0,
    out: str = "out/legal.json",
) -> None:
    """Sample, parse back, build and run.

    Args:
        checkpoints: Names, separated by commas.
        n: Samples of each.
        side: Side of the images.
        seed: Seed of the samplers.
        out: File for the numbers.
    """
    results = {}
    for name in checkpoints.split(","):
        begin = time.monotonic()
        pipeline = ArchitecturePipeline.load(name)
        space = pipeline.space
        result = pipeline(n=n, distinct=False, generator=torch.Generator().manual_seed(seed))
        legal = int(space.feasible(result.codes).sum())
        params = space.cost.exact(result.codes)["params_m"].tolist()
        read = worked = 0
        for architecture, count in zip(tqdm(result.architectures, desc=name), params, strict=True):
            read += space.parse(str(architecture)) == architecture
            worked += works(architecture, count, side)
        different, seconds = len(result.codes.unique(dim=0)), round(time.monotonic() - begin)
        results[name] = {"samples": n, "different": different, "legal": legal, "read back": read,
                         "built and run": worked, "seconds": seconds}  # fmt: skip
        print(json.dumps({name: results[name]}), flush=True)
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(check_legal)
