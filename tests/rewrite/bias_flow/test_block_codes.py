"""Each code that stops a shift has a case of a rule, or a model, that meets it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import converter
from converter.rewrite.bias_flow.shift import Block
from converter.rewrite.passes.reasons import FLOW
from tests.rewrite.bias_flow.judge import model
from tests.rewrite.bias_flow.rules.cases import CASES
from tests.rewrite.bias_flow.rules.cases_traps import TRAPS

X = "double[2,3,6,7] x"
CONV: dict[str, Any] = {"w": (4, 3, 1, 1), "b": (4,)}
MODELS: dict[str, onnx.ModelProto] = {
    "axes": model(f"({X}, int64[1] a) => (double[?,?,?,?] y) {{ h = Conv(x, w, b) y = ReduceMean(h, a) }}", 18, **CONV),
    "concat": model(
        f"({X}, double[2,N,6,7] r) => (double[2,M,6,7] y) {{ h = Conv(x, w, b) y = Concat<axis = 1>(h, r) }}", **CONV
    ),
    "masked": model(
        f"({X}, bool[6,7] m) => (double[2,4,6,7] y) {{ h = Conv(x, w, b) s = Where(m, h, no) y = Neg(s) }}",
        **CONV,
        no=np.array(-np.inf),
    ),
    "split": model(
        f"({X}, int64[2] n) => (double[2,A,6,7] y, double[2,B,6,7] z) {{"
        " h = Conv(x, w, b) y, z = Split<axis = 1>(h, n) }",
        **CONV,
    ),
    "grouped-heads": model(
        "(double[2,3,6,7] x, double[2,H,6,7] q, double[2,4,6,7] k) => (double[2,H,6,7] y) {"
        " h = Conv(x, w, b) y = Attention(q, k, h) }",
        23,
        **CONV,
    ),
    "shapes": model(
        f"({X}) => (double[2,4,6,7] y) {{ h = Conv(x, w, b) r = Identity(h) y = Mul(r, c) }}", c=(5, 1, 1), **CONV
    ),
    "too-large": model(
        "(double[1,3,512,512] x) => (double[1,4,512,512] y) { h = Conv(x, w, b) y = Mul(h, c) }",
        c=(4, 512, 512),
        **CONV,
    ),
    "unknown-operator": model(f"({X}) => (double[2,4,6,7] y) {{ h = Conv(x, w, b) y = Trilu(h) }}", **CONV),
}
# What a run says of a bias, not a rule of a shift: see test_fates.
OF_FATES = {"not-asked", "recurrent-gates", "unread"}


@pytest.mark.parametrize("code", MODELS)
def test_stays_with_its_code(code: str) -> None:
    (fate,) = converter.fold(MODELS[code], verify=False).fates
    assert fate.code == code
    assert fate.why


def test_every_code_of_the_flow_is_met() -> None:
    met = set(MODELS) | OF_FATES
    for case in (*CASES, *TRAPS):
        for varying in case.patterns():
            shifts = case.shifts(varying)
            outcomes = (case.asked(shifts, blind) for blind in (False, True))
            met |= {outcome.code for outcome in outcomes if isinstance(outcome, Block)}
    assert set(FLOW) - met == set()
