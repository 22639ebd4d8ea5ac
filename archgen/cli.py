"""The `archgen` command. Each subcommand is a plain function: its signature is the API, the options and the recipe."""

from __future__ import annotations

import atexit
import gc
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from archgen.graph import Architecture
    from archgen.pipeline import ArchitecturePipeline

COLLECTED = 50_000  # new objects before garbage is looked for: among those of imports it would take two seconds
COMMANDS = {  # the module that holds the function, and what it does; imported when it is called
    "sample": ("archgen.cli", "architectures from a checkpoint, under any conditions"),
    "ask": ("archgen.ask", "architectures from words, or a refusal with the reason"),
    "describe": ("archgen.ask", "an architecture in words"),
    "find": ("archgen.ask", "the architectures that a text describes, among given ones"),
    "build": ("archgen.cli", "the network of an architecture: its cost, a check run, a picture, ONNX"),
    "fit": ("archgen.fit", "train generated networks on your images: one, or a list"),
    "search": ("archgen.search", "find the best networks with few measurements"),
    "train": ("archgen.train", "train what a recipe names"),
    "corpus": ("archgen.corpus", "texts about a space, each with what it means, as a file"),
    "train_text": ("archgen.train_text", "train ArchBERT and its reader of requests"),
    "train_told": ("archgen.train_told", "train the network that texts steer"),
    "finetune": ("archgen.finetune", "teach a checkpoint new columns, or a new space, from a small table"),
    "evaluate": ("archgen.evaluate", "the numbers on a checkpoint's card, again"),
    "latency": ("archgen.latency", "milliseconds of networks on this device"),
    "convert": ("archgen.convert", "official benchmark files, or results of fit, to a table"),
}


def sample(
    checkpoint: str,
    n: int = 16,
    seed: int = 0,
    text: str | None = None,
    where: str | None = None,
    condition: dict[str, float | str | list[float]] | None = None,
    maximize: str = "",
    minimize: str = "",
    table: str | None = None,
    reward: str | None = None,
    strength: float | None = None,
    particles: int = 64,
    task: str | None = None,
    resolution: int | None = None,
    evaluated: str | None = None,
    like: str | None = None,
    change: int | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    distinct: bool = True,
    batch_size: int = 1024,
    device: str = "cpu",
    out: str | None = None,
    draw: str | None = None,
) -> None:
    """Sample architectures from a trained checkpoint.

    Args:
        checkpoint: Name of a shipped checkpoint, a folder with `model_index.json`, or a Hub id.
        n: Number of architectures.
        seed: Seed of the sampler.
        text: What is asked for, in words, as in `ask`.
        where: Hard constraint, such as "params_m <= 0.4 and depth >= 2 and count(avg_pool_3x3) == 0"; what is measured
            goes with a confidence: "latency_ms <= 20 @ 90%".
        condition: Learned properties as {name: value, name: [low, high]}.
        maximize: Properties to be as high as possible, separated by commas. Several objectives, in `minimize` and
            `reward` too, give a Pareto set.
        minimize: Properties to be as low as possible, separated by commas.
        table: Table of measurements to learn from, so that its columns can be asked for too: its path, or its name,
            such as cpu_latency/mnasnet.
        reward: Function to be high as well, as module:function; it gets a list of architectures and returns one number
            each, NaN for none.
        strength: Weight of the reward per unit of it; by default as much as leaves one architecture in a hundred. The
            variance-exploding process follows the gradient of one column of `table` with it, and needs a number.
        particles: Architectures that compete while they are steered towards a reward.
        task: Images on which the networks are to be accurate: digits, a folder, npz or parquet, as in `fit`.
        resolution: Side of these images; needed where they differ in size.
        evaluated: Results of `archgen fit` on those images, a file or a folder: what is known of them already.
        like: An architecture (native string, or a JSON file) to start from.
        change: How many decisions of `like` are opened again.
        guidance: Weight of the conditions: 0 ignores them, 1 is what was learned; by default 1, for extremes 1.5.
        steps: Network calls for each batch; the scheduler's own number if absent.
        distinct: Whether no two results may be equal networks.
        batch_size: Architectures sampled at once.
        device: Where the network runs: cpu, cuda, ...
        out: File for the results, one JSON object a line.
        draw: Folder for a picture of each result and a sheet of all.
    """
    import torch

    from archgen.images import load_images
    from archgen.pipeline import ArchitecturePipeline
    from archgen.show import draw_all, print_table, write_lines
    from archgen.space import read_architectures

    pipeline = ArchitecturePipeline.load(checkpoint).to(_device(device))
    if table is not None:
        _learn(pipeline, table, f"{where or ''} {maximize} {minimize}", seed)
    start = None
    if like is not None:
        start = read_architectures(like, pipeline.space)[0]
    result = pipeline(
        n=n,
        text=text,
        where=where,
        condition=condition,
        maximize=_words(maximize),
        minimize=_words(minimize),
        reward=reward,
        strength=strength,
        particles=particles,
        task=None if task is None else load_images(task, resolution),
        evaluated=evaluated,
        like=start,
        change=change,
        guidance=guidance,
        steps=steps,
        distinct=distinct,
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(seed),
    )
    if result.understanding is not None:
        result.understanding.say()
    records = result.records(predicted=out is not None)
    if out is not None:
        write_lines(out, records)
    if draw is not None:
        draw_all(result.architectures, Path(draw))
        if result.objectives is not None and len(result.objectives.names) > 1 and len(result.codes):
            from archgen.plot import draw_front

            known, kept = (result.objectives.in_own_units(c) for c in (result.objectives.asked[0], result.codes))
            finite = {name: [v for v in values.tolist() if abs(v) < float("inf")] for name, values in known.items()}
            draw_front(finite, {name: values.tolist() for name, values in kept.items()}, Path(draw) / "front.png")
    print_table(records)
    if len(records) < n:
        print(f"archgen: {len(records)} of {n}: no more distinct ones were found", file=sys.stderr)


