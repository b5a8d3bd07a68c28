"""Weights that lie in data files: read once, hashed a part at a time, moved by their rounding without a second copy."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, parser

from converter.errors import ModelError
from converter.referee.proto import structural_hash, tensors
from converter.referee.proto.source import LoadedModel
from converter.referee.proto.structural_hash import hash_tensor, is_same_computation
from converter.referee.proto.tensors import Weights, read_tensor


def put_outside(array: np.ndarray, path: Path, offset: int = 0) -> TensorProto:
    tensor = numpy_helper.from_array(array, "w")
    path.write_bytes(b"\xff" * offset + tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", path.name), ("offset", str(offset))):
        tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4)])
def test_what_lies_in_a_file_is_what_lies_in_the_model(tmp_path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(0).integers(0, 2, shape)).astype(dtype)
    outside = put_outside(array, tmp_path / "d", offset=7)
    found = read_tensor(outside, tmp_path)
    assert found.dtype == dtype and found.shape == shape and np.array_equal(found, array)
    assert hash_tensor(outside, tmp_path) == hash_tensor(numpy_helper.from_array(array), None)


def test_it_is_hashed_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).random(1000, np.float32)
    outside = put_outside(array, tmp_path / "d")
    monkeypatch.setattr(structural_hash, "_CHUNK", 77)
    assert hash_tensor(outside, tmp_path) == hashlib.sha256(array.tobytes()).hexdigest()


@pytest.mark.parametrize("use", [read_tensor, hash_tensor])
def test_a_file_that_ends_before_is_an_error_that_names_it(tmp_path: Path, use: object) -> None:
    outside = put_outside(np.ones(8, np.float32), tmp_path / "d")
    (tmp_path / "d").write_bytes(bytes(31))
    with pytest.raises(ModelError, match=r"cannot read tensor 'w' \(31 bytes are there, 32 are needed\)"):
        use(outside, tmp_path)  # type: ignore[operator]


def test_moving_a_weight_does_not_hang_on_the_size_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).standard_normal((13, 11)).astype(np.float32)
    tensor = numpy_helper.from_array(array)
    whole = Weights(None, 3).tensor(tensor, "w")
    monkeypatch.setattr(tensors, "_BLOCK", 10)
    assert np.array_equal(Weights(None, 3).tensor(tensor, "w"), whole)
    moved = np.abs(whole / array - 1)
    assert 0.5 * 2.0**-24 < np.sqrt(np.mean(moved**2)) < 1.5 * 2.0**-24
    double = np.ones(9)
    Weights(None, 3).tensor(numpy_helper.from_array(double), "w")
    assert (double == 1).all()


def test_what_lies_before_a_place_is_not_read(tmp_path: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]>\ng (float[2,3] x) => (float[2,3] y) { m = MatMul(x, w)\n y = Neg(m) }'
    )
    model = parser.parse_model(text)
    model.graph.initializer.append(put_outside(np.eye(3, dtype=np.float32), tmp_path / "d"))
    onnx.save(model, tmp_path / "m.onnx")
    source = LoadedModel.open(tmp_path / "m.onnx", None, "model")
    (tmp_path / "d").write_bytes(b"")
    assert is_same_computation(source, source, ["m"])
    with pytest.raises(ModelError):
        is_same_computation(source, source, [])
