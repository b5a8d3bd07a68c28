"""Shapes of what onnxruntime's own operators (com.microsoft) give, which onnx's inference does not know.

Source: onnxruntime's ContribOperators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnx import NodeProto, helper

Dim = int | str | None
Dims = tuple[Dim, ...]
Given = Sequence[Dims | None]  # dims of the inputs; None where left out, or not known
Attributes = dict[str, Any]

DOMAIN = "com.microsoft"
# Operators that are ONNX's, with something behind: their shapes are those of ONNX's.
TYPED_BY = {"MatMulIntegerToFloat": 2, "QAttention": 3, "DequantizeLinear": 1, "QGemm": 1}  # other than the first input
LIKE = {"FusedConv": "Conv", "FusedGemm": "Gemm"}


def read_attributes(node: NodeProto) -> Attributes:
    """Attributes as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}


def find_shape(op: str, given: Given, attributes: Attributes) -> Dims | None:
    """Dims of the first output of one of onnxruntime's own operators; None where they are not known."""
    rule = _RULES.get(op)
    if rule is None or not given or given[0] is None:
        return None
    try:
        return rule(given, attributes)
    except (IndexError, TypeError, ValueError):  # inputs that the operator does not take
        return None


def _same(given: Given, _: Attributes) -> Dims | None:
    return given[0]


def _product(slot: int, axis: int) -> Callable[[Given, Attributes], Dims | None]:
    """A product with the matrix in an input slot: its axis takes the place of the last one."""

    def rule(given: Given, _: Attributes) -> Dims | None:
        first, matrix = given[0], given[slot]
        return None if first is None or matrix is None else (*first[:-1], matrix[axis])

    return rule


def _blocks(given: Given, attributes: Attributes) -> Dims | None:
    return None if given[0] is None else (*given[0][:-1], attributes["N"])


def _fused_matmul(given: Given, attributes: Attributes) -> Dims | None:
    a, b = given[0], given[1]
    if (
        a is None
        or b is None
        or len(a) < 2
        or len(b) < 2
        or attributes.get("transBatchA", attributes.get("transBatchB"))
    ):
        return None
    rows = a[-1] if attributes.get("transA", 0) else a[-2]
    columns = b[-2] if attributes.get("transB", 0) else b[-1]
    longer, shorter = (a[:-2], b[:-2]) if len(a) >= len(b) else (b[:-2], a[:-2])
    lead = longer[len(longer) - len(shorter) :]
    if any(x != y and y != 1 for x, y in zip(lead, shorter, strict=True)):
        return None  # broadcast the other way, or sizes of unlike names
    return (*longer, rows, columns)


def _attention(given: Given, attributes: Attributes) -> Dims | None:
    first, weight = given[0], given[1]
    if first is None:
        return None
    sizes = attributes.get("qkv_hidden_sizes")
    width = sizes[2] if sizes else None
    if width is None and weight is not None and isinstance(weight[1], int):
        width = weight[1] // 3
    return (*first[:-1], width)


def _multi_head_attention(given: Given, attributes: Attributes) -> Dims | None:
    query, value = given[0], given[2]
    if query is None or len(query) != 3 or value is None:
        return None
    if len(value) == 3:
        return (*query[:2], value[2])
    if len(value) == 4 and isinstance(value[1], int) and isinstance(value[3], int):
        return (*query[:2], value[1] * value[3])
    return None


def _gemm(given: Given, attributes: Attributes) -> Dims | None:
    a, b = given[0], given[3]
    if a is None or b is None or (len(given) > 7 and given[7] is not None):
        return None
    return a[1 if attributes.get("transA", 0) else 0], b[0 if attributes.get("transB", 0) else 1]


def _lstm(given: Given, attributes: Attributes) -> Dims | None:
    first = given[0]
    ways = 2 if attributes.get("direction", b"forward") == b"bidirectional" else 1
    return None if first is None else (first[0], ways, first[1], attributes["hidden_size"])


_RULES: dict[str, Callable[[Given, Attributes], Dims | None]] = {
    **dict.fromkeys(
        (
            "Gelu",
            "BiasGelu",
            "FastGelu",
            "QuickGelu",
            "SkipLayerNormalization",
            "SkipSimplifiedLayerNormalization",
            "DequantizeLinear",
            "QLinearAdd",
            "QLinearSigmoid",
            "QLinearLeakyRelu",
            "BiasAdd",
        ),
        _same,
    ),
    "MatMulNBits": _blocks,
    "DynamicQuantizeMatMul": _product(1, -1),
    "MatMulIntegerToFloat": _product(1, -1),
    "QGemm": _gemm,
    "FusedMatMul": _fused_matmul,
    "TransposeMatMul": _fused_matmul,
    "Attention": _attention,
    "QAttention": _attention,
    "MultiHeadAttention": _multi_head_attention,
    "DynamicQuantizeLSTM": _lstm,
}
