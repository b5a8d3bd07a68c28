"""A bias, and what takes its shift over for good: biases, the mean of a batch norm, constants, a sibling's bias."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Node, Tensor
from converter.records import EffectKind
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import Affine, affine_at, scale_and_shift, stats_problem, training_problem
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.fused import ATTENTION, CLOSED, REQUANTIZED, REQUANTIZED_BIAS
from converter.rewrite.analysis.linear import Linear, linear_at, linear_into
from converter.rewrite.analysis.quantized import quantized_at, quantized_into, unpack_blocks
from converter.rewrite.bias_flow.rules.product import conv_problem, convolve_shift
from converter.rewrite.bias_flow.shift import Array, Shift


@dataclass(frozen=True, slots=True)
class Bias:
    """A constant bias that may be replaced.

    Attributes
    ----------
    linear : Linear
        The operator that bears it: Conv, ConvTranspose, Gemm or MatMul with its Add.
    tensor : Tensor
        The constant.
    output : Tensor
        What it shifts.
    value : ndarray, float64
        The bias as it stands, Gemm's beta included.
    shape : tuple of int
        The shift's, beside the output.
    """

    linear: Linear
    tensor: Tensor
    output: Tensor
    value: Array
    shape: tuple[int, ...]

    @property
    def node(self) -> Node:
        """The linear operator."""
        return self.linear.node


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """What may take a shift over, beyond biases, means and constants that exist.

    ``siblings``: the bias of the other operand of an Add. ``new_bias``: a bias where there is none.
    """

    siblings: bool = False
    new_bias: bool = False


@dataclass(frozen=True, slots=True)
class Absorb:
    """A node that takes the shift over: what `make` gives goes to its bias, mean (negated) or constant.

    It is made when a plan asks: it may take reading a weight, and most traces end elsewhere.
    """

    node: Node
    kind: EffectKind
    target: Linear | Affine
    make: Callable[[], Array]
    n_elements: int
    how: str


def bias_at(facts: Facts, node: Node) -> Bias | None:
    """The bias that `node` adds, if it is a constant that may be replaced."""
    return facts.remember(_read_bias, node)


def _read_bias(facts: Facts, node: Node) -> Bias | None:
    slot = {**ATTENTION, **CLOSED}.get(str(node.op)) if node.is_microsoft(*ATTENTION, *CLOSED) else None
    if slot is not None or node.is_op(REQUANTIZED):
        return _read_fused_bias(facts, node, REQUANTIZED_BIAS if slot is None else slot)
    for op in lin.OPS:
        linear = quantized_at(facts, node) if op == lin.QUANTIZED else linear_at(facts, node, op)
        if linear is None or linear.bias is None or linear.node.function_attrs:
            continue
        if facts.constants.weight(linear.bias) is None or facts.constants.weight(linear.weight) is None:
            return None
        value = lin.bias_value(facts, linear)
        shape = _align_shape(facts, linear, value)
        if value is None or shape is None:
            return None
        return Bias(linear, linear.bias, linear.result, value, shape)
    return None


def _read_fused_bias(facts: Facts, node: Node, slot: int) -> Bias | None:
    """The bias of one of onnxruntime's fused operators, or of a QLinearConv."""
    tensor, result = node.tensor_in(slot), node.tensor_out(0)
    weight = None if tensor is None else facts.constants.weight(tensor)
    if tensor is None or weight is None or result is None or len(weight.shape) != 1 or node.function_attrs:
        return None
    linear = Linear(node, node, slot)
    return Bias(linear, tensor, result, weight.float64(), weight.shape)


def _align_shape(facts: Facts, linear: Linear, value: Array | None) -> tuple[int, ...] | None:
    """Shape of the bias as it broadcasts to the output, with all axes; None if it has none."""
    if value is None:
        return None
    if linear.op in (lin.CONV, lin.CONV_TRANSPOSE):
        rank = lin.result_rank(facts, linear)
        return None if rank is None or value.ndim != 1 else (1, value.size, *[1] * (rank - 2))
    if linear.op == lin.GEMM:
        return value.shape if value.ndim == 2 else (1, value.size)
    rank = facts.rank(linear.result)
    return None if rank is None else (1,) * (rank - value.ndim) + value.shape


