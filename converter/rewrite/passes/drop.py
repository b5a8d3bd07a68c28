"""What changes nothing goes away: biases of zeros, batch norms and arithmetic that are the identity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Bypass, Const, DropInput, Node, Tensor
from converter.records import FateKind, Safety
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import (
    ARITHMETIC,
    BATCH_NORM,
    Affine,
    affine_at,
    affines_at,
    keeps_shape,
    scale_and_shift,
    stats_problem,
)
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.bias_flow.fates import BiasChange
from converter.rewrite.passes import checks
from converter.rewrite.passes.base import Check, Match, Pass

# -- a bias of zeros -------------------------------------------------------------------------


# Slots of a bias that may be left out.
_SLOTS = {lin.CONV: 2, lin.CONV_TRANSPOSE: 2, lin.GEMM: 2, "QLinearConv": 8}
_MICROSOFT_SLOTS = {  # not Attention's: onnxruntime 1.31 reads it without a look
    "FusedConv": 2,
    "FusedGemm": 2,
    "QGemm": 6,
    "MatMulNBits": 5,
    "DynamicQuantizeMatMul": 4,
    "MatMulIntegerToFloat": 6,
    "MultiHeadAttention": 3,
    "SkipLayerNormalization": 4,
    "SkipSimplifiedLayerNormalization": 3,
    "FastGelu": 1,
}


@dataclass(frozen=True, slots=True)
class ZeroBias(Match):
    """An operator whose bias is zero as the model stands."""

    node: Node
    slot: int
    elements: int

    @property
    def constants_read(self) -> Sequence[Tensor]:
        """The bias."""
        return [self.node.inputs[self.slot]]


def _find_zero_bias(facts: Facts, node: Node) -> ZeroBias | None:
    """An operator with a bias of zeros."""
    slot = (_SLOTS if node.is_standard else _MICROSOFT_SLOTS)[str(node.op)]
    bias = node.tensor_in(slot)
    weight = None if bias is None else facts.constants.weight(bias)
    if weight is None or (weight.load() != 0).any():
        return None
    return ZeroBias(node, slot, weight.load().size)


ZERO_BIAS = Pass(
    """A bias that is zero in every channel goes away.

    Given:  Conv, ConvTranspose, Gemm, QLinearConv, or an operator of onnxruntime's own, with a constant bias of zeros
            (of either sign, in any type) that may be left out.
    Result: the input is left out. MatMul + Add of zeros is the business of drop-identity-affine.
    Source: x + 0 = x under ==; the third input is optional (Gemm: from opset 11).""",
    Safety.EXACT,
    ops=tuple(_SLOTS),
    microsoft=tuple(_MICROSOFT_SLOTS),
    find=_find_zero_bias,
    checks=(checks.READABLE, Check("input-required", lambda _, m: checks.bias_required(m.node))),
    plan=lambda _, m: [DropInput(m.node, m.slot)],
    output=lambda m: m.node.tensor_out(0),
    name="drop-zero-bias",
    after=("fold-bn-into-conv", "fold-affine-into-conv", "absorb-bias-into-bn"),
    changes_batch_norm=False,
    bias_change=lambda m: BiasChange(m.node.label, FateKind.ZERO, "", m.elements),
)

# -- the identity ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identity(Match):
    """An affine node that gives what it is given."""

    affine: Affine

    @property
    def affines(self) -> Sequence[Affine]:
        """The node."""
        return (self.affine,)


def _find_batch_norm(facts: Facts, node: Node) -> Identity | None:
    """A batch norm with scale 1 and shift 0, where that can be read."""
    bn = affine_at(node, 0)
    if bn is None or any(facts.constants.weight(t) is None for t in bn.params) or stats_problem(facts, bn):
        return None
    scale, shift = scale_and_shift(facts, bn)
    dtype = facts.weight(bn.params[0]).dtype
    if not numerics.is_float(dtype) or not np.isfinite(scale).all() or shift.any():
        return None
    return Identity(bn) if (numerics.round_to(scale, dtype) == 1).all() else None


def _find_arithmetic(facts: Facts, node: Node) -> Identity | None:
    """Arithmetic with a constant that is its neutral element."""
    for affine in affines_at(node):
        if not affine.params or (affine.data == 1 and node.is_op("Sub", "Div")):
            continue
        weight = facts.constants.weight(affine.params[0])
        neutral = 1 if node.is_op("Mul", "Div") else 0
        if weight is not None and (weight.load() == neutral).all():
            return Identity(affine)
    return None


def _enlarges(facts: Facts, m: Identity) -> str | None:
    if keeps_shape(facts, m.affine):
        return None
    return f"the constant of shape {list(facts.weight(m.affine.params[0]).shape)} may enlarge the value"


def _bias_change(m: Identity) -> BiasChange:
    """The zero bias of a MatMul counts as the MatMul's; other arithmetic is nobody's bias."""
    node = m.affine.node
    product = [n for n in m.affine.source.inputs if node.is_op("Add") and n.is_op(lin.MATMUL)]
    zeros = m.affine.params[0]
    elements = math.prod(zeros.weight.shape) if product and isinstance(zeros, Const) else 0
    return BiasChange((product or [node])[0].label, FateKind.ZERO, "", elements)


_NAMES = Check("output-is-graph-output", lambda f, m: checks.name_problem(f, m.affine.node, m.affine.data))

IDENTITY_BN = Pass(
    """A BatchNormalization that changes nothing goes away.

    Given:  x [N, C, *d]; BatchNormalization in inference form whose scale rounds to 1 and shift to 0 in every channel.
    Result: its readers read x.
    Source: s = gamma / sqrt(var + eps) = 1 and t = beta - mean s = 0, in the type of the parameters.""",
    Safety.ROUNDING,
    ops=BATCH_NORM,
    find=_find_batch_norm,
    checks=(*checks.AFFINE, _NAMES),
    plan=lambda _, m: [Bypass(m.affine.node, m.affine.data)],
    output=lambda m: m.affine.result,
    name="drop-identity-bn",
    after=("merge-bn-into-bn",),
)

IDENTITY_AFFINE = Pass(
    """Arithmetic that changes nothing goes away.

    Given:  x [...]; Mul or Div by ones, Add or Sub of zeros, constants that do not enlarge x.
    Result: readers read x.
    Source: x * 1 = x, x + 0 = x under == (the sign of a zero may differ).""",
    Safety.EXACT,
    ops=tuple(op for op in ARITHMETIC if op != "Neg"),
    find=_find_arithmetic,
    checks=(*checks.AFFINE, Check("enlarges", _enlarges), _NAMES),
    plan=lambda _, m: [Bypass(m.affine.node, m.affine.data)],
    output=lambda m: m.affine.result,
    name="drop-identity-affine",
    after=("merge-affines",),
    changes_batch_norm=False,
    bias_change=_bias_change,
)
