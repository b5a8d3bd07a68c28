"""onnxruntime's own operators in float64 against onnxruntime itself, one node at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from converter.referee.reference.evaluator import Reference, Unsupported
from tests.harness import run_ort

RNG = np.random.default_rng(5)
N, L, D, H = 2, 7, 12, 3


def normal(*shape: int) -> Any:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


def small(*shape: int, dtype: Any = np.int8, low: int = -50, high: int = 50) -> Any:
    """Random integers of a quantized tensor."""
    return RNG.integers(low, high, shape).astype(dtype)


@dataclass(frozen=True)
class Node:
    """An operator, its inputs (None where left out) and attributes, and its number of outputs."""

    op: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    tolerance: float = 2e-5

    def __str__(self) -> str:
        return "-".join([self.op, *(f"{k}={v}" for k, v in self.attributes.items())])[:60]

    def build(self) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """A model of the node alone, its first input fed."""
        names = ["" if x is None else f"i{k}" for k, x in enumerate(self.inputs)]
        made = [f"o{k}" for k in range(self.outputs)]
        node = helper.make_node(self.op, names, made, domain="com.microsoft", **self.attributes)
        first = np.asarray(self.inputs[0])
        kind = helper.np_dtype_to_tensor_dtype(first.dtype)
        held = [numpy_helper.from_array(np.asarray(x), n) for n, x in zip(names[1:], self.inputs[1:], strict=True) if n]
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info("i0", kind, first.shape)],
            [helper.make_tensor_value_info(o, 1, None) for o in made],
            held,
        )
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8), {"i0": first}


MASK = np.array([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 1, 1]], np.int32)
SCALE, ZERO = np.float32([0.02]), np.int8([3])
PACKED = small(6, 2, 8, dtype=np.uint8, low=0, high=255)
NODES = (
    Node("FusedConv", (normal(1, 3, 6, 6), normal(4, 3, 3, 3), normal(4)), {"activation": "Relu", "pads": [1] * 4}),
    Node("FusedConv", (normal(1, 3, 6, 6), normal(4, 3, 3, 3), normal(4), normal(1, 4, 4, 4)), {"activation": "Tanh"}),
    Node("FusedMatMul", (normal(2, 3, 5), normal(2, 5, 4)), {"alpha": 0.5}),
    Node("FusedMatMul", (normal(2, 5, 3), normal(2, 4, 5)), {"transA": 1, "transB": 1}),
    Node(
        "FusedGemm",
        (normal(3, 5), normal(4, 5), normal(4)),
        {"transB": 1, "alpha": 0.5, "beta": 2.0, "activation": "Relu"},
    ),
    Node("SkipLayerNormalization", (normal(N, L, D), normal(N, L, D), normal(D), normal(D), normal(D))),
    Node("SkipLayerNormalization", (normal(N, L, D), normal(N, L, D), normal(D)), {"epsilon": 1e-3}),
    Node("SkipSimplifiedLayerNormalization", (normal(N, L, D), normal(N, L, D), normal(D), normal(D))),
    Node("BiasGelu", (normal(N, L, D), normal(D))),
    Node("Gelu", (normal(N, L, D),)),
    Node("FastGelu", (normal(N, L, D), normal(D))),
    Node("QuickGelu", (normal(N, L, D),)),
    Node("Attention", (normal(N, L, D), normal(D, 3 * D), normal(3 * D)), {"num_heads": H}),
    Node("Attention", (normal(N, L, D), normal(D, 3 * D), normal(3 * D), MASK), {"num_heads": H}),
    Node("Attention", (normal(N, L, D), normal(D, 3 * D), normal(3 * D), np.int32([5, 7])), {"num_heads": H}),
    Node("Attention", (normal(N, L, D), normal(D, 3 * D), normal(3 * D)), {"num_heads": H, "unidirectional": 1}),
    Node(
        "Attention",
        (normal(N, L, D), normal(D, 3 * D), normal(3 * D), None, None, normal(N, H, L, L)),
        {"num_heads": H, "scale": 0.3},
    ),
    Node("Attention", (normal(N, L, D), normal(D, 36), normal(36)), {"num_heads": H, "qkv_hidden_sizes": [15, 15, 6]}),
    Node("MultiHeadAttention", (normal(N, L, D), normal(N, 5, D), normal(N, 5, D), normal(3 * D)), {"num_heads": H}),
    Node(
        "MultiHeadAttention", (normal(N, L, D), normal(N, L, D), normal(N, L, D), normal(3 * D), MASK), {"num_heads": H}
    ),
    Node("MultiHeadAttention", (normal(N, L, D), normal(N, L, D), normal(N, L, 6), None), {"num_heads": H}),
    Node("DequantizeLinear", (small(3, 5), np.float32([0.1, 0.2, 0.3]), np.int8([1, 2, 3])), {"axis": 0}),
    Node("DynamicQuantizeMatMul", (normal(2, 4, 5), small(5, 3), SCALE, ZERO, normal(3))),
    Node("DynamicQuantizeMatMul", (normal(2, 4, 5), small(5, 3), np.float32([0.1, 0.2, 0.3]))),
    Node(
        "MatMulIntegerToFloat",
        (small(4, 5, dtype=np.uint8, low=0, high=99), small(5, 3), SCALE, SCALE, np.uint8([7]), ZERO, normal(3)),
    ),
    Node("MatMulNBits", (normal(2, 3, 32), PACKED, normal(12)), {"K": 32, "N": 6, "bits": 4, "block_size": 16}),
    Node(
        "MatMulNBits",
        (normal(2, 3, 32), PACKED, normal(12), small(6, dtype=np.uint8, low=0, high=255), None, normal(6)),
        {"K": 32, "N": 6, "bits": 4, "block_size": 16},
    ),
    Node(
        "QGemm",
        (
            small(4, 5, dtype=np.uint8, low=0, high=99),
            SCALE[0],
            np.uint8(7),
            small(5, 3),
            SCALE[0],
            np.int8(3),
            small(3, dtype=np.int32),
        ),
    ),
    Node(
        "DynamicQuantizeLSTM",
        (
            normal(5, 1, 6),
            small(1, 6, 16),
            small(1, 4, 16),
            normal(1, 32),
            None,
            None,
            None,
            None,
            SCALE,
            np.int8([0]),
            SCALE,
            np.int8([0]),
        ),
        {"hidden_size": 4},
        3,
    ),
)


def bytes_of(*shape: int) -> tuple[Any, Any, Any]:
    """A quantized operand: integers, scale and zero point."""
    return small(*shape, dtype=np.uint8, low=0, high=255), np.float32(0.037), np.uint8(119)


RESULT = np.float32(0.043), np.uint8(101)
REQUANTIZED = (
    Node("QLinearAdd", (*bytes_of(2, 3, 5), *bytes_of(2, 3, 5), *RESULT)),
    Node("QLinearAdd", (*bytes_of(2, 3, 5), *bytes_of(3, 1), *RESULT)),
    Node("QLinearMul", (*bytes_of(2, 3, 5), *bytes_of(2, 3, 5), *RESULT)),
    Node("QLinearGlobalAveragePool", (*bytes_of(2, 3, 5, 6), *RESULT)),
    Node("QLinearGlobalAveragePool", (*bytes_of(2, 5, 6, 3), *RESULT), {"channels_last": 1}),
    Node("QLinearLeakyRelu", (*bytes_of(2, 3, 5), *RESULT), {"alpha": 0.2}),
    Node("QLinearSigmoid", (*bytes_of(2, 3, 5), np.float32(1 / 255), np.uint8(0))),
)


@pytest.mark.parametrize("node", REQUANTIZED, ids=str)
def test_agrees_with_onnxruntime_to_a_step(node: Node) -> None:
    """A tie may be rounded either way: of the numbers few are a step apart, none is more."""
    model, feeds = node.build()
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    (want,) = run_ort(model, feeds)
    apart = np.abs(Reference(model).run(feeds)["o0"].astype(int) - want.astype(int))
    assert apart.max() <= 1
    assert np.count_nonzero(apart) <= max(1, apart.size // 20)


def test_integers_that_are_joined() -> None:
    held = [np.asarray(x) for x in (*RESULT, *bytes_of(2, 3, 5), *bytes_of(2, 4, 5))]
    names = [f"i{k}" for k in range(len(held))]
    node = helper.make_node("QLinearConcat", names, ["y"], domain="com.microsoft", axis=1)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "join",
        [value("i2", onnx.TensorProto.UINT8, [2, 3, 5])],
        [value("y", onnx.TensorProto.UINT8, None)],
        [numpy_helper.from_array(x, n) for x, n in zip(held, names, strict=True) if n != "i2"],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    (want,) = run_ort(model, {"i2": held[2]})
    assert np.abs(Reference(model).run({"i2": held[2]})["y"].astype(int) - want.astype(int)).max() <= 1


@pytest.mark.parametrize("node", NODES, ids=str)
def test_agrees_with_onnxruntime(node: Node) -> None:
    model, feeds = node.build()
    want = run_ort(model, feeds)
    found = Reference(model).run(feeds)
    for name, value in zip(found, want, strict=True):
        np.testing.assert_allclose(found[name], value, atol=node.tolerance * max(1.0, float(np.abs(value).max())))


LATER = (
    Node(
        "Attention",
        (normal(N, L, D), normal(D, 3 * D), normal(3 * D), None, normal(2, N, H, 4, 4)),
        {"num_heads": H},
        2,
    ),
    Node("FusedConv", (normal(1, 3, 6, 6), normal(4, 3, 3, 3)), {"activation": "Softplus"}),
)


@pytest.mark.parametrize("node", LATER, ids=str)
def test_what_it_does_not_know_it_says(node: Node) -> None:
    model, feeds = node.build()
    with pytest.raises(Unsupported):
        Reference(model).run(feeds)
