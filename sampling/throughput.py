"""Architectures a second against batch, holes and network calls, on one thread.

python sampling/throughput.py --out out/throughput.json
"""

from __future__ import annotations

import json

import torch

from archgen.evaluate import speed
from archgen.hub import replacing
from archgen.pipeline import ArchitecturePipeline


def throughput(
    spaces: str = "nasbench201,nasbench101,mnasnet,mobilenetv3",
    batches: str = "64,1024,8192",
    repeats: int = 3,
    threads: int = 1,
    device: str = "cpu",
    out: str = "out/throughput.json",
) -> None:
    """Measure shipped checkpoints.

    Args:
        spaces: Checkpoints, separated by commas.
        batches: Batch sizes for the first of them; the others are measured at 1,024.
        repeats: Counted runs for each figure.
        threads: Threads of torch.
        device: Where the network runs.
        out: File for the numbers.
    """
    torch.set_num_threads(threads)
    results = []
    for index, name in enumerate(spaces.split(",")):
        pipeline = ArchitecturePipeline.load(name).to(device)
        pipeline.set_progress_bar_config(disable=True)
        holes, value = len(pipeline.space.holes), pipeline.denoiser.quantile("params_m", 0.5)
        requests = {"free": {}, "conditioned": {"condition": {"params_m": value}}}
        requests["constrained"] = {"where": f"params_m <= {value} and depth >= 2"}
        rows = [("free", int(batch), holes) for batch in batches.split(",")] if index == 0 else [("free", 1024, holes)]
        rows += [("conditioned", 1024, holes), ("constrained", 1024, holes)]
        rows += [("free", 1024, calls) for calls in (1, holes // 2)]
        if "cifar100_test" in pipeline.conditions:
            requests["maximized"] = {"maximize": "cifar100_test"}
            rows.append(("maximized", 1024, holes))
        for kind, batch, calls in rows:
            per_second = speed(pipeline, batch, repeats, steps=calls, **requests[kind])
            results.append({"space": name, "holes": holes, "request": kind, "batch": batch, "calls": calls,
                            "per_second": round(per_second)})  # fmt: skip
            print(json.dumps(results[-1]), flush=True)
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(throughput)
