"""The normal form of operators that only move elements: factors and shifts pass, moved as the elements are."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto

from converter.referee.normal_form import form as views
from converter.referee.normal_form.form import Form, Known, View
from converter.referee.normal_form.interval import Interval, is_float
from converter.referee.normal_form.laws import Law
from converter.referee.normal_form.reader import Reader, Rule, Value, find_axes, list_attributes
from converter.referee.reference.kernels import read_attributes


def _move(form: Form, key: Any, there: Any, back: Any, dims: Form | None = None) -> list[Value] | None:
    """The form behind an operator that moves elements; its shift, and a scale that no weight took, outside."""
    scale = None if form.scale is None else there(form.scale)
    shift = None if form.shift is None or form.shift.is_zero else there(form.shift)
    if (form.shift is None or form.shift.is_zero) != (shift is None):
        return None
    inner = Form(form.atom) if scale is not None else form.settled
    return [Form(View(key, inner, back, dims), scale, shift)]


def _transpose(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    (form,) = args
    assert isinstance(form, Form)
    rank = r.rank(node.input[0])
    return turn(form, [int(p) for p in read_attributes(node).get("perm", range(rank)[::-1])], rank)


def turn(form: Form, perm: list[int], rank: int) -> list[Value] | None:
    """The form behind a transposition."""
    back = views.invert_permutation(perm)
    key = ("Transpose", tuple(perm))
    return _move(form, key, lambda b: views.transpose(b, perm, rank), lambda b: views.transpose(b, back, rank))


def _reshape(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    form = args[0]
    if not isinstance(form, Form):
        return None
    before, after = r.dims(node.input[0]), r.dims(node.output[0])
    if node.op_type == "Reshape" and before is not None and len(node.input) > 1:
        asked = r.sizes(node.input[1])
        after = (
            after
            if asked is None or not after
            else tuple(
                s if isinstance(s, int) else d for s, d in zip(views.solve_sizes(before, asked), after, strict=True)
            )
        )
    shape = args[1] if len(args) > 1 else None
    key = (node.op_type, list_attributes(node), tuple(shape.array().tolist()) if isinstance(shape, Known) else ())
    there, back = lambda b: views.reshape(b, before, after), lambda b: views.reshape(b, after, before)
    return _move(form, key, there, back, shape if isinstance(shape, Form) else None)


def _squeeze(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    form, axes = args[0], find_axes(node, args)
    if not isinstance(form, Form) or axes is None:
        return None
    inner = r.rank(node.input[0])
    grows = node.op_type == "Unsqueeze"
    wide = inner + len(axes) if grows else inner
    more, less = lambda b: views.insert_axes(b, axes, wide), lambda b: views.drop_axes(b, axes, wide)
    key = (node.op_type, tuple(a % wide for a in axes))
    return _move(form, key, more if grows else less, less if grows else more)


def _identity(_: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    asks = args[2] if len(args) > 2 else None  # a third input of Dropout may ask for training
    plain = not any(node.output[1:]) and (asks is None or (isinstance(asks, Known) and not asks.array().any()))
    return [args[0], *([None] * (len(node.output) - 1))] if plain else None


def _cast(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """A cast to the type that a tensor has already does nothing; of one from float to float there must be two."""
    before, after = (r.types.get(name) for name in (node.input[0], node.output[0]))
    if before is None or after is None or before.dtype is None or after.dtype is None:
        return None
    form = args[0]
    if before.dtype == after.dtype:
        return [form]
    if not isinstance(form, Form) or not is_float(before.dtype) or not is_float(after.dtype):
        return None
    if form.shift is not None and not form.shift.is_zero and after.dtype.itemsize < before.dtype.itemsize:
        r.laws.add(Law.CAST)
    return _move(form, ("Cast", str(after.dtype)), lambda b: b, lambda b: b)


def _depth_to_space(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """Blocks of channels become places: what is the same for a channel of the output is so for those of its block."""
    (form,) = args
    given = read_attributes(node)
    times, inner = int(given.get("blocksize", 1)) ** 2, given.get("mode", "DCR") == "CRD"
    if not isinstance(form, Form) or form.scale is not None:
        return None

    def back(interval: Interval) -> Interval | None:
        if interval.value.size == 1:
            return interval.reshape()
        if interval.value.ndim < 3 or views.varies_along(interval, [0, 2, 3], 4):
            return None
        spread = np.repeat if inner else np.tile
        return interval.map(lambda x: spread(x.reshape(-1), times).reshape(-1, 1, 1))

    return [Form(View((node.op_type, times, inner), form, back, holds_shift=True))]


MOVE_RULES: dict[str, Rule] = {
    "DepthToSpace": _depth_to_space,
    "Transpose": _transpose,
    **dict.fromkeys(("Reshape", "Flatten"), _reshape),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _squeeze),
    **dict.fromkeys(("Identity", "Dropout"), _identity),
    **dict.fromkeys(("Cast", "CastLike"), _cast),
}
