"""Results: what came of training many networks, one JSON line each, written so that no kill can spoil it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from archgen.hub import BadFile

KEY = ("hash", "task", "data", "recipe", "seed")  # what tells one result from another


class Results:
    """The results of a folder: all `results*.jsonl` are read, one of them is appended to.

    A line is written in one call and flushed to the disk. What a kill or a full disk leaves of a line is ignored when
    reading and cut off before the next line is written. Processes that share a file wait for each other.

    Args:
        folder: Where the files are.
        share: Number of this process among those that work at the same time; part of its file's name.

    Raises:
        ValueError: If a file holds anything but results.
    """

    def __init__(self, folder: str | Path, share: int = 0):
        self.folder = Path(folder)
        self.path = self.folder / f"results-{share}.jsonl"
        self.records = read_results([self.folder]) if self.folder.is_dir() else []
        self._known = {key_of(record): record for record in self.records}

    def get(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The result of a key, if there is one."""
        return self._known.get(key_of(key))

    def append(self, record: dict[str, Any]) -> None:
        """Add a result; when this returns, it is on the disk.

        Raises:
            BadFile: If it cannot be written; the file is then as it was.
        """
        line = (json.dumps(record) + "\n").encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)  # another process may write the same file
                size = _whole_lines(handle)
                os.ftruncate(handle, size)
                try:
                    if os.write(handle, line) < len(line):
                        raise OSError(28, "No space left on device")
                    os.fsync(handle)
                except OSError:
                    os.ftruncate(handle, size)
                    raise
            finally:
                os.close(handle)
        except OSError as error:
            raise BadFile(f"cannot write {self.path}: {error.strerror}; started again, the run goes on") from error
        self.records.append(record)
        self._known[key_of(record)] = record


def key_of(record: dict[str, Any]) -> tuple:
    """What tells a result from others: network, task, data, recipe and seed."""
    return tuple(record[name] for name in KEY)


def read_results(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Results of files, or of all `results*.jsonl` in folders.

    Those with the same key count once: the first that went well, as it may on a larger machine, or the last failure.

    Raises:
        ValueError: If a file cannot be read, or a line is no result.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += sorted(path.glob("results*.jsonl")) if path.is_dir() else [path]
    found: dict[tuple, dict[str, Any]] = {}
    for file in files:
        try:
            lines = file.read_bytes().split(b"\n")[:-1]  # behind the last line's end: nothing, or a torn line
        except OSError as error:
            raise ValueError(f"cannot read {file}: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                if not {"arch", "status"} <= set(record):
                    raise KeyError
                if found.setdefault(key_of(record), record)["status"] == "failed":
                    found[key_of(record)] = record
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file}, line {number}, is no result of `archgen fit` or `search`") from error
    return list(found.values())


def columns_of(records: Iterable[dict[str, Any]]) -> dict[str, dict[str, float | int | str]]:
    """Rows of a table, by native string: for each task the accuracy averaged over seeds.

    Returns:
        For each architecture `{task}_test_acc_pct`, `{task}_valid_acc_pct` where some images were set aside,
        `{task}_test_acc_std_pct` over the seeds where there are several, and `{task}_seeds`. Where a task was trained
        with several recipes, as by successive halving, its name is followed by that of the recipe.

    Raises:
        ValueError: If a task was trained on several versions of its data.
    """
    groups: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {}
    arch_of: dict[str, str] = {}
    versions: dict[str, dict[str, None]] = {}
    recipes: dict[str, dict[str, None]] = {}
    for record in records:
        if record["status"] == "done":
            task, recipe = record["task"], record["recipe"]
            versions.setdefault(task, {})[record["data"]] = None
            recipes.setdefault(task, {})[recipe] = None
            arch = arch_of.setdefault(record["hash"], record["arch"])
            groups.setdefault(arch, {}).setdefault((task, recipe), []).append(record)
    for task, digests in versions.items():
        if len(digests) > 1:
            raise ValueError(f"task {task} was trained on {len(digests)} versions of its data: {', '.join(digests)}")
    rows: dict[str, dict[str, float | int | str]] = {}
    for arch, trained in groups.items():
        rows[arch] = {"arch": arch}
        for (task, recipe), results in trained.items():
            rows[arch] |= _columns(task if len(recipes[task]) == 1 else f"{task}_{recipe}", results)
    return rows


def _columns(name: str, results: Sequence[dict[str, Any]]) -> dict[str, float | int]:
    """Means over seeds of one network, task and recipe."""
    row: dict[str, float | int] = {}
    for part in ("test", "valid"):
        values = [result[f"{part}_acc_pct"] for result in results if result.get(f"{part}_acc_pct") is not None]
        if values:
            row[f"{name}_{part}_acc_pct"] = round(mean(values), 4)
        if part == "test" and len(values) > 1:
            row[f"{name}_test_acc_std_pct"] = round(stdev(values), 4)
    return {**row, f"{name}_seeds": len(results)}


def _whole_lines(handle: int) -> int:
    """Bytes of a file up to the end of its last whole line."""
    size = os.lseek(handle, 0, os.SEEK_END)
    while size:
        begin = max(0, size - 65536)
        part = os.pread(handle, size - begin, begin)
        if (end := part.rfind(b"\n")) >= 0:
            return begin + end + 1
        size = begin
    return 0
