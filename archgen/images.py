"""Labelled images as tensors: read from a folder, npz or parquet, narrowed to a task, augmented in batches."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from archgen.hub import reading

Images = UInt8[Tensor, "images channels height width"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TRAIN, TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")  # names of splits, best first
TEST_SHARE = 0.2  # of data that come without a split


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A classification task: images to learn from, images to be judged on.

    Attributes:
        name: What it is called in tables: source, then what was changed, such as `cifar10_16px_c0-3_n400`.
        classes: Names of the classes; a label is a position in them.
        train: Images to learn from, uint8, `(images, channels, height, width)`, 1 (grey) or 3 (RGB) channels.
        train_labels: Their labels, int64.
        test: Images to be judged on, of the same shape.
        test_labels: Their labels.
    """

    name: str
    classes: tuple[str, ...]
    train: UInt8[Tensor, "train channels height width"]
    train_labels: Int[Tensor, " train"]
    test: UInt8[Tensor, "test channels height width"]
    test_labels: Int[Tensor, " test"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return tuple(self.train.shape[1:])

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits that differ where images, labels or split differ."""
        content = hashlib.blake2b(repr((self.classes, self.shape)).encode(), digest_size=6)
        for tensor in (self.train, self.train_labels, self.test, self.test_labels):
            content.update(tensor.numpy().tobytes())
        return content.hexdigest()

    @cached_property
    def statistics(self) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
        """Mean and standard deviation of the training images' channels, in [0, 1]."""
        sums = [
            torch.stack([part.sum((0, 2, 3)), (part**2).sum((0, 2, 3))])
            for part in (chunk.double() / 255 for chunk in self.train.split(1024))
        ]
        mean, square = sum(sums[1:], sums[0]) / (self.train.numel() / self.train.shape[1])
        return mean.float(), (square - mean**2).clamp(min=1e-6).sqrt().float()

    def of_classes(self, chosen: Sequence[int | str]) -> ImageSet:
        """The task of telling some of the classes apart, given by name or position.

        Raises:
            ValueError: If there are fewer than two, one of them is unknown, or none has images for testing.
        """
        places = [self.classes.index(str(c)) if str(c) in self.classes else _whole(c) for c in chosen]
        if wrong := [c for c, p in zip(chosen, places, strict=True) if not 0 <= p < len(self.classes)]:
            raise ValueError(f"{self.name} has no class {wrong[0]!r}; it has {_some(self.classes)}")
        if len(set(places)) < 2 or len(set(places)) < len(places):
            raise ValueError(f"a task needs at least two different classes, got {list(chosen)}")
        label = torch.full((len(self.classes),), -1).index_copy(0, torch.tensor(places), torch.arange(len(places)))
        train, test = label[self.train_labels] >= 0, label[self.test_labels] >= 0
        if not test.any():
            raise ValueError(f"{self.name} has no images of {_some(chosen)} to be judged on")
        return replace(
            self,
            name=f"{self.name}_c{'-'.join(map(str, places))}",
            classes=tuple(self.classes[place] for place in places),
            train=self.train[train],
            train_labels=label[self.train_labels[train]],
            test=self.test[test],
            test_labels=label[self.test_labels[test]],
        )

    def resized(self, side: int) -> ImageSet:
        """Square images of another size, cropped to their middle first.

        Raises:
            ValueError: If the side is not in 1 to 1024.
        """
        _check_side(side)
        name = f"{self.name}_{side}px"
        return replace(self, name=name, train=resize(self.train, side), test=resize(self.test, side))

    def limited(
        self, train_size: int | None = None, test_size: int | None = None, test_rest: bool = False, seed: int = 0
    ) -> ImageSet:
        """Fewer images, as equal in number over the classes as they can be.

        Args:
            train_size: How many to learn from; all if absent.
            test_size: How many to be judged on; all if absent.
            test_rest: Whether the training images that are left out are for testing, too.
            seed: Seed of the choice.

        Raises:
            ValueError: If there are fewer, or not one for each class.
        """
        order = _balanced_order(self.train_labels, seed)
        rows, rest = order[:train_size].sort().values, order[len(order) if train_size is None else train_size :]
        test, test_labels = self.test, self.test_labels
        if test_rest:
            rest = rest.sort().values
            test, test_labels = torch.cat([test, self.train[rest]]), torch.cat([test_labels, self.train_labels[rest]])
        for size, labels in ((train_size, self.train_labels), (test_size, test_labels)):
            if size is not None and not len(self.classes) <= size <= len(labels):
                low, high = len(self.classes), len(labels)
                raise ValueError(f"{self.name} can be limited to {low} to {high} of its images, got {size}")
        judged = _balanced_order(test_labels, seed)[:test_size].sort().values
        changed = [
            f"n{train_size}" if train_size else "",
            "r" if test_rest else "",
            f"t{test_size}" if test_size else "",
        ]
        return replace(
            self,
            name="_".join(filter(None, [self.name, "".join(changed)])),
            train=self.train[rows],
            train_labels=self.train_labels[rows],
            test=test[judged],
            test_labels=test_labels[judged],
        )

    def held_out(self, share: float) -> tuple[ImageSet, Images, Int[Tensor, " images"]]:
        """Set some training images aside, the same share of each class: what is left, and those with their labels.

        Raises:
            ValueError: If the share is not in [0, 0.9], none would be set aside, or a class would have none left.
        """
        if not 0 <= share <= 0.9:
            raise ValueError(f"validation is a share of the training images from 0 to 0.9, got {share}")
        if share == 0:
            return self, self.train[:0], self.train_labels[:0]
        aside = _stratified(self.train_labels, share)
        kept = self.train_labels[~aside]
        if not aside.any() or len(kept.unique()) < len(self.classes):
            raise ValueError(f"{self.name} has too few images for validation={share}; validation=0 uses them all")
        rest = replace(self, train=self.train[~aside], train_labels=kept)
        return rest, self.train[aside], self.train_labels[aside]


def load_images(
    data: str | Path,
    resolution: int | None = None,
    classes: Sequence[int | str] | None = None,
    train_size: int | None = None,
    test_rest: bool = False,
) -> ImageSet:
    """Read labelled images, and narrow them to a task.

    Args:
        data: `digits` (scikit-learn's, 8 x 8), or a path. A folder has a folder of images for each class, or such
            folders in `train` and `test`. An npz has `x_train, y_train, x_test, y_test`, or `images, labels`. A
            parquet file has encoded images in a column of bytes, a column `label`, and perhaps `split`. Without a
            split, a fifth of each class is for testing.
        resolution: Side of the images; needed where they differ in size.
        classes: Only these, by name or position.
        train_size: Only so many training images.
        test_rest: Whether the training images that are left are for testing, too.

    Raises:
        ValueError: If that cannot be done; one sentence says why.
    """
    path = Path(data)
    if resolution is not None:
        _check_side(resolution)
    if str(data) == "digits":
        images = _read_digits()
    elif path.is_dir() or (path.suffix == ".parquet" and path.is_file()):
        images = (_read_folder if path.is_dir() else _read_parquet)(path, resolution)
        if resolution is not None:  # scaled while they were decoded
            images = replace(images, name=f"{images.name}_{resolution}px")
    elif path.suffix == ".npz" and path.is_file():
        images = _read_npz(path)
    else:
        what = "is neither a folder, an .npz nor a .parquet file" if path.exists() else "does not exist"
        raise ValueError(f"no data {str(data)!r}: it {what}; built in is 'digits'")
    if classes is not None:
        images = images.of_classes(classes)
    if resolution is not None and images.shape[1:] != (resolution, resolution):
        images = images.resized(resolution)
    return images if train_size is None else images.limited(train_size, test_rest=test_rest)


def from_arrays(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray] | None = None,
    classes: Sequence[str] | None = None,
) -> ImageSet:
    """An image set from arrays of images and of labels.

    Args:
        name: Its name.
        train: Images `(images, height, width)`, with channels last or first where there are any, uint8 or floats in
            [0, 1]; labels `(images,)`, integers or words.
        test: The same for testing; a fifth of each class of `train` if absent.
        classes: Names of the classes that labels 0, 1, ... mean; the labels themselves if absent.

    Raises:
        ValueError: If they do not fit together; one sentence says why.
    """
    images = [_pixels(pixels, name) for pixels, _ in (train, *([test] if test else []))]
    labels = [_labels(values, name) for _, values in (train, *([test] if test else []))]
    if any(len(x) != len(y) for x, y in zip(images, labels, strict=True)):
        counts = [f"{len(x)} images with {len(y)} labels" for x, y in zip(images, labels, strict=True)]
        raise ValueError(f"{name} has {' and '.join(counts)}")
    if not all(map(len, images)):
        raise ValueError(f"{name} holds no images")
    if test and images[0].shape[1:] != images[1].shape[1:]:
        raise ValueError(
            f"{name}: images to train and to test differ, {list(images[0].shape)} and {list(images[1].shape)}"
        )
    known, codes = np.unique(labels[0], return_inverse=True)
    if len(known) < 2:
        raise ValueError(f"{name} has one class, {known[0]!s}; a task needs at least two")
    if classes is not None and (known.dtype.kind not in "iu" or known[-1] >= len(classes)):
        raise ValueError(f"{name} has labels out of range: {known[-1]!s} with {len(classes)} classes")
    split = [(images[0], torch.from_numpy(codes.reshape(-1).astype(np.int64)))]
    if test:
        place = np.searchsorted(known, labels[1]).clip(max=len(known) - 1)
        if (wrong := labels[1][known[place] != labels[1]]).size:
            raise ValueError(f"{name} has test labels out of range: {wrong[0]!s} is in no training image")
        split.append((images[1], torch.from_numpy(place.astype(np.int64))))
    else:
        aside = _stratified(split[0][1], TEST_SHARE)
        if len(split[0][1][~aside].unique()) < len(known) or not aside.any():
            raise ValueError(f"{name} has too few images to set a fifth of each class aside for testing")
        split = [(x[part], y[part]) for x, y in split for part in (~aside, aside)]
    names = tuple(str(label) if classes is None else str(classes[label]) for label in known)
    return ImageSet(name, names, *split[0], *split[1])


