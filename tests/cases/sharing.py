"""Uses, sharing and scope of tensors; training mode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.cases.case import Case, fold, refuse
from tests.tiny import Draw, X, Y, as_constants, as_inputs, body, model, node_named, tensors

CONV = "fold-bn-into-conv"
BN = "BatchNormalization <epsilon = 1e-3>"
PAIR = f"{X} => (float[2,5,9,12] y, float[2,5,9,12] z)"
TWO = "(float[2,3,11,13] x, float[2,3,11,13] x2) => (float[2,5,9,12] y, float[2,5,9,12] z)"
IF = "(float[2,3,11,13] x, bool c)"


def net(text: str, **more: np.ndarray) -> Callable[[], onnx.ModelProto]:
    """Return the builder of a graph over Conv constants w, b and BN constants g, be, m, v (and g2 … v2)."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5) | draw.bn(5, "2") | more
        used = {k: v for k, v in consts.items() if any(k in part for part in tokens(text))}
        return model(text, used)

    return build


def tokens(text: str) -> list[set[str]]:
    """Return the names in a text, as one set in a list."""
    marks = "(){},<>=[]"
    return [set("".join(" " if c in marks else c for c in text).split())]


PLAIN = net(f"{X} => {Y} {{ h = Conv (x, w, b) y = {BN} (h, g, be, m, v) }}")
BESIDE = net(f"{PAIR} {{ h = Conv (x, w, b) y = {BN} (h, g, be, m, v) z = Relu (y) }}")
CAPTURE = f"""{IF} => (float[2,5,9,12] y, float[2,5,9,12] z) {{
    h = Conv (x, w, b) y = {BN} (h, g, be, m, v)
    z = If (c) <then_branch = t () => (float[2,5,9,12] r) {{ r = Relu (HELD) }},
                else_branch = e () => (float[2,5,9,12] q) {{ q = Neg (y) }}> }}"""
HOLDS_W = f"""{IF} => (float[2,5,9,12] y, float[5,3,3,2] z) {{
    h = Conv (x, w, b) y = {BN} (h, g, be, m, v)
    z = If (c) <then_branch = t () => (float[5,3,3,2] r) {{ r = Relu (w) }},
                else_branch = e () => (float[5,3,3,2] q) {{ q = Neg (w) }}> }}"""


def beta_is_bias() -> onnx.ModelProto:
    """The Conv's bias is the BatchNormalization's beta."""
    return net(f"{X} => {Y} {{ h = Conv (x, w, be) y = {BN} (h, g, be, m, v) }}")()


def weight_is_output() -> onnx.ModelProto:
    """The weight initializer is a graph output as well."""
    return net(f"{X} => (float[2,5,9,12] y, float[5,3,3,2] w) {{ h = Conv (x, w, b) y = {BN} (h, g, be, m, v) }}")()


def run_time_scale() -> onnx.ModelProto:
    """The BatchNormalization's scale is a graph input without a default."""
    draw = Draw()
    stats = {k: v for k, v in draw.bn(5).items() if k != "g"}
    io = f"(float[2,3,11,13] x, float[5] g) => {Y}"
    return model(f"{io} {{ h = Conv (x, w, b) y = {BN} (h, g, be, m, v) }}", draw.conv(5, 3, 3, 2, bias=5) | stats)


def behind_identity() -> onnx.ModelProto:
    """Every parameter is read through an Identity node."""
    names = ("w", "b", "g", "be", "m", "v")
    head = " ".join(f"i{n} = Identity ({n})" for n in names)
    return net(f"{X} => {Y} {{ {head} h = Conv (x, iw, ib) y = {BN} (h, ig, ibe, im, iv) }}")()


