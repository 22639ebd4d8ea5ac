"""Exported files: they agree with the module, stand alone, and appear only when they are right."""

import copy
import sys
import types

import pytest
import torch
from torch import nn

from archgen import export
from archgen.cli import main
from archgen.export import to_onnx, to_program
from archgen.space import declare, load_space

CELL = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
NONE = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
SMALL = {"width": 4, "cells": 1}
GRAPH = {
    "name": "graph",
    "nodes": {"a": {"op": ["conv", "skip", "zero"]}, "b": {"op": ["conv", "zero"]}},
    "edges": [["input", "a"], ["a", "b"], ["b", "output"]],
    "optional_edges": [["input", "b"]],
    "identity": ["skip"],
    "zero": ["zero"],
    "builder": "blocks_of_a_user:block",
    "skeleton": {"resolution": 8, "classes": 3},
}


def block(op: str, shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(shape[0], shape[0], 3, padding=1), nn.BatchNorm2d(shape[0]), nn.ReLU())


@pytest.fixture
def graph(monkeypatch):
    """A space whose networks follow their graph, with blocks of the user's own."""
    module = types.ModuleType("blocks_of_a_user")
    module.block = block
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return declare(GRAPH)


@pytest.fixture(scope="module")
def onnxruntime():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


def alive(network: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """The network with random normalizations, so that its logits depend on all of it; left in training mode."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.2)
    with torch.no_grad():
        network.train()(torch.rand(6, *shape))
    return network


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def run_onnx(onnxruntime, path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def run_program(path, images):
    with torch.no_grad():
        return torch.export.load(path).module()(images)


def assert_same_logits(run, network, shape):
    """Batches of one, seven and another number of images, other ones than the file was checked with."""
    network.eval()
    for batch in (1, 7, 4):
        images = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = network(images)
        limit = export.TOLERANCE * expected.abs().max().item()
        torch.testing.assert_close(run(images), expected, rtol=0, atol=limit)


def assert_stands_alone(path, shape, classes):
    """Nothing lies beside the file, its ends are named, the batch is open, and no source file is mentioned."""
    import onnx

    assert list(path.parent.iterdir()) == [path]
    graph = onnx.load(path).graph
    ends = {
        end.name: [dim.dim_param or dim.dim_value for dim in end.type.tensor_type.shape.dim]
        for end in (*graph.input, *graph.output)
    }
    assert ends == {"images": ["batch", *shape], "logits": ["batch", classes]}
    assert b'.py", line ' not in path.read_bytes()


# ---- files agree ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "skeleton", "side"),
    [
        ("nasbench201", SMALL, 17),
        ("nasbench101", {"width": 8, "cells": 1}, 17),
        ("mnasnet", {}, 32),
        ("mobilenetv3", {}, 32),
    ],
)
def test_random_members_agree_with_their_onnx_files(name, skeleton, side, onnxruntime, tmp_path):
    space = load_space(name).scaled(skeleton)
    architecture = space.decode(space.sample(1, torch.Generator().manual_seed(2))[0])
    network = alive(architecture.build(num_classes=5), (3, side, side))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    path = tmp_path / "network.onnx"
    assert to_onnx(network, path, (3, side, side)) <= export.TOLERANCE
    assert_stands_alone(path, (3, side, side), 5)
    assert network.training
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert_same_logits(lambda images: run_onnx(onnxruntime, path, images), network, (3, side, side))


def test_a_cell_without_operations_agrees(onnxruntime, tmp_path):
    """Its logits do not depend on the images, only on how many there are."""
    network = load_space("nasbench201").scaled(SMALL).parse(NONE).build()
    alive(network, (3, 8, 8))
    path = tmp_path / "network.onnx"
    assert to_onnx(network, path, (3, 8, 8)) < 1e-5
    assert_stands_alone(path, (3, 8, 8), 10)
    assert_same_logits(lambda images: run_onnx(onnxruntime, path, images), network, (3, 8, 8))


@pytest.mark.parametrize("codes", [[0, 0, 1], [2, 1, 0]], ids=["blocks", "no path"])
def test_networks_of_declared_spaces_agree(codes, graph, onnxruntime, tmp_path):
    network = alive(graph.decode(codes).build(), (3, 8, 8))
    assert to_onnx(network, tmp_path / "network.onnx", (3, 8, 8)) < 1e-5
    assert_same_logits(lambda i: run_onnx(onnxruntime, tmp_path / "network.onnx", i), network, (3, 8, 8))
    assert to_program(network, tmp_path / "network.pt2", (3, 8, 8)) < 1e-5
    assert_same_logits(lambda i: run_program(tmp_path / "network.pt2", i), network, (3, 8, 8))


def test_normalization_is_folded_without_a_difference():
    """Where a convolution comes first; where it does not, normalization stays."""
    network = alive(load_space("nasbench201").scaled(SMALL).parse(CELL).build(), (3, 8, 8)).double().eval()
    folded = export._folded(network)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 1
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(folded(images), network(images), rtol=0, atol=1e-12)


# ---- files that are not right ---------------------------------------------------------------------------------------
def altered(network: nn.Module) -> nn.Module:
    """A copy with one wrong weight."""
    wrong = copy.deepcopy(network)
    with torch.no_grad():
        wrong[0].weight[0, 0, 0, 0] += 1
    return wrong


def test_what_differs_is_refused_and_leaves_what_was_there(onnxruntime, tmp_path, monkeypatch):
    path = tmp_path / "network.onnx"
    path.write_bytes(b"kept")
    monkeypatch.setattr(export, "_folded", altered)
    with pytest.raises(ValueError, match="differs by"):
        to_onnx(small(), path, (3, 8, 8))
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]
    assert path.read_bytes() == b"kept"


def test_a_program_that_differs_is_refused_up_to_the_tolerance(tmp_path, monkeypatch):
    captured = export._captured
    monkeypatch.setattr(export, "_captured", lambda network, shape: captured(altered(network), shape))
    with pytest.raises(ValueError, match=r"more than 0\.0001"):
        to_program(small(), tmp_path / "network.pt2", (3, 8, 8))
    assert list(tmp_path.iterdir()) == []
    difference = to_program(small(), tmp_path / "network.pt2", (3, 8, 8), tolerance=1)
    assert export.TOLERANCE < difference < 1
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt2"]


def test_differences_are_relative_to_the_largest_logit():
    logits = torch.tensor([[1.0, -4.0], [0.0, 2.0]])
    assert export._difference(logits + torch.tensor([[0.0, 0.0], [0.2, 0.0]]), logits) == pytest.approx(0.05)
    assert export._difference(torch.zeros(2, 3), torch.zeros(2, 3)) == 0
    assert export._difference(logits[:1], logits) == torch.inf


@pytest.mark.parametrize("logits", [torch.nan, torch.inf])
def test_networks_without_finite_logits_are_refused(logits, tmp_path):
    network = small()
    nn.init.constant_(network[-1].bias, logits)
    with pytest.raises(ValueError, match="differs by nan"):
        to_program(network, tmp_path / "network.pt2", (3, 8, 8))
    assert list(tmp_path.iterdir()) == []


class Stubborn(nn.Module):
    """What it computes depends on the values of the images."""

    def forward(self, images):  # noqa: D102
        return images.flatten(1) if images.sum() > 1e9 else images.mean((2, 3))


@pytest.mark.parametrize(
    ("network", "shape"), [(Stubborn(), (3, 8, 8)), (nn.Conv2d(3, 1, 3), (1, 8, 8))], ids=["branches", "shape"]
)
def test_networks_that_cannot_be_exported_get_one_sentence(network, shape, tmp_path, capfd):
    with pytest.raises(ValueError, match=r"^(cannot export|the network does not take).*$"):
        to_program(network, tmp_path / "network.pt2", shape)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("write", [to_onnx, to_program])
def test_a_place_that_cannot_be_written_is_refused(write, onnxruntime, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="cannot write"):
        write(small(), tmp_path / "file" / "below.onnx", (3, 8, 8))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("package", export.NEEDED)
def test_missing_packages_are_named(package, tmp_path, monkeypatch):
    for name in export.NEEDED:
        monkeypatch.setitem(sys.modules, name, None if name == package else types.ModuleType(name))
    with pytest.raises(ValueError, match=rf"the package {package}: pip install archgen\[export\]"):
        to_onnx(nn.Identity(), tmp_path / "network.onnx", (3, 8, 8))
    assert list(tmp_path.iterdir()) == []


# ---- command --------------------------------------------------------------------------------------------------------
def test_build_writes_onnx(onnxruntime, tmp_path, capfd):
    path = tmp_path / "new" / "network.onnx"
    main(["build", CELL, "--skeleton", "{width: 4, cells: 1}", "--resolution", "12", "--in_channels", "1",
          "--num_classes", "6", "--onnx", str(path)])  # fmt: skip
    said = capfd.readouterr()
    *_, module, onnx = said.out.splitlines()
    assert "images (1, 1, 12, 12) -> logits (1, 6)" in module
    start = f"onnx    {path}, {path.stat().st_size:,} bytes, largest relative difference "
    assert onnx.startswith(start)
    assert float(onnx.removeprefix(start)) < 1e-5
    assert said.err == ""
    assert_stands_alone(path, (1, 12, 12), 6)
    assert run_onnx(onnxruntime, path, torch.rand(3, 1, 12, 12)).shape == (3, 6)


def test_build_refuses_settings_that_the_skeleton_does_not_have(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["build", CELL, "--skeleton", "{depth: 3}"])
    assert caught.value.code == 2
    assert "no 'depth'" in capsys.readouterr().err


def test_build_reads_a_trained_network(tmp_path, capsys, monkeypatch):
    """The module, classes and shape of images are the folder's own; the side of images can be another."""
    network = small()
    network.architecture = load_space("nasbench201").scaled(SMALL).parse(CELL)
    network.shape, network.classes = (3, 9, 11), list("abcde")
    classifier = types.ModuleType("archgen.classifier")
    classifier.load_network = lambda folder, space=None: network
    monkeypatch.setitem(sys.modules, "archgen.classifier", classifier)
    main(["build", str(tmp_path), "--program", str(tmp_path / "network.pt2")])
    said = capsys.readouterr().out
    assert "images (1, 3, 9, 11) -> logits (1, 5)" in said
    assert said.splitlines()[-1].startswith(f"program {tmp_path / 'network.pt2'}, ")
    assert_same_logits(lambda images: run_program(tmp_path / "network.pt2", images), network, (3, 9, 11))
    main(["build", str(tmp_path), "--resolution", "20"])
    assert "images (1, 3, 20, 20)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["build", str(tmp_path), "--num_classes", "3"])
    assert "has its own num_classes" in capsys.readouterr().err
