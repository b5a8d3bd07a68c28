"""Biases and arithmetic around onnxruntime's own operators: what goes, what stays, and that the referee agrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import converter
from converter.records import FateKind, Verdict
from tests.tiny import tensors

RNG = np.random.default_rng(11)
D, H = 12, 3
X = "(float[2,7,12] x) => (float[2,7,12] y)"


def normal(*shape: int) -> Any:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


def model(graph: str, **consts: Any) -> onnx.ModelProto:
    """A graph in ONNX's text form with onnxruntime's operators in it."""
    text = f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> fused {graph}'
    proto = onnx.parser.parse_model(text)
    for node in proto.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    read = {i for n in proto.graph.node for i in n.input}
    known = {"wq": normal(D, 3 * D), "bq": normal(3 * D), "wo": normal(D, D), "bo": normal(D), **NORM, **consts}
    proto.graph.initializer.extend(tensors({k: v for k, v in known.items() if k in read}))
    return proto


NORM = {"g": normal(D), "be": normal(D)}


def fold(proto: onnx.ModelProto) -> converter.FoldResult:
    """Fold; the referee must agree."""
    result = converter.fold(proto)
    assert result.parity is None or result.parity.verdict is Verdict.PASS, result.parity
    return result


def constant_of(result: converter.FoldResult, op: str, slot: int) -> Any:
    """What the one node of a type reads."""
    (node,) = [n for n in result.model.graph.node if n.op_type == op]
    if len(node.input) <= slot or not node.input[slot]:
        return None
    held = {t.name: onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer}
    return held[node.input[slot]]


def attend(attributes: str = "num_heads = 3", more: str = "", end: str = "p = MatMul (a, wo) y = Add (p, bo)") -> str:
    """Attention, and a projection."""
    return f"{X} {{ a = com.microsoft.Attention <{attributes}> (x, wq, bq{more}) {end} }}"


def test_of_attentions_bias_the_query_part_is_left() -> None:
    proto = model(attend())
    was = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    result = fold(proto)
    left = constant_of(result, "Attention", 2)
    np.testing.assert_array_equal(left, np.concatenate([was["bq"][:D], np.zeros(2 * D, np.float32)]))
    np.testing.assert_allclose(
        constant_of(result, "Add", 1), was["bo"] + was["bq"][2 * D :] @ was["wo"], rtol=2e-5, atol=1e-6
    )
    kinds = {r.pass_name for r in result.rewrites}
    assert kinds == {"drop-attention-key-bias", "sink-attention-value-bias"}


def test_heads_of_other_sizes_and_masks_are_no_obstacle() -> None:
    sizes = "num_heads = 3, qkv_hidden_sizes = [15, 15, 12]"
    result = fold(model(attend(sizes), wq=normal(D, 42), bq=normal(42)))
    assert not constant_of(result, "Attention", 2)[15:].any()
    mask = fold(model(attend(more=", m"), m=np.array([[1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1]], np.int32)))
    assert not constant_of(mask, "Attention", 2)[D:].any()
    causal = fold(model(attend("num_heads = 3, unidirectional = 1")))
    assert not constant_of(causal, "Attention", 2)[D:].any()


def test_attention_keeps_a_bias_of_zeros() -> None:
    """Its kernel reads the input that its schema calls optional."""
    bias = np.concatenate([np.zeros(D), RNG.standard_normal(2 * D)]).astype(np.float32)
    left = constant_of(fold(model(attend(), bq=bias)), "Attention", 2)
    assert left is not None
    assert not left.any()


CACHED = """(float[2,7,12] x) => (float[2,7,12] y, float[2,2,3,7,4] k) {
    y, k = com.microsoft.Attention <num_heads = 3> (x, wq, bq) }"""


@pytest.mark.parametrize(
    ("graph", "code"),
    [
        (CACHED, "cache"),
        (attend(end="y = Tanh (a)"), "attention-query"),
    ],
)  # fmt: skip
def test_a_cache_keeps_the_keys_and_what_feels_the_values_keeps_them(graph: str, code: str) -> None:
    result = converter.fold(model(graph), verify=False)
    left = constant_of(result, "Attention", 2)
    assert left[2 * D :].any()
    assert left[D : 2 * D].any() == (code == "cache")
    (fate,) = [f for f in result.fates if f.op == "Attention"]
    assert fate.kind is FateKind.KEPT
    assert fate.code == code


def test_attention_of_three_factors() -> None:
    text = """(float[2,7,12] x, float[2,5,12] k) => (float[2,7,12] y) {
        a = com.microsoft.MultiHeadAttention <num_heads = 3> (x, k, k, bq) p = MatMul (a, wo) y = Add (p, bo) }"""
    assert not constant_of(fold(model(text)), "MultiHeadAttention", 3)[D:].any()


@pytest.mark.parametrize(
    "body",
    [
        "h = com.microsoft.FusedMatMul <alpha = 0.5> (x, w) y = Mul (h, s)",
        "h = com.microsoft.FusedMatMul <alpha = 0.5, transB = 1> (x, w) y = Mul (h, s)",
        "h = Mul (x, s) y = com.microsoft.FusedMatMul <transB = 1> (h, w)",
        "h = Mul (x, s) y = com.microsoft.FusedMatMul (h, w)",
    ],
)
def test_a_fused_product_takes_factors(body: str) -> None:
    proto = model(f"{X} {{ {body} }}", w=normal(D, D), s=normal(D))
    assert [n.op_type for n in fold(proto).model.graph.node] == ["FusedMatMul"]


@pytest.mark.parametrize("factor", [np.float32(0.3), normal(5)])
def test_a_quantized_gemm_takes_factors_into_its_scale(factor: np.ndarray) -> None:
    """Its integers stay, those of its bias too; it wants a zero point for each scale."""
    text = """(uint8[2,3] x) => (float[2,5] y) { h = com.microsoft.QGemm <transB = 1> (x, sx, zx, w, sw, zw, b)
        y = Mul (h, k) }"""
    consts = {"sx": np.float32(0.02), "zx": np.uint8(128), "sw": np.float32(0.01), "zw": np.int8(3)}
    weight = np.random.default_rng(7).integers(-127, 128, (5, 3)).astype(np.int8)
    proto = model(text, w=weight, b=np.arange(5, dtype=np.int32), k=factor, **consts)
    folded = fold(proto).model
    assert [n.op_type for n in folded.graph.node] == ["QGemm"]
    assert {"w", "b"} <= set(folded.graph.node[0].input)


def test_scores_as_a_fused_product() -> None:
    """The key bias of attention that onnxruntime has taken apart half: FusedMatMul holds the scale."""
    text = f"""{X} {{ q0 = MatMul (x, wo) q = Add (q0, bo) k0 = MatMul (x, w2) k = Add (k0, b2)
        s = com.microsoft.FusedMatMul <alpha = 0.3, transB = 1> (q, k) p = Softmax <axis = -1> (s)
        y = com.microsoft.FusedMatMul (p, x) }}"""
    result = fold(model(text, w2=normal(D, D), b2=normal(D)))
    assert [f.kind for f in result.fates] == [FateKind.KEPT, FateKind.DEAD]


@pytest.mark.parametrize(
    "end",
    [
        "y = com.microsoft.SkipLayerNormalization (q, x, g, be, bo)",
        "y = com.microsoft.SkipLayerNormalization (x, q, g, be, bo)",
        "y = com.microsoft.SkipSimplifiedLayerNormalization (q, x, g, bo)",
        "y = com.microsoft.BiasGelu (q, bo)",
        "y = com.microsoft.FastGelu (q, bo)",
    ],
)
def test_a_fused_sum_takes_a_bias_over(end: str) -> None:
    text = f"{X} {{ p = MatMul (x, wo) q = Add (p, b2) {end} }}"
    proto = model(text, b2=normal(D))
    result = fold(proto)
    assert [n.op_type for n in result.model.graph.node] == ["MatMul", proto.graph.node[-1].op_type]


def test_a_fused_sum_of_one_number_is_lost_in_its_norm() -> None:
    text = f"{X} {{ p = MatMul (x, wo) y = com.microsoft.SkipLayerNormalization (p, x, g, be, b2) }}"
    assert constant_of(fold(model(text, b2=np.full(D, 3, np.float32))), "SkipLayerNormalization", 4) is None
    assert constant_of(fold(model(text, b2=normal(D))), "SkipLayerNormalization", 4) is not None


LAYER = "(float[1,3,8,8] x) => (float[1,4,6,6] y)"
CONV = {"w": normal(4, 3, 3, 3), "b": normal(4), "b3": normal(3), "v": np.abs(normal(3)) + 1, "g3": normal(3)}


def test_a_batch_norm_before_a_fused_conv_folds() -> None:
    relu = 'FusedConv <activation = "Relu">'
    text = f"{LAYER} {{ h = BatchNormalization (x, g3, b3, b3, v) y = com.microsoft.{relu} (h, w, b) }}"
    result = fold(model(text, **CONV))
    assert [n.op_type for n in result.model.graph.node] == ["FusedConv"]


def test_a_fused_conv_without_an_activation_is_a_conv() -> None:
    text = f"{LAYER} {{ h = com.microsoft.FusedConv (x, w, b) y = InstanceNormalization (h, b, b) }}"
    assert constant_of(fold(model(text, **CONV)), "FusedConv", 2) is None
    closed = text.replace("FusedConv (", 'FusedConv <activation = "Relu"> (')
    assert constant_of(fold(model(closed, **CONV)), "FusedConv", 2) is not None


# -- quantized operators -----------------------------------------------------------------------

QUANTIZED = "(float[2,5,32] x) => (float[2,5,6] y)"
END = "c = Mul (a, s) y = Add (c, t)"
WEIGHTS = {
    "packed": RNG.integers(0, 255, (6, 2, 8)).astype(np.uint8),
    "scales": normal(12),
    "w": RNG.integers(-100, 100, (32, 6)).astype(np.int8),
    "ws": np.float32([0.02]),
    "s": normal(6),
    "t": normal(6),
}


@pytest.mark.parametrize(
    "layer",
    [
        "a = com.microsoft.MatMulNBits <K = 32, N = 6, bits = 4, block_size = 16> (x, packed, scales)",
        "a = com.microsoft.DynamicQuantizeMatMul (x, w, ws)",
        "a = com.microsoft.DynamicQuantizeMatMul (x, w, ws, , t)",
        "q, qs, qz = DynamicQuantizeLinear (x) a = com.microsoft.MatMulIntegerToFloat (q, w, qs, ws, qz)",
    ],
)
def test_arithmetic_goes_into_scale_and_bias(layer: str) -> None:
    proto = model(f"{QUANTIZED} {{ {layer} {END} }}", **WEIGHTS)
    result = fold(proto)
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in proto.graph.node[:-2]]
    held = {t.name for t in result.model.graph.initializer}
    assert held & {"packed", "w"}, "the integers keep their bytes"


def test_a_scale_of_data_in_the_scale_stays() -> None:
    """What multiplies W's scale must be one number: here it is one for each row."""
    text = """(float[2,5,32] x, float[2,5,1] r) => (float[2,5,6] y) { q, qs, z = DynamicQuantizeLinear (x)
        sw = Mul (r, ws) i = MatMulInteger (q, w, z) f = Cast <to = 1> (i) p = Mul (f, sw) y = Mul (p, s) }"""
    result = fold(model(text, **WEIGHTS))
    assert "Mul" in [n.op_type for n in result.model.graph.node][-1]
    assert not result.rewrites


