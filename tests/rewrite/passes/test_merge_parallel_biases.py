"""The biases of two layers that are added become one: its rows."""

from __future__ import annotations

import pytest

import converter
from converter.records import Verdict
from tests.rewrite.passes.walk import PassRows
from tests.tiny import Draw, model


class TestMergeParallelBiases(PassRows):
    name = "merge-parallel-biases"
    folds = "parallel-convs"
    declines = """
        overridable: parallel-convs-overridable
        weight-shared: parallel-convs-no-growth
    """


@pytest.mark.parametrize("order", ["a, c", "c, a"])
def test_biases_of_a_difference_become_one(order: str) -> None:
    draw = Draw()
    text = (
        "(float[2,3,8,8] x, float[2,3,8,8] z) => (float[2,5,6,6] y) "
        f"{{ a = Conv(x,w,b) c = Conv(z,w2,b2) d = Sub({order}) y = Abs(d) }}"
    )
    consts = draw.conv(5, 3, 3, 3, bias=5) | draw.conv(5, 3, 3, 3, bias=5, tag="2")
    result = converter.fold(model(text, consts))
    assert result.after.biases == 1
    assert result.parity is not None
    assert (result.parity.verdict, result.parity.level) == (Verdict.PASS, "P"), result.parity.why
