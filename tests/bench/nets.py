"""Small models, and a latency made by hand."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import parser

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def model(text: str) -> onnx.ModelProto:
    return parser.parse_model(f"{HEAD} {text}")


def dense(batch: str = "1") -> onnx.ModelProto:
    """y = relu(x) * 2 + 1."""
    return model(
        f"g (float[{batch},8] x) => (float[{batch},8] y) <float two = {{2}}, float one = {{1}}>"
        " { r = Relu(x) m = Mul(r, two) y = Add(m, one) }"
    )


def with_batch_norm() -> onnx.ModelProto:
    return model(
        "g (float[1,1,4,4] x) => (float[1,1,2,2] y)"
        " <float[1,1,3,3] w = {1,2,3,4,5,6,7,8,9}, float[1] s = {2}, float[1] b = {1}, float[1] m = {0},"
        " float[1] v = {1}>"
        " { c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }"
    )


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save(proto, path)
    return path
