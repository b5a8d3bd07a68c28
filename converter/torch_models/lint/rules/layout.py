"""Rules of operators that move elements: a change moves with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from converter.torch_models.lint.shift import (
    Call,
    Effect,
    Factor,
    Shift,
    Support,
    new_shift,
    normalize_axes,
    normalize_axis,
    shape_of,
)


def match_axes(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Match the axes of a reshape: the smallest runs of both sides that hold equally many elements.

    >>> groups((2, 6, 5), (2, 2, 3, 5))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [], []
        n, m = 1, 1
        while True:
            if n <= m and i < len(before):
                left.append(i)
                n, i = n * before[i], i + 1
            elif j < len(after):
                right.append(j)
                m, j = m * after[j], j + 1
            else:
                break
            if n == m and left and right:
                break
        found.append((left, right))
    return found


def refine_group(left: Sequence[int], right: Sequence[int]) -> list[tuple[int, int, int]] | None:
    """The finest axes of which both sides of a group are made: size, place in `left`, place in `right`.

    None where there are none, as of 6 elements seen as 2 x 3 and as 3 x 2.

    >>> refine_group((2, 6, 4), (24, 2))
    [(2, 0, 0), (6, 1, 0), (2, 2, 0), (2, 2, 1)]
    """
    found, i, j = [], 0, 0
    left, right = list(left), list(right)
    while i < len(left) and j < len(right):
        if left[i] == 1 or right[j] == 1:
            i, j = i + (left[i] == 1), j + (right[j] == 1)
            continue
        # The slowest axes first: of the larger one, what is left beside the smaller one goes on.
        size = min(left[i], right[j])
        if not size or left[i] % size or right[j] % size:
            return None
        found.append((size, i, j))
        left[i], right[j] = left[i] // size, right[j] // size
    return found


def reshape(call: Call) -> Effect:
    """Reshapes of all spellings, through the shapes that they had."""
    change = call.change("self", "input")
    if not isinstance(change, Shift):
        return call.block()
    before, after = call.shape("self" if "self" in call.args else "input"), call.out_shape
    if math.prod(before) != math.prod(after):
        return call.block("changes the number of elements")
    return regroup(change, before, after)


def regroup(change: Shift, before: Sequence[int], after: Sequence[int]) -> Shift:
    """A change of a tensor whose shape was `before`, as it is in `after`."""
    parts = [(factor, axis) for axis, size in enumerate(before) for factor in change.factors(axis, size)]
    moves: dict[int, int] = {}
    merged: dict[int, tuple[Factor, ...]] = {}
    spread: set[int] = set()
    support = None
    for left, right in match_axes([factor.size for factor, _ in parts], after):
        wide = [axis for axis in right if after[axis] != 1]
        varying = [k for k in left if parts[k][0].varies]
        if not varying:
            continue
        narrow = [k for k in left if parts[k][0].size != 1]
        if len(narrow) == 1 and len(wide) == 1 and varying == narrow:
            (k,) = narrow
            if _is_whole(parts, k):
                moves[parts[k][1]] = wide[0]
            else:
                spread.add(wide[0])
        elif not narrow:  # axes of size one, which vary with other inputs perhaps
            spread.update(right)
        else:
            finest = refine_group([parts[k][0].size for k in left], [after[axis] for axis in right])
            if finest is None or not set(varying) <= set(narrow):
                spread.update(wide)
                continue
            for place, axis in enumerate(right):
                made = tuple(Factor(size, left[i] in varying) for size, i, j in finest if j == place)
                if any(factor.varies for factor in made):
                    spread.add(axis)
                    merged |= {axis: made} if len(made) > 1 else {}
            if len(narrow) == 1 and change.support is not None and change.support.axis == parts[narrow[0]][1]:
                support = _split_support(change.support, after, wide)
    if not spread:
        return change.move_axes(moves.get)
    made_of = new_shift(spread | set(moves.values()), support)
    return replace(made_of, masked=change.masked, merged=tuple(merged.items()))


def _is_whole(parts: Sequence[tuple[Factor, int]], index: int) -> bool:
    """Whether a part is all of the axis that it comes from."""
    return sum(axis == parts[index][1] for _, axis in parts) == 1


def _split_support(support: Support, after: Sequence[int], wide: list[int]) -> Support | None:
    inner = math.prod(after[axis] for axis in wide[1:])
    if not support.start % inner and not support.stop % inner:
        return Support(wide[0], support.start // inner, support.stop // inner)
    if len(wide) == 1 or support.start // inner != (support.stop - 1) // inner:
        return None
    # Within one index of the first axis, as the keys of one head: known of all of its indices is what the rest says.
    start = support.start % inner
    return _split_support(Support(support.axis, start, start + support.stop - support.start), after, wide[1:])


Rule = Callable[[Call], Any]


def pass_on(call: Call) -> Effect:
    """The same values in the same places, whatever their precision."""
    meta = call.node.meta.get("val")
    if not (meta is None or meta.dtype.is_floating_point or meta.dtype.is_complex):
        return call.block("cast to whole numbers")
    return call.change("self", "input", "tensor")  # type: ignore[no-any-return]


def _move_axes(where: Callable[[Call, int], dict[int, int]]) -> Rule:
    def rule(call: Call) -> Effect:
        change = call.change("self", "input")
        if not isinstance(change, Shift):
            return call.block()
        return change.move_axes(where(call, len(call.shape("self"))).get)

    return rule


def _permute(call: Call, rank: int) -> dict[int, int]:
    return {axis: place for place, axis in enumerate(normalize_axes(call.args["dims"], rank))}


def _transpose(call: Call, rank: int) -> dict[int, int]:
    names = ("dim0", "dim1") if "dim0" in call.args else ("axis0", "axis1")
    a, b = (normalize_axis(call.args[name], rank) for name in names)
    return {axis: b if axis == a else a if axis == b else axis for axis in range(rank)}


def _reverse(call: Call, rank: int) -> dict[int, int]:
    return {axis: rank - 1 - axis for axis in range(rank)} if rank > 1 else {0: 0}


def _movedim(call: Call, rank: int) -> dict[int, int]:
    source, target = normalize_axes(call.args["source"], rank), normalize_axes(call.args["destination"], rank)
    rest = [axis for axis in range(rank) if axis not in source]
    order = dict(zip(target, source, strict=True))
    places = [order[place] if place in order else rest.pop(0) for place in range(rank)]
    return {axis: place for place, axis in enumerate(places)}


def _unsqueeze(call: Call, rank: int) -> dict[int, int]:
    new = normalize_axis(call.args["dim"], rank + 1)
    return {axis: axis + (axis >= new) for axis in range(rank)}


def _squeeze(call: Call, rank: int) -> dict[int, int]:
    shape = call.shape("self")
    gone = {axis for axis in normalize_axes(call.args.get("dim"), rank) if shape[axis] == 1}
    kept = [axis for axis in range(rank) if axis not in gone]
    return {axis: place for place, axis in enumerate(kept)}


def _expand(call: Call) -> Effect:
    return call.align(call.change("self"), call.shape("self"))


def _select(call: Call) -> Effect:
    change, rank = call.change("self"), len(call.shape("self"))
    if not isinstance(change, Shift) or not isinstance(call.args["index"], int):
        return call.block()
    axis, size = normalize_axis(call.args["dim"], rank), call.shape("self")[normalize_axis(call.args["dim"], rank)]
    return _at(change, axis, normalize_axis(call.args["index"], size))


def _at(change: Shift, axis: int, index: int) -> Effect:
    support = change.support
    if support is not None and support.axis == axis and not support.start <= index < support.stop:
        return None
    moves = {a: a - (a > axis) for a in range(64) if a != axis}
    if axis in change.varies:
        return change.with_new_values(moves[a] for a in change.varies if a != axis)
    return change.move_axes(moves.get)


def _unbind(call: Call) -> Any:
    change, shape = call.change("self"), call.shape("self")
    if not isinstance(change, Shift):
        return call.block()
    axis = normalize_axis(call.args["dim"], len(shape))
    return tuple(_at(change, axis, index) for index in range(shape[axis]))


def _cut(change: Shift, axis: int, start: int, stop: int) -> Effect:
    """What is left of a change between two indices of an axis."""
    support = change.support
    if support is not None and support.axis == axis:
        low, high = max(support.start, start), min(support.stop, stop)
        if low >= high:
            return None
        rest = None if (low, high) == (start, stop) else Support(axis, low - start, high - start)
        return new_shift(change.varies, rest)
    if axis in change.varies:
        return change.with_new_values(change.varies)
    return change


def _slice(call: Call) -> Effect:
    change, shape = call.change("self"), call.shape("self")
    if not isinstance(change, Shift) or call.args.get("step", 1) != 1:
        return change.with_new_values(change.varies) if isinstance(change, Shift) else call.block()
    axis = normalize_axis(call.args["dim"], len(shape))
    size = shape[axis]
    start, stop = call.args.get("start"), call.args.get("end")
    low, high = (0 if start is None else start), (size if stop is None else stop)
    low, high = (min(max(normalize_axis(bound, size), 0), size) for bound in (low, high))
    return _cut(change, axis, low, high)


def _narrow(call: Call) -> Effect:
    change, shape = call.change("self"), call.shape("self")
    if not isinstance(change, Shift) or not isinstance(call.args["start"], int):
        return call.block()
    axis = normalize_axis(call.args["dim"], len(shape))
    start = normalize_axis(call.args["start"], shape[axis])
    return _cut(change, axis, start, start + call.args["length"])


def _pieces(call: Call) -> Any:
    """``split`` and ``chunk`` of all spellings: the sizes are read from the results."""
    change, shape = call.change("self"), call.shape("self")
    if not isinstance(change, Shift):
        return call.block()
    axis = normalize_axis(call.args["dim"], len(shape))
    found, start = [], 0
    for part in call.node.meta["val"]:
        stop = start + int(part.shape[axis])
        found.append(_cut(change, axis, start, stop))
        start = stop
    return tuple(found)


def _make_stirring_rule(*names: str) -> Rule:
    """Other elements along the axes that are named, so equal ones where the change does not vary."""

    def rule(call: Call) -> Effect:
        change, rank = call.change("self"), len(call.shape("self"))
        if not isinstance(change, Shift):
            return call.block()
        axes = normalize_axes(next((call.args[name] for name in names if name in call.args), None), rank)
        return change.with_new_values(change.varies) if change.touches(axes) else change

    return rule


def _repeat(call: Call) -> Effect:
    change = call.change("self")
    if not isinstance(change, Shift):
        return call.block()
    offset = call.rank - len(call.shape("self"))
    return change.with_new_values(axis + offset for axis in change.varies)


def _cat(call: Call) -> Effect:
    tensors, changes = call.args["tensors"], call.change("tensors")
    filled = [k for k, tensor in enumerate(tensors) if math.prod(shape_of(tensor))]
    if len(filled) == 1:  # the others hold nothing, as a cache of keys does at the first call
        return changes[filled[0]]  # type: ignore[no-any-return]
    axis = normalize_axis(call.args.get("dim", 0), call.rank)
    varies: set[int] = {axis}
    masked = False
    for tensor, change in zip(tensors, changes, strict=True):
        if change is None:
            continue
        if not isinstance(change, Shift) or not call.change_of(tensor):
            return call.block()
        varies |= change.varies
        masked |= change.masked
    if masked:
        return call.block("joined behind a mask")
    return new_shift(varies)


def _stack(call: Call) -> Effect:
    changes, rank = call.change("tensors"), call.rank
    axis = normalize_axis(call.args.get("dim", 0), rank)
    if not all(change is None or (isinstance(change, Shift) and not change.masked) for change in changes):
        return call.block()
    varies = {a + (a >= axis) for change in changes if change for a in change.varies}
    return new_shift(varies | {axis})


def _shuffle(call: Call) -> Effect:
    """Pixel shuffle and its inverse: channels become places, so what varies on channels varies on all three."""
    change, rank = call.change("self"), call.rank
    if not isinstance(change, Shift):
        return call.block()
    last = {rank - 3, rank - 2, rank - 1}
    return change.with_new_values(change.varies | last) if change.touches(last) else change


def _unfold(call: Call) -> Effect:
    """Windows as columns: channels and the places in a window become one axis, and the windows another."""
    change, shape = call.change("self"), call.shape("self")
    if not isinstance(change, Shift) or change.masked or len(shape) != 4:
        return call.block()
    if change.touches((2, 3)) or any(call.args["padding"]):
        return change.with_new_values((change.varies & {0}) | {1, 2})
    columns = call.out_shape
    return regroup(change.with_new_values(change.varies), (*shape[:2], columns[1] // shape[1], columns[2]), columns)


def _fold(call: Call) -> Effect:
    """Columns back into windows; places that lie in several windows get the sum, those in none get nothing."""
    change, out = call.change("self"), call.out_shape
    if not isinstance(change, Shift) or change.masked or len(out) != 4:
        return call.block()
    kernel, columns = list(call.args["kernel_size"]), call.shape("self")
    moved = regroup(change, columns, (*out[:2], columns[1] // out[1], columns[2]))
    once = list(call.args["stride"]) == kernel and not any(call.args["padding"]) and set(call.args["dilation"]) == {1}
    if moved.touches((2, 3)) or not once or any(size % k for size, k in zip(out[2:], kernel, strict=True)):
        return moved.with_new_values(moved.varies | {2, 3})
    return moved.with_new_values(moved.varies)


def _channels(call: Call) -> Effect:
    change = call.change("self", "input")
    return change.with_new_values(change.varies) if isinstance(change, Shift) else call.block()


RULES: dict[str, Rule] = {
    **dict.fromkeys("view reshape _unsafe_view flatten unflatten view_as reshape_as _reshape_copy".split(), reshape),
    **dict.fromkeys(
        "contiguous clone alias detach lift_fresh lift_fresh_copy to _to_copy type_as float double half"
        " positive requires_grad_ expand_copy".split(),
        pass_on,
    ),
    "permute": _move_axes(_permute),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _move_axes(_transpose)),
    **dict.fromkeys(("t", "numpy_T", "mT"), _move_axes(_reverse)),
    **dict.fromkeys(("movedim", "moveaxis"), _move_axes(_movedim)),
    "unsqueeze": _move_axes(_unsqueeze),
    "squeeze": _move_axes(_squeeze),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), _expand),
    "select": _select,
    "unbind": _unbind,
    "slice": _slice,
    "narrow": _narrow,
    **dict.fromkeys("split split_with_sizes chunk tensor_split unsafe_split unsafe_chunk".split(), _pieces),
    **dict.fromkeys(("roll", "flip"), _make_stirring_rule("dims")),
    **dict.fromkeys(("repeat", "tile"), _repeat),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "stack": _stack,
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _shuffle),
    "im2col": _unfold,
    "col2im": _fold,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _channels),
}
