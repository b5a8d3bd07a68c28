"""A bias that is computed as the model runs goes away where a norm subtracts it again."""

from __future__ import annotations

import numpy as np

from tests.cases.case import Build, fold, refuse
from tests.cases.quantized_layers import net
from tests.harness import assert_left_alone
from tests.rewrite.passes.walk import PassRows

NAME = "drop-run-time-bias"
TYPES = "(float[2,3,11,13] x) => (float[2,5,9,12] y)"
ITS_OWN = "d = Div (b, sw) e = Floor (d) n = Cast <to = 6> (e) r = Reshape (n, rs)"
INTEGERS = "q, s, z = DynamicQuantizeLinear (x) sw = Mul (s, s1) i = ConvInteger (q, wq, z, z1)"
BY_HAND = "u = ReduceMean <axes = [2, 3]> (p) c = Sub (p, u) y = Tanh (c)"
NORM = "y = InstanceNormalization (p, g, be)"
LEFT = "DynamicQuantizeLinear Mul ConvInteger Cast Mul"


def quantized(end: str) -> Build:
    """ConvInteger, a bias that is quantized at run time, and an end."""
    chain = f"{INTEGERS} {ITS_OWN} a = Add (i, r) f = Cast <to = 1> (a) p = Mul (f, sw) {end}"
    return net(f"{TYPES} {{ {chain} }}", rs=np.array([1, 5, 1, 1]))


def computed(end: str, bias: str = "float[2,5,1,1] t", x: str = "2,3,11,13") -> Build:
    """Conv with float weights, and a bias that is an input by its own way (a time embedding), and an end."""
    text = f"(float[{x}] x, {bias}) => (float[2,5,9,12] y) {{ h = Conv (x, w) k = Tanh (t) p = Add (h, k) {end} }}"
    return net(text, w=np.random.default_rng(3).standard_normal((5, 3, 3, 2)).astype(np.float32))


TWO_READERS = computed(f"{BY_HAND.replace('y = Tanh (c)', 'o = Tanh (c)')} y = Add (o, p)")


class TestDropRunTimeBias(PassRows):
    name = NAME
    own = (
        fold("quantized-at-run-time", quantized(BY_HAND), NAME, f"{LEFT} ReduceMean Sub Tanh"),
        fold("quantized-before-norm", quantized(NORM), NAME, f"{LEFT} InstanceNormalization"),
        fold("embedding-before-norm", computed(NORM), NAME, "Conv InstanceNormalization"),
        fold("embedding-by-hand", computed(BY_HAND), NAME, "Conv ReduceMean Sub Tanh"),
        refuse(
            "bias-may-enlarge",
            computed(NORM, x="n,3,11,13"),
            NAME,
            "enlarges",
            "Conv Tanh Add InstanceNormalization",
            computed(NORM),
        ),
    )


def test_a_bias_that_is_felt_stays() -> None:
    """Of the value itself, of another mean, and of one that varies where the mean is taken."""
    felt = "Conv Tanh Add ReduceMean Sub Tanh"
    assert_left_alone(TWO_READERS(), f"{felt} Add")
    assert_left_alone(computed(BY_HAND.replace("[2, 3]", "[1]"))(), felt)
    assert_left_alone(computed(BY_HAND, "float[2,5,9,1] t")(), felt)
    assert_left_alone(
        computed("u = ReduceMean <axes = [2, 3]> (p) c = Sub (p, u) k2 = Neg (p) y = Sub (k2, u)")(), "Conv"
    )
