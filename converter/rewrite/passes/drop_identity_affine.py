"""Arithmetic that changes nothing goes away: times 1, divided by 1, plus 0, minus 0.

Given:  x [...]; Mul or Div by ones, Add or Sub of zeros, constants that do not enlarge x.
Result: readers read x.
Source: x * 1 = x, x + 0 = x under == (the sign of a zero may differ).
"""

from __future__ import annotations

import math

from converter.model.graph import Bypass, Const, Edit, Node
from converter.records import FateKind, Safety
from converter.rewrite.analysis.affine import ARITHMETIC, Affine, affine_at, keeps_shape
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import MATMUL
from converter.rewrite.passes import _checks
from converter.rewrite.passes._norms import bn_guards
from converter.rewrite.passes.base import Guard, Pass


def find(facts: Facts, node: Node) -> Affine | None:
    """Arithmetic with a constant that is its neutral element."""
    for data in (0, 1):
        affine = affine_at(node, data)
        if affine is None or not affine.params or (data == 1 and node.is_op("Sub", "Div")):
            continue
        weight = facts.constants.weight(affine.params[0])
        neutral = 1 if node.is_op("Mul", "Div") else 0
        if weight is not None and (weight.load() == neutral).all():
            return affine
    return None


def _enlarges(facts: Facts, m: Affine) -> str | None:
    if keeps_shape(facts, m):
        return None
    return f"the constant of shape {list(facts.weight(m.params[0]).shape)} may enlarge the value"


def plan(_: Facts, m: Affine) -> list[Edit]:
    """The node out."""
    return [Bypass(m.node, m.data)]


def _fate(m: Affine) -> tuple[str, FateKind, str, int]:
    """The zero bias of a MatMul counts as the MatMul's; other arithmetic is nobody's bias."""
    product = [n for n in m.source.inputs if m.node.is_op("Add") and n.is_op(MATMUL)]
    zeros = m.params[0]
    elements = math.prod(zeros.weight.shape) if product and isinstance(zeros, Const) else 0
    return (product or [m.node])[0].label, FateKind.ZERO, "", elements


PASS = Pass(
    name="drop-identity-affine",
    summary="Arithmetic that changes nothing goes away",
    safety=Safety.EXACT,
    ops=frozenset(ARITHMETIC) - {"Neg"},
    find=find,
    guards=(
        *bn_guards(lambda m: [m], lambda m: []),
        Guard("enlarges", _enlarges, "the result must have the shape of the value"),
        Guard(
            "output-is-graph-output", lambda f, m: _checks.no_name(f, m.node, m.data), "names of outputs never change"
        ),
    ),
    plan=plan,
    output=lambda m: str(m.result.name),
    module=__name__,
    after=("merge-affines",),
    touches_bn=False,
    fate=_fate,
)
