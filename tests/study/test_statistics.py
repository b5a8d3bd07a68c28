"""The statistics, against known values, against scipy, and by simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats as reference

from converter import stats
from converter.study.results import DIFFERENT, EQUIVALENT, OPEN, judge

D = [0.3, -0.1, 0.5, 0.2, 0.0, 0.4, 0.1, -0.2]


def test_intervals_and_tests_are_those_of_scipy() -> None:
    found = reference.ttest_1samp(D, 0.0)
    assert stats.t_test(D) == pytest.approx(found.pvalue)
    interval = found.confidence_interval(0.9)
    assert stats.t_interval(D, 0.9) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("margin", [0.2, 0.35, 1.0])
def test_tost_is_two_one_sided_tests_and_agrees_with_the_90_per_cent_interval(margin: float) -> None:
    above = reference.ttest_1samp(D, -margin, alternative="greater").pvalue
    below = reference.ttest_1samp(D, margin, alternative="less").pvalue
    assert stats.tost(D, margin) == pytest.approx(max(above, below))
    low, high = stats.t_interval(D, 0.90)
    assert (stats.tost(D, margin) <= 0.05) == (-margin < low and high < margin)


def test_differences_without_any_spread() -> None:
    assert stats.tost([0.0] * 4, 0.5) == 0.0
    assert stats.tost([0.7] * 4, 0.5) == 1.0
    assert stats.t_test([0.0] * 4) == 1.0
    assert stats.t_test([0.25] * 4) == 0.0


def test_sign_flip_counts_every_set_of_signs() -> None:
    total = abs(sum(D))
    hits = sum(abs(np.dot(signs, D)) >= total - 1e-12 for signs in product((-1, 1), repeat=len(D)))
    assert stats.sign_flip(D) == hits / 2 ** len(D)
    assert stats.sign_flip([1.0] * 8) == 2 / 256
    assert stats.sign_flip([0.0] * 5) == 1.0


def test_drawn_signs_come_close_to_the_exact_value_and_are_never_zero() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(0.25, 1, 20)
    exact = reference.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=200_000, rng=1)
    assert stats.sign_flip(d) == pytest.approx(exact.pvalue, abs=0.01)
    assert 0 < stats.sign_flip(np.ones(40)) < 1e-4


def test_seeds_needed_are_those_of_the_prototype() -> None:
    # science: 90 % intervals of 8 seeds with these half widths needed 11, 6 and 4 seeds for a margin of 0.5
    for half, seeds in ((0.305, 11), (0.195, 6), (0.11, 4)):
        sd = half * math.sqrt(8) / reference.t.ppf(0.95, 7)
        assert stats.needed_seeds(sd, 0.5) == seeds
    assert stats.needed_seeds(1000.0, 0.5) is None


def test_seeds_needed_give_the_power_that_they_promise() -> None:
    n = stats.needed_seeds(1.0, 0.5)
    assert n is not None
    d = np.random.default_rng(0).normal(0, 1, (4_000, n))
    se = d.std(1, ddof=1) / math.sqrt(n)
    inside = np.abs(d.mean(1)) + reference.t.ppf(0.95, n - 1) * se < 0.5
    assert 0.87 < inside.mean() < 0.94


def test_equivalence_is_claimed_wrongly_in_five_of_a_hundred_runs_at_the_margin() -> None:
    d = np.random.default_rng(1).normal(0.5, 0.3, (2_000, 8))
    wrong = np.mean([stats.tost(row, 0.5) <= 0.05 for row in d])
    assert 0.035 < wrong < 0.065


def test_sign_flip_holds_its_level() -> None:
    d = np.random.default_rng(2).laplace(0, 1, (1_000, 8))
    assert np.mean([stats.sign_flip(row) <= 0.05 for row in d]) < 0.065


def test_nadeau_bengio_is_wider_by_the_factor_of_its_paper() -> None:
    low, high = stats.t_interval(D, 0.95)
    wide_low, wide_high = stats.nadeau_bengio(D, 1.0, 0.95)
    assert (wide_high - wide_low) / (high - low) == pytest.approx(math.sqrt(1 + len(D)))
    assert (wide_low + wide_high) / 2 == pytest.approx(np.mean(D))


def test_splits_that_overlap_are_covered_by_nadeau_bengio_alone() -> None:
    """A mean estimated on halves of the same 40 values: the plain interval misses the truth far too often."""
    rng, hits = np.random.default_rng(3), np.zeros(2)
    for _ in range(400):
        pool = rng.normal(0, 1, 40)
        halves = np.stack([rng.permutation(pool)[:20] for _ in range(10)]).mean(1)
        for k, (low, high) in enumerate((stats.t_interval(halves, 0.95), stats.nadeau_bengio(halves, 1.0, 0.95))):
            hits[k] += low <= 0 <= high
    assert hits[0] / 400 < 0.7
    assert hits[1] / 400 > 0.9


@pytest.mark.parametrize("table", [(3, 4, 0, 4), (8, 8, 0, 8), (7, 8, 1, 8), (5, 9, 5, 9), (0, 4, 0, 4)])
def test_fisher_is_that_of_scipy(table: tuple[int, int, int, int]) -> None:
    a, n_a, b, n_b = table
    assert stats.fisher(*table) == pytest.approx(reference.fisher_exact([[a, n_a - a], [b, n_b - b]])[1])


def test_a_fixed_sequence_ends_at_the_first_that_fails() -> None:
    assert stats.fixed_sequence([0.01, 0.04, 0.2, 0.001]) == 2
    assert stats.fixed_sequence([0.2, 0.001]) == 0


def test_fixed_sequence_is_wrong_in_five_of_a_hundred_families() -> None:
    d = np.random.default_rng(4).normal(0.5, 0.3, (1_500, 4, 8))  # all at the margin: any rejection is an error
    wrong = np.mean([stats.fixed_sequence([stats.tost(row, 0.5) for row in family]) > 0 for family in d])
    assert wrong < 0.065


def test_signs_of_stored_differences_tie_as_before() -> None:
    """Accuracies of 896 images, stored with ten digits: sums that are equal stay equal."""
    right = np.array([[880, 881], [878, 878], [879, 877], [880, 880], [881, 882], [876, 877], [880, 878], [879, 879]])
    exact, stored = right * 100 / 896, np.vectorize(lambda a: float(f"{a:.10g}"))(right * 100 / 896)
    assert stats.sign_flip(exact[:, 0] - exact[:, 1]) == stats.sign_flip(stored[:, 0] - stored[:, 1])
    whole = (right[:, 0] - right[:, 1]).astype(float)
    assert stats.sign_flip(whole) == stats.sign_flip(stored[:, 0] - stored[:, 1])


def test_verdicts() -> None:
    same, apart, loose = [0.1, -0.1, 0.05, -0.05] * 2, [2.0, 2.2, 1.9, 2.1] * 2, [-3.0, 4.0, 1.0, -2.0]
    found = judge([same, apart, loose], 0.5)
    assert [j.verdict for j in found] == [EQUIVALENT, DIFFERENT, OPEN]
    assert [j.needed is None for j in found] == [True, True, False]


def test_a_difference_must_survive_holm() -> None:
    d = [0.9, 0.2, 1.0, 0.1, 0.8, 0.6]
    (alone,) = judge([d], 0.1)
    among, *_ = judge([d, *[[-3.0, 4.0, 1.0, -2.0]] * 9], 0.1)
    assert alone.verdict == DIFFERENT
    assert among.verdict == OPEN
    assert among.p_holm == pytest.approx(min(1.0, 10 * alone.p_holm))


def test_one_seed_says_nothing() -> None:
    (found,) = judge([[0.0]], 0.5)
    assert found.verdict == OPEN
    assert found.needed is None
