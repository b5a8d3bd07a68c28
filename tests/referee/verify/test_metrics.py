"""The usual measures, by hand."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from converter.errors import DataError
from converter.records import OutputCheck, Verdict
from converter.referee.verify.metrics import Tolerance, apply_tolerances, check_tolerances, compute_metrics


def test_measures_by_hand() -> None:
    a, b = np.float32([1, -2, 0.1, 4]), np.float32([1, -2.5, 0.3, 4])
    found, histogram = compute_metrics([(a, b)])
    assert found["max_abs"] == pytest.approx(0.5)
    assert found["mean_abs"] == pytest.approx(0.7 / 4)
    assert found["max_rel"] == pytest.approx(0.25)  # 0.1 is below a tenth of the largest
    assert found["cosine"] == pytest.approx(22.03 / math.sqrt(21.01 * 23.34), rel=1e-6)
    assert found["snr_db"] == pytest.approx(10 * math.log10(21.01 / 0.29), rel=1e-5)
    assert found["p99_abs"] == pytest.approx(np.quantile([0, 0.5, 0.2, 0], 0.99), rel=1e-6)
    assert histogram["zeros"] == 2
    assert sum(histogram["counts"]) == 2
    at = next(k for k, n in enumerate(histogram["counts"]) if n)
    assert (
        histogram["low"] + at * histogram["step"] <= math.log10(0.2) < histogram["low"] + (at + 1) * histogram["step"]
    )


def test_runs_add_up() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 60)).astype(np.float32)
    whole, parts = compute_metrics([(a, b)]), compute_metrics([(a[:20], b[:20]), (a[20:], b[20:])])
    assert whole[0] == pytest.approx(parts[0])
    assert whole[1] == parts[1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_steps_between_neighbours(dtype: type) -> None:
    x = np.array([1.0, -1.0, 0.0, 3.0], dtype)
    y = np.nextafter(x, np.array(9, dtype))
    assert compute_metrics([(x, y)])[0]["max_ulp"] == 1
    assert compute_metrics([(x, x)])[0]["max_ulp"] == 0
    assert compute_metrics([(np.array([0.0], dtype), np.array([-0.0], dtype))])[0]["max_ulp"] == 0


def test_equal_outputs() -> None:
    found, _ = compute_metrics([(np.ones(3, np.float32), np.ones(3, np.float32))])
    assert (found["max_abs"], found["cosine"], found["snr_db"]) == (0, 1, math.inf)


def test_only_what_is_finite_is_measured() -> None:
    a, b = np.float32([np.nan, np.inf, 1]), np.float32([np.nan, np.inf, 1.5])
    assert compute_metrics([(a, b)])[0]["max_abs"] == 0.5
    assert compute_metrics([(a[:2], b[:2])]) == ({}, {})
    assert compute_metrics([(np.arange(3), np.arange(3))]) == ({}, {})


@pytest.mark.parametrize(
    ("metric", "value", "passes"),
    [("max_abs", 0.5, True), ("max_abs", 0.4, False), ("cosine", 0.9, True), ("cosine", 0.999999, False)],
)
def test_tolerances_gate(metric: str, value: float, passes: bool) -> None:
    measures = {"max_abs": 0.5, "cosine": 0.99}
    for output in ("", "y"):
        check = apply_tolerances(OutputCheck("y", Verdict.PASS), measures, [Tolerance(output, metric, value)])
        assert (check.status is Verdict.PASS) is passes
        assert passes or metric in check.why
    assert (
        apply_tolerances(OutputCheck("y", Verdict.PASS), measures, [Tolerance("z", metric, value)]).status
        is Verdict.PASS
    )


def test_a_tolerance_is_of_something() -> None:
    check_tolerances([Tolerance("", "max_abs", 1), Tolerance("y", "cosine", 1)], ["y"])
    with pytest.raises(DataError, match="max_ab"):
        check_tolerances([Tolerance("", "max_ab", 1)], ["y"])
    with pytest.raises(DataError, match="'z'"):
        check_tolerances([Tolerance("z", "max_abs", 1)], ["y"])


def test_differences_are_sorted_by_the_size_of_the_value() -> None:
    a = np.array([0.0, 1.5, 200.0, 200.0, 1e-30, 1e30])
    b = a + np.array([1.0, 2e-3, 0.0, 0.2, 1e-20, 1e20])
    _, histogram = compute_metrics([(a, b)])
    sizes, step = histogram["by_size"], histogram["step"]
    cells = {(sizes["low"] + x * step, histogram["low"] + y * step): n for x, y, n in sizes["cells"]}
    # what does not differ has no place; what is out of range, a value of zero too, is at the edge
    assert cells == {(0.0, -3.0): 1, (2.0, -1.0): 1, (5.5, 3.5): 1, (-10.0, 0.0): 1, (-10.0, -16.0): 1}


def test_many_elements_are_thinned_before_they_are_sorted_by_size() -> None:
    a = np.ones((1 << 20) + 8)
    _, histogram = compute_metrics([(a, a + 1e-3)])
    (cell,) = histogram["by_size"]["cells"]
    assert 1 << 19 <= cell[2] <= 1 << 20


def test_rows_of_which_the_first_class_is_the_same_are_counted() -> None:
    x = np.float32([[1, 2, 3], [3, 2, 1], [1, 3, 2]])
    y = np.float32([[1, 2, 3], [3, 2, 1], [3, 1, 2]])
    assert {k: v for k, v in compute_metrics([(x, y), (x, x)])[0].items() if "top1" in k} == {
        "top1_rows": 6.0,
        "top1_same": 5.0,
    }
    for other in (x[:, :1], x[0], x[None], x.astype(np.int32)):  # no scores of classes
        assert "top1_rows" not in compute_metrics([(other, other)])[0]