def build(
    arch: str,
    space: str | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    resolution: int | None = None,
    draw: str | None = None,
    onnx: str | None = None,
    program: str | None = None,
    skeleton: dict[str, Any] | None = None,
) -> None:
    """Build the network of an architecture, run it once, and print what it costs.

    Args:
        arch: A native string, a file of JSON lines as `sample` writes (its first line), - for standard input, or the
            folder of a network that `fit` trained.
        space: Name or YAML file of the search space; found out if absent.
        num_classes: Width of the classifier; the space's own if absent.
        in_channels: Channels of the images; 3 if absent.
        resolution: Side of the images, of the check run and of the files; the space's own if absent.
        draw: File for a picture: .png, .svg or .pdf.
        onnx: File for the network in ONNX, checked with ONNX Runtime; needs archgen[export].
        program: File for the network as a program of `torch.export`: .pt2.
        skeleton: Changed settings of the network around the architecture, such as {width: 32, cells: 3}.
    """
    import torch

    from archgen.checks import check_counts

    sizes = {"num_classes": num_classes, "in_channels": in_channels, "resolution": resolution}
    check_counts(**sizes)
    architecture, network, shape = _network(arch, space, skeleton, **sizes)
    with torch.no_grad():
        logits = tuple(network(torch.zeros(1, *shape)).shape)
    if draw is not None:
        from archgen.draw import draw as draw_one

        draw_one(architecture, draw)
    cost = architecture.space.cost.exact(architecture.space.encode(architecture)[None])
    print(f"space   {architecture.space.name}\narch    {architecture}\nhash    {architecture.hash}")
    for name, value in cost.items():
        print(f"{name:7} {value.item():.6g}")
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"module  {count:,} parameters, images {(1, *shape)} -> logits {logits}")
    _export(network, shape, onnx, program)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `archgen` console script.

    Args:
        arguments: What stands behind `archgen`; from the command line if absent.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # alone in its process, where imports make a million objects that stay
        gc.set_threshold(COLLECTED)
        atexit.register(gc.freeze)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return
    if words[0] == "--version":
        from archgen import __version__

        print(__version__)
        return
    if words[0] not in COMMANDS:
        _refuse(f"no command {words[0]!r}; there are {', '.join(COMMANDS)}")
    from jsonargparse import ArgumentError, auto_cli

    function = getattr(import_module(COMMANDS[words[0]][0]), words[0])
    try:
        result = auto_cli(
            function,
            args=words[1:],
            as_positional=not words[0].startswith("train"),
            exit_on_error=False,
            allow_abbrev=False,
            prog=f"archgen {words[0]}",
        )
    except (ArgumentError, ValueError) as error:
        _refuse(str(error))
    except BrokenPipeError:  # whoever read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        print("archgen: stopped", file=sys.stderr)
        sys.exit(130)
    if result is not None:
        import json

        print(json.dumps(result, indent=1))


