"""Where checkpoints are found, and how files and folders are written so that nothing half-done gets a final name."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


def shipped_folder(kind: str) -> Path:
    """The folder of shipped `checkpoints`, `training` or `sampling` recipes, in a wheel or in a checkout."""
    installed = HERE / f"_{kind}"
    return installed if installed.is_dir() else HERE.parent / kind


def shipped_checkpoints() -> list[str]:
    """Names of the checkpoints that come with archgen."""
    return sorted(path.parent.name for path in shipped_folder("checkpoints").glob("*/model_index.json"))


def resolve(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint, from a path, the name of a shipped one, or a Hub id `owner/name`.

    Raises:
        ValueError: If there is none; the sentence lists what is shipped.
    """
    path = Path(checkpoint)
    if (path / "model_index.json").is_file():
        return path
    if str(checkpoint) in shipped_checkpoints():
        return shipped_folder("checkpoints") / str(checkpoint)
    known = f"shipped are {', '.join(shipped_checkpoints()) or 'none'}"
    if path.exists():
        raise ValueError(f"{checkpoint} is no checkpoint: it has no model_index.json; {known}")
    if str(checkpoint).count("/") == 1 and not str(checkpoint).startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return Path(snapshot_download(str(checkpoint), allow_patterns=["*.json", "*.safetensors", "*.md"]))
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = type(error).__name__
            raise ValueError(f"no checkpoint {str(checkpoint)!r} here or on the Hub ({reason}); {known}") from error
    raise ValueError(f"no checkpoint {str(checkpoint)!r}; {known}")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name when the block ends well, and vanishes otherwise.

    Raises:
        ValueError: If it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path` whose contents move there, entry by entry, when the block ends well."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=path))
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield temporary
        for entry in sorted(temporary.iterdir(), key=lambda entry: entry.name == "model_index.json"):
            target = path / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
