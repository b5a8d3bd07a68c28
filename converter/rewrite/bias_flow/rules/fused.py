"""What becomes of a shift under onnxruntime's own operators (com.microsoft)."""

from __future__ import annotations

import numpy as np

from converter.model.graph import Node
from converter.records import EffectKind
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.fused import find_problem
from converter.rewrite.analysis.quantized import unpack_blocks
from converter.rewrite.bias_flow.rules.product import (
    multiply_by_data,
    multiply_shift,
    propagate_conv,
    propagate_gemm,
    sums_to_one,
    weigh_by_data,
)
from converter.rewrite.bias_flow.shift import NOT_LINEAR, Block, Cancel, Effect, Propagate, Rule, Shift, Shifts


def _fused_matmul(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    """alpha A B, either transposed."""
    if len(shifts) != 1 or node.attr("transBatchA", 0) or node.attr("transBatchB", 0):
        return Block("bilinear", "both its factors are shifted, or an axis moves to another place")
    ((slot, s),) = shifts.items()
    other = node.tensor_in(1 - slot)
    if other is None or s.rank < 2:
        return Block("rank", "it is a product of vectors")
    mine_turned, other_turned = (
        bool(node.attr(name, 0)) for name in (("transA", "transB") if slot == 0 else ("transB", "transA"))
    )
    s = s.move_axes(lambda d: np.swapaxes(d, -1, -2)) if mine_turned else s
    alpha = float(node.attr("alpha", 1.0))
    weight = facts.read_weight(other)
    if s.value is not None and weight is not None and len(weight.shape) >= 2:
        matrix = weight.float64()
        return multiply_shift(s.value * alpha, np.swapaxes(matrix, -1, -2) if other_turned else matrix, slot)
    rank = facts.rank(other)
    if rank is None or rank < 2:
        return Block("rank", "the number of axes of its other factor is not known, or one")
    mine, summed = (s.rank - 2, rank - 1) if slot == 1 else (s.rank - 1, rank - 2)
    at = 2 * rank - 3 - summed if other_turned else summed
    if alpha == 1 and sums_to_one(facts, other, at):
        if s.constant_on([mine]):
            return Propagate({0: s.of_rank(max(rank, s.rank))}, EffectKind.SOFTMAX_ROWS)
        return Block("varies", "the shift varies along the axis that the weights sum over")
    return Propagate({0: multiply_by_data(facts, s, other, rank, slot)}, *weigh_by_data(facts, other))


def _skip_norm(_: Facts, node: Node, shifts: Shifts) -> Effect:
    """SkipLayerNormalization: the sum of input, skip and bias less its mean; the sum may be read as well."""
    if len(shifts) != 1 or not set(shifts) <= {0, 1}:
        return Block("stops", "more than one of its operands is shifted, or a parameter")
    (s,) = shifts.values()
    if node.tensor_out(1) is not None or node.tensor_out(2) is not None:
        return Block("stops", "the mean that it gives as well would change")
    if not s.constant_on([s.rank - 1]):
        return Block("norm-mixes-channels", "it takes the mean over channels that are shifted differently")
    if node.tensor_out(3) is not None:
        return Propagate({3: s})
    return Cancel(EffectKind.NORM, "layer normalisation subtracts the mean, the shift with it")


def _attention(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    """MultiHeadAttention of queries, keys and values [N, L, D]: a softmax over the keys, whose rows hand values on."""
    if not set(shifts) <= {1, 2}:
        what = "it weighs the keys by the shifted value" if 0 in shifts else "it depends on a shift of its parameters"
        return Block("attention-query" if 0 in shifts else "stops", what)
    problem = find_problem(facts, node)
    if problem is not None:
        return Block(*problem)
    if any(s.rank != 3 or not s.constant_on([1]) for s in shifts.values()):
        return Block("varies", "the shift varies along the keys")
    if 2 in shifts:
        return Propagate({0: shifts[2]}, EffectKind.SOFTMAX_ROWS)
    return Cancel(EffectKind.SOFTMAX, "softmax does not depend on what all keys share")


def _blocks(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    """A product with a matrix in packed blocks."""
    if set(shifts) != {0}:
        return Block("stops", "it depends on a shift of its parameters")
    s, matrix = shifts[0], facts.remember(unpack_blocks, node)
    if matrix is None:
        return Block("stops", "its weight is known at run time only, or packed in another way")
    if s.value is None:
        return Propagate({0: Shift.of_axes(s.rank, s.invariant & frozenset(range(s.rank - 1)))})
    return multiply_shift(s.value, matrix, 0)


def _end_with(rule: Rule) -> Rule:
    """A layer with an activation behind it: without one it is the layer."""

    def effect(facts: Facts, node: Node, shifts: Shifts) -> Effect:
        if node.attr("activation", "") or node.tensor_in(3) is not None:
            return Block("stops", NOT_LINEAR, EffectKind.NONLINEAR)
        return rule.effect(facts, node, shifts)

    return Rule(effect)


MICROSOFT_RULES: dict[str, Rule] = {
    **dict.fromkeys(("FusedMatMul", "TransposeMatMul"), Rule(_fused_matmul)),
    "SkipLayerNormalization": Rule(_skip_norm),
    "MatMulNBits": Rule(_blocks),
    "MultiHeadAttention": Rule(_attention),
    "FusedConv": _end_with(Rule(propagate_conv)),
    "FusedGemm": _end_with(Rule(propagate_gemm)),
}
MICROSOFT_NONLINEAR = frozenset(
    "Gelu BiasGelu FastGelu QuickGelu DynamicQuantizeMatMul DynamicQuantizeLSTM SkipSimplifiedLayerNormalization "
    "SimplifiedLayerNormalization QuantizeLinear".split()
)