BLOCKS = "MatMulNBits <K = 32, N = 6, bits = 4, block_size = 16ACCURACY> (h, packed, scales)"
SINKS = f"""(float[2,5,12] x) => (float[2,5,6] y) {{ p = MatMul (x, w1) h = Add (p, b1)
    a = com.microsoft.{BLOCKS} y = Add (a, t) }}"""


def test_a_bias_sinks_through_packed_blocks() -> None:
    proto = model(SINKS.replace("ACCURACY", ""), **WEIGHTS, w1=normal(12, 32), b1=normal(32))
    assert [n.op_type for n in fold(proto).model.graph.node] == ["MatMul", "MatMulNBits"]


def test_blocks_that_round_what_they_multiply_feel_it() -> None:
    """accuracy_level 4: the input is rounded to 8 bits, block by block."""
    proto = model(SINKS.replace("ACCURACY", ", accuracy_level = 4"), **WEIGHTS, w1=normal(12, 32), b1=normal(32))
    left = [n.op_type for n in converter.fold(proto, verify=False).model.graph.node]
    assert left == ["MatMul", "Add", "MatMulNBits"]


def test_what_is_added_to_a_dequantized_value_is_a_bias() -> None:
    """It sinks into a layer, and where a quantizer reads it, that is said."""
    data = "(uint8[2,3,8,8] x) => (float[2,4,6,6] y) { d = DequantizeLinear (x, ws0) h = Add (d, b311)"
    proto = model(f"{data} y = Conv (h, w, b) }}", **CONV, ws0=np.float32(0.02), b311=normal(3, 1, 1))
    assert [n.op_type for n in fold(proto).model.graph.node] == ["DequantizeLinear", "Conv"]
    felt = model(
        f"{data} q = QuantizeLinear (h, ws0) e = DequantizeLinear (q, ws0) y = Conv (e, w, b) }}",
        **CONV,
        ws0=np.float32(0.02),
        b311=normal(3, 1, 1),
    )
    result = converter.fold(felt, verify=False)
    (fate,) = [f for f in result.fates if f.op == "DequantizeLinear"]
    assert "QuantizeLinear" in fate.why


