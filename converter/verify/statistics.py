"""How sure counts make us: bounds on proportions, on paired differences, and on resampled metrics.

Every bound here is one-sided at level ``alpha``; a pair of them is a (1 - 2 alpha) interval.

Sources: Clopper & Pearson (Biometrika 1934); Tango (Stat. Med. 17, 1998); Hoeffding (JASA 58, 1963); McNemar
(Psychometrika 12, 1947); Efron & Tibshirani, An Introduction to the Bootstrap (1993).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

_STEPS = 200  # of a bisection: to the last bit of a float64
_POWER = 0.9  # that a planned number of samples gives
RESAMPLES = 10_000


def clopper_pearson(k: float, n: int, alpha: float) -> tuple[float, float]:
    """Lower and upper bound of a proportion of which ``k`` in ``n`` were seen."""
    from scipy.special import betaincinv

    if n == 0:
        return 0.0, 1.0
    lower = 0.0 if k <= 0 else float(betaincinv(k, n - k + 1, alpha))
    upper = 1.0 if k >= n else float(betaincinv(k + 1, n - k, 1 - alpha))
    return lower, upper


def bounded_mean(mean: float, n: int, alpha: float) -> tuple[float, float]:
    """Bounds of the mean of a variable in [0, 1] of which ``n`` independent values average ``mean`` (Hoeffding).

    For a mean of 0 it is what Clopper and Pearson give.
    """
    if n == 0:
        return 0.0, 1.0
    limit = math.log(1 / alpha) / n
    upper = _bisect(lambda p: _divergence(mean, p) - limit, mean, 1.0) if mean < 1 else 1.0
    lower = _bisect(lambda p: limit - _divergence(mean, p), 0.0, mean) if mean > 0 else 0.0
    return lower, upper


def _divergence(q: float, p: float) -> float:
    """Kullback-Leibler distance of two coins."""
    if p in (0.0, 1.0):
        return 0.0 if p == q else math.inf
    first = q * math.log(q / p) if q > 0 else 0.0
    return first + ((1 - q) * math.log((1 - q) / (1 - p)) if q < 1 else 0.0)


def _bisect(f: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function crosses zero."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if f(middle) > 0 else (middle, high)
    return (low + high) / 2


def tango(gained: int, lost: int, n: int, alpha: float) -> tuple[float, float]:
    """Score bounds of the difference of two paired proportions, (gained - lost) / n.

    Parameters
    ----------
    gained, lost : int
        Pairs that only the second, only the first got right.
    n : int
        All pairs.

    Source: Tango, Statistics in Medicine 17 (1998) 891-908.
    """
    if n == 0:
        return -1.0, 1.0
    z = NormalDist().inv_cdf(1 - alpha)
    estimate = (gained - lost) / n
    lower = _bisect(lambda d: z - _score(gained, lost, n, d), -1.0, estimate)
    upper = _bisect(lambda d: -z - _score(gained, lost, n, d), estimate, 1.0)
    return lower, upper


def _score(gained: int, lost: int, n: int, d: float) -> float:
    """The score statistic of the hypothesis that the difference is ``d``: decreasing in ``d``."""
    a = 2 * n
    b = -gained - lost + (2 * n - gained + lost) * d
    c = -lost * d * (1 - d)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)  # restricted likelihood estimate of P(lost)
    variance = n * (2 * q + d * (1 - d))
    distance = gained - lost - n * d
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value of as many gained as lost: it tests a difference, so it is no gate."""
    from scipy.special import bdtr

    n = gained + lost
    return 1.0 if n == 0 else min(1.0, 2 * float(bdtr(min(gained, lost), n, 0.5)))


@dataclass(frozen=True, slots=True)
class Resampled:
    """A paired bootstrap of metric(B) - metric(A)."""

    difference: float
    low: float
    high: float
    resamples: int

    @property
    def degenerate(self) -> bool:
        """Whether no resample differed from any other: then the width says nothing."""
        return self.low == self.high


def bootstrap(
    difference: Callable[[np.ndarray[Any, Any]], float], n: int, alpha: float, seed: int, resamples: int = RESAMPLES
) -> Resampled:
    """Percentile bounds of ``difference``, a function of the indices of a resample of ``n`` samples."""
    rng = np.random.default_rng(seed)
    seen = np.array([difference(rng.integers(0, n, n)) for _ in range(resamples)])
    low, high = (float(v) for v in np.quantile(seen, [alpha, 1 - alpha]))
    return Resampled(difference(np.arange(n)), low, high, resamples)


def bootstrap_mean(scores: np.ndarray[Any, Any], alpha: float, seed: int, resamples: int = RESAMPLES) -> Resampled:
    """The same for the mean of per-sample differences, [n]."""
    return bootstrap(lambda index: float(scores[index].mean()), len(scores), alpha, seed, resamples)


def needed_without_labels(k: float, n: int, margin: float, alpha: float) -> int | None:
    """Samples after which the upper bound is below ``margin`` if ``k`` in ``n`` goes on; None if it never is."""
    rate = k / n if n else 0.0
    if rate >= margin:
        return None
    k_expected = 0
    while True:  # the more samples, the more disagreements among them: the least number at which both agree
        count = _enough(k_expected, margin, alpha)
        seen = math.ceil(rate * count - 1e-9)  # 1 in 3 of 3 is 1, whatever the floats say
        if seen <= k_expected:
            return count
        k_expected = seen


def _enough(k: int, margin: float, alpha: float) -> int:
    """The least number of samples of which ``k`` may disagree."""
    low, high = k + 1, 2 * k + 64
    while clopper_pearson(k, high, alpha)[1] > margin:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if clopper_pearson(k, middle, alpha)[1] <= margin else (middle + 1, high)
    return low


def needed_with_labels(gained: int, lost: int, n: int, margin: float, alpha: float) -> int:
    """Samples that give a power of 90 % to show a loss below ``margin`` where there is none.

    As many discordant pairs as so far are expected; never fewer than what no discordant pair at all needs.
    """
    z = NormalDist().inv_cdf
    quantile = z(1 - alpha)
    planned = (quantile + z(_POWER)) ** 2 * ((gained + lost) / n if n else 0.0) / margin**2
    least = math.floor(quantile**2 * (1 - margin) / margin) + 1
    return max(math.ceil(planned), least)
