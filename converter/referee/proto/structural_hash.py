"""Hashes of models: the chain of a certificate's, and whether two models are one computation, whatever the names.

Every tensor gets a hash of how it is made: the operator, its version and attributes, the tensors that it reads,
down to inputs (by name or place) and constants (by their bits). Equal hashes of the outputs are a proof; unequal
ones are none of the opposite. What nothing reads does not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from converter.errors import ModelError
from converter.model.file.dtypes import get_plain_dtype
from converter.referee.proto.scopes import format_function_key, list_reads
from converter.referee.proto.source import LoadedModel, make_body_key
from converter.referee.proto.tensors import find_stored, is_external, read_into, read_tensor
from converter.referee.reference.evaluator import get_overload, normalize_domain, read_opset_versions

_CHUNK = 1 << 20  # bytes that are read at a time: they stay in the processor's cache


def hash_array(array: np.ndarray[Any, Any]) -> str:
    """SHA-256 of an array's elements: little endian, row by row, in the array's own type."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind in "OSU":
        return hashlib.sha256(json.dumps([str(x) for x in flat.tolist()]).encode()).hexdigest()
    if flat.dtype.byteorder == ">":
        flat = flat.astype(flat.dtype.newbyteorder("<"))
    return hashlib.sha256(flat.view(np.uint8).data).hexdigest()


def hash_tensor(tensor: TensorProto, folder: Path | None) -> str:
    """The same of a stored tensor."""
    if tensor.HasField("raw_data") and not tensor.external_data:
        return hashlib.sha256(tensor.raw_data).hexdigest()
    if is_external(tensor) and get_plain_dtype(tensor.data_type) is not None:
        return _hash_stored(tensor, folder)
    return hash_array(read_tensor(tensor, folder))


