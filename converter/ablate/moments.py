"""Second moments of a layer's inputs, streamed, and how well a bias can be imitated by weights.

The best imitation of a constant 1 by the inputs x of a layer is v.x with v = S^-1 mu, S = E[x x^T], mu = E[x]. What is
left of it in mean square is r = 1 - mu^T S^-1 mu, the same for every output channel of a group: the *replaceability*.
By Sherman and Morrison r = 1/(1 + mu^T Sigma^-1 mu), Sigma the covariance. 0: the bias is superfluous. 1: nothing but
the bias can do it.

Rows of data belong to one of two halves: v of one half is judged on the other, so that many inputs and few
positions do not look like a perfect imitation.
"""

from __future__ import annotations

from dataclasses import field

import numpy as np

from converter.ablate.im2col import Array, Rows
from converter.dataclass import dataclass

NO_RIDGE = 1e-9  # of the mean diagonal: inputs that are always 0 or always equal must not stop the solver


@dataclass(slots=True)
class Second:
    """Sums of one half: n positions, x [G, n], x x^T [G, n, n]."""

    count: int = 0
    first: Array = field(default_factory=lambda: np.zeros(0))
    second: Array = field(default_factory=lambda: np.zeros(0))

    def add(self, x: Array) -> None:
        """Add positions [G, P, n]."""
        if self.count == 0:
            self.first, self.second = np.zeros_like(x[:, 0]), np.zeros((len(x), x.shape[2], x.shape[2]))
        self.count += x.shape[1]
        self.first += x.sum(axis=1)
        self.second += x.swapaxes(1, 2) @ x


@dataclass(slots=True)
class Channels:
    """Mean, deviation and range of each output channel, [G, O/G]."""

    count: int = 0
    total: Array = field(default_factory=lambda: np.zeros(0))
    squares: Array = field(default_factory=lambda: np.zeros(0))
    shift: Array = field(default_factory=lambda: np.zeros(0))  # the first value: keeps the squares small
    low: Array = field(default_factory=lambda: np.zeros(0))
    high: Array = field(default_factory=lambda: np.zeros(0))

    def add(self, y: Array) -> None:
        """Add positions [G, P, O/G]."""
        if self.count == 0:
            self.shift = y[:, 0].copy()
            self.total, self.squares = np.zeros_like(self.shift), np.zeros_like(self.shift)
            self.low, self.high = y[:, 0].copy(), y[:, 0].copy()
        centred = y - self.shift[:, None]
        self.count += y.shape[1]
        self.total += centred.sum(axis=1)
        self.squares += (centred * centred).sum(axis=1)
        self.low, self.high = np.minimum(self.low, y.min(axis=1)), np.maximum(self.high, y.max(axis=1))

    @property
    def mean(self) -> Array:
        """Mean of each channel."""
        return self.shift + self.total / max(self.count, 1)

    @property
    def deviation(self) -> Array:
        """Standard deviation of each channel."""
        n = max(self.count, 1)
        return np.sqrt(np.maximum(self.squares / n - (self.total / n) ** 2, 0.0))


@dataclass(slots=True)
class Moments:
    """All sums of one layer.

    ``only`` are the inputs looked at, all of them by default; ``fitted`` says of each row of data whether it belongs
    to the first half, else rows alternate.
    """

    only: np.ndarray[tuple[int], np.dtype[np.bool_]] | None = None
    fitted: np.ndarray[tuple[int], np.dtype[np.bool_]] | None = None
    halves: tuple[Second, Second] = field(default_factory=lambda: (Second(), Second()))
    channels: Channels = field(default_factory=Channels)
    rows: int = 0
    _last: int = -1

    def add(self, rows: Rows) -> None:
        """Add patches and results of one row of data."""
        self.channels.add(rows.y)
        second = rows.row % 2 if self.fitted is None else not self.fitted[rows.row]
        self.halves[second].add(rows.x if self.only is None else rows.x[:, :, self.only])
        self.rows += rows.row != self._last
        self._last = rows.row

    @property
    def mean(self) -> Array:
        """mu, [G, n]."""
        return np.asarray(sum(h.first for h in self._filled()) / max(sum(h.count for h in self._filled()), 1))

    @property
    def second(self) -> Array:
        """S, [G, n, n]."""
        return np.asarray(sum(h.second for h in self._filled()) / max(sum(h.count for h in self._filled()), 1))

    def _filled(self) -> list[Second]:
        return [h for h in self.halves if h.count]

    def imitation(self, ridge: float) -> Array | None:
        """v of the first half for every input of the layer, [G, n]; None if it saw no row."""
        half = self.halves[0]
        if not half.count:
            return None
        v = solve_direction(half.second / half.count, half.first / half.count, ridge)
        if self.only is None:
            return v
        whole = np.zeros((len(v), len(self.only)))
        whole[:, self.only] = v
        return whole

    def residual(self) -> Array:
        """r of each group, [G], on the data that v was fitted on."""
        return measure_residual(solve_direction(self.second, self.mean), self.second, self.mean)

    def residual_held_out(self, ridge: float = NO_RIDGE) -> Array:
        """r of each group, [G]: v of one half on the other; above 1 where v does harm. NaN with one row only."""
        if len(self._filled()) < 2:
            return np.full(len(self._filled()[0].first) if self._filled() else 1, np.nan)
        means = [h.first / h.count for h in self.halves]
        seconds = [h.second / h.count for h in self.halves]
        crossed = [
            measure_residual(solve_direction(seconds[k], means[k], ridge), seconds[1 - k], means[1 - k]) for k in (0, 1)
        ]
        return np.asarray((crossed[0] + crossed[1]) / 2)


def solve_direction(second: Array, mean: Array, ridge: float = NO_RIDGE) -> Array:
    """v = (S + ridge D)^-1 mu for every group, [G, n], with D the mean of S's diagonal."""
    n = second.shape[-1]
    load = ridge * np.trace(second, axis1=1, axis2=2) / max(n, 1)
    load = np.where(load > 0, load, 1.0)  # all inputs are 0: v is 0
    return np.asarray(np.linalg.solve(second + load[:, None, None] * np.eye(n), mean[:, :, None])[:, :, 0])


def measure_residual(v: Array, second: Array, mean: Array) -> Array:
    """E(1 - v.x)^2 of every group, [G]."""
    quadratic = np.einsum("gi,gij,gj->g", v, second, v)
    return np.asarray(np.maximum(1 - 2 * np.einsum("gi,gi->g", v, mean) + quadratic, 0.0))


def weight_groups(per_group: Array, shift: Array) -> float:
    """r of a whole layer: groups count by the squared size of their biases, shift [O]."""
    weights = (shift.reshape(len(per_group), -1) ** 2).sum(axis=1)
    return float(np.average(per_group, weights=weights if weights.sum() > 0 else None))
