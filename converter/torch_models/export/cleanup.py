"""A clean-up of what an exporter wrote that changes no number: constants computed, what nobody reads dropped.

torch.export leaves the arithmetic of shapes as nodes, and gives every Conv without a bias a zero one that the graph
computes. torch's own optimisation removes both, and fuses the batch norms while it is at it; this does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.torch_models.spec.libraries import need

_BIASED = ("Conv", "ConvTranspose", "Gemm")
_KEPT = ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")  # which module a node is of


def tidy(model: Any, parameters: frozenset[str]) -> None:
    """Tidy an ``onnx_ir.Model`` in place.

    Parameters
    ----------
    model : onnx_ir.Model
    parameters : frozenset of str
        Names of the module's own tensors: a zero bias among them is the model's, not the exporter's.
    """
    optimizer = need("onnxscript.optimizer")
    passes = need("onnx_ir.passes.common")
    passes.InlinePass()(model)
    optimizer.fold_constants(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _drop_zero_biases(model.graph, parameters)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.NameFixPass()(model)


def _drop_zero_biases(graph: Any, parameters: frozenset[str]) -> None:
    for node in graph.all_nodes():
        bias = node.inputs[2] if node.op_type in _BIASED and not node.domain and len(node.inputs) > 2 else None
        if bias is None or bias.const_value is None or bias.name in parameters or bias.is_graph_input():
            continue
        if not np.any(bias.const_value.numpy()):
            node.resize_inputs(2)


def strip(model: Any) -> None:
    """Drop what the exporter noted about this machine: stack traces hold the paths of source files."""
    model.graph.metadata_props.clear()
    for function in model.functions.values():
        function.metadata_props.clear()
    for node in model.graph.all_nodes():
        for key in [k for k in node.metadata_props if k not in _KEPT]:
            del node.metadata_props[key]
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
