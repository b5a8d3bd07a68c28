"""Products of two computed tensors, softmax, and picks: how the shifts of attention's biases go through them.

(q + b)(k + c)^T = q k^T + q c^T + b k^T + b c^T. The second and fourth term are the same for every key, so that a
softmax over the keys does not feel them; rows of a softmax sum to one, so that a shift of the values passes.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from converter.protos import form_views as views
from converter.protos.balls import Ball
from converter.protos.form_read import Reader, Value
from converter.protos.forms import Form, Known, NotExpressed, Other, Total, added
from converter.protos.reference_nodes import plain_attributes

_FLAT = "constant along the last axis"


def _held(ball: Ball) -> Form:
    """A vector as a form of its own: an argument whose numbers are compared."""
    return Form(Other("Vector", None, (), 0, "vector"), None, ball)


def product(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """A matrix product of two forms."""
    left, right = args
    if not isinstance(left, Form) or not isinstance(right, Form):
        return None
    label = node.name or f"{node.op_type}:{node.output[0]}"
    bare = Form(Other("MatMul", None, (left.settled, right.settled), 0, label))
    if left.shift is None and right.shift is None:
        return [bare]
    terms, shift = [bare], None
    if right.shift is not None:
        if _is_softmax(left) and not _along(right.shift, -2):
            shift = right.shift  # each row of weights sums to one
        else:
            flat = _FLAT if not _along(right.shift, -1) else ""
            terms.append(Form(Other("MatMul", flat, (left.settled, _held(right.shift)), 0, label)))
    if left.shift is not None:
        terms.append(Form(Other("MatMul", "", (_held(left.shift), right.settled), 0, label)))
    if left.shift is not None and right.shift is not None:
        if shift is not None or left.shift.value.ndim < 1 or right.shift.value.ndim < 2:
            raise NotExpressed(f"shifts of both sides of {label}")
        shift = _both(left.shift, right.shift)
    total = added(terms) if len(terms) > 1 else bare
    return [total if shift is None else total.plus(shift)]


def _both(left: Ball, right: Ball) -> Ball:
    n = right.value.shape[-2]
    if left.value.shape[-1] != n:
        raise NotExpressed("vectors of unknown length")
    error = np.abs(left.value) @ (right.radius + (n + 2) * 2.0**-52 * np.abs(right.value))
    return Ball(left.value @ right.value, error + left.radius @ np.abs(right.value))


def _along(ball: Ball, axis: int) -> bool:
    dims = ball.value.shape
    return len(dims) >= -axis and dims[axis] != 1


def _is_softmax(form: Form) -> bool:
    return isinstance(form.atom, Other) and form.atom.op == "Softmax" and form.scale is None and form.shift is None


def softmax(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """Softmax without what is the same all along its axis."""
    form, rank = args[0], r.rank(node.input[0])
    axis = int(plain_attributes(node).get("axis", -1 if r.opset >= 13 else 1)) % rank
    if not isinstance(form, Form):
        return None
    if isinstance(form.atom, Total) and form.scale is None and axis == rank - 1:
        kept = [t for t in form.atom.terms if not _is_flat(t)]
        if len(kept) == 1:
            form = Form(kept[0].atom, kept[0].scale, form.shift)
        elif kept:
            form = Form(Total(tuple(kept)), None, form.shift)
    axes = [axis] if r.opset >= 13 else list(range(axis, rank))
    if form.shift is not None and not views.varies(form.shift, axes, rank):
        form = form.settled
    key = (node.op_type, "last" if axis == rank - 1 else tuple(axes))
    return r.opaque(node, [form], key)


def _is_flat(term: Form) -> bool:
    flat = isinstance(term.atom, Other) and term.atom.op == "MatMul" and term.atom.key == _FLAT
    return flat and (term.scale is None or not _along(term.scale, -1))


def split(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """Parts of a tensor, each with its part of the shift."""
    form = args[0]
    if not isinstance(form, Form) or form.shift is None or any(isinstance(a, Form) for a in args[1:]):
        return None
    rank = r.rank(node.input[0])
    axis = int(plain_attributes(node).get("axis", 0)) % rank
    bare = r.opaque(node, [form.settled, *args[1:]])
    sizes = [(r.dims(name) or (None,) * rank)[axis] for name in node.output]
    if not views.varies(form.shift, [axis], rank):
        return [part.plus(form.shift) if isinstance(part, Form) else part for part in bare]
    if not all(isinstance(s, int) for s in sizes):
        return None
    stops = np.cumsum([s for s in sizes if isinstance(s, int)]).tolist()
    full = views.with_axes(form.shift, [], rank)
    found: list[Value] = []
    for part, stop, start in zip(bare, stops, [0, *stops], strict=False):
        assert isinstance(part, Form)
        found.append(part.plus(full.map(lambda x, a=start, b=stop: x.take(range(a, b), axis))))
    return found


def gather(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """One of several: a scalar index takes the axis away."""
    form, index = args
    if not isinstance(form, Form) or form.shift is None or not isinstance(index, Known) or index.shape != ():
        return None
    rank = r.rank(node.input[0])
    axis = int(plain_attributes(node).get("axis", 0)) % rank
    at = int(index.array())
    (bare,) = r.opaque(node, [form.settled, index])
    assert isinstance(bare, Form)
    full = views.with_axes(form.shift, [], rank)
    if full.value.shape[axis] == 1:
        at = 0
    return [bare.plus(full.map(lambda x: x.take(at, axis)))]


def slices(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """A part along axes where the shift is one number, or along one axis that it knows in full."""
    form = args[0]
    if not isinstance(form, Form) or form.shift is None or any(not isinstance(a, Known | None) for a in args[1:]):
        return None
    rank, dims = r.rank(node.input[0]), r.dims(node.input[0])
    given = plain_attributes(node)
    fields = [a.array().reshape(-1).tolist() if isinstance(a, Known) else None for a in args[1:]]
    starts, ends, axes, steps = (
        [given.get("starts"), given.get("ends"), given.get("axes"), None] if r.opset < 10 else [*fields, None, None][:4]
    )
    if starts is None or ends is None:
        return None
    full = views.with_axes(form.shift, [], rank)
    cut = [slice(None)] * rank
    for k, axis in enumerate(axes or range(len(starts))):
        if full.value.shape[axis] != 1:
            if dims is None or dims[axis] != full.value.shape[axis]:
                return None
            cut[axis % rank] = slice(starts[k], ends[k], steps[k] if steps else None)
    (bare,) = r.opaque(node, [form.settled, *args[1:]])
    assert isinstance(bare, Form)
    return [bare.plus(full.map(lambda x: x[tuple(cut)]))]
