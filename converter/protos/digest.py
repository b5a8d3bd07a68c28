"""What a model computes, as one number: its nodes and tensors, whatever bytes they are stored in.

Two files have the same digest if they have the same inputs, outputs, nodes in the same order, functions, operator
sets, and tensors of the same type, shape and bits; names of the tool that wrote them, documentation, inferred
shapes, the order of initializers, and whether a tensor lies in the file or beside it make no difference.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from converter.protos.reference_weights import read_tensor
from converter.protos.source import Source

_CHUNK = 1 << 24


def array_digest(array: np.ndarray[Any, Any]) -> str:
    """SHA-256 of an array's elements: little endian, row by row, in the array's own type."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind in "OSU":
        return hashlib.sha256(json.dumps([str(x) for x in flat.tolist()]).encode()).hexdigest()
    if flat.dtype.byteorder == ">":
        flat = flat.astype(flat.dtype.newbyteorder("<"))
    return hashlib.sha256(flat.view(np.uint8).data).hexdigest()


def tensor_digest(tensor: TensorProto, folder: Path | None) -> str:
    """The same of a stored tensor."""
    if tensor.HasField("raw_data") and not tensor.external_data:
        return hashlib.sha256(tensor.raw_data).hexdigest()
    return array_digest(read_tensor(tensor, folder))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chained(before: str, record: Any) -> str:
    """The state that follows ``before`` by something said in JSON."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()


def model_digest(source: Source) -> str:
    """The digest of a whole model."""
    model = source.proto
    return chained(
        "model",
        {
            "ir_version": model.ir_version,
            "opsets": sorted((o.domain, o.version) for o in model.opset_import),
            "graph": _graph(model.graph, source.folder),
            "functions": [_function(f, source.folder) for f in model.functions],
            "training": [_plain(t) for t in model.training_info],
        },
    )


def _plain(proto: Any) -> str:
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def _graph(graph: GraphProto, folder: Path | None) -> dict[str, Any]:
    held = {t.name: [t.data_type, list(t.dims), tensor_digest(t, folder)] for t in graph.initializer}
    return {
        "inputs": [_value(v) for v in graph.input],
        "outputs": [_value(v) for v in graph.output],
        "tensors": held,
        "sparse": {t.values.name: _plain(t) for t in graph.sparse_initializer},
        "quantization": [_plain(q) for q in graph.quantization_annotation],
        "nodes": [node_record(n, folder) for n in graph.node],
    }


def _value(value: Any) -> list[str]:
    return [value.name, _plain(value.type)]


def _function(function: FunctionProto, folder: Path | None) -> dict[str, Any]:
    return {
        "name": [function.domain, function.name, str(getattr(function, "overload", ""))],
        "inputs": list(function.input),
        "outputs": list(function.output),
        "attributes": [*function.attribute, *(_attribute(a, folder) for a in function.attribute_proto)],
        "opsets": sorted((o.domain, o.version) for o in function.opset_import),
        # A Constant node that holds a parameter may stand anywhere before its reader.
        "nodes": [node_record(n, folder) for n in function.node if n.op_type != "Constant"],
        "constants": sorted(json.dumps(node_record(n, folder)) for n in function.node if n.op_type == "Constant"),
    }


def node_record(node: NodeProto, folder: Path | None) -> list[Any]:
    """A node as JSON values: operator, edges, attributes by name."""
    attributes = sorted((_attribute(a, folder) for a in node.attribute), key=lambda a: str(a[0]))
    return [node.domain, node.op_type, list(node.input), list(node.output), attributes]


def _attribute(attribute: AttributeProto, folder: Path | None) -> list[Any]:
    head: list[Any] = [attribute.name, attribute.type, attribute.ref_attr_name]
    if attribute.type == AttributeProto.TENSOR and attribute.HasField("t"):
        t = attribute.t
        return [*head, t.data_type, list(t.dims), tensor_digest(t, folder)]
    if attribute.type == AttributeProto.GRAPH and attribute.HasField("g"):
        return [*head, _graph(attribute.g, folder)]
    if attribute.type == AttributeProto.GRAPHS:
        return [*head, [_graph(g, folder) for g in attribute.graphs]]
    return [*head, _plain(attribute)]
