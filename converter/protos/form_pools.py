"""Operators that let a shift pass, or that do not feel it: pools, means, norms, recurrent cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto

from converter.protos import form_views as views
from converter.protos.balls import exact
from converter.protos.form_moves import axes_of
from converter.protos.form_read import Reader, Rule, Value, ball_of
from converter.protos.forms import Form, Known, Other
from converter.protos.reference_nodes import plain_attributes


def _past(r: Reader, node: NodeProto, args: list[Value], axes: Sequence[int], shift: Any) -> list[Value] | None:
    """The operator on the form without its shift, which does not change along ``axes``; then ``shift`` of it."""
    form = args[0]
    if not isinstance(form, Form) or form.shift is None or any(node.output[1:]):
        return None
    if views.varies(form.shift, axes, r.rank(node.input[0])):
        return None
    bare = r.opaque(node, [form.settled, *args[1:]])
    assert isinstance(bare[0], Form)
    moved = shift(form.shift)
    return bare if moved is None else [bare[0].plus(moved)]


def _through(r: Reader, node: NodeProto, args: list[Value], *, any_sign: bool) -> list[Value] | None:
    """A pool of scale * x is scale times the pool of x, for a maximum only if the scale is positive."""
    form, axes, rank = args[0], range(2, r.rank(node.input[0])), r.rank(node.input[0])
    if not isinstance(form, Form) or form.scale is None or any(node.output[1:]):
        return _past(r, node, args, axes, lambda s: s)
    if views.varies(form.scale, axes, rank) or not (any_sign or (form.scale.value > 0).all()):
        return _past(r, node, args, axes, lambda s: s)
    if form.shift is not None and views.varies(form.shift, axes, rank):
        return None
    (bare,) = r.opaque(node, [Form(form.atom), *args[1:]])
    assert isinstance(bare, Form)
    return [Form(bare.atom, form.scale, form.shift)]


def _pool(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    given = plain_attributes(node)
    padded = any(given.get("pads", [])) or given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    counted = node.op_type == "AveragePool" and padded and (given.get("count_include_pad", 0) or r.opset < 7)
    if counted and isinstance(args[0], Form) and args[0].shift is not None:
        return None
    return _through(r, node, args, any_sign="Average" in node.op_type)


def _mean(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    axes, rank = axes_of(node, args), r.rank(node.input[0])
    if axes is None:
        return None
    keep = plain_attributes(node).get("keepdims", 1)
    return _past(r, node, args, axes, lambda s: s if keep else views.without(s, axes, rank))


def _resize(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    given = plain_attributes(node)
    if given.get("mode", "nearest") not in ("nearest", "linear") or any(isinstance(a, Form) for a in args[1:]):
        return None
    if given.get("coordinate_transformation_mode") == "tf_crop_and_resize" or "axes" in given:
        return None
    return _past(r, node, args, range(2, r.rank(node.input[0])), lambda s: s)


def _instance_norm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    return _past(r, node, args, range(2, r.rank(node.input[0])), lambda s: None)


def _group_norm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    form, groups = args[0], int(plain_attributes(node).get("num_groups", 0))
    if not isinstance(form, Form) or form.shift is None or not groups:
        return None
    rank = r.rank(node.input[0])
    channels = (
        views.without(form.shift, [0, *range(2, rank)], rank)
        if not views.varies(form.shift, [0, *range(2, rank)], rank)
        else None
    )
    if channels is None or channels.value.size % groups:
        return None
    rows = channels.value.reshape(groups, -1)
    return _past(r, node, args, [], lambda s: None) if (rows == rows[:, :1]).all() else None


def _layer_norm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    rank = r.rank(node.input[0])
    axis = int(plain_attributes(node).get("axis", -1)) % rank
    return _past(r, node, args, range(axis, rank), lambda s: None)


def _cast_like(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """A constant in the type of a computed tensor, which it mostly has already."""
    known, port = args[0], r.types.get(node.input[1])
    if not isinstance(known, Known) or port is None or port.dtype is None:
        return None
    array = known.array()
    there = array.astype(port.dtype)
    return [Known(known.name, there, rounded=known.rounded)] if bool((there == array).all()) else None


def _recurrent(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """The two biases of a recurrent cell as the sum that it uses."""
    weights, bias = args[2], args[3] if len(args) > 3 else None
    if not isinstance(weights, Known) or len(weights.shape) != 3:
        return None
    ball = None if bias is None else ball_of(bias)
    if bias is not None and (ball is None or ball.value.ndim != 2):
        return None
    n = weights.shape[1]
    if ball is None:
        ball = exact(np.zeros((weights.shape[0], 2 * n)))
    input_, state = ball.map(lambda x: x[:, :n]), ball.map(lambda x: x[:, n:])
    total = input_ + state
    if node.op_type == "GRU" and plain_attributes(node).get("linear_before_reset", 0):
        gates = 2 * n // 3  # the third gate multiplies the state's bias by the reset gate
        parts = [
            total.map(lambda x: x[:, :gates]),
            input_.map(lambda x: x[:, gates:]),
            state.map(lambda x: x[:, gates:]),
        ]
        total = views.joined(parts, 1)
    form = Form(Other("Biases", None, (), 0, node.name or f"{node.op_type}:{node.output[0]}"), None, total)
    return r.opaque(node, [*args[:3], form, *args[4:]])


RULES: dict[str, Rule] = {
    **dict.fromkeys(("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin"), _mean),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "CastLike": _cast_like,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
}
