"""Move biases into weights, layer after layer, each on the activations of the model as changed so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.ablate.im2col import Array, Rows, extract_rows
from converter.ablate.samples import Part
from converter.ablate.session import Net, State
from converter.ablate.sites import Site
from converter.dataclass import dataclass
from converter.errors import DataError

RIDGE = 1e-2  # lambda: between 1e-4 and 1e-1 the accuracy on digits differs by less than 0.6 points
DENSE_MOST = 2048  # n up to which S is held: 34 MB a group, and the cost of a solve stays in seconds
_STEPS = 200  # of conjugate gradients at most
_FEWEST = 20  # and at least where they are dear: each step lessens the error, the first ones most
_SOLVE_FLOPS = 1e11  # that all steps of one fit may cost: some seconds
_ENOUGH = 1e-3  # of the first residual: far below the error that the ridge makes

Patches = Callable[[], Iterator[Rows]]


@dataclass(frozen=True, slots=True)
class Solution:
    """Delta [G, n, O/G] and how it came about. ``left``: E|y - W' x|^2 over E|y - W x|^2, on the same data."""

    delta: Array
    method: str
    positions: int
    left: float
    steps: int = 0


def choose_method(
    n_in: int, groups: int, most: int = DENSE_MOST, max_bytes: int = 1 << 30, *, centre: bool = False
) -> str:
    """dense where S and its factor fit; else cg, or ``centre`` where that is asked for."""
    if n_in <= most and 3 * 8 * groups * n_in * n_in <= max_bytes:
        return "dense"
    return "centre" if centre else "cg"


def solve(
    patches: Patches, weight: Array, method: str, ridge: float = RIDGE, taps: np.ndarray | None = None
) -> Solution:
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
        return _solve_by_gradients(patches, weight, ridge)
    return _solve_dense(patches, weight, ridge, taps if method == "centre" else None)


def output_residual(rows: Rows, weight: Array) -> Array:
    """y - W x, [G, P, O/G].

    Raises
    ------
    DataError
        A value is not finite.
    """
    if not (np.isfinite(rows.x).all() and np.isfinite(rows.y).all()):
        raise DataError("a layer gives values that are not finite on this data; look at the inputs")
    return np.asarray(rows.y - rows.x @ weight.swapaxes(1, 2))


def _solve_dense(patches: Patches, weight: Array, ridge: float, taps: np.ndarray | None) -> Solution:
    groups, n_out, n = weight.shape
    used = np.ones(n, bool) if taps is None else taps
    size = int(used.sum())
    second, cross = np.zeros((groups, size, size)), np.zeros((groups, size, n_out))
    squares, count = 0.0, 0
    for rows in patches():
        error = output_residual(rows, weight)
        x = rows.x if taps is None else rows.x[:, :, used]
        second += x.swapaxes(1, 2) @ x
        cross += x.swapaxes(1, 2) @ error
        squares += float((error * error).sum())
        count += x.shape[1]
    _check_count(count)
    load = _diagonal_load(np.trace(second, axis1=1, axis2=2) / count, size, ridge)
    delta = np.zeros((groups, n, n_out))
    found = np.linalg.solve(second / count + load[:, None, None] * np.eye(size), cross / count)
    delta[:, used] = found
    gain = 2 * (found * cross).sum() - np.einsum("gio,gij,gjo->", found, second, found, optimize=True)
    left = max(0.0, 1 - float(gain) / squares) if squares > 0 else 1.0
    return Solution(delta, "dense" if taps is None else "centre", count, left)


def _solve_by_gradients(patches: Patches, weight: Array, ridge: float) -> Solution:
    """Conjugate gradients on (S + lambda D) Delta = R, all output channels at once; one pass over the data a step."""
    groups, n_out, n = weight.shape
    cross, trace = np.zeros((groups, n, n_out)), np.zeros(groups)
    squares, count = 0.0, 0
    for rows in patches():
        error = output_residual(rows, weight)
        cross += rows.x.swapaxes(1, 2) @ error
        trace += (rows.x**2).sum(axis=(1, 2))
        squares += float((error * error).sum())
        count += rows.x.shape[1]
    _check_count(count)
    load = _diagonal_load(trace / count, n, ridge)[:, None, None]
    target = cross / count
    delta, rest, way = np.zeros_like(target), target.copy(), target.copy()
    size = (rest * rest).sum(axis=1, keepdims=True)
    first, steps = size.copy(), 0
    most = max(_FEWEST, min(_STEPS, int(_SOLVE_FLOPS / (4 * count * groups * n * n_out))))
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
        left += float(((output_residual(rows, weight) - rows.x @ delta) ** 2).sum())
    return Solution(delta, "cg", count, left / squares if squares > 0 else 1.0, steps)


def _diagonal_load(trace: Array, n: int, ridge: float) -> Array:
    load = ridge * trace / max(n, 1)
    return np.where(load > 0, load, 1.0)  # all inputs are 0: nothing can be taken over


