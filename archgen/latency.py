"""Latency of networks measured on this device, as a table that predictors and generators learn from."""

from __future__ import annotations

import ctypes
import math
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from archgen.benchmark import READABLE, Table
from archgen.checks import check_counts
from archgen.hub import brief
from archgen.space import SearchSpace, load_space, read_architectures

CHUNK, REFERENCES = 50, 5  # networks measured together, and how many earlier ones are measured again with them
PASSES, QUANTILE = 3, 0.1  # timed in a turn, at least; of all times of a network, its latency
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
Codes = tuple[int, ...]


# ---- what is measured -----------------------------------------------------------------------------------------------
def _members(archs: str, space: str | None, seed: int) -> tuple[SearchSpace, list[Codes]]:
    """The space of what the command's argument names, and the different encodings there."""
    found = read_architectures(archs, load_space(space) if space is not None else None, seed)
    if len(names := {one.space.name for one in found}) > 1:
        raise ValueError(f"a table is of one space, got architectures of {', '.join(sorted(names))}")
    return found[0].space, list(dict.fromkeys(tuple(one.space.encode(one).tolist()) for one in found))


def _arrange(space: SearchSpace, skeleton: Mapping[str, Any] | None, **sizes: int | None) -> tuple[SearchSpace, str]:
    """The space with other settings of its networks, and a word for each that is not the space's own."""
    own = {"resolution": 32, "classes": 10, **space.skeleton}
    new = {**own, **space.scaled(skeleton).skeleton, **{name: size for name, size in sizes.items() if size}}
    changed = {name: re.sub(r"\W+", "x", str(value)).strip("x") for name, value in new.items() if value != own[name]}
    return replace(space, skeleton=new), "".join(f"_{name}{word}" for name, word in changed.items())


def _images(shape: tuple[int, ...], device: str, seed: int) -> Float[Tensor, "batch channels height width"]:
    """Random images on a device."""
    try:
        if torch.device(device).type not in ("cpu", "cuda"):
            raise RuntimeError("latency is measured on cpu, cuda, cuda:1, ...")
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no images {shape} on device {device!r}: {str(error).splitlines()[0]}") from error