def _overview() -> str:
    lines = [f"  {name:11}{summary}" for name, (_, summary) in COMMANDS.items()]
    usage = "usage: archgen COMMAND ...    archgen COMMAND --help    archgen COMMAND --config recipe.yaml"
    return "\n".join([usage, "", "Neural networks generated to order.", "", *lines])


def _refuse(reason: str) -> None:
    """Say in one line what is wrong with the request, and stop with status 2."""
    print(f"archgen: {' '.join(reason.split())[:600]}", file=sys.stderr)
    sys.exit(2)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here: {str(error).splitlines()[0]}") from error
    return name


def _network(
    arch: str,
    space: str | None,
    skeleton: dict[str, Any] | None,
    num_classes: int | None,
    in_channels: int | None,
    resolution: int | None,
) -> tuple[Architecture, nn.Module, tuple[int, int, int]]:
    """The architecture that `build` is given, its network in evaluation mode, and the shape of the images."""
    if os.path.isdir(arch):
        from archgen.classifier import load_network

        fixed = {"num_classes": num_classes, "in_channels": in_channels, "skeleton": skeleton}
        if changed := [name for name, value in fixed.items() if value is not None]:
            raise ValueError(f"{arch} is a trained network, which has its own {changed[0]}")
        network = load_network(arch, space=space)
        channels, height, width = network.shape
        return network.architecture, network, (channels, resolution or height, resolution or width)
    from archgen.space import load_space, read_architectures, rescale

    found = read_architectures(arch, None if space is None else load_space(space))
    (architecture,) = rescale(found[:1], skeleton)
    channels = in_channels or 3
    side = resolution or int(architecture.space.skeleton.get("resolution", 32))
    network = architecture.build(num_classes=num_classes, in_channels=channels).eval()
    return architecture, network, (channels, side, side)


def _learn(pipeline: ArchitecturePipeline, name: str, asked: str, seed: int) -> None:
    """Learn the columns of a table that a request names."""
    from archgen.benchmark import Table, find_table

    table = Table.read(find_table(name), pipeline.space)
    measured = [column for column in table.columns if column not in pipeline.space.cost.names]
    columns = [column for column in measured if re.search(rf"(?<!\w){re.escape(column)}(?!\w)", asked)]
    if not columns:
        raise ValueError(f"no column of {table.path} is asked for; it has {', '.join(measured) or 'none'}")
    pipeline.learn(table, columns, seed)


def _export(network: nn.Module, shape: tuple[int, int, int], onnx: str | None, program: str | None) -> None:
    """Write the files that are asked for; say of each how large it is and how far from the module."""
    for name, path in (("onnx", onnx), ("program", program)):
        if path is not None:
            from archgen import export

            difference = getattr(export, f"to_{name}")(network, path, shape)
            size = Path(path).stat().st_size
            print(f"{name:7} {path}, {size:,} bytes, largest relative difference {difference:.2g}")
