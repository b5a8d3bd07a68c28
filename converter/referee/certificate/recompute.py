"""What a replay computes itself: constants that nodes make of constants, and each rewritten place in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from converter.model.file.dtypes import encode
from converter.referee.certificate.constants import (
    DTYPES,
    ComputedConstant,
    Constant,
    StoredConstant,
)
from converter.referee.certificate.graph import Change, Graph, Node, Scope, Tensor, find_attribute_tensor
from converter.referee.normal_form.compare import Place, recompute
from converter.referee.proto.diff import Region
from converter.referee.proto.inference import infer_certain_shapes
from converter.referee.proto.source import LoadedModel, Port, make_value_info, read_ports
from converter.referee.reference.kernels import Unsupported, make_kernel, read_attributes

_MOST_ELEMENTS = 1 << 32  # of a constant that is computed
_UNREPEATABLE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


def is_derived(tensor: Tensor) -> bool:
    """Whether constants alone make it."""
    return _list_chain(tensor) is not None


def _list_chain(tensor: Tensor) -> list[Tensor] | None:
    """The tensors that constants alone make it of, each behind what it reads, itself last; None if more is read."""
    found: dict[int, Tensor] = {}
    pending = [tensor]
    while pending:
        at = pending[-1]
        if at.constant is None:
            node = at.maker
            if node is None or not node.is_standard or node.bodies or node.op in _UNREPEATABLE:
                return None
            fresh = [w for w in node.inputs if w.name and id(w) not in found]
            if fresh:
                pending += fresh
                continue
        elif at.is_input and at.scope.graph.ir_version >= 4:
            return None
        found.setdefault(id(at), pending.pop())
    return list(found.values())


def evaluate(tensor: Tensor) -> Constant | None:
    """The value of a chain of constants; None if it is none, or cannot be computed here."""
    if tensor.constant is not None:
        return tensor.constant
    node, chain = tensor.maker, _list_chain(tensor)
    if node is None or chain is None:
        return None
    if node.op == "Constant" and (stored := find_attribute_tensor(node)) is not None:
        return StoredConstant(stored, tensor.scope.graph.folder)
    try:
        value = _compute_array(chain)
    except (Unsupported, ValueError, TypeError, IndexError, KeyError):
        return None
    return None if value.size > _MOST_ELEMENTS else ComputedConstant(value)


def _compute_array(chain: Sequence[Tensor]) -> np.ndarray[Any, Any]:
    """The value of the last one, each being made of those before it."""
    values: dict[int, np.ndarray[Any, Any]] = {}
    for tensor in chain:
        node = tensor.maker
        if tensor.constant is not None or node is None:
            assert tensor.constant is not None
            values[id(tensor)] = tensor.constant.load()
        elif node.op == "Constant":
            values[id(tensor)] = _read_constant(node)
        else:
            op = make_kernel(node.as_node(), "", node.scope.graph.opset(node.scope))
            if op is None:
                raise Unsupported(node.op)
            inputs = tuple(values[id(w)] if w.name else None for w in node.inputs)
            result = np.asarray(op(inputs)[node.outputs.index(tensor)])
            kept = next((x.dtype for x in inputs if x is not None), result.dtype)
            # The kernels make every float a float64; an operator that keeps its input's type keeps it here too.
            keeps = result.dtype == np.float64 and kept.kind != "i" and node.op != "Cast"
            values[id(tensor)] = result.astype(kept) if keeps else result
    return values[id(chain[-1])]


def _read_constant(node: Node) -> np.ndarray[Any, Any]:
    stored = find_attribute_tensor(node)
    if stored is not None:
        return StoredConstant(stored, node.scope.graph.folder).load()
    (value,) = read_attributes(node.as_node()).values()
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array


LIMIT = 1.0  # of the float64 error bounds


class Types:
    """Types of the original's tensors as they follow from its inputs, inferred once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[str, dict[str, Port]] = {}

    def find_type(self, tensor: Tensor) -> Port | None:
        """Type of a tensor; a renamed one has that of its origin."""
        scope = tensor.scope
        if scope.path not in self._known:
            proto = scope.proto
            if scope.path == "":
                certain = infer_certain_shapes(self._graph.model).graph
                self._known[""] = read_ports([*certain.input, *certain.value_info, *certain.output])
            else:
                values = [*proto.value_info, *proto.input, *proto.output] if isinstance(proto, GraphProto) else []
                self._known[scope.path] = read_ports(values)
        return self._known[scope.path].get(tensor.origin)


