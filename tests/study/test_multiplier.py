"""The multiplier finds the factor that the errors were made with."""

from __future__ import annotations

import numpy as np
import pytest

from converter.study.multiplier import estimate_multiplier

WIDTHS = (2, 4, 8, 16, 32)


def errors(factor: float, noise: float = 0.02, seeds: int = 8, seed: int = 0) -> dict:
    """Error rates that fall with width; without biases as if there were ``factor`` times fewer channels."""
    rng = np.random.default_rng(seed)

    def curve(width: float) -> np.ndarray:
        x = np.log2(width)
        return np.exp(-0.4 - 0.9 * x + 0.05 * x * x + noise * rng.normal(size=seeds))

    return {w: (curve(w), curve(w / factor)) for w in WIDTHS}


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.5, 2.5])
def test_the_factor_is_found(factor: float) -> None:
    found = estimate_multiplier(errors(factor), 1e-6, resamples=200)
    assert found is not None
    assert found.factor == pytest.approx(factor, rel=0.03)
    assert found.low - 0.02 <= factor <= found.high + 0.02
    inner = found.widths[1]
    assert inner.factor == pytest.approx(factor, rel=0.06)


def test_the_interval_covers_the_truth() -> None:
    seen = [estimate_multiplier(errors(1.2, 0.15, seed=s), 1e-6, resamples=120) for s in range(40)]
    assert sum(m.low <= 1.2 <= m.high for m in seen) >= 33


def test_a_width_whose_accuracy_is_never_reached_is_censored() -> None:
    found = estimate_multiplier(errors(2.0), 1e-6, resamples=100)
    widest = found.widths[-1]
    assert widest.factor is None
    assert widest.at_ceiling
    assert not found.widths[0].at_ceiling


def test_two_widths_are_too_few() -> None:
    made = errors(1.0)
    assert estimate_multiplier({w: made[w] for w in WIDTHS[:2]}, 1e-6) is None


def test_equal_arms_need_the_same_channels_exactly() -> None:
    made = {w: (a, a.copy()) for w, (a, _) in errors(1.0).items()}
    found = estimate_multiplier(made, 1e-6, resamples=50)
    assert (found.factor, found.low, found.high) == (1.0, 1.0, 1.0)
