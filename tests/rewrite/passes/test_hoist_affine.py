"""Arithmetic with a constant goes upstream into all that makes its input: its rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import converter
from tests.cases.case import fold, refuse
from tests.harness import assert_ops
from tests.rewrite.passes.moved_maps import Build, ints, net
from tests.rewrite.passes.walk import PassRows
from tests.tiny import Draw, only_op

P = "hoist-affine"
S = np.float32(0.3535)
Q = "(float[2,7,12] x)"
HEADS = "r = Reshape (h, hs) t = Transpose <perm = [0, 2, 1, 3]> (r)"
QK = "a = MatMul (x, w1) q = Add (a, b1) c = MatMul (x, w2) k = Add (c, b2) kt = Transpose <perm = [0, 2, 1]> (k)"
PAIR = {"w1": (12, 12), "b1": (12,), "w2": (12, 12), "b2": (12,)}
X = "(float[2,3,11,13] x)"
SCORES = """(float[2,7,3] x) => (float[?,?,?] y) { q = MatMul (x, w) k = MatMul (x, v)
    h = Einsum <equation = "bid,bjd->bij"> (q, k) y = Mul (h, s) }"""
PROJECTIONS = {"w": (3, 4), "v": (3, 4)}


def heads(rest: str, y: str = "2,3,7,4", **more: object) -> Build:
    """A projection, cut into three heads."""
    consts = {"w": (12, 12), "b": (12,), "hs": ints(0, 0, 3, 4), "s": S} | more
    return net(f"{Q} => (float[{y}] y) {{ m = MatMul (x, w) h = Add (m, b) {HEADS} {rest} }}", **consts)


def scores(rest: str, outputs: str = "(float[2,7,7] y)", **more: object) -> Build:
    """Scores of attention, then more."""
    return net(f"{Q} => {outputs} {{ {QK} s0 = MatMul (q, kt) {rest} }}", **(PAIR | {"s": S} | more))


def packed(rest: str, outputs: str = "(float[2,3,7,4] y, float[2,3,7,4] k, float[2,3,7,4] v)", **more: object) -> Build:
    """Query, key and value of one projection, cut apart behind a Transpose."""
    consts = {"w": (12, 36), "b": (36,), "hs": ints(0, 0, 3, 3, 4), "s": S, "i0": np.int64(0), "i1": np.int64(1)}
    consts |= {"i2": np.int64(2)} | more
    body = "m = MatMul (x, w) h = Add (m, b) r = Reshape (h, hs) t = Transpose <perm = [2, 0, 3, 1, 4]> (r)"
    parts = "q = Gather <axis = 0> (t, i0) k = Gather <axis = 0> (t, i1) v = Gather <axis = 0> (t, i2)"
    return net(f"{Q} => {outputs} {{ {body} {parts} {rest} }}", **consts)


def behind(middle: str, y: str = "2,5,11,13", op: str = "y = Mul (p, s)", opset: int = 17, **more: object) -> Build:
    """Conv, something, then arithmetic."""
    consts = {"w": (5, 3, 1, 1), "b": (5,), "s": (5, 1, 1)} | more
    return net(f"{X} => (float[{y}] y) {{ h = Conv (x, w, b) {middle} {op} }}", positive="s", opset=opset, **consts)


SIX = "p = Clip <min = 0.0, max = 6.0> (h)"


def has_bound(value: float) -> Callable[[onnx.ModelProto], None]:
    """A check that the one Clip ends at a number."""

    def check(proto: onnx.ModelProto) -> None:
        given = {a.name: a.f for a in only_op(proto, "Clip").attribute}
        assert np.isclose(given["max"], value, rtol=1e-6)
        assert given["min"] == 0

    return check


def fused(activation: str, operands: str = "(x, w, b)", more: str = "", **consts: object) -> Build:
    """A convolution of onnxruntime's own that ends in an activation, and a factor of each channel."""
    held = {"w": (5, 3, 3, 3), "b": (5,), "s": (5, 1, 1)} | consts
    attributes = ", activation_params = [0.1]" if activation == "LeakyRelu" else ""
    layer = f'h = com.microsoft.FusedConv <activation = "{activation}"{attributes}> {operands}'
    text = f"(float[2,3,11,13] x{more}) => (float[2,5,9,11] y) {{ {layer} y = Mul (h, s) }}"

    def build() -> onnx.ModelProto:
        proto = net(text, positive="s", **held)()
        proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
        return proto

    return build


