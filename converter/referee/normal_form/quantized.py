"""The normal form of quantized layers: dequantized constants and data, scales that leave products, onnxruntime's own.

scale * (q - zero) is a linear map of the scale. What a run-time quantizer makes of its input is an atom.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto

from converter.referee.normal_form.form import Form, Known, Linear, NotExpressed, Other, build_linear
from converter.referee.normal_form.interval import Interval, is_float
from converter.referee.normal_form.reader import Reader, Rule, Value, get_interval, list_attributes
from converter.referee.proto.tensors import UNIT_ROUNDOFF
from converter.referee.reference.kernels import KernelCall, find_kernel, read_attributes
from converter.referee.reference.quantized import unpack_blocks

_MICROSOFT = "com.microsoft"
_UNITS = {2: UNIT_ROUNDOFF[10], 4: UNIT_ROUNDOFF[1], 8: UNIT_ROUNDOFF[11]}  # of float16, float32, float64, by bytes


def multiply_forms(r: Reader, node: NodeProto, left: Form, right: Form) -> list[Value] | None:
    """A product of two forms without shifts: the scales stay outside."""
    scales = [f.scale for f in (left, right) if f.scale is not None]
    if left.shift is not None or right.shift is not None or not scales:
        return None
    (bare,) = r.opaque(node, [Form(left.atom), Form(right.atom)])
    assert isinstance(bare, Form)
    return [Form(bare.atom, scales[0] if len(scales) == 1 else scales[0] * scales[1])]


def _get_unit(known: Known) -> float:
    """Relative error of what was rounded to its type."""
    array = known.array()
    if not known.rounded or not is_float(array.dtype):
        return known.relative
    return known.relative or (UNIT_ROUNDOFF[16] if array.dtype.kind == "V" else _UNITS[array.dtype.itemsize])


def _dequantize(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    scale, zero = args[1], args[2] if len(args) > 2 else None
    if not isinstance(scale, Known) or isinstance(zero, Form):
        return None
    given = read_attributes(node)
    if isinstance(args[0], Known):
        inputs = (args[0].array(), scale.array().astype(np.float64), None if zero is None else zero.array())
        kernel = find_kernel("", "DequantizeLinear", r.opset)
        assert kernel is not None
        (value,) = kernel(KernelCall(inputs, given, r.opset))
        return [Known(node.output[0], value, None, rounded=True, relative=max(_get_unit(scale), 2.0**-53))]
    interval = get_interval(scale)
    if given.get("block_size", 0) or interval is None or interval.value.ndim > 1 or args[0] is None:
        return None
    rank = r.rank(node.output[0]) if interval.value.size > 1 or (zero is not None and len(zero.shape)) else 1
    axis = int(given.get("axis", 1)) % max(rank, 1)
    aligned = interval.reshape(*_align(interval.value.size, axis, rank))
    label = node.name or f"{node.op_type}:{node.output[0]}"
    key = () if zero is None else _summarize(zero.array(), axis)
    return [Form(Other("DequantizeLinear", key, (args[0],), 0, label)).times(aligned)]


def _align(size: int, axis: int, rank: int) -> tuple[int, ...]:
    return () if size == 1 else (size, *[1] * (rank - 1 - axis))


def _summarize(points: Any, axis: int) -> Any:
    """Zero points as something to compare: one number if all are the same; none are zeros."""
    flat = [int(p) for p in points.reshape(-1)]
    if len(set(flat)) == 1:
        return () if flat[0] == 0 else (flat[0],)
    return axis, tuple(flat)


def _blocks(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """MatMulNBits as a product with the matrix that it unpacks."""
    operand, scale = args[0], args[2]
    constants = [*args[1:5], *[None] * (5 - len(args))][:4]
    if not isinstance(operand, Form) or not isinstance(scale, Known) or any(isinstance(a, Form) for a in constants):
        return None
    packed, scales, zeros, groups = (a.array() if isinstance(a, Known) else None for a in constants)
    assert packed is not None and scales is not None
    matrix = unpack_blocks(packed, scales, zeros, groups, read_attributes(node)).T
    weight = Known(node.input[1], matrix, None, rounded=scale.rounded, relative=_get_unit(scale))
    label = node.name or f"{node.op_type}:{node.output[0]}"
    form = build_linear(Linear("MatMul", None, operand, weight, 1, True, 0, label), whole=True)
    return _plus_bias(form, args, 5)


def _plus_bias(form: Form, args: list[Value], slot: int) -> list[Value] | None:
    bias = args[slot] if len(args) > slot else None
    if bias is None:
        return [form]
    interval = get_interval(bias)
    if interval is None:
        raise NotExpressed("a bias that is known at run time only")
    return [form.plus(interval)]


def _make_product_rule(scale_slot: int, bias_slot: int) -> Rule:
    """A product with an integer matrix, times its scale, plus a bias: the operator without both is the atom."""

    def rule(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
        interval = get_interval(args[scale_slot])
        if interval is None:
            return None
        if interval.value.size == 1:
            interval = interval.reshape()
        rest = tuple(a for k, a in enumerate(args) if k not in (scale_slot, bias_slot))
        while rest and rest[-1] is None:
            rest = rest[:-1]
        label = node.name or f"{node.op_type}:{node.output[0]}"
        atom = Other(node.op_type, (_MICROSOFT, list_attributes(node)), rest, 0, label)
        return _plus_bias(Form(atom).times(interval), args, bias_slot)

    return rule


def _q_gemm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """A QGemm of float result: its scale stays outside, the integers of its bias count in it."""
    zero, interval = args[5], get_interval(args[4])
    if any(a is not None for a in args[7:]):
        return _requantize(r, node, args, 6)
    if interval is None or isinstance(zero, Form):
        return None
    key = () if zero is None else _summarize(zero.array(), 0)
    label = node.name or f"{node.op_type}:{node.output[0]}"
    atom = Other(node.op_type, (_MICROSOFT, list_attributes(node), key), (*args[:4], *args[6:7]), 0, label)
    return [Form(atom).times(interval.reshape() if interval.value.size == 1 else interval)]


def _requantize(r: Reader, node: NodeProto, args: list[Value], slot: int) -> list[Value] | None:
    """A layer whose result is rounded to integers, as it stands; a bias of zeros is none."""
    bias = args[slot] if len(args) > slot else None
    if not isinstance(bias, Known) or bias.array().any():
        return None
    return r.opaque(node, [*args[:slot], None, *args[slot + 1 :]])


def _lstm(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """The two biases of DynamicQuantizeLSTM as the sum that it uses."""
    bias = args[3] if len(args) > 3 else None
    interval = None if bias is None else get_interval(bias)
    if interval is None or interval.value.ndim != 2:
        return None
    half = interval.value.shape[1] // 2
    total: Interval = interval.map(lambda x: x[:, :half]) + interval.map(lambda x: x[:, half:])
    label = node.name or f"{node.op_type}:{node.output[0]}"
    form = Form(Other("Biases", None, (), 0, label), None, total)
    return r.opaque(node, [*args[:3], form, *args[4:]])


QUANTIZED_RULES: dict[str, Rule] = {
    "QLinearConv": lambda r, node, args: _requantize(r, node, args, 8),
    "DequantizeLinear": _dequantize,
    f"{_MICROSOFT}:MatMulNBits": _blocks,
    f"{_MICROSOFT}:DynamicQuantizeMatMul": _make_product_rule(2, 4),
    f"{_MICROSOFT}:MatMulIntegerToFloat": _make_product_rule(3, 6),
    f"{_MICROSOFT}:QGemm": _q_gemm,
    f"{_MICROSOFT}:DynamicQuantizeLSTM": _lstm,
}
