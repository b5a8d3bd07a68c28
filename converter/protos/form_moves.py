"""Operators that move elements: a shift goes outside, and a scale that no weight took."""

from __future__ import annotations

from typing import Any

from onnx import NodeProto

from converter.protos import form_views as views
from converter.protos.form_read import Reader, Rule, Value, attributes
from converter.protos.forms import Form, Known, View
from converter.protos.reference_nodes import plain_attributes


def axes_of(node: NodeProto, args: list[Value]) -> list[int] | None:
    """Axes by attribute or by a constant input."""
    given = plain_attributes(node).get("axes")
    if given is None and len(args) > 1 and isinstance(args[1], Known):
        given = args[1].array().reshape(-1).tolist()
    return None if given is None else [int(a) for a in given]


def _moved(form: Form, key: Any, there: Any, back: Any, dims: Form | None = None) -> list[Value] | None:
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
    perm = [int(p) for p in plain_attributes(node).get("perm", range(rank)[::-1])]
    back = views.inverse(perm)
    key = ("Transpose", tuple(perm))
    return _moved(form, key, lambda b: views.transposed(b, perm, rank), lambda b: views.transposed(b, back, rank))


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
            else tuple(s if isinstance(s, int) else d for s, d in zip(views.solved(before, asked), after, strict=True))
        )
    shape = args[1] if len(args) > 1 else None
    key = (node.op_type, attributes(node), tuple(shape.array().tolist()) if isinstance(shape, Known) else ())
    there, back = lambda b: views.reshaped(b, before, after), lambda b: views.reshaped(b, after, before)
    return _moved(form, key, there, back, shape if isinstance(shape, Form) else None)


def _squeeze(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    form, axes = args[0], axes_of(node, args)
    if not isinstance(form, Form) or axes is None:
        return None
    inner = r.rank(node.input[0])
    grows = node.op_type == "Unsqueeze"
    wide = inner + len(axes) if grows else inner
    more, less = lambda b: views.with_axes(b, axes, wide), lambda b: views.without(b, axes, wide)
    key = (node.op_type, tuple(a % wide for a in axes))
    return _moved(form, key, more if grows else less, less if grows else more)


def _identity(_: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    plain = not any(node.output[1:]) and len(args) < 3  # a third input of Dropout may ask for training
    return [args[0], *([None] * (len(node.output) - 1))] if plain else None


def _concat(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """Shifts are joined outside; the parts stay as they are."""
    forms = [a for a in args if isinstance(a, Form)]
    if len(forms) < len(args) or all(f.shift is None or f.shift.is_zero for f in forms):
        return None
    rank = r.rank(node.output[0])
    axis = int(plain_attributes(node).get("axis", 1)) % rank
    sizes = [(r.dims(name) or (None,) * rank)[axis] for name in node.input]
    parts = [views.spread(f.shift, axis, s, rank) for f, s in zip(forms, sizes, strict=True) if isinstance(s, int)]
    whole = [p for p in parts if p is not None]
    if len(whole) < len(args):
        return None
    bare = r.opaque(node, [f.settled for f in forms])
    assert isinstance(bare[0], Form)
    return [bare[0].plus(views.collapsed(views.joined(whole, axis)))]


RULES: dict[str, Rule] = {
    "Transpose": _transpose,
    **dict.fromkeys(("Reshape", "Flatten"), _reshape),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _squeeze),
    **dict.fromkeys(("Identity", "Dropout"), _identity),
    "Concat": _concat,
}
