"""What a model consists of, scope by scope: the main graph, subgraphs, and functions in every way they are called.

Each scope holds its nodes, its constants and what is known of its tensors, by a key that does not depend on the names
of nodes, so that the scopes of two models can be laid side by side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import field
from functools import cached_property
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from converter.dataclass import dataclass
from converter.referee.proto.inference import infer_types
from converter.referee.proto.source import (
    LoadedModel,
    Port,
    list_bodies,
    make_body_key,
    make_value_info,
    read_ports,
)
from converter.referee.proto.tensors import is_external, locate_external, read_tensor
from converter.referee.reference.kernels import bind_function, list_captures

_UNREPEATABLE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
_CONFINING = {
    *("Relu", "Clip", "Abs", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Exp", "Sqrt", "Erf", "Sign", "Sin", "Cos"),
    *("Max", "Min", "ThresholdedRelu", "Floor", "Ceil", "Round", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Softmax"),
    *("LogSoftmax", "Hardmax", "Where", "QuantizeLinear", "DequantizeLinear", "Dropout", "Elu", "Selu", "Celu", "Pow"),
    *("FusedConv", "FusedGemm", "HardSwish", "Cast", "Gelu", "QuickGelu", "FastGelu", "BiasGelu", "Mish", "Mod"),
}
_MOVING = {
    *("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Expand"),
    *("Gather", "Pad", "Tile", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Resize"),
    *("ReduceMax", "ReduceMin", "ReduceSum", "DepthToSpace", "SpaceToDepth"),
}


@dataclass(eq=False)
class Scope:
    """A graph, subgraph body or function body: what it makes, what it holds, what lies around it."""

    key: str
    source: LoadedModel
    nodes: list[NodeProto]
    inputs: list[str]
    outputs: list[str]
    consts: dict[str, Any] = field(default_factory=dict)  # TensorProto or SparseTensorProto
    known: dict[str, Port] = field(default_factory=dict)
    outer: Scope | None = None
    opset_import: Any = None
    narrow: bool = True  # whether a tensor of which not every value can be may be cut at
    calls: list[tuple[Scope, dict[str, str]]] = field(default_factory=list)  # of a function: where, with what as what

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
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
            if all(n in found or n in self.consts or self._is_const_outside(n) for n in list_reads(node)):
                found.update(name for name in node.output if name)
        return found

    @cached_property
    def confined(self) -> set[str]:
        """Tensors of which not every value can be: what a Relu or a Clip made, and what only moves that about."""
        found: set[str] = set()
        for node in self.nodes:
            moved = node.op_type in _MOVING and any(n in found for n in node.input)
            if node.op_type in _CONFINING or moved:
                found.update(name for name in node.output if name)
        return found

    def is_const(self, name: str) -> bool:
        """Whether the tensor's value is fixed by this scope or one around it."""
        return name in self.consts or name in self.derived or self._is_const_outside(name)

    def _is_const_outside(self, name: str) -> bool:
        if self.outer is None or name in self.makers or name in self.inputs:
            return False
        return self.outer.is_const(name)

    def find_home(self, name: str) -> Scope | None:
        """The innermost scope, from here outwards, where the tensor comes into being."""
        if name in self.consts or name in self.makers or name in self.inputs:
            return self
        return self.outer.find_home(name) if self.outer is not None else None

    def depth(self) -> int:
        """How many scopes lie around this one."""
        return 0 if self.outer is None else 1 + self.outer.depth()


def list_reads(node: NodeProto) -> list[str]:
    """What a node and its subgraphs read."""
    return [*(n for n in node.input if n), *sorted(list_captures(node))]


def build_scopes(source: LoadedModel, known: dict[str, Port]) -> dict[str, Scope]:
    """All scopes of a model by a key that does not depend on node names; ``known`` types the main graph."""
    model = source.proto
    main = _build_graph_scope("", source, model.graph, None, model.opset_import)
    main.known.update(known)
    found = {s.key: s for s in _walk_bodies(main)}
    for function in _sort_callers_first(model.functions):
        for way in _build_function_scopes(source, function, list(found.values())):
            found |= {scope.key: scope for scope in _walk_bodies(way)}
    return found


def _build_graph_scope(
    key: str, source: LoadedModel, graph: GraphProto, outer: Scope | None, opset_import: Any
) -> Scope:
    consts: dict[str, Any] = {t.name: t for t in graph.initializer}
    consts |= {t.values.name: t for t in graph.sparse_initializer}
    free = [i.name for i in graph.input if i.name not in consts]
    scope = Scope(key, source, list(graph.node), free, [o.name for o in graph.output], consts)
    scope.outer, scope.opset_import = outer, opset_import
    scope.known.update(read_ports([*graph.value_info, *graph.input, *graph.output]))
    return scope


