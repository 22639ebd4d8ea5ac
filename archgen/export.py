"""Networks as files that other programs run: ONNX, and programs of `torch.export`. Each is checked when written."""

from __future__ import annotations

import copy
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_eval

from archgen.graph import Architecture
from archgen.hub import replacing

BATCHES = (1, 7)  # sizes of the batches that a file is checked with
TOLERANCE = 1e-4  # another order of summation makes 1e-7 to 3e-6 of trained networks' float32
NEEDED = ("onnx", "onnxscript", "onnxruntime")
Run = Callable[[Tensor], Tensor]
Examples = list[tuple[Tensor, Tensor]]  # batches of images, and their logits


def to_onnx(network: nn.Module, path: str | Path, shape: tuple[int, int, int], tolerance: float = TOLERANCE) -> float:
    """Write a network as one ONNX file, weights included, and compare what ONNX Runtime makes of it.

    The input `images` is float32 `(batch, channels, height, width)`, the output `logits` `(batch, classes)`; the batch
    may have any size. The network is written as it is in evaluation mode, with batch normalization folded into the
    convolutions before it; the module itself stays as it is.

    Args:
        network: A module from images to logits.
        path: The file; it gets its name when it is complete and checked.
        shape: Channels, height and width of the images.
        tolerance: The largest relative difference that is accepted.

    Returns:
        The largest relative difference, `max |file - module| / max |module|` over the logits of a batch, for two
        batches of random images with pixels in [0, 1], one of a single image and one of seven.

    Raises:
        ValueError: If the difference is above the tolerance, the network cannot be exported or run with images of this
            shape, the file cannot be written, or a package is missing.
    """
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError as error:
            raise ValueError(f"ONNX needs the package {name}: pip install archgen[export]") from error
    frozen = _frozen(network)
    examples = _examples(frozen, shape)
    with replacing(path) as temporary:
        with _sentence(f"cannot export the network to {path}"):
            program = _captured(_folded(frozen), shape)
            names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": _dynamic()}
            # Serialized here, since the exporter's own `save` puts weights of 2 GB and more beside the file.
            content = torch.onnx.export(program, dynamo=True, verbose=False, **names).model_proto.SerializeToString()
        temporary.write_bytes(content)
        return _checked(_onnx_session, temporary, path, examples, tolerance)


def to_program(
    network: nn.Module, path: str | Path, shape: tuple[int, int, int], tolerance: float = TOLERANCE
) -> float:
    """Write a network as a `.pt2` file of `torch.export`, which runs without archgen, and compare it, loaded again.

    `torch.export.load(path).module()` is the module, in evaluation mode, for batches of any size. Loading runs torch's
    own unpickling: load your own files only.

    Args:
        network: A module from images `(batch, channels, height, width)` to logits `(batch, classes)`.
        path: The file; it gets its name when it is complete and checked.
        shape: Channels, height and width of the images.
        tolerance: The largest relative difference that is accepted.

    Returns:
        The largest relative difference, as `to_onnx` defines it.

    Raises:
        ValueError: If the difference is above the tolerance, the network cannot be exported or run with images of this
            shape, or the file cannot be written.
    """
    frozen = _frozen(network)
    examples = _examples(frozen, shape)
    with replacing(path) as temporary:
        with _sentence(f"cannot export the network to {path}"), temporary.open("wb") as file:
            torch.export.save(_captured(frozen, shape), file)
        return _checked(_loaded_program, temporary, path, examples, tolerance)


# ---- capturing -----------------------------------------------------------------------------------------------------
def _frozen(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode on the CPU; it shares the architecture, whose space may hold tables of gigabytes."""
    shared = [getattr(module, "architecture", None) for module in network.modules()]
    return copy.deepcopy(network, {id(one): one for one in shared if isinstance(one, Architecture)}).cpu().eval()


def _folded(network: nn.Module) -> nn.Module:
    """A copy whose batch normalization is part of the convolutions: a third less time to export, and the same file."""
    folded = _frozen(network)
    for module in list(folded.modules()):
        if type(module).forward is not nn.Sequential.forward:
            continue
        for index in range(len(module) - 1):
            conv, norm = module[index], module[index + 1]
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None:
                module[index], module[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return folded


def _dynamic() -> tuple[dict[int, torch.export.Dim]]:
    return ({0: torch.export.Dim("batch")},)


def _captured(network: nn.Module, shape: tuple[int, int, int]) -> ExportedProgram:
    """The network's computation for any batch, without the paths of the source files that describe it."""
    images = torch.zeros(2, *shape)  # torch takes sizes 0 and 1 for constants
    program = torch.export.export(network, (images,), dynamic_shapes=_dynamic(), strict=False)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


@contextmanager
def _sentence(beginning: str) -> Iterator[None]:
    """Run exporters without their remarks, which are about themselves, and turn what they raise into one sentence.

    They, and the blocks of a user's network, raise anything.
    """
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise ValueError(f"{beginning}: {type(error).__name__}: {reason}") from error
    finally:
        logging.disable(level)


# ---- checking ------------------------------------------------------------------------------------------------------
def _examples(network: nn.Module, shape: tuple[int, int, int]) -> Examples:
    """Random images and their logits, for each size of batch."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(batch, *shape, generator=generator) for batch in BATCHES]
    with _sentence(f"the network does not take images of shape {tuple(shape)}"), torch.no_grad():
        return [(images, network(images)) for images in batches]


def _onnx_session(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _loaded_program(path: Path) -> Run:
    return torch.export.load(path).module()


def _checked(load: Callable[[Path], Run], file: Path, path: str | Path, examples: Examples, tolerance: float) -> float:
    """The largest relative difference between a file and the logits of its module.

    Raises:
        ValueError: If it is above the tolerance, or the file cannot be loaded or run.
    """
    with _sentence(f"cannot run the network as {path}"), torch.no_grad():
        run = load(file)
        found = torch.tensor([_difference(run(images), logits) for images, logits in examples])
    largest = found.max().item()  # not a number, if one is
    if not largest <= tolerance:
        raise ValueError(f"the network as {path} differs by {largest:.2g} from the module, more than {tolerance:g}")
    return largest


def _difference(got: Tensor, expected: Float[Tensor, "batch classes"]) -> float:
    if got.shape != expected.shape:
        return math.inf
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)  # nothing but zeros equals itself
    return ((got - expected).abs().max() / scale).item()
