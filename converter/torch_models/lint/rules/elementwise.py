"""Rules of element-wise operators, of sums over axes, and of what comes before a softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converter.torch_models.lint.shift import Block, Call, Effect, Shift, add_effects, normalize_axes, shape_of

Rule = Callable[[Call], Any]

# Below this a softmax gives exactly 0 in float64, since exp(-745) is the least number that is none.
# An entry at it keeps its 0 whatever is added to the others, within reason.
_MASKED = -1e4


def _add(call: Call) -> Effect:
    left, right = call.args["self"], call.args["other"]
    a, b = (call.align(call.change_of(x), shape_of(x)) for x in (left, right))
    if isinstance(a, Block) or isinstance(b, Block):
        return a if isinstance(a, Block) else b
    minus = call.op.startswith(("sub", "rsub")) and call.args.get("alpha", 1) == 1
    if a is not None and b is not None and minus and a.equals(b):
        call.cancel("centring", (call.node,))
        return None
    if b is not None and (call.op.startswith("sub") or call.args.get("alpha", 1) != 1):
        b = b.with_new_values(b.varies)
    if a is not None and call.op.startswith("rsub"):
        a = a.with_new_values(a.varies)
    return add_effects(a, b)


def _mul(call: Call) -> Effect:
    left, right = call.args["self"], call.args["other"]
    a, b = call.change_of(left), call.change_of(right)
    if a is not None and b is not None:
        return call.block("both factors change")
    if call.op.startswith("div") and (b is not None or call.args.get("rounding_mode")):
        return call.block("divides by it" if b is not None else "rounds")
    change, factor, operand = (a, right, left) if a is not None else (b, left, right)
    moved = call.align(change, shape_of(operand))
    if not isinstance(moved, Shift):
        return moved or call.block()
    if moved.masked:
        return call.block("scaled behind a mask") if shape_of(factor) or not _is_positive(factor) else moved
    uneven = call.varying_axes(factor) if hasattr(factor, "meta") else frozenset()
    return moved.with_new_values(moved.varies | uneven, moved.varies - uneven)


def _is_positive(factor: Any) -> bool:
    return isinstance(factor, int | float) and factor > 0


def _neg(call: Call) -> Effect:
    change = call.change("self")
    if not isinstance(change, Shift) or change.masked:
        return call.block()
    return change.with_new_values(change.varies, change.varies)


def _dropout(call: Call) -> Effect:
    """A mask of zeros that differs from element to element, or (feature dropout) from channel to channel."""
    change = call.change("input", "self")
    if not call.args.get("train", True) or call.args.get("p") == 0:
        return change  # type: ignore[no-any-return]
    if not isinstance(change, Shift) or change.masked:
        return call.block("random zeros")
    mask = {0, 1} if call.op.startswith("feature_dropout") else set(range(call.rank))
    return change.with_new_values(change.varies | mask)


def _read_reduction(call: Call) -> tuple[Shift | None, tuple[int, ...], bool]:
    change, rank = call.change("self"), len(call.shape("self"))
    axes = normalize_axes(call.args.get("dim"), rank)
    return (change if isinstance(change, Shift) and not change.masked else None), axes, bool(call.args.get("keepdim"))


def _drop_axes(change: Shift, axes: tuple[int, ...], keep: bool) -> Shift:
    kept = change if keep else None
    if kept is not None:
        return kept.move_axes(lambda axis: None if axis in axes else axis)
    return change.move_axes(lambda axis: None if axis in axes else axis - sum(a < axis for a in axes))


def _mean(call: Call) -> Effect:
    change, axes, keep = _read_reduction(call)
    if change is None:
        return call.block()
    kept = _drop_axes(change, axes, keep)
    return kept.with_new_values(kept.varies) if change.touches(axes) else kept


def _sum(call: Call) -> Effect:
    change, axes, keep = _read_reduction(call)
    if change is None:
        return call.block()
    kept = _drop_axes(change, axes, keep)
    return kept.with_new_values(kept.varies)


def _extremum(call: Call) -> Any:
    """The largest or smallest element: shifted by what all of them are shifted by."""
    change, axes, keep = _read_reduction(call)
    if "other" in call.args or change is None or change.touches(axes):
        return call.block("picks by size")
    kept = _drop_axes(change, axes, keep)
    several = isinstance(call.node.meta.get("val"), list | tuple)
    return (kept, None) if several else kept


def _deviation(call: Call) -> Effect:
    """Variance and deviation do not see what is added to all elements alike."""
    change, axes, _ = _read_reduction(call)
    if change is None or change.touches(axes):
        return call.block("the variance depends on it")
    call.cancel("centring", (call.node,))
    return None


def _deviation_and_mean(call: Call) -> Any:
    return _deviation(call), _mean(call)


def _softmax(call: Call) -> Effect:
    change = call.change("self")
    (axis,) = normalize_axes(call.args["dim"], len(call.shape("self")))
    if not isinstance(change, Shift) or change.touches([axis]):
        return call.block("the softmax weighs along an axis on which it varies")
    call.cancel("softmax", (call.node,))
    return None


def _masked_fill(call: Call) -> Effect:
    change, value = call.change("self"), call.args["value"]
    if not isinstance(change, Shift) or call.others_changed("self"):
        return call.block()
    if _is_low(value):
        return Shift(change.axes, change.origin, None, masked=True)
    if change.masked:
        return call.block("filled behind a mask")
    return change.with_new_values(change.varies | call.varying_axes(call.args["mask"]))


def _where(call: Call) -> Effect:
    a, b = (call.align(call.change_of(call.args[n]), call.shape(n)) for n in ("self", "other"))
    if call.others_changed("self", "other") or isinstance(a, Block) or isinstance(b, Block):
        return call.block()
    if a is not None and b is not None:
        return a if a.equals(b) else call.block("chosen element by element")
    change, other = (a, "other") if a is not None else (b, "self")
    assert change is not None
    if _is_low(call.args[other]):
        return Shift(change.axes, change.origin, None, masked=True)
    return change.with_new_values(change.varies | call.varying_axes(call.args["condition"]))


def _is_low(value: Any) -> bool:
    """Whether a value is a constant that a softmax turns into 0."""
    if isinstance(value, int | float):
        return value <= _MASKED
    schema = getattr(getattr(value, "target", None), "_schema", None)
    if schema is None or not value.args:
        return False
    name = str(schema.name).removeprefix("aten::")
    if name in ("lift_fresh_copy", "lift_fresh", "to", "_to_copy", "expand", "alias", "detach"):
        return _is_low(value.args[0])
    filled = {"full": 1, "scalar_tensor": 0, "full_like": 1, "new_full": 2}.get(name)
    return filled is not None and len(value.args) > filled and _is_low(value.args[filled])


def _shape_only(call: Call) -> Effect:
    """Like ``zeros_like``: only the shape is read."""
    return None


RULES: dict[str, Rule] = {
    **dict.fromkeys(("add", "sub", "rsub", "subtract"), _add),
    **dict.fromkeys(("mul", "multiply", "div", "divide", "true_divide"), _mul),
    **dict.fromkeys(("neg", "negative"), _neg),
    **dict.fromkeys(("dropout", "feature_dropout"), _dropout),
    "mean": _mean,
    "sum": _sum,
    **dict.fromkeys(("amax", "amin", "max", "min"), _extremum),
    **dict.fromkeys(("var", "std"), _deviation),
    "var_mean": _deviation_and_mean,
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax", "special_softmax"), _softmax),
    "masked_fill": _masked_fill,
    "where": _where,
    **dict.fromkeys(
        "zeros_like ones_like empty_like rand_like randn_like full_like new_zeros new_ones new_full new_empty"
        " sym_size sym_numel size".split(),
        _shape_only,
    ),
}
