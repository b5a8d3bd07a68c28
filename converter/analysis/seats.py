"""Which nodes bear a bias now."""

from __future__ import annotations

import math
from dataclasses import dataclass

from converter.analysis.facts import Facts
from converter.analysis.linear import CONV, CONV_TRANSPOSE, GEMM, MATMUL, Linear, linear_at, linear_into
from converter.analysis.rnn import BIAS, RECURRENT
from converter.graph import Node, Tensor


@dataclass(frozen=True, slots=True)
class Bias:
    """A bias as it is now: the node that bears it, the node that adds it, and the constant."""

    node: Node
    last: Node
    tensor: Tensor
    elements: int
    linear: Linear | None = None  # None for LSTM, GRU and RNN


def bias_of(facts: Facts, node: Node) -> Bias | None:
    """The constant bias that `node`, or the Add after it, or the MatMul before it, bears; None if there is none."""
    linear = None
    if node.is_op(CONV, CONV_TRANSPOSE, GEMM):
        linear = linear_into(facts, node, str(node.op))
    elif node.is_op(MATMUL):
        linear = linear_into(facts, node, MATMUL)
    elif node.is_op("Add"):
        linear = linear_at(facts, node, MATMUL)
    owner = node if linear is None else linear.node
    tensor = node.tensor_in(BIAS) if node.is_op(*RECURRENT) else None if linear is None else linear.bias
    weight = None if tensor is None else facts.constants.weight(tensor)
    if tensor is None or weight is None:
        return None
    last = node if linear is None else linear.last
    return Bias(owner, last, tensor, math.prod(weight.shape), linear)