def find_absorb(facts: Facts, options: TraceOptions, node: Node, shifts: dict[int, Shift]) -> Absorb | None:
    """What the node does to take the shift over: a part of it, or the layer that it is; None if it cannot."""
    may_be_second = node.is_op("Add", "Sub") or node.is_microsoft("SkipLayerNormalization")
    if set(shifts) != {0} and not (may_be_second and set(shifts) in ({0}, {1})):
        return None
    ((slot, s),) = shifts.items()
    if s.value is None or s.masked or s.tiled:
        return None
    if node.is_microsoft(*_SUMS):
        return _absorb_in_fused(facts, node, s)
    if node.is_microsoft("MatMulNBits"):
        return _absorb_in_blocks(facts, options, node, s)
    if lin.kind_of(node) in lin.LINEAR:
        return _absorb_in_linear(facts, options, node, s)
    if node.is_op("BatchNormalization"):
        return _absorb_in_mean(facts, node, s)
    if node.is_op("Add", "Sub"):
        return _absorb_in_constant(facts, node, slot, s)
    return None


def _absorb_in_linear(facts: Facts, options: TraceOptions, node: Node, s: Shift) -> Absorb | None:
    linear = linear_into(facts, node, lin.kind_of(node))
    if linear is None or node.function_attrs or facts.read_weight(linear.weight) is None:
        return None
    make = _find_addition(facts, linear, s)
    if make is None:
        return None
    channels = lin.out_channels(facts, linear)
    if linear.bias is None:
        room = linear.op != "MatMul" and options.new_bias
        return Absorb(node, EffectKind.NEW_BIAS, linear, make, channels, "its new bias takes it over") if room else None
    if facts.read_weight(linear.bias) is None or not numerics.is_float(facts.weight(linear.bias).dtype):
        return None
    shape = facts.weight(linear.bias).shape
    if np.broadcast_shapes(shape, (channels,)) != shape and math.prod(shape) != 1:
        return None
    return Absorb(node, EffectKind.BIAS, linear, make, channels, f"its bias {linear.bias.name!r} takes it over")


# onnxruntime's own operators that add a vector of the last axis to their input, and its slot.
_SUMS = {"SkipLayerNormalization": 4, "SkipSimplifiedLayerNormalization": 3, "BiasGelu": 1, "FastGelu": 1}


def _absorb_in_fused(facts: Facts, node: Node, s: Shift) -> Absorb | None:
    slot = _SUMS[str(node.op)]
    bias = node.tensor_in(slot)
    weight = None if bias is None or facts.read_weight(bias) is None else facts.weight(bias)
    if bias is None or weight is None or len(weight.shape) != 1 or not numerics.is_float(weight.dtype):
        return None
    if s.value is None or not s.constant_on(range(s.rank - 1)) or node.function_attrs:
        return None
    added = np.broadcast_to(s.value.reshape(-1), weight.shape)
    how = f"its bias {bias.name!r} takes it over"
    return Absorb(node, EffectKind.BIAS, Linear(node, node, slot), lambda: added, added.size, how)


def _absorb_in_blocks(facts: Facts, options: TraceOptions, node: Node, s: Shift) -> Absorb | None:
    """A product with a matrix in packed blocks, with a bias of its own or an Add after it."""
    linear = quantized_into(facts, node)
    if linear is None or s.value is None or not s.constant_on(range(s.rank - 1)) or node.function_attrs:
        return None
    matrix = facts.remember(unpack_blocks, node)
    if matrix is None:
        return None
    added = np.broadcast_to(s.value.reshape(-1), (matrix.shape[0],)) @ matrix
    if linear.bias is None:
        how = "its new bias takes it over"
        return Absorb(node, EffectKind.NEW_BIAS, linear, lambda: added, added.size, how) if options.new_bias else None
    if facts.read_weight(linear.bias) is None or not numerics.is_float(facts.weight(linear.bias).dtype):
        return None
    how = f"its bias {linear.bias.name!r} takes it over"
    return Absorb(node, EffectKind.BIAS, linear, lambda: added, added.size, how)


