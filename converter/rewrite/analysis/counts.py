"""What a model holds: nodes, batch norms, bias vectors, bytes of parameters."""

from __future__ import annotations

from converter.model.graph import Const, Graph, weight_bytes
from converter.records import Counts
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import CONV, CONV_TRANSPOSE, GEMM, MATMUL, linear_at


def count(facts: Facts) -> Counts:
    """Counts over the main graph, subgraphs and functions."""
    graph = facts.graph
    nodes = batch_norms = biases = 0
    # Where there can be no initializers, new constants are written as nodes.
    nodes += sum(
        len(s.new_constants)
        for s in graph.scopes
        if s.kind == "function" or (s.kind == "body" and graph.ir_version < 4)
    )
    for node in graph.nodes():
        nodes += 1
        batch_norms += node.is_op("BatchNormalization")
        if node.is_op(CONV, CONV_TRANSPOSE, GEMM):
            bias = node.tensor_in(2)
            biases += bias is not None and facts.constants.weight(bias) is not None
        elif node.is_op("Add"):
            biases += linear_at(facts, node, MATMUL) is not None
    return Counts(nodes, batch_norms, biases, _parameter_bytes(graph))


def _parameter_bytes(graph: Graph) -> int:
    total = sum(
        weight_bytes(t.weight)
        for s in graph.scopes
        if s.owner is None or s.owner.alive
        for t in s.values.values()
        if isinstance(t, Const)
    )
    for node in graph.nodes():
        if node.is_op("Constant") and (stored := graph.constant_weight(node)) is not None:
            total += weight_bytes(stored)
    return total
