"""Batch norms and arithmetic in a row become one: into a batch norm, or constants into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Bypass, DropInput, Edit, Node, SetConst, SetOp, Tensor
from converter.records import Safety
from converter.rewrite.analysis.affine import (
    ARITHMETIC,
    BATCH_NORM,
    Affine,
    affine_at,
    affines_at,
    keeps_shape,
    per_channel,
    scale_and_shift,
)
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.passes import checks
from converter.rewrite.passes.base import Check, Match, Pass
from converter.rewrite.passes.folding import BETA, GAMMA, compose, parameter_overflow, set_parameter

Array = NDArray[np.float64]
_PRODUCTS, _SUMS = ("Mul", "Div", "Neg"), ("Add", "Sub", "Sum")

# -- into a batch norm -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IntoNorm(Match):
    """An affine node and the batch norm that takes it in; ``before``: the affine node comes first."""

    affine: Affine
    bn: Affine
    before: bool = True

    @property
    def affines(self) -> Sequence[Affine]:
        """Both."""
        return (self.affine, self.bn)

    @property
    def path(self) -> Sequence[tuple[Tensor, Node]]:
        """What lies between them."""
        first, second = (self.affine, self.bn) if self.before else (self.bn, self.affine)
        return [(first.result, second.node)]

    def vectors(self, facts: Facts) -> tuple[Array, Array] | str:
        """Scale and shift of each channel, or why there are none."""
        if self.affine.is_bn:
            return scale_and_shift(facts, self.affine)
        if self.before and self.affine.params and not keeps_shape(facts, self.affine):
            return "the constant may enlarge the value"  # then the batch norm's channels are not the value's
        return per_channel(
            facts, self.affine, 1, facts.rank(self.affine.source), facts.weight(self.bn.params[0]).shape[0]
        )

    def parameters(self, facts: Facts) -> tuple[Array, Array]:
        """Gamma and beta of what both compute."""
        found = self.vectors(facts)
        assert not isinstance(found, str)
        nothing = np.ones_like(found[0]), np.zeros_like(found[0])
        return compose(facts, self.bn, *((found, nothing) if self.before else (nothing, found)))


def _find_norms(facts: Facts, node: Node) -> IntoNorm | None:
    """A batch norm whose input another batch norm gives."""
    second = affine_at(node, 0)
    producer = facts.graph.producer(second.source) if second is not None else None
    if second is None or producer is None or not producer.is_op(*BATCH_NORM):
        return None
    first = affine_at(producer, 0)
    return None if first is None or first.result is not second.source else IntoNorm(first, second)


def _find_arithmetic_and_norm(facts: Facts, node: Node) -> IntoNorm | None:
    """Arithmetic with a constant that feeds a batch norm or is fed by one."""
    for affine in affines_at(node):
        if any(facts.constants.weight(t) is None for t in affine.params):
            continue
        producer = facts.graph.producer(affine.source)
        if producer is not None and producer.is_op(*BATCH_NORM):
            bn = affine_at(producer, 0)
            if bn is not None and bn.result is affine.source:
                return IntoNorm(affine, bn, before=False)
        for reader in facts.graph.readers(affine.result):
            bn = affine_at(reader, 0) if reader.is_op(*BATCH_NORM) else None
            if bn is not None and bn.source is affine.result:
                return IntoNorm(affine, bn)
    return None


def _plan_norm(facts: Facts, m: IntoNorm) -> list[Edit]:
    """New gamma and beta, the affine node out."""
    gamma, beta = m.parameters(facts)
    return [
        set_parameter(facts, m.bn.node, GAMMA, gamma, "scale"),
        set_parameter(facts, m.bn.node, BETA, beta, "bias"),
        Bypass(m.affine.node, m.affine.data, keep="input" if m.before else "output"),
    ]


def _scale_underflow(facts: Facts, m: IntoNorm) -> str | None:
    gamma, beta = m.parameters(facts)
    return checks.underflow_problem(gamma, facts.weight(m.bn.params[0]), "the scale", beta)


_NORM = (
    Check("overflow", lambda f, m: parameter_overflow(f, m.bn, *m.parameters(f))),
    Check("rounding", _scale_underflow),
)

BN_INTO_BN = Pass(
    """Two BatchNormalizations in a row become one.

    Given:  x [N, C, *d]; BatchNormalization (s1, t1); BatchNormalization (gamma2, beta2, mean2, var2), both in
            inference form.
    Result: gamma' = s1 gamma2, beta' = s2 (t1 + (s1 - 1) mean2) + beta2, mean2 and var2 kept; the first node is gone.
    Source: composition of affine maps; ONNX BatchNormalization 6 to 15.""",
    Safety.ROUNDING,
    ops=BATCH_NORM,
    find=_find_norms,
    checks=(*checks.AFFINE, *_NORM),
    plan=_plan_norm,
    output=lambda m: m.bn.result,
    name="merge-bn-into-bn",
    after=("fold-bn-into-conv", "fold-bn-into-next-conv"),
)

AFFINE_INTO_BN = Pass(
    """Arithmetic with a constant beside a BatchNormalization becomes part of it.

    Given:  x [N, C, *d]; Mul, Div, Add, Sub or Neg by one number or one per channel, before or after a
            BatchNormalization in inference form.
    Result: before it (a1, c1): gamma' = a1 gamma, beta' = s (c1 + (a1 - 1) mean) + beta;
            after it (a2, c2): gamma' = a2 gamma, beta' = a2 beta + c2. The arithmetic is gone.
    Source: composition of affine maps; ONNX BatchNormalization 6 to 15.""",
    Safety.ROUNDING,
    ops=ARITHMETIC,
    find=_find_arithmetic_and_norm,
    checks=(*checks.AFFINE, checks.PER_CHANNEL, *_NORM),
    plan=_plan_norm,
    output=lambda m: m.bn.result if m.before else m.affine.result,
    name="merge-affine-into-bn",
    after=("merge-bn-into-bn", "fold-affine-into-conv", "fold-affine-into-next-conv"),
)

# -- two constants into one ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair(Match):
    """Two nodes of one kind in the order of the data."""

    first: Affine
    second: Affine

    @property
    def affines(self) -> Sequence[Affine]:
        """Both."""
        return (self.first, self.second)

    @property
    def path(self) -> Sequence[tuple[Tensor, Node]]:
        """What lies between them."""
        return [(self.first.result, self.second.node)]

    @property
    def is_product(self) -> bool:
        """Whether they multiply."""
        return self.first.node.is_op(*_PRODUCTS)

    @property
    def like(self) -> Tensor:
        """A constant whose type is that of the merged one."""
        return self.constants_read[0]

    def constant(self, facts: Facts) -> Array:
        """The merged constant."""
        one, two = scale_and_shift(facts, self.first), scale_and_shift(facts, self.second)
        with np.errstate(all="ignore"):  # checks look at the result
            return np.asarray(one[0] * two[0] if self.is_product else one[1] + two[1])


def _arithmetic(facts: Facts, node: Node | None) -> Affine | None:
    if node is None or not node.is_op(*ARITHMETIC):
        return None
    for found in affines_at(node):
        if all(facts.constants.weight(t) is not None for t in found.params):
            # constant - x changes the sign as well: neither a product nor a sum
            return None if found.node.is_op("Sub") and found.data == 1 else found
    return None


def _find_pair(facts: Facts, node: Node) -> Pair | None:
    """Arithmetic with a constant whose input other such arithmetic of its kind gives."""
    second = _arithmetic(facts, node)
    first = _arithmetic(facts, facts.graph.producer(second.source)) if second is not None else None
    if first is None or second is None or not (first.params or second.params):
        return None
    same = any(first.node.is_op(*kind) and second.node.is_op(*kind) for kind in (_PRODUCTS, _SUMS))
    return Pair(first, second) if same else None


def _old_broadcast(_: Facts, m: Pair) -> str | None:
    return None if m.second.node.scope.opset >= 7 else "before opset 7 broadcasting is an attribute"


def _model_grows(facts: Facts, m: Pair | Terms) -> str | None:
    shapes = [facts.weight(t).shape for t in m.constants_read]
    merged = np.broadcast_shapes(*shapes)
    if int(np.prod(merged)) > max(int(np.prod(s)) for s in shapes):
        return f"together the constants would be larger ({list(merged)}) than each"
    return None


def _overflow(facts: Facts, m: Pair | Terms) -> str | None:
    return checks.overflow_problem(m.constant(facts).reshape(-1), facts.weight(m.like), "the constant")


def _underflow(facts: Facts, m: Pair) -> str | None:
    if not m.is_product:
        return None
    return checks.underflow_problem(m.constant(facts), facts.weight(m.like), "the product")


def _plan_pair(facts: Facts, m: Pair) -> list[Edit]:
    """One constant in the second, the first out."""
    weight = numerics.NewTensor(m.constant(facts), facts.weight(m.like).dtype)
    node = m.second.node
    op = "Mul" if m.is_product else "Add"
    edits: list[Edit] = [] if node.is_op(op) else [SetOp(node, op)]
    edits.append(SetConst(node, 1 - m.second.data, weight, "factor" if m.is_product else "term"))
    return [*edits, Bypass(m.first.node, m.first.data, keep="input")]


AFFINES = Pass(
    """Two multiplications, or two additions, by constants in a row become one.

    Given:  x [...]; Mul, Div or Neg by constants twice, or Add or Sub of constants twice.
    Result: Mul by c1 c2, or Add of c1 + c2, broadcast together; the first node is gone.
    Source: associativity in real arithmetic; ONNX broadcasting is associative.""",
    Safety.ROUNDING,
    ops=ARITHMETIC,
    find=_find_pair,
    checks=(
        *checks.AFFINE,
        Check("old-broadcast", _old_broadcast),
        Check("model-grows", _model_grows),
        Check("overflow", _overflow),
        Check("rounding", _underflow),
    ),
    plan=_plan_pair,
    output=lambda m: m.second.result,
    name="merge-affines",
    after=("merge-affine-into-bn",),
)

# -- the constants of one sum into one ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms(Match):
    """A sum of computed terms and of several constants, which lie in `slots`."""

    node: Node
    slots: tuple[int, ...]

    @property
    def affines(self) -> Sequence[Affine]:
        """Each constant, as it is added to the rest."""
        data = next(k for k in range(len(self.node.inputs)) if k not in self.slots)
        return [Affine(self.node, data, (self.node.inputs[k],)) for k in self.slots]

    @property
    def like(self) -> Tensor:
        """A constant whose type is that of the merged one."""
        return self.constants_read[0]

    def constant(self, facts: Facts) -> Array:
        """The merged constant."""
        return np.asarray(sum(facts.float64(self.node.inputs[k]) for k in self.slots))


def _find_terms(facts: Facts, node: Node) -> Terms | None:
    """A sum with more than one constant."""
    slots = tuple(k for k, t in enumerate(node.inputs) if t.name and facts.constants.weight(t) is not None)
    return Terms(node, slots) if 1 < len(slots) < len(node.inputs) else None


def _plan_terms(facts: Facts, m: Terms) -> list[Edit]:
    """One constant, the other slots out from the last one on."""
    weight = numerics.NewTensor(m.constant(facts), facts.weight(m.like).dtype)
    drops = [DropInput(m.node, k) for k in reversed(m.slots[1:])]
    return [SetConst(m.node, m.slots[0], weight, "term"), *drops]


SUM_TERMS = Pass(
    """The constants of one sum become one.

    Given:  Sum of computed tensors and of constants c1, c2, ...
    Result: Sum of the tensors and of c1 + c2 + ..., broadcast together.
    Source: associativity in real arithmetic; ONNX Sum 8, which broadcasts.""",
    Safety.ROUNDING,
    ops=("Sum",),
    find=_find_terms,
    checks=(*checks.AFFINE, Check("model-grows", _model_grows), Check("overflow", _overflow)),
    plan=_plan_terms,
    output=lambda m: m.node.tensor_out(0),
    name="merge-sum-terms",
    changes_batch_norm=False,
)
