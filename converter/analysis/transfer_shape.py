"""What becomes of a shift under operators that move, repeat or pick elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converter.analysis.facts import Facts
from converter.analysis.outcomes import Carry, Outcome, Rule, Shifts, Stop, only
from converter.analysis.shifts import MOST_ELEMENTS, Array, Shift, known
from converter.graph import Node

Dims = Sequence[int | str | None]


def _transpose(_: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    perm = list(node.attr("perm") or range(s.rank)[::-1])
    if sorted(perm) != list(range(s.rank)):
        return Stop("rank", "its permutation does not fit")
    invariant = {j for j, i in enumerate(perm) if i in s.invariant}
    value = None if s.value is None else s.value.transpose(perm)
    tiled = frozenset(j for j, i in enumerate(perm) if i in s.tiled)
    return Carry({0: Shift(s.rank, frozenset(invariant), value, s.masked, tiled)})


def _expand(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    rank = facts.rank(node.outputs[0])
    return Stop("rank", "its shape is not known") if rank is None else Carry({0: s.of_rank(rank)})


def _tile(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    source = node.tensor_in(1)
    repeats = None if source is None else facts.constants.evaluate(source)
    if s.constant_on(range(s.rank)):
        return Carry({0: s})
    if repeats is None or s.value is None:
        return Stop("reshape", "how often it repeats is not known")
    times = [int(r) if i in s.varying else 1 for i, r in enumerate(repeats.reshape(-1))]
    return Carry({0: known(np.tile(s.value, times))})


def _concat(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    first = next(iter(shifts.values()))
    axis = node.attr("axis", 1) % first.rank
    if any(s.value is None for s in shifts.values()):
        return Stop("stops", "it joins a shift that depends on the data with others")
    values = {i: s.value for i, s in shifts.items() if s.value is not None}
    alike = len(values) == len(node.inputs) and all(
        v.shape == first.value.shape and (v == first.value).all() for v in values.values() if first.value is not None
    )
    if alike and axis in first.invariant:
        return Carry({0: first})
    extents = []
    for tensor in node.inputs:
        shape = facts.shape(tensor)
        extent = None if shape is None or len(shape) != first.rank else shape[axis]
        if not isinstance(extent, int):
            return Stop("concat", "it joins it with tensors that are not shifted, of unknown length")
        extents.append(extent)
    parts = [_along(values.get(i), axis, extent, first.rank) for i, extent in enumerate(extents)]
    wide = _alike_but(axis, parts)
    if sum(p.size for p in wide) > MOST_ELEMENTS:
        return Stop("too-large", "the shift would vary in too many places")
    return Carry({0: known(np.concatenate(wide, axis))})


def _alike_but(axis: int, parts: list[Array]) -> list[Array]:
    """The arrays broadcast to each other on every axis but one."""
    thin = [p.shape[:axis] + p.shape[axis + 1 :] for p in parts]
    rest = np.broadcast_shapes(*thin)
    return [np.broadcast_to(p, (*rest[:axis], p.shape[axis], *rest[axis:])) for p in parts]


def _along(value: Array | None, axis: int, extent: int, rank: int) -> Array:
    if value is None:
        value = np.zeros((1,) * rank)
    return np.repeat(value, extent, axis) if value.shape[axis] == 1 else value


def _split(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    axis = node.attr("axis", 0) % s.rank
    outputs = [i for i, t in enumerate(node.outputs) if t.name]
    if axis in s.invariant:
        return Carry(dict.fromkeys(outputs, s))
    if s.value is None:
        return Stop("stops", "it splits a shift that depends on the data")
    sizes = _split_sizes(facts, node, s.value.shape[axis])
    if sizes is None:
        return Stop("split", "the sizes of its parts are not known")
    ends = np.cumsum([0, *sizes])
    return Carry({i: known(s.value.take(range(ends[i], ends[i + 1]), axis)) for i in outputs})


def _split_sizes(facts: Facts, node: Node, length: int) -> list[int] | None:
    source = node.tensor_in(1)
    value = None if source is None else facts.constants.evaluate(source)
    sizes = list(node.attr("split") or []) if source is None else ([] if value is None else [int(v) for v in value])
    if source is not None and value is None:
        return None
    if not sizes:
        n = len(node.outputs)
        step = -(-length // n)
        sizes = [min(step, length - i * step) for i in range(n)]
    return sizes if sum(sizes) == length and len(sizes) == len(node.outputs) else None


def _slice(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    cuts = _cuts(facts, node, s.rank)
    if cuts is None:
        return Carry({0: s}) if s.constant_on(range(s.rank)) else Stop("slice", "where it cuts is not known")
    index: list[slice] = [slice(None)] * s.rank
    for axis, cut in cuts.items():
        if axis in s.varying:
            if s.value is None or cut is None:
                return Stop("slice", "it cuts along an axis on which the shift varies")
            index[axis] = cut
    return Carry({0: s if s.value is None else known(s.value[tuple(index)])})


def _cuts(facts: Facts, node: Node, rank: int) -> dict[int, slice | None] | None:
    """Axis -> slice (None where it is known at run time only); None if the axes are not known."""
    if node.tensor_in(1) is None:
        starts, ends = node.attr("starts") or [], node.attr("ends") or []
        axes = node.attr("axes") or list(range(len(starts)))
        return {a % rank: slice(b, e) for a, b, e in zip(axes, starts, ends, strict=True)}
    parts = [None if (t := node.tensor_in(i)) is None else facts.constants.evaluate(t) for i in range(1, 5)]
    starts_, ends_, axes_, steps_ = parts
    if axes_ is None:
        if node.tensor_in(3) is not None or starts_ is None:
            return None
        axes_ = np.arange(starts_.size)
    if starts_ is None or ends_ is None or (steps_ is None and node.tensor_in(4) is not None):
        return {int(a) % rank: None for a in axes_}
    steps = np.ones_like(axes_) if steps_ is None else steps_
    out: dict[int, slice | None] = {}
    for a, b, e, t in zip(axes_, starts_, ends_, steps, strict=True):
        out[int(a) % rank] = slice(int(b), int(e), int(t)) if t > 0 else None
    return out


def _gather(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    axis = node.attr("axis", 0) % s.rank
    source = node.tensor_in(1)
    index = None if source is None else facts.constants.evaluate(source)
    rank = None if source is None else (facts.rank(source) if index is None else index.ndim)
    if rank is None:
        return Stop("rank", "the number of axes of its indices is not known")
    if axis in s.varying:
        if index is None or s.value is None:
            return Stop("gather", "it picks along an axis on which the shift varies")
        return Carry({0: known(np.take(s.value, index.astype(np.int64), axis))})
    value = None if s.value is None else s.value.reshape(s.value.shape[:axis] + (1,) * rank + s.value.shape[axis + 1 :])
    invariant = {i if i < axis else i + rank - 1 for i in s.invariant if i != axis} | set(range(axis, axis + rank))
    return Carry({0: Shift(s.rank + rank - 1, frozenset(invariant), value)})


SHAPE_RULES: dict[str, Rule] = {
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
}