def _hash_stored(tensor: TensorProto, folder: Path | None) -> str:
    """Of what lies in a data file, a part at a time."""
    path, offset, left = find_stored(tensor, folder)
    digest, held = hashlib.sha256(), np.empty(min(left, _CHUNK), np.uint8)
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while left:
                part = held[: min(left, _CHUNK)]
                read_into(file, part)
                digest.update(part.data)
                left -= part.size
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path}: cannot read tensor {tensor.name!r} ({exc}); the data file may be truncated") from exc
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chain_hashes(before: str, record: Any) -> str:
    """The state that follows ``before`` by something said in JSON."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()


def hash_model(source: LoadedModel) -> str:
    """The digest of a whole model."""
    model = source.proto
    return chain_hashes(
        "model",
        {
            "ir_version": model.ir_version,
            "opsets": sorted((o.domain, o.version) for o in model.opset_import),
            "graph": _describe_graph(model.graph, source.folder),
            "functions": [_describe_function(f, source.folder) for f in model.functions],
            "training": [_describe_plain(t) for t in model.training_info],
        },
    )


def _describe_plain(proto: Any) -> str:
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def _describe_graph(graph: GraphProto, folder: Path | None) -> dict[str, Any]:
    held = {t.name: [t.data_type, list(t.dims), hash_tensor(t, folder)] for t in graph.initializer}
    return {
        "inputs": [_describe_value(v) for v in graph.input],
        "outputs": [_describe_value(v) for v in graph.output],
        "tensors": held,
        "sparse": {t.values.name: _describe_plain(t) for t in graph.sparse_initializer},
        "quantization": [_describe_plain(q) for q in graph.quantization_annotation],
        "nodes": [describe_node(n, folder) for n in graph.node],
    }


def _describe_value(value: Any) -> list[str]:
    return [value.name, _describe_plain(value.type)]


def _describe_function(function: FunctionProto, folder: Path | None) -> dict[str, Any]:
    return {
        "name": [function.domain, function.name, str(getattr(function, "overload", ""))],
        "inputs": list(function.input),
        "outputs": list(function.output),
        "attributes": [*function.attribute, *(_describe_attribute(a, folder) for a in function.attribute_proto)],
        "opsets": sorted((o.domain, o.version) for o in function.opset_import),
        # A Constant node that holds a parameter may stand anywhere before its reader.
        "nodes": [describe_node(n, folder) for n in function.node if n.op_type != "Constant"],
        "constants": sorted(json.dumps(describe_node(n, folder)) for n in function.node if n.op_type == "Constant"),
    }


def describe_node(node: NodeProto, folder: Path | None) -> list[Any]:
    """A node as JSON values: operator, edges, attributes by name."""
    attributes = sorted((_describe_attribute(a, folder) for a in node.attribute), key=lambda a: str(a[0]))
    return [node.domain, node.op_type, list(node.input), list(node.output), attributes]


def _describe_attribute(attribute: AttributeProto, folder: Path | None) -> list[Any]:
    head: list[Any] = [attribute.name, attribute.type, attribute.ref_attr_name]
    if attribute.type == AttributeProto.TENSOR and attribute.HasField("t"):
        t = attribute.t
        return [*head, t.data_type, list(t.dims), hash_tensor(t, folder)]
    if attribute.type == AttributeProto.GRAPH and attribute.HasField("g"):
        return [*head, _describe_graph(attribute.g, folder)]
    if attribute.type == AttributeProto.GRAPHS:
        return [*head, [_describe_graph(g, folder) for g in attribute.graphs]]
    return [*head, _describe_plain(attribute)]


# Operators whose value hangs on more than what they read: two of them are two values, told apart by name.
_DRAWING = {
    *("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"),
    "Dropout",
}
_PURE = {"", "ai.onnx.ml", "com.microsoft"}

Names = dict[str, str]  # tensor -> hash of how it is made


def is_same_computation(a: LoadedModel, b: LoadedModel, given: Collection[str] = ()) -> bool:
    """Whether both models' outputs are made alike; False also where that cannot be said.

    ``given`` are tensors that are taken to be the same in both: those of rewritten places that are compared one by
    one, by the names that `Region` has (its scope, a slash, its output). Then the answer is whether those places
    are all that was rewritten. A tensor that the caller may override in one of the models only has its own value:
    whoever compares inputs says that it is no input of the other.
    """
    free = {i.name for i in a.proto.graph.input} & {i.name for i in b.proto.graph.input}
    try:
        return _hash_outputs(a, given, free) == _hash_outputs(b, given, free)
    except KeyError:  # a tensor that nothing makes, or a node that stands before its input
        return False


def _hash_outputs(source: LoadedModel, given: Collection[str], free: Collection[str]) -> list[str]:
    model = source.proto
    maker = _Hasher(source, given, free)
    names = {i.name: _hash("input", i.name) for i in model.graph.input}
    return maker.graph(model.graph, names, read_opset_versions(model.opset_import), "")


class _Hasher:
    """Hashes of one model."""

    def __init__(self, source: LoadedModel, given: Collection[str], free: Collection[str]) -> None:
        self._source = source
        self._given = frozenset(given)  # of a list each look would go through all places
        self._free = free
        self._depth = 0
        self._hashed: dict[str, str] = {}
        self._functions = {(normalize_domain(f.domain), f.name, get_overload(f)): f for f in source.proto.functions}

    def graph(self, graph: GraphProto, names: Names, opsets: Mapping[str, int], key: str) -> list[str]:
        """The outputs of a graph; ``names`` are the tensors in reach, and are its own to add to."""
        inputs = {i.name for i in graph.input if key or i.name in self._free}
        needed = self._find_needed(graph, key)
        for tensor in (t for t in graph.initializer if t.name in needed):
            # One that the caller may override is an input too.
            names[tensor.name] = _hash(self.tensor(tensor), names[tensor.name] if tensor.name in inputs else "")
        for sparse in graph.sparse_initializer:
            names[sparse.values.name] = _hash("sparse", sparse.SerializeToString(deterministic=True).hex())
        self._nodes((n for n in graph.node if any(name in needed for name in n.output)), names, opsets, key)
        return [self._name_given(o.name, key) or names[o.name] for o in graph.output]

    def _find_needed(self, graph: GraphProto, key: str) -> set[str]:
        """Tensors that the outputs hang on, those before a given one left out: no weight is read for nothing."""
        needed = {o.name for o in graph.output}
        for node in reversed(graph.node):
            if any(name in needed and not self._name_given(name, key) for name in node.output):
                needed.update(list_reads(node))
        return needed

    def _name_given(self, name: str, key: str) -> str | None:
        """The hash of a tensor that is taken to be the same in both; None for any other."""
        full = f"{key}/{name}" if key else name
        return _hash("given", full) if full in self._given else None

    def tensor(self, tensor: TensorProto) -> str:
        content = hash_tensor(tensor, self._source.folder)
        return _hash("tensor", tensor.data_type, list(tensor.dims), content)

    def _nodes(self, nodes: Iterable[NodeProto], names: Names, opsets: Mapping[str, int], key: str) -> None:
        for node in nodes:
            given = {n: self._name_given(n, key) for n in node.output if n}
            if None in given.values():
                made = self._node(node, names, opsets, key)
            names.update({n: given[n] or _hash(made, k) for k, n in enumerate(node.output) if n})

    def _node(self, node: NodeProto, names: Names, opsets: Mapping[str, int], key: str) -> str:
        domain = normalize_domain(node.domain)
        function = self._functions.get((domain, node.op_type, get_overload(node)))
        read = [names[n] if n else "" for n in node.input]
        asked = [bool(name) for name in node.output]  # operators do other things for other outputs
        apart = node.op_type in _DRAWING or (domain not in _PURE and function is None)
        attributes = []
        for a in node.attribute:
            inner = make_body_key(key, node, a.name)
            attributes.append(self._attribute(a, names, opsets, inner))
        return _hash(
            *(domain, node.op_type, get_overload(node), read, asked, list(node.output) if apart else []),
            _version(node.op_type, domain, opsets) if function is None else self._function(function),
            sorted(attributes),
        )

    def _function(self, function: FunctionProto) -> str:
        """The hash of a function, once: functions that call each other twice would take 2^n steps."""
        key = format_function_key(function)
        if key in self._hashed:
            return self._hashed[key]
        depth, self._depth = self._depth, 0  # it sees nothing of where it is called
        names = {name: _hash("argument", key, k) for k, name in enumerate(function.input)}
        opsets = read_opset_versions(function.opset_import)
        self._nodes(function.node, names, opsets, key)
        defaults = sorted(self._attribute(a, names, opsets, key) for a in function.attribute_proto)
        made = _hash("function", [names[o] for o in function.output], sorted(function.attribute), defaults)
        self._depth, self._hashed[key] = depth, made
        return made

    def _attribute(self, a: AttributeProto, names: Names, opsets: Mapping[str, int], key: str) -> str:
        if a.type == AttributeProto.TENSOR and a.HasField("t"):
            return _hash(a.name, "t", self.tensor(a.t))
        if a.type == AttributeProto.GRAPH and not a.ref_attr_name:
            return _hash(a.name, "g", self._body(a.g, names, opsets, key))
        if a.type == AttributeProto.GRAPHS and not a.ref_attr_name:
            return _hash(a.name, "g", [self._body(g, names, opsets, f"{key}[{k}]") for k, g in enumerate(a.graphs)])
        bare = AttributeProto()
        bare.CopyFrom(a)
        bare.ClearField("doc_string")
        return _hash(a.name, "a", bare.SerializeToString(deterministic=True).hex())

    def _body(self, graph: GraphProto, names: Names, opsets: Mapping[str, int], key: str) -> list[Any]:
        self._depth += 1  # tells the inputs of a body from those of the bodies around it
        inner = names | {v.name: _hash("body", self._depth, k) for k, v in enumerate(graph.input)}
        made = self.graph(graph, inner, opsets, key)
        self._depth -= 1
        return [len(graph.input), made]


def _version(op_type: str, domain: str, opsets: Mapping[str, int]) -> int:
    """The operator set in which the operator got the meaning that it has in this one."""
    version = opsets.get(domain, 0)
    try:
        return int(onnx.defs.get_schema(op_type, version, domain).since_version)
    except onnx.defs.SchemaError:
        return version


def _hash(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
