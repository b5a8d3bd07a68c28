"""What becomes of a shift when axes are merged, split, dropped or added."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from converter.analysis.facts import Facts
from converter.analysis.outcomes import Carry, Outcome, Rule, Shifts, Stop, only
from converter.analysis.shifts import MOST_ELEMENTS, Array, Shift, known, unknown
from converter.analysis.views import follow, reshaped
from converter.graph import Node
from converter.protos import Size, size

Dims = Sequence[int | str | None]


def _reshape(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    before, after = facts.shape(node.inputs[0]), reshaped(facts, node)
    if before is None or after is None or len(before) != s.rank:
        return _by_axes(facts, node, s, after)
    out = reshape_shift(s, before, after)
    return _by_axes(facts, node, s, after) if out is None else Carry({0: out})


def reshape_shift(s: Shift, before: Dims, after: Dims) -> Shift | None:
    """D after a reshape of the tensor; None where it would not be a small array.

    Last axes that both shapes share stay what they are. Of the others, those from the first axis that D
    varies on must be known numbers, of one product in both shapes; what lies before them is only
    rearranged among itself, where D does not vary.
    """
    if s.value is None:
        return None
    n = _shared_tail(before, after, least=max(s.tiled, default=-1) + 1)
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
        j = _matching_tail(wanted, math.prod(tail))
        if j is not None:
            shape = [int(d) for d in wanted[j:] if isinstance(d, int)]
            return known(_laid_out(value, [*tail, *kept], [*[1] * j, *shape, *kept]), s.masked)
    return _repeated(s, value, dims[at:], wanted, kept)


def _shared_tail(before: Dims, after: Dims, least: int) -> int:
    """How many of the last axes both shapes share, numbers or symbols; never any before axis `least`."""
    n = 0
    while n < min(len(before) - least, len(after)) and before[-1 - n] is not None and before[-1 - n] == after[-1 - n]:
        n += 1
    return n


def _laid_out(value: Array, sizes: Sequence[int], shape: Sequence[int]) -> Array:
    """The value's last axes broadcast to `sizes`, in another shape."""
    full = np.broadcast_to(value.reshape(value.shape[value.ndim - len(sizes) :]), sizes)
    return np.ascontiguousarray(full).reshape(shape)


def _repeated(s: Shift, value: Array, tail: Dims, after: Dims, kept: tuple[int, ...]) -> Shift | None:
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
    return known(_laid_out(value, [*sizes, *kept], shape), s.masked, [j - 1])


def _matching_tail(after: Dims, size: int) -> int | None:
    product = 1
    for j in range(len(after), -1, -1):
        if product == size:
            return j
        d = after[j - 1] if j else None
        if not isinstance(d, int):
            return None
        product *= d
    return None


def _by_axes(facts: Facts, node: Node, s: Shift, after: Dims | None) -> Outcome:
    """Only the axes: one that the reshape keeps whole, and along which D is the same, stays so."""
    if after is None:
        return Stop("reshape", "its shape is not known")
    kept = [follow(facts, node, i) for i in s.invariant]
    return Carry({0: unknown(len(after), [k for k in kept if isinstance(k, int)], s.masked)})


def _squeeze(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    moved = {i: follow(facts, node, i) for i in range(s.rank)}
    kept = {i: j for i, j in moved.items() if isinstance(j, int)}
    unclear = [j for j in moved.values() if isinstance(j, str) and "drops the channel axis" not in j]
    if unclear:
        return Stop("reshape", unclear[0])
    if node.op == "Squeeze" and any(i in s.varying for i in moved if i not in kept):
        return Stop("varies", "the shift varies along the axis that it drops")
    rank = len(kept) if node.op == "Squeeze" else s.rank + _n_axes(facts, node)
    invariant = set(range(rank)) - {kept[i] for i in s.varying}
    if s.value is None:
        return Carry({0: unknown(rank, invariant, s.masked)})
    shape = [1] * rank
    for i, j in kept.items():
        shape[j] = s.value.shape[i]
    return Carry({0: Shift(rank, frozenset(invariant), s.value.reshape(shape), s.masked)})


def _n_axes(facts: Facts, node: Node) -> int:
    source = node.tensor_in(1)
    if source is None:
        return len(node.attr("axes") or [])
    value = facts.constants.evaluate(source)
    return 0 if value is None else int(value.size)


RESHAPE_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Reshape", "Flatten"), _reshape),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _squeeze),
}
