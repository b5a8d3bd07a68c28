"""Arithmetic with a constant goes upstream into all that makes its input: its rows."""

from __future__ import annotations

import numpy as np

import converter
from tests.cases.case import fold, refuse
from tests.rewrite.passes.moved_maps import Build, ints, net
from tests.rewrite.passes.walk import PassRows

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


def behind(middle: str, y: str = "2,5,11,13", op: str = "y = Mul (p, s)", **more: object) -> Build:
    """Conv, something, then arithmetic."""
    consts = {"w": (5, 3, 1, 1), "b": (5,), "s": (5, 1, 1)} | more
    return net(f"{X} => (float[{y}] y) {{ h = Conv (x, w, b) {middle} {op} }}", positive="s", **consts)


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
