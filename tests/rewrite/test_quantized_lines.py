"""What stays beside quantized layers, and why: roundings on the way, sums that are cut to 8 bits; what goes through."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import converter
from converter.records import Verdict
from tests.tiny import Draw, model

BETWEEN = "q = QuantizeLinear(x,s,z) d = DequantizeLinear(q,s,z)"
SECOND = "p = QuantizeLinear(x,s2,z) e = DequantizeLinear(p,s2,z)"
IMAGE = "(float[2,16,8,8] x)"


def consts(**more: np.ndarray) -> dict[str, np.ndarray]:
    draw = Draw()
    known = {"s": np.float32(0.03), "s2": np.float32(0.05), "z": np.uint8(100), "k": draw.positive(16, 1, 1)}
    return {**known, **more}


def build(text: str, known: dict[str, np.ndarray]) -> onnx.ModelProto:
    proto = model(text, known)
    read = {name for node in proto.graph.node for name in node.input}
    for tensor in [t for t in proto.graph.initializer if t.name not in read]:
        proto.graph.initializer.remove(tensor)
    return proto


ROWS = {
    "behind a rectifier": (
        f"{IMAGE} => (float[2,16,8,8] y) {{ {BETWEEN} r = Relu(d) y = Mul(r,k) }}",
        "QuantizeLinear DequantizeLinear Relu",
    ),
    "behind a Concat": (
        f"{IMAGE} => (float[2,32,8,8] y) {{ {BETWEEN} {SECOND} c = Concat<axis=1>(d,e) y = Mul(c,k2) }}",
        "QuantizeLinear DequantizeLinear QuantizeLinear DequantizeLinear Concat",
    ),
    "behind a sum": (
        f"{IMAGE} => (float[2,16,8,8] y) {{ {BETWEEN} {SECOND} c = Add(d,e) y = Mul(c,k) }}",
        "QuantizeLinear DequantizeLinear QuantizeLinear DequantizeLinear Add",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_factor_goes_into_scales_of_data(name: str) -> None:
    text, left = ROWS[name]
    result = converter.fold(build(text, consts(k2=Draw().positive(32, 1, 1))), allow_growth=float("inf"))
    assert [n.op_type for n in result.model.graph.node] == left.split()
    assert result.parity is not None
    assert (result.parity.verdict, result.parity.level) == (Verdict.PASS, "P"), result.parity.why


def test_a_negative_factor_has_no_scale_to_go_into() -> None:
    known = consts()
    known["k"][3] *= -1
    text, _ = ROWS["behind a sum"]
    result = converter.fold(build(text, known), allow_growth=float("inf"))
    assert "negative-scale" in {f.code for f in result.findings}
    assert result.model.graph.node[-1].op_type == "Mul"


DYNAMIC = "q,t,u = DynamicQuantizeLinear(m) y = DequantizeLinear(q,t,u)"


@pytest.mark.parametrize("quantize", ["y = QuantizeLinear(m,s,z)", DYNAMIC])
def test_what_is_rounded_stays_and_says_so(quantize: str) -> None:
    kind = "float" if quantize is DYNAMIC else "uint8"
    text = f"{IMAGE} => ({kind}[2,16,8,8] y) {{ m = Mul(x,k) {quantize} }}"
    result = converter.fold(build(text, consts()))
    (left,) = (f for f in result.findings if f.code == "stops")
    assert "rounds what it is given" in left.why


@pytest.mark.parametrize(
    "body",
    [
        "y = QLinearConv(x,s,z,w,s2,zw,s,z,b)",
        "c = QLinearConv(x,s,z,w,s2,zw,s,z,b) f = Flatten(c) y = com.microsoft.QGemm<transB=1>(f,s,z,v,s2,zw,b,s,z)",
    ],
)
def test_a_bias_of_zeros_of_a_requantized_layer_goes(body: str) -> None:
    draw = np.random.default_rng(3)
    known = {**consts(), "w": draw.integers(-99, 99, (16, 16, 1, 1)).astype(np.int8), "zw": np.int8(0)}
    known |= {"b": np.zeros(16, np.int32), "v": draw.integers(-99, 99, (16, 64)).astype(np.int8)}
    shape = "2,16" if "QGemm" in body else "2,16,2,2"
    head = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g'
    proto = onnx.parser.parse_model(f"{head} (uint8[2,16,2,2] x) => (uint8[{shape}] y) {{ {body} }}")
    read = {name for node in proto.graph.node for name in node.input}
    held = {name: np.asarray(value) for name, value in known.items() if name in read}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in held.items())
    result = converter.fold(proto)
    assert not any("b" in node.input for node in result.model.graph.node)
    assert result.parity is not None
    assert (result.parity.verdict, result.parity.level) == (Verdict.PASS, "P"), result.parity.why


def test_the_bias_of_a_requantized_layer_stays_and_says_so() -> None:
    """A norm behind it would subtract it again, but the sum is rounded and cut before."""
    draw = np.random.default_rng(3)
    known = {
        **consts(),
        "w": draw.integers(-99, 99, (16, 16, 3, 3)).astype(np.int8),
        "zw": np.int8(0),
        "b": draw.integers(-999, 999, 16).astype(np.int32),
        "g": np.ones(16, np.float32),
        "h": np.zeros(16, np.float32),
    }
    body = "c = QLinearConv(x,s,z,w,s2,zw,s,z,b) d = DequantizeLinear(c,s,z) y = InstanceNormalization(d,g,h)"
    result = converter.fold(build(f"(uint8[2,16,8,8] x) => (float[2,16,6,6] y) {{ {body} }}", known))
    assert not result.rewrites
    (fate,) = result.fates
    assert (fate.code, fate.elements) == ("stops", 16)
    assert "cuts it to its range" in fate.why


@pytest.mark.parametrize("cast", ["", "c = Cast<to=1>(m) "])
def test_the_factor_of_scores_stays_before_a_softmax(cast: str) -> None:
    """Without it onnxruntime computes the softmax on integers, and far less exactly."""
    body = f"{BETWEEN} m = Mul(d,n) {cast}y = Softmax<axis=-1>({'c' if cast else 'm'})"
    result = converter.fold(build(f"{IMAGE} => (float[2,16,8,8] y) {{ {body} }}", consts(n=np.float32(0.25))))
    assert not result.rewrites
    assert "coarser-kernel" in {f.code for f in result.findings}
    other = body.replace("Softmax<axis=-1>", "Relu")
    twin = converter.fold(build(f"{IMAGE} => (float[2,16,8,8] y) {{ {other} }}", consts(n=np.float32(0.25))))
    assert twin.rewrites
