"""A product of two matrices with a bias becomes one Gemm.

Given:  x [M, K]; MatMul by a constant W [K, N]; an Add of a constant b [N] or [1, N]; opset 11 or later.
Result: Gemm of x, W and b; the Add is gone. Before opset 11 a Gemm could not lose its bias again.
Source: ONNX Gemm 11 and 13: alpha x W + beta C with alpha = beta = 1, C broadcast to [M, N].
"""

from __future__ import annotations

from converter.model.graph import Bypass, Edit, Node
from converter.records import Safety
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import MATMUL, Linear, linear_at, set_bias
from converter.rewrite.passes.base import LinearMatch, Pass
from converter.rewrite.passes.checks import FLOAT, READABLE


def find(facts: Facts, node: Node) -> LinearMatch | None:
    """An Add that is the bias of a MatMul of two matrices."""
    linear = linear_at(facts, node, MATMUL) if node.scope.opset >= 11 else None
    return LinearMatch(linear) if linear is not None and facts.rank(linear.node.inputs[0]) == 2 else None


def plan(facts: Facts, m: LinearMatch) -> list[Edit]:
    """The MatMul turned into a Gemm with a copy of the bias, the Add out."""
    gemm = set_bias(facts, Linear(m.linear.node, None, 0), facts.float64(m.constants_read[0]))
    return [*gemm, Bypass(m.linear.last, 1 - m.linear.bias_slot)]


PASS = Pass(
    __doc__,
    Safety.ROUNDING,
    ops=("Add",),
    find=find,
    checks=(READABLE, FLOAT),
    plan=plan,
    output=lambda m: m.linear.result,
    changes_batch_norm=False,
)