SEPARATE = """q0 = MatMul (x, ws) q = Add (q0, bs) k0 = MatMul (x, wk) k = Add (k0, bk)
    v0 = MatMul (x, wv) v = Add (v0, bv)"""
PROJECT = "p = MatMul (a, wo) y = Add (p, bo)"


def separate(call: str, outputs: str = "a", also: str = "") -> onnx.ModelProto:
    """MultiHeadAttention of three projections, each with a bias of its own."""
    head = X.replace(" y)", f" y{also})")
    weights = {"ws": normal(D, D), "wk": normal(D, D), "wv": normal(D, D), "mask": normal(1, 1, 7, 7)}
    biases = {name: normal(D) for name in ("bs", "bk", "bv")}
    text = f"{head} {{ {SEPARATE} {outputs} = com.microsoft.MultiHeadAttention <num_heads = 3> ({call}) {PROJECT} }}"
    return model(text, **weights, **biases)


@pytest.mark.parametrize("call", ["q, k, v", "q, k, v, , , mask"])
def test_biases_before_multi_head_attention_go(call: str) -> None:
    result = fold(separate(call))
    kinds = {f.node: f.kind for f in result.fates}
    assert kinds["MatMul_k0"] is FateKind.DEAD
    assert kinds["MatMul_v0"] is FateKind.ABSORBED
    assert kinds["MatMul_q0"] is FateKind.KEPT


def test_biases_of_kept_keys_and_values_stay() -> None:
    result = fold(separate("q, k, v", "a, past_k, past_v", ", float[2,3,7,4] past_k, float[2,3,7,4] past_v"))
    assert {f.code for f in result.fates if f.node in ("MatMul_k0", "MatMul_v0")} == {"cache"}
