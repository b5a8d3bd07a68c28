"""The closed form that moves a bias into weights.

Given a layer's inputs x in the model as changed so far and its result y in the original, the new weight is
W' = W + Delta^T with Delta = (S + lambda D)^-1 E[x (y - W x)^T], S = E[x x^T], D the mean of S's diagonal times I:
ridge regression of *what is missing*, so that lambda draws the change towards 0, not the weight. It takes up the bias
and what changes further up have left behind.

Three ways to the same end, by size: ``dense`` holds S; ``cg`` never does, and goes through the patches once per step
of conjugate gradients; ``centre`` changes the kernel's middle tap alone, which no padding reaches.
Source: Hestenes and Stiefel 1952 for the steps; the rest is ridge regression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from converter.ablate.patches import Array, Rows
from converter.errors import DataError

RIDGE = 1e-2  # lambda: between 1e-4 and 1e-1 the accuracy on digits differs by less than 0.6 points
DENSE_MOST = 2048  # n up to which S is held: 34 MB a group, and the cost of a solve stays in seconds
_STEPS = 200  # of conjugate gradients at most
_FEWEST = 20  # and at least where they are dear: each step lessens the error, the first ones most
_FLOPS = 1e11  # that all steps of one fit may cost: some seconds
_ENOUGH = 1e-3  # of the first residual: far below the error that the ridge makes

Patches = Callable[[], Iterator[Rows]]


@dataclass(frozen=True, slots=True)
class Solved:
    """Delta [G, n, O/G] and how it came about. ``left``: E|y - W' x|^2 over E|y - W x|^2, on the same data."""

    delta: Array
    method: str
    positions: int
    left: float
    steps: int = 0


def method_for(
    n_in: int, groups: int, most: int = DENSE_MOST, max_bytes: int = 1 << 30, *, centre: bool = False
) -> str:
    """dense where S and its factor fit; else cg, or ``centre`` where that is asked for."""
    if n_in <= most and 3 * 8 * groups * n_in * n_in <= max_bytes:
        return "dense"
    return "centre" if centre else "cg"


def solve(patches: Patches, weight: Array, method: str, ridge: float = RIDGE, taps: np.ndarray | None = None) -> Solved:
    """Find Delta.

    Parameters
    ----------
    patches : called once per pass; gives x [G, P, n] and the original's y [G, P, O/G]
    weight : [G, O/G, n]
    method : dense, cg or centre
    taps : bool [n], for ``centre``: the inputs that may take something over

    Raises
    ------
    DataError
        There are no patches, or a value is not finite.
    """
    if method == "cg":
        return _by_gradients(patches, weight, ridge)
    return _dense(patches, weight, ridge, taps if method == "centre" else None)


def missing(rows: Rows, weight: Array) -> Array:
    """y - W x, [G, P, O/G].

    Raises
    ------
    DataError
        A value is not finite.
    """
    if not (np.isfinite(rows.x).all() and np.isfinite(rows.y).all()):
        raise DataError("a layer gives values that are not finite on this data; look at the inputs")
    return np.asarray(rows.y - rows.x @ weight.swapaxes(1, 2))


def _dense(patches: Patches, weight: Array, ridge: float, taps: np.ndarray | None) -> Solved:
    groups, n_out, n = weight.shape
    used = np.ones(n, bool) if taps is None else taps
    size = int(used.sum())
    second, cross = np.zeros((groups, size, size)), np.zeros((groups, size, n_out))
    squares, count = 0.0, 0
    for rows in patches():
        error = missing(rows, weight)
        x = rows.x if taps is None else rows.x[:, :, used]
        second += x.swapaxes(1, 2) @ x
        cross += x.swapaxes(1, 2) @ error
        squares += float((error * error).sum())
        count += x.shape[1]
    _checked(count)
    load = _load(np.trace(second, axis1=1, axis2=2) / count, size, ridge)
    delta = np.zeros((groups, n, n_out))
    found = np.linalg.solve(second / count + load[:, None, None] * np.eye(size), cross / count)
    delta[:, used] = found
    gain = 2 * (found * cross).sum() - np.einsum("gio,gij,gjo->", found, second, found, optimize=True)
    left = max(0.0, 1 - float(gain) / squares) if squares > 0 else 1.0
    return Solved(delta, "dense" if taps is None else "centre", count, left)


def _by_gradients(patches: Patches, weight: Array, ridge: float) -> Solved:
    """Conjugate gradients on (S + lambda D) Delta = R, all output channels at once; one pass over the data a step."""
    groups, n_out, n = weight.shape
    cross, trace = np.zeros((groups, n, n_out)), np.zeros(groups)
    squares, count = 0.0, 0
    for rows in patches():
        error = missing(rows, weight)
        cross += rows.x.swapaxes(1, 2) @ error
        trace += (rows.x**2).sum(axis=(1, 2))
        squares += float((error * error).sum())
        count += rows.x.shape[1]
    _checked(count)
    load = _load(trace / count, n, ridge)[:, None, None]
    target = cross / count
    delta, rest, way = np.zeros_like(target), target.copy(), target.copy()
    size = (rest * rest).sum(axis=1, keepdims=True)
    first, steps = size.copy(), 0
    most = max(_FEWEST, min(_STEPS, int(_FLOPS / (4 * count * groups * n * n_out))))
    while steps < most and (size > _ENOUGH**2 * first).any():
        turned = np.zeros_like(way)
        for rows in patches():
            turned += rows.x.swapaxes(1, 2) @ (rows.x @ way)
        turned = turned / count + load * way
        curve = (way * turned).sum(axis=1, keepdims=True)
        step = np.divide(size, curve, out=np.zeros_like(size), where=curve > 0)
        delta += step * way
        rest -= step * turned
        new = (rest * rest).sum(axis=1, keepdims=True)
        way = rest + np.divide(new, size, out=np.zeros_like(new), where=size > 0) * way
        size, steps = new, steps + 1
    left = 0.0
    for rows in patches():
        left += float(((missing(rows, weight) - rows.x @ delta) ** 2).sum())
    return Solved(delta, "cg", count, left / squares if squares > 0 else 1.0, steps)


def _load(trace: Array, n: int, ridge: float) -> Array:
    load = ridge * trace / max(n, 1)
    return np.where(load > 0, load, 1.0)  # all inputs are 0: nothing can be taken over


def _checked(count: int) -> None:
    if not count:
        raise DataError("there is no data to calibrate on; give more inputs")
