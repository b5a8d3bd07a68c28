"""The graphs of a model as scopes, and where two models differ node by node.

No knowledge of what a rewrite is: a node of one model is unchanged if the other has a node with the same
operator, attributes, inputs and outputs whose constants hold the same values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from converter.protos.reference_nodes import bind, captures
from converter.protos.reference_weights import external_location, is_external, read_tensor
from converter.protos.shapes import inferred
from converter.protos.source import Port, Source, body_graphs, body_key, ports, value_info

_UNREPEATABLE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


@dataclass(eq=False)
class Scope:
    """A graph, subgraph body or function body: what it makes, what it holds, what lies around it."""

    key: str
    source: Source
    nodes: list[NodeProto]
    inputs: list[str]
    outputs: list[str]
    consts: dict[str, Any] = field(default_factory=dict)  # TensorProto or SparseTensorProto
    known: dict[str, Port] = field(default_factory=dict)
    outer: Scope | None = None
    opset_import: Any = None

    @cached_property
    def made(self) -> dict[str, NodeProto]:
        """The node that makes each tensor of this scope."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def order(self) -> dict[int, int]:
        """Position of each node, by identity."""
        return {id(node): k for k, node in enumerate(self.nodes)}

    @cached_property
    def derived(self) -> set[str]:
        """Tensors made from constants alone."""
        found: set[str] = set()
        for node in self.nodes:
            if node.op_type in _UNREPEATABLE:
                continue
            if all(n in found or n in self.consts or self._is_const_outside(n) for n in reads(node)):
                found.update(name for name in node.output if name)
        return found

    def is_const(self, name: str) -> bool:
        """Whether the tensor's value is fixed by this scope or one around it."""
        return name in self.consts or name in self.derived or self._is_const_outside(name)

    def _is_const_outside(self, name: str) -> bool:
        if self.outer is None or name in self.made or name in self.inputs:
            return False
        return self.outer.is_const(name)

    def home(self, name: str) -> Scope | None:
        """The innermost scope, from here outwards, where the tensor comes into being."""
        if name in self.consts or name in self.made or name in self.inputs:
            return self
        return self.outer.home(name) if self.outer is not None else None

    def depth(self) -> int:
        """How many scopes lie around this one."""
        return 0 if self.outer is None else 1 + self.outer.depth()


def reads(node: NodeProto) -> list[str]:
    """What a node and its subgraphs read."""
    return [*(n for n in node.input if n), *sorted(captures(node))]


def scopes(source: Source, known: dict[str, Port]) -> dict[str, Scope]:
    """All scopes of a model by a key that does not depend on node names; ``known`` types the main graph."""
    model = source.proto
    main = _graph_scope("", source, model.graph, None, model.opset_import)
    main.known.update(known)
    found = {s.key: s for s in _with_bodies(main)}
    for function in model.functions:
        for scope in _with_bodies(_function_scope(source, function, list(found.values()))):
            found[scope.key] = scope
    return found


def _graph_scope(key: str, source: Source, graph: GraphProto, outer: Scope | None, opset_import: Any) -> Scope:
    consts: dict[str, Any] = {t.name: t for t in graph.initializer}
    consts |= {t.values.name: t for t in graph.sparse_initializer}
    free = [i.name for i in graph.input if i.name not in consts]
    scope = Scope(key, source, list(graph.node), free, [o.name for o in graph.output], consts)
    scope.outer, scope.opset_import = outer, opset_import
    scope.known.update(ports([*graph.value_info, *graph.input, *graph.output]))
    return scope


def _with_bodies(scope: Scope) -> Iterator[Scope]:
    yield scope
    for node in scope.nodes:
        for name, graph in body_graphs(node):
            key = body_key(scope.key, node, name)
            yield from _with_bodies(_graph_scope(key, scope.source, graph, scope, scope.opset_import))


def function_key(function: FunctionProto) -> str:
    """What a function is called."""
    return f"function {function.domain}.{function.name}.{getattr(function, 'overload', '')}"


