"""Pictures: whole files of the right kind, every live operation in them, arrows clear of boxes."""

import re
import struct
import sys
from itertools import combinations, pairwise

import pytest
import torch

from archgen import draw as drawing
from archgen.draw import arrange, crossings, draw, draw_sheet, ink_on, lattice_of, live_nodes
from archgen.space import declare, load_space, shipped_spaces

DECLARED = {
    "name": "tiny_transformers",
    "nodes": {
        "first": {"op": ["self_attention", "mlp", "zero"], "heads": [2, 4]},
        "second": {"op": ["costs_$5_<&>", "depthwise_separable_dilated_conv_5x5", "skip"]},
        "third": {"width": [16, 32]},
    },
    "edges": [["input", "first"], ["first", "second"], ["second", "third"], ["third", "output"]],
    "optional_edges": [["input", "second"], ["input", "third"], ["first", "output"]],
    "identity": ["skip"],
    "zero": ["zero"],
}
STAGES = {"name": "stages", "nodes": {f"stage{i}": {"layers": [0, 1, 3], "mlp1": [2, 4]} for i in range(3)}}
SPACES = [*shipped_spaces(), DECLARED, STAGES]


def members(space, n):
    space = load_space(space)
    return [space.decode(codes) for codes in space.sample(n, torch.Generator().manual_seed(0))]


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


def words_of(path):
    text = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))
    return [word.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for word in text]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space if isinstance(space, str) else space["name"])
def test_pictures_of_every_space_hold_what_is_live(space, tmp_path):
    for number, architecture in enumerate(members(space, 2)):
        draw(architecture, tmp_path / f"{number}.svg")
        words = "".join(words_of(tmp_path / f"{number}.svg"))
        for position in live_nodes(architecture) - {0, len(architecture.nodes) - 1}:
            node = architecture.nodes[position]
            assert node.op in words or node.op == "block"
            assert all(str(value) in words for _, value in node.attributes if not isinstance(value, bool))
    draw(architecture, tmp_path / "one.png", title="a title of my own")
    width, height = png_size(tmp_path / "one.png")
    assert 400 < width < 2000 and 300 < height < 2000
    draw_sheet(members(space, 3), tmp_path / "sheet.png", columns=2)
    assert png_size(tmp_path / "sheet.png")[0] > width / 2


def test_the_heading_says_the_costs_and_the_native_string(tmp_path):
    space = load_space("nasbench201")
    architecture = space.parse("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|")
    draw(architecture, tmp_path / "cell.svg")
    cost = {name: value.item() for name, value in space.cost.exact(space.encode(architecture)[None]).items()}
    words = words_of(tmp_path / "cell.svg")
    assert f"params {cost['params_m']:.2f} M, MACs {cost['macs_m']:.1f} M, depth 2" in words
    assert str(architecture) in "".join(words)


def test_a_cell_without_a_path_says_so(tmp_path):
    draw(load_space("nasbench201").decode([0] * 6), tmp_path / "cell.svg")
    assert any("no path to the output" in word for word in words_of(tmp_path / "cell.svg"))


def test_pdf_and_equal_bytes_for_equal_pictures(tmp_path):
    architecture = members("nasbench201", 1)[0]
    for suffix in (".pdf", ".svg", ".png"):
        draw(architecture, tmp_path / f"a{suffix}")
        draw(architecture, tmp_path / f"new/folder/a{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"new/folder/a{suffix}").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_failures_are_one_sentence_and_leave_nothing(tmp_path, monkeypatch):
    architecture = members("nasbench201", 1)[0]
    for path in ("a.jpg", "a"):
        with pytest.raises(ValueError, match=r"\.png, \.svg or \.pdf"):
            draw(architecture, tmp_path / path)
    with pytest.raises(ValueError, match="needs an architecture"):
        draw_sheet([], tmp_path / "sheet.png")
    (tmp_path / "a.png").write_text("as before")

    def full(source, target):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(ValueError, match="no space"):
            draw(architecture, tmp_path / "a.png")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ValueError, match=r"pip install archgen\[plot\]"):
            draw(architecture, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_text() == "as before"


def test_nodes_cut_off_are_not_live():
    space = load_space("nasbench201")  # edge01 is `none`: edge12 and edge13 get zeros; edge23 ends in nothing
    assert live_nodes(
        space.parse("|none~0|+|skip_connect~0|nor_conv_3x3~1|+|nor_conv_1x1~0|skip_connect~1|none~2|")
    ) == {0, 4, 7}


def test_boxes_do_not_overlap_and_arrows_pass_beside_them():
    generator = torch.Generator().manual_seed(0)
    for n_nodes in (2, 5, 9):
        for _ in range(5):
            kept = torch.rand(n_nodes, n_nodes, generator=generator) < 0.4
            edges = [pair for pair in combinations(range(n_nodes), 2) if kept[pair]]
            lattice = lattice_of(n_nodes, edges)
            widths = [1.0] * n_nodes + [drawing.LANE] * (len(lattice.row) - n_nodes)
            x = arrange(lattice, widths)
            assert all(lattice.row[b] == lattice.row[a] + 1 for a, b in lattice.segments)
            for a, b in combinations(range(len(x)), 2):
                if lattice.row[a] == lattice.row[b]:
                    assert abs(x[a] - x[b]) >= (widths[a] + widths[b]) / 2 + drawing.SEPARATION - 1e-6


def test_crossings_of_a_known_drawing_and_their_removal():
    lattice = lattice_of(6, [(0, 1), (0, 2), (1, 4), (2, 3), (3, 5), (4, 5)])
    assert crossings(((0,), (1, 2), (3, 4), (5,)), lattice) == 1
    x = arrange(lattice, [1.0] * len(lattice.row))
    order = [tuple(sorted((v for v in range(6) if lattice.row[v] == row), key=x.__getitem__)) for row in range(4)]
    assert crossings(tuple(order), lattice) == 0


def test_text_reads_on_every_colour():
    """Contrast of at least 4.5, the threshold of WCAG 2 level AA."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    colours = [*drawing.CONVOLUTIONS.values(), *drawing.POOLINGS.values(), *drawing.OTHERS]
    for face in [*colours, drawing.SKIP, drawing.END, drawing.POOLING]:
        dark, bright = sorted((luminance(face), luminance(ink_on(face))))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5
    shades = [luminance(colour) for colour in drawing.CONVOLUTIONS.values()]
    assert all(small > large for small, large in pairwise(shades))  # convolutions darken with their kernel


def test_operations_of_a_space_differ_in_colour():
    space = declare({"name": "many", "nodes": {"a": {"op": [f"op{i}" for i in range(8)]}}})
    faces = {drawing.colour_of(space.decode([code]).nodes[1], space) for code in range(8)}
    assert len(faces) == 8
