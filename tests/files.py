"""What the tests about files share: a small model, its weights in data files, digests, errors."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

import converter
from converter.errors import BiasoptError
from tests.outputs import tensors

_AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
needs_permissions = pytest.mark.skipif(_AS_ROOT, reason="root may read and write everything")

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,6,7] x) => (float[N,2,4,5] y)
{
  [first] c = Conv(x, W, b)
  [norm] n = BatchNormalization(c, gamma, beta, mean, var)
  [act] r = Relu(n)
  [last] y = Conv(r, untouched)
}"""
SHAPES = {"W": (5, 3, 3, 3), "b": (5,), "gamma": (5,), "beta": (5,), "mean": (5,), "var": (5,)}
SHAPES |= {"untouched": (2, 5, 1, 1)}


def small_model(text: str = TEXT, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> onnx.ModelProto:
    """Conv, BN, Relu, Conv: one fold, and one weight that no fold touches."""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(7)
    for name, shape in shapes.items():
        values = rng.uniform(0.5, 2, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def feeds() -> dict[str, NDArray]:
    return {"x": np.random.default_rng(8).standard_normal((2, 3, 6, 7)).astype(np.float32)}


def externalise(model: onnx.ModelProto, folder: Path, layout: Mapping[str, str] | str, gap: int = 0) -> onnx.ModelProto:
    """Move tensors into data files: one file for all, or a file per tensor name; `gap` bytes of padding between."""
    for tensor in tensors(model.graph):
        location = layout if isinstance(layout, str) else layout.get(tensor.name, "")
        if not location:
            continue
        target = folder / location
        target.parent.mkdir(parents=True, exist_ok=True)
        old = target.read_bytes() if target.exists() else b""
        raw = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
        target.write_bytes(old + b"\xa5" * gap + raw)
        point_at(tensor, location, len(old) + gap, len(raw))
    return model


def point_at(
    tensor: TensorProto, location: str, offset: int | str | None = None, length: int | str | None = None
) -> None:
    """Make a tensor refer to a data file."""
    for kind in ("raw_data", "float_data", "int32_data", "int64_data", "external_data"):
        tensor.ClearField(kind)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))


def write(model: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder, with a digest of its content (or where a link leads)."""
    return {
        str(path.relative_to(folder)): (
            f"link {path.readlink()}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@contextmanager
def refused(*words: str, kind: type[BiasoptError] = BiasoptError) -> Iterator[None]:
    """The user's error: one line that says each of the words."""
    with pytest.raises(kind) as caught:
        yield
    text = str(caught.value)
    assert text, "an error without a text"
    assert len(text.splitlines()) == 1, text
    for word in words:
        assert word in text, text


def folded_or_refused(path: Path) -> converter.FoldResult | None:
    """Fold a doubtful file: a result, or None after an error of one line. Anything else is a crash."""
    try:
        return converter.fold(path, verify=False)
    except BiasoptError as exc:
        text = str(exc)
    assert len(text.splitlines()) == 1, text
    return None


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail instead of waiting forever on a pipe."""

    def late(*_: object) -> None:
        raise TimeoutError(f"still waiting after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
