"""Rules of linear operators: convolutions, products, pools, resizing, padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converter.torch_models.lint.shift import Call, Effect, Shift, add_effects, new_shift, shape_of

Rule = Callable[[Call], Any]


def _place_bias(call: Call, channel: int) -> Effect:
    """The change of a bias vector as it is at the result's channels."""
    change = call.change("bias")
    return change.move_axes(lambda _: channel) if isinstance(change, Shift) else change


def _conv(call: Call) -> Effect:
    spatial = len(call.shape("weight")) - 2
    channel = call.rank - spatial - 1
    if call.change("weight") is not None:
        return call.block("the weight changes")
    change = call.change("input")
    if isinstance(change, Shift):
        places = range(channel + 1, call.rank)
        if change.masked:
            return call.block()
        everywhere = change.touches(places) or not _is_even(call)
        kept = {axis for axis in change.varies if axis <= channel} | {channel}
        change = new_shift(kept | (set(places) if everywhere else set()))
    return add_effects(change, _place_bias(call, channel))


def _is_even(call: Call) -> bool:
    """Whether every output element sees the same taps, so that what is constant stays constant."""
    if call.op.startswith("conv_transpose") or call.args.get("transposed"):
        kernel = call.shape("weight")[2:]
        return (
            all(size == 1 for size in kernel)
            and _all_equal(call.args["stride"], 1)
            and _all_equal(call.args["output_padding"], 0)
        )
    padding = call.args["padding"]
    if isinstance(padding, str):
        return padding == "valid" or all(size == 1 for size in call.shape("weight")[2:])
    return _all_equal(padding, 0)


def _all_equal(values: Any, value: int) -> bool:
    return all(v == value for v in (values if isinstance(values, list | tuple) else [values]))


def _linear(call: Call) -> Effect:
    if call.change("weight") is not None:
        return call.block("the weight changes")
    last = call.rank - 1
    change = call.change("input")
    if isinstance(change, Shift):
        if change.masked:
            return call.block()
        change = change.with_new_values(change.varies | {last}, change.varies - {last})
    return add_effects(change, _place_bias(call, last))


def _product(call: Call, left: Any, right: Any) -> Effect:
    a, b = call.change_of(left), call.change_of(right)
    if a is not None and b is not None:
        return call.block("both factors change")
    change, operand, other = (a, left, right) if a is not None else (b, right, left)
    if not isinstance(change, Shift) or change.masked or min(len(shape_of(left)), len(shape_of(right))) < 2:
        return call.block()
    rank = call.rank
    contracted = len(shape_of(operand)) - (1 if operand is left else 2)
    offset = rank - len(shape_of(operand))
    kept = {axis + offset for axis in change.varies if axis != contracted}
    own = rank - 1 if operand is left else rank - 2  # the axis of the result that the other factor gives
    sizes, shift_by = shape_of(other), rank - len(shape_of(other))
    batch = {axis + shift_by for axis, size in enumerate(sizes[:-2]) if size != 1 or call.is_data(other)}
    return new_shift(kept | batch | {own})


def _matmul(call: Call) -> Effect:
    return _product(call, call.args["self"], call.args.get("other", call.args.get("mat2")))


def _addmm(call: Call) -> Effect:
    names = ("batch1", "batch2") if "batch1" in call.args else ("mat1", "mat2")
    left, right = (call.args[name] for name in names)
    product = _product(call, left, right) if call.change_of(left) or call.change_of(right) else None
    added = call.align(call.change("self"), call.shape("self"))
    if isinstance(added, Shift) and call.args.get("beta", 1) != 1:
        added = added.with_new_values(added.varies)
    return add_effects(product, added)


def _einsum(call: Call) -> Effect:
    """One operand changes: a letter of the result varies if that operand varies on it, or another has it."""
    equation, tensors = call.args["equation"].replace(" ", ""), call.args["tensors"]
    changes = call.change("tensors")
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    changed = [index for index, change in enumerate(changes) if change is not None]
    if not arrow or "." in equation or len(changed) != 1 or not isinstance(changes[changed[0]], Shift):
        return call.block()
    (index,) = changed
    change, term = changes[index], terms[index]
    if change.masked or any(len(set(t)) != len(t) for t in terms):
        return call.block()
    wide = {term[axis] for axis in change.varies}
    for i, other in enumerate(terms):
        if i != index:
            sizes = shape_of(tensors[i])
            wide |= {letter for letter, size in zip(other, sizes, strict=True) if size != 1 or call.is_data(tensors[i])}
    # A letter that is summed over and that both have: the sum mixes it, and nothing else.
    return new_shift(axis for axis, letter in enumerate(output) if letter in wide)


def _max_pool(call: Call) -> Any:
    """Pads with minus infinity: the largest of shifted elements is shifted alike."""
    change, spatial = call.change("self"), _count_spatial(call)
    if not isinstance(change, Shift) or change.masked or change.touches(range(call.rank - spatial, call.rank)):
        return call.block("picks by size among elements that change differently")
    return (change, None) if isinstance(call.node.meta.get("val"), list | tuple) else change


def _avg_pool(call: Call) -> Effect:
    change, spatial = call.change("self"), _count_spatial(call)
    if not isinstance(change, Shift) or change.masked:
        return call.block()
    places = range(call.rank - spatial, call.rank)
    padded = not _all_equal(call.args.get("padding", 0), 0)
    counted = padded and call.args.get("count_include_pad", True)
    divisor = call.args.get("divisor_override")
    if change.touches(places) or counted or (divisor and (padded or call.args.get("ceil_mode"))):
        return change.with_new_values(change.varies | set(places))
    return change.with_new_values(change.varies) if divisor else change


def _count_spatial(call: Call) -> int:
    return next(int(digit) for digit in reversed(call.op.split("d_")[0].removesuffix("d")) if digit.isdigit())


def _resize(call: Call) -> Effect:
    """Weights that sum to 1 at every place: what is constant stays what it is."""
    change = call.change("input", "self")
    places = range(2, call.rank)
    if not isinstance(change, Shift) or change.masked:
        return call.block()
    return change.with_new_values(change.varies | set(places)) if change.touches(places) else change


def _pad(call: Call) -> Effect:
    change, pads = call.change("self"), call.args.get("pad", call.args.get("padding"))
    if not isinstance(change, Shift) or change.masked:
        return call.block()
    pads = list(pads) if isinstance(pads, list | tuple) else []
    grown = {call.rank - 1 - i // 2 for i, size in enumerate(pads) if size > 0}
    copies = call.args.get("mode", "constant") != "constant" or call.op.startswith(("reflection", "replication"))
    touched = {call.rank - 1 - i // 2 for i, size in enumerate(pads) if size}
    if change.touches(touched):
        return change.with_new_values(change.varies)
    return change if copies else (change.with_new_values(change.varies | grown) if grown else change)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        "conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d".split(), _conv
    ),
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    "einsum": _einsum,
    **dict.fromkeys(
        [f"{kind}max_pool{n}d{end}" for kind in ("", "adaptive_") for n in (1, 2, 3) for end in ("", "_with_indices")],
        _max_pool,
    ),
    **dict.fromkeys([f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)], _avg_pool),
    **dict.fromkeys(
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d"
        " _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d"
        " _upsample_bilinear2d_aa _upsample_bicubic2d_aa".split(),
        _resize,
    ),
    **dict.fromkeys(
        "pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d"
        " replication_pad3d".split(),
        _pad,
    ),
}
