"""Two multiplications, or two additions, by constants in a row become one.

Given:  x [...]; Mul, Div or Neg by constants twice, or Add or Sub of constants twice.
Result: Mul by c1 c2, or Add of c1 + c2, broadcast together; the first node is gone.
Source: associativity in real arithmetic; ONNX broadcasting is associative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.model.graph import Bypass, Edit, Node, SetConst, SetOp, Tensor
from converter.records import Safety
from converter.rewrite.analysis.affine import ARITHMETIC, Affine, affine_at, scale_and_shift
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.passes import _checks
from converter.rewrite.passes._norms import bn_guards
from converter.rewrite.passes.base import Guard, Pass

Array = NDArray[np.float64]
_PRODUCTS, _SUMS = ("Mul", "Div", "Neg"), ("Add", "Sub")


@dataclass(frozen=True, slots=True)
class Match:
    """Two nodes of one kind in the order of the data."""

    first: Affine
    second: Affine

    @property
    def is_product(self) -> bool:
        """Whether they multiply."""
        return self.first.node.is_op(*_PRODUCTS)

    @property
    def tensors(self) -> list[tuple[Tensor, Node]]:
        """What lies between them."""
        return [(self.first.result, self.second.node)]


def _arithmetic(facts: Facts, node: Node | None) -> Affine | None:
    for data in (0, 1):
        found = affine_at(node, data) if node is not None and node.is_op(*ARITHMETIC) else None
        if found is not None and all(facts.constants.weight(t) is not None for t in found.params):
            # constant - x changes the sign as well: neither a product nor a sum
            return None if found.node.is_op("Sub") and found.data == 1 else found
    return None


def find(facts: Facts, node: Node) -> Match | None:
    """Arithmetic with a constant whose input other such arithmetic of its kind gives."""
    second = _arithmetic(facts, node)
    first = _arithmetic(facts, facts.graph.producer(second.source)) if second is not None else None
    if first is None or second is None or not (first.params or second.params):
        return None
    same = any(first.node.is_op(*kind) and second.node.is_op(*kind) for kind in (_PRODUCTS, _SUMS))
    return Match(first, second) if same else None


def _constant(facts: Facts, m: Match) -> Array:
    one, two = scale_and_shift(facts, m.first), scale_and_shift(facts, m.second)
    with np.errstate(all="ignore"):
        return np.asarray(one[0] * two[0] if m.is_product else one[1] + two[1])


def _like(m: Match) -> Tensor:
    return (*m.first.params, *m.second.params)[0]


def _grows(facts: Facts, m: Match) -> str | None:
    sizes = [int(np.prod(facts.weight(t).shape)) for t in (*m.first.params, *m.second.params)]
    shapes = [facts.weight(t).shape for t in (*m.first.params, *m.second.params)]
    together = np.broadcast_shapes(*shapes)
    if int(np.prod(together)) > max(sizes):
        return f"together the constants would be larger ({list(together)}) than either"
    return None


def _old_broadcast(_: Facts, m: Match) -> str | None:
    return None if m.second.node.scope.opset >= 7 else "before opset 7 broadcasting is an attribute"


def _underflow(facts: Facts, m: Match) -> str | None:
    if not m.is_product:
        return None
    return _checks.underflow(_constant(facts, m), facts.weight(_like(m)), "the product")


def plan(facts: Facts, m: Match) -> list[Edit]:
    """One constant in the second, the first out."""
    weight = numerics.NewTensor(_constant(facts, m), facts.weight(_like(m)).dtype)
    node = m.second.node
    op = "Mul" if m.is_product else "Add"
    edits: list[Edit] = [] if node.is_op(op) else [SetOp(node, op)]
    edits.append(SetConst(node, 1 - m.second.data, weight, "factor" if m.is_product else "term"))
    return [*edits, Bypass(m.first.node, m.first.data, keep="input")]


PASS = Pass(
    name="merge-affines",
    summary="Two multiplications, or two additions, by constants in a row become one",
    safety=Safety.ROUNDING,
    ops=frozenset(ARITHMETIC),
    find=find,
    guards=(
        *bn_guards(lambda m: [m.first, m.second], lambda m: m.tensors),
        Guard("old-broadcast", _old_broadcast, "the merged constant may need another axis attribute"),
        Guard("grows", _grows, "a merge must not enlarge the model"),
        Guard(
            "overflow",
            lambda f, m: _checks.finite_result(_constant(f, m).reshape(-1), f.weight(_like(m)), "the constant"),
            "the result must be finite in the type of the constant",
        ),
        Guard("rounding", _underflow, "underflow must not silence an element"),
    ),
    plan=plan,
    output=lambda m: str(m.second.result.name),
    module=__name__,
    after=("merge-affine-into-bn",),
)
