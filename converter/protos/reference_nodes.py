"""From a NodeProto to something that computes: our own operators first, then onnx.reference's."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from converter.protos.reference_call import Call, Unsupported
from converter.protos.reference_ops import find
from converter.protos.reference_weights import UNIT_ROUNDOFF

Kernel = Callable[[tuple[Any, ...]], Sequence[Any]]
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"}
_RECURRENT = {"LSTM", "GRU", "RNN"}
_USUAL_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def captures(node: NodeProto) -> set[str]:
    """Names that the node's subgraphs read from outside."""
    found: set[str] = set()
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
            found |= _free_names(graph)
    return found


def _free_names(graph: GraphProto) -> set[str]:
    made = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    made |= {t.values.name for t in graph.sparse_initializer} | {o for n in graph.node for o in n.output}
    read = {i for n in graph.node for i in n.input if i} | {o.name for o in graph.output}
    for node in graph.node:
        read |= captures(node)
    return read - made


def plain_attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes as Python values, text decoded, subgraphs left out."""
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) or attribute.ref_attr_name:
            continue
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif attribute.type == AttributeProto.STRINGS:
            value = [v.decode("utf-8", "replace") for v in value]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = list(value)
        values[attribute.name] = value
    return values


def bind(function: FunctionProto, node: NodeProto, defaults: Mapping[str, AttributeProto] = {}) -> FunctionProto:
    """The function with its attribute references replaced by what ``node`` says (or by the defaults)."""
    given = {**defaults, **{a.name: a for a in function.attribute_proto}, **{a.name: a for a in node.attribute}}
    bound = FunctionProto()
    bound.CopyFrom(function)
    for inner in bound.node:
        _bind_node(inner, given)
    return bound


def _bind_node(node: NodeProto, given: dict[str, AttributeProto]) -> None:
    attributes = []
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            attributes.append(attribute)
            graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
            for inner in (n for g in graphs for n in g.node):
                _bind_node(inner, given)
        elif attribute.ref_attr_name in given:
            value = AttributeProto()
            value.CopyFrom(given[attribute.ref_attr_name])
            value.name = attribute.name
            attributes.append(value)
    kept = [_copied(a) for a in attributes]
    del node.attribute[:]
    node.attribute.extend(kept)


def _copied(attribute: AttributeProto) -> AttributeProto:
    copy = AttributeProto()
    copy.CopyFrom(attribute)
    return copy


def kernel(node: NodeProto, domain: str, version: int) -> Kernel | None:
    """What computes ``node``, or None when only a function body may."""
    attributes = plain_attributes(node)
    n_outputs = max((k for k, name in enumerate(node.output, 1) if name), default=1)  # names that are empty ask nothing
    own = find(domain, node.op_type, version)
    if own is not None:
        name = node.output[0]
        return lambda inputs: own(Call(inputs, attributes, version, n_outputs, name))
    if domain == "" and node.op_type in ("Cast", "CastLike"):
        return _cast(node, version, attributes)
    if domain == "" and node.op_type == "ConstantOfShape":
        return _constant_of_shape(attributes)
    if domain == "" and node.op_type in _RANDOM and "seed" not in attributes:
        node = _seeded(node)
    if domain == "" and node.op_type in _RECURRENT:
        _refuse_unusual(node.op_type, attributes)
        return _recurrent(_library(node, domain, version), node.op_type)
    return _library(node, domain, version)


def _library(node: NodeProto, domain: str, version: int) -> Kernel | None:
    """onnx.reference's implementation for one node."""
    loader = _loader(domain)
    if loader is None:
        raise Unsupported(f"operator {domain}.{node.op_type} has no reference")
    try:
        implementation = loader(domain, node.op_type, version)
        params = {"log": lambda *_: None, "opsets": {domain: version}, "verbose": 0, "new_ops": None}
        op = implementation(node, params)
    except Exception:  # no implementation, or one that refuses these attributes: perhaps a function body
        return None
    if domain == "" and node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
        # Ties are decided in the precision that runtimes divide in.
        return lambda inputs: op.run(*(_narrow(v) for v in inputs))
    return lambda inputs: op.run(*inputs)


