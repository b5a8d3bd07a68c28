"""Rules of operators that move elements: a change moves with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converter.torch_models.lint.call import Call, axes_of, axis_of
from converter.torch_models.lint.rules.reshapes import reshape
from converter.torch_models.lint.shift import Change, Shift, Support, shift

Rule = Callable[[Call], Any]


def same(call: Call) -> Change:
    """The same values in the same places, whatever their precision."""
    meta = call.node.meta.get("val")
    if not (meta is None or meta.dtype.is_floating_point or meta.dtype.is_complex):
        return call.live("cast to whole numbers")
    return call.change("self", "input", "tensor")  # type: ignore[no-any-return]


def _moved(where: Callable[[Call, int], dict[int, int]]) -> Rule:
    def rule(call: Call) -> Change:
        change = call.change("self", "input")
        if not isinstance(change, Shift):
            return call.live()
        return change.moved(where(call, len(call.shape("self"))).get)

    return rule


def _permuted(call: Call, rank: int) -> dict[int, int]:
    return {axis: place for place, axis in enumerate(axes_of(call.args["dims"], rank))}


def _swapped(call: Call, rank: int) -> dict[int, int]:
    names = ("dim0", "dim1") if "dim0" in call.args else ("axis0", "axis1")
    a, b = (axis_of(call.args[name], rank) for name in names)
    return {axis: b if axis == a else a if axis == b else axis for axis in range(rank)}


def _turned(call: Call, rank: int) -> dict[int, int]:
    return {axis: rank - 1 - axis for axis in range(rank)} if rank > 1 else {0: 0}


def _moveddim(call: Call, rank: int) -> dict[int, int]:
    source, target = axes_of(call.args["source"], rank), axes_of(call.args["destination"], rank)
    rest = [axis for axis in range(rank) if axis not in source]
    order = dict(zip(target, source, strict=True))
    places = [order[place] if place in order else rest.pop(0) for place in range(rank)]
    return {axis: place for place, axis in enumerate(places)}


def _unsqueezed(call: Call, rank: int) -> dict[int, int]:
    new = axis_of(call.args["dim"], rank + 1)
    return {axis: axis + (axis >= new) for axis in range(rank)}


def _squeezed(call: Call, rank: int) -> dict[int, int]:
    shape = call.shape("self")
    gone = {axis for axis in axes_of(call.args.get("dim"), rank) if shape[axis] == 1}
    kept = [axis for axis in range(rank) if axis not in gone]
    return {axis: place for place, axis in enumerate(kept)}


def _expanded(call: Call) -> Change:
    return call.aligned(call.change("self"), call.shape("self"))


def _select(call: Call) -> Change:
    change, rank = call.change("self"), len(call.shape("self"))
    if not isinstance(change, Shift) or not isinstance(call.args["index"], int):
        return call.live()
    axis, size = axis_of(call.args["dim"], rank), call.shape("self")[axis_of(call.args["dim"], rank)]
    return _at(change, axis, axis_of(call.args["index"], size))


def _at(change: Shift, axis: int, index: int) -> Change:
    support = change.support
    if support is not None and support.axis == axis and not support.start <= index < support.stop:
        return None
    moves = {a: a - (a > axis) for a in range(64) if a != axis}
    if axis in change.varies:
        return change.changed(moves[a] for a in change.varies if a != axis)
    return change.moved(moves.get)


def _unbind(call: Call) -> Any:
    change, shape = call.change("self"), call.shape("self")
    if not isinstance(change, Shift):
        return call.live()
    axis = axis_of(call.args["dim"], len(shape))
    return tuple(_at(change, axis, index) for index in range(shape[axis]))


def _cut(change: Shift, axis: int, start: int, stop: int) -> Change:
    """What is left of a change between two indices of an axis."""
    support = change.support
    if support is not None and support.axis == axis:
        low, high = max(support.start, start), min(support.stop, stop)
        if low >= high:
            return None
        rest = None if (low, high) == (start, stop) else Support(axis, low - start, high - start)
        return shift(change.varies, rest)
    if axis in change.varies:
        return change.changed(change.varies)
    return change


def _slice(call: Call) -> Change:
    change, shape = call.change("self"), call.shape("self")
    if not isinstance(change, Shift) or call.args.get("step", 1) != 1:
        return change.changed(change.varies) if isinstance(change, Shift) else call.live()
    axis = axis_of(call.args["dim"], len(shape))
    size = shape[axis]
    start, stop = call.args.get("start"), call.args.get("end")
    low, high = (0 if start is None else start), (size if stop is None else stop)
    low, high = (min(max(axis_of(bound, size), 0), size) for bound in (low, high))
    return _cut(change, axis, low, high)


def _narrow(call: Call) -> Change:
    change, shape = call.change("self"), call.shape("self")
    if not isinstance(change, Shift) or not isinstance(call.args["start"], int):
        return call.live()
    axis = axis_of(call.args["dim"], len(shape))
    start = axis_of(call.args["start"], shape[axis])
    return _cut(change, axis, start, start + call.args["length"])


def _pieces(call: Call) -> Any:
    """``split`` and ``chunk`` of all spellings: the sizes are read from the results."""
    change, shape = call.change("self"), call.shape("self")
    if not isinstance(change, Shift):
        return call.live()
    axis = axis_of(call.args["dim"], len(shape))
    found, start = [], 0
    for part in call.node.meta["val"]:
        stop = start + int(part.shape[axis])
        found.append(_cut(change, axis, start, stop))
        start = stop
    return tuple(found)


def _stirred(*names: str) -> Rule:
    """Other elements along the axes that are named, so equal ones where the change does not vary."""

    def rule(call: Call) -> Change:
        change, rank = call.change("self"), len(call.shape("self"))
        if not isinstance(change, Shift):
            return call.live()
        axes = axes_of(next((call.args[name] for name in names if name in call.args), None), rank)
        return change.changed(change.varies) if change.touches(axes) else change

    return rule


def _repeat(call: Call) -> Change:
    change = call.change("self")
    if not isinstance(change, Shift):
        return call.live()
    offset = call.rank - len(call.shape("self"))
    return change.changed(axis + offset for axis in change.varies)


def _cat(call: Call) -> Change:
    tensors, changes = call.args["tensors"], call.change("tensors")
    axis = axis_of(call.args.get("dim", 0), call.rank)
    varies: set[int] = {axis}
    masked = False
    for tensor, change in zip(tensors, changes, strict=True):
        if change is None:
            continue
        if not isinstance(change, Shift) or not call.change_of(tensor):
            return call.live()
        varies |= change.varies
        masked |= change.masked
    if masked:
        return call.live("joined behind a mask")
    return shift(varies)


def _stack(call: Call) -> Change:
    changes, rank = call.change("tensors"), call.rank
    axis = axis_of(call.args.get("dim", 0), rank)
    if not all(change is None or (isinstance(change, Shift) and not change.masked) for change in changes):
        return call.live()
    varies = {a + (a >= axis) for change in changes if change for a in change.varies}
    return shift(varies | {axis})


def _shuffle(call: Call) -> Change:
    """Pixel shuffle and its inverse: channels become places, so what varies on channels varies on all three."""
    change, rank = call.change("self"), call.rank
    if not isinstance(change, Shift):
        return call.live()
    last = {rank - 3, rank - 2, rank - 1}
    return change.changed(change.varies | last) if change.touches(last) else change


def _channels(call: Call) -> Change:
    change = call.change("self", "input")
    return change.changed(change.varies) if isinstance(change, Shift) else call.live()


RULES: dict[str, Rule] = {
    **dict.fromkeys("view reshape _unsafe_view flatten unflatten view_as reshape_as _reshape_copy".split(), reshape),
    **dict.fromkeys(
        "contiguous clone alias detach lift_fresh lift_fresh_copy to _to_copy type_as float double half"
        " positive requires_grad_ expand_copy".split(),
        same,
    ),
    "permute": _moved(_permuted),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _moved(_swapped)),
    **dict.fromkeys(("t", "numpy_T", "mT"), _moved(_turned)),
    **dict.fromkeys(("movedim", "moveaxis"), _moved(_moveddim)),
    "unsqueeze": _moved(_unsqueezed),
    "squeeze": _moved(_squeezed),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), _expanded),
    "select": _select,
    "unbind": _unbind,
    "slice": _slice,
    "narrow": _narrow,
    **dict.fromkeys("split split_with_sizes chunk tensor_split unsafe_split unsafe_chunk".split(), _pieces),
    **dict.fromkeys(("roll", "flip"), _stirred("dims")),
    **dict.fromkeys(("repeat", "tile"), _repeat),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "stack": _stack,
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _shuffle),
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _channels),
}