def in_branch(own: bool) -> Callable[[], onnx.ModelProto]:
    """Return the builder of Conv+BN inside an If branch, with its own initializers or the main graph's."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        text = f"""{IF} => {Y} {{ y = If (c) <
            then_branch = t () => (float[2,5,9,12] r) {{ h = Conv (x, w, b) r = {BN} (h, g, be, m, v) }},
            else_branch = e () => (float[2,5,9,12] q) {{ q = Conv (x, wq) }}> }}"""
        consts = draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5)
        proto = model(text, {"wq": draw.normal(5, 3, 3, 2)} | ({} if own else consts))
        if own:
            body(proto, "if_y", "then_branch").initializer.extend(tensors(consts))
        return proto

    return build


def in_function(calls: int = 1) -> onnx.ModelProto:
    """Conv+BN in a model-local function whose constants are inside it, called once or twice."""
    names = ("w", "b", "g", "be", "m", "v")
    heads = " ".join(f"{n} = Constant <value = float[1] {{0}}> ()" for n in names)
    nodes = f"{heads} h = Conv (a, w, b) r = {BN} (h, g, be, m, v)"
    rest = f'<domain: "loc", opset_import: ["" : 17]> f (a) => (r) {{ {nodes} }}'
    text = {1: f"{X} => {Y} {{ y = loc.f (x) }}", 2: f"{TWO} {{ y = loc.f (x) z = loc.f (x2) }}"}[calls]
    proto = model(text, rest=rest)
    draw = Draw()
    for name, value in (draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5)).items():
        node_named(proto, f"constant_{name}").attribute[0].t.CopyFrom(numpy_helper.from_array(value))
    return proto


def with_sparse() -> onnx.ModelProto:
    """Conv+BN in a model that holds a sparse initializer as well."""
    proto = net(f"{PAIR} {{ h = Conv (x, w, b) y = {BN} (h, g, be, m, v) z = Mul (y, sp) }}")()
    values = helper.make_tensor("sp", TensorProto.FLOAT, [2], [1.5, -2.5])
    indices = helper.make_tensor("sp_at", TensorProto.INT64, [2], [0, 7])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [12]))
    return proto


def sparse_survives(proto: onnx.ModelProto) -> None:
    """The sparse initializer is the same bytes as before."""
    before = with_sparse().graph.sparse_initializer[0].SerializeToString(deterministic=True)
    (after,) = [s.SerializeToString(deterministic=True) for s in proto.graph.sparse_initializer]
    assert after == before


def quantised(opset: int = 17) -> onnx.ModelProto:
    """The weight is DequantizeLinear of int8 with one scale per output channel."""
    draw = Draw()
    text = f"""{X} => {Y} {{ w = DequantizeLinear <axis = 0> (wq, s, zp) h = Conv (x, w, b)
        y = {BN} (h, g, be, m, v) }}"""
    wq = (draw.normal(5, 3, 3, 2) * 40).clip(-127, 127).astype(np.int8)
    consts = {"wq": wq, "s": draw.positive(5) / 64, "zp": np.zeros(5, np.int8), "b": draw.normal(5)}
    return model(text, consts | draw.bn(5), opset=opset)


def training(outputs: int) -> onnx.ModelProto:
    """Conv, BatchNormalization in training mode with 1 or 3 outputs."""
    draw = Draw()
    more = ", float[5] m2, float[5] v2" if outputs == 3 else ""
    names = "y, m2, v2" if outputs == 3 else "y"
    text = f"""{X} => (float[2,5,9,12] y{more}) {{ h = Conv (x, w, b)
        {names} = BatchNormalization <epsilon = 1e-3, training_mode = 1> (h, g, be, m, v) }}"""
    return model(text, draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5))


def overridable(name: str) -> Callable[[], onnx.ModelProto]:
    """Return the builder of Conv+BN at IR 8 with one initializer listed as a graph input."""
    return lambda: as_inputs(PLAIN(), name)


STAY = "Conv BatchNormalization"
SHARED = f"h = Conv (x, w, b) y = {BN} (h, g, be, m, v) k = Conv (x2, w, b)"

ROWS: tuple[Case, ...] = (
    refuse(
        "conv-output-second-consumer",
        net(f"{PAIR} {{ h = Conv (x, w, b) y = {BN} (h, g, be, m, v) z = Relu (h) }}"),
        CONV,
        "several-readers",
        STAY,
        BESIDE,
    ),
    refuse(
        "one-conv-two-bns",
        net(f"{PAIR} {{ h = Conv (x, w, b) y = {BN} (h, g, be, m, v) z = {BN} (h, g2, be2, m2, v2) }}"),
        CONV,
        "several-readers",
        "Conv BatchNormalization BatchNormalization",
        BESIDE,
    ),
    refuse(
        "conv-output-is-graph-output",
        net(f"{X} => (float[2,5,9,12] y, float[2,5,9,12] h) {{ h = Conv (x, w, b) y = {BN} (h, g, be, m, v) }}"),
        CONV,
        "output-is-graph-output",
        STAY,
        PLAIN,
    ),
    refuse(
        "conv-output-captured-by-if",
        net(CAPTURE.replace("HELD", "h")),
        CONV,
        "captured-by-subgraph",
        f"{STAY} If",
        net(CAPTURE.replace("HELD", "y")),
    ),
    fold(
        "shared-weights-both-with-bn",
        net(f"{TWO} {{ {SHARED} z = {BN} (k, g2, be2, m2, v2) }}"),
        CONV,
        "Conv Conv",
    ),
    fold("shared-weights-one-with-bn", net(f"{TWO} {{ {SHARED} z = Relu (k) }}"), CONV, "Conv Conv Relu"),
    fold("conv-bias-is-beta", beta_is_bias, CONV, "Conv"),
    fold("weight-captured-by-if", net(HOLDS_W), CONV, "Conv If Neg Relu"),
    fold("weight-is-graph-output", weight_is_output, CONV, "Conv"),
    refuse("bn-scale-is-graph-input", run_time_scale, CONV, "not-constant", STAY, PLAIN),
    refuse("weight-overridable", overridable("w"), CONV, "overridable", STAY, PLAIN),
    refuse("bn-scale-overridable", overridable("g"), CONV, "overridable", STAY, PLAIN),
    fold("all-params-constant-nodes", lambda: as_constants(PLAIN()), CONV, "Conv"),
    fold("params-behind-identity", behind_identity, CONV, "Conv"),
    fold("in-if-own-initializers", in_branch(own=True), CONV, "If Conv Conv"),
    fold("in-if-outer-initializers", in_branch(own=False), CONV, "If Conv Conv"),
    fold("in-function", in_function, CONV, "f Conv"),
    fold("sparse-initializer-beside", with_sparse, CONV, "Conv Mul", check=sparse_survives, valid=False),
    fold("weight-dequantize-linear", quantised, CONV, "DequantizeLinear Conv"),
    refuse("training-3-outputs", lambda: training(3), CONV, "training-mode", STAY, PLAIN, ort=False),
    refuse("training-1-output", lambda: training(1), CONV, "training-mode", STAY, PLAIN, ort=False, valid=False),
)
