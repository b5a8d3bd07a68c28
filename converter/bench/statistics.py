"""The interval of the mean log-ratio, and what else can be said of blocks and samples.

The unit is a block, not a run: runs that follow one another are correlated, and a test that counts each of them
passes a slower model up to three times as often as it says. Where sessions differ by more than their blocks do
(memory lies differently in each), the unit is the session. Kalibera and Jones (ISMM 2013): repeat, and average,
at the level that varies most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

# Pooling blocks of different sessions after a test at 5 % lets 8 % of slower models pass (simulated); at 25 %,
# Bancroft's (1944) level for a test that only decides whether to pool, 5.6 %.
_POOL = 0.25
_ICC = 0.3
_OUTLIER = 10.0  # median absolute deviations
_TRIM = 0.1


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean log-ratio and its bounds, each of which is wrong with probability alpha."""

    theta: float
    low: float
    high: float
    unit: str = "block"  # block | session: what was averaged
    n: int = 0  # of those
    icc: float = 0.0  # share of the variance that lies between sessions
    p_sessions: float | None = None  # F-test that there is none between sessions

    @property
    def half_width(self) -> float:
        """Half the interval, as a log."""
        return (self.high - self.low) / 2


def interval(log_ratios: Sequence[float], sessions: Sequence[int], alpha: float = 0.05) -> Interval:
    """The t-interval over blocks, or over the means of sessions where those dominate.

    Parameters
    ----------
    log_ratios : sequence of float
        One per block.
    sessions : sequence of int
        The session of each block.
    alpha : float
        Of each bound.

    Returns
    -------
    Interval
        Without bounds (infinite) where fewer than two units are there.
    """
    values, groups = np.asarray(log_ratios, float), np.asarray(sessions)
    means = np.array([values[groups == g].mean() for g in np.unique(groups)])
    by_block = _t_interval(values, alpha, "block")
    if len(means) < 2 or len(values) == len(means):
        return by_block
    by_session = _t_interval(means, alpha, "session")
    p, icc = between(values, groups)
    chosen = by_session if p < _POOL or icc > _ICC else by_block
    if len(means) == 2 and chosen is by_block and by_session.half_width > by_block.half_width:
        chosen = by_session  # two sessions cannot tell whether sessions differ: take the wider
    return Interval(chosen.theta, chosen.low, chosen.high, chosen.unit, chosen.n, icc, p)


def _t_interval(values: Array, alpha: float, unit: str) -> Interval:
    n = len(values)
    theta = float(values.mean()) if n else math.nan
    if n < 2:
        return Interval(theta, -math.inf, math.inf, unit, n)
    from scipy import special  # scipy.stats would take a second to load

    half = float(special.stdtrit(n - 1, 1 - alpha) * values.std(ddof=1) / math.sqrt(n))
    return Interval(theta, theta - half, theta + half, unit, n)


def between(values: Array, groups: Array) -> tuple[float, float]:
    """The p-value of the F-test that sessions do not differ, and the intraclass correlation (one-way ANOVA)."""
    from scipy import special

    parts = [values[groups == g] for g in np.unique(groups)]
    sizes = np.array([len(part) for part in parts], float)
    k, n = len(parts), float(sizes.sum())
    within = sum(float(((part - part.mean()) ** 2).sum()) for part in parts) / (n - k)
    among = sum(len(part) * float((part.mean() - values.mean()) ** 2) for part in parts) / (k - 1)
    if within <= 0:
        return (0.0, 1.0) if among > 0 else (1.0, 0.0)
    typical = (n - float((sizes**2).sum()) / n) / (k - 1)  # blocks of a session, where they differ
    icc = (among - within) / (among + (typical - 1) * within)
    return float(special.fdtrc(k - 1, n - k, among / within)), max(0.0, float(icc))


def robustness(log_ratios: Sequence[float]) -> dict[str, Any]:
    """Blocks far from the rest, and what the estimate would be without the extremes: said, never acted upon."""
    values = np.asarray(log_ratios, float)
    centre = float(np.median(values))
    spread = float(np.median(np.abs(values - centre)))
    cut = int(len(values) * _TRIM)
    trimmed = np.sort(values)[cut : len(values) - cut]
    return {
        "outliers": int(np.count_nonzero(np.abs(values - centre) > _OUTLIER * spread)) if spread else 0,
        "trimmed_ratio": math.exp(float(trimmed.mean())),
        "median_ratio": math.exp(centre),
    }


def upper_quantile(samples: Sequence[float], q: float = 0.99, confidence: float = 0.95) -> float | None:
    """A bound that the quantile is below with this confidence, free of any distribution; None if n is too small.

    n = 299 is the least for q = 0.99 at 95 %; 662 leave room for one sample above it at 99 %.
    """
    from scipy import special

    ordered = np.sort(np.asarray(samples, float))
    n = len(ordered)
    # The k-th smallest is above the quantile with the probability that fewer than k samples are below it.
    covers = special.bdtr(np.arange(n, dtype=float), n, q)
    rank = int(np.searchsorted(covers, confidence))
    return float(ordered[rank]) if rank < n else None
