"""The effect of leaving biases out, measured: every change on the same rows, one batch after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.ablate.effects import Effect, deciding
from converter.ablate.net import Net, State
from converter.ablate.patches import Array
from converter.ablate.samples import Batch, Part
from converter.ablate.sites import Site

_STEP = 1 / 32  # share of a bias that is taken away to see the first-order effect: float32 still resolves it
_RESPONSE_ROWS = 64  # rows that the first-order effect is measured on


@dataclass(frozen=True, slots=True)
class Zeroed:
    """What leaving out each bias does, by label; and whether time ran out before the data did."""

    output: str
    decides: bool
    effects: dict[str, Effect]
    predicted: dict[str, float]
    rows: int
    stopped: bool
    varies: float = math.inf  # how far outputs are from that of the first row, relative: 0 if all are the same


def zeroing(
    net: Net,
    sites: Sequence[Site],
    part: Part,
    output: str | None,
    deadline: float,
    progress: Callable[[str], None] = lambda text: None,
) -> Zeroed:
    """Leave out each bias in turn, on every row, or until the time is over: then all on the same rows."""
    tap = net.answers()
    name, decides = "", False
    effects = {s.label: Effect(False) for s in sites}
    responses = {s.label: Effect(False) for s in sites}
    rows, stopped, slowest = 0, False, 0.0
    first: list[NDArray[Any]] = []
    away = Effect(False)
    for k, batch in enumerate(part.batches()):
        begun = monotonic()
        if k and begun + slowest > deadline:
            stopped = True
            break
        progress(f"leaving out each of {len(sites)} biases: row {rows + 1:,} of {len(part):,}")
        before = tap.run(batch.feeds, net.original)
        if not name:
            name, decides = deciding(before, output)
            effects = {s.label: Effect(decides) for s in sites}
        for site in sites:
            after = tap.run(batch.feeds, net.original | net.without(site))[name]
            effects[site.label].add(before[name], after, batch.labels)
            if rows < _RESPONSE_ROWS:
                nudged = tap.run(batch.feeds, net.original | net.without(site, 1 - _STEP))[name]
                responses[site.label].add(before[name], nudged, None)
        away.add(np.broadcast_to(_first_of(first, before[name]), before[name].shape), before[name], None)
        rows += batch.rows
        slowest = max(slowest, monotonic() - begun)
    predicted = {label: r.relative_error / _STEP if r.rows else math.nan for label, r in responses.items()}
    return Zeroed(name, decides, effects, predicted, rows, stopped, away.relative_error if rows > 1 else math.inf)


def imitating(
    net: Net,
    imitations: Mapping[str, Array],
    part: Part,
    zeroed: Zeroed,
    deadline: float,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Effect]:
    """Put weights W + b v in the place of each bias in turn; ``imitations`` are v, [G, n], by label."""
    tap = net.answers()
    sites = [s for s in net.sites if s.label in imitations]
    effects = {s.label: Effect(zeroed.decides) for s in sites}
    rows, slowest = 0, 0.0
    for k, batch in enumerate(part.batches()):
        begun = monotonic()
        if k and begun + slowest > deadline:
            break
        progress(f"imitating each of {len(sites)} biases: row {rows + 1:,} of {len(part):,}")
        before = tap.run(batch.feeds, net.original)[zeroed.output]
        for site in sites:
            state = net.original | imitation_of(net, site, imitations[site.label])
            effects[site.label].add(before, tap.run(batch.feeds, state)[zeroed.output], batch.labels)
        rows += batch.rows
        slowest = max(slowest, monotonic() - begun)
    return effects


def imitation_of(net: Net, site: Site, v: Array) -> State:
    """W + b v in place of W and b."""
    flat = site.form.flat(site.weight)
    shift = site.shift.reshape(*flat.shape[:2], 1)
    return net.weights(site, site.form.stored(flat + shift * v[:, None, :]), np.zeros_like(site.bias))


def _first_of(seen: list[NDArray[Any]], value: NDArray[Any]) -> NDArray[Any]:
    """The first row that there ever was, where later ones have its shape."""
    if not seen:
        seen.append(value[:1] if value.ndim else value)
    return seen[0] if seen[0].shape[1:] == value.shape[1:] else value[:1]


Shift = Callable[[dict[str, Any], int], dict[str, Any]]  # feeds, number of the first row -> feeds


def effects_of(
    net: Net,
    states: Mapping[str, State],
    part: Part,
    output: str,
    *,
    decides: bool,
    corrections: Mapping[str, NDArray[Any]] | None = None,
    shift: Shift | None = None,
    references: Mapping[int, NDArray[Any]] | None = None,
    deadline: float = math.inf,
) -> tuple[dict[str, Effect], dict[int, NDArray[Any]]]:
    """The effect of several changes of the parameters beside the original, on the same rows.

    Parameters
    ----------
    corrections : added to the output under a change's name
    shift : what is done to the inputs first
    references : the right answers by number of a batch's first row, in place of labels

    Returns
    -------
    effects by name, and the original's decisions by number of a batch's first row
    """
    tap = net.answers()
    effects = {name: Effect(decides) for name in states}
    said: dict[int, NDArray[Any]] = {}
    for k, batch in enumerate(part.batches()):
        if k and monotonic() > deadline:
            break
        feeds = batch.feeds if shift is None else shift(batch.feeds, batch.first)
        before = tap.run(feeds, net.original)[output]
        labels = _labels(batch, references)
        if decides:
            said[batch.first] = before.argmax(axis=1) if before.dtype.kind in "fV" and before.ndim != 3 else before
        for name, state in states.items():
            after = before if state is net.original else tap.run(feeds, state)[output]
            if corrections and name in corrections:
                after = after + corrections[name]
            effects[name].add(before, after, labels)
    return effects, said


def _labels(batch: Batch, references: Mapping[int, NDArray[Any]] | None) -> NDArray[Any] | None:
    if batch.labels is not None or references is None:
        return batch.labels
    return references.get(batch.first)


def mean_gap(net: Net, state: State, part: Part, output: str) -> NDArray[Any]:
    """What has to be added to a changed model's output for its mean to be the original's, per channel."""
    tap = net.answers()
    total: NDArray[Any] = np.zeros(0)
    rows = 0
    for batch in part.batches():
        gap = tap.run(batch.feeds, net.original)[output].astype(np.float64) - tap.run(batch.feeds, state)[output]
        axes = tuple(range(2, gap.ndim))
        gap = gap.mean(axis=axes, keepdims=True) if axes else gap
        total = gap.sum(axis=0, keepdims=True) + (total if total.size else 0.0)
        rows += len(gap)
    return total / max(rows, 1)