def _walk_bodies(scope: Scope) -> Iterator[Scope]:
    yield scope
    for node in scope.nodes:
        for name, graph in list_bodies(node):
            key = make_body_key(scope.key, node, name)
            yield from _walk_bodies(_build_graph_scope(key, scope.source, graph, scope, scope.opset_import))


def format_function_key(function: FunctionProto) -> str:
    """What a function is called."""
    return f"function {function.domain}.{function.name}.{getattr(function, 'overload', '')}"


def _sort_callers_first(functions: Iterable[FunctionProto]) -> list[FunctionProto]:
    left = list(functions)
    done: list[FunctionProto] = []
    while left:
        called = {(n.domain, n.op_type) for f in left for n in _walk_inner(f.node)}
        ready = [f for f in left if (f.domain, f.name) not in called] or left
        done += ready
        left = [f for f in left if all(f is not g for g in ready)]
    return done


def _walk_inner(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for _, graph in list_bodies(node):
            yield from _walk_inner(graph.node)


def _build_function_scopes(source: LoadedModel, function: FunctionProto, callers: list[Scope]) -> Iterator[Scope]:
    """A function as its calls see it, attributes bound, constant arguments as constants: a scope for each way."""
    ways: dict[Any, list[tuple[Scope, NodeProto]]] = {}
    for caller in callers:
        for node in caller.nodes:
            if _calls(node, function):
                ways.setdefault(_describe_call(caller, node), []).append((caller, node))
    for k, calls in enumerate(ways.values() or [[]]):
        key = format_function_key(function) + (f"#{k}" if k else "")
        scope = Scope(key, source, list(function.node), list(function.input), list(function.output))
        scope.opset_import = function.opset_import
        scope.calls = [(caller, dict(zip(function.input, node.input, strict=False))) for caller, node in calls]
        if calls:
            scope.nodes = list(bind_function(function, calls[0][1]).node)
            _take_arguments(scope, *scope.calls[0])
        yield scope


def _calls(node: NodeProto, function: FunctionProto) -> bool:
    return (node.domain, node.op_type) == (function.domain, function.name)


def _describe_call(caller: Scope, node: NodeProto) -> tuple[Any, ...]:
    """What a function is bound to by a call: its attributes, and the constants among its arguments."""
    homes = [caller.find_home(name) for name in node.input]
    tensors = tuple(h and id(h.consts.get(n)) for h, n in zip(homes, node.input, strict=True) if h and n in h.consts)
    given = tuple(h is not None and n in h.consts for h, n in zip(homes, node.input, strict=True))
    return given, tensors, tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))


def _take_arguments(scope: Scope, caller: Scope, arguments: dict[str, str]) -> None:
    for formal, actual in arguments.items():
        home = caller.find_home(actual)
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


def infer_inner_types(found: dict[str, Scope]) -> None:
    """Give the tensors of subgraphs and functions the types that inference finds from what surrounds them."""
    for scope in sorted(found.values(), key=Scope.depth):
        if scope.key == "":
            continue
        outside = {n for node in scope.nodes for n in list_reads(node)} - scope.makers.keys() - scope.consts.keys()
        graph = GraphProto(name="body", node=scope.nodes)
        for name in sorted(outside | set(scope.inputs)):
            home = scope.find_home(name)
            const = home.consts.get(name) if home is not None else None
            port = home.known.get(name) if home is not None else None
            if isinstance(const, TensorProto):
                graph.initializer.append(const)
            elif port is not None and port.kind == "tensor":
                graph.input.append(make_value_info(name, port))
        graph.initializer.extend(t for t in scope.consts.values() if isinstance(t, TensorProto))
        body = ModelProto(ir_version=8, opset_import=scope.opset_import, graph=graph)
        body.functions.extend(scope.source.proto.functions)
        for name, port in infer_types(body).items():
            scope.known.setdefault(name, port)


def compute_signature(node: NodeProto) -> tuple[Any, ...]:
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


def is_same_constant(a: Any, source_a: LoadedModel, b: Any, source_b: LoadedModel) -> bool:
    """Whether two constants have the same type, shape and bits; one tensor of each is read at a time."""
    if type(a) is not type(b):
        return False
    if not isinstance(a, TensorProto):
        return bool(a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True))
    if (a.data_type, list(a.dims)) != (b.data_type, list(b.dims)):
        return False
    if is_external(a) and is_external(b):
        if locate_external(a, source_a.folder) == locate_external(b, source_b.folder):
            return True
    elif a.HasField("raw_data") and b.HasField("raw_data"):
        return bool(a.raw_data == b.raw_data)
    x, y = read_tensor(a, source_a.folder), read_tensor(b, source_b.folder)
    if x.dtype.kind in "OUS":
        return bool(np.array_equal(x, y))
    return np.ascontiguousarray(x).tobytes() == np.ascontiguousarray(y).tobytes()


def find_port(scope: Scope, name: str) -> Port | None:
    """What is known of a tensor, in the scope where it comes into being."""
    home = scope.find_home(name)
    return home.known.get(name) if home is not None else None
