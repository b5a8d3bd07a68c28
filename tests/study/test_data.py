"""Splits, scalings and files of data sets."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from converter.errors import DataError
from converter.study import data


def test_splits_are_disjoint_stratified_and_repeat() -> None:
    images = data.load_digits()
    split, again, other = images.split(0, 0), images.split(0, 0), images.split(1, 0)
    assert not set(split.train) & set(split.test)
    assert len(split.train) + len(split.test) == 1797
    shares = [np.bincount(images.y[part], minlength=10) for part in (split.train, split.test)]
    assert np.abs(shares[0] - shares[1]).max() <= 1
    assert (split.train == again.train).all()
    assert len(set(split.train) ^ set(other.train)) > 200
    assert (images.split(0, 5).train != split.train).any()


def test_an_official_test_set_stays_one() -> None:
    images = data.Images("x", np.zeros((6_000, 1, 4, 4), np.float32), np.arange(6_000) % 10, 5_000)
    split = images.split(0, 0)
    assert len(split.train) == 4_000
    assert split.train.max() < 5_000 <= split.test.min()


def test_scaling_comes_from_training_images_alone() -> None:
    images = data.load_digits()
    split = images.split(0, 0)
    seen = images.x[split.train]
    scale, offset = images.scaling(split, "centred")
    assert (seen * scale - offset).std() == pytest.approx(1, rel=1e-4)
    assert (seen * scale - offset).mean() == pytest.approx(0, abs=1e-4)
    assert not images.scaling(split, "raw")[1].any()
    scale, offset = images.scaling(split, "pixel")
    assert np.abs((seen * scale - offset).mean(0)).max() < 1e-4


def test_contrast_keeps_both_copies_of_an_image_on_one_side() -> None:
    images = data.make_contrast(data.load_digits())
    split = images.split(0, 0)
    half = len(images.y) // 2
    assert set(split.train % half) & set(split.test % half) == set()
    for part in (split.train, split.test):
        assert images.y[part].mean() == 0.5
    assert (images.x[half:] == images.x[:half] * 0.5).all()


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, *, packed: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    x, y = rng.integers(0, 256, (300, 28, 28), np.uint8), rng.integers(0, 10, 300).astype(np.uint8)
    parts = (x[:160], y[:160], x[160:], y[160:])
    for name, part in zip(data._PARTS, parts, strict=True):
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(idx(part)) if packed else idx(part))
    return x, y


@pytest.mark.parametrize(("name", "sub", "packed"), [("mnist", "MNIST/raw", True), ("fashion-mnist", "", False)])
def test_idx_files_are_read_where_torchvision_puts_them_or_flat(
    tmp_path: Path, name: str, sub: str, packed: bool
) -> None:
    x, y = write_mnist(tmp_path / "set" / sub, packed=packed)
    found = data.load_dataset(name, tmp_path / "set", full=True)
    assert (found.x[:, 0] == x).all()
    assert (found.y == y).all()
    assert found.official == 160
    halved = data.load_dataset(name, tmp_path / "set")
    assert halved.x.shape == (300, 1, 14, 14)
    assert halved.x[0, 0, 0, 0] == pytest.approx(x[0, :2, :2].mean())


def test_cifar_in_its_binary_form(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rows = rng.integers(0, 256, (768, 3073), np.uint8)
    rows[:, 0] %= 10
    for k, name in enumerate(data._CIFAR):
        (folder / name).write_bytes(rows[128 * k : 128 * k + 128].tobytes())
    found = data.load_dataset("cifar10", tmp_path, full=True)
    assert found.x.shape == (768, 3, 32, 32)
    assert found.official == 640
    assert (found.x.reshape(768, -1) == rows[:, 1:]).all()
    assert (found.y == rows[:, 0]).all()


def _missing(folder: Path) -> None:
    (folder / "MNIST/raw/t10k-labels-idx1-ubyte.gz").unlink()


def _short(folder: Path) -> None:
    (folder / "MNIST/raw/t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(140, np.uint8))[:-2]))


def _other(folder: Path) -> None:
    (folder / "MNIST/raw/t10k-labels-idx1-ubyte.gz").write_bytes(b"<html>")


def _fewer(folder: Path) -> None:
    (folder / "MNIST/raw/t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(9, np.uint8))))


@pytest.mark.parametrize(
    ("harm", "said"),
    [(_missing, "is missing; put"), (_short, "cut short"), (_other, "cannot be read"), (_fewer, "do not belong")],
)
def test_damage_is_one_line_that_says_what_to_do(tmp_path: Path, harm: object, said: str) -> None:
    write_mnist(tmp_path / "set/MNIST/raw", packed=True)
    harm(tmp_path / "set")  # type: ignore[operator]
    with pytest.raises(DataError, match=said) as found:
        data.load_dataset("mnist", tmp_path / "set")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("train", "test", "size", "classes", "full", "said"),
    [
        (160, 140, (28, 28), 1, True, "images of one class alone"),
        (160, 20, (28, 28), 10, True, "160 images to train on and 20 to test on; 128 of each"),
        (160, 140, (28, 20), 10, True, "images of 28 x 20, which are not square"),
        (160, 140, (12, 12), 10, False, "they must have 16 pixels"),
        (160, 140, (17, 17), 10, False, "which cannot be halved; --full keeps the size"),
        (160, 140, (28, 28), 0, True, "all of one colour"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(
    tmp_path: Path, train: int, test: int, size: tuple[int, int], classes: int, full: bool, said: str
) -> None:
    rng = np.random.default_rng(0)
    for k, n in enumerate((train, test)):
        x = rng.integers(0, 256, (n, *size)) if classes else np.full((n, *size), 7)
        (tmp_path / data._PARTS[2 * k]).write_bytes(idx(x.astype(np.uint8)))
        (tmp_path / data._PARTS[2 * k + 1]).write_bytes(idx((np.arange(n) % (classes or 10)).astype(np.uint8)))
    with pytest.raises(DataError, match=said):
        data.load_dataset("mnist", tmp_path, full)


def test_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing is downloaded; give the folder"):
        data.load_dataset("cifar10", None)
    with pytest.raises(DataError, match="no such folder"):
        data.load_dataset("cifar10", tmp_path / "none")
    with pytest.raises(DataError, match=r"data_batch_1.bin is missing"):
        data.load_dataset("cifar10", tmp_path)


def test_a_pickled_cifar_needs_torchvision_and_right_digests(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match=r"torchvision cannot read .* use cifar-10-batches-bin") as found:
        data.load_dataset("cifar10", tmp_path)
    assert "\n" not in str(found.value)