# ---- measuring ------------------------------------------------------------------------------------------------------
def time_pass(network: nn.Module, images: Float[Tensor, "batch channels height width"]) -> float:
    """Time of one forward pass, in ms.

    A GPU is timed by its own events. One thread of a CPU is timed while it runs: waiting for a core that other
    programs use does not count, and on an idle machine there is no difference. Several are timed by the wall clock.
    """
    if images.is_cuda:
        stream = torch.cuda.current_stream(images.device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(stream)
        network(images)
        end.record(stream)
        end.synchronize()
        return start.elapsed_time(end)
    clock = time.thread_time_ns if torch.get_num_threads() == 1 else time.perf_counter_ns
    begin = clock()
    network(images)
    return (clock() - begin) / 1e6


@torch.inference_mode()
def measure(
    builds: Sequence[Callable[[], nn.Module]],
    images: Float[Tensor, "batch channels height width"],
    rounds: int,
    seconds: float,
    generator: torch.Generator,
    progress: Callable[[int], Any],
) -> tuple[list[list[float]], dict[int, str]]:
    """Time networks in turns, each round in another order, so that drifts of the machine hit all of them alike.

    A turn is a pass that brings the network into the caches, and as many timed ones as fit into `seconds`.

    Returns:
        All times of each network in ms, none if it raised anything; and what those raised, by position.
    """
    times: list[list[float]] = [[] for _ in builds]
    networks: dict[int, nn.Module] = {}
    failures: dict[int, str] = {}
    for turn in range(rounds):
        for position in torch.randperm(len(builds), generator=generator).tolist():
            progress(position)
            if position in failures:
                continue
            try:
                if turn == 0:
                    networks[position] = builds[position]().to(images.device).eval()
                networks[position](images)
                end, passes = time.perf_counter() + seconds, 0
                while passes < PASSES or time.perf_counter() < end:
                    times[position].append(time_pass(networks[position], images))
                    passes += 1
            except Exception as error:  # whatever a network raises costs only itself
                failures[position] = f"{type(error).__name__}: {brief(error)}"
                networks.pop(position, None)
                times[position] = []
    return times, failures


def summarize(times: Sequence[float]) -> tuple[float, float]:
    """Latency, the lower decile of times in ms, and their interquartile range in percent of it; NaN without any."""
    if not times:
        return math.nan, math.nan
    levels = torch.tensor([QUANTILE, 0.25, 0.75], dtype=torch.float64)
    value, low, high = torch.tensor(times, dtype=torch.float64).quantile(levels).tolist()
    return value, 100 * (high - low) / value


@contextmanager
def quiet(threads: int) -> Iterator[None]:
    """So many threads, no subnormal numbers (random weights may lead to them, and they are slow), memory kept.

    By itself malloc may fetch the memory of activations from the system again in every pass (10,000 page faults), or
    not: a network then takes 20 or 40 ms, depending on those measured before it. Only glibc can be told otherwise.
    """
    before = torch.get_num_threads()
    mallopt = ctypes.CDLL(None).mallopt if platform.libc_ver()[0] == "glibc" else max  # which does nothing
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        mallopt(M_MMAP_MAX, 65_536), mallopt(M_TRIM_THRESHOLD, 64 << 20)  # where its own adaptation ends
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


# ---- the table ------------------------------------------------------------------------------------------------------
class Measured:
    """The table while it grows: latency and spread of each encoding, read from `path` if that is there already.

    Raises:
        ValueError: If the table there is of another space or has other columns, or cannot be written.
    """

    def __init__(self, path: str | Path, space: SearchSpace, prefix: str):
        self.path, self.space, self.names = Path(path), space, (f"{prefix}_latency_ms", f"{prefix}_spread_pct")
        self.rows: dict[Codes, tuple[float, float]] = {}
        if self.path.suffix not in READABLE:
            raise ValueError(f"the output is one of {', '.join(READABLE)}, got {path}")
        if self.path.exists():
            table = Table.read(self.path, space)
            if set(table.columns) != set(self.names):
                there, asked = ", ".join(table.columns) or "no columns", ", ".join(self.names)
                raise ValueError(f"{path} has {there}, not {asked}; give another --out or --column")
            values = torch.stack([table.columns[name] for name in self.names], -1)  # (N, 2)
            self.rows = dict(zip(map(tuple, table.codes.tolist()), map(tuple, values.tolist()), strict=True))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path.parent).close()
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror}") from error

    def known(self, among: Iterable[Codes]) -> list[Codes]:
        """Those that have a latency."""
        return [codes for codes in among if math.isfinite(self.rows.get(codes, (math.nan,))[0])]

    def fill(self, chunk: Sequence[Codes], timed: Callable[[Sequence[Codes]], Sequence[Sequence[float]]]) -> float:
        """Measure and write, told at the speed that the machine had for the first networks of the table.

        Some of those are measured again together with the new ones; returned is how many times as slow they were.
        """
        old = self.known(self.rows)[:REFERENCES]
        values = list(map(summarize, timed([*old, *chunk])))
        ratios = [value / self.rows[codes][0] for codes, (value, _) in zip(old, values, strict=False)]
        slower = statistics.median([ratio for ratio in ratios if math.isfinite(ratio)] or [1.0])
        for codes, (value, spread) in zip(chunk, values[len(old) :], strict=True):
            self.rows[codes] = value / slower, spread
        if self.known(self.rows):
            columns = torch.tensor(list(self.rows.values()), dtype=torch.float64).unbind(-1)
            named = dict(zip(self.names, columns, strict=True))
            Table(self.space, torch.tensor(list(self.rows)), named, str(self.path)).write(self.path)
        return slower


