"""A copy of a model with every weight moved by its rounding error, for a runtime to run."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, TensorProto, numpy_helper

from converter.protos.reference_program import NOT_WEIGHTS
from converter.protos.reference_weights import UNIT_ROUNDOFF, Weights, read_tensor
from converter.protos.source import all_nodes


def perturbed(model: ModelProto, seed: int, folder: Path | None = None) -> ModelProto:
    """``model`` with its float weights times ``1 + u * xi``, rounded back to their type."""
    copy = ModelProto()
    copy.CopyFrom(model)
    weights = Weights(folder, seed)
    # The same exemptions as in the float64 reference: what is read as sizes or exponents stays.
    fixed = {n.input[i] for n in all_nodes(copy) for i in NOT_WEIGHTS.get(n.op_type, ()) if i < len(n.input)}
    for tensor in copy.graph.initializer:
        if tensor.name not in fixed:
            _replace(tensor, weights, tensor.name, folder)
    for node in all_nodes(copy):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t") and node.output[0] not in fixed:
                _replace(attribute.t, weights, node.output[0], folder)
    return copy


def _replace(tensor: TensorProto, weights: Weights, name: str, folder: Path | None) -> None:
    if tensor.data_type not in UNIT_ROUNDOFF:
        return
    dtype = read_tensor(tensor, folder).dtype
    moved = numpy_helper.from_array(weights.tensor(tensor, name).astype(dtype), tensor.name)
    tensor.CopyFrom(moved)
