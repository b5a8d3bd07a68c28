"""What changes nothing, or nobody reads, goes: zero biases, identities; and what is there twice is computed once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Bypass, Const, DropInput, Edit, Node, SetInput, Tensor
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
from converter.rewrite.bias_flow.rules import RULES
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
    """Arithmetic with a constant that is its neutral element, or a sum of one term."""
    if node.is_op("Sum") and len(node.inputs) == 1:
        return Identity(Affine(node, 0, ()))
    for affine in affines_at(node):
        if not affine.params or (affine.data == 1 and node.is_op("Sub", "Div")):
            continue
        weight = facts.constants.weight(affine.params[0])
        neutral = 1 if node.is_op("Mul", "Div") else 0
        if weight is not None and (weight.load() == neutral).all():
            return Identity(affine)
    return None


def _enlarges(facts: Facts, m: Identity) -> str | None:
    if not m.affine.params or keeps_shape(facts, m.affine):
        return None
    return f"the constant of shape {list(facts.weight(m.affine.params[0]).shape)} may enlarge the value"


def _bias_change(m: Identity) -> BiasChange:
    """The zero bias of a MatMul counts as the MatMul's; other arithmetic is nobody's bias."""
    node = m.affine.node
    if not m.affine.params:
        return BiasChange(node.label, FateKind.ZERO, "", 0)
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

    Given:  x [...]; Mul or Div by ones, Add or Sub of zeros, constants that do not enlarge x; Sum of x alone.
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

_MOST_READERS = 256  # of a tensor, that are looked at for each of them


@dataclass(frozen=True, slots=True)
class Twins(Match):
    """Two nodes that compute the same; the first is the earlier one."""

    first: Node
    second: Node

    @property
    def nodes(self) -> Sequence[Node]:
        """Both."""
        return [self.first, self.second]

    @property
    def result(self) -> Tensor:
        """What stays."""
        found: Tensor = self.first.outputs[0]
        return found


def _find_twins(facts: Facts, node: Node) -> Twins | None:
    """An earlier node of the same graph with the same operator, attributes and inputs."""
    computed = [t for t in node.inputs if t.name and not isinstance(t, Const)]
    if not computed or node.tensor_out(0) is None:
        return None
    readers = min((facts.graph.readers(t) for t in computed), key=len)[:_MOST_READERS]
    earlier = (n for n in readers if n.op == node.op and n.position < node.position and n.scope is node.scope)
    first = next((n for n in earlier if n.domain == node.domain and _are_equal(facts, n, node)), None)
    return None if first is None else Twins(first, node)


def _are_equal(facts: Facts, one: Node, two: Node) -> bool:
    if len(one.inputs) != len(two.inputs) or one.tensor_out(0) is None or one.attr_edits or two.attr_edits:
        return False
    attributes = [{k: a.SerializeToString(deterministic=True) for k, a in n.attr_protos.items()} for n in (one, two)]
    if attributes[0] != attributes[1] or any(t.name for n in (one, two) for t in list(n.outputs)[1:]):
        return False
    return all(_hold_the_same(facts, a, b) for a, b in zip(one.inputs, two.inputs, strict=True))


def _hold_the_same(facts: Facts, a: Tensor, b: Tensor) -> bool:
    if a is b or a.name == b.name == "":
        return True
    one, two = facts.constants.weight(a), facts.constants.weight(b)
    if one is None or two is None or (one.shape, one.dtype) != (two.shape, two.dtype):
        return False
    known = facts.constants.problem(a) is None and facts.constants.problem(b) is None
    return known and one.load().tobytes() == two.load().tobytes()


def _use_problem(facts: Facts, m: Twins) -> tuple[str, str] | None:
    out = m.second.outputs[0]
    if "output" in out.external_uses:
        return "output-is-graph-output", f"{out.name!r} is an output of its graph"
    if out.external_uses or any(n.scope is not out.scope for n in facts.graph.readers(out)):
        return "captured-by-subgraph", f"{out.name!r} is read inside a control-flow body"
    return None


def _plan_twins(facts: Facts, m: Twins) -> list[Edit]:
    """Readers of the second read the first; the second is read by nobody then."""
    out = m.second.outputs[0]
    readers = dict.fromkeys(facts.graph.readers(out))
    return [SetInput(n, slot, m.result) for n in readers for slot, t in enumerate(n.inputs) if t is out]


TWINS = Pass(
    """Of two batch norms that compute the same, one goes away.

    Given:  x [N, C, *d]; two BatchNormalizations of it in one graph with equal attributes and equal constants; nothing
            outside of the graph reads the second.
    Result: readers of the second read the first, which may fold now.
    Source: common subexpressions, Cocke 1970.""",
    Safety.EXACT,
    ops=BATCH_NORM,
    find=_find_twins,
    checks=(
        checks.ATTRIBUTES_KNOWN,
        Check(("output-is-graph-output", "captured-by-subgraph"), _use_problem),
    ),
    plan=_plan_twins,
    output=lambda m: m.result,
    name="merge-equal-bns",
)

# -- a branch that nobody reads --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unread(Match):
    """A node of which no output is read."""

    node: Node

    @property
    def nodes(self) -> Sequence[Node]:
        """The node."""
        return [self.node]


_SHAPING = tuple("Relu LeakyRelu PRelu Sigmoid Tanh Erf Exp Log Sqrt Clip Pow Abs Softplus HardSwish Gelu".split())


def _find_unread(_: Facts, node: Node) -> Unread | None:
    outputs = [t for t in node.outputs if t.name]
    if node.bodies or len(outputs) != 1 or node.tensor_out(0) is None or node.tensor_in(0) is None:
        return None
    return None if outputs[0].outputs or "output" in outputs[0].external_uses else Unread(node)


def _name_use(_: Facts, m: Unread) -> str | None:
    out = m.node.outputs[0]
    return f"{out.name!r} is also used by {', '.join(sorted(out.external_uses))}" if out.external_uses else None


UNREAD = Pass(
    """A branch that nobody reads goes away.

    Given:  a node whose output no node reads, and which is no output of the graph.
    Result: the node is gone, and what was made for it alone.
    Source: dead code.""",
    Safety.EXACT,
    ops=tuple(dict.fromkeys((*BATCH_NORM, *ARITHMETIC, *lin.LINEAR, *RULES, *_SHAPING))),
    find=_find_unread,
    checks=(Check("several-readers", _name_use),),
    plan=lambda _, m: [Bypass(m.node, 0, keep="input")],
    output=lambda m: m.node.tensor_in(0),
    name="drop-unread-node",
    changes_batch_norm=True,
    bias_change=lambda m: BiasChange(m.node.label, FateKind.DEAD, "", 0),
)
