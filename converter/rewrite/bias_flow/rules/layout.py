"""What becomes of a shift under operators that move, repeat or pick elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from converter.model.graph import Node
from converter.model.shapes.symbols import Size, size
from converter.rewrite.analysis.channel_axis import follow_axis, reshape_dims, squeezed_axes, unsqueezed_axes
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.bias_flow.shift import (
    MOST_ELEMENTS,
    Array,
    Block,
    Effect,
    Propagate,
    Rule,
    Shift,
    Shifts,
    one_shift,
)

Dims = Sequence[int | str | None]


@one_shift
def _reshape(facts: Facts, node: Node, s: Shift) -> Shift | Effect:
    before, after = facts.shape(node.inputs[0]), reshape_dims(facts, node)
    if before is None or after is None or len(before) != s.rank:
        return _reshape_axes(facts, node, s, after)
    out = reshape_shift(s, before, after)
    return _reshape_axes(facts, node, s, after) if out is None else out


def reshape_shift(s: Shift, before: Dims, after: Dims) -> Shift | None:
    """D after a reshape of the tensor; None where it would not be a small array.

    Last axes that both shapes share stay what they are. Of the others, those from the first axis that D
    varies on must be known numbers, of one product in both shapes; what lies before them is only
    rearranged among itself, where D does not vary.
    """
    if s.value is None:
        return None
    n = _count_shared(before, after, least=max(s.tiled, default=-1) + 1)
    dims, wanted, kept = list(before[: len(before) - n]), after[: len(after) - n], s.value.shape[s.rank - n :]
    value, at = s.value, min(next(iter(s.varying), s.rank), len(dims))
    if s.tiled:
        if s.tiled != {at}:
            return None
        # The axis is one of unknown length, along which nothing varies, and behind it one of the period.
        dims[at : at + 1] = [None, value.shape[at]]
        value, at = np.expand_dims(value, at), at + 1
    for k in range(at, -1, -1):
        tail = [d for d in dims[k:] if isinstance(d, int)]
        if len(tail) < len(dims) - k or math.prod((*tail, *kept)) > MOST_ELEMENTS:
            break
        j = _match_tail(wanted, math.prod(tail))
        if j is not None:
            shape = [int(d) for d in wanted[j:] if isinstance(d, int)]
            return Shift.of_value(_reshape_tail(value, [*tail, *kept], [*[1] * j, *shape, *kept]), s.masked)
    return _repeat_along(s, value, dims[at:], wanted, kept)


def _count_shared(before: Dims, after: Dims, least: int) -> int:
    """How many of the last axes both shapes share, numbers or symbols; never any before axis `least`."""
    n = 0
    while n < min(len(before) - least, len(after)) and before[-1 - n] is not None and before[-1 - n] == after[-1 - n]:
        n += 1
    return n


def _reshape_tail(value: Array, sizes: Sequence[int], shape: Sequence[int]) -> Array:
    """The value's last axes broadcast to `sizes`, in another shape."""
    full = np.broadcast_to(value.reshape(value.shape[value.ndim - len(sizes) :]), sizes)
    return np.ascontiguousarray(full).reshape(shape)


def _repeat_along(s: Shift, value: Array, tail: Dims, after: Dims, kept: tuple[int, ...]) -> Shift | None:
    """D where an axis of unknown length takes up some of those that D varies on: it repeats along that axis."""
    sizes = [d for d in tail if isinstance(d, int)]
    behind, j = 1, len(after)
    while j and isinstance(d := after[j - 1], int):
        behind, j = behind * d, j - 1
    whole = math.prod(sizes)
    open_ = after[j - 1] if j else None
    if len(sizes) < len(tail) or not isinstance(open_, str) or not 0 < behind < whole or whole % behind:
        return None
    period, length = whole // behind, size(open_)
    if whole * math.prod(kept) > MOST_ELEMENTS or not isinstance(length, Size) or length.factor % period:
        return None
    shape = [*[1] * (j - 1), period, *(int(d) for d in after[j:] if isinstance(d, int)), *kept]
    return Shift.of_value(_reshape_tail(value, [*sizes, *kept], shape), s.masked, [j - 1])


def _match_tail(after: Dims, size: int) -> int | None:
    product = 1
    for j in range(len(after), -1, -1):
        if product == size:
            return j
        d = after[j - 1] if j else None
        if not isinstance(d, int):
            return None
        product *= d
    return None


def _reshape_axes(facts: Facts, node: Node, s: Shift, after: Dims | None) -> Effect:
    """Only the axes: one that the reshape keeps whole, and along which D is the same, stays so."""
    if after is None:
        return Block("reshape", "its shape is not known")
    kept = [follow_axis(facts, node, i) for i in s.invariant]
    return Propagate({0: Shift.of_axes(len(after), [k for k in kept if isinstance(k, int)], s.masked)})