def _check_count(count: int) -> None:
    if not count:
        raise DataError("there is no data to calibrate on; give more inputs")


_FLOPS = 2e10  # that the second moments of one layer may cost: about a second
_MOST = 1_000_000  # positions of a layer that are looked at in any case


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How to fit. ``dense_most``: n up to which S is held; ``max_bytes``: what one fit may hold."""

    ridge: float = RIDGE
    dense_most: int = DENSE_MOST
    max_bytes: int = 1 << 30
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Fit:
    """One bias that was moved.

    Attributes
    ----------
    weight : the new weight, as stored
    left : share of the squared error, of leaving the bias out, that the new weight leaves, on the calibration data
    growth : largest weight of the new over that of the old: what it costs a quantisation of the weights
    """

    site: Site
    weight: Array
    method: str
    left: float
    growth: float
    rows: int
    positions: int
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Compensated:
    """The model's parameters afterwards, with what was done to them."""

    state: State
    fits: tuple[Fit, ...]


def count_positions(n_in: int, groups: int, rows: int) -> int:
    """How many positions of each row of data to look at: 16 n in all at least, as many as are cheap else."""
    wanted = max(16 * n_in, min(int(_FLOPS / (2 * groups * n_in * n_in)), _MOST))
    return max(1, -(-wanted // max(rows, 1)))


def compensate(
    net: Net,
    sites: Sequence[Site],
    part: Part,
    how: FitOptions,
    progress: Callable[[str], None] = lambda text: None,
    deadline: float = math.inf,
) -> Compensated | None:
    """Leave out the biases of ``sites``, in the model's order, and let their layers' weights make up for them.

    None where the deadline (of `time.monotonic`) passed before all layers were done.

    Raises
    ------
    DataError
        The data gives a layer nothing, or values that are not finite.
    """
    state: State = dict(net.original)
    fits: list[Fit] = []
    ordered = [s for s in net.sites if s in sites]
    for k, site in enumerate(ordered):
        if monotonic() > deadline:
            return None
        progress(f"compensating {site.label} ({k + 1} of {len(ordered)})")
        fit = _fit_site(net, site, [f.site for f in fits], state, part, how)
        fits.append(fit)
        state |= net.weights(site, fit.weight, np.zeros_like(site.bias))
    return Compensated(state, tuple(fits))


def _fit_site(net: Net, site: Site, changed: Sequence[Site], state: State, part: Part, how: FitOptions) -> Fit:
    form = site.form
    stream = _Stream(net, site, changed, state, part, how)
    size = stream.held_bytes()
    method = choose_method(
        form.n_in,
        form.groups,
        how.dense_most,
        how.max_bytes,
        centre=size > how.max_bytes and form.centre() is not None,
    )
    if method == "cg" and size <= how.max_bytes:
        stream.hold()
    solved = solve(stream.patches, form.flat(site.weight), method, how.ridge, form.centre())
    weight = form.stored(form.flat(site.weight) + solved.delta.swapaxes(1, 2))
    peak = float(np.abs(site.weight).max())
    return Fit(
        site=site,
        weight=weight,
        method=solved.method,
        left=solved.left,
        growth=float(np.abs(weight).max()) / peak if peak else float("inf"),
        rows=len(part),
        positions=solved.positions,
        steps=solved.steps,
    )


class _Stream:
    """The inputs of a layer in the changed model beside its results in the original, batch by batch."""

    def __init__(
        self, net: Net, site: Site, changed: Sequence[Site], state: State, part: Part, how: FitOptions
    ) -> None:
        self._net, self._site, self._state, self._part, self._how = net, site, state, part, how
        self._before = net.inside(net.taps(site))
        inputs = net.taps(site, result=False)
        self._after = net.inside(inputs, changed) if changed and inputs else None
        self._held: list[tuple[NDArray[Any], NDArray[Any], int]] | None = None
        self._most = count_positions(site.form.n_in, site.form.groups, len(part))

    def _pairs(self) -> Iterator[tuple[NDArray[Any], NDArray[Any], int]]:
        if self._held is not None:
            yield from self._held
            return
        for batch in self._part.batches():
            values: Mapping[str, Any] = {**batch.feeds, **self._before.run(batch.feeds, {})}
            y = values[self._site.y]
            if self._after is not None:
                values = {**batch.feeds, **self._after.run(batch.feeds, self._state)}
            yield values[self._site.x], y, batch.first

    def held_bytes(self) -> int:
        """What holding all inputs and results would take, by the first batch."""
        x, y, _ = next(self._pairs())
        rows = max(1, len(x) if x.ndim > 1 else 1)
        return (x.nbytes + y.nbytes) * -(-len(self._part) // rows)

    def hold(self) -> None:
        """Keep them: conjugate gradients go through them many times."""
        self._held = list(self._pairs())

    def patches(self) -> Iterator[Rows]:
        """One pass."""
        seed = (self._how.seed, self._net.sites.index(self._site))
        for x, y, first in self._pairs():
            yield from extract_rows(self._site.form, x, y, most=self._most, seed=seed, first=first)
