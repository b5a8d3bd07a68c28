"""A bias that is zero in every channel goes away.

Given:  Conv, ConvTranspose or Gemm with a constant third input of zeros (of either sign, in any type).
Result: the input is left out. MatMul + Add of zeros is the business of drop-identity-affine.
Source: x + 0 = x under ==; the third input is optional (Gemm: from opset 11).
"""

from __future__ import annotations

from dataclasses import dataclass

from converter.model.graph import Edit, Node
from converter.records import FateKind, Safety
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear, linear_at
from converter.rewrite.passes import _checks
from converter.rewrite.passes.base import Guard, Pass


@dataclass(frozen=True, slots=True)
class Match:
    """An operator whose bias is zero as the model stands."""

    linear: Linear
    elements: int


def find(facts: Facts, node: Node) -> Match | None:
    """A Conv, ConvTranspose or Gemm with a bias of zeros."""
    linear = linear_at(facts, node, str(node.op))
    if linear is None or linear.bias is None:
        return None
    weight = facts.constants.weight(linear.bias)
    if weight is None or (weight.load() != 0).any():
        return None
    return Match(linear, weight.load().size)


def plan(_: Facts, m: Match) -> list[Edit]:
    """The bias out."""
    return lin.drop_bias(m.linear)


PASS = Pass(
    name="drop-zero-bias",
    summary="A bias that is zero in every channel goes away",
    safety=Safety.EXACT,
    ops=frozenset({lin.CONV, lin.CONV_TRANSPOSE, lin.GEMM}),
    find=find,
    guards=(
        *[
            g
            for g in _checks.constant_guards(lambda m: [m.linear.bias], lambda m: [])
            if g.code != _checks.QUANTIZED  # nothing is replaced
        ],
        Guard("input-required", lambda _, m: _checks.input_required(m.linear.node), "the bias must be optional"),
    ),
    plan=plan,
    output=lambda m: str(m.linear.result.name),
    module=__name__,
    after=("fold-bn-into-conv", "fold-affine-into-conv", "absorb-bias-into-bn"),
    touches_bn=False,
    fate=lambda m: (m.linear.node.label, FateKind.ZERO, "", m.elements),
)
