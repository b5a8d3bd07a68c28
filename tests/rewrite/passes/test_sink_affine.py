"""Arithmetic with a constant goes downstream into all that reads it: its rows."""

from __future__ import annotations

import numpy as np

from tests.cases.case import fold, refuse
from tests.rewrite.passes.moved_maps import Build, ints, net
from tests.rewrite.passes.walk import PassRows

P = "sink-affine"
X = "(float[2,3,11,13] x)"
Q = "(float[2,7,12] x)"
QKV = {"w1": (12, 5), "w2": (12, 4), "b1": (5,), "b2": (4,)}


def two(head: str, rest: str = "", more_out: str = "", **more: object) -> Build:
    """Arithmetic before two matrix products with biases."""
    body = "a = MatMul (h, w1) y = Add (a, b1) c = MatMul (h, w2) z = Add (c, b2)"
    outputs = f"(float[2,7,5] y, float[2,7,4] z{more_out})"
    return net(f"{Q} => {outputs} {{ {head} {body} {rest} }}", **(QKV | more))


PADDING = 'p = Pad <mode = "MODE"> (h, n) y = Conv (p, w, b)'
PADDED = f"{X} => (float[2,5,13,15] y) {{ h0 = Mul (x, s) h = Add (h0, t) {PADDING} }}"
REFLECT = {"s": (3, 1, 1), "t": (3, 1, 1), "w": (5, 3, 1, 1), "b": (5,), "n": ints(0, 0, 1, 1, 0, 0, 1, 1)}


class TestSinkAffine(PassRows):
    name = P
    own = (
        fold("mul-two-products", two("h = Mul (x, s)", s=(12,)), P, "Add Add MatMul MatMul"),
        fold("add-two-products", two("h = Add (x, s)", s=(12,)), P, "Add Add MatMul MatMul"),
        fold("sub-from-two-products", two("h = Sub (s, x)", s=(12,)), P, "Add Add MatMul MatMul"),
        fold("affine-reflect-conv", net(PADDED.replace("MODE", "reflect"), **REFLECT), P, "Conv Pad"),
        fold("affine-edge-conv", net(PADDED.replace("MODE", "edge"), **REFLECT), P, "Conv Pad"),
        fold(
            "mul-left-weight",
            net(
                "(float[2,3,11] x) => (float[2,5,11] y, float[2,4,11] z) "
                "{ h = Mul (x, s) y = MatMul (w, h) z = MatMul (v, h) }",
                s=(3, 1),
                w=(5, 3),
                v=(4, 3),
            ),
            P,
            "MatMul MatMul",
        ),
        fold(
            "mul-einsum",
            net(
                '(float[2,7,3] x) => (float[2,5,7] y) { h = Mul (x, s) y = Einsum <equation = "bti,oi->bot"> (h, w) }',
                s=(3,),
                w=(5, 3),
            ),
            P,
            "Einsum",
        ),
        fold(
            "mul-relu-conv",
            net(
                f"{X} => (float[2,5,11,13] y) {{ h = Mul (x, s) r = Relu (h) y = Conv (r, w, b) }}",
                positive="s",
                s=(3, 1, 1),
                w=(5, 3, 1, 1),
                b=(5,),
            ),
            P,
            "Conv Relu",
        ),
        fold(
            "scale-and-a-constant-factor",
            two("h = Mul (x, s)", "u = Mul (h, f)", ", float[2,7,12] u", s=np.float32(0.25), f=(12,)),
            P,
            "Add Add MatMul MatMul Mul",
        ),
        refuse(
            "mul-read-by-tanh",
            two("h = Mul (x, s)", "u = Tanh (h)", ", float[2,7,12] u", s=(12,)),
            P,
            "stops",
            "Mul",
            two("h = Mul (x, s)", s=(12,)),
        ),
        refuse(
            "add-zero-padded-conv",
            net(
                f"{X} => (float[2,5,13,15] y, float[2,4,11,13] z) {{ h = Add (x, t) p = Pad (h, n) y "
                f"= Conv (p, w, b) z = Conv (h, v) }}",
                **REFLECT | {"v": (4, 3, 1, 1), "s": np.float32(1)},
            ),
            P,
            "padded-shift",
            "Add",
        ),
        refuse(
            "add-left-weight",
            net(
                "(float[2,3,11] x) => (float[2,5,11] y, float[2,4,11] z) "
                "{ h = Add (x, s) y = MatMul (w, h) z = MatMul (v, h) }",
                s=(3, 1),
                w=(5, 3),
                v=(4, 3),
            ),
            P,
            "no-bias-slot",
            "Add",
        ),
        refuse("mul-along-rows", two("h = Mul (x, s)", s=(7, 1)), P, "not-per-channel", "Mul"),
    )