def _loader(domain: str) -> Any:
    if domain == "":
        from onnx.reference.ops import load_op

        return load_op
    if domain == "ai.onnx.ml":
        from onnx.reference.ops.aionnxml import load_op as load_ml

        return load_ml
    return None


def _narrow(value: Any) -> Any:
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value


def _cast(node: NodeProto, version: int, attributes: dict[str, Any]) -> Kernel | None:
    """Casts to a float type stop at float64; all others are the library's."""
    library = _library(node, "", version)
    to = attributes.get("to")
    if isinstance(to, str):  # opset 1-5 spell the type out
        to = TensorProto.DataType.Value(to)
    if node.op_type == "CastLike":
        return lambda inputs: [inputs[0].astype(inputs[1].dtype)] if _is_float(inputs[1]) else _run(library, inputs)
    if to in UNIT_ROUNDOFF:
        return lambda inputs: [inputs[0].astype(np.float64)]
    return library


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float64


def _run(library: Kernel | None, inputs: tuple[Any, ...]) -> Sequence[Any]:
    if library is None:
        raise Unsupported("no implementation")
    return library(inputs)


def _constant_of_shape(attributes: dict[str, Any]) -> Kernel:
    tensor = attributes.get("value")
    value = np.zeros(1) if tensor is None else onnx.numpy_helper.to_array(tensor)
    return lambda inputs: [np.full(tuple(int(d) for d in inputs[0]), value.reshape(-1)[0], dtype=value.dtype)]


def _seeded(node: NodeProto) -> NodeProto:
    """A copy whose seed follows from the name of its output: the same in both models of a pair."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.attribute.append(onnx.helper.make_attribute("seed", float(zlib.crc32(node.output[0].encode()) % 2**20)))
    return copy


def _refuse_unusual(op_type: str, attributes: dict[str, Any]) -> None:
    """onnx.reference ignores these attributes of recurrent operators."""
    usual = _USUAL_ACTIVATIONS[op_type]
    given = attributes.get("activations") or usual
    if given not in (usual, usual * 2) or attributes.get("clip") or attributes.get("input_forget"):
        raise Unsupported(f"{op_type} with activations {given}, clip or input_forget")


def _recurrent(library: Kernel | None, op_type: str) -> Kernel:
    def run(inputs: tuple[Any, ...]) -> Sequence[Any]:
        lengths = inputs[4] if len(inputs) > 4 else None
        if lengths is not None and len(lengths) and int(np.min(lengths)) < max(inputs[0].shape[0], 1):
            raise Unsupported(f"{op_type} with sequences of different lengths")
        return _run(library, inputs)

    return run


def schema_defaults(node: NodeProto, domain: str, version: int) -> dict[str, AttributeProto]:
    """The attributes that the standard fills in for a node that leaves them out."""
    schema = onnx.defs.get_schema(node.op_type, version, domain)
    return {n: a.default_value for n, a in schema.attributes.items() if a.default_value.type}


def function_body(node: NodeProto, domain: str, version: int, inputs: tuple[Any, ...] | None) -> FunctionProto | None:
    """The function that defines an operator; without ``inputs`` only checks that there is one."""
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError as exc:
        raise Unsupported(f"operator {domain or 'ai.onnx'}.{node.op_type}-{version} is unknown") from exc
    if schema.has_function:
        return _function(schema.function_body.SerializeToString())
    if not schema.has_context_dependent_function:
        raise Unsupported(f"operator {domain or 'ai.onnx'}.{node.op_type}-{version} has no reference")
    if inputs is None:
        return None
    types = [_type_of(value) for value in inputs]
    body = schema.get_context_dependent_function(node.SerializeToString(), types)
    return _function(body)


def _function(data: bytes) -> FunctionProto:
    function = FunctionProto()
    function.ParseFromString(data)
    return function


def _type_of(value: Any) -> bytes:
    if value is None:
        return b""
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return bytes(onnx.helper.make_tensor_type_proto(kind, value.shape).SerializeToString())