def _find_addition(facts: Facts, linear: Linear, s: Shift) -> Callable[[], Array] | None:
    """What the shift adds to the output channels, shape [O]; None if it is not one vector."""
    node, value = linear.node, s.value
    assert value is not None
    if linear.op in (lin.CONV, lin.CONV_TRANSPOSE):
        return None if conv_problem(facts, node, s) else lambda: convolve_shift(facts, linear, s)
    if lin.weight_rank_problem(facts, linear) is not None or node.attr("transA", 0):
        return None
    if not s.constant_on(range(s.rank - 1)):
        return None
    row = np.broadcast_to(value.reshape(-1), (lin.in_channels(facts, linear),))
    return lambda: lin.input_sum(facts, linear, row)


def _absorb_in_mean(facts: Facts, node: Node, s: Shift) -> Absorb | None:
    bn = affine_at(node, 0)
    if bn is None or node.function_attrs or training_problem(bn) or stats_problem(facts, bn):
        return None
    if any(facts.read_weight(t) is None for t in bn.params):
        return None
    floats = all(numerics.is_float(facts.weight(t).dtype) for t in bn.params)  # the standard allows no other
    if not floats or not s.constant_on([0, *range(2, s.rank)]) or not _is_finite(facts, bn):
        return None
    assert s.value is not None
    channels = facts.weight(bn.params[2]).shape
    added = np.broadcast_to(s.value.reshape(-1), channels)
    return Absorb(node, EffectKind.MEAN, bn, lambda: added, added.size, "its mean takes it over")


def _absorb_in_constant(facts: Facts, node: Node, slot: int, s: Shift) -> Absorb | None:
    """A constant Add, unless it is the bias of a MatMul (that one is reached through the MatMul)."""
    affine = affine_at(node, slot)
    if affine is None or node.scope.opset < 7 or facts.read_weight(affine.params[0]) is None:
        return None
    weight = facts.weight(affine.params[0])
    assert s.value is not None
    if not numerics.is_float(weight.dtype):
        return None
    # The constant becomes c + D (Sub: c - D, or D subtracted with the value's sign); its shape must not grow.
    value = s.value.reshape(_trim_leading(s.value.shape, len(weight.shape)) or s.value.shape)
    if np.broadcast_shapes(value.shape, weight.shape) != weight.shape:
        return None
    sign = -1.0 if node.is_op("Sub") else 1.0
    how = f"its constant {affine.params[0].name!r} takes it over"
    return Absorb(node, EffectKind.CONSTANT, affine, lambda: sign * value, value.size, how)


def find_sibling(facts: Facts, node: Node, shifts: dict[int, Shift]) -> Absorb | None:
    """The bias of the layer that gives the other operand, if nobody else reads that layer."""
    ((slot, s),) = shifts.items()
    other = node.tensor_in(1 - slot)
    if other is None or s.value is None or s.tiled or facts.use_problem(other, node) is not None:
        return None
    bias = bias_at(facts, facts.graph.producer(other) or node)
    if bias is None or bias.output is not other or len(bias.shape) != s.rank or bias.node.is_op(REQUANTIZED):
        return None
    if facts.read_weight(bias.tensor) is None:
        return None
    if np.broadcast_shapes(bias.shape, s.value.shape) != bias.shape:
        return None
    sign = -1.0 if node.is_op("Sub") else 1.0  # (a + D) - b = a - (b - D), a - (b + D) = (a - D) - b
    added = sign * np.broadcast_to(s.value, bias.shape).reshape(bias.value.shape)
    how = f"the bias of {bias.node.label} takes it over"
    return Absorb(node, EffectKind.SIBLING, bias.linear, lambda: added, added.size, how)


def _is_finite(facts: Facts, bn: Affine) -> bool:
    """Whether a batch norm's scale and shift are finite: then its mean may change."""
    return all(np.isfinite(v).all() for v in (*scale_and_shift(facts, bn), *(facts.float64(t) for t in bn.params)))


def _trim_leading(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The last `rank` axes, if those before are of size 1."""
    lead = len(shape) - rank
    return shape[lead:] if lead > 0 and all(d == 1 for d in shape[:lead]) else ()
