"""Bounds: against published values, against an independent formula, and by their error rates in simulation."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from converter.stats import (
    bootstrap,
    bootstrap_mean,
    bounded_mean,
    clopper_pearson,
    mcnemar,
    needed_with_labels,
    needed_without_labels,
    tango,
)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "alpha", "low", "high"),
    [
        (1, 7, 21, 0.025, -0.517, -0.026),  # airway reactivity: Fagerland, Lydersen & Laake, Stat. Med. 33 (2014)
        (0, 1, 44, 0.05, -0.096, 0.037),  # contact lenses: Tango, Stat. Med. 17 (1998)
    ],
)
def test_tango_gives_the_published_intervals(
    gained: int, lost: int, n: int, alpha: float, low: float, high: float
) -> None:
    assert tango(gained, lost, n, alpha) == pytest.approx((low, high), abs=6e-4)


def quartic(b: int, c: int, n: int, alpha: float) -> list[float]:
    """Squared, the score equation is a quartic (Yang, Sun & Hardin, Stat. Med. 32, 2013): its roots in (-1, 1)."""
    g = NormalDist().inv_cdf(1 - alpha) ** 2
    m = [
        n**2 * (n / g + 1) ** 2,
        -n * (b - c) * (n / g + 1) * (4 * n / g + 1),
        2 * n * (b - c) ** 2 * (3 * n / g + 2) / g - n**2 * ((b + c) / g + 1),
        n * (b - c) * (2 * (b + c) / g + 1) - (b - c) ** 3 * (4 * n / g + 1) / g,
        (b - c) ** 2 * ((b - c) ** 2 / g - (b + c)) / g,
    ]
    return sorted(r.real for r in np.roots(m) if abs(r.imag) < 1e-9)


@pytest.mark.parametrize(("gained", "lost", "n"), [(1, 7, 21), (5, 2, 100), (12, 20, 1000), (3, 9, 30), (40, 41, 500)])
def test_tango_solves_the_quartic_equation(gained: int, lost: int, n: int) -> None:
    roots = quartic(gained, lost, n, 0.05)
    for bound in tango(gained, lost, n, 0.05):
        assert min(abs(bound - root) for root in roots) < 1e-6


def test_tango_is_symmetric_and_knows_no_discordant_pair() -> None:
    low, high = tango(3, 8, 200, 0.05)
    assert tango(8, 3, 200, 0.05) == pytest.approx((-high, -low))
    z = NormalDist().inv_cdf(0.95)
    assert tango(0, 0, 500, 0.05)[0] == pytest.approx(-(z**2) / (500 + z**2))
    assert tango(0, 0, 0, 0.05) == (-1.0, 1.0)


def test_a_loss_at_the_margin_passes_seldom() -> None:
    """At a true loss of 0.1 % the lower bound is above -0.1 % in about 5 % of samples, and in no more than 7."""
    rng = np.random.default_rng(0)
    n, margin, discordant = 5000, 0.001, 0.0034
    gained_rate, lost_rate = (discordant - margin) / 2, (discordant + margin) / 2
    drawn = rng.multinomial(n, [gained_rate, lost_rate, 1 - discordant], 2000)
    passed = np.mean([tango(int(b), int(c), n, 0.05)[0] > -margin for b, c, _ in drawn])
    assert 0.02 < passed < 0.07


def test_clopper_and_pearson() -> None:
    assert clopper_pearson(0, 2995, 0.05)[1] <= 0.001 < clopper_pearson(0, 2994, 0.05)[1]
    assert clopper_pearson(0, 300, 0.05) == pytest.approx((0.0, 1 - 0.05 ** (1 / 300)))
    assert clopper_pearson(10, 10, 0.05) == pytest.approx((0.05**0.1, 1.0))
    assert clopper_pearson(2, 6294, 0.05)[1] == pytest.approx(0.001, rel=1e-4)
    assert clopper_pearson(0, 0, 0.05) == (0.0, 1.0)


def test_clopper_and_pearson_cover() -> None:
    seen = np.random.default_rng(0).binomial(400, 0.01, 3000)
    bounds = {int(k): clopper_pearson(int(k), 400, 0.05) for k in set(seen)}
    assert np.mean([bounds[int(k)][1] < 0.01 for k in seen]) <= 0.055
    assert np.mean([bounds[int(k)][0] > 0.01 for k in seen]) <= 0.055


def test_a_bounded_mean_is_bounded() -> None:
    assert bounded_mean(0.0, 2995, 0.05)[1] == pytest.approx(clopper_pearson(0, 2995, 0.05)[1])
    assert bounded_mean(1.0, 10, 0.05) == pytest.approx((0.05**0.1, 1.0))
    low, high = bounded_mean(0.2, 50, 0.05)
    assert low < clopper_pearson(10, 50, 0.05)[0] < 0.2 < clopper_pearson(10, 50, 0.05)[1] < high
    means = np.random.default_rng(0).beta(0.1, 9.9, (2000, 60)).mean(axis=1)  # mostly nothing, now and then a lot
    assert np.mean([bounded_mean(float(m), 60, 0.05)[1] < 0.01 for m in means]) <= 0.05


def test_mcnemar_is_exact() -> None:
    assert mcnemar(1, 7) == pytest.approx(2 * (1 + 8) / 2**8)  # 0.0703
    assert mcnemar(7, 1) == mcnemar(1, 7)
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0


@pytest.mark.parametrize(("k", "n", "needed"), [(0, 10, 2995), (1, 4742, 4742), (2, 6294, 6294), (1, 10_000, 4742)])
def test_how_many_inputs_without_labels(k: int, n: int, needed: int) -> None:
    assert needed_without_labels(k, n, 0.001, 0.05) == needed


def test_more_inputs_do_not_help_above_the_margin() -> None:
    assert needed_without_labels(2, 1000, 0.001, 0.05) is None
    assert needed_without_labels(1, 1000, 0.001, 0.05) is None


def test_how_many_inputs_with_labels() -> None:
    none = needed_with_labels(0, 0, 100, 0.001, 0.05)
    assert tango(0, 0, none, 0.05)[0] > -0.001
    assert tango(0, 0, none - 2, 0.05)[0] <= -0.001
    # n = (1.645 + 1.282)^2 psi / delta^2
    assert needed_with_labels(5, 5, 1000, 0.001, 0.05) == pytest.approx(85_639, abs=10)


def test_a_bootstrap_covers_and_says_when_it_cannot() -> None:
    rng = np.random.default_rng(1)
    outside = 0
    for seed in range(150):
        found = bootstrap_mean(rng.standard_normal(60) + 0.3, 0.05, seed, 400)
        outside += not found.low <= 0.3 <= found.high
    assert 4 <= outside <= 32  # of 150, 10 % in the long run
    assert bootstrap_mean(np.zeros(20), 0.05, 0, 50).degenerate
    assert not found.degenerate


def test_a_bootstrap_is_seeded_and_takes_any_metric() -> None:
    values = np.random.default_rng(0).exponential(1.0, 200)

    def spread(index: np.ndarray) -> float:
        return float(np.quantile(values[index], 0.9) - np.quantile(values[index], 0.1))

    first, again, other = (bootstrap(spread, 200, 0.05, seed, 300) for seed in (0, 0, 1))
    assert first == again != other
    assert first.low < first.difference < first.high
    assert math.isclose(first.difference, spread(np.arange(200)))