def wide(factor: float) -> Build:
    """A Clip of float64 with its bounds in attributes, which hold float32."""
    consts = {"w": Draw(np.float64).normal(3, 5), "s": np.float64(factor)}
    text = "(double[7,3] x) => (double[7,5] y) { h = MatMul (x, w) p = Clip <max = 0.3> (h) y = Mul (p, s) }"
    return net(text, opset=10, **consts)


def gemm_scores(end: str, inputs: str = "(float[7,3] x)", operands: str = "(q, k)", **more: object) -> Build:
    """Scores of attention as a Gemm of two projections."""
    consts = {"w": (3, 4), "v": (3, 4), "s": S} | more
    body = f"q = Gemm (x, w) k = Gemm (x, v) h = Gemm <transB = 1, alpha = 0.5> {operands}"
    return net(f"{inputs} => (float[7,7] y) {{ {body} {end} }}", **consts)


DOTS = '(float[2,7,3] x) => (float[2,7,5] y) { h = Einsum <equation = "...i,io->...o"> (x, w) y = Mul (h, s) }'
GEMM_OF_INPUTS = net(
    "(float[7,3] q, float[7,3] k) => (float[7,7] y) { h = Gemm <transB = 1> (q, k) y = Div (h, s) }", s=S
)
LEFT_GEMM = net(
    "(float[11,7] x) => (float[5,7] y) { h = Gemm <transA = 1> (w, x, b) y = Mul (h, s) }",
    w=(11, 5),
    b=(5, 1),
    s=(5, 1),
)


def three(end: str, more: str = "", **consts: object) -> Build:
    """A convolution and something else, to be added to a constant."""
    held = {"w": (5, 3, 3, 3), "v": (5, 3, 3, 3), "k": (5, 1, 1)} | consts
    text = f"{X} => (float[2,5,9,11] y{more}) {{ c = Conv (x, w) a = Conv (x, v) r = Relu (a) {end} }}"
    return net(text, **held)


NEGATIVE = -np.ones((5, 1, 1), np.float32)
MAXIMA = "p = MaxPool <kernel_shape = [2, 2]> (h)"


