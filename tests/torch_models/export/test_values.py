"""The referee's rule between torch and onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from converter.records import OutputCheck, Verdict
from converter.referee.verify.outputs import judge_exact, judge_values

N = 4000
EXACT = np.random.default_rng(0).standard_normal(N)
NOISE = np.random.default_rng(1).standard_normal(N)


def judged(error_before: float, error_after: float, n: int = N, exact: bool = True) -> OutputCheck:
    before = (EXACT + error_before * NOISE)[:n].astype(np.float32)
    after = (EXACT - error_after * NOISE)[:n].astype(np.float32)
    return judge_values("y", [before], [after], [EXACT[:n]] if exact else None)


@pytest.mark.parametrize(
    ("times", "n", "verdict"),
    [
        (1.0, N, Verdict.PASS),
        (2.9, N, Verdict.PASS),
        (3.2, N, Verdict.INCONCLUSIVE),
        (4.8, 900, Verdict.PASS),  # noise dominates the ratio of few numbers
        (5.2, 900, Verdict.INCONCLUSIVE),
        (9.8, N, Verdict.INCONCLUSIVE),
        (10.3, N, Verdict.FAIL),
    ],
)
def test_error_over_torch_s_own(times: float, n: int, verdict: Verdict) -> None:
    check = judged(1e-5, times * 1e-5, n)
    assert check.status is verdict
    assert check.score == pytest.approx(times, rel=1e-2)


def test_eight_units_pass_whatever_the_ratio() -> None:
    assert judged(1e-9, 6 * 2.0**-24).status is Verdict.PASS
    assert judged(0.0, 12 * 2.0**-24).status is not Verdict.PASS


def test_a_reference_far_from_torch_is_not_trusted() -> None:
    check = judged(2e-3, 2e-3)
    assert check.status is Verdict.INCONCLUSIVE
    assert check.detail["note"] == "no float64 reference"


def test_without_a_reference_only_the_last_bits_may_differ() -> None:
    assert judged(0.0, 4 * 2.0**-24, exact=False).status is Verdict.PASS
    assert judged(0.0, 12 * 2.0**-24, exact=False).status is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("exact", [True, False])
def test_integers_must_be_the_same(exact: bool) -> None:
    before: Any = np.arange(50)
    reference = [before] if exact else None
    assert judge_values("y", [before], [before.copy()], reference).status is Verdict.PASS
    check = judge_values("y", [before], [before + (before == 7)], reference)
    assert check.status is Verdict.FAIL
    assert check.why == "1 of 50 integers differ"


def test_ties_may_fall_either_way() -> None:
    exact, torch, onnx = (np.zeros(9, np.int64) for _ in range(3))
    torch[3] = onnx[5] = 1
    assert judge_values("y", [torch], [onnx], [exact]).status is Verdict.PASS


def test_shapes_types_and_nan() -> None:
    x = np.ones((2, 3), np.float32)
    assert "shape [2, 3] became [3, 2]" in judge_values("y", [x], [x.T], [x]).why
    assert judge_values("y", [x], [x.astype(np.int64)], [x]).status is Verdict.FAIL
    bad = x.copy()
    bad[0, 0] = np.nan
    assert judge_values("y", [x], [bad], [x]).status is Verdict.FAIL
    nothing = np.full(3, np.nan, np.float32)
    assert judge_values("y", [nothing], [nothing], [nothing]).status is Verdict.INCONCLUSIVE


def test_float64_alone() -> None:
    assert judge_exact("y", [EXACT], [EXACT * (1 + 1e-12)]).status is Verdict.PASS
    assert judge_exact("y", [EXACT], [EXACT * (1 + 1e-6)]).status is Verdict.FAIL
    assert judge_exact("y", [EXACT], [EXACT[:5]]).status is Verdict.FAIL
    assert judge_exact("y", [np.arange(3)], [np.arange(3) + 1]).status is Verdict.FAIL
