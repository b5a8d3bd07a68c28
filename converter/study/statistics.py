"""Paired differences between two arms, one per seed: what they say and what they leave open.

Sources: Schuirmann (J. Pharmacokinet. Biopharm. 15, 1987: two one-sided tests); Fisher's randomisation test of paired
differences (1935); Nadeau & Bengio (Machine Learning 52, 2003: overlapping splits); Maurer, Hothorn & Lehmacher (1995:
fixed sequences). Holm and Wilson are those of `converter.stats`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from converter.stats import holm

ALPHA = 0.05
_EXACT = 16  # differences up to which every one of the 2^n signs is tried
_DRAWS = 20_000  # of signs beyond that
_POWER = 0.9
_MOST = 100_000  # seeds beyond which it is not worth saying how many

EQUIVALENT, DIFFERENT, OPEN = "EQUIVALENT", "DIFFERENT", "INCONCLUSIVE"
Array = np.ndarray[Any, np.dtype[Any]]


def t_quantile(p: float, df: float) -> float:
    """Quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(df, p))


def t_interval(differences: Sequence[float] | Array, level: float) -> tuple[float, float]:
    """Two-sided interval of the mean; infinite for fewer than two values."""
    d = np.asarray(differences, dtype=np.float64)
    return _interval(d, level, 1 / len(d)) if len(d) > 1 else (-math.inf, math.inf)


def nadeau_bengio(differences: Sequence[float] | Array, share: float, level: float) -> tuple[float, float]:
    """The same as it would hold on new data of this kind: splits of one data set overlap.

    Parameters
    ----------
    share : float
        Test images over training images of each split.
    """
    d = np.asarray(differences, dtype=np.float64)
    return _interval(d, level, 1 / len(d) + share) if len(d) > 1 else (-math.inf, math.inf)


def _interval(d: Array, level: float, factor: float) -> tuple[float, float]:
    half = t_quantile((1 + level) / 2, len(d) - 1) * math.sqrt(factor * float(d.var(ddof=1)))
    return float(d.mean()) - half, float(d.mean()) + half


def _tail(distance: float, se: float, df: int) -> float:
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
    return min(1.0, 2 * _tail(abs(float(d.mean())), float(d.std(ddof=1)) / math.sqrt(len(d)), len(d) - 1))


def tost(differences: Sequence[float] | Array, margin: float) -> float:
    """p-value of two one-sided tests: at most alpha says that the mean lies within +-``margin``."""
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        return 1.0
    mean, se = float(d.mean()), float(d.std(ddof=1)) / math.sqrt(len(d))
    return max(_tail(mean + margin, se, len(d) - 1), _tail(margin - mean, se, len(d) - 1))


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
    limit = abs(d.sum()) - 1e-12 * np.abs(d).sum()  # the same sum in another order is the same sum
    hits = int((np.abs(signs @ d) >= limit).sum())
    return (hits + extra) / (len(signs) + extra)


def needed_seeds(sd: float, margin: float) -> int | None:
    """Seeds at which equivalence is shown with a power of 90 % if there is no difference; None if hopeless.

    Both errors are 5 %: the power of two one-sided tests at a difference of 0 is 1 - 2 * 5 %.
    """
    n = 4
    while n < _MOST and 2 * t_quantile(1 - (1 - _POWER) / 2, n - 1) * sd / math.sqrt(n) > margin:
        n = n + 1 if n < 400 else math.ceil(n * 1.01)
    return n if n < _MOST else None


def fixed_sequence(p_values: Sequence[float], alpha: float = ALPHA) -> int:
    """How many hypotheses, tested in the order given, fall before the first that does not: no correction is due."""
    return sum(1 for _ in takewhile(lambda p: p <= alpha, p_values))


def fisher(solved_a: int, n_a: int, solved_b: int, n_b: int) -> float:
    """Fisher's exact two-sided p-value for two proportions."""
    total, solved = n_a + n_b, solved_a + solved_b
    ways = [math.comb(n_a, k) * math.comb(n_b, solved - k) for k in range(solved + 1)]
    seen = ways[solved_a]
    return sum(w for w in ways if w <= seen) / math.comb(total, solved)


@dataclass(frozen=True, slots=True)
class Judged:
    """One family member: differences in percentage points, first arm minus second.

    ``low``, ``high`` bound the mean at 95 %, ``low90``, ``high90`` at 90 % (these are what equivalence is read from),
    ``low_new``, ``high_new`` at 95 % for new data of this kind.
    """

    n: int
    mean: float
    sd: float
    median: float
    low: float
    high: float
    low90: float
    high90: float
    low_new: float
    high_new: float
    p_flip: float
    p_tost: float
    p_holm: float
    verdict: str
    needed: int | None


def judge(family: Sequence[Sequence[float]], margin: float, share: float = 1.0) -> list[Judged]:
    """Judge every member of a family of comparisons; differences are called such only after Holm's correction.

    Parameters
    ----------
    family : sequence of sequences of float
        Differences per seed.
    margin : float
        What counts as no difference, in the same unit.
    share : float
        Test images over training images.
    """
    adjusted = holm([t_test(d) for d in family])
    return [_judged(np.asarray(d, dtype=np.float64), p, margin, share) for d, p in zip(family, adjusted, strict=True)]


def _judged(d: Array, p_holm: float, margin: float, share: float) -> Judged:
    sd = float(d.std(ddof=1)) if len(d) > 1 else math.nan
    p_tost = tost(d, margin)
    verdict = EQUIVALENT if p_tost <= ALPHA else DIFFERENT if p_holm <= ALPHA else OPEN
    return Judged(
        len(d),
        float(d.mean()),
        sd,
        float(np.median(d)),
        *t_interval(d, 0.95),
        *t_interval(d, 0.90),
        *nadeau_bengio(d, share, 0.95),
        sign_flip(d),
        p_tost,
        p_holm,
        verdict,
        needed_seeds(sd, margin) if verdict == OPEN and len(d) > 1 else None,
    )
