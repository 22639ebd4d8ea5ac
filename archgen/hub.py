"""Where checkpoints are found, how damaged files are refused, and how files are written so that none is half done."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class BadFile(ValueError):
    """A file cannot be written, or what it holds cannot be used."""


def shipped_folder(kind: str) -> Path:
    """The folder of what is shipped, such as `checkpoints` or `datasets`, in a wheel or in a checkout."""
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
    if (other := shipped_folder("checkpoints") / str(checkpoint)).is_dir():
        raise ValueError(
            f"{checkpoint} generates nothing, its figures and commands are in {other / 'README.md'}; {known}"
        )
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
def reading(path: str | Path) -> Iterator[None]:
    """Turn whatever a damaged file makes its parser raise into one sentence.

    Raises:
        BadFile: If anything is raised in the block.
    """
    try:
        yield
    except BadFile:
        raise
    except Exception as error:
        raise BadFile(f"cannot read {path}: {brief(error)}") from error


def brief(error: Exception) -> str:
    """What an error says, as one line of no more than 200 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name when the block ends well, and vanishes otherwise.

    A link stays one, to the new file; a device or a pipe is written to as it is.

    Raises:
        BadFile: If it cannot be written.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file() and not target.is_dir():
        yield target
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise BadFile(f"cannot write {path}: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise BadFile(f"cannot write {path}: {error.strerror or error}") from error
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
        raise BadFile(f"cannot write {path}: {error.strerror}") from error
    try:
        yield temporary
        for entry in sorted(temporary.iterdir(), key=lambda entry: entry.name == "model_index.json"):
            target = path / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_state(state: dict[str, Any], path: str | Path) -> None:
    """Write what `torch.load` reads back with `weights_only`, whole or not at all.

    Raises:
        BadFile: If it cannot be written; torch's own writer would say something else of a full disk.
    """
    import torch

    content = io.BytesIO()
    torch.save(state, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def resume(
    path: str | Path, parts: Mapping[str, Any], recipe: Mapping[str, Any], device: Any = "cpu"
) -> dict[str, Any] | None:
    """Load the parts of a training run from what `save_state` wrote, if there is anything.

    Args:
        path: Of the state.
        parts: What has a `load_state_dict`, by the name it is saved under.
        recipe: Of this run, as JSON values.
        device: Where to.

    Returns:
        All that was saved; None if there is no state.

    Raises:
        ValueError: If the state belongs to another recipe, or is damaged.
    """
    if not Path(path).exists():
        return None
    saved = read_state(path, device)
    if saved["recipe"] != json.dumps(recipe):
        raise ValueError(f"{path} belongs to another recipe; finish that one, remove it, or choose another out")
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return saved


def component(name: str | Path, part: str) -> Path | None:
    """The folder of a component: the path itself, in a checkpoint there, or in a shipped one; None if absent."""
    places = (Path(name), Path(name) / part, shipped_folder("checkpoints") / str(name) / part)
    return next((folder for folder in places if (folder / "config.json").is_file()), None)


def sha256_of(path: Path) -> str:
    """Digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_state(path: str | Path, device: Any = "cpu") -> dict[str, Any]:
    """Read what `save_state` wrote; nothing in it is executed.

    Raises:
        BadFile: If it is damaged.
    """
    import torch

    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise BadFile(
            f"the saved state {path} is damaged ({type(error).__name__}); remove it to start anew"
        ) from error
