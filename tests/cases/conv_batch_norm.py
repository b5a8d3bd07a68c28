"""Conv or ConvTranspose, then BatchNormalization."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tests.cases.case import Case, fold, inputs_of, refuse
from tests.tiny import Draw, X, Y, as_inputs, model

CONV = "fold-bn-into-conv"
CONVT = "fold-bn-into-conv-transpose"
SMALL = np.array([1e-4, 3e-4, 1e-3, 0.5, 2.0], np.float32)  # a variance at which an epsilon of 1e-5 shows


def conv(
    *shape: int, bias: bool = True, io: str = f"{X} => {Y}", attrs: str = "", opset: int = 17, ir: int = 8
) -> onnx.ModelProto:
    """Conv with weight ``shape``, then BatchNormalization."""
    draw, channels = Draw(), shape[0]
    call = "x, w, b" if bias else "x, w"
    consts = draw.conv(*shape, bias=channels if bias else 0) | draw.bn(channels)
    text = f"{io} {{ h = Conv <{attrs}> ({call}) y = BatchNormalization <epsilon = 1e-3> (h, g, be, m, v) }}"
    return model(text.replace("<>", ""), consts, opset=opset, ir=ir)


def transposed(*shape: int, io: str, attrs: str, group: int = 1) -> onnx.ModelProto:
    """ConvTranspose with weight ``shape`` [I, O/group, *k], then BatchNormalization."""
    draw, channels = Draw(), shape[1] * group
    consts = draw.conv(*shape, bias=channels) | draw.bn(channels)
    text = f"""{io} {{ h = ConvTranspose <group = {group}, {attrs}> (x, w, b)
        y = BatchNormalization <epsilon = 1e-3> (h, g, be, m, v) }}"""
    return model(text, consts)


def empty_bias() -> onnx.ModelProto:
    """Conv whose third input is the empty string."""
    draw = Draw()
    text = f'{X} => {Y} {{ h = Conv (x, w, "") y = BatchNormalization <epsilon = 1e-3> (h, g, be, m, v) }}'
    return model(text, draw.conv(5, 3, 3, 2) | draw.bn(5))


def ir3() -> onnx.ModelProto:
    """IR 3: every initializer is a graph input too, which makes it no less constant."""
    return as_inputs(conv(5, 3, 3, 2, opset=8, ir=3))


def opset6(is_test: str = "is_test = 1,") -> onnx.ModelProto:
    """BatchNormalization of opset 6 in inference mode."""
    draw = Draw()
    text = f"{X} => {Y} {{ h = Conv (x, w, b) y = BatchNormalization <{is_test} epsilon = 1e-3> (h, g, be, m, v) }}"
    return as_inputs(model(text, draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5), opset=6, ir=3))


def spatial(value: int) -> onnx.ModelProto:
    """Opset 7 BatchNormalization; at ``spatial = 0`` its statistics have the shape [C, H, W]."""
    draw = Draw()
    stats = {k: draw.positive(*((5, 9, 12) if value == 0 else (5,))) for k in ("g", "be", "m", "v")}
    text = f"""{X} => {Y} {{ h = Conv (x, w, b)
        y = BatchNormalization <epsilon = 1e-3, spatial = {value}> (h, g, be, m, v) }}"""
    return model(text, draw.conv(5, 3, 3, 2, bias=5) | stats, opset=7, ir=4)


def epsilon(attribute: str, opset: int = 17) -> onnx.ModelProto:
    """Conv, BatchNormalization whose smallest variance makes a wrong epsilon visible."""
    draw = Draw()
    text = f"{X} => {Y} {{ h = Conv (x, w, b) y = BatchNormalization {attribute} (h, g, be, m, v) }}"
    return model(text, draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5) | {"v": SMALL}, opset=opset)


def two_bns() -> onnx.ModelProto:
    """Conv, BatchNormalization, BatchNormalization."""
    draw = Draw()
    text = f"""{X} => {Y} {{ h = Conv (x, w, b) k = BatchNormalization <epsilon = 1e-3> (h, g1, be1, m1, v1)
        y = BatchNormalization <epsilon = 1e-2> (k, g2, be2, m2, v2) }}"""
    return model(text, draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5, "1") | draw.bn(5, "2"))


def between(op: str) -> Callable[[], onnx.ModelProto]:
    """Return the builder of Conv, ``op``, BatchNormalization."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        text = f"""{X} => {Y} {{ h = Conv (x, w, b) k = {op} (h)
            y = BatchNormalization <epsilon = 1e-3> (k, g, be, m, v) }}"""
        return model(text, draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5))

    return build


def ir3_stays_consistent(proto: onnx.ModelProto) -> None:
    """IR below 4: initializers are a subset of the inputs, and no input is left without a reader."""
    names = {t.name for t in proto.graph.initializer}
    listed = {v.name for v in proto.graph.input}
    assert proto.ir_version == 3
    assert names <= listed, f"initializers that are no graph input: {names - listed}"
    assert listed - names == {"x"}, f"input entries whose initializer went: {listed - names}"


IO1 = "(float[2,3,17] x) => (float[2,5,15] y)"
IO3 = "(float[2,3,5,6,7] x) => (float[2,5,4,4,6] y)"
IOT = "(float[2,3,11,13] x) => (float[2,5,23,38] y)"
IOTG = "(float[2,6,11,13] x) => (float[2,10,23,38] y)"
IOTS = "(float[2,6,11,13] x) => (float[2,6,23,38] y)"
STEP = "strides = [2, 3]"

ROWS: tuple[Case, ...] = (
    fold("conv2d-bias-bn", lambda: conv(5, 3, 3, 2), CONV, "Conv"),
    fold("conv2d-no-bias-bn", lambda: conv(5, 3, 3, 2, bias=False), CONV, "Conv", check=inputs_of("Conv", 3)),
    fold("conv1d-bn", lambda: conv(5, 3, 3, io=IO1), CONV, "Conv"),
    fold("conv3d-bn", lambda: conv(5, 3, 2, 3, 2, io=IO3), CONV, "Conv"),
    fold(
        "grouped-conv-bn",
        lambda: conv(10, 3, 3, 2, io="(float[2,6,11,13] x) => (float[2,10,9,12] y)", attrs="group = 2"),
        CONV,
        "Conv",
    ),
    fold(
        "depthwise-conv-bn",
        lambda: conv(5, 1, 3, 2, io="(float[2,5,11,13] x) => (float[2,5,9,12] y)", attrs="group = 5"),
        CONV,
        "Conv",
    ),
    fold("conv-empty-third-input-bn", empty_bias, CONV, "Conv", check=inputs_of("Conv", 3)),
    fold("conv-transpose-bn", lambda: transposed(3, 5, 3, 2, io=IOT, attrs=STEP), CONVT, "ConvTranspose"),
    fold(
        "conv-transpose-grouped-bn",
        lambda: transposed(6, 5, 3, 2, io=IOTG, attrs=STEP, group=2),
        CONVT,
        "ConvTranspose",
    ),
    fold(
        "conv-transpose-grouped-square-bn",
        lambda: transposed(6, 3, 3, 2, io=IOTS, attrs=STEP, group=2),
        CONVT,
        "ConvTranspose",
    ),
    fold(
        "conv-transpose-1d-bn",
        lambda: transposed(3, 5, 3, io="(float[2,3,17] x) => (float[2,5,35] y)", attrs="strides = [2]"),
        CONVT,
        "ConvTranspose",
    ),
    fold("opset-9-ir-4", lambda: conv(5, 3, 3, 2, opset=9, ir=4), CONV, "Conv"),
    fold("opset-22", lambda: conv(5, 3, 3, 2, opset=22, ir=10), CONV, "Conv"),
    fold("ir-3-initializers-are-inputs", ir3, CONV, "Conv", check=ir3_stays_consistent),
    fold("opset-6-is-test", opset6, CONV, "Conv", ort=False, check=ir3_stays_consistent),
    refuse(
        "opset-7-spatial-0",
        lambda: spatial(0),
        CONV,
        "spatial-stats",
        "Conv BatchNormalization",
        lambda: spatial(1),
    ),
    fold("epsilon-absent", lambda: epsilon(""), CONV, "Conv"),
    fold("epsilon-zero", lambda: epsilon("<epsilon = 0.0>"), CONV, "Conv"),
    fold("conv-bn-bn", two_bns, f"{CONV} merge-bn-into-bn", "Conv"),
    refuse("conv-relu-bn", between("Relu"), CONV, "no-linear-op", "Conv Relu BatchNormalization", between("Identity")),
    fold(
        "symbolic-batch",
        lambda: conv(5, 3, 3, 2, io="(float[N,3,11,13] x) => (float[N,5,9,12] y)"),
        CONV,
        "Conv",
    ),
)
