"""BatchNormalization's shift (and positive scale) on its way into the next Conv.

``ROWS`` fold or must stay. ``EQUAL`` holds operators through which biasopt moves nothing yet although
it could (Pad reflect, Resize): whatever happens there, the outputs stay. ``CANCELLED`` holds biases that
a normalisation cancels and that go, ``LIVE`` those that it does not cancel and that stay.
"""

from __future__ import annotations

import numpy as np
import onnx

from tests.cases.before_conv import BN, BN_NEXT, before, conv_then
from tests.cases.case import Build, Case, fold, inputs_of, later, refuse
from tests.cases.padding_and_sign import through
from tests.tiny import Draw, X, model, sub

SHIFT = "p = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1> (h)"
AVERAGE = "p = AveragePool <kernel_shape = [2, 2]> (h)"
NEXT_GEMM = "fold-bn-into-next-gemm"


def flat(head: str, op: str, size: int) -> Build:
    """Return BN, ``head`` (h to p), then Gemm or MatMul over ``size`` features."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = {"w": draw.normal(size, 5), "b": draw.normal(5)} | draw.bn(3)
        call = {"Gemm": "y = Gemm (p, w, b)", "MatMul": "y = MatMul (p, w)"}[op]
        proto = model(f"{X} => (float[2,5] y) {{ {BN} {head} {call} }}", consts)
        if op == "MatMul":
            del proto.graph.initializer[1]
        return proto

    return build


def scaled(middle: str, y: str) -> Build:
    """Return the same as ``through``, the shift zero."""
    none = np.zeros(3, np.float32)
    build = through(middle, y)
    return lambda: sub(build(), m=none, be=none)


GAP = "q = GlobalAveragePool (h) p = Flatten (q)"
PASSES = (
    fold(
        "max-pool-padded", through("p = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (h)", "2,5,10,12"), BN_NEXT
    ),
    fold("max-pool-strided", through("p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h)", "2,5,4,5"), BN_NEXT),
    fold("average-pool", through(AVERAGE, "2,5,9,11"), BN_NEXT, "AveragePool Conv"),
    fold(
        "average-pool-uncounted-pads",
        through("p = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 0> (h)", "2,5,11,13"),
        BN_NEXT,
        "AveragePool Conv",
    ),
    fold(
        "average-pool-ceil",
        through("p = AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (h)", "2,5,4,5"),
        BN_NEXT,
        "AveragePool Conv",
    ),
    fold("identity", through("p = Identity (h)", "2,5,10,12"), BN_NEXT),
    fold("dropout", through("p = Dropout (h)", "2,5,10,12"), BN_NEXT),
    fold("global-average-pool-flatten-gemm", flat(GAP, "Gemm", 3), NEXT_GEMM, "GlobalAveragePool Flatten Gemm"),
    fold("flatten-gemm", flat("p = Flatten (h)", "Gemm", 429), NEXT_GEMM, "Flatten Gemm"),
    fold(
        "flatten-matmul",
        flat("p = Flatten (h)", "MatMul", 429),
        "fold-bn-into-next-matmul",
        "Flatten Gemm | Flatten MatMul Add",
    ),
    fold("scale-through-counted-pads", scaled(SHIFT, "2,5,11,13"), BN_NEXT, "AveragePool Conv"),
)
TAIL = "BatchNormalization Conv"
STOPS = (
    refuse(
        "average-pool-counted-pads", through(SHIFT, "2,5,11,13"), BN_NEXT, "", f"{TAIL} AveragePool", through(AVERAGE)
    ),
    refuse("relu", through("p = Relu (h)", "2,5,10,12"), BN_NEXT, "no-linear-op", f"{TAIL} Relu", before(BN)),
)


def resized(attrs: str) -> Build:
    """Return BN, Resize by [1,1,2,3] with other attributes, Conv."""
    roi = "roi" if "tf_crop" in attrs else '""'

    def build() -> onnx.ModelProto:
        proto = through(f"p = Resize <{attrs}> (h, {roi}, s)", "2,5,21,38")()
        extra = {"s": np.array([1, 1, 2, 3], np.float32)}
        if roi == "roi":
            extra["roi"] = np.array([0, 0, -0.2, -0.2, 1, 1, 1.2, 1.2], np.float32)
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in extra.items())
        return proto

    return build


def padded(mode: str) -> Build:
    """Return BN, Pad by one row and column on each side, Conv."""

    def build() -> onnx.ModelProto:
        proto = through(f'p = Pad <mode = "{mode}"> (h, n)', "2,5,12,14")()
        sizes = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(sizes, "n"))
        return proto

    return build


def _resize_rows() -> list[Case]:
    rows = []
    for mode, at, outside in (
        ("nearest", "half_pixel", 0),
        ("nearest", "asymmetric", 0),
        ("linear", "half_pixel", 0),
        ("linear", "align_corners", 0),
        ("cubic", "half_pixel", 0),
        ("cubic", "half_pixel", 1),
    ):
        attrs = f'mode = "{mode}", coordinate_transformation_mode = "{at}", exclude_outside = {outside}'
        rows.append(fold(f"resize-{mode}-{at}-{outside}", resized(attrs), ""))
    return rows


CROP = 'mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize", extrapolation_value = 0.0'
MUST_STAY = (
    refuse("pad-constant-0", padded("constant"), BN_NEXT, "no-linear-op", f"{TAIL} Pad"),
    refuse("resize-tf-crop-and-resize", resized(CROP), BN_NEXT, "no-linear-op", f"{TAIL} Resize"),
)


def group_norm(groups: int) -> Build:
    """Return Conv to 4 channels, GroupNormalization of opset 21."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        text = f"""{X} => (float[2,4,9,12] y) {{ h = Conv (x, w, b)
            y = GroupNormalization <num_groups = {groups}> (h, s, t) }}"""
        return model(
            text, draw.conv(4, 3, 3, 2, bias=4) | {"s": draw.positive(4), "t": draw.normal(4)}, opset=21, ir=10
        )

    return build


def layer_norm(axis: int, *shape: int) -> Build:
    """Return Conv, LayerNormalization from ``axis`` on."""
    tail = f"y = LayerNormalization <axis = {axis}> (h, s)"
    return conv_then(tail, "2,5,9,12", s=shape)


NO_BIAS = inputs_of("Conv", 2)
CANCELLED: tuple[Case, ...] = (
    fold("group-norm-g-is-c", group_norm(4), "drop-bias-before-instance-norm", check=NO_BIAS),
    fold("layer-norm-over-w", layer_norm(3, 12), "drop-bias-before-instance-norm", check=NO_BIAS),
)
LIVE: tuple[Case, ...] = (
    later("group-norm-2-of-4", group_norm(2), "", check=inputs_of("Conv", 3)),
    later("layer-norm-over-c-h-w", layer_norm(1, 5, 9, 12), "", check=inputs_of("Conv", 3)),
)

EQUAL: tuple[Case, ...] = (
    fold("pad-reflect", padded("reflect"), ""),
    fold("pad-edge", padded("edge"), ""),
    *_resize_rows(),
)
ROWS: tuple[Case, ...] = (*PASSES, *STOPS, *MUST_STAY, *CANCELLED, *LIVE)
