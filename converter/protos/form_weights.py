"""Weights side by side: what one side stores against what the other side's scales make of it, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.protos.balls import half_ulp
from converter.protos.forms import Linear

Array = np.ndarray[Any, Any]

# What is beyond half a unit in the last place by less than this share of it is a tie of another float64 formula.
_SLACK = 2.0**-9
ERRORS = 4.0  # float64 errors of this formula and of the other one, twice over
_BLOCK = 1 << 18  # elements compared at once: 2 MB as float64
_FINE = 2.0**-40  # relative error of a factor that no float32 weight feels


@dataclass(frozen=True, slots=True)
class Compared:
    """One array of numbers that was recomputed.

    ``score``: largest distance in units of the last place (for what is not stored as one number, of its
    error bound). ``beyond``: elements further off than one rounding, half a unit, explains.
    """

    layer: str
    op: str
    what: str  # weight | bias | scale | constant
    tensor: str
    count: int
    score: float
    beyond: int
    channel: int
    found: float = 0.0
    expected: float = 0.0
    inner: bool = False  # not at the place's output, but on the way to it


def differ(a: Array, b: Array) -> Array:
    """Where one is not finite and the other is not the same."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    result: Array = ~(np.isfinite(a) & np.isfinite(b)) & ~same
    return result


def judged(off: Array, error: Array, differ: Array) -> tuple[float, int, int]:
    """Largest distance in units of two errors, how many are beyond one error, and where the largest is."""
    if not off.size:
        return 0.0, 0, 0
    ratio = np.where(off == 0, 0.0, off / np.maximum(error, np.finfo(np.float64).tiny))
    ratio = np.where(differ, np.inf, np.where(np.isnan(ratio), 0.0, ratio))
    worst = int(np.argmax(ratio))
    return float(ratio.reshape(-1)[worst]) / 2, int(np.count_nonzero(ratio > 1 + _SLACK)), worst


def compared(a: Linear, b: Linear) -> Compared:
    """The weight that one side has against the one that the other side has, a block at a time."""
    left, right = a.weight.array(), b.weight.array()
    same = a.weight.name == b.weight.name and not b.weight.rounded
    n = int(left.size)
    if same and all(s is None for s in (a.scale_in, a.scale_out, b.scale_in, b.scale_out)):
        return Compared(a.label, a.kind, "weight", b.weight.name, n, 0.0, 0, 0)
    factor, error = _factors(a), _factor_error(a, b)
    other = _factors(b) if b.scale_in is not None or b.scale_out is not None else None
    worst, beyond, place, found, expected = -1.0, 0, 0, 0.0, 0.0
    for x, f, y, g, start in _blocks(_laid(a, left), factor, _laid(b, right), other):
        want = x * f
        got = y.astype(np.float64) if g is None else y * g
        if b.weight.rounded and g is None and error is None and np.array_equal(_round(want, y.dtype), y):
            worst = max(worst, 0.5)
            continue
        bound = _bound(b, y, g, x, f, error)
        score, count, at = judged(np.abs(got - want), bound, differ(want, got))
        beyond += count
        if score > worst:
            worst, place = score, start(at)
            found, expected = float(got.reshape(-1)[at]), float(np.broadcast_to(want, got.shape).reshape(-1)[at])
    return Compared(a.label, a.kind, "weight", b.weight.name, n, max(worst, 0.0), beyond, place, found, expected)


def _round(value: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(all="ignore"):
        return value.astype(dtype)


def _bound(b: Linear, y: Array, g: Array | None, x: Array, f: Array, error: Array | None) -> Array:
    with np.errstate(all="ignore"):
        bound = half_ulp(y) if b.weight.rounded else np.zeros(y.shape)
        if g is not None:
            bound = bound * np.abs(g)
        fine = 2.0**-50 if error is None else error
        result: Array = bound + np.abs(x * f) * fine
        return result


def _factors(atom: Linear) -> Array:
    """What the stored weight is multiplied by: broadcasts to [groups, outputs, inputs, taps]."""
    g = atom.groups
    factor = np.ones((g, 1, 1, 1))
    if atom.scale_out is not None:
        factor = factor * atom.scale_out.value.reshape(g, -1, 1, 1)
    if atom.scale_in is not None:
        factor = factor * atom.scale_in.value.reshape(g, 1, -1, 1)
    return factor


def _factor_error(a: Linear, b: Linear) -> Array | None:
    """Relative error of the factors, one number for each side's worst; None where no weight would feel it."""
    worst = 0.0
    for ball, times in ((a.scale_in, ERRORS), (a.scale_out, ERRORS), (b.scale_in, 1.0), (b.scale_out, 1.0)):
        if ball is not None and ball.value.size:
            with np.errstate(all="ignore"):
                ratio = ball.radius / np.abs(ball.value)
            finite = ratio[np.isfinite(ratio)]
            worst += times * float(finite.max(initial=0.0))
    narrow = b.weight.array().dtype.itemsize < 8 if b.weight.rounded else False
    return None if narrow and worst < _FINE else np.asarray(worst + 2.0**-50)


def _laid(atom: Linear, array: Array) -> Array:
    """The weight as [groups, outputs, inputs, taps]."""
    view = array.reshape(atom.view)
    return view.swapaxes(1, 2) if atom.inputs_first else view


def _blocks(x: Array, f: Array, y: Array, g: Array | None) -> Iterator[tuple[Array, Array, Array, Array | None, Any]]:
    """Both weights and their factors, cut along the outputs; and where an element of a block lies."""
    groups, outputs = x.shape[:2]
    axis = 0 if groups > 1 else 1
    length = x.shape[axis]
    step = max(1, _BLOCK * length // max(x.size, 1))
    for k in range(0, length, step):
        cut = (slice(None),) * axis + (slice(k, k + step),)
        parts = [p[cut] if p is not None and p.shape[axis] > 1 else p for p in (x, f, y, g)]
        shape = parts[0].shape if parts[0] is not None else ()

        def channel(at: int, shape: tuple[int, ...] = shape, first: int = k) -> int:
            group, row = (int(i) for i in np.unravel_index(at, shape)[:2])
            return (group + first) * outputs + row if axis == 0 else first + row

        yield parts[0], parts[1], parts[2], parts[3], channel  # type: ignore[misc]
