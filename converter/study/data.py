"""The data sets, the digits among them: images with their labels, and how each seed splits them."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from converter.dataclass import dataclass
from converter.errors import DataError

_FOLDERS = {"mnist": ("MNIST/raw", "mnist", "raw"), "fashion-mnist": ("FashionMNIST/raw", "fashion-mnist", "raw")}
_PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_CIFAR = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
_RECORD = 1 + 3 * 32 * 32  # a label, then red, green and blue planes


def read_dataset(name: str, folder: Path) -> Images:
    """The data set, with training images first."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the one that holds {name} with --data-dir")
    return _read_cifar(folder) if name == "cifar10" else _read_idx_set(name, folder)


def _read_idx_set(name: str, folder: Path) -> Images:
    train_x, train_y, test_x, test_y = (read_idx(_find_file(name, folder, part)) for part in _PARTS)
    x, y = np.concatenate([train_x, test_x]), np.concatenate([train_y, test_y])
    if x.ndim != 3 or len(x) != len(y) or len(train_x) != len(train_y):
        raise DataError(f"{folder}: images and labels of {name} do not belong together; copy the four files anew")
    return Images(name, x[:, None].astype(np.float32), y.astype(np.int64), len(train_y))


def _find_file(name: str, folder: Path, part: str) -> Path:
    other = part.replace("-idx", ".idx")  # as some copies are named
    for place in (folder, *(folder / sub for sub in _FOLDERS[name])):
        for path in (place / stem for stem in (part, f"{part}.gz", other, f"{other}.gz")):
            if path.is_file():
                return path
    raise DataError(f"{folder}: {part} (or {part}.gz) is missing; put the four files of {name} there")


