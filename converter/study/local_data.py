"""MNIST, Fashion-MNIST (IDX files) and CIFAR-10 from a folder. Nothing is fetched.

The formats are read here, so that torchvision is not needed; only CIFAR-10's version for Python, which is a pickle, is
left to torchvision, which checks its digests first.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np

from converter.errors import DataError
from converter.study.data import Array, Images

_FOLDERS = {"mnist": ("MNIST/raw", "mnist", "raw"), "fashion-mnist": ("FashionMNIST/raw", "fashion-mnist", "raw")}
_PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_CIFAR = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
_RECORD = 1 + 3 * 32 * 32  # a label, then red, green and blue planes


def read(name: str, folder: Path) -> Images:
    """The data set, with training images first."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the one that holds {name} with --data-dir")
    return _cifar(folder) if name == "cifar10" else _idx_set(name, folder)


def _idx_set(name: str, folder: Path) -> Images:
    train_x, train_y, test_x, test_y = (idx(_found(name, folder, part)) for part in _PARTS)
    x, y = np.concatenate([train_x, test_x]), np.concatenate([train_y, test_y])
    if x.ndim != 3 or len(x) != len(y) or len(train_x) != len(train_y):
        raise DataError(f"{folder}: images and labels of {name} do not belong together; copy the four files anew")
    return Images(name, x[:, None].astype(np.float32), y.astype(np.int64), len(train_y))


def _found(name: str, folder: Path, part: str) -> Path:
    other = part.replace("-idx", ".idx")  # as some copies are named
    for place in (folder, *(folder / sub for sub in _FOLDERS[name])):
        for path in (place / stem for stem in (part, f"{part}.gz", other, f"{other}.gz")):
            if path.is_file():
                return path
    raise DataError(f"{folder}: {part} (or {part}.gz) is missing; put the four files of {name} there")


def idx(path: Path) -> Array:
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


def _cifar(folder: Path) -> Images:
    for place in (folder, folder / "cifar-10-batches-bin"):
        if (place / _CIFAR[0]).is_file():
            return _binary(place)
    if (folder / "cifar-10-batches-py").is_dir():
        return _pickled(folder)
    raise DataError(f"{folder}: data_batch_1.bin is missing; put cifar-10-batches-bin (or -py) there")


def _binary(place: Path) -> Images:
    try:
        parts = [np.frombuffer((place / name).read_bytes(), np.uint8) for name in _CIFAR]
    except OSError as exc:
        raise DataError(f"{place}: cannot read CIFAR-10 ({exc.strerror}: {exc.filename}); copy it anew") from exc
    if any(len(part) % _RECORD or not len(part) for part in parts):
        raise DataError(f"{place}: a batch of CIFAR-10 is cut short; copy it anew")
    rows = np.concatenate(parts).reshape(-1, _RECORD)
    train = sum(len(part) for part in parts[:-1]) // _RECORD
    return Images("cifar10", rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32), rows[:, 0].astype(np.int64), train)


def _pickled(folder: Path) -> Images:
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