class TestHoistAffine(PassRows):
    name = P
    own = (
        fold("query-scale-behind-heads", heads("y = Mul (t, s)"), P, "MatMul Add Reshape Transpose"),
        fold("query-scale-per-head", heads("y = Mul (t, g)", g=(3, 1, 1)), P, "MatMul Add Reshape Transpose"),
        fold(
            "query-scale-per-channel-of-a-head",
            heads("y = Div (t, g)", g=np.float32([1, 2, 4, -8])),
            P,
            "MatMul Add Reshape Transpose",
        ),
        fold("query-shift-per-head", heads("y = Add (t, g)", g=(3, 1, 1)), P, "MatMul Add Reshape Transpose"),
        fold("packed-query-scale", packed("y = Mul (q, s)"), P, "MatMul Add Reshape Transpose Gather Gather Gather"),
        fold(
            "score-scale",
            scores("z = Div (s0, s) y = Softmax <axis = -1> (z)"),
            P,
            "MatMul Add MatMul Transpose MatMul Softmax",
        ),
        fold(
            "score-scale-then-softcap",
            scores("z = Div (s0, s) c0 = Tanh (z) y = Softmax <axis = -1> (c0)"),
            P,
            "MatMul Add MatMul Add Transpose MatMul Tanh Softmax",
        ),
        fold(
            "split-mul-add",
            net(
                f"{X} => (float[2,4,11,13] y, float[2,3,11,13] z) {{ h = Conv (x, w) p, q = Split <axis = 1> (h, n) "
                f"y = Mul (p, s) z = Add (q, t) }}",
                w=(7, 3, 1, 1),
                n=ints(4, 3),
                s=(4, 1, 1),
                t=(3, 1, 1),
            ),
            P,
            "Conv Split",
        ),
        fold(
            "one-plus-scale",
            net(
                "(float[2,7] c, float[2,9,6] x) => (float[2,9,6] y) { h = Gemm (c, w, b) u = Unsqueeze (h, ax) "
                "g, t = Split <axis = 2> (u, n) g1 = Add (g, one) m = Mul (x, g1) y = Add (m, t) }",
                w=(7, 12),
                b=(12,),
                ax=ints(1),
                n=ints(6, 6),
                one=np.float32(1),
            ),
            P,
            "Gemm Unsqueeze Split Mul Add",
        ),
        fold("relu-mul", behind("p = Relu (h)"), P, "Conv Relu"),
        fold("leaky-relu-mul", behind("p = LeakyRelu <alpha = 0.2> (h)"), P, "Conv LeakyRelu"),
        fold("prelu-mul", behind("p = PRelu (h, a)", a=(5, 1, 1)), P, "Conv PRelu"),
        fold("abs-mul", behind("p = Abs (h)"), P, "Abs Conv"),
        fold(
            "relu-max-pool-mul",
            behind(f"r = Relu (h) {MAXIMA.replace('(h)', '(r)')}", "2,5,10,12"),
            P,
            "Conv MaxPool Relu",
        ),
        fold("clip-mul", behind("p = Clip (h, lo, hi)", s=S, lo=np.float32(0), hi=np.float32(6)), P, "Clip Conv"),
        fold(
            "clip-add",
            behind("p = Clip (h, lo, hi)", op="y = Add (p, s)", s=S, lo=np.float32(-1), hi=np.float32(1)),
            P,
            "Clip Conv",
        ),
        fold("clip-of-attributes-mul", behind(SIX, opset=10, s=S), P, "Clip Conv", check=has_bound(6 * 0.3535)),
        fold("clip-of-attributes-add", behind(SIX, op="y = Add (p, s)", opset=10, s=S), P, "Clip Conv"),
        fold("clip-at-zero-mul-per-channel", behind("p = Clip (h, lo)", lo=np.float32(0)), P, "Clip Conv"),
        fold("clip-attribute-at-zero-mul-per-channel", behind("p = Clip <min = 0.0> (h)", opset=9), P, "Clip Conv"),
        fold(
            "clip-of-attributes-opset-6",
            behind(SIX, op="y = Mul <broadcast = 1> (p, s)", opset=6, s=S),
            P,
            "Clip Conv",
            ort=False,
        ),
        refuse(
            "clip-of-attributes-mul-per-channel", behind(SIX, opset=10), P, "varies", "Mul", behind(SIX, opset=10, s=S)
        ),
        refuse(
            "clip-of-attributes-negative-mul",
            behind(SIX, opset=10, s=-S),
            P,
            "negative-scale",
            "Mul",
            behind(SIX, opset=10, s=S),
        ),
        refuse(
            "clip-of-attributes-too-large",
            behind("p = Clip <max = 3e38> (h)", opset=10, s=np.float32(3)),
            P,
            "overflow",
            "Mul",
            behind("p = Clip <max = 3e37> (h)", opset=10, s=np.float32(3)),
        ),
        refuse(
            "clip-of-attributes-in-float64",
            wide(1.7),
            P,
            "rounding",
            "Mul",
            wide(0.5),
            ort=False,
        ),
        fold("gemm-scores-mul", gemm_scores("y = Mul (h, s)"), P, "Gemm Gemm Gemm"),
        fold("gemm-scores-of-inputs-div", GEMM_OF_INPUTS, P, "Gemm"),
        fold(
            "gemm-scores-with-mask-mul",
            gemm_scores("y = Mul (h, s)", "(float[7,3] x, float[7,7] m)", "(q, k, m)"),
            P,
            "Gemm Gemm Gemm",
        ),
        fold("gemm-scores-with-row-add", gemm_scores("y = Add (h, s)", "(float[7,3] x)", "(q, k, r)", r=(7,)), P, ""),
        refuse("gemm-scores-add", gemm_scores("y = Add (h, s)"), P, "bilinear", "Add", gemm_scores("y = Mul (h, s)")),
        fold("gemm-of-left-weight-mul", LEFT_GEMM, P, "Gemm"),
        fold(
            "einsum-with-dots-mul",
            net(DOTS, w=(3, 5), s=(5,)),
            P,
            "Einsum",
        ),
        fold(
            "einsum-without-arrow-mul",
            net(
                '(float[7,3] x) => (float[7,5] y) { h = Einsum <equation = "bi,io"> (x, w) y = Mul (h, s) }',
                w=(3, 5),
                s=(5,),
            ),
            P,
            "Einsum",
        ),
        refuse(
            "einsum-with-dots-that-the-weight-has-not",
            net(DOTS, w=(3, 5), s=(7, 1)),
            P,
            "not-per-channel",
            "Mul",
            net(DOTS, w=(3, 5), s=(5,)),
        ),
        fold("sum-of-three-with-a-constant", three("y = Sum (c, k, r)"), P, "Conv Conv Relu Sum"),
        refuse(
            "sum-of-three-read-elsewhere",
            three("y = Sum (c, k, r) z = Relu (c)", ", float[2,5,9,11] z"),
            P,
            "several-readers",
            "Sum",
            three("y = Sum (c, k, r)"),
        ),
        refuse(
            "sum-of-three-along-rows",
            three("y = Sum (c, k, r)", k=(9, 1)),
            P,
            "not-per-channel",
            "Sum",
            three("y = Sum (c, k, r)"),
        ),
        fold("max-of-two-mul", behind("c = Conv (x, w2) p = Max (h, c)", w2=(5, 3, 1, 1)), P, "Conv Conv Max"),
        fold(
            "embedding-mul",
            net("(int64[2,7] i) => (float[2,7,5] y) { e = Gather (w, i) y = Mul (e, s) }", w=(11, 5), s=S),
            P,
            "Gather",
        ),
        fold(
            "embedding-add",
            net("(int64[2,7] i) => (float[2,7,5] y) { e = Gather (w, i) y = Add (e, t) }", w=(11, 5), t=(5,)),
            P,
            "Gather",
        ),
        fold(
            "embedding-of-columns-mul",
            net(
                "(int64[7] i) => (float[11,7] y) { e = Gather <axis = 1> (w, i) y = Mul (e, s) }", w=(11, 5), s=(11, 1)
            ),
            P,
            "Gather",
        ),
        fold(
            "left-weight-mul",
            net("(float[2,3,11] x) => (float[2,5,11] y) { h = MatMul (w, x) y = Mul (h, s) }", w=(5, 3), s=(5, 1)),
            P,
            "MatMul",
        ),
        fold(
            "batched-weight-mul",
            net("(float[2,7,3] x) => (float[2,7,5] y) { h = MatMul (x, w) y = Mul (h, s) }", w=(2, 3, 5), s=(2, 1, 5)),
            P,
            "MatMul",
        ),
        fold(
            "einsum-mul",
            net(
                '(float[2,7,3] x) => (float[2,5,7] y) { h = Einsum <equation = "bti,oi->bot"> (x, w) y = Mul (h, s) }',
                w=(5, 3),
                s=(5, 1),
            ),
            P,
            "Einsum",
        ),
        fold(
            "scores-of-einsum-mul",
            net(SCORES, **PROJECTIONS, s=S),
            P,
            "MatMul MatMul Einsum",
        ),
        refuse(
            "rows-of-einsum-mul",
            net(SCORES.replace("->bij", "->jib"), **PROJECTIONS, s=(7, 1, 1)),  # the projection has no such rows
            P,
            "not-per-channel",
            "MatMul MatMul Einsum Mul",
            net(SCORES, **PROJECTIONS, s=S),
        ),
        refuse(
            "einsum-of-two-add",
            net(SCORES.replace("= Mul", "= Add"), **PROJECTIONS, s=S),
            P,
            "bilinear",
            "MatMul MatMul Einsum Add",
            net(SCORES, **PROJECTIONS, s=S),
        ),
        fold(
            "layer-norm-mul",
            net(
                "(float[2,7,5] x) => (float[2,7,5] y) { h = LayerNormalization (x, g, b) y = Mul (h, s) }",
                g=(5,),
                b=(5,),
                s=(5,),
            ),
            P,
            "LayerNormalization",
        ),
        fold(
            "layer-norm-without-bias-add",
            net(
                "(float[2,7,5] x) => (float[2,7,5] y) { h = LayerNormalization (x, g) y = Add (h, s) }", g=(5,), s=(5,)
            ),
            P,
            "LayerNormalization",
        ),
        fold(
            "group-norm-in-parts",
            net(
                "(float[2,6,5] x) => (float[2,6,5] y) { r = Reshape (x, n) h = InstanceNormalization (r, g, b) "
                "t = Transpose <perm = [1, 0, 2]> (h) y = Mul (t, s) }",
                n=ints(6, 2, 5),
                g=(2,),
                b=(2,),
                s=(2, 1, 1),
            ),
            P,
            "",
        ),
        fold(
            "mean-without-axes-kept-mul",
            behind("p = ReduceMean <axes = [2, 3], keepdims = 0> (h)", "2,5", s=(5,)),
            P,
            "Conv ReduceMean",
        ),
        fold(
            "where-mul",
            net(
                f"{X} => (float[2,5,11,13] y) {{ h = Conv (x, w, b) p = Where (c, h, z) y = Mul (p, s) }}",
                w=(5, 3, 1, 1),
                b=(5,),
                s=S,
                c=np.ones((11, 13), bool),
                z=np.float32(2),
            ),
            P,
            "Conv Where",
        ),
        refuse(
            "max-pool-of-relu-negative-mul",
            behind(f"r = Relu (h) {MAXIMA.replace('(h)', '(r)')}", "2,5,10,12", s=NEGATIVE),
            P,
            "negative-scale",
            "Mul",
            behind(f"r = Relu (h) {MAXIMA.replace('(h)', '(r)')}", "2,5,10,12"),
        ),
        refuse(
            "relu-negative-mul", behind("p = Relu (h)", s=NEGATIVE), P, "negative-scale", "Mul", behind("p = Relu (h)")
        ),
        refuse(
            "clip-per-channel-mul",
            behind("p = Clip (h, lo, hi)", lo=np.float32(0), hi=np.float32(6)),
            P,
            "varies",
            "Mul",
        ),
        refuse(
            "query-scale-read-elsewhere",
            packed(
                "y = Mul (q, s) z = Relu (q)",
                "(float[2,3,7,4] y, float[2,3,7,4] z, float[2,3,7,4] k, float[2,3,7,4] v)",
            ),
            P,
            "several-readers",
            "Mul",
            packed("y = Mul (q, s)"),
        ),
        refuse("score-shift", scores("z = Add (s0, m0) y = Relu (z)", m0=(7,)), P, "bilinear", "Add"),
        refuse(
            "overlapping-parts",
            net(
                f"{X} => (float[2,3,11,13] y, float[2,5,11,13] q) {{ h = Conv (x, w, b) p = Slice (h, s0, e, ax) "
                f"q = Slice (h, one, z, ax) y = Mul (p, s) }}",
                w=(7, 3, 1, 1),
                b=(7,),
                s0=ints(0),
                one=ints(2),
                e=ints(3),
                z=ints(7),
                ax=ints(1),
                s=(3, 1, 1),
            ),
            P,
            "several-readers",
            "Mul",
        ),
        refuse(
            "stretched-term",
            net(
                "(float[2,3,4,4] x) => (float[2,5,4,4] y) { h = Conv (x, w) c = Conv (x, u) d = Add "
                "(h, c) y = Mul (d, s) }",
                w=(5, 3, 1, 1),
                u=(1, 3, 1, 1),
                s=(5, 1, 1),
            ),
            P,
            "varies",
            "Mul",
        ),
        refuse(
            "inner-part-twice",
            net(
                f"{X} => (float[2,2,11,13] y) {{ h = Conv (x, w, b) p = Gather <axis = 1> (h, i) y = Mul (p, s) }}",
                w=(7, 3, 1, 1),
                b=(7,),
                i=ints(2, 2),
                s=np.float32([[[2]], [[3]]]),
            ),
            P,
            "varies",
            "Mul",
        ),
        refuse(
            "large-embedding-add",
            net(
                "(int64[2] i) => (float[2,1024] y) { e = Gather (w, i) y = Add (e, t) }",
                w=np.zeros((1025, 1024), np.float32),
                t=(1024,),
            ),
            P,
            "too-large",
            "Add",
        ),
    )


