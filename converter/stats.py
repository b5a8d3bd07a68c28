"""How sure counts make us: bounds on proportions (Clopper-Pearson), paired differences and resampled metrics.

Every bound of the first part is one-sided at level ``alpha``; a pair of them is a (1 - 2 alpha) interval. The second
part tests paired differences of two arms, one per seed: what they say and what they leave open.

Sources: Clopper & Pearson (Biometrika 1934); Tango (Stat. Med. 17, 1998); Hoeffding (JASA 58, 1963); McNemar
(Psychometrika 12, 1947); Efron & Tibshirani, An Introduction to the Bootstrap (1993); Schuirmann
(J. Pharmacokinet. Biopharm. 15, 1987: two one-sided tests); Fisher's randomisation test of paired differences (1935);
Nadeau & Bengio (Machine Learning 52, 2003: overlapping splits); Maurer, Hothorn & Lehmacher (1995: fixed sequences).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import takewhile
from statistics import NormalDist
from typing import Any

import numpy as np

from converter.dataclass import dataclass

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


def estimate_interval(log_ratios: Sequence[float], sessions: Sequence[int], alpha: float = 0.05) -> Interval:
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
    p, icc = compare_sessions(values, groups)
    chosen = by_session if p < _POOL or icc > _ICC else by_block
    if len(means) == 2 and chosen is by_block and by_session.half_width > by_block.half_width:
        chosen = by_session  # two sessions cannot tell whether sessions differ: take the wider
    return Interval(chosen.theta, chosen.low, chosen.high, chosen.unit, chosen.n, icc, p)


def _t_interval(values: Array, alpha: float, unit: str) -> Interval:
    n = len(values)
    theta = float(values.mean()) if n else math.nan
    if n < 2:
        return Interval(theta, -math.inf, math.inf, unit, n)
    low, high = _bound_mean(values, 1 - alpha, 1 / n)
    return Interval(theta, low, high, unit, n)


def compare_sessions(values: Array, groups: Array) -> tuple[float, float]:
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


def measure_robustness(log_ratios: Sequence[float]) -> dict[str, Any]:
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


def bound_quantile(samples: Sequence[float], q: float = 0.99, confidence: float = 0.95) -> float | None:
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


_STEPS = 200  # of a bisection: to the last bit of a float64
_POWER = 0.9  # that a planned number of samples or seeds gives
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
        count = _find_least_samples(k_expected, margin, alpha)
        seen = math.ceil(rate * count - 1e-9)  # 1 in 3 of 3 is 1, whatever the floats say
        if seen <= k_expected:
            return count
        k_expected = seen


def _find_least_samples(k: int, margin: float, alpha: float) -> int:
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


def wilson(k: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Score interval of a proportion of which ``k`` in ``n`` were seen, two-sided at level ``alpha``.

    Returns
    -------
    (float, float)
        (0, 1) where ``n`` is 0.
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(1 - alpha / 2)
    centre = 2 * k + z * z
    half = z * math.sqrt(max(0.0, z * z + 4 * k * (1 - k / n)))
    low, high = (centre - half) / (2 * (n + z * z)), (centre + half) / (2 * (n + z * z))
    return (0.0 if k == 0 else low), (1.0 if k == n else high)


def newcombe(both: int, first: int, second: int, neither: int, alpha: float = 0.05) -> tuple[float, float, float]:
    """The difference second - first of two paired proportions, with its hybrid score interval.

    Parameters
    ----------
    both, first, second, neither : int
        Pairs that both, only the first, only the second, neither got right.
    alpha : float
        The interval is two-sided at this level.

    Returns
    -------
    (float, float, float)
        Difference, lower and upper bound. (0, -1, 1) without pairs.

    Source: Newcombe 1998, method 10: Wilson's bounds of both margins, joined with the phi coefficient, which is
    corrected for continuity where it is positive.
    """
    n = both + first + second + neither
    if n == 0:
        return 0.0, -1.0, 1.0
    right_a, right_b = both + first, both + second
    difference = (right_b - right_a) / n
    (low_a, high_a), (low_b, high_b) = wilson(right_a, n, alpha), wilson(right_b, n, alpha)
    phi = _correlate(both, first, second, neither)
    rate_a, rate_b = right_a / n, right_b / n
    down = _join(rate_b - low_b, high_a - rate_a, phi)
    up = _join(high_b - rate_b, rate_a - low_a, phi)
    return difference, difference - down, difference + up


def _join(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


def _correlate(both: int, first: int, second: int, neither: int) -> float:
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    if margins == 0:
        return 0.0
    cross: float = both * neither - first * second
    if cross > 0:
        cross = max(cross - (both + first + second + neither) / 2, 0)
    return cross / math.sqrt(margins)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: each at most alpha means that family-wise error is at most alpha."""
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


