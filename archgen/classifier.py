"""A trained network with what it takes to use it, and the folder that it is kept in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from archgen.graph import Architecture, graph_from_dict
from archgen.hub import reading
from archgen.space import SearchSpace, load_space


class Classifier(nn.Module):
    """A network together with what it takes to use it: normalization of its input, and the names of its classes.

    Attributes:
        architecture: The architecture it was built from.
        classes: Names of the classes.
        shape: Channels, height and width of the images it was trained on.

    Args:
        architecture: The architecture to build.
        classes: Names of the classes.
        shape: Channels, height and width of the images.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
    """

    def __init__(
        self,
        architecture: Architecture,
        classes: Sequence[str],
        shape: Sequence[int],
        mean: Float[Tensor, " channels"] | None = None,
        std: Float[Tensor, " channels"] | None = None,
    ):
        super().__init__()
        self.architecture, self.classes, self.shape = architecture, tuple(classes), tuple(shape)
        self.network = architecture.build(num_classes=len(self.classes), in_channels=self.shape[0])
        for name, value in (("mean", mean), ("std", std)):
            value = torch.ones(self.shape[0]) if value is None else value
            self.register_buffer(name, value[:, None, None].clone())

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of images with pixels in [0, 1]."""
        return self.network((images - self.mean) / self.std)


def describe(architecture: Architecture, classes: Sequence[str], shape: Sequence[int]) -> dict[str, Any]:
    """What it takes to build a classifier again, as JSON values."""
    skeleton = {key: value for key, value in architecture.space.skeleton.items() if key != "block"}
    return {
        "format": 1,
        "space": architecture.space.spec,
        "skeleton": skeleton,
        "arch": str(architecture),
        "graph": architecture.to_dict(),
        "classes": list(classes),
        "shape": list(shape),
    }


def load_network(folder: str | Path, which: str = "best", space: str | SearchSpace | None = None) -> Classifier:
    """A network that `archgen fit` trained, ready to classify images with pixels in [0, 1].

    Args:
        folder: The folder that `fit` wrote.
        which: `best` epoch, or `last`.
        space: The search space, where a YAML file of yours names a builder: the folder's own copy of it is not trusted
            to say what is run.

    Raises:
        ValueError: If there is no network, or its weights are those of another one.
    """
    folder = Path(folder)
    entry = read_network(folder)
    known = load_space(entry["space"]) if space is None else load_space(space)
    if space is None and known.skeleton.get("block"):
        raise ValueError(
            f"{folder} is a network of {known.name}, which names the code that builds it; say space='file.yaml'"
        )
    known = known.scaled({key: value for key, value in entry["skeleton"].items() if known.skeleton.get(key) != value})
    network = Classifier(graph_from_dict(entry["graph"], known), entry["classes"], entry["shape"])
    path = folder / f"{which}.safetensors"
    if which not in ("best", "last") or not path.is_file():
        raise ValueError(f"{folder} has no {which}.safetensors; which is 'best' or 'last'")
    load_weights(network, _read_tensors(path), str(path))
    return network.eval()


def read_network(folder: Path) -> dict[str, Any]:
    """What `network.json` says.

    Raises:
        ValueError: If there is none, or it is damaged.
    """
    path = folder / "network.json"
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        missing = {"key", "space", "skeleton", "graph", "classes", "shape", "result"} - entry.keys()
    except OSError as error:
        raise ValueError(f"{folder} is no network that `archgen fit` wrote: no {path.name}") from error
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if missing:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    return entry


def _read_tensors(path: Path) -> dict[str, Tensor]:
    with reading(path):
        return load_file(path)


def read_weights(path: str) -> tuple[dict[str, Tensor], str]:
    """Weights to start from, and their digest."""
    file = Path(path) / "best.safetensors" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(f"no weights {path!r}: it is neither a folder that `fit` wrote nor a .safetensors file")
    return _read_tensors(file), hashlib.blake2b(file.read_bytes(), digest_size=6).hexdigest()


def load_weights(network: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights that fit exactly.

    Raises:
        ValueError: If they are those of another network.
    """
    own = network.state_dict()
    differ = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    differ += [name for name in weights if name not in own]
    if differ:
        raise ValueError(f"{source} are weights of another network: {len(differ)} tensors differ, such as {differ[0]}")
    network.load_state_dict(weights)
