"""Images are read from every layout, narrowed reproducibly and augmented alike however a batch is spread."""

import io
import pickle
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from archgen.images import augment, from_arrays, load_images, resize

SIDE = 6


def pixels(n, height=SIDE, width=SIDE, channels=3, seed=0):
    """Random images, channels last."""
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def tagged(*counts, test=None):
    """Grey images that carry their number, so many of each class, in turn; `test` adds others to be judged on."""
    sets = []
    for begin, sizes in ((0, counts), (5000, test or ())):
        mixed = sorted(range(sum(sizes)), key=lambda k: k * 7919 % sum(sizes))
        labels = np.repeat(np.arange(len(sizes)), sizes)[np.array(mixed, dtype=int)]
        numbers = begin + np.arange(len(labels))
        images = np.zeros((len(labels), 4, 4), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = numbers % 256, numbers // 256
        sets.append((images, labels))
    return from_arrays("tagged", sets[0], sets[1] if test else None)


def numbers(images):
    """What `tagged` wrote."""
    return (images[:, 0, 0, 0].int() + 256 * images[:, 0, 0, 1].int()).tolist()


def encoded(image, kind="png"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def folder(path, classes=("cat", "dog"), n=5, seed=0, **shape):
    """A folder of images for each class, and all images in order."""
    images = pixels(len(classes) * n, seed=seed, **shape)
    for k, image in enumerate(images):
        write(path / classes[k // n] / f"{k:03}.png", encoded(image.squeeze()))
    return images


def first(array):
    """Channels first, as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def same(a, b):
    names = ("train", "train_labels", "test", "test_labels")
    return a.classes == b.classes and all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def refused(sentence, function, *args, **options):
    """It raises one clear sentence."""
    with pytest.raises(ValueError, match=sentence) as error:
        function(*args, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


# ---- digits ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


def test_digits_are_built_in(digits):
    """1,797 images of 8 x 8, the same fifth of each class for testing each time."""
    assert (digits.name, digits.shape, digits.classes) == ("digits", (1, 8, 8), tuple("0123456789"))
    train, test = digits.train_labels.bincount(), digits.test_labels.bincount()
    assert (train + test).sum() == 1797
    assert test.tolist() == [round(0.2 * count) for count in (train + test).tolist()]
    assert (digits.train.min(), digits.train.max(), digits.train.dtype) == (0, 255, torch.uint8)
    assert same(digits, load_images("digits", resolution=8))


def test_the_digest_of_digits_is_what_it_was(digits):
    """Results are kept under it: were it to change, every training would be done again."""
    assert digits.digest == load_images("digits").digest == "f0f464eece3d"


def test_the_digest_differs_where_images_labels_or_split_differ():
    images = tagged(6, 6, test=(3, 3))
    pixel, label, order = images.train.clone(), images.train_labels.clone(), torch.arange(12)
    pixel[3, 0, 2, 2] += 1
    label[0] = 1 - label[0]
    order[[2, 5]] = order[[5, 2]]
    others = [
        replace(images, train=pixel),
        replace(images, train_labels=label),
        replace(images, classes=("0", "one")),
        replace(images, train=images.train[order], train_labels=images.train_labels[order]),
        replace(images, train=images.test, train_labels=images.test_labels, test=images.train,
                test_labels=images.train_labels),
        replace(images, train=images.train.reshape(12, 1, 2, 8), test=images.test.reshape(6, 1, 2, 8)),
        images.limited(11), images.limited(test_size=5),
    ]  # fmt: skip
    assert len({images.digest, *(other.digest for other in others)}) == 1 + len(others)
    assert images.digest == replace(images, name="other").digest == tagged(6, 6, test=(3, 3)).digest
    assert len(images.digest) == 12


# ---- folders --------------------------------------------------------------------------------------------------------
def test_a_folder_of_classes_is_split_for_good(tmp_path):
    """Every image is on one side, a fifth of each class for testing; hidden and other files do not count."""
    images = folder(tmp_path / "pets")
    before = load_images(tmp_path / "pets")
    write(tmp_path / "pets" / "cat" / "notes.txt", b"words")
    write(tmp_path / "pets" / "cat" / "._000.png", b"left behind")
    write(tmp_path / "pets" / "cat" / ".ipynb_checkpoints" / "000-checkpoint.png", encoded(images[0]))
    write(tmp_path / "pets" / ".cache" / "000.png", encoded(images[0]))
    again = load_images(str(tmp_path / "pets"))
    assert same(before, again) and before.digest == again.digest
    assert (again.name, again.classes, again.test_labels.tolist()) == ("pets", ("cat", "dog"), [0, 1])
    found = {tuple(image.flatten().tolist()) for image in torch.cat([again.train, again.test])}
    assert found == {tuple(image.flatten().tolist()) for image in first(images)}


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("training", "val"), ("train", "validation")])
def test_a_folder_with_a_split_keeps_it(tmp_path, train, test):
    images = folder(tmp_path / train), folder(tmp_path / test, n=2, seed=1)
    got = load_images(tmp_path)
    assert torch.equal(got.train, first(images[0])) and torch.equal(got.test, first(images[1]))
    assert (got.train_labels.tolist(), got.test_labels.tolist()) == ([0] * 5 + [1] * 5, [0, 0, 1, 1])


def test_test_goes_before_validation(tmp_path):
    for seed, part in enumerate(("train", "val", "test")):
        images = folder(tmp_path / part, seed=seed)
    assert torch.equal(load_images(tmp_path).test, first(images))


def test_grey_images_have_one_channel_unless_one_has_colour(tmp_path):
    images = folder(tmp_path, channels=1)
    assert load_images(tmp_path).shape == (1, SIDE, SIDE)
    write(tmp_path / "cat" / "000.png", encoded(pixels(1)[0]))
    got = load_images(tmp_path)
    assert got.shape == (3, SIDE, SIDE)
    grey = {tuple(image.flatten().tolist()) for image in first(images.repeat(3, -1))[1:]}
    assert grey < {tuple(image.flatten().tolist()) for image in torch.cat([got.train, got.test])}


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    """Pillow's own conversion clips: all but the darkest would be white."""
    wide = np.arange(36, dtype=np.uint16).reshape(6, 6) * 1820
    for part, name in product(("train", "test"), ("a", "b")):
        write(tmp_path / part / name / "x.png", encoded(wide))
    got = load_images(tmp_path)
    assert got.shape == (1, 6, 6) and torch.equal(got.train[0, 0], torch.from_numpy((wide >> 8).astype(np.uint8)))


def test_the_folder_one_stands_in_has_a_name(tmp_path, monkeypatch):
    folder(tmp_path / "pets")
    monkeypatch.chdir(tmp_path / "pets")
    assert load_images(".").name == "pets"


# ---- npz ------------------------------------------------------------------------------------------------------------
LAYOUTS = {
    "last": lambda images: images,
    "first": lambda images: images.transpose(0, 3, 1, 2),
    "float": lambda images: (images / 255).astype(np.float32),
    "double, first": lambda images: images.transpose(0, 3, 1, 2) / 255,
    "int64": lambda images: images.astype(np.int64),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_an_npz_is_the_same_images(tmp_path, layout, channels):
    """With a split as Keras names it, and without."""
    images, labels = pixels(20, channels=channels), np.arange(20) % 2
    change = LAYOUTS[layout]
    np.savez(tmp_path / "a.npz", x_train=change(images[:14]), y_train=labels[:14], x_test=change(images[14:]),
             y_test=labels[14:])  # fmt: skip
    got = load_images(tmp_path / "a.npz")
    assert torch.equal(got.train, first(images[:14])) and torch.equal(got.test, first(images[14:]))
    assert (got.name, got.train_labels.tolist(), got.train.dtype) == ("a", labels[:14].tolist(), torch.uint8)
    np.savez_compressed(tmp_path / "b.npz", images=change(images), labels=labels)
    assert same(load_images(tmp_path / "b.npz"), from_arrays("b", (images, labels)))


def test_images_without_channels_are_grey(tmp_path):
    images, labels = pixels(20, channels=1), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", x=images[..., 0], y=labels)
    assert same(load_images(tmp_path / "a.npz"), from_arrays("a", (images, labels)))
    black = from_arrays("a", (images[..., 0] > 127, labels))
    assert black.train.unique().tolist() == [0, 255]


@pytest.mark.parametrize("kind", [str, bytes, np.int16, np.uint8])
def test_labels_are_words_or_numbers(kind):
    """Classes are in the order of the labels, and are called by them."""
    words = {str: ["cat", "dog", "käfer"], bytes: [b"cat", b"dog", "käfer".encode()]}.get(kind, [3, 7, 9])
    labels = np.array(words * 7, dtype=None if kind in (str, bytes) else kind)
    got = from_arrays("a", (pixels(21), labels), (pixels(3), labels[:3]))
    assert got.classes == (("cat", "dog", "käfer") if kind in (str, bytes) else ("3", "7", "9"))
    assert got.train_labels.tolist() == [0, 1, 2] * 7 and got.test_labels.tolist() == [0, 1, 2]


def test_named_classes_keep_their_names():
    got = from_arrays("a", (pixels(20), np.arange(20) % 2 * 2), classes=("cat", "dog", "emu"))
    assert got.classes == ("cat", "emu") and set(got.train_labels.tolist()) == {0, 1}


# ---- parquet --------------------------------------------------------------------------------------------------------
COLUMNS = {
    "binary": lambda images: pa.array(images, pa.binary()),
    "large binary": lambda images: pa.array(images, pa.large_binary()),
    "struct": lambda images: pa.array([{"bytes": image, "path": None} for image in images],
                                      pa.struct({"bytes": pa.binary(), "path": pa.string()})),
}  # fmt: skip


def write_parquet(path, images, labels, column="binary", kind="png", **others):
    content = [image if isinstance(image, bytes) else encoded(image, kind) for image in images]
    parquet.write_table(pa.table({"image": COLUMNS[column](content), "label": labels, **others}), path)
    return path


@pytest.mark.parametrize("column", COLUMNS)
def test_parquet_holds_encoded_images(tmp_path, column):
    """In a column of bytes or, as Hugging Face writes it, of bytes and paths; with a split or without."""
    images, labels = pixels(12), [0, 1] * 6
    path = write_parquet(tmp_path / "a.parquet", images, labels, column)
    assert same(load_images(path), from_arrays("a", (images, np.array(labels))))
    split = ["train"] * 5 + ["test"] * 3 + ["validation"] + ["train"] * 3
    got = load_images(write_parquet(path, images, labels, column, split=split))
    assert torch.equal(got.train, first(images[[0, 1, 2, 3, 4, 9, 10, 11]]))
    assert torch.equal(got.test, first(images[5:8])) and got.test_labels.tolist() == [1, 0, 1]


def test_parquet_labels_may_be_words_and_images_jpeg(tmp_path):
    images = np.full((12, 16, 16, 3), [200, 100, 50], np.uint8)
    labels = pa.array(["ant", "bee"] * 6).dictionary_encode()
    got = load_images(write_parquet(tmp_path / "a.parquet", images, labels, kind="jpeg"))
    assert got.classes == ("ant", "bee") and got.shape == (3, 16, 16)
    assert (got.train.float().mean((0, 2, 3)) - torch.tensor([200, 100, 50])).abs().max() < 4


# ---- narrowing ------------------------------------------------------------------------------------------------------
def test_classes_are_chosen_by_name_and_position():
    images = from_arrays("pets", (pixels(20), np.array(["ant", "bee", "cat", "dog"] * 5)))
    chosen = images.of_classes(["dog", 1])
    assert (chosen.name, chosen.classes) == ("pets_c3-1", ("dog", "bee"))
    for part in ("train", "test"):
        labels, all_labels = getattr(chosen, f"{part}_labels"), getattr(images, f"{part}_labels")
        kept = (all_labels == 3) | (all_labels == 1)
        assert torch.equal(getattr(chosen, part), getattr(images, part)[kept])
        assert torch.equal(labels, (all_labels[kept] == 1).long())
    assert same(chosen, images.of_classes(["3", "bee"]))


def test_names_go_before_positions():
    images = from_arrays("a", (pixels(20), np.array([1, 2, 3, 7] * 5)))
    assert images.of_classes([1, 3]).classes == ("1", "3") and images.of_classes([0, 7]).classes == ("1", "7")


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (12, 7), (1, 4)])
@pytest.mark.parametrize("side", [1, 3, 6, 13])
def test_resizing_keeps_constants_constant(shape, side):
    images = torch.tensor([0, 7, 128, 255], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, *shape)
    assert torch.equal(resize(images, side), images[:, :, :1, :1].expand(-1, -1, side, side))


def test_resizing_takes_the_middle():
    """Of a wide or tall image only the middle square counts, and at its own size that is unchanged."""
    images = first(pixels(3, 6, 6))
    for frame in ((3, 3, 0, 0), (0, 0, 2, 2), (1, 2, 0, 0)):
        framed = torch.nn.functional.pad(images, frame, value=255)
        assert torch.equal(resize(framed, 6), images) and torch.equal(resize(framed, 4), resize(images, 4))


def test_images_of_different_size_are_scaled_while_they_are_read(tmp_path):
    """As `resize` does: constants stay, frames beside the middle square go."""
    for k, (height, width) in enumerate([(8, 8), (8, 12), (9, 5), (4, 4), (40, 40), (5, 11)]):
        image = np.full((height, width, 3), [10 * k, 0, 255], np.uint8)
        spare = (width - height) // 2
        if spare > 0:
            image[:, :spare], image[:, -spare:] = 255, 255
        write(tmp_path / "pets" / "ab"[k % 2] / f"{k}.png", encoded(image))
        write(tmp_path / "pets" / "ab"[k % 2] / f"{k}.bmp", encoded(image, "bmp"))
    got = load_images(tmp_path / "pets", resolution=4)
    both = torch.cat([got.train, got.test])
    assert (got.name, got.shape, len(both)) == ("pets_4px", (3, 4, 4), 12)
    assert torch.equal(both, both[:, :, :1, :1].expand_as(both))
    assert sorted(both[:, 0, 0, 0].tolist()) == sorted([0, 10, 20, 30, 40, 50] * 2)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (9, 14), (31, 16), (4, 5)])
def test_images_are_scaled_alike_whatever_they_lie_in(tmp_path, height, width):
    """To one level of 255, by which Pillow and PyTorch round differently."""
    images, labels = pixels(10, height, width), [0, 1] * 5
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    write_parquet(tmp_path / "a.parquet", images, labels)
    one, other = (load_images(tmp_path / f"a.{suffix}", resolution=6) for suffix in ("npz", "parquet"))
    assert one.name == other.name == "a_6px" and (one.train.int() - other.train.int()).abs().max() <= 1


def test_a_name_says_what_was_changed(tmp_path):
    write_parquet(tmp_path / "a.parquet", pixels(20), [0, 1, 2, 3] * 5)
    np.savez(tmp_path / "b.npz", images=pixels(20), labels=[0, 1, 2, 3] * 5)
    changed = {"resolution": 4, "classes": [0, "3"], "train_size": 6, "test_rest": True}
    assert load_images(tmp_path / "a.parquet", **changed).name == "a_4px_c0-3_n6r"
    got = load_images(tmp_path / "b.npz", **changed)
    assert (got.name, got.shape, len(got.train), len(got.test)) == ("b_c0-3_4px_n6r", (3, 4, 4), 6, 4)
    assert got.limited(4, 2).name == "b_c0-3_4px_n6r_n4t2"
    assert load_images(tmp_path / "b.npz", resolution=SIDE).name == "b"


@pytest.mark.parametrize("size", [3, 10, 40, 61])
def test_limited_is_balanced(size):
    """Classes differ by one at most, but for those that have no more images; order and images are the set's own."""
    images = tagged(30, 9, 40, test=(5, 5, 5))
    got = images.limited(size)
    counts, left = got.train_labels.bincount(minlength=3), torch.tensor([30, 9, 40])
    assert counts.sum() == size and (counts.max() - counts[counts < left]).max() <= 1
    assert numbers(got.train) == sorted(numbers(got.train)) and len(set(numbers(got.train))) == size
    assert torch.equal(got.train_labels, images.train_labels[numbers(got.train)])
    assert torch.equal(got.test, images.test) and got.name == f"tagged_n{size}"


def test_what_is_left_may_be_for_testing():
    """Training and test images stay disjoint and none is lost; the seed decides which are which."""
    images = tagged(20, 20, test=(4, 4))
    got = images.limited(10, test_rest=True)
    assert sorted(numbers(got.train) + numbers(got.test)) == [*range(40), *range(5000, 5008)]
    assert len(got.test) == 38 and got.name == "tagged_n10r"
    assert same(got, images.limited(10, test_rest=True, seed=0))
    assert not same(got, images.limited(10, test_rest=True, seed=1))
    few = images.limited(10, 30, test_rest=True)  # more than there were for testing at first
    assert few.test_labels.bincount().tolist() == [15, 15] and set(numbers(few.test)) < set(numbers(got.test))


def test_the_size_for_testing_is_balanced():
    got = tagged(5, 5, test=(20, 3)).limited(test_size=10, seed=4)
    assert got.test_labels.bincount().tolist() == [7, 3] and len(got.train) == 10
    assert same(tagged(5, 5, test=(20, 3)).limited(), tagged(5, 5, test=(20, 3)))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
def test_held_out_is_the_same_share_of_each_class(share):
    images = tagged(20, 40, 12, test=(2, 2, 2))
    rest, aside, labels = images.held_out(share)
    assert labels.bincount().tolist() == [round(share * count) for count in (20, 40, 12)]
    assert sorted(numbers(rest.train) + numbers(aside)) == list(range(72))
    assert torch.equal(labels, images.train_labels[numbers(aside)]) and torch.equal(rest.test, images.test)
    assert torch.equal(rest.train_labels, images.train_labels[numbers(rest.train)])
    assert torch.equal(images.held_out(share)[1], aside)


def test_nothing_is_held_out_at_zero():
    images = tagged(20, 20)
    rest, aside, labels = images.held_out(0.0)
    assert rest is images and aside.shape == (0, 1, 4, 4) and labels.shape == (0,)


def test_statistics_are_those_of_all_training_images():
    images = from_arrays("a", (pixels(1500), np.arange(1500) % 2), (pixels(9, seed=1), np.arange(9) % 2))
    mean, std = images.statistics
    direct = images.train.double() / 255
    torch.testing.assert_close(mean, direct.mean((0, 2, 3)).float())
    torch.testing.assert_close(std, direct.std((0, 2, 3), correction=0).float())


def test_the_deviation_of_constants_is_not_zero():
    """It divides."""
    mean, std = from_arrays("a", (np.full((10, 2, 2), 51, np.uint8), np.arange(10) % 2)).statistics
    assert mean.item() == pytest.approx(0.2) and std.item() == pytest.approx(1e-3)


# ---- refusals -------------------------------------------------------------------------------------------------------
LABELS = np.arange(20) % 2


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (pixels(20, channels=2), LABELS, r"1 channel \(grey\) or 3 \(RGB\), got \[20, 6, 6, 2\]"),
        (pixels(20, channels=4), LABELS, r"1 channel \(grey\) or 3 \(RGB\), got \[20, 6, 6, 4\]"),
        (pixels(20).reshape(20, -1), LABELS, r"images are numbers \(images, height, width\), got uint8 \[20, 108\]"),
        (pixels(20, height=0), LABELS, r"images are numbers"),
        (pixels(20).astype(str), LABELS, "images are numbers"),
        (pixels(20).astype(complex), LABELS, "images are numbers"),
        (pixels(20) / 200, LABELS, "floats from 0 to 1, got 0 to 1.275"),
        (pixels(20) / 255 - 0.5, LABELS, "floats from 0 to 1, got -0.5 to 0.5"),
        (pixels(20).astype(np.int16) * 2, LABELS, "pixels are 0 to 255, .* got 0 to 510"),
        (np.where(pixels(20) < 9, np.nan, 0.5), LABELS, "floats from 0 to 1, got nan to nan"),
        (np.where(pixels(20) < 9, np.inf, 0.5), LABELS, "got 0.5 to inf"),
        (pixels(20), LABELS[:19], "a has 20 images with 19 labels"),
        (pixels(0), LABELS[:0], "a holds no images"),
        (pixels(20), LABELS - 1, "labels out of range: -1 is negative"),
        (pixels(20), LABELS / 1, r"one whole number or word an image, got float64 \[20\]"),
        (pixels(20), LABELS[:, None], r"one whole number or word an image, got int64 \[20, 1\]"),
        (pixels(20), np.array([None, 1] * 10), "one whole number or word an image, got object"),
        (pixels(20), LABELS * 0 + 3, "a has one class, 3; a task needs at least two"),
        (pixels(20), np.arange(20), "too few images to set a fifth of each class aside"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(images, labels, sentence):
    refused(sentence, from_arrays, "a", (images, labels))


def test_splits_that_do_not_fit_are_refused():
    train = pixels(20), LABELS
    for test, sentence in (
        ((pixels(3), np.array([0, 1, 2])), "test labels out of range: 2 is in no training image"),
        ((pixels(2), np.array(["0", "1"])), "test labels out of range: 0 is in no training image"),
        ((pixels(2), np.array([0])), "20 images with 20 labels and 2 images with 1 labels"),
        ((pixels(2, channels=1), LABELS[:2]), r"to train and to test differ, \[20, 3, 6, 6\] and \[2, 1, 6, 6\]"),
        ((pixels(2, height=7), LABELS[:2]), "to train and to test differ"),
        ((pixels(0), LABELS[:0]), "a holds no images"),
    ):
        refused(sentence, from_arrays, "a", train, test)
    refused("labels out of range: 1 with 1 classes", from_arrays, "a", train, classes=["cat"])
    words = np.array(["x", "y"])[LABELS]
    refused("labels out of range: y with 2 classes", from_arrays, "a", (pixels(20), words), classes=["cat", "dog"])


def test_narrowing_says_what_it_needs():
    images = tagged(10, 10, 10, test=(2, 2, 0))
    for function, given, sentence in (
        (images.of_classes, ([0, 3],), "tagged has no class 3; it has 0, 1, 2"),
        (images.of_classes, (["cat", 1],), "tagged has no class 'cat'"),
        (images.of_classes, ([-1, 1],), "tagged has no class -1"),
        (images.of_classes, ([1],), r"at least two different classes, got \[1\]"),
        (images.of_classes, ([1, "1"],), "at least two different classes"),
        (images.of_classes, ([],), "at least two different classes"),
        (tagged(9, 9, 9, test=(3,)).of_classes, ([1, 2],), "has no images of 1, 2 to be judged on"),
        (images.resized, (0,), "a whole number from 1 to 1024, got 0"),
        (images.resized, (1025,), "a whole number from 1 to 1024, got 1025"),
        (images.limited, (2,), "limited to 3 to 30 of its images, got 2"),
        (images.limited, (31,), "limited to 3 to 30 of its images, got 31"),
        (images.limited, (-3,), "limited to 3 to 30 of its images, got -3"),
        (images.limited, (10, 5), "limited to 3 to 4 of its images, got 5"),
        (images.limited, (10, 25, True), "limited to 3 to 24 of its images, got 25"),
        (images.held_out, (-0.1,), r"a share of the training images from 0 to 0\.9, got -0\.1"),
        (images.held_out, (0.95,), r"a share of the training images from 0 to 0\.9, got 0\.95"),
        (images.held_out, (float("nan"),), "a share of the training images from 0 to 0.9, got nan"),
        (images.held_out, (0.01,), r"too few images for validation=0\.01; validation=0 uses them all"),
        (tagged(1, 9, test=(1, 1)).held_out, (0.9,), "too few images for validation=0.9"),
    ):
        refused(sentence, function, *given)


def test_data_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    write(tmp_path / "flat" / "x.png", encoded(pixels(1)[0]))
    write(tmp_path / "words.txt", b"words")
    folder(tmp_path / "one", classes=("cat",))
    for name, sentence in (
        ("missing", "it does not exist; built in is 'digits'"),
        ("missing.npz", "it does not exist"),
        ("words.txt", r"it is neither a folder, an \.npz nor a \.parquet file"),
        ("empty", "empty holds no images; it needs a folder of images for each class"),
        ("flat", "flat holds no images; it needs a folder of images for each class"),
        ("one", "one has one class, cat; a task needs at least two"),
    ):
        refused(sentence, load_images, tmp_path / name)


def test_a_wrong_resolution_is_refused_before_anything_is_decoded(tmp_path):
    folder(tmp_path)
    for side in (0, -3, 1025):
        for data in (tmp_path, "digits"):
            refused(f"a whole number from 1 to 1024, got {side}", load_images, data, resolution=side)


def test_images_of_different_size_need_a_resolution(tmp_path):
    folder(tmp_path)
    write(tmp_path / "dog" / "x.png", encoded(pixels(1, 7, 9)[0]))
    refused("differ in size, from 6 x 6 to 9 x 7; give a resolution", load_images, tmp_path)
    assert load_images(tmp_path, resolution=5).shape == (3, 5, 5)


@pytest.mark.parametrize("container", ["folder", "parquet"])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, container):
    """A photograph cut short, and words called an image."""
    whole = encoded(pixels(1, 64, 64)[0], "jpeg")
    for suffix, content in ((".jpg", whole[: len(whole) // 2]), (".png", b"These are words."), (".png", b"")):
        if container == "folder":
            folder(tmp_path / "a")
            path = write(tmp_path / "a" / "dog" / f"x{suffix}", content)
            refused(f"cannot decode the image {path}", load_images, tmp_path / "a", resolution=6)
            path.unlink()
        else:
            path = write_parquet(tmp_path / "a.parquet", [*pixels(5), content], [0, 1] * 3)
            refused(f"cannot decode the image {path}, row 5, image", load_images, path, resolution=6)


class Bomb:
    """Pickles as a call that leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_an_npz_runs_no_code_and_is_refused_by_one_sentence(tmp_path):
    path, sentinel = tmp_path / "a.npz", tmp_path / "sentinel"
    np.savez(path, images=np.array([Bomb(sentinel)], object), labels=np.array([0]))
    refused(f"cannot read {path}: Object arrays cannot be loaded", load_images, path)
    np.savez(path, images=pixels(20), labels=np.array([Bomb(sentinel), 1] * 10, object))
    refused(f"cannot read {path}: Object arrays cannot be loaded", load_images, path)
    for content in (pickle.dumps(Bomb(sentinel)), b"", b"words", Path(path).read_bytes()[:200]):
        refused(f"cannot read {path}", load_images, write(path, content))
    np.save(tmp_path / "a.npy", pixels(3))
    refused(f"cannot read {path}", load_images, (tmp_path / "a.npy").rename(path))
    assert not sentinel.exists()


def test_an_npz_without_images_is_refused(tmp_path):
    for arrays, sentence in (
        ({"x_train": pixels(3), "y_train": LABELS[:3]}, "needs x_train, .* it has x_train, y_train"),
        ({}, "it has nothing"),
        ({f"a{k}": LABELS for k in range(20)}, r"it has a0, .*, a11, \.\.\."),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        refused(sentence, load_images, tmp_path / "a.npz")


def test_a_parquet_without_images_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    image = encoded(pixels(1)[0])
    struct = pa.array([{"bytes": None, "path": str(write(tmp_path / "x.png", image))}] * 2)
    for columns, sentence in (
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "a.parquet holds no images"),
        ({"image": [image]}, "needs one column of encoded images, found image, and a column 'label'; it has image"),
        ({"label": [1]}, "needs one column of encoded images, found none, .* it has label"),
        ({"a": [image], "b": [image], "label": [1]}, "needs one column of encoded images, found a, b"),
        ({"image": [image, None], "label": [0, 1]}, "cannot decode the image .*row 1, image"),
        ({"image": struct.cast(pa.struct({"bytes": pa.binary(), "path": pa.string()})), "label": [0, 1]},
         "cannot decode the image .*row 0, image"),  # only bytes are read, wherever a path points
        ({"image": [image] * 2, "label": [0, None]}, "one whole number or word an image, got object"),
        ({"image": [image] * 2, "label": [0, -1]}, "labels out of range: -1"),
        ({"image": [image] * 2, "label": [0, 1], "split": ["train", "train"]}, "rows 'train' and 'test', got train$"),
        ({"image": [image] * 2, "label": [0, 1], "split": ["train", None]}, "'train' and 'test', got train, None"),
        ({"image": [image] * 2, "label": [0, 1], "split": [0, 1]}, "rows 'train' and 'test', got 0, 1"),
    ):  # fmt: skip
        parquet.write_table(pa.table(columns), path)
        refused(sentence, load_images, path)
    parquet.write_table(pa.table([[image], [0], [1]], ["image", "label", "label"]), path)
    refused("cannot read .*two columns have the same name", load_images, path)
    for content in (b"", b"words", path.read_bytes()[:-30]):
        refused(f"cannot read {path}", load_images, write(path, content))


# ---- batches --------------------------------------------------------------------------------------------------------
def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def changed(image, draws, flip, crop, cutout, fill):
    """What `augment` does to one image, one pixel at a time."""
    height, width = image.shape[1:]
    if flip and draws[0] < 0.5:
        image = torch.stack([image[:, :, width - 1 - x] for x in range(width)], -1)
    if crop:
        down, right = (int(draw * (2 * crop + 1)) - crop for draw in draws[1:3])
        shifted = torch.zeros_like(image)
        for y, x in product(range(height), range(width)):
            if 0 <= y + down < height and 0 <= x + right < width:
                shifted[:, y, x] = image[:, y + down, x + right]
        image = shifted
    if cutout:
        top, left = int(draws[3] * height) - cutout // 2, int(draws[4] * width) - cutout // 2
        image = image.clone()
        for y, x in product(range(top, top + cutout), range(left, left + cutout)):
            if 0 <= y < height and 0 <= x < width:
                image[:, y, x] = fill
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("flip", "crop", "cutout"),
    [(True, 0, 0), (False, 1, 0), (False, 9, 0), (False, 0, 1), (False, 0, 4), (False, 0, 20), (True, 2, 3)],
)
def test_a_batch_changes_as_its_images_do_one_by_one(flip, crop, cutout, channels):
    images, fill = first(pixels(24, 5, 7, channels)), torch.tensor([1, 20, 255], dtype=torch.uint8)[:channels]
    got = augment(images, seeded(), flip, crop, cutout, fill)
    draws = torch.rand(5, 24, generator=seeded())
    expected = [changed(image, draws[:, k], flip, crop, cutout, fill) for k, image in enumerate(images)]
    assert got.dtype == torch.uint8 and torch.equal(got, torch.stack(expected))
    assert not torch.equal(got, images)


@pytest.mark.parametrize("cuts", [(0, 24), (0, 8, 16, 24), (0, 1, 23, 24)])
@pytest.mark.parametrize(
    "options", [{}, {"flip": True}, {"crop": 2}, {"cutout": 3}, {"flip": True, "crop": 1, "cutout": 2}], ids=str
)
def test_a_batch_changes_alike_however_it_is_spread(options, cuts):
    """By parts, as processes share it, each with a generator of the same seed; which then stand alike."""
    images, generator = first(pixels(24)), seeded(3)
    whole, later = augment(images, generator, **options), torch.rand(1, generator=generator)
    parts = []
    for begin, end in pairwise(cuts):
        generator = seeded(3)
        parts.append(augment(images[begin:end], generator, **options, rows=slice(begin, end), total=24))
        assert torch.equal(torch.rand(1, generator=generator), later)
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(augment(images, seeded(3)), images)


def test_every_shift_in_the_bounds_occurs_equally_often():
    """A white pixel in the middle moves by -2 to 2 in both directions: 5 standard errors at n = 5,000."""
    images = torch.zeros(5000, 1, 9, 9, dtype=torch.uint8)
    images[:, 0, 4, 4] = 255
    counts = (augment(images, seeded(), crop=2) == 255).sum((0, 1))
    assert counts.sum() == counts[2:7, 2:7].sum() == 5000
    assert (counts[2:7, 2:7] - 200).abs().max() < 5 * (5000 * 0.04 * 0.96) ** 0.5


def test_half_of_the_images_are_mirrored():
    """5 standard errors at n = 4,000."""
    images = torch.tensor([0, 255], dtype=torch.uint8).expand(4000, 1, 1, 2)
    mirrored = augment(images, seeded(), flip=True)[:, 0, 0, 0] == 255
    assert abs(mirrored.float().mean().item() - 0.5) < 5 * 0.5 / 4000**0.5


def test_cutout_is_black_unless_a_colour_is_given():
    images = torch.full((50, 3, 8, 8), 9, dtype=torch.uint8)
    got = augment(images, seeded(), cutout=4)
    assert got.unique().tolist() == [0, 9] and (got == 0).sum((1, 2, 3)).max() == 3 * 16
    assert (got == 0).any(1).equal((got == 0).all(1)) and (images == 9).all()