# ---- paired differences, one per seed or per row -------------------------------------------------------

_EXACT = 16  # differences up to which every one of the 2^n signs is tried
_DRAWS = 20_000  # of signs beyond that
_MOST_SEEDS = 100_000  # beyond which it is not worth saying how many


def t_quantile(p: float, df: float) -> float:
    """Quantile of Student's t."""
    from scipy.special import stdtrit  # scipy.stats would take a second to load

    return float(stdtrit(df, p))


def t_interval(differences: Sequence[float] | Array, level: float) -> tuple[float, float]:
    """Two-sided interval of the mean; infinite for fewer than two values."""
    d = np.asarray(differences, dtype=np.float64)
    return _bound_mean(d, (1 + level) / 2, 1 / len(d)) if len(d) > 1 else (-math.inf, math.inf)


def nadeau_bengio(differences: Sequence[float] | Array, share: float, level: float) -> tuple[float, float]:
    """The same as it would hold on new data of this kind: splits of one data set overlap.

    Parameters
    ----------
    share : float
        Test images over training images of each split.
    """
    d = np.asarray(differences, dtype=np.float64)
    return _bound_mean(d, (1 + level) / 2, 1 / len(d) + share) if len(d) > 1 else (-math.inf, math.inf)


def _bound_mean(values: Array, p: float, factor: float) -> tuple[float, float]:
    """Bounds of the mean, each by the ``p`` quantile of Student's t; its variance is ``factor`` times theirs."""
    half = t_quantile(p, len(values) - 1) * math.sqrt(factor * float(values.var(ddof=1)))
    return float(values.mean()) - half, float(values.mean()) + half


def _compute_tail(distance: float, se: float, df: int) -> float:
    """P(T > distance / se); where nothing varies, 0 or 1."""
    from scipy.special import stdtr

    if se == 0:
        return 0.5 if distance == 0 else float(distance < 0)
    return float(stdtr(df, -distance / se))


def t_test(differences: Sequence[float] | Array) -> float:
    """Two-sided p-value that the mean is 0."""
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        return 1.0
    return min(1.0, 2 * _compute_tail(abs(float(d.mean())), float(d.std(ddof=1)) / math.sqrt(len(d)), len(d) - 1))


def tost(differences: Sequence[float] | Array, margin: float) -> float:
    """p-value of two one-sided tests: at most alpha says that the mean lies within +-``margin``."""
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        return 1.0
    mean, se = float(d.mean()), float(d.std(ddof=1)) / math.sqrt(len(d))
    return max(_compute_tail(mean + margin, se, len(d) - 1), _compute_tail(margin - mean, se, len(d) - 1))


def sign_flip(differences: Sequence[float] | Array, seed: int = 0) -> float:
    """Two-sided p-value of the hypothesis that each difference could as well have the other sign.

    Exact for up to 16 differences; 20,000 drawn sets of signs beyond.
    """
    d = np.asarray(differences, dtype=np.float64)
    if not len(d):
        return 1.0
    if len(d) <= _EXACT:
        signs = 1 - 2 * ((np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1)
        extra = 0
    else:
        signs = np.random.default_rng(seed).choice((-1, 1), (_DRAWS, len(d)))
        extra = 1  # the signs as they were seen count as one draw, else p could be 0
    # The same sum in another order is the same sum, of numbers that were stored with ten digits, too.
    limit = abs(d.sum()) - 1e-6 * np.abs(d).sum()
    hits = int((np.abs(signs @ d) >= limit).sum())
    return (hits + extra) / (len(signs) + extra)


def needed_seeds(sd: float, margin: float) -> int | None:
    """Seeds at which equivalence is shown with a power of 90 % if there is no difference; None if hopeless.

    Both errors are 5 %: the power of two one-sided tests at a difference of 0 is 1 - 2 * 5 %.
    """
    n = 4
    while n < _MOST_SEEDS and 2 * t_quantile(1 - (1 - _POWER) / 2, n - 1) * sd / math.sqrt(n) > margin:
        n = n + 1 if n < 400 else math.ceil(n * 1.01)
    return n if n < _MOST_SEEDS else None


def fixed_sequence(p_values: Sequence[float], alpha: float = 0.05) -> int:
    """How many hypotheses, tested in the order given, fall before the first that does not: no correction is due."""
    return sum(1 for _ in takewhile(lambda p: p <= alpha, p_values))


def fisher(solved_a: int, n_a: int, solved_b: int, n_b: int) -> float:
    """Fisher's exact two-sided p-value for two proportions."""
    total, solved = n_a + n_b, solved_a + solved_b
    ways = [math.comb(n_a, k) * math.comb(n_b, solved - k) for k in range(solved + 1)]
    seen = ways[solved_a]
    return sum(w for w in ways if w <= seen) / math.comb(total, solved)
