"""What the weights of a linear layer meet: rows (im2col with padded borders, per group), and their second moments.

A layer's result is y[g, p] = W[g] x[g, p] + b[g], with x [G, P, n] and W [G, O/G, n]. A transposed convolution is a
convolution of its input with zeros between the elements, by the mirrored kernel.

The best imitation of a constant 1 by the inputs x of a layer is v.x with v = S^-1 mu, S = E[x x^T], mu = E[x]. What is
left of it in mean square is r = 1 - mu^T S^-1 mu, the same for every output channel of a group: the *replaceability*.
By Sherman and Morrison r = 1/(1 + mu^T Sigma^-1 mu), Sigma the covariance. 0: the bias is superfluous. 1: nothing but
the bias can do it.

Rows of data belong to one of two halves: v of one half is judged on the other, so that many inputs and few
positions do not look like a perfect imitation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass

Array = NDArray[np.float64]

CHUNK_BYTES = 32 << 20  # of patches in float64 that are made at once


@dataclass(frozen=True, slots=True)
class Form:
    """The geometry of a layer.

    ``kind``: conv | transpose | matrix. ``pads``: begin and end for each axis; None where ``auto_pad`` says them.
    ``flip``: Gemm's transA; ``rows``: the matrix lies as [O, K]; ``alpha`` multiplies it.
    """

    kind: str
    shape: tuple[int, ...]  # of the weight as stored
    groups: int = 1
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] | None = None
    auto_pad: str = "NOTSET"
    flip: bool = False
    rows: bool = False
    alpha: float = 1.0

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel; none of a matrix."""
        return () if self.kind == "matrix" else self.shape[2:]

    @property
    def n_in(self) -> int:
        """n: inputs of one output."""
        if self.kind == "matrix":
            return self.shape[1] if self.rows else self.shape[0]
        per_group = self.shape[1] if self.kind == "conv" else self.shape[0] // self.groups
        return per_group * math.prod(self.kernel)

    @property
    def n_out(self) -> int:
        """O: output channels."""
        if self.kind == "matrix":
            return self.shape[0] if self.rows else self.shape[1]
        return self.shape[0] if self.kind == "conv" else self.shape[1] * self.groups

    def flat(self, weight: Array) -> Array:
        """The weight as [G, O/G, n]."""
        if self.kind == "matrix":
            return (self.alpha * (weight if self.rows else weight.T))[None]
        if self.kind == "conv":
            return weight.reshape(self.groups, self.shape[0] // self.groups, -1)
        view = weight.reshape(self.groups, self.shape[0] // self.groups, *self.shape[1:])
        mirrored = np.flip(view, axis=tuple(range(3, view.ndim)))
        return np.ascontiguousarray(mirrored.swapaxes(1, 2)).reshape(self.groups, self.shape[1], -1)

    def stored(self, flat: Array) -> Array:
        """The inverse of `flat`; Gemm's alpha is divided out again."""
        if self.kind == "matrix":
            weight = flat[0] / self.alpha
            return np.ascontiguousarray(weight if self.rows else weight.T)
        if self.kind == "conv":
            return flat.reshape(self.shape)
        view = flat.reshape(self.groups, self.shape[1], self.shape[0] // self.groups, *self.kernel).swapaxes(1, 2)
        return np.ascontiguousarray(np.flip(view, axis=tuple(range(3, view.ndim)))).reshape(self.shape)

    def centre(self) -> NDArray[np.bool_] | None:
        """Which of the n inputs lie at the kernel's middle, [n]; None where every one does or there is no middle."""
        if math.prod(self.kernel) == 1 or any(k % 2 == 0 for k in self.kernel):
            return None
        taps = np.zeros(self.kernel, bool)
        taps[tuple(k // 2 for k in self.kernel)] = True
        return np.tile(taps.reshape(-1), self.n_in // math.prod(self.kernel))


@dataclass(frozen=True, slots=True)
class Rows:
    """Patches and results at the same positions of one row of data: x [G, P, n], y [G, P, O/G]."""

    x: Array
    y: Array
    row: int


def extract_rows(
    form: Form, x: NDArray[Any], y: NDArray[Any], *, most: int | None = None, seed: Sequence[int] = (0,), first: int = 0
) -> Iterator[Rows]:
    """Patches of one batch, row by row in pieces of bounded size.

    Parameters
    ----------
    x : ndarray, the layer's input
    y : ndarray, its result, bias included, or any array of that shape
    most : int, optional
        Positions of a row of data that are taken at most, drawn by ``seed`` without replacement.
    first : int
        Number of the batch's first row, which takes part in the draw.
    """
    if form.kind == "matrix":
        yield from _matrix_rows(form, x, y, most, seed, first)
        return
    windows, results = _windows(form, x, y.shape[2:]), np.moveaxis(y, 1, -1)
    space = results.shape[1:-1]
    for row in range(len(results)):
        taken = _draw_positions(math.prod(space), most, seed, first + row)
        for part in _split_positions(taken, form.n_in * form.groups):
            at = np.unravel_index(part, space)
            patch = windows[row][at].astype(np.float64).reshape(len(part), form.groups, form.n_in)
            yield Rows(patch.swapaxes(0, 1), _group_channels(results[row][at], form.groups), first + row)


def _matrix_rows(
    form: Form, x: NDArray[Any], y: NDArray[Any], most: int | None, seed: Sequence[int], first: int
) -> Iterator[Rows]:
    x = x.T if form.flip else x
    lead = x.shape[0] if x.ndim > 1 else 1
    wide, results = x.reshape(lead, -1, form.n_in), np.asarray(y).reshape(lead, -1, form.n_out)
    for row in range(lead):
        taken = _draw_positions(wide.shape[1], most, seed, first + row)
        for part in _split_positions(taken, form.n_in):
            yield Rows(wide[row][part].astype(np.float64)[None], _group_channels(results[row][part], 1), first + row)


def _group_channels(result: NDArray[Any], groups: int) -> Array:
    wide = result.astype(np.float64)
    return wide.reshape(len(wide), groups, -1).swapaxes(0, 1)


def _draw_positions(count: int, most: int | None, seed: Sequence[int], row: int) -> NDArray[np.int64]:
    if most is None or count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng([*seed, row]).choice(count, most, replace=False))


def _split_positions(taken: NDArray[np.int64], width: int) -> Iterator[NDArray[np.int64]]:
    size = max(1, CHUNK_BYTES // (8 * max(width, 1)))
    for start in range(0, len(taken), size):
        yield taken[start : start + size]


def _windows(form: Form, x: NDArray[Any], space: tuple[int, ...]) -> NDArray[Any]:
    """A view [N, *space, I, *k] of the padded input."""
    strides = form.strides if form.kind == "conv" else (1,) * len(form.kernel)
    padded = _pad(x, conv_pads(form, x.shape[2:]))
    if form.kind == "transpose":
        padded = _pad(_dilate(x, form.strides), transpose_pads(form, x.shape[2:], space))
    extents = tuple(d * (k - 1) + 1 for k, d in zip(form.kernel, form.dilations, strict=True))
    axes = tuple(range(2, 2 + len(extents)))
    view = np.lib.stride_tricks.sliding_window_view(padded, extents, axis=axes)
    steps = (slice(None), slice(None), *(slice(None, None, s) for s in strides))
    taps = tuple(slice(None, None, d) for d in form.dilations)
    return np.moveaxis(view[(*steps, *taps)], 1, 1 + len(extents))


def conv_pads(form: Form, space: tuple[int, ...]) -> list[tuple[int, int]]:
    """Padding at the begin and end of each axis of a convolution's input."""
    if form.auto_pad in ("SAME_UPPER", "SAME_LOWER") and form.kind == "conv":
        found = []
        for size, k, s, d in zip(space, form.kernel, form.strides, form.dilations, strict=True):
            total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            less, more = total // 2, total - total // 2
            found.append((less, more) if form.auto_pad == "SAME_UPPER" else (more, less))
        return found
    return list(form.pads) if form.pads is not None and form.auto_pad == "NOTSET" else [(0, 0)] * len(form.kernel)


def transpose_pads(form: Form, space: tuple[int, ...], out: tuple[int, ...]) -> list[tuple[int, int]]:
    """The same for the spread input of a transposed convolution whose result has the sizes ``out``.

    What the result has more than the kernel reaches is output_padding: it lies at the end.
    """
    found = []
    for axis, (size, k, s, d) in enumerate(zip(space, form.kernel, form.strides, form.dilations, strict=True)):
        reach = d * (k - 1)
        total = s * (size - 1) + reach + 1 - out[axis]  # negative: output padding
        if form.pads is not None and form.auto_pad == "NOTSET":
            begin = form.pads[axis][0]
        else:
            begin = total // 2 if form.auto_pad == "SAME_UPPER" else total - total // 2
        found.append((reach - begin, reach - (total - begin)))
    return found


def _dilate(x: NDArray[Any], strides: tuple[int, ...]) -> NDArray[Any]:
    space = tuple((n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True))
    made = np.zeros((*x.shape[:2], *space), x.dtype)
    made[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = x
    return made


def _pad(x: NDArray[Any], pads: Sequence[tuple[int, int]]) -> NDArray[Any]:
    """Zeros around; negative padding cuts."""
    grown = np.pad(x, [(0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in pads)])
    cuts = [slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(pads, grown.shape[2:], strict=True)]
    return grown[(slice(None), slice(None), *cuts)]


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
        return np.asarray(sum(h.first for h in self._list_filled()) / max(sum(h.count for h in self._list_filled()), 1))

    @property
    def second(self) -> Array:
        """S, [G, n, n]."""
        return np.asarray(
            sum(h.second for h in self._list_filled()) / max(sum(h.count for h in self._list_filled()), 1)
        )

    def _list_filled(self) -> list[Second]:
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
        if len(self._list_filled()) < 2:
            return np.full(len(self._list_filled()[0].first) if self._list_filled() else 1, np.nan)
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