# ---- batches --------------------------------------------------------------------------------------------------------
def augment(
    images: Images,
    generator: torch.Generator,
    flip: bool = False,
    crop: int = 0,
    cutout: int = 0,
    fill: UInt8[Tensor, " channels"] | None = None,
    rows: slice = slice(None),
    total: int | None = None,
) -> Images:
    """Flip, shift and cut out squares of a batch of images, each in its own way.

    Args:
        images: The batch, or the part `rows` of a batch of `total`: the same images change alike however the batch is
            spread over processes.
        generator: Source of randomness, on the CPU.
        flip: Whether each is mirrored with probability 1/2.
        crop: Largest shift, in pixels, in both directions; what comes in is black (random crops of padded images).
        cutout: Side of the square that is filled (DeVries & Taylor, 2017); its centre is anywhere.
        fill: Colour of that square; black if absent.
        rows: Which part of the batch this is.
        total: Size of the batch; that of `images` if absent.
    """
    n, device = total or len(images), images.device
    side = torch.tensor(images.shape[2:], device=device)  # height, width
    draws = torch.rand(5, n, generator=generator)[:, rows].to(device)
    if flip:
        images = torch.where((draws[0] < 0.5)[:, None, None, None], images.flip(-1), images)
    if crop:
        shift = (draws[1:3] * (2 * crop + 1)).long()  # (2, B), rows and columns
        padded = F.pad(images, (crop,) * 4)
        y = shift[0, :, None] + torch.arange(side[0], device=device)  # (B, H)
        x = shift[1, :, None] + torch.arange(side[1], device=device)
        batch = torch.arange(len(images), device=device)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[batch, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
    if cutout:
        centre = (draws[3:5] * side[:, None]).long()
        near = [
            (torch.arange(side[d], device=device) - centre[d, :, None] + cutout // 2).clamp(-1, cutout) for d in (0, 1)
        ]
        inside = [(offset >= 0) & (offset < cutout) for offset in near]
        square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        colour = torch.zeros(images.shape[1], dtype=torch.uint8, device=device) if fill is None else fill
        images = torch.where(square, colour[:, None, None], images)
    return images


def resize(images: Images, side: int) -> UInt8[Tensor, "images channels {side} {side}"]:
    """The middle square of images, scaled to a side, antialiased."""
    height, width = images.shape[2:]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = images[:, :, top : top + short, left : left + short]
    parts = (
        F.interpolate(part.float(), (side, side), mode="bilinear", antialias=True, align_corners=False)
        for part in square.split(4096)
    )
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


# ---- reading --------------------------------------------------------------------------------------------------------
def _read_digits() -> ImageSet:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return from_arrays("digits", ((digits.images * (255 / 16)).round().astype(np.uint8), digits.target))


def _read_npz(path: Path) -> ImageSet:
    with reading(path), np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        return from_arrays(path.stem, (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"]))
    for images, labels in (("images", "labels"), ("x", "y")):
        if {images, labels} <= arrays.keys():
            return from_arrays(path.stem, (arrays[images], arrays[labels]))
    raise ValueError(
        f"{path} needs x_train, y_train, x_test, y_test, or images and labels; it has {_some(arrays) or 'nothing'}"
    )


def _read_parquet(path: Path, resolution: int | None) -> ImageSet:
    import pyarrow as pa
    from pyarrow import parquet

    with reading(path):
        table = parquet.ParquetFile(path).read()
        if len(set(table.column_names)) < table.num_columns:
            raise ValueError("two columns have the same name")
        table.validate(full=True)
    if not table.num_rows:
        raise ValueError(f"{path} holds no images")
    bytes_of: dict[str, Callable[[], list[bytes | None]]] = {}
    for field in table.schema:
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            bytes_of[field.name] = table[field.name].to_pylist
        elif pa.types.is_struct(field.type) and any(part.name == "bytes" for part in field.type):
            bytes_of[field.name] = lambda name=field.name: [
                entry and entry["bytes"] for entry in table[name].to_pylist()
            ]
    label = next((name for name in ("label", "labels", "fine_label", "class") if name in table.column_names), None)
    if len(bytes_of) != 1 or label is None:
        raise ValueError(
            f"{path} needs one column of encoded images, found {_some(bytes_of) or 'none'}, and a column 'label'; "
            f"it has {_some(table.column_names)}"
        )
    ((column, read),) = bytes_of.items()
    pixels = _decode(read(), [f"{path}, row {row}, {column}" for row in range(table.num_rows)], resolution)
    labels = np.asarray(table[label].to_pylist())
    if "split" not in table.column_names:
        return from_arrays(path.stem, (pixels, labels))
    split = np.asarray(table["split"].to_pylist())
    train, test = (next((split == name for name in names if (split == name).any()), None) for names in (TRAIN, TEST))
    if train is None or test is None:
        raise ValueError(
            f"{path}: column 'split' needs rows 'train' and 'test', got {_some(dict.fromkeys(split.tolist()))}"
        )
    return from_arrays(path.stem, (pixels[train], labels[train]), (pixels[test], labels[test]))


def _read_folder(path: Path, resolution: int | None) -> ImageSet:
    name = Path(os.path.abspath(path)).name  # of `.`, too
    folders = {entry.name: entry for entry in sorted(path.iterdir()) if entry.is_dir()}
    train, test = (next((folders[n] for n in names if n in folders), None) for names in (TRAIN, TEST))
    if train is not None and test is not None:
        return from_arrays(name, _read_classes(train, resolution), _read_classes(test, resolution))
    return from_arrays(name, _read_classes(path, resolution))


def _read_classes(path: Path, resolution: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a folder that has a folder for each class."""
    files = [
        (file, folder.name)
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)  # what systems leave behind
    ]
    if not files:
        raise ValueError(f"{path} holds no images; it needs a folder of images for each class")
    pixels = _decode([file for file, _ in files], [str(file) for file, _ in files], resolution)
    return pixels, np.asarray([label for _, label in files])


def _decode(images: Sequence[bytes | Path | None], names: Sequence[str], resolution: int | None) -> np.ndarray:
    """Decode images to `(images, height, width, channels)`; grey where all of them are.

    Raises:
        ValueError: If one of them cannot be decoded, or they differ in size and no resolution is given.
    """
    from PIL import Image

    def decode(image: bytes | Path | None, name: str) -> tuple[np.ndarray, bool]:
        try:
            with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
                grey = opened.mode in ("1", "L", "LA") or opened.mode.startswith("I")
                if opened.mode.startswith("I"):  # 16 bits; `convert` would turn all but the darkest white
                    opened = Image.fromarray((np.asarray(opened) >> 8).clip(0, 255).astype(np.uint8))
                picture = opened.convert("L" if grey else "RGB")
        except Exception as error:
            raise ValueError(f"cannot decode the image {name}: {type(error).__name__}") from error
        if resolution is not None and picture.size != (resolution, resolution):
            short = min(picture.size)
            left, top = ((side - short) // 2 for side in picture.size)
            square = picture.crop((left, top, left + short, top + short))
            picture = square.resize((resolution, resolution), Image.Resampling.BILINEAR)
        return np.asarray(picture), grey

    with ThreadPoolExecutor() as pool:
        work = pool.map(decode, images, names)
        bar = tqdm(work, total=len(names), desc="decoding", unit="image", leave=False, disable=len(names) < 2000)
        decoded = list(bar)
    sizes = {pixels.shape[:2] for pixels, _ in decoded}
    if len(sizes) > 1:
        smallest, largest = min(sizes), max(sizes)
        raise ValueError(
            f"images differ in size, from {smallest[1]} x {smallest[0]} to {largest[1]} x {largest[0]}; "
            "give a resolution"
        )
    if all(grey for _, grey in decoded):
        return np.stack([pixels for pixels, _ in decoded])
    return np.stack([pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, -1) for pixels, _ in decoded])


def _pixels(array: np.ndarray, name: str) -> Images:
    """Images of any accepted layout as uint8, channels first."""
    array = np.asarray(array)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.ndim not in (3, 4) or array.dtype.kind not in "uif" or 0 in array.shape[1:]:
        raise ValueError(f"{name}: images are numbers (images, height, width), got {array.dtype} {list(array.shape)}")
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[-1] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    elif array.shape[1] not in (1, 3):
        raise ValueError(f"{name}: images have 1 channel (grey) or 3 (RGB), got {list(array.shape)}")
    if array.size and not (array.min() >= 0 and array.max() <= (1 if array.dtype.kind == "f" else 255)):
        raise ValueError(
            f"{name}: pixels are 0 to 255, or floats from 0 to 1, got {array.min():.4g} to {array.max():.4g}"
        )
    if array.dtype.kind == "f":
        array = (array * 255).round()
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.uint8))


def _labels(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "iuUS":
        raise ValueError(
            f"{name}: labels are one whole number or word an image, got {values.dtype} {list(values.shape)}"
        )
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "backslashreplace")
    if values.dtype.kind == "i" and values.size and values.min() < 0:
        raise ValueError(f"{name} has labels out of range: {values.min()} is negative")
    return values


def _stratified(labels: Int[Tensor, " images"], share: float) -> Bool[Tensor, " images"]:
    """Which images are set aside: the first share of each class, in an order drawn once and for all."""
    order = torch.rand(len(labels), generator=torch.Generator().manual_seed(0)).argsort()
    aside = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = order[labels[order] == label]
        aside[members[: round(share * len(members))]] = True
    return aside


def _balanced_order(labels: Int[Tensor, " images"], seed: int) -> Int[Tensor, " images"]:
    """All images in random order, one of each class in turn."""
    order = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)).argsort()
    turn = torch.empty(len(labels), dtype=torch.long)
    for label in labels.unique():
        members = order[labels[order] == label]
        turn[members] = torch.arange(len(members))
    return order[turn[order].argsort(stable=True)]


def _check_side(side: int) -> None:
    if not 1 <= side <= 1024:
        raise ValueError(f"the resolution is a whole number from 1 to 1024, got {side}")


def _whole(text: int | str) -> int:
    return int(text) if str(text).isdecimal() else -1


def _some(names: object) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:12]) + (", ..." if len(listed) > 12 else "")