def test_a_scale_of_scores_that_others_read_stays() -> None:
    rest, more = "z = Div (s0, s) y = Softmax <axis = -1> (z)", " u = Tanh (s0)"
    shared = scores(rest + more, "(float[2,7,7] y, float[2,7,7] u)")()
    result = converter.fold(shared, verify=False)
    assert "Div" in [n.op_type for n in result.model.graph.node]
    assert {f.code for f in result.findings if f.node == "div_z"} == {"several-readers"}
    assert "Div" not in [n.op_type for n in converter.fold(scores(rest)(), verify=False).model.graph.node]


def test_a_factor_behind_a_norm_that_two_layers_read_passes_the_check() -> None:
    """It goes into the norm's gamma; the check, which reads it in the layers' weights, knows the norm's too."""
    text = """(float[2,7,5] x) => (float[2,7,6] y, float[2,7,4] z) { n = LayerNormalization (x, g, b)
        h = Mul (n, k) y = MatMul (h, w) z = MatMul (h, u) }"""
    result = converter.fold(net(text, g=(5,), b=(5,), k=(5,), w=(5, 6), u=(5, 4))())
    assert result.parity is not None
    assert (result.parity.verdict.value, result.parity.level) == ("PASS", "P")


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (fused("Relu"), "FusedConv"),
        (fused("LeakyRelu"), "FusedConv"),
        (fused("Relu", s=NEGATIVE), "FusedConv Mul"),
        (fused("Sigmoid"), "FusedConv Mul"),
        (fused("Relu", "(x, w, b, z)", ", float[2,5,9,11] z"), "FusedConv Mul"),
    ],
    ids=["relu", "leaky", "negative", "sigmoid", "sum"],
)
def test_a_positive_factor_passes_the_rectifier_of_a_fused_layer(build: Build, left: str) -> None:
    result = converter.fold(build())
    assert_ops(result.model, left)
    assert result.parity is not None
    assert result.parity.verdict.value == "PASS"
    assert any(f.code for f in result.findings) == ("Mul" in left)
