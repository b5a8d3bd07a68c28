"""Paired comparisons that test a difference, beside the bounds of `converter.verify.statistics` that gate one.

Sources: Wilson (JASA 22, 1927); Newcombe (Stat. Med. 17, 1998, 2635-2650: method 10 for paired proportions);
Holm (Scand. J. Statist. 6, 1979); McNemar (Psychometrika 12, 1947).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from converter.verify.statistics import mcnemar

__all__ = ["holm", "mcnemar", "newcombe", "wilson"]


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
    phi = _phi(both, first, second, neither)
    rate_a, rate_b = right_a / n, right_b / n
    down = _joined(rate_b - low_b, high_a - rate_a, phi)
    up = _joined(high_b - rate_b, rate_a - low_a, phi)
    return difference, difference - down, difference + up


def _joined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


def _phi(both: int, first: int, second: int, neither: int) -> float:
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
