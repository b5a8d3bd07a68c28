"""What takes a shift over for good: biases, the mean of a batch norm, constants, the bias of a layer beside it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from converter import numerics
from converter.model.graph import Node
from converter.records import EffectKind
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import Affine, affine_at, scale_and_shift, stats_problem, training_problem
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear, linear_into
from converter.rewrite.bias_flow.flow import Absorb, Permit, source_at
from converter.rewrite.bias_flow.rules.product import added_by_conv, conv_problem
from converter.rewrite.bias_flow.shift import Array, Shift


def absorber(facts: Facts, permit: Permit, node: Node, shifts: dict[int, Shift]) -> Absorb | None:
    """What the node does to take the shift over: a part of it, or the layer that it is; None if it cannot."""
    if set(shifts) != {0} and not (node.is_op("Add", "Sub") and len(shifts) == 1):
        return None
    ((slot, s),) = shifts.items()
    if s.value is None or s.masked or s.tiled:
        return None
    if node.is_op("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return _into_linear(facts, permit, node, s)
    if node.is_op("BatchNormalization"):
        return _into_mean(facts, node, s)
    if node.is_op("Add", "Sub"):
        return _into_constant(facts, node, slot, s)
    return None


def _into_linear(facts: Facts, permit: Permit, node: Node, s: Shift) -> Absorb | None:
    linear = linear_into(facts, node, str(node.op))
    if linear is None or node.function_attrs or facts.readable(linear.weight) is None:
        return None
    make = _added(facts, linear, s)
    if make is None:
        return None
    channels = lin.out_channels(facts, linear)
    if linear.bias is None:
        room = node.op != "MatMul" and permit.new_bias
        return Absorb(node, EffectKind.NEW_BIAS, linear, make, channels, "its new bias takes it over") if room else None
    if facts.constants.problem(linear.bias) is not None:
        return None
    shape = facts.weight(linear.bias).shape
    if np.broadcast_shapes(shape, (channels,)) != shape and math.prod(shape) != 1:
        return None
    return Absorb(node, EffectKind.BIAS, linear, make, channels, f"its bias {linear.bias.name!r} takes it over")


def _added(facts: Facts, linear: Linear, s: Shift) -> Callable[[], Array] | None:
    """What the shift adds to the output channels, shape [O]; None if it is not one vector."""
    node, value = linear.node, s.value
    assert value is not None
    if linear.op in (lin.CONV, lin.CONV_TRANSPOSE):
        return None if conv_problem(facts, node, s) else lambda: added_by_conv(facts, linear, s)
    if lin.weight_rank_problem(facts, linear) is not None or node.attr("transA", 0):
        return None
    if not s.constant_on(range(s.rank - 1)):
        return None
    row = np.broadcast_to(value.reshape(-1), (lin.in_channels(facts, linear),))
    return lambda: lin.input_sum(facts, linear, row)


def _into_mean(facts: Facts, node: Node, s: Shift) -> Absorb | None:
    bn = affine_at(node, 0)
    if bn is None or node.function_attrs or training_problem(bn) or stats_problem(facts, bn):
        return None
    if any(facts.constants.problem(t) is not None for t in bn.params):
        return None
    if not s.constant_on([0, *range(2, s.rank)]) or not sound(facts, bn):
        return None
    assert s.value is not None
    channels = facts.weight(bn.params[2]).shape
    added = np.broadcast_to(s.value.reshape(-1), channels)
    return Absorb(node, EffectKind.MEAN, bn, lambda: added, added.size, "its mean takes it over")


def _into_constant(facts: Facts, node: Node, slot: int, s: Shift) -> Absorb | None:
    """A constant Add, unless it is the bias of a MatMul (that one is reached through the MatMul)."""
    affine = affine_at(node, slot)
    if affine is None or node.scope.opset < 7 or facts.constants.problem(affine.params[0]) is not None:
        return None
    weight = facts.weight(affine.params[0])
    assert s.value is not None
    if not numerics.is_float(weight.dtype):
        return None
    # The constant becomes c + D (Sub: c - D, or D subtracted with the value's sign); its shape must not grow.
    value = s.value.reshape(_trimmed(s.value.shape, len(weight.shape)) or s.value.shape)
    if np.broadcast_shapes(value.shape, weight.shape) != weight.shape:
        return None
    sign = -1.0 if node.is_op("Sub") else 1.0
    how = f"its constant {affine.params[0].name!r} takes it over"
    return Absorb(node, EffectKind.CONSTANT, affine, lambda: sign * value, value.size, how)


def sibling(facts: Facts, node: Node, shifts: dict[int, Shift]) -> Absorb | None:
    """The bias of the layer that gives the other operand, if nobody else reads that layer."""
    ((slot, s),) = shifts.items()
    other = node.tensor_in(1 - slot)
    if other is None or s.value is None or s.tiled or facts.use_problem(other, node) is not None:
        return None
    source = source_at(facts, facts.graph.producer(other) or node)
    if source is None or source.output is not other or len(source.shape) != s.rank:
        return None
    if facts.constants.problem(source.tensor) is not None:
        return None
    if np.broadcast_shapes(source.shape, s.value.shape) != source.shape:
        return None
    added = np.broadcast_to(s.value, source.shape).reshape(source.value.shape)
    how = f"the bias of {source.node.label} takes it over"
    return Absorb(node, EffectKind.SIBLING, source.linear, lambda: added, added.size, how)


def sound(facts: Facts, bn: Affine) -> bool:
    """Whether a batch norm's scale and shift are finite: then its mean may change."""
    return all(np.isfinite(v).all() for v in (*scale_and_shift(facts, bn), *(facts.float64(t) for t in bn.params)))


def _trimmed(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The last `rank` axes, if those before are of size 1."""
    lead = len(shape) - rank
    return shape[lead:] if lead > 0 and all(d == 1 for d in shape[:lead]) else ()
