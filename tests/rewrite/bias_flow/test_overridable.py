"""What takes a shift over is computed from its weight, so a weight that the caller may replace takes nothing."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import converter

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 3, 6, 7] x, float[5, 2, 1, 1] u) => (float[1, 5, n, m] y) {
  h = Conv (x, w, b)
  y = Conv (h, u, c)
}
"""
SHAPES = {"w": (2, 3, 1, 1), "b": (2,), "u": (5, 2, 1, 1), "c": (5,)}


def model(*, listed: bool) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    if not listed:
        del proto.graph.input[1]
    return proto


@pytest.mark.parametrize(("listed", "gone"), [(False, 1), (True, 0)])
def test_an_overridable_weight_absorbs_nothing(listed: bool, gone: int) -> None:
    result = converter.fold(model(listed=listed))
    assert result.before.biases - result.after.biases == gone
    assert result.parity is not None
    assert result.parity.verdict == "PASS"


def test_frozen_it_does() -> None:
    result = converter.fold(model(listed=True), freeze_overridable=True)
    assert result.before.biases - result.after.biases == 1