@one_shift
def _squeeze(facts: Facts, node: Node, s: Shift) -> Shift | Effect:
    axes = squeezed_axes(facts, node)
    if isinstance(axes, str):
        return Block("reshape", axes)
    if not s.constant_on(axes):
        return Block("varies", "the shift varies along the axis that it drops")
    return s.move_axes(lambda d: np.squeeze(d, tuple(axes)))


@one_shift
def _unsqueeze(facts: Facts, node: Node, s: Shift) -> Shift | Effect:
    axes = unsqueezed_axes(facts, node)
    if isinstance(axes, str):
        return Block("reshape", axes)
    return s.move_axes(lambda d: np.expand_dims(d, tuple(axes)))


@one_shift
def _transpose(_: Facts, node: Node, s: Shift) -> Shift | Effect:
    perm = list(node.attr("perm") or range(s.rank)[::-1])
    if sorted(perm) != list(range(s.rank)):
        return Block("rank", "its permutation does not fit")
    tiled = frozenset(j for j, i in enumerate(perm) if i in s.tiled)
    return replace(s.move_axes(lambda d: d.transpose(perm)), tiled=tiled)


@one_shift
def _expand(facts: Facts, node: Node, s: Shift) -> Shift | Effect:
    rank = facts.rank(node.outputs[0])
    return Block("rank", "its shape is not known") if rank is None else s.of_rank(rank)


@one_shift
def _tile(facts: Facts, node: Node, s: Shift) -> Shift | Effect:
    source = node.tensor_in(1)
    repeats = None if source is None else facts.constants.evaluate(source)
    if s.constant_on(range(s.rank)):
        return s
    if repeats is None or s.value is None:
        return Block("reshape", "how often it repeats is not known")
    times = [int(r) if i in s.varying else 1 for i, r in enumerate(repeats.reshape(-1))]
    return Shift.of_value(np.tile(s.value, times))


