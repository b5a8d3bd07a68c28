"""The bias of a LayerNormalization goes into the biases of all layers that read it: its rows."""

from __future__ import annotations

from tests.cases.case import fold, inputs_of, refuse
from tests.rewrite.passes.moved_maps import Build, net
from tests.rewrite.passes.walk import PassRows

P = "sink-norm-bias"
IN = "(float[2,7,12] x)"


def projections(rest: str = "", more: str = "", third: str = "k = Add (c, b2)", **consts: object) -> Build:
    """A norm before two projections with biases."""
    held = {"n": (12,), "t": (12,), "w1": (12, 5), "b1": (5,), "w2": (12, 4), "b2": (4,)} | consts
    text = (
        f"{IN} => (float[2,7,5] q, float[2,7,4] k{more}) {{ h = LayerNormalization (x, n, t) a = MatMul (h, w1) "
        f"q = Add (a, b1) c = MatMul (h, w2) {third} {rest} }}"
    )
    return net(text, **held)


class TestSinkNormBias(PassRows):
    name = P
    own = (
        fold(
            "norm-two-projections",
            projections(),
            P,
            "Add Add LayerNormalization MatMul MatMul",
            check=inputs_of("LayerNormalization", 2),
        ),
        fold("norm-and-its-shape", projections("s = Shape (h)", ", int64[3] s"), P, ""),
        fold(
            "norm-of-two-axes",
            net(
                f"{IN} => (float[2,5] y) {{ h = LayerNormalization <axis = 1> (x, n, t) f = Flatten (h) "
                "y = Gemm (f, w, b) }",
                n=(7, 12),
                t=(7, 12),
                w=(84, 5),
                b=(5,),
            ),
            P,
            "Flatten Gemm LayerNormalization",
        ),
        refuse("norm-and-residual", projections("z = Add (h, x)", ", float[2,7,12] z"), P, "stops", "", projections()),
        refuse("norm-and-layer-without-bias", projections(third="k = Relu (c)"), P, "model-grows", "", projections()),
        refuse(
            "norm-and-matrix-without-bias",
            net(
                "(float[7,12] x) => (float[7,5] y, float[7,4] z) { h = LayerNormalization (x, n, t) y = Gemm (h, w, b) "
                "z = Gemm (h, v) }",
                n=(12,),
                t=(12,),
                w=(12, 5),
                b=(5,),
                v=(12, 4),
            ),
            P,
            "model-grows",
            "",
        ),
        refuse("norm-is-output", projections(more=", float[2,7,12] h"), P, "output-is-graph-output", "", projections()),
    )