# ---- the command ----------------------------------------------------------------------------------------------------
def latency(
    archs: str,
    space: str | None = None,
    skeleton: dict[str, Any] | None = None,
    batch_size: int = 1,
    threads: int = 1,
    device: str = "cpu",
    resolution: int | None = None,
    in_channels: int = 3,
    num_classes: int | None = None,
    rounds: int = 10,
    seconds: float = 0.05,
    seed: int = 0,
    column: str | None = None,
    out: str = "latency.csv",
) -> None:
    """Measure the latency of networks with random weights on this device, and write a table.

    Its columns are `cpu_b1_t1_latency_ms`, the lower decile of the times of all passes, in ms for a batch, and
    `cpu_b1_t1_spread_pct`, their interquartile range in percent of it. Device, batch, threads and every setting that
    is not the space's own stand in the names. A network that raises an error has no value. Started again with the
    same `out`, only what has no value there is measured.

    Args:
        archs: A native string, a file of JSON lines as `sample` writes, - for lines on standard input, or random:N.
        space: Name or YAML file of the search space; JSON says its own.
        skeleton: Changed settings of the network around the architecture, such as {width: 32, cells: 2}.
        batch_size: Images in a batch.
        threads: Threads of torch. One on a CPU is timed while it runs, more by the wall clock.
        device: Where the networks run: cpu, cuda, cuda:1.
        resolution: Side of the images; the space's own if absent.
        in_channels: Channels of the images.
        num_classes: Width of the classifier; the space's own if absent.
        rounds: Turns of every network.
        seconds: Time of a turn, in s; it has three passes at least.
        seed: Seed of random members, of the order of turns and of the images.
        column: What the names of the columns begin with, instead of device, batch, threads and settings.
        out: The table: .csv, .parquet or .safetensors.

    Raises:
        ValueError: If the request is at fault, or no network could be measured; nothing is written then.
    """
    check_counts(batch_size=batch_size, threads=threads, in_channels=in_channels, rounds=rounds)
    check_counts(resolution=resolution, num_classes=num_classes)
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds is a number above 0, got {seconds}")
    where, members = _members(archs, space, seed)
    built, words = _arrange(where, skeleton, resolution=resolution, classes=num_classes)
    words += f"_in_channels{in_channels}" * (in_channels != 3)
    images = _images((batch_size, in_channels, *[built.skeleton["resolution"]] * 2), device, seed)
    table = Measured(out, where, column or f"{re.sub(r'[^a-z0-9]', '', device)}_b{batch_size}_t{threads}{words}")
    known, generator = set(table.known(members)), torch.Generator().manual_seed(seed)
    missing, drifts, failures = [codes for codes in members if codes not in known], [], []
    with quiet(threads), tqdm(total=rounds * len(missing), unit="turn", disable=None) as bar:

        def timed(chunk: Sequence[Codes]) -> list[list[float]]:
            again = len(table.known(chunk))  # they stand in front
            builds = [partial(one.build, num_classes, in_channels) for one in built.decode_all(torch.tensor(chunk))]
            times, raised = measure(builds, images, rounds, seconds, generator, lambda i: bar.update(i >= again))
            failures.extend(raised[position] for position in raised if position >= again)
            return times

        for start in range(0, len(missing), CHUNK):
            drifts.append(table.fill(missing[start : start + CHUNK], timed))
    order = sorted(table.known(members), key=table.rows.get)
    if failures:
        reason = f"{len(failures)} of {len(members)} networks could not be measured; the first: {failures[0]}"
        if not order:
            raise ValueError(reason)
        print(f"archgen: {reason}", file=sys.stderr)
    print(f"{_model(images.device)}, {len(order)} networks, {len(missing) - len(failures)} of them measured now")
    if any(drift != 1 for drift in drifts):
        print(f"the machine was {min(drifts):.2f} to {max(drifts):.2f} times as slow as at first; that is taken out")
    for word, codes in (("fastest", order[0]), ("median", order[len(order) // 2]), ("slowest", order[-1])):
        print("{:8}{:9.4g} ms, spread {:5.1f} %  {}".format(word, *table.rows[codes], where.decode(codes)))


def _model(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    return model[1] if model else platform.processor() or platform.machine()
