"""What each operator does to a normal form. An operator that is not here, or a case that is not, is opaque."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto

from converter.protos import form_attention as attention
from converter.protos import form_views as views
from converter.protos.balls import Ball, exact
from converter.protos.form_read import Reader, Rule, Value, attributes, ball_of
from converter.protos.forms import Form, Known, Linear, Other, View, added, linear, one
from converter.protos.reference_nodes import plain_attributes

_LARGEST_TERM = 1 << 22  # elements of a constant that is added or multiplied


def _small(value: Value) -> Ball | None:
    if not isinstance(value, Known) or math.prod(value.shape) > _LARGEST_TERM:
        return None
    return ball_of(value)


def _aligned(r: Reader, node: NodeProto, ball: Ball, other: str) -> Ball:
    """A constant as numpy broadcasts it: before opset 7 an attribute says at which axis it starts."""
    given = plain_attributes(node)
    if r.opset >= 7 or "axis" not in given or not ball.value.ndim:
        return ball
    rank = r.rank(other)
    start = int(given["axis"]) % rank
    return ball.map(lambda x: x.reshape(x.shape + (1,) * (rank - start - x.ndim)))


def _binary(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    left, right = args
    op = node.op_type
    if isinstance(left, Form) and isinstance(right, Form):
        if op not in ("Add", "Sub"):
            return None
        return [added([left, right if op == "Add" else right.times(one(-1.0))])]
    slot = 0 if isinstance(left, Form) else 1
    form, ball = args[slot], _small(args[1 - slot])
    if not isinstance(form, Form) or ball is None or (op == "Div" and slot):
        return None
    ball = _aligned(r, node, ball, node.input[slot])
    if op in ("Mul", "Div"):
        return [form.times(ball if op == "Mul" else one(1.0) / ball)]
    if op == "Sub":
        return [form.plus(-ball) if slot == 0 else form.times(one(-1.0)).plus(ball)]
    return [form.plus(ball)]


def _sum(_: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    forms = [a for a in args if isinstance(a, Form)]
    balls = [_small(a) for a in args if not isinstance(a, Form)]
    if not forms or None in balls:
        return None
    total = added(forms) if len(forms) > 1 else forms[0]
    for ball in balls:
        assert ball is not None
        total = total.plus(ball)
    return [total]


def _batch_norm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    given = plain_attributes(node)
    training = given.get("training_mode", 0) or (r.opset < 7 and not given.get("is_test", 0))
    if training or not given.get("spatial", 1) or any(node.output[1:]) or not isinstance(args[0], Form):
        return None
    balls = [ball_of(a) for a in args[1:5]]
    if any(b is None or b.value.ndim != 1 for b in balls):
        return None
    gamma, beta, mean, var = (b for b in balls if b is not None)
    epsilon = exact(np.float64(given.get("epsilon", np.float32(1e-5))))  # the standard's default is a float32
    scale = gamma / (var + epsilon).root()
    dims = (-1, *[1] * (r.rank(node.input[0]) - 2))
    return [args[0].plus(-mean.reshape(*dims)).times(scale.reshape(*dims)).plus(beta.reshape(*dims))]


# -- linear operators ------------------------------------------------------------------------


def _conv(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    operand, weight = args[0], args[1]
    if not isinstance(operand, Form) or not isinstance(weight, Known) or len(weight.shape) < 3:
        return None
    given = plain_attributes(node)
    turned = node.op_type == "ConvTranspose"
    ones = all(k == 1 for k in weight.shape[2:]) and all(s == 1 for s in given.get("strides", [1]))
    bare = not any(given.get("pads", [])) and given.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    bare = bare and not any(given.get("output_padding", [])) and "output_shape" not in given
    rank, groups = len(weight.shape), int(given.get("group", 1))
    key = (tuple(weight.shape[2:]), attributes(node, "kernel_shape", "group"))
    atom = Linear(node.op_type, key, operand, weight, groups, turned, rank, _label(node))
    return _with_bias(linear(atom, whole=bare and (ones or not turned)), args, lambda b: b.reshape(-1, *[1] * (rank - 2)))


def _gemm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    operand, weight = args[0], args[1]
    given = plain_attributes(node)
    if not isinstance(operand, Form) or not isinstance(weight, Known) or given.get("transA", 0):
        return None
    form = linear(_product(node, operand, weight, rows=bool(given.get("transB", 0))), whole=True)
    form = form.times(one(float(given.get("alpha", 1.0))))
    beta = one(float(given.get("beta", 1.0)))
    return _with_bias(form, args, lambda b: b if beta.is_one else b * beta)


def _matmul(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    operand, weight = args
    if isinstance(operand, Form) and isinstance(weight, Known) and len(weight.shape) == 2:
        return [linear(_product(node, operand, weight, rows=False), whole=True)]
    return attention.product(r, node, args)


def _product(node: NodeProto, operand: Form, weight: Known, *, rows: bool) -> Linear:
    return Linear("MatMul", None, operand, weight, 1, not rows, 0, _label(node))


def _with_bias(form: Form, args: list[Value], aligned: Any) -> list[Value] | None:
    if len(args) < 3 or args[2] is None:
        return [form]
    ball = _small(args[2])
    return None if ball is None else [form.plus(aligned(ball))]


def _label(node: NodeProto) -> str:
    return node.name or f"{node.op_type}:{node.output[0]}"


# -- what moves elements ---------------------------------------------------------------------


def _axes(node: NodeProto, args: list[Value]) -> list[int] | None:
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
        after = after if asked is None or not after else tuple(
            s if isinstance(s, int) else d for s, d in zip(views.solved(before, asked), after, strict=True)
        )
    shape = args[1] if len(args) > 1 else None
    key = (node.op_type, attributes(node), tuple(shape.array().tolist()) if isinstance(shape, Known) else ())
    there, back = lambda b: views.reshaped(b, before, after), lambda b: views.reshaped(b, after, before)
    return _moved(form, key, there, back, shape if isinstance(shape, Form) else None)


def _squeeze(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    form, axes = args[0], _axes(node, args)
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


# -- what lets shifts pass, or does not feel them ----------------------------------------------


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
    axes, rank = _axes(node, args), r.rank(node.input[0])
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
    channels = views.without(form.shift, [0, *range(2, rank)], rank) if not views.varies(
        form.shift, [0, *range(2, rank)], rank) else None
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
        parts = [total.map(lambda x: x[:, :gates]), input_.map(lambda x: x[:, gates:]), state.map(lambda x: x[:, gates:])]
        total = views.joined(parts, 1)
    form = Form(Other("Biases", None, (), 0, _label(node)), None, total)
    return r.opaque(node, [*args[:3], form, *args[4:]])


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _binary),
    "Sum": _sum,
    "Neg": lambda r, node, args: [args[0].times(one(-1.0))] if isinstance(args[0], Form) else None,
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Transpose": _transpose,
    **dict.fromkeys(("Reshape", "Flatten"), _reshape),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _squeeze),
    **dict.fromkeys(("Identity", "Dropout"), _identity),
    "Concat": _concat,
    **dict.fromkeys(("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin"), _mean),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    **dict.fromkeys(("Softmax", "LogSoftmax"), attention.softmax),
    "Split": attention.split,
    "Gather": attention.gather,
    "Slice": attention.slices,
    "CastLike": _cast_like,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
}
