"""The normal form of onnxruntime's fused operators: the layers and sums in them, with what follows as an atom.

Attention's bias is one vector for query, key and value: the softmax does not depend on the keys' part, and its rows,
which sum to one, hand on the values' part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, helper

from converter.referee.normal_form.form import Form, Known, NotExpressed, Other, add_forms, make_scalar
from converter.referee.normal_form.interval import Interval
from converter.referee.normal_form.laws import Law
from converter.referee.normal_form.reader import Reader, Rule, Value, get_interval, list_attributes
from converter.referee.normal_form.rules import RULES, make_label
from converter.referee.reference.kernels import read_attributes

_MICROSOFT = "com.microsoft"


def _get(args: list[Value], slot: int) -> Value:
    return args[slot] if slot < len(args) else None


def _make_attention_rule(slot: int, caches: tuple[int, ...]) -> Rule:
    """Attention whose bias is in an input slot: of the bias the query's part stays, the values' part is a shift."""

    def rule(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
        bias = _get(args, slot)
        if (
            any(_get(args, k) is not None for k in caches)
            or any(node.output[1:])
            or read_attributes(node).get("do_rotary")
        ):
            return None
        interval = None if bias is None else get_interval(bias)
        if bias is not None and interval is None:
            return None
        rest: list[Value] = [None if k == slot else a for k, a in enumerate(args)]
        if interval is None:
            return r.opaque(node, [*rest, _make_vector(None)])
        q, k = _find_sizes(r, node, interval.value.size)
        parts = [interval.map(lambda x, a=a, b=b: x[a:b]) for a, b in ((0, q), (q + k, None))]
        if not interval.map(lambda x: x[q : q + k]).is_zero:
            r.laws.add(Law.SOFTMAX)
        if not parts[1].is_zero:
            r.laws.add(Law.ROWS)
        (bare,) = r.opaque(node, [*rest, _make_vector(parts[0])])
        assert isinstance(bare, Form)
        return [bare.plus(parts[1])]

    return rule


def _make_vector(interval: Interval | None) -> Form:
    """The query's part of a bias; none is one of zeros."""
    return Form(Other("Vector", None, (), 0, "vector"), None, interval if interval is not None else make_scalar(0.0))


def _find_sizes(r: Reader, node: NodeProto, width: int) -> tuple[int, int]:
    if node.op_type == "MultiHeadAttention":
        dims = r.dims(node.input[0])
        if dims is None or len(dims) != 3 or not isinstance(dims[2], int):
            raise NotExpressed("the width of its queries is not known")
        return dims[2], dims[2]
    sizes = read_attributes(node).get("qkv_hidden_sizes")
    return (int(sizes[0]), int(sizes[1])) if sizes else (width // 3, width // 3)


def _skip_norm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """The norm of a sum: of the sum's shift, what varies along the last axis."""
    x, skip, bias = args[0], args[1], _get(args, 4 if node.op_type == "SkipLayerNormalization" else 3)
    if not isinstance(x, Form) or not isinstance(skip, Form):
        return None
    total = add_forms([x, skip])
    if bias is not None:
        interval = get_interval(bias)
        if interval is None:
            return None
        total = total.plus(interval)
    if any(node.output[1:3]):
        return None
    flat = total.shift is None or total.shift.value.ndim == 0 or total.shift.value.shape[-1] == 1
    inner = total.settled if node.op_type == "SkipLayerNormalization" and flat else total
    if inner is not total and total.shift is not None and not total.shift.is_zero:
        r.laws.add(Law.CENTRED)
    parameters = args[2:4] if node.op_type == "SkipLayerNormalization" else args[2:3]
    label = make_label(node)
    normed = Form(Other(node.op_type, list_attributes(node), (inner, *parameters), 0, label))
    found: list[Value] = [normed, None, None, total]
    return found[: len(node.output)]


def _bias_gelu(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """An activation of a sum."""
    bias = _get(args, 1)
    interval = None if bias is None else get_interval(bias)
    if not isinstance(args[0], Form) or (bias is not None and interval is None):
        return None
    inner = args[0] if interval is None else args[0].plus(interval)
    return [Form(Other(node.op_type, list_attributes(node), (inner,), 0, make_label(node)))]


def _make_layer_rule(op: str, *kept: str) -> Rule:
    """A layer, perhaps a summand, and an activation; `kept`: attributes that are the layer's."""

    def rule(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
        plain = NodeProto()
        plain.CopyFrom(node)
        plain.op_type, plain.domain = op, ""
        own = [a for a in node.attribute if a.name in kept]
        del plain.attribute[:]
        plain.attribute.extend(own)
        found = RULES[op](r, plain, args[:3])
        if found is None or not isinstance(found[0], Form):
            return None
        form = found[0]
        more = _get(args, 3)
        if more is not None:
            if not isinstance(more, Form):
                return None
            form = add_forms([form, more])
        given = read_attributes(node)
        if not given.get("activation"):
            return [form]
        key = (given["activation"], list_attributes(node, *kept, "activation"))
        return [Form(Other(node.op_type, key, (form,), 0, make_label(node)))]

    return rule


def _fused_matmul(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """alpha A B, either transposed."""
    given = read_attributes(node)
    if given.get("transBatchA", 0) or given.get("transBatchB", 0):
        return None
    turned = [
        _turn(r, node, k, args[k]) if given.get(name, 0) else args[k] for k, name in ((0, "transA"), (1, "transB"))
    ]
    found = RULES["MatMul"](r, node, turned)
    if found is None or not isinstance(found[0], Form):
        return None
    return [found[0].times(make_scalar(float(given.get("alpha", 1.0))))]


def _turn(r: Reader, node: NodeProto, slot: int, value: Value) -> Value:
    name = node.input[slot]
    rank = r.rank(name)
    perm = [*range(rank - 2), rank - 1, rank - 2]
    if isinstance(value, Known):
        array: Any = np.transpose(value.array(), perm)
        return Known(value.name, array, None, value.rounded, value.relative)
    turn = helper.make_node("Transpose", [name], [f"{name} turned"], perm=perm)
    found = RULES["Transpose"](r, turn, [value])
    return None if found is None else found[0]


_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
FUSED_RULES: dict[str, Rule] = {
    f"{_MICROSOFT}:{op}": rule
    for op, rule in {
        "Attention": _make_attention_rule(2, (4, 6)),
        "QAttention": _make_attention_rule(2, (8,)),
        "MultiHeadAttention": _make_attention_rule(3, (6, 7, 8, 9)),
        "SkipLayerNormalization": _skip_norm,
        "SkipSimplifiedLayerNormalization": _skip_norm,
        "BiasGelu": _bias_gelu,
        "FastGelu": _bias_gelu,
        "FusedConv": _make_layer_rule("Conv", *_CONV),
        "FusedGemm": _make_layer_rule("Gemm", "alpha", "beta", "transA", "transB"),
        "FusedMatMul": _fused_matmul,
        "TransposeMatMul": _fused_matmul,
    }.items()
}
ALL_RULES = {**RULES, **FUSED_RULES}
