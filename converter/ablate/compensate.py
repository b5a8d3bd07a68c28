"""Move biases into weights, layer after layer, each on the activations of the model as changed so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.ablate.net import Net, State
from converter.ablate.patches import Array, Rows, rows_of
from converter.ablate.samples import Part
from converter.ablate.sites import Site
from converter.ablate.solve import DENSE_MOST, RIDGE, method_for, solve

_FLOPS = 2e10  # that the second moments of one layer may cost: about a second
_MOST = 1_000_000  # positions of a layer that are looked at in any case


@dataclass(frozen=True, slots=True)
class How:
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


def positions_for(n_in: int, groups: int, rows: int) -> int:
    """How many positions of each row of data to look at: 16 n in all at least, as many as are cheap else."""
    wanted = max(16 * n_in, min(int(_FLOPS / (2 * groups * n_in * n_in)), _MOST))
    return max(1, -(-wanted // max(rows, 1)))


def compensate(
    net: Net,
    sites: Sequence[Site],
    part: Part,
    how: How,
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
        fit = _fit(net, site, [f.site for f in fits], state, part, how)
        fits.append(fit)
        state |= net.weights(site, fit.weight, np.zeros_like(site.bias))
    return Compensated(state, tuple(fits))


def _fit(net: Net, site: Site, changed: Sequence[Site], state: State, part: Part, how: How) -> Fit:
    form = site.form
    stream = _Stream(net, site, changed, state, part, how)
    size = stream.held_bytes()
    method = method_for(
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

    def __init__(self, net: Net, site: Site, changed: Sequence[Site], state: State, part: Part, how: How) -> None:
        self._net, self._site, self._state, self._part, self._how = net, site, state, part, how
        self._before = net.inside(net.taps(site))
        inputs = net.taps(site, result=False)
        self._after = net.inside(inputs, changed) if changed and inputs else None
        self._held: list[tuple[NDArray[Any], NDArray[Any], int]] | None = None
        self._most = positions_for(site.form.n_in, site.form.groups, len(part))

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
            yield from rows_of(self._site.form, x, y, most=self._most, seed=seed, first=first)