def _function_scope(source: Source, function: FunctionProto, callers: list[Scope]) -> Scope:
    """A function as its first call sees it: attributes bound, constant arguments as constants."""
    scope = Scope(function_key(function), source, list(function.node), list(function.input), list(function.output))
    scope.opset_import = function.opset_import
    for caller in callers:
        for node in caller.nodes:
            if (node.domain, node.op_type) == (function.domain, function.name):
                scope.nodes = list(bind(function, node).node)
                _take_arguments(scope, caller, dict(zip(function.input, node.input, strict=False)))
                return scope
    return scope


def _take_arguments(scope: Scope, caller: Scope, arguments: dict[str, str]) -> None:
    for formal, actual in arguments.items():
        home = caller.home(actual)
        tensor = home.consts.get(actual) if home is not None else None
        if isinstance(tensor, TensorProto):
            copy = TensorProto()
            copy.CopyFrom(tensor)
            copy.name = formal
            scope.consts[formal] = copy
            scope.inputs.remove(formal)
        elif home is not None and actual in home.known:
            port = home.known[actual]
            scope.known[formal] = Port(formal, port.kind, port.elem, port.dims)


def infer_inner(found: dict[str, Scope]) -> None:
    """Give the tensors of subgraphs and functions the types that inference finds from what surrounds them."""
    for scope in sorted(found.values(), key=Scope.depth):
        if scope.key == "":
            continue
        outside = {n for node in scope.nodes for n in reads(node)} - scope.made.keys() - scope.consts.keys()
        graph = GraphProto(name="body", node=scope.nodes)
        for name in sorted(outside | set(scope.inputs)):
            home = scope.home(name)
            const = home.consts.get(name) if home is not None else None
            port = home.known.get(name) if home is not None else None
            if isinstance(const, TensorProto):
                graph.initializer.append(const)
            elif port is not None and port.kind == "tensor":
                graph.input.append(value_info(name, port))
        graph.initializer.extend(t for t in scope.consts.values() if isinstance(t, TensorProto))
        body = ModelProto(ir_version=8, opset_import=scope.opset_import, graph=graph)
        body.functions.extend(scope.source.proto.functions)
        for name, port in inferred(body).items():
            scope.known.setdefault(name, port)


def signature(node: NodeProto) -> tuple[Any, ...]:
    """What makes two nodes the same, their subgraphs' nodes left out (those are compared in their own scope)."""
    attributes: list[tuple[str, Any]] = []
    for a in node.attribute:
        if a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            graphs = [a.g] if a.type == AttributeProto.GRAPH else a.graphs
            attributes.append((a.name, tuple(tuple(v.name for v in (*g.input, *g.output)) for g in graphs)))
        else:
            attributes.append((a.name, hashlib.sha256(a.SerializeToString(deterministic=True)).digest()))
    overload = getattr(node, "overload", "")
    head = (node.domain, node.op_type, overload, tuple(node.input), tuple(node.output))
    return (*head, tuple(sorted(attributes, key=lambda x: x[0])))


def same_constant(a: Any, source_a: Source, b: Any, source_b: Source) -> bool:
    """Whether two constants have the same type, shape and bits; one tensor of each is read at a time."""
    if type(a) is not type(b):
        return False
    if not isinstance(a, TensorProto):
        return bool(a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True))
    if (a.data_type, list(a.dims)) != (b.data_type, list(b.dims)):
        return False
    if is_external(a) and is_external(b):
        if external_location(a, source_a.folder) == external_location(b, source_b.folder):
            return True
    elif a.HasField("raw_data") and b.HasField("raw_data"):
        return bool(a.raw_data == b.raw_data)
    x, y = read_tensor(a, source_a.folder), read_tensor(b, source_b.folder)
    if x.dtype.kind in "OUS":
        return bool(np.array_equal(x, y))
    return np.ascontiguousarray(x).tobytes() == np.ascontiguousarray(y).tobytes()
