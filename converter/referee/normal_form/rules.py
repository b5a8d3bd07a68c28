"""The normal form of each operator: Conv, Gemm, BatchNormalization, arithmetic, what attention's biases go through.

(q + b)(k + c)^T = q k^T + q c^T + b k^T + b c^T. The second and fourth term are the same for every key, so that a
softmax over the keys does not depend on them; rows of a softmax sum to one, so that a shift of the values passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto

from converter.referee.normal_form import form as views
from converter.referee.normal_form.factors import FACTOR_RULES, pass_back, weigh
from converter.referee.normal_form.form import (
    Form,
    Known,
    Linear,
    NotExpressed,
    Other,
    Total,
    add_forms,
    build_linear,
    make_scalar,
    make_vector,
)
from converter.referee.normal_form.interval import Interval, make_exact
from converter.referee.normal_form.laws import Law
from converter.referee.normal_form.moves import MOVE_RULES, turn
from converter.referee.normal_form.quantized import QUANTIZED_RULES, multiply_forms
from converter.referee.normal_form.reader import Reader, Rule, Value, find_axes, get_interval, list_attributes
from converter.referee.reference.kernels import read_attributes

_FLAT = "constant along the last axis"


def product(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """A matrix product of two forms."""
    left, right = args
    if not isinstance(left, Form) or not isinstance(right, Form):
        return None
    left, right = (f.settled if f.shift is not None and f.shift.is_zero else f for f in (left, right))
    label = node.name or f"{node.op_type}:{node.output[0]}"
    bare = Form(Other("MatMul", None, (left.settled, right.settled), 0, label))
    r.laws.add(Law.PRODUCT)
    if left.shift is None and right.shift is None:
        return [bare]
    terms, shift = [bare], None
    r.laws.add(Law.ROWS)
    if right.shift is not None:
        if _is_softmax(left) and not _varies(right.shift, -2):
            shift = right.shift  # each row of weights sums to one
        else:
            flat = _FLAT if not _varies(right.shift, -1) else ""
            terms.append(Form(Other("MatMul", flat, (left.settled, make_vector(right.shift)), 0, label)))
    if left.shift is not None:
        terms.append(Form(Other("MatMul", "", (make_vector(left.shift), right.settled), 0, label)))
    if left.shift is not None and right.shift is not None:
        one, other = _extend_numbers(left.shift, right.shift)
        if shift is not None or one.value.ndim < 1 or other.value.ndim < 2:
            raise NotExpressed(f"shifts of both sides of {label}")
        shift = _multiply_intervals(one, other)
    total = add_forms(terms) if len(terms) > 1 else bare
    return [total if shift is None else total.plus(shift)]


def _extend_numbers(left: Interval, right: Interval) -> tuple[Interval, Interval]:
    """Shifts of the factors of a product; one that is a single number as long as the other one is."""
    if right.value.size == 1 and left.value.ndim >= 1 and (n := left.value.shape[-1]) > 1:
        right = right.map(lambda x: np.broadcast_to(x.reshape(1, 1), (n, 1)))
    elif left.value.size == 1 and right.value.ndim >= 2 and (n := right.value.shape[-2]) > 1:
        left = left.map(lambda x: np.broadcast_to(x.reshape(1), (n,)))
    return left, right


def _multiply_intervals(left: Interval, right: Interval) -> Interval:
    n = right.value.shape[-2]
    if left.value.shape[-1] != n:
        raise NotExpressed("vectors of unknown length")
    error = np.abs(left.value) @ (right.radius + (n + 2) * 2.0**-52 * np.abs(right.value))
    return Interval(left.value @ right.value, error + left.radius @ np.abs(right.value))


def _varies(interval: Interval, axis: int) -> bool:
    dims = interval.value.shape
    return len(dims) >= -axis and dims[axis] != 1


def _is_softmax(form: Form) -> bool:
    """Whether its rows, along the last axis, sum to one."""
    atom = form.atom
    plain = form.scale is None and form.shift is None
    return plain and isinstance(atom, Other) and atom.op == "Softmax" and atom.key[1] == "last"


def softmax(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """Softmax without what is the same all along its axis."""
    form, rank = args[0], r.rank(node.input[0])
    axis = int(read_attributes(node).get("axis", -1 if r.opset >= 13 else 1)) % rank
    if not isinstance(form, Form):
        return None
    if isinstance(form.atom, Total) and form.scale is None and axis == rank - 1:
        kept = [t for t in form.atom.terms if not _is_flat(t)]
        if len(kept) < len(form.atom.terms):
            r.laws.add(Law.SOFTMAX)
        if len(kept) == 1:
            form = Form(kept[0].atom, kept[0].scale, form.shift)
        elif kept:
            form = Form(Total(tuple(kept)), None, form.shift)
    axes = [axis] if r.opset >= 13 else list(range(axis, rank))
    if form.shift is not None and not views.varies_along(form.shift, axes, rank):
        r.laws.add(Law.SOFTMAX)
        form = form.settled
    elif form.shift is not None and len(axes) == 1 and np.isfinite(form.shift.value).all():
        # What varies along the axis, such as a constant mask, counts from its first number: softmax depends on no more.
        r.laws.add(Law.SOFTMAX)
        first = form.shift.map(lambda x: x.take([0], axis - rank))
        form = replace(form, shift=form.shift - first)
    key = (node.op_type, "last" if axis == rank - 1 else tuple(axes))
    return r.opaque(node, [form], key)


def _is_flat(term: Form) -> bool:
    flat = isinstance(term.atom, Other) and term.atom.op == "MatMul" and term.atom.key == _FLAT
    return flat and (term.scale is None or not _varies(term.scale, -1))


_EXACT = {"MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"}  # of what they read they hand on some, as it is


def _keep_outside(
    r: Reader, node: NodeProto, args: list[Value], axes: Sequence[int], shift: Any, back: Any = None
) -> list[Value] | None:
    """The operator on the form without its shift, which does not change along ``axes``; then ``shift`` of it.

    ``back``: what a factor of the result is to the form; None where it does not pass.
    """
    form = args[0]
    if not isinstance(form, Form) or any(node.output[1:]):
        return None
    moves = form.shift is not None and not views.varies_along(form.shift, axes, r.rank(node.input[0]))
    if not moves and back is None:
        return None
    # A factor goes on to what reads the result only where all of it does.
    factor = form.scale if r.forward and back is not None and (moves or form.shift is None) else None
    factor = None if factor is None or views.varies_along(factor, axes, r.rank(node.input[0])) else shift(factor)
    factor = None if factor is None or back(factor) is None else factor
    kept = Form(form.atom) if factor is not None else form.settled if moves else form
    (bare,) = r.opaque(node, [kept, *args[1:]])
    assert isinstance(bare, Form)
    if back is not None:
        bare = Form(pass_back(bare, back).atom, factor)
    moved = shift(form.shift) if moves else None
    if moves and form.shift is not None and not form.shift.is_zero:
        r.laws.add(Law.CENTRED if moved is None else Law.SHIFT if node.op_type in _EXACT else Law.THROUGH_MEAN)
    return [bare if moved is None else bare.plus(moved)]


def _still(axes: Sequence[int], rank: int, *, any_sign: bool = True) -> Any:
    """A factor that does not change along ``axes`` passes as it is."""

    def back(interval: Interval) -> list[Interval | None] | None:
        if interval.value.ndim > rank or views.varies_along(interval, axes, rank):
            return None
        return [interval] if any_sign or bool((interval.value - interval.radius > 0).all()) else None

    return back


def _commute(r: Reader, node: NodeProto, args: list[Value], *, any_sign: bool) -> list[Value] | None:
    """A pool of scale * x is scale times the pool of x, for a maximum only if the scale is positive."""
    form, axes, rank = args[0], range(2, r.rank(node.input[0])), r.rank(node.input[0])
    back = _still(axes, rank, any_sign=any_sign)
    if not isinstance(form, Form) or form.scale is None or any(node.output[1:]):
        return _keep_outside(r, node, args, axes, lambda s: s, back)
    if views.varies_along(form.scale, axes, rank) or not (any_sign or (form.scale.value > 0).all()):
        return _keep_outside(r, node, args, axes, lambda s: s)
    if form.shift is not None and views.varies_along(form.shift, axes, rank):
        return None
    if form.shift is not None and not form.shift.is_zero:
        r.laws.add(Law.SHIFT if node.op_type in _EXACT else Law.THROUGH_MEAN)
    (bare,) = r.opaque(node, [Form(form.atom), *args[1:]])
    assert isinstance(bare, Form)
    return [Form(pass_back(bare, back).atom, form.scale, form.shift)]


def _pool(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    given = read_attributes(node)
    padded = any(given.get("pads", [])) or given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    counted = node.op_type == "AveragePool" and padded and (given.get("count_include_pad", 0) or r.opset < 7)
    if counted and isinstance(args[0], Form) and args[0].shift is not None and not args[0].shift.is_zero:
        return None
    return _commute(r, node, args, any_sign="Average" in node.op_type)


def _mean(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    axes, rank = find_axes(node, args), r.rank(node.input[0])
    if axes is None:
        return None
    keep = read_attributes(node).get("keepdims", 1)
    still = _still(axes, rank, any_sign=node.op_type == "ReduceMean")

    def back(interval: Interval) -> list[Interval | None] | None:
        return still(interval if keep else views.insert_axes(interval, axes, rank))  # type: ignore[no-any-return]

    return _keep_outside(r, node, args, axes, lambda s: s if keep else views.drop_axes(s, axes, rank), back)


def _resize(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    given = read_attributes(node)
    if given.get("mode", "nearest") not in ("nearest", "linear", "cubic") or any(isinstance(a, Form) for a in args[1:]):
        return None
    if given.get("coordinate_transformation_mode") == "tf_crop_and_resize" or "axes" in given:
        return None
    rank = r.rank(node.input[0])
    return _keep_outside(r, node, args, range(2, rank), lambda s: s, _still(range(2, rank), rank))


def _pad(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """Padding with zeros, or with what is there: a factor passes, a shift only the latter."""
    given, rank = read_attributes(node), r.rank(node.input[0])
    pads = given.get("pads") if len(args) < 2 else args[1].array().tolist() if isinstance(args[1], Known) else None
    fill = args[2] if len(args) > 2 else None
    zero = not given.get("value", 0.0) and (fill is None or (isinstance(fill, Known) and not fill.array().any()))
    mode = given.get("mode", "constant")
    if pads is None or len(pads) != 2 * rank or (mode in ("constant", b"constant") and not zero):
        return None
    axes = [k for k in range(rank) if pads[k] or pads[k + rank]]
    if mode in ("constant", b"constant"):
        (bare,) = r.opaque(node, args)
        return [pass_back(bare, _still(axes, rank)) if isinstance(bare, Form) else bare]
    return _keep_outside(r, node, args, axes, lambda s: s, _still(axes, rank))


def _instance_norm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    return _keep_outside(r, node, args, range(2, r.rank(node.input[0])), lambda s: None)


def _group_norm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    form, groups = args[0], int(read_attributes(node).get("num_groups", 0))
    if not isinstance(form, Form) or form.shift is None or not groups:
        return None
    rank = r.rank(node.input[0])
    channels = (
        views.drop_axes(form.shift, [0, *range(2, rank)], rank)
        if not views.varies_along(form.shift, [0, *range(2, rank)], rank)
        else None
    )
    if channels is None or channels.value.size % groups:
        return None
    rows = channels.value.reshape(groups, -1)
    return _keep_outside(r, node, args, [], lambda s: None) if (rows == rows[:, :1]).all() else None


def _layer_norm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    rank = r.rank(node.input[0])
    axis = int(read_attributes(node).get("axis", -1)) % rank
    bias = _get_small(args[2]) if len(args) > 2 and args[2] is not None else make_exact(0.0)
    factor = _get_small(args[1])
    if bias is None or factor is None or any(node.output[1:]):
        return _keep_outside(r, node, args, range(axis, rank), lambda s: None)
    # Its factor and bias are those of any other layer: a fold may have moved them into the layers behind.
    found = _keep_outside(r, node, args[:1], range(axis, rank), lambda s: None) or r.opaque(node, args[:1])
    form = found[0]
    assert isinstance(form, Form)
    form = form if factor.is_one else form.times(factor)
    return [form if bias.is_zero else form.plus(bias)]


def _cast_like(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """A constant in the type of a computed tensor, which it mostly has already."""
    known, port = args[0], r.types.get(node.input[1])
    if not isinstance(known, Known) or port is None or port.dtype is None:
        return None
    array = known.array()
    there = array.astype(port.dtype)
    return [Known(known.name, there, rounded=known.rounded)] if bool((there == array).all()) else None


POOL_RULES: dict[str, Rule] = {
    **dict.fromkeys(("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin"), _mean),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Pad": _pad,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "CastLike": _cast_like,
}

_LARGEST_TERM = 1 << 22  # elements of a constant that is added or multiplied


def _get_small(value: Value) -> Interval | None:
    if not isinstance(value, Known) or math.prod(value.shape) > _LARGEST_TERM:
        return None
    return get_interval(value)


def _align(r: Reader, node: NodeProto, interval: Interval, other: str) -> Interval:
    """A constant as numpy broadcasts it: before opset 7 an attribute says at which axis it starts."""
    given = read_attributes(node)
    if r.opset >= 7 or "axis" not in given or not interval.value.ndim:
        return interval
    rank = r.rank(other)
    start = int(given["axis"]) % rank
    return interval.map(lambda x: x.reshape(x.shape + (1,) * (rank - start - x.ndim)))


def _binary(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    left, right = args
    op = node.op_type
    if isinstance(left, Form) and isinstance(right, Form):
        if op == "Mul":
            return multiply_forms(r, node, left, right)
        if op not in ("Add", "Sub"):
            return None
        r.laws.add(Law.SIBLINGS)
        return [add_forms([left, right if op == "Add" else right.times(make_scalar(-1.0))])]
    slot = 0 if isinstance(left, Form) else 1
    form, interval = args[slot], _get_small(args[1 - slot])
    if not isinstance(form, Form) or interval is None or (op == "Div" and slot):
        return None
    interval = _align(r, node, interval, node.input[slot])
    if op in ("Mul", "Div"):
        return [form.times(interval if op == "Mul" else make_scalar(1.0) / interval)]
    if op == "Sub":
        return [form.plus(-interval) if slot == 0 else form.times(make_scalar(-1.0)).plus(interval)]
    return [form.plus(interval)]


def _sum(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    forms = [a for a in args if isinstance(a, Form)]
    intervals = [_get_small(a) for a in args if not isinstance(a, Form)]
    if not forms or None in intervals:
        return None
    if len(forms) > 1:
        r.laws.add(Law.SIBLINGS)
    total = add_forms(forms) if len(forms) > 1 else forms[0]
    for interval in intervals:
        assert interval is not None
        total = total.plus(interval)
    return [total]


def _batch_norm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    given = read_attributes(node)
    training = given.get("training_mode", 0) or (r.opset < 7 and not given.get("is_test", 0))
    if training or not given.get("spatial", 1) or any(node.output[1:]) or not isinstance(args[0], Form):
        return None
    intervals = [get_interval(a) for a in args[1:5]]
    if any(b is None or b.value.ndim != 1 for b in intervals):
        return None
    gamma, beta, mean, var = (b for b in intervals if b is not None)
    epsilon = make_exact(np.float64(given.get("epsilon", np.float32(1e-5))))  # the standard's default is a float32
    scale = gamma / (var + epsilon).root()
    dims = (-1, *[1] * (r.rank(node.input[0]) - 2))
    mean, scale, beta = (b.reshape(*dims) for b in (mean, scale, beta))
    form = args[0].plus(-mean).times(scale).plus(beta)
    plain = args[0].scale is None and args[0].shift is None and form.atom is args[0].atom
    return [replace(form, point=(mean, beta)) if plain else form]


# -- linear operators ------------------------------------------------------------------------


def _conv(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    operand, weight = args[0], args[1]
    if not isinstance(operand, Form) or not isinstance(weight, Known) or len(weight.shape) < 3:
        return None
    given = read_attributes(node)
    turned = node.op_type == "ConvTranspose"
    ones = all(k == 1 for k in weight.shape[2:]) and all(s == 1 for s in given.get("strides", [1]))
    bare = not any(given.get("pads", [])) and given.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    bare = bare and not any(given.get("output_padding", [])) and "output_shape" not in given
    bare = bare or (not turned and not _reads_padding(r.dims(node.input[0]), weight.shape[2:], given))
    rank, groups = len(weight.shape), int(given.get("group", 1))
    key = (tuple(weight.shape[2:]), list_attributes(node, "kernel_shape", "group"))
    atom = Linear(node.op_type, key, operand, weight, groups, turned, rank, make_label(node))
    form = _build_linear(r, atom, whole=bare and (ones or not turned))
    return _add_bias(form, args, lambda b: b.reshape(-1, *[1] * (rank - 2)))


def _reads_padding(dims: views.Dims | None, kernel: Sequence[int], given: dict[str, Any]) -> bool:
    """Whether any window of a convolution reaches beyond its operand, whose sizes may tell that none does."""
    rank = len(kernel)
    pads, strides = given.get("pads", [0] * 2 * rank), given.get("strides", [1] * rank)
    for axis, (k, stride, dilation) in enumerate(zip(kernel, strides, given.get("dilations", [1] * rank), strict=True)):
        size = None if dims is None or len(dims) != rank + 2 else dims[axis + 2]
        reach = (k - 1) * dilation + 1
        if given.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
            if reach > 1 and (not isinstance(size, int) or (-(-size // stride) - 1) * stride + reach > size):
                return True
            continue
        before, after = pads[axis], pads[axis + rank]
        if before or (after and not isinstance(size, int)):
            return True
        if isinstance(size, int) and ((size + after - reach) // stride) * stride + reach > size:
            return True
    return False


def _gemm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    operand, weight = args[0], args[1]
    given = read_attributes(node)
    if isinstance(weight, Form):
        return _gemm_of_computed(r, node, args)
    if not isinstance(operand, Form) or not isinstance(weight, Known):
        return None
    if given.get("transA", 0):
        (turned,) = turn(operand, [1, 0], 2) or [None]
        if not isinstance(turned, Form):
            return None
        operand = turned
    form = _build_linear(r, _product(node, operand, weight, rows=bool(given.get("transB", 0))), whole=True)
    form = form.times(make_scalar(float(given.get("alpha", 1.0))))
    beta = make_scalar(float(given.get("beta", 1.0)))
    return _add_bias(form, args, lambda b: b if beta.is_one else b * beta)


def _gemm_of_computed(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """alpha A B + beta C of a computed B, with a weight on the left or a second computed matrix."""
    given, left, right = read_attributes(node), args[0], args[1]
    assert isinstance(right, Form)
    if given.get("transB", 0):
        (turned,) = turn(right, [1, 0], 2) or [None]
        if not isinstance(turned, Form):
            return None
        right = turned
    if given.get("transA", 0):
        if not isinstance(left, Form):
            return None
        (turned,) = turn(left, [1, 0], 2) or [None]
        left = turned
    pair = [left, right]
    if isinstance(left, Known):
        if len(left.shape) != 2:
            return None
        if right.shift is not None and not right.shift.is_zero:
            r.laws.add(Law.THROUGH_WEIGHTS)
        made = build_linear(Linear("left MatMul", None, right, left, 1, False, 3, make_label(node)), whole=True)
    else:
        found = product(r, node, pair) if isinstance(left, Form) else None
        if found is None or not isinstance(found[0], Form):
            return None
        made = found[0]
    alpha, beta = (make_scalar(float(given.get(name, 1.0))) for name in ("alpha", "beta"))
    made = made if alpha.is_one else made.times(alpha)
    added = args[2] if len(args) > 2 else None
    if isinstance(added, Form):
        return [add_forms([made, added if beta.is_one else added.times(beta)])]
    return _add_bias(made, args, lambda b: b if beta.is_one else b * beta)


def _matmul(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    operand, weight = args
    if isinstance(operand, Form) and isinstance(weight, Known) and len(weight.shape) == 2:
        return [_build_linear(r, _product(node, operand, weight, rows=False), whole=True)]
    return weigh(r, node, args) if isinstance(operand, Known) or isinstance(weight, Known) else product(r, node, args)


def _build_linear(r: Reader, atom: Linear, *, whole: bool) -> Form:
    """The operator on its operand, whose shift comes out as a constant where every tap reads it."""
    form, shift = build_linear(atom, whole=whole), atom.operand.shift
    if shift is not None and not shift.is_zero and form.shift is not None:
        r.laws.add(Law.THROUGH_WEIGHTS)
    return form


def _product(node: NodeProto, operand: Form, weight: Known, *, rows: bool) -> Linear:
    return Linear("MatMul", None, operand, weight, 1, not rows, 0, make_label(node))


def _add_bias(form: Form, args: list[Value], aligned: Any) -> list[Value] | None:
    if len(args) < 3 or args[2] is None:
        return [form]
    interval = _get_small(args[2])
    return None if interval is None else [form.plus(aligned(interval))]


def make_label(node: NodeProto) -> str:
    """The name of a node, or what it makes where it has none."""
    return node.name or f"{node.op_type}:{node.output[0]}"


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _binary),
    "Sum": _sum,
    "Neg": lambda r, node, args: [args[0].times(make_scalar(-1.0))] if isinstance(args[0], Form) else None,
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **FACTOR_RULES,
    **MOVE_RULES,
    **POOL_RULES,
    **QUANTIZED_RULES,
}
