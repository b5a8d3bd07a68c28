"""How many times the channels nets without biases need for the same accuracy: both arms' errors on one parabola.

Log error against log width is a parabola that the arms share but for a shift; the shift is the factor. Intervals are
percentiles over resampled seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from converter.dataclass import dataclass

Array = np.ndarray[Any, np.dtype[Any]]
_REACH, _STEP = 300, 0.01  # shifts tried: so many steps to either side, each in doublings
_RESAMPLES = 2_000
_CEILING = 0.5  # share of resamples without an answer from which on a width is called censored


@dataclass(frozen=True, slots=True)
class AtWidth:
    """The multiplier read off at one width.

    Attributes
    ----------
    factor, low, high : float or None
        None where the nets without biases never come to the accuracy (or are above it everywhere).
    censored : float
        Share of the resamples in which that was so.
    """

    width: int
    factor: float | None
    low: float | None
    high: float | None
    censored: float

    @property
    def at_ceiling(self) -> bool:
        """Whether so many resamples had no answer that the interval says little."""
        return self.censored > _CEILING


@dataclass(frozen=True, slots=True)
class Multiplier:
    """The pooled factor in channels with a 95 % interval, and the one at each width."""

    factor: float
    low: float
    high: float
    widths: tuple[AtWidth, ...]


def estimate_multiplier(
    errors: Mapping[int, tuple[Array, Array]], floor: float, seed: int = 0, resamples: int = _RESAMPLES
) -> Multiplier | None:
    """Estimate the factor, from the errors of every width.

    Parameters
    ----------
    errors : mapping of width to two arrays [S]
        Error rates with and without biases, in the order of the seeds. At least three widths.
    floor : float
        The least error that the test set can tell from none.

    Returns
    -------
    Multiplier or None
        None for fewer than three widths.
    """
    widths = sorted(errors)
    if len(widths) < 3:
        return None
    rng = np.random.default_rng(seed)
    means = np.stack([_resample(*errors[w], rng, resamples) for w in widths])  # [W, 1 + resamples, 2]
    logs = np.log(np.maximum(means, floor)).transpose(1, 2, 0)  # [1 + resamples, 2, W]
    x = np.log2(np.array(widths, dtype=np.float64))
    found = 2 ** _fit_shifts(x, logs.reshape(len(logs), -1))
    low, high = np.quantile(found[1:], [0.025, 0.975])
    return Multiplier(float(found[0]), float(low), float(high), tuple(_read_widths(x, widths, logs)))


def _resample(with_bias: Array, without: Array, rng: np.random.Generator, resamples: int) -> Array:
    """Mean errors of both arms [1 + resamples, 2]: as seen, then of resampled seeds, the same ones in both arms."""
    n = len(with_bias)
    index = np.concatenate([np.arange(n)[None], rng.integers(0, n, (resamples, n))])
    return np.stack([np.asarray(with_bias)[index].mean(1), np.asarray(without)[index].mean(1)], axis=1)


def _fit_shifts(x: Array, logs: Array) -> Array:
    """The shift of least squares for each row of log errors [R, 2W]: both arms on one parabola."""
    shifts = np.arange(-_REACH, _REACH + 1) * _STEP
    shifts = shifts[np.argsort(np.abs(shifts), kind="stable")]  # of equals the smallest: argmin takes the first
    best, place = np.full(len(logs), np.inf), np.zeros(len(logs))
    for shift in shifts:
        at = np.concatenate([x, x - shift])
        basis, _ = np.linalg.qr(np.stack([np.ones_like(at), at, at * at], axis=1))
        rest = logs - (logs @ basis) @ basis.T
        rss = (rest * rest).sum(1)
        better = rss < best - 1e-15
        best[better], place[better] = rss[better], shift
    return place


def _read_widths(x: Array, widths: list[int], logs: Array) -> list[AtWidth]:
    falling = np.minimum.accumulate(logs[:, 1], axis=1)  # without biases, made monotone
    found = []
    for k, width in enumerate(widths):
        shifts = np.array([_invert(x, curve, level) for curve, level in zip(falling, logs[:, 0, k], strict=True)])
        factors, known = 2 ** (shifts - x[k]), np.isfinite(shifts)
        inner = factors[1:][known[1:]]
        low, high = (float(q) for q in np.quantile(inner, [0.025, 0.975])) if len(inner) else (None, None)
        factor = float(factors[0]) if known[0] else None
        found.append(AtWidth(width, factor, low, high, float(1 - known[1:].mean())))
    return found


def _invert(x: Array, falling: Array, level: float) -> float:
    """Where a falling curve comes down to a level; NaN if it starts below or never does."""
    if level > falling[0] or level < falling[-1]:
        return float("nan")
    right = max(1, int(np.argmax(falling <= level)))
    above, below = falling[right - 1], falling[right]
    part = 0.0 if above == below else (above - level) / (above - below)
    return float(x[right - 1] + part * (x[right] - x[right - 1]))
