"""A product of two matrices with a bias becomes one Gemm."""

from __future__ import annotations

import pytest

from tests.cases.case import fold, inputs_of, refuse
from tests.cases.unusual_models import graph
from tests.harness import assert_left_alone
from tests.rewrite.passes.walk import PassRows
from tests.tiny import as_inputs

NAME = "normalise-gemm"


def product(add: str, x: str = "7,3", opset: int = 17, b: tuple[int, ...] = (5,)):  # type: ignore[no-untyped-def]
    """Return Relu, MatMul by [3, 5] (to p), and ``add`` (to y)."""
    y = x.removesuffix("3") + "5"
    text = f"(float[{x}] x) => (float[{y}] y) {{ r = Relu (x) p = MatMul (r, w) {add} }}"
    return graph(text, opset, w=(3, 5), b=b)


PLAIN = product("y = Add (p, b)")


class TestNormaliseGemm(PassRows):
    name = NAME
    own = (
        fold("matmul-add", PLAIN, NAME, "Relu Gemm", check=inputs_of("Gemm", 3)),
        fold("matmul-add-const-first", product("y = Add (b, p)"), NAME, "Relu Gemm"),
        fold("matmul-add-row", product("y = Add (p, b)", b=(1, 5)), NAME, "Relu Gemm"),
        fold("matmul-add-opset-11", product("y = Add (p, b)", opset=11), NAME, "Relu Gemm"),
        refuse("b-overridable", lambda: as_inputs(PLAIN(), "b"), NAME, "overridable", "MatMul Add", PLAIN),
    )


@pytest.mark.parametrize("proto", [product("y = Add (p, b)", "2,7,3")(), product("y = Add (p, b)", opset=9)()])
def test_more_axes_and_old_opsets_stay(proto) -> None:  # type: ignore[no-untyped-def]
    assert_left_alone(proto, "MatMul Add")
