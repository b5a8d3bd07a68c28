"""A bias on both sides of a difference goes away: its rows."""

from __future__ import annotations

from tests.cases.case import fold, inputs_of, refuse
from tests.rewrite.passes.moved_maps import Build, net
from tests.rewrite.passes.walk import PassRows

P = "cancel-bias-in-difference"
IN = "(float[2,3,11,13] x, float[2,3,11,13] z)"


def siamese(
    first: str, second: str = "b", middle: str = "p = Identity (a) q = Identity (c)", y: str = "2,5,11,13"
) -> Build:
    """The same layer twice, and the difference of what both give."""
    text = f"{IN} => (float[{y}] y) {{ a = Conv (x, w, {first}) c = Conv (z, w, {second}) {middle} y = Sub (p, q) }}"
    return net(text, w=(5, 3, 1, 1), b=(5,), d=(5,))


POOLED = "p = GlobalAveragePool (a) q = GlobalAveragePool (c)"


class TestCancelBiasInDifference(PassRows):
    name = P
    own = (
        fold("siamese-conv", siamese("b"), P, "Conv Conv Identity Identity Sub", check=inputs_of("Conv", 2)),
        fold("siamese-pooled", siamese("b", middle=POOLED, y="2,5,1,1"), P, "", check=inputs_of("Conv", 2)),
        fold(
            "siamese-product",
            net(
                "(float[2,3] x, float[2,3] z) => (float[2,5] y) { a = MatMul (x, w) p = Add (a, b) c = MatMul (z, w) "
                "q = Add (b, c) y = Sub (p, q) }",
                w=(3, 5),
                b=(5,),
            ),
            P,
            "MatMul MatMul Sub",
        ),
        refuse(
            "siamese-read-elsewhere",
            net(
                f"{IN} => (float[2,5,11,13] y, float[2,5,11,13] u) {{ a = Conv (x, w, b) "
                "c = Conv (z, w, b) y = Sub (a, c) "
                "u = Relu (a) }",
                w=(5, 3, 1, 1),
                b=(5,),
            ),
            P,
            "several-readers",
            "Conv Conv",
        ),
    )
