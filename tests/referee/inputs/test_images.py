"""Folders of images as inputs."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from converter.errors import DataError
from converter.referee.inputs.images import open_images
from converter.referee.inputs.stream import Sample
from converter.referee.proto.source import Port


def port(*dims: Any, elem: int = TensorProto.FLOAT) -> dict[str, Port]:
    return {"x": Port("x", "tensor", elem, dims)}


def picture(path: Path, colour: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def read(folder: Path, to: dict[str, Port], how: str = "unit", limit: int | None = None) -> list[Sample]:
    return list(open_images(folder, how, to, {}, limit).all())


def test_class_folders_are_labels(tmp_path: Path) -> None:
    for name in ("dog/b.png", "cat/z.png", "cat/a.png", "dog/readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith("png"):
            picture(tmp_path / name)
        else:
            (tmp_path / name).write_text("no image")
    found = read(tmp_path, port("n", 3, 8, 8))
    assert [int(s.label[0]) for s in found] == [0, 0, 1]
    assert len(read(tmp_path, port("n", 3, 8, 8), limit=2)) == 2


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    stream = open_images(tmp_path, "unit", port(1, 3, 8, 8), {}, None)
    assert [s.label for s in stream.all()] == [None]
    assert (stream.record().kind, stream.record().labelled) == ("images", False)


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        ((1, 3, 8, 10), (1, 3, 8, 10)),
        (("n", 8, 10, 3), (1, 8, 10, 3)),
        ((1, 1, 8, 8), (1, 1, 8, 8)),
        (("n", 3, "h", "w"), (1, 3, 224, 224)),
        (("n", "c", "h", "w"), (1, 3, 224, 224)),
        ((2, 3, 8, 8), (2, 3, 8, 8)),
    ],
)
def test_size_and_layout_are_the_models(tmp_path: Path, dims: tuple[Any, ...], shape: tuple[int, ...]) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    found = read(tmp_path, port(*dims))
    assert found[0].feeds["x"].shape == shape
    assert sum(s.rows for s in found) == 2


def test_given_sizes_count(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    stream = open_images(tmp_path, "unit", port("n", 3, "h", "w"), {"x": (1, 3, 16, 24)}, None)
    assert stream.take(1)[0].feeds["x"].shape == (1, 3, 16, 24)


@pytest.mark.parametrize(
    ("how", "red", "green"),
    [("none", 255, 0), ("unit", 1, 0), ("tanh", 1, -1), ("imagenet", (1 - 0.485) / 0.229, -0.456 / 0.224)],
)
def test_scaling(tmp_path: Path, how: str, red: float, green: float) -> None:
    picture(tmp_path / "a.png")
    x = read(tmp_path, port("n", 3, 8, 8), how)[0].feeds["x"]
    assert x.dtype == np.float32
    assert x[0, 0] == pytest.approx(np.full((8, 8), red), rel=1e-6)
    assert x[0, 1] == pytest.approx(np.full((8, 8), green), rel=1e-6)


def test_the_centre_is_cut_out_and_the_whole_is_resized(tmp_path: Path) -> None:
    image = Image.new("RGB", (70, 32), (0, 0, 0))
    image.paste((255, 255, 255), (19, 0, 51, 32))  # the middle 32 columns
    image.save(tmp_path / "a.png")
    x = read(tmp_path, port(1, 3, 28, 28))[0].feeds["x"]
    assert x.min() > 0.9  # 28 of the middle 32
    assert read(tmp_path, port(1, 3, 28, 64))[0].feeds["x"].min() < 0.1


def test_bytes_stay_bytes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (200, 0, 0))
    x = read(tmp_path, port(1, 8, 8, 3, elem=TensorProto.UINT8), "none")[0].feeds["x"]
    assert (x.dtype, x[0, 0, 0, 0]) == (np.uint8, 200)


def test_what_is_no_image_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        read(tmp_path, port(1, 3, 8, 8))
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"a\.png"):
        read(tmp_path, port(1, 3, 8, 8))
    with pytest.raises(DataError, match="no folder"):
        read(tmp_path / "none", port(1, 3, 8, 8))
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="four dimensions"):
        read(tmp_path, port(1, 3))
    with pytest.raises(DataError, match="5 channels"):
        read(tmp_path, port(1, 5, 8, 8))


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"biasopt\[images\]"):
        read(tmp_path, port(1, 3, 8, 8))
