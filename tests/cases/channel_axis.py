"""The channel axis through views, Gemm in every spelling, grouped ConvTranspose."""

from __future__ import annotations

import itertools

import numpy as np
import onnx

from tests.cases.arithmetic import CONVT as AFFINE_CONVT
from tests.cases.case import Build, Case, fold, refuse
from tests.cases.conv_batch_norm import CONV, CONVT
from tests.cases.matmul_batch_norm import GEMM, MATMUL, gemm, matmul
from tests.tiny import Draw, model, sub

BN = "y = BatchNormalization <epsilon = 1e-3> (t, g, be, m, v)"


def viewed(
    view: str, out: str, *, x: str = "2,3,11,13", o: int = 5, k: tuple[int, ...] = (3, 2), **ints: list[int]
) -> Build:
    """Return Conv (h), a view (h to t), BatchNormalization over ``o`` channels."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(o, 3, *k, bias=o) | draw.bn(o) | {n: np.array(v, np.int64) for n, v in ints.items()}
        return model(f"(float[{x}] x) => (float[{out}] y) {{ h = Conv (x, w, b) {view} {BN} }}", consts)

    return build


def negative_gamma(build: Build) -> Build:
    """Return the builder of the same with the gamma of channel 3 negative."""

    def changed() -> onnx.ModelProto:
        proto = build()
        held = {t.name: onnx.numpy_helper.to_array(t).copy() for t in proto.graph.initializer}
        held["g"][3] *= -1
        return sub(proto, g=held["g"])

    return changed


def shuffled(mode: str, view: str = "", out: str = "2,5,18,24", k: tuple[int, ...] = (3, 2)) -> Build:
    """Return Conv to 20 channels (h), DepthToSpace (h to t), BatchNormalization."""
    view = view or f't = DepthToSpace <blocksize = 2, mode = "{mode}"> (h)'

    def build() -> onnx.ModelProto:
        draw, channels = Draw(), int(out.split(",")[1])
        consts = draw.conv(20, 3, *k, bias=20) | draw.bn(channels)
        return model(f"(float[2,3,11,13] x) => (float[{out}] y) {{ h = Conv (x, w, b) {view} {BN} }}", consts)

    return build


NHWC = "p = Transpose <perm = [0,2,3,1]> (h) t = Transpose <perm = [0,3,1,2]> (p)"
# The output is [2,5,5,12]: height and channels coincide.
COINCIDE = {"x": "2,3,7,13"}
STAY = "Conv Transpose BatchNormalization"

AVERAGE = "t = AveragePool <kernel_shape = [3, 1]> (h)"
MAXIMUM = "t = MaxPool <kernel_shape = [3, 1]> (h)"
COUNTED = "t = AveragePool <kernel_shape = [3, 1], pads = [1, 0, 1, 0], count_include_pad = 1> (h)"
NO, YES = [0], [1]
DROPOUT = 'c = Cast <to = 9> (s) mode = Squeeze (c) t = Dropout (h, "", mode)'
VIEWS = (
    fold("transpose-pair", viewed(NHWC, "2,5,9,12"), CONV, "Conv Transpose Transpose | Conv"),
    fold("identity-between", viewed("t = Identity (h)", "2,5,9,12"), CONV, "Conv Identity | Conv"),
    fold("dropout-between", viewed("t = Dropout (h)", "2,5,9,12"), CONV, "Conv Dropout | Conv"),
    fold("dropout-false-between", viewed(DROPOUT, "2,5,9,12", s=NO), CONV, "Conv Cast Squeeze Dropout"),
    fold("cast-to-same-between", viewed("t = Cast <to = 1> (h)", "2,5,9,12"), CONV, "Conv Cast | Conv"),
    fold("cast-like-same-between", viewed("t = CastLike (h, x)", "2,5,9,12"), CONV, "Conv CastLike | Conv"),
    fold("average-between", viewed(AVERAGE, "2,5,7,12"), CONV, "Conv AveragePool"),
    fold("global-average-between", viewed("t = GlobalAveragePool (h)", "2,5,1,1"), CONV, "Conv GlobalAveragePool"),
    fold("maximum-between", viewed(MAXIMUM, "2,5,7,12"), CONV, "Conv MaxPool"),
    refuse(
        "average-counts-padding-between",
        viewed(COUNTED, "2,5,9,12"),
        CONV,
        "padded-shift",
        "Conv AveragePool BatchNormalization",
        viewed(COUNTED.replace("= 1>", "= 0>"), "2,5,9,12"),
    ),
    refuse(
        "maximum-between-negative",
        negative_gamma(viewed(MAXIMUM, "2,5,7,12")),
        CONV,
        "negative-scale",
        "Conv MaxPool BatchNormalization",
        viewed(MAXIMUM, "2,5,7,12"),
        says="3",
    ),
    *(fold(f"shuffle-{mode.lower()}-between", shuffled(mode), CONV, "Conv DepthToSpace") for mode in ("DCR", "CRD")),
    refuse(
        "shuffle-of-width-between",
        shuffled(
            "CRD", "p = Transpose <perm = [0,3,2,1]> (h) t = DepthToSpace <blocksize = 2> (p)", "2,3,18,40", (3, 2)
        ),
        CONV,
        "channel-axis",
        "Conv Transpose DepthToSpace BatchNormalization",
    ),
    refuse(
        "dropout-true-between",
        viewed(DROPOUT, "2,5,9,12", s=YES),
        CONV,
        "no-linear-op",
        "Conv Dropout BatchNormalization",
        viewed(DROPOUT, "2,5,9,12", s=NO),
        ort=False,
    ),
    refuse(
        "cast-to-half-between",
        viewed("a = Cast <to = 10> (h) t = Cast <to = 1> (a)", "2,5,9,12"),
        CONV,
        "no-linear-op",
        "Conv Cast Cast BatchNormalization",
        viewed("a = Cast <to = 1> (h) t = Cast <to = 1> (a)", "2,5,9,12"),
    ),
    fold("reshape-keeps-channel", viewed("t = Reshape (h, s)", "2,5,108", s=[2, 5, 108]), CONV, "Conv Reshape"),
    fold("reshape-zero-and-minus-1", viewed("t = Reshape (h, s)", "2,5,108", s=[0, 0, -1]), CONV, "Conv Reshape"),
    fold(
        "unsqueeze",
        viewed("t = Unsqueeze (h, s)", "2,5,15,1", x="2,3,17", k=(3,), s=[3]),
        CONV,
        "Conv Unsqueeze",
    ),
    fold("squeeze", viewed("t = Squeeze (h, s)", "2,5,12", x="2,3,3,13", s=[2]), CONV, "Conv Squeeze"),
    refuse(
        "conv-transpose-1-2",
        viewed("t = Transpose <perm = [0,2,1,3]> (h)", "2,5,5,12", **COINCIDE),  # type: ignore[arg-type]
        CONV,
        "channel-axis",
        STAY,
        viewed("t = Transpose <perm = [0,1,2,3]> (h)", "2,5,5,12", **COINCIDE),  # type: ignore[arg-type]
    ),
    refuse(
        "half-a-transpose-pair",
        viewed("p = Transpose <perm = [0,2,3,1]> (h) t = Transpose <perm = [0,2,3,1]> (p)", "2,5,5,12", x="2,3,14,6"),
        CONV,
        "channel-axis",
        f"{STAY} Transpose",
        viewed(NHWC, "2,5,12,5", x="2,3,14,6"),
    ),
    refuse(
        "reshape-mixes-channels",
        viewed("t = Reshape (h, s)", "10,5,3,4", s=[10, 5, 3, 4], x="2,3,7,13", o=5),
        CONV,
        "channel-axis",
        "Conv Reshape BatchNormalization",
        viewed("t = Reshape (h, s)", "2,5,6,10", s=[2, 5, 6, 10], x="2,3,7,13", o=5),
    ),
    refuse(
        "gemm-transpose-square",
        matmul("(float[5,3] x) => (float[5,5] y) { h = Gemm (x, w) t = Transpose <perm = [1,0]> (h) }"),
        GEMM,
        "channel-axis",
        "Gemm Transpose BatchNormalization",
        matmul("(float[5,3] x) => (float[5,5] y) { h = Gemm (x, w) t = Transpose <perm = [0,1]> (h) }"),
    ),
)

TIME = "(float[2,5,3] x) => (float[2,5,5] y) { h = MatMul (x, w) p = Add (h, b)"
AXIS = (
    refuse(
        "matmul-add-bn-on-time",
        matmul("(float[2,5,3] x) => (float[2,5,5] y) { h = MatMul (x, w) t = Add (h, b) }", b=(5,)),
        MATMUL,
        "channel-axis",
        "MatMul Add BatchNormalization",
        matmul(f"{TIME} t = Transpose <perm = [0,2,1]> (p) }}", b=(5,)),
    ),
    fold(
        "matmul-add-transpose-bn",
        matmul(
            "(float[2,7,3] x) => (float[2,5,7] y) { h = MatMul (x, w) p = Add (b, h) "
            "t = Transpose <perm = [0,2,1]> (p) }",
            b=(5,),
        ),
        f"{MATMUL} fold-affine-into-matmul",
        "MatMul Add Transpose",
    ),
)

SPELLINGS = {
    "plain": "",
    "alpha": "alpha = 2.0",
    "beta": "beta = 0.5",
    "trans-a": "transA = 1",
    "trans-b": "transB = 1",
    "all": "alpha = 0.25, beta = 3.0, transA = 1, transB = 1",
}
C_SHAPES = {
    "n": (5,),
    "1-n": (1, 5),
    "m-n": (7, 5),
    "m-1": (7, 1),
    "1": (1,),
    "scalar": (),
    "1-1": (1, 1),
    "none": None,
}


def gemm_row(attrs: tuple[str, str], c: tuple[str, tuple[int, ...] | None]) -> Case:
    """Make one spelling of Gemm with one shape of C."""
    (name, text), (shape_name, shape) = attrs, c
    build = gemm(attrs=text) if shape is None else gemm(attrs=text, c=shape)
    if shape is None:
        build = gemm("x, w", text)
    return fold(f"gemm-{name}-c-{shape_name}", build, GEMM, "Gemm")


GEMMS = (
    *(gemm_row(a, c) for a, c in itertools.product(SPELLINGS.items(), C_SHAPES.items())),
    refuse(
        "no-growth-c-m-1",
        gemm(c=(7, 1)),
        GEMM,
        "",
        "Gemm BatchNormalization",
        gemm(c=(7, 5)),
        options={"no_growth": True},
    ),
)


def convt(*w: int, group: int, x: str, out: str, tail: str, attrs: str = "", **shapes: tuple[int, ...]) -> Build:
    """Return ConvTranspose with a bias, then ``tail`` (t to y)."""

    def build() -> onnx.ModelProto:
        draw, channels = Draw(), w[1] * group
        consts = draw.conv(*w, bias=channels) | {k: draw.positive(*v) for k, v in shapes.items()}
        if "BatchNormalization" in tail:
            consts |= draw.bn(channels)
        text = f"(float[{x}] x) => (float[{out}] y) {{ t = ConvTranspose <group = {group}{attrs}> (x, w, b) {tail} }}"
        return model(text, consts)

    return build


PADDED = ", strides = [2, 2], pads = [1, 0, 1, 1], output_padding = [1, 0], dilations = [1, 2]"
TRANSPOSED = (
    fold("1d-square", convt(6, 3, 3, group=2, x="2,6,7", out="2,6,9", tail=BN), CONVT, "ConvTranspose"),
    fold("depthwise", convt(5, 1, 3, group=5, x="2,5,7", out="2,5,9", tail=BN), CONVT, "ConvTranspose"),
    fold("3-groups", convt(6, 2, 3, 2, group=3, x="2,6,4,5", out="2,6,6,6", tail=BN), CONVT, "ConvTranspose"),
    fold(
        "every-attribute",
        convt(6, 5, 3, 2, group=2, x="2,6,4,5", out="2,10,8,10", tail=BN, attrs=PADDED),
        CONVT,
        "ConvTranspose",
    ),
    fold(
        "square-mul",
        convt(5, 5, 3, 2, group=1, x="2,5,4,7", out="2,5,6,8", tail="y = Mul (t, k)", k=(1, 5, 1, 1)),
        AFFINE_CONVT,
        "ConvTranspose",
    ),
    fold(
        "square-mul-add",
        convt(
            5,
            5,
            3,
            2,
            group=1,
            x="2,5,4,7",
            out="2,5,6,8",
            tail="q = Mul (k, t) y = Sub (q, a)",
            k=(5, 1, 1),
            a=(5, 1, 1),
        ),
        AFFINE_CONVT,
        "ConvTranspose",
    ),
)

ROWS: tuple[Case, ...] = (*VIEWS, *AXIS, *GEMMS, *TRANSPOSED)
