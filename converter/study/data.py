"""Images with their labels, and how each seed splits them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10")
INPUTS = ("raw", "centred", "pixel")
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


def digits() -> Images:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8; no file is fetched."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as missing:
        raise DataError(
            "digits need scikit-learn; install biasopt[torch], or give --dataset with --data-dir"
        ) from missing
    found = load_digits()
    return Images("digits", found.images[:, None].astype(np.float32), found.target.astype(np.int64))


def contrast(images: Images) -> Images:
    """The task whose only answer is the level: every image bright (1) and dim (0)."""
    x = np.concatenate([images.x, images.x * np.float32(DIM)])
    y = np.repeat([1, 0], len(images.y)).astype(np.int64)
    return Images(f"{images.name}, bright or dim", x, y, 0, True)


def load(name: str, folder: Path | None, full: bool = False) -> Images:
    """A data set by name.

    Parameters
    ----------
    folder : path, optional
        Where the files lie; not needed for digits.
    full : bool
        Keep the size of the images; else MNIST is halved to 14 pixels, CIFAR-10 to 16.

    Raises
    ------
    DataError
        A file is missing or damaged.
    """
    if name == "digits":
        return digits()
    from converter.study import local_data

    if folder is None:
        raise DataError(f"{name}: nothing is downloaded; give the folder that holds its files with --data-dir")
    found = local_data.read(name, folder)
    return found if full else Images(name, _halved(found.x), found.y, found.official)


def _halved(x: Array) -> Array:
    n, c, h, w = x.shape
    return np.ascontiguousarray(x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5), dtype=np.float32))