def read_idx(path: Path) -> Array:
    """An IDX file of bytes: two zeros, the type, the number of dimensions, the sizes, the values."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as exc:
        raise DataError(f"{path}: cannot be read ({exc}); copy it anew") from exc
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DataError(f"{path}: not an IDX file of bytes; copy it anew")
    rank = raw[3]
    head = 4 + 4 * rank
    sizes = struct.unpack(f">{rank}I", raw[4:head]) if len(raw) >= head else ()
    if len(sizes) != rank or len(raw) != head + math.prod(sizes):
        raise DataError(f"{path}: cut short; copy it anew")
    return np.frombuffer(raw, np.uint8, offset=head).reshape(sizes)


def _read_cifar(folder: Path) -> Images:
    for place in (folder, folder / "cifar-10-batches-bin"):
        if (place / _CIFAR[0]).is_file():
            return _read_binary(place)
    if (folder / "cifar-10-batches-py").is_dir():
        return _read_pickled(folder)
    raise DataError(f"{folder}: data_batch_1.bin is missing; put cifar-10-batches-bin (or -py) there")


def _read_binary(place: Path) -> Images:
    try:
        parts = [np.frombuffer((place / name).read_bytes(), np.uint8) for name in _CIFAR]
    except OSError as exc:
        raise DataError(f"{place}: cannot read CIFAR-10 ({exc.strerror}: {exc.filename}); copy it anew") from exc
    if any(len(part) % _RECORD or not len(part) for part in parts):
        raise DataError(f"{place}: a batch of CIFAR-10 is cut short; copy it anew")
    rows = np.concatenate(parts).reshape(-1, _RECORD)
    train = sum(len(part) for part in parts[:-1]) // _RECORD
    return Images("cifar10", rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32), rows[:, 0].astype(np.int64), train)


def _read_pickled(folder: Path) -> Images:
    try:
        from torchvision.datasets import CIFAR10

        parts = [CIFAR10(str(folder), train=train, download=False) for train in (True, False)]
    except Exception as exc:  # torchvision raises what its operators, its files and its digests give it
        first = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise DataError(
            f"{folder}: torchvision cannot read cifar-10-batches-py ({first}); use cifar-10-batches-bin"
        ) from exc
    x = np.concatenate([part.data for part in parts]).transpose(0, 3, 1, 2).astype(np.float32)
    y = np.concatenate([part.targets for part in parts]).astype(np.int64)
    return Images("cifar10", np.ascontiguousarray(x), y, len(parts[0].targets))


Array = np.ndarray[Any, np.dtype[Any]]
INPUTS = ("raw", "centred", "pixel")
_LEAST, _LEAST_SIDE = 128, 8  # images of each part: two batches; pixels
TRAIN, TEST = 4_000, 2_000  # drawn per seed from a data set that comes with a test set of its own
DIM = 0.5  # contrast of the darker class of the contrast task: a power of two, so that scaling rounds nothing


@dataclass(frozen=True, slots=True)
class Split:
    """Which images a seed trains on, and which it is tested on."""

    train: Array
    test: Array


@dataclass(frozen=True, slots=True)
class Images:
    """Images [N, C, H, W] in float32, labels [N].

    ``official`` is how many of them, the first ones, are for training; 0 where nobody said.
    """

    name: str
    x: Array
    y: Array
    official: int = 0
    pairs: bool = False  # image k and image k + N/2 are the same at two contrasts

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1

    def split(self, seed: int, key: int) -> Split:
        """The split of one seed: halves with equal shares of every class, or draws from the official parts."""
        rng = np.random.default_rng([seed, key, 1])
        if self.official:
            train = rng.permutation(self.official)[:TRAIN]
            rest = self.official + rng.permutation(len(self.y) - self.official)[:TEST]
            return Split(np.sort(train), np.sort(rest))
        labels = self.y[: len(self.y) // 2] if self.pairs else self.y
        halves = [np.array_split(rng.permutation(np.flatnonzero(labels == k)), 2) for k in np.unique(labels)]
        if self.pairs:  # both contrasts of an image are on the same side
            halves = [np.array_split(rng.permutation(len(labels)), 2)]
        train, test = (np.sort(np.concatenate(part)) for part in zip(*halves, strict=True))
        if self.pairs:
            train, test = (np.concatenate([part, part + len(labels)]) for part in (train, test))
        return Split(train, test)

    def scaling(self, split: Split, kind: str) -> tuple[float, Array]:
        """What an input variant multiplies with, and then subtracts: [C, H, W]. From training images alone."""
        seen = self.x[split.train]
        scale = 1 / max(float(seen.std()), 1e-12)
        shape = seen.shape[1:]
        if kind == "centred":
            return scale, np.full(shape, seen.mean() * scale, dtype=np.float32)
        if kind == "pixel":
            return scale, (seen.mean(0) * scale).astype(np.float32)
        return scale, np.zeros(shape, dtype=np.float32)


def load_digits() -> Images:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8; no file is fetched."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as missing:
        raise DataError(
            "digits need scikit-learn; install biasopt[torch], or give --dataset with --data-dir"
        ) from missing
    found = load_digits()
    return Images("digits", found.images[:, None].astype(np.float32), found.target.astype(np.int64))


def make_contrast(images: Images) -> Images:
    """The task whose only answer is the level: every image bright (1) and dim (0)."""
    x = np.concatenate([images.x, images.x * np.float32(DIM)])
    y = np.repeat([1, 0], len(images.y)).astype(np.int64)
    return Images(f"{images.name}, bright or dim", x, y, 0, True)


def load_dataset(name: str, folder: Path | None, full: bool = False) -> Images:
    """A data set by name.

    Parameters
    ----------
    folder : path, optional
        Where the files lie; not needed for digits and synthetic.
    full : bool
        Keep the size of the images; else MNIST is halved to 14 pixels, CIFAR-10 and synthetic ones to 16.

    Raises
    ------
    DataError
        A file is missing or damaged, or holds nothing that nets could learn.
    """
    if name == "digits":
        return load_digits()
    if name == "synthetic":
        found = draw_synthetic()
        return found if full else Images(name, _halve_size(found.x), found.y)
    if folder is None:
        raise DataError(f"{name}: nothing is downloaded; give the folder that holds its files with --data-dir")
    found = read_dataset(name, folder)
    _check_images(found, folder, full)
    return found if full else Images(name, _halve_size(found.x), found.y, found.official)


def _check_images(images: Images, folder: Path, full: bool) -> None:
    """Refuse what the study cannot be about."""
    n, _, height, width = images.x.shape
    sides, least = f"images of {height} x {width}", _LEAST_SIDE * (1 if full else 2)
    wrong = ""
    if height != width:
        wrong = f"{sides}, which are not square"
    elif height < least:
        wrong = f"{sides}; they must have {least} pixels to be pooled twice"
    elif not full and height % 2:
        wrong = f"{sides}, which cannot be halved; --full keeps the size"
    elif min(images.official, n - images.official) < _LEAST:
        wrong = (
            f"{images.official} images to train on and {n - images.official} to test on; {_LEAST} of each are needed"
        )
    elif len(np.unique(images.y)) < 2:
        wrong = "images of one class alone"
    elif images.x.std() == 0:
        wrong = "images that are all of one colour"
    if wrong:
        raise DataError(f"{folder}: {images.name} has {wrong}")


def draw_synthetic(count: int = 6_000, size: int = 32) -> Images:
    """Images [N, 3, size, size] of 8 classes, always the same: what their shape is, its texture, and its level.

    A disc or a square, plain or striped, bright or dim, somewhere on a background of noise of any brightness. All three
    must be seen: the level alone, which a net without biases cannot, tells two classes apart.
    """
    rng = np.random.default_rng(20)
    y = rng.permutation(np.arange(count) % 8)
    square, striped, dim = ((y >> k & 1)[:, None, None].astype(bool) for k in range(3))
    rows, columns = np.mgrid[:size, :size][:, None] - rng.uniform(0.3, 0.7, (2, count, 1, 1)) * size
    reach = rng.uniform(0.15, 0.28, (count, 1, 1)) * size
    inside = np.where(square, np.maximum(abs(rows), abs(columns)) < 0.89 * reach, np.hypot(rows, columns) < reach)
    turn = rng.uniform(0, 2 * math.pi, (count, 1, 1))
    waves = np.sin((rows * np.cos(turn) + columns * np.sin(turn)) * (2 * math.pi / 5))
    level = np.where(dim, 0.5, 1.0) * np.where(striped, 1 + 0.5 * waves, 1.0)
    grey = np.where(inside, level, rng.uniform(0.1, 0.3, (count, 1, 1)))
    colour = rng.uniform(0.8, 1.2, (count, 3, 1, 1))
    x = grey[:, None] * colour + 0.05 * rng.normal(size=(count, 3, size, size))
    return Images("synthetic", (255 * x).astype(np.float32), y.astype(np.int64))


def _halve_size(x: Array) -> Array:
    n, c, h, w = x.shape
    return np.ascontiguousarray(x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5), dtype=np.float32))