def recompute_places(graph: Graph, change: Change, types: Types) -> Iterator[Place]:
    """Every tensor that the rest of the model reads from what the step touched."""
    touched = [graph.nodes[path] for path in change.before]
    scopes = {node.scope.path: node.scope for node in touched}
    if len(scopes) > 1:
        yield Place(next(iter(scopes)), (), "the step touches several graphs")
        return
    (scope,) = scopes.values()
    order = sorted(touched, key=lambda i: i.number)
    before = _StepModel(scope, [(i, *change.before[i.path]) for i in order], types)
    after = _StepModel(scope, [(i, i.as_node(), i.inputs) for i in order if i.alive], types)
    made = {name for node in before.nodes for name in node.output}
    done: dict[Any, Any] = {}
    source = LoadedModel(graph.model, "step", None, None)
    for tensor in _list_visible(order):
        if tensor.name not in made:
            yield Place(tensor.name, (), "is made anew")
            continue
        region = Region.of(scope.path, tensor.name, before.model(tensor.name), after.model(tensor.name))
        yield recompute(region, source, source, done)


def _list_visible(touched: list[Node]) -> Iterator[Tensor]:
    inside = set(map(id, touched))
    for node in touched:
        for tensor in node.outputs if node.alive else ():
            if tensor.name and (tensor.pins or any(id(r) not in inside for r in tensor.readers)):
                yield tensor


class _StepModel:
    """One side of the step: its nodes, with what makes their constants, and its inputs."""

    def __init__(self, scope: Scope, parts: Iterable[tuple[Node, NodeProto, list[Tensor]]], types: Types) -> None:
        self._scope, self._types = scope, types
        self.nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._inputs: dict[str, Port | None] = {}
        chosen = list(parts)
        inside = {name for _, node, _ in chosen for name in node.output}
        drawn: dict[str, Node] = {}
        for _, node, tensors in chosen:
            for name, tensor in zip(node.input, tensors, strict=True):
                self._take(name, tensor, inside, drawn)
        extra = [(i, i.as_node()) for i in drawn.values()]
        both = [*extra, *((i, node) for i, node, _ in chosen)]
        self.nodes = [node for _, node in sorted(both, key=lambda pair: pair[0].number)]

    def _take(self, name: str, tensor: Tensor, inside: set[str], drawn: dict[str, Node]) -> None:
        if not name or name in inside or name in self._constants or name in self._inputs:
            return
        if tensor.constant is not None:
            self._constants[name] = _widen(name, tensor.constant)
        elif (
            tensor.maker is not None
            and tensor.scope is self._scope
            and (is_derived(tensor) or self._is_telling(tensor))
        ):
            if tensor.maker.path not in drawn:
                drawn[tensor.maker.path] = tensor.maker
                for inner in tensor.maker.inputs:
                    self._take(inner.name, inner, inside, drawn)
        else:
            self._inputs[name] = self._types.find_type(tensor)

    def _is_telling(self, tensor: Tensor) -> bool:
        """Whether the form follows it by value (integers: shapes) or by what it is (rows that sum to one)."""
        if tensor.maker is not None and tensor.maker.op == "Softmax":
            return True
        port = self._types.find_type(tensor)
        return port is not None and port.dtype is not None and port.dtype.kind in "iu"

    def model(self, output: str) -> ModelProto:
        """The side as a model of one output."""
        graph = self._scope.graph
        proto = GraphProto(name="place", node=self.nodes, initializer=self._constants.values())
        for name, port in self._inputs.items():
            proto.input.append(make_value_info(name, port, TensorProto.FLOAT))
        proto.output.append(make_value_info(output, None))
        imports = graph.model.opset_import if not self._scope.is_function else self._scope.proto.opset_import
        return ModelProto(ir_version=max(graph.ir_version, 4), opset_import=imports, graph=proto)


def _widen(name: str, constant: Constant) -> TensorProto:
    """A constant before rounding, floats as float64."""
    if constant.dtype.name in DTYPES:
        return encode(np.ascontiguousarray(constant.float64()).reshape(constant.shape), name)
    return encode(constant.load(), name)
