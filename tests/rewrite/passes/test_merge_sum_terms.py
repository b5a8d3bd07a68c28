"""The constants of one sum become one: its rows, and what becomes of that one."""

from __future__ import annotations

import numpy as np

import converter
from tests.cases.case import fold, refuse
from tests.harness import assert_ops
from tests.rewrite.passes.moved_maps import Build, net
from tests.rewrite.passes.walk import PassRows
from tests.tiny import as_inputs

P = "merge-sum-terms"
LARGE = np.float32(2.0**23)


def sums(text: str, **consts: object) -> Build:
    """Two computed tensors, x squared and |x|, and a sum."""
    held = {"k": (5, 1), "l": (1, 5, 7)} | consts
    return net(f"(float[2,5,7] x) => (float[2,5,7] y) {{ a = Mul (x, x) b = Abs (x) {text} }}", **held)


def overridable() -> object:
    return as_inputs(sums("y = Sum (k, a, b, l)")(), "l")


class TestMergeSumTerms(PassRows):
    name = P
    own = (
        fold("two-constants-first-and-last", sums("y = Sum (k, a, b, l)"), P, "Mul Abs Sum"),
        fold("three-constants", sums("y = Sum (k, a, n, b, l)", n=np.float32(3)), P, "Mul Abs Sum"),
        fold("beside-one-tensor", sums("y = Sum (l, a, k)"), P, "Mul Sum"),
        refuse(
            "constants-that-grow-together",
            sums("y = Sum (k, a, b, l)", l=(1, 1, 7)),
            P,
            "model-grows",
            "Sum",
            sums("y = Sum (k, a, b, l)"),
        ),
        refuse("sum-term-overridable", overridable, P, "overridable", "Sum"),  # type: ignore[arg-type]
        refuse(
            "sum-that-rounds",
            sums("y = Sum (n, a, b, k)", n=LARGE),
            P,
            "rounding-add",
            "Sum",
            sums("y = Sum (n, a, b, k)", n=np.float32(2)),
        ),
        refuse(
            "sum-of-no-number",
            sums("y = Sum (n, a, b, k)", n=np.float32(np.nan)),
            P,
            "not-finite",
            "Sum",
            sums("y = Sum (n, a, b, k)", n=np.float32(2)),
        ),
    )


CONV = "(float[2,3,11,13] x) => (float[2,5,9,11] y) { c = Conv (x, w)"


def test_a_sum_of_a_layer_and_constants_becomes_its_bias() -> None:
    model = net(f"{CONV} y = Sum (k, c, l) }}", w=(5, 3, 3, 3), k=(5, 1, 1), l=(1, 5, 1, 1))()
    result = converter.fold(model)
    assert_ops(result.model, "Conv")
    assert result.parity is not None
    assert result.parity.verdict.value == "PASS"


def test_a_sum_of_one_term_goes() -> None:
    result = converter.fold(net(f"{CONV} y = Sum (c) }}", w=(5, 3, 3, 3))())
    assert_ops(result.model, "Conv")
    assert [r.pass_name for r in result.rewrites] == ["drop-identity-affine"]
