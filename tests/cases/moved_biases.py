"""Biases that go, or move, further down: before a norm, in attention, along a chain of layers, beside another layer."""

from __future__ import annotations

import onnx

from tests.cases.case import Build, Case, fold, refuse
from tests.tiny import Draw, X, as_inputs, model

NORM = "drop-bias-before-instance-norm"
KEY = "drop-attention-key-bias"
VALUE = "sink-attention-value-bias"
SINK = "sink-bias"
MERGE = "merge-parallel-biases"
NO_GROWTH = {"no_growth": True}


def built(text: str, opset: int = 17, **shapes: tuple[int, ...]) -> Build:
    """Return a graph over constants drawn in the given shapes."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        return model(text, {k: draw.normal(*v) / 2 for k, v in shapes.items()}, opset=opset)

    return build


def overridable(build: Build, name: str) -> Build:
    """Return the same with one initializer that is a graph input too."""
    return lambda: as_inputs(build(), name)


# Before a norm -------------------------------------------------------------------------------------

NORMED = built(
    f"{X} => (float[2,5,9,12] y) {{ h = Conv (x, w, b) y = InstanceNormalization (h, s, t) }}",
    w=(5, 3, 3, 2),
    b=(5,),
    s=(5,),
    t=(5,),
)

# Attention -----------------------------------------------------------------------------------------

MATRICES = dict.fromkeys(("wq", "wk", "wv", "wo"), (8, 8))
VECTORS = dict.fromkeys(("bq", "bk", "bv", "bo"), (8,))


def attention(
    score: str = "z = Identity (s)", more: str = "", io: str = "(float[2,5,8] x) => (float[2,5,8] y)"
) -> Build:
    """Return one head of attention with biases; ``score`` (s to z) comes before the softmax."""
    text = f"""{io} {{ q0 = MatMul (x, wq) q = Add (q0, bq) k0 = MatMul (x, wk) k = Add (k0, bk)
        v0 = MatMul (x, wv) v = Add (v0, bv) kt = Transpose <perm = [0,2,1]> (k) s = MatMul (q, kt) {score}
        p = Softmax <axis = -1> (z) o = MatMul (p, v) y0 = MatMul (o, wo) y = Add (y0, bo) {more} }}"""
    return built(text, **MATRICES, **VECTORS)


PLAIN = attention()
SHARED_BO = attention(more="r = Relu (bo)", io="(float[2,5,8] x) => (float[2,5,8] y, float[8] r)")
LEFT = "MatMul Add MatMul MatMul Transpose MatMul Identity Softmax MatMul MatMul Add"

# Along a chain, and beside another layer -----------------------------------------------------------


def chain(last: str, opset: int = 17, **shapes: tuple[int, ...]) -> Build:
    """Return two Convs with a MaxPool between them."""
    text = f"{X} => (float[2,7,8,11] y) {{ h = Conv (x, w, b) p = MaxPool <kernel_shape = [2, 2]> (h) y = {last} }}"
    return built(text, opset, w=(5, 3, 3, 2), b=(5,), u=(7, 5, 1, 1), **shapes)


NARROWER = (
    f"{X} => (float[2,2,8,11] y) {{ h = Conv (x, w, b) p = MaxPool <kernel_shape = [2, 2]> (h) y = Conv (p, u) }}"
)
SUM = f"{X} => (float[2,5,9,12] y) {{ h = Conv (x, w, b) k = Conv (x, u, c) t = Add (h, k) y = Relu (t) }}"
SUMMED = built(SUM, w=(5, 3, 3, 2), u=(5, 3, 3, 2), b=(5,), c=(5,))
SHARED_SUM = built(
    f"""{X} => (float[2,5,9,12] y, float[5] r) {{ h = Conv (x, w, b) k = Conv (x, u, c) t = Add (h, k) y = Relu (t)
        r = Mul (b, c) }}""",
    w=(5, 3, 3, 2),
    u=(5, 3, 3, 2),
    b=(5,),
    c=(5,),
)

ROWS: tuple[Case, ...] = (
    refuse("norm-bias-overridable", overridable(NORMED, "b"), NORM, "overridable", "Conv", NORMED),
    fold("attention-key", PLAIN, KEY, LEFT),
    refuse("attention-key-overridable", overridable(PLAIN, "bk"), KEY, "overridable", "Add Add", PLAIN),
    fold("attention-value", PLAIN, VALUE, LEFT),
    refuse("attention-value-overridable", overridable(PLAIN, "bv"), VALUE, "overridable", "Add Add", PLAIN),
    refuse("attention-value-no-growth", SHARED_BO, VALUE, "weight-shared", "Add Add", PLAIN, options=NO_GROWTH),
    fold(
        "sink-into-a-layer-without-bias",
        built(NARROWER, w=(5, 3, 3, 2), b=(5,), u=(2, 5, 1, 1)),
        SINK,
        "Conv MaxPool Conv",
    ),
    refuse(
        "sink-grows", chain("Conv (p, u)"), SINK, "model-grows", "Conv MaxPool Conv", chain("Conv (p, u, c)", c=(7,))
    ),
    refuse(
        "sink-overridable",
        overridable(chain("Conv (p, u, c)", c=(7,)), "b"),
        SINK,
        "overridable",
        "Conv MaxPool Conv",
        chain("Conv (p, u, c)", c=(7,)),
    ),
    fold("parallel-convs", SUMMED, MERGE, "Conv Conv Add Relu", options={"skip": ("merge-parallel-convs",)}),
    refuse("parallel-convs-overridable", overridable(SUMMED, "c"), MERGE, "overridable", "Conv Conv", SUMMED),
    refuse(
        "parallel-convs-no-growth",
        SHARED_SUM,
        MERGE,
        "weight-shared",
        "Conv Conv",
        SUMMED,
        options=NO_GROWTH | {"skip": ("merge-parallel-convs",)},
    ),
)