def _concat(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    first = next(iter(shifts.values()))
    axis = node.attr("axis", 1) % first.rank
    if any(s.value is None for s in shifts.values()):
        return Block("stops", "it joins a shift that depends on the data with others")
    values = {i: s.value for i, s in shifts.items() if s.value is not None}
    alike = len(values) == len(node.inputs) and all(
        v.shape == first.value.shape and (v == first.value).all() for v in values.values() if first.value is not None
    )
    if alike and axis in first.invariant:
        return Propagate({0: first})
    extents = []
    for tensor in node.inputs:
        shape = facts.shape(tensor)
        extent = None if shape is None or len(shape) != first.rank else shape[axis]
        if not isinstance(extent, int):
            return Block("concat", "it joins it with tensors that are not shifted, of unknown length")
        extents.append(extent)
    parts = [_extend_along(values.get(i), axis, extent, first.rank) for i, extent in enumerate(extents)]
    wide = _broadcast_except(axis, parts)
    if sum(p.size for p in wide) > MOST_ELEMENTS:
        return Block("too-large", "the shift would vary in too many places")
    return Propagate({0: Shift.of_value(np.concatenate(wide, axis))})


def _broadcast_except(axis: int, parts: list[Array]) -> list[Array]:
    """The arrays broadcast to each other on every axis but one."""
    thin = [p.shape[:axis] + p.shape[axis + 1 :] for p in parts]
    rest = np.broadcast_shapes(*thin)
    return [np.broadcast_to(p, (*rest[:axis], p.shape[axis], *rest[axis:])) for p in parts]


def _extend_along(value: Array | None, axis: int, extent: int, rank: int) -> Array:
    if value is None:
        value = np.zeros((1,) * rank)
    return np.repeat(value, extent, axis) if value.shape[axis] == 1 else value


@one_shift
def _split(facts: Facts, node: Node, s: Shift) -> Effect:
    axis = node.attr("axis", 0) % s.rank
    outputs = [i for i, t in enumerate(node.outputs) if t.name]
    if axis in s.invariant:
        return Propagate(dict.fromkeys(outputs, s))
    if s.value is None:
        return Block("stops", "it splits a shift that depends on the data")
    sizes = _read_split_sizes(facts, node, s.value.shape[axis])
    if sizes is None:
        return Block("split", "the sizes of its parts are not known")
    ends = np.cumsum([0, *sizes])
    return Propagate({i: Shift.of_value(s.value.take(range(ends[i], ends[i + 1]), axis)) for i in outputs})


def _read_split_sizes(facts: Facts, node: Node, length: int) -> list[int] | None:
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


@one_shift
def _slice(facts: Facts, node: Node, s: Shift) -> Shift | Effect:
    cuts = _read_slices(facts, node, s.rank)
    if cuts is None:
        return s if s.constant_on(range(s.rank)) else Block("slice", "where it cuts is not known")
    index: list[slice] = [slice(None)] * s.rank
    for axis, cut in cuts.items():
        if axis in s.varying:
            if s.value is None or cut is None:
                return Block("slice", "it cuts along an axis on which the shift varies")
            index[axis] = cut
    return s if s.value is None else Shift.of_value(s.value[tuple(index)])


def _read_slices(facts: Facts, node: Node, rank: int) -> dict[int, slice | None] | None:
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


@one_shift
def _gather(facts: Facts, node: Node, s: Shift) -> Shift | Effect:
    axis = node.attr("axis", 0) % s.rank
    source = node.tensor_in(1)
    index = None if source is None else facts.constants.evaluate(source)
    rank = None if source is None else (facts.rank(source) if index is None else index.ndim)
    if rank is None:
        return Block("rank", "the number of axes of its indices is not known")
    if axis in s.varying:
        if index is None or s.value is None:
            return Block("gather", "it picks along an axis on which the shift varies")
        return Shift.of_value(np.take(s.value, index.astype(np.int64), axis))
    return s.move_axes(lambda d: d.reshape(d.shape[:axis] + (1,) * rank + d.shape[axis + 1 :]))


@one_shift
def _pad(facts: Facts, node: Node, s: Shift) -> Shift | Effect:
    source = node.tensor_in(1)
    value = None if source is None else facts.constants.evaluate(source)
    pads = list(node.attr("pads") or []) if source is None else (None if value is None else [int(v) for v in value])
    mode = node.attr("mode", "constant")
    if pads is None:
        return Block("padding", "how much it pads is not known")
    if not any(pads):
        return s
    if mode == "constant" or any(p < 0 for p in pads):
        return Block("padding", "it pads with a constant that the shift does not reach")
    axes = list(range(s.rank))
    chosen = node.tensor_in(3)
    if chosen is not None:
        given = facts.constants.evaluate(chosen)
        if given is None:
            return Block("padding", "the axes that it pads are not known")
        axes = [int(a) % s.rank for a in given.reshape(-1)]
    n = len(pads) // 2
    padded = [a for a, b, e in zip(axes, pads[:n], pads[n:], strict=True) if b or e]
    return s if s.constant_on(padded) else Block("varies", "the shift varies along the axes that it pads")


@one_shift
def _resize(facts: Facts, node: Node, s: Shift) -> Shift | Effect:
    if node.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return Block("extrapolation", "it fills in a value outside of the picture, which the shift does not reach")
    if node.attr("antialias", 0):
        return Block("stops", "it smooths while it resizes")
    before, after = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    for axis in s.varying:
        sizes = [None if d is None or axis >= len(d) else d[axis] for d in (before, after)]
        if sizes[0] is None or sizes[0] != sizes[1]:
            return Block("varies", "it may resize an axis along which the shift varies")
    return s


@one_shift
def _depth_to_space(_: Facts, node: Node, s: Shift) -> Shift | Effect:
    if s.value is None or not s.constant_on((0, 2, 3)):
        return Block("varies", "the shift varies over positions")
    if 1 in s.invariant:
        return s
    n = node.attr("blocksize") ** 2
    d = s.value.reshape(-1)
    phases = d.reshape(n, -1) if node.attr("mode", "DCR") == "DCR" else d.reshape(-1, n).T
    if (phases == phases[0]).all():
        return Shift.of_value(phases[0].reshape(1, -1, 1, 1))
    return Block("phases", "it lays channels that are shifted differently side by side")


@one_shift
def _space_to_depth(_: Facts, node: Node, s: Shift) -> Shift | Effect:
    if s.value is None or not s.constant_on((0, 2, 3)):
        return Block("varies", "the shift varies over positions")
    if 1 in s.invariant:
        return s
    return Shift.of_value(np.tile(s.value, (1, node.attr("blocksize") ** 2, 1, 1)))


LAYOUT_RULES: dict[str, Rule] = {
    "Reshape": Rule(_reshape, masked=True, tiled=True, trunk=True),
    "Flatten": Rule(_reshape),
    "Squeeze": Rule(_squeeze, masked=True),
    "Unsqueeze": Rule(_unsqueeze, masked=True),
    "Transpose": Rule(_transpose, masked=True, tiled=True, trunk=True),
    "Expand": Rule(_expand),
    "Tile": Rule(_tile),
    "Concat": Rule(_concat),
    "Split": Rule(_split),
    "Slice": Rule(_slice),
    "Gather": Rule(_gather),
    "Pad": Rule(_pad),
    **dict.fromkeys(("Resize", "Upsample"), Rule(_resize)),
    "DepthToSpace": Rule(_depth_to_space),
    "SpaceToDepth": Rule(_space_to_depth),
}
