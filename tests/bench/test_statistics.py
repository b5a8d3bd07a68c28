"""Intervals: known values, the choice of the unit, and how often a slower model would pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from converter.bench.design import EXTENSION, MOST_BLOCKS, Design, Gate, conclude_outcome
from converter.bench.interleaved import is_narrow, is_steady
from converter.stats import bound_quantile, compare_sessions, estimate_interval, measure_robustness

MARGIN = 0.02
SLOWER = math.log1p(MARGIN)  # at the margin itself: passing is wrong here
SESSIONS, BLOCKS, PAIRS = 5, 4, 20
Rng = np.random.Generator


def test_over_blocks_it_is_the_t_interval() -> None:
    values = np.random.default_rng(1).normal(0, 0.01, 12)
    found = estimate_interval(values, [0] * 12, 0.05)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.unit, found.n) == ("block", 12)
    assert found.theta == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert estimate_interval(values, [0] * 12, 0.01).half_width > found.half_width


def test_sessions_that_differ_are_the_unit() -> None:
    rng = np.random.default_rng(2)
    sessions = np.repeat(range(5), 4)
    values = rng.normal(0, 0.001, 20) + rng.normal(0, 0.02, 5)[sessions]
    found = estimate_interval(values, sessions, 0.05)
    means = values.reshape(5, 4).mean(1)
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.9)
    assert (found.unit, found.n) == ("session", 5)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.icc > 0.9


def test_sessions_that_agree_are_pooled() -> None:
    values = np.tile([-0.01, 0.0, 0.01, 0.002], 5)
    found = estimate_interval(values, np.repeat(range(5), 4), 0.05)
    assert (found.unit, found.n, found.icc) == ("block", 20, 0.0)


def test_two_sessions_cannot_tell_whether_they_differ() -> None:
    """Between them the wider interval is taken, whatever the test says."""
    values = np.array([0.013, -0.007, 0.013, -0.007, 0.007, -0.013, 0.007, -0.013])
    groups = np.repeat([0, 1], 4)
    p, icc = compare_sessions(values, groups)
    assert p > 0.25
    assert icc < 0.3
    assert estimate_interval(values, groups).half_width > 2 * estimate_interval(values, [0] * 8).half_width


def test_sessions_are_pooled_only_where_little_speaks_for_a_difference() -> None:
    """A test at 5 % would pool these."""
    groups = np.repeat(range(10), 4)
    values = np.tile([-0.01, 0.01, -0.01, 0.01], 10) + 0.0068 * np.tile(np.repeat([-1.0, 1.0], 4), 5)
    found = estimate_interval(values, groups)
    assert found.p_sessions is not None
    assert 0.05 < found.p_sessions < 0.25
    assert found.icc < 0.3
    assert found.unit == "session"


def test_the_f_test() -> None:
    rng = np.random.default_rng(3)
    values, groups = rng.normal(0, 1, 11), np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    p, icc = compare_sessions(values, groups)
    assert p == pytest.approx(stats.f_oneway(*(values[groups == g] for g in range(3))).pvalue)
    assert 0 <= icc <= 1
    assert compare_sessions(np.array([1.0, 1, 2, 2]), np.array([0, 0, 1, 1])) == (0.0, 1.0)
    assert compare_sessions(np.ones(4), np.array([0, 0, 1, 1])) == (1.0, 0.0)


@pytest.mark.parametrize("values", [[], [0.1]])
def test_too_few_decide_nothing(values: list[float]) -> None:
    found = estimate_interval(values, range(len(values)))
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert conclude_outcome(found.low, found.high, MARGIN, Gate()) == "INCONCLUSIVE"


def noisy(
    rng: Rng, n: int, theta: float, *, own: float, shared: float, rho: float, drift: float, layout: float
) -> np.ndarray:
    """Log-ratios of ``n`` experiments, from single times: shape (n, sessions * blocks)."""
    runs = SESSIONS * BLOCKS * PAIRS * 2
    phase = np.empty((n, runs))
    state = rng.normal(0, shared, n)
    for k in range(runs):
        state = rho * state + math.sqrt(1 - rho**2) * rng.normal(0, shared, n)
        phase[:, k] = state
    times = phase + rng.normal(0, own, (n, runs)) + drift * np.linspace(0, 1, runs) ** 2
    times = times.reshape(n, SESSIONS, BLOCKS, PAIRS, 2)
    first = rng.integers(0, 2, (n, SESSIONS, BLOCKS, PAIRS, 1))
    a = np.take_along_axis(times, first, 4)[..., 0]
    b = np.take_along_axis(times, 1 - first, 4)[..., 0] + theta + rng.normal(0, layout, (n, SESSIONS, 1, 1))
    return (np.median(b, 3) - np.median(a, 3)).reshape(n, -1)


NOISE = {
    "independent": {"own": 0.02, "shared": 0.0, "rho": 0.0, "drift": 0.0, "layout": 0.0},
    "correlated": {"own": 0.02, "shared": 0.05, "rho": 0.5, "drift": 0.0, "layout": 0.0},
    "correlated and drifting": {"own": 0.02, "shared": 0.05, "rho": 0.3, "drift": 0.4, "layout": 0.0},
    "much of both": {"own": 0.05, "shared": 0.1, "rho": 0.3, "drift": 0.8, "layout": 0.0},
    "layouts of memory": {"own": 0.02, "shared": 0.05, "rho": 0.5, "drift": 0.2, "layout": 0.004},
    "mostly layouts": {"own": 0.02, "shared": 0.02, "rho": 0.5, "drift": 0.2, "layout": 0.02},
}
GROUPS = np.repeat(range(SESSIONS), BLOCKS)


@pytest.mark.parametrize("kind", NOISE)
def test_a_slower_model_passes_in_five_percent(kind: str) -> None:
    rng = np.random.default_rng(4)
    ratios = noisy(rng, 2000, SLOWER, **NOISE[kind])
    found = [estimate_interval(row, GROUPS) for row in ratios]
    passed, failed = [i.high < SLOWER for i in found], [i.low > SLOWER for i in found]
    # 0.06 is what is promised; 2,000 experiments know the rate to 0.005
    assert np.mean(passed) < 0.06 + 2 * 0.005
    assert np.mean(failed) < 0.06 + 2 * 0.005
    assert np.mean(passed) > 0.02  # nor is it never right


def test_counting_runs_in_place_of_blocks_would_pass_far_more() -> None:
    """Why a block is the unit: with layouts of memory as the noise, 20 blocks are 5 units."""
    rng = np.random.default_rng(5)
    ratios = noisy(rng, 800, SLOWER, **NOISE["mostly layouts"])
    naive = [estimate_interval(row, np.zeros(len(row))).high < SLOWER for row in ratios]
    assert np.mean(naive) > 0.15


def test_the_power_to_see_that_nothing_changed() -> None:
    rng = np.random.default_rng(6)
    ratios = noisy(rng, 300, 0.0, **NOISE["correlated"])
    assert np.mean([estimate_interval(row, GROUPS).high < SLOWER for row in ratios]) > 0.7


def test_stopping_by_width_keeps_the_error_and_stopping_by_verdict_would_not() -> None:
    rng = np.random.default_rng(7)
    design = Design()
    n = 600  # which knows a rate of 0.05 to 0.009
    blocks = rng.normal(SLOWER, 0.02, (n, MOST_BLOCKS))
    sessions = np.repeat(range(MOST_BLOCKS // BLOCKS), BLOCKS)
    by_width, by_verdict = 0, 0
    for row in blocks:
        count = design.total
        while count < MOST_BLOCKS and not is_narrow(row[:count], sessions[:count], design):
            count += EXTENSION
        by_width += estimate_interval(row[:count], sessions[:count]).high < SLOWER
        ends = range(design.total, MOST_BLOCKS + 1, 2 * EXTENSION)
        by_verdict += any(estimate_interval(row[:k], sessions[:k]).high < SLOWER for k in ends)
    assert by_width / n < 0.06 + 2 * 0.009
    assert by_verdict / n > 0.10


def test_the_control_lets_a_quiet_machine_through_and_stops_a_noisy_one() -> None:
    rng = np.random.default_rng(8)

    def rate(sd: float, shift: float = 0.0) -> float:
        return float(np.mean([is_steady(list(rng.normal(shift, sd, 5)), Design()) for _ in range(400)]))

    assert rate(0.002) > 0.99
    assert rate(0.06) < 0.1
    assert rate(0.002, shift=0.015) < 0.01  # narrow, but it shows what is not there
    assert not is_steady([0.001], Design())


def test_outliers_are_counted_and_kept() -> None:
    values = [0.001, -0.001, 0.0, 0.002, -0.002, 0.001, 0.0, -0.001, 0.002, 0.9]
    said = measure_robustness(values)
    assert said["outliers"] == 1
    assert said["trimmed_ratio"] < 1.01
    assert estimate_interval(values, range(10)).theta == pytest.approx(np.mean(values))  # the estimate has it in
    assert measure_robustness([0.1] * 10)["outliers"] == 0


@pytest.mark.parametrize(
    ("n", "confidence", "rank"), [(298, 0.95, None), (299, 0.95, 299), (458, 0.99, None), (662, 0.99, 661)]
)
def test_bounds_of_the_99th_percentile(n: int, confidence: float, rank: int | None) -> None:
    """299 samples bound it at 95 % by their largest; 662 at 99 % by their second largest (MLPerf's early stopping)."""
    found = bound_quantile([float(k) for k in range(1, n + 1)], 0.99, confidence)
    assert found == rank
