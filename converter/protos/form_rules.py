"""What each operator does to a normal form. An operator that is not here, or a case that is not, is opaque."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import NodeProto

from converter.protos import form_attention as attention
from converter.protos import form_moves, form_pools
from converter.protos.balls import Ball, exact
from converter.protos.form_read import Reader, Rule, Value, attributes, ball_of
from converter.protos.forms import Form, Known, Linear, added, linear, one
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
    return _with_bias(
        linear(atom, whole=bare and (ones or not turned)), args, lambda b: b.reshape(-1, *[1] * (rank - 2))
    )


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


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _binary),
    "Sum": _sum,
    "Neg": lambda r, node, args: [args[0].times(one(-1.0))] if isinstance(args[0], Form) else None,
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(("Softmax", "LogSoftmax"), attention.softmax),
    "Split": attention.split,
    "Gather": attention.gather,
    "Slice": attention.slices,
    **form_moves.RULES,
    **form_pools.RULES,
}
