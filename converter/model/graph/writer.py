"""From a graph back to a file: what no edit touched is copied from the source, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from converter.errors import ModelError
from converter.model.file import Computed, DataFile, Pieces, Span
from converter.model.file.dtypes import get_element_type
from converter.model.file.wire import Field, WireError, fields
from converter.model.graph.graph import Graph
from converter.model.graph.nodes import Const, Node, Scope, StoredTensor, is_half_byte, weight_bytes
from converter.records import Weight

_EXTERNAL_FROM = 1024  # bytes; smaller new tensors stay in the model file (onnx's own default)
_MODEL_GRAPH, _MODEL_FUNCTION, _MODEL_METADATA = 7, 25, 14
_NODE, _INITIALIZER, _INPUT, _VALUE_INFO, _ANNOTATION, _SPARSE = 1, 5, 11, 13, 14, 15
_FUNCTION_NODE, _FUNCTION_VALUE_INFO = 7, 12
_ATTRIBUTE, _ATTRIBUTE_TENSOR, _RAW_DATA = 5, 5, 9


def emit(graph: Graph, metadata: dict[str, str] | None = None, data: DataFile | None = None) -> Pieces:
    """The model's bytes as pieces.

    Parameters
    ----------
    metadata : dict, optional
        Entries of the model's metadata_props to set.
    data : DataFile, optional
        Where external tensors go, all of them, and large new ones too. Without it, tensors that
        are external stay where they are.

    Raises
    ------
    ModelError
        The file changed since it was opened.
    """
    try:
        return _Writer(graph, metadata or {}, data).model()
    except WireError as exc:
        raise ModelError(f"{graph.file.label}: changed while it was read ({exc}); run this again") from exc


class _Writer:
    def __init__(self, graph: Graph, metadata: dict[str, str], data: DataFile | None) -> None:
        self.graph = graph
        self.file = graph.file
        self.metadata = metadata
        self.data = data
        self._changed: dict[int, bool] = {}

    def span(self, start: int, end: int) -> Span:
        return Span(self.file.buffer, start, end - start)

    def copy(self, f: Field) -> Span:
        return self.span(f.start, f.end)

    # -- model -----------------------------------------------------------------------------

    def model(self) -> Pieces:
        out = Pieces()
        functions = {s.field.start: s for s in self.graph.scopes if s.kind == "function" and s.field is not None}
        entries = iter(self.file.skeleton.metadata_props)
        for f in fields(self.file.buffer, *self.file.root):
            if f.number == _MODEL_GRAPH:
                self._message(out, f, self.graph.scopes[0], self.graph_body)
            elif f.number == _MODEL_FUNCTION:
                self._message(out, f, functions[f.start], self.function_body)
            elif f.number == _MODEL_METADATA and next(entries).key in self.metadata:
                continue
            else:
                out.add(self.copy(f))
        for key, value in self.metadata.items():
            entry = onnx.StringStringEntryProto(key=key, value=value)
            out.message(_MODEL_METADATA, _as_pieces(entry.SerializeToString()))
        return out

    def _message(self, out: Pieces, f: Field, scope: Scope, body: Callable[[Scope], Pieces]) -> None:
        if self.scope_changed(scope):
            out.message(f.number, body(scope))
        else:
            out.add(self.copy(f))

    # -- what changed ----------------------------------------------------------------------

    def scope_changed(self, scope: Scope) -> bool:
        if id(scope) not in self._changed:
            self._changed[id(scope)] = bool(
                scope.removed_fields
                or scope.new_constants
                or scope.removed_names
                or scope.frozen_inputs
                or any(self.node_changed(n) for n in scope.nodes)
                or (self.data is not None and any(map(_external, _initializers(scope))))
            )
        return self._changed[id(scope)]

    def node_changed(self, node: Node) -> bool:
        p = node.proto
        return (
            not node.alive
            or node.op != p.op_type
            or bool(node.attr_edits)
            or [t.name for t in node.inputs] != list(p.input)
            or [t.name for t in node.outputs] != list(p.output)
            or any(self.scope_changed(b.scope) for b in node.bodies)
            or (self.data is not None and any(_external(a.t) for a in p.attribute))
        )

    # -- graphs and functions --------------------------------------------------------------

    def graph_body(self, scope: Scope) -> Pieces:
        proto = scope.proto
        assert isinstance(proto, onnx.GraphProto)
        named = {
            _INPUT: iter([i.name for i in proto.input]),
            _VALUE_INFO: iter([i.name for i in proto.value_info]),
            _ANNOTATION: iter([q.tensor_name for q in proto.quantization_annotation]),
        }
        hidden = {
            _INPUT: scope.removed_names | scope.frozen_inputs,
            _VALUE_INFO: scope.removed_names,
            _ANNOTATION: scope.removed_names,
        }
        headers = iter(proto.initializer)
        as_nodes = scope.kind == "body" and self.graph.ir_version < 4
        out = Pieces()
        nodes = {n.field.start: n for n in scope.nodes if n.field is not None}
        if as_nodes:
            self._constant_nodes(out, scope, _NODE)
        for f in fields(self.file.buffer, *scope.span):
            if f.number == _NODE:
                self._node(out, f, nodes[f.start])
            elif f.number == _INITIALIZER:
                self._initializer(out, f, next(headers), scope)
            elif f.number in named:
                name = next(named[f.number])
                if name not in hidden[f.number] or (name in scope.values and name not in scope.frozen_inputs):
                    out.add(self.copy(f))
            else:
                out.add(self.copy(f))
        if not as_nodes:
            self._new_initializers(out, scope)
        return out

    def function_body(self, scope: Scope) -> Pieces:
        proto = scope.proto
        assert isinstance(proto, onnx.FunctionProto)
        out = Pieces()
        infos = iter(proto.value_info)
        nodes = {n.field.start: n for n in scope.nodes if n.field is not None}
        self._constant_nodes(out, scope, _FUNCTION_NODE)
        for f in fields(self.file.buffer, *scope.span):
            if f.number == _FUNCTION_NODE:
                self._node(out, f, nodes[f.start])
            elif f.number != _FUNCTION_VALUE_INFO or next(infos).name not in scope.removed_names:
                out.add(self.copy(f))
        return out

    def _node(self, out: Pieces, f: Field, node: Node) -> None:
        if not node.alive:
            return
        if self.node_changed(node):
            out.message(f.number, self.node_body(node, f))
        else:
            out.add(self.copy(f))

    def node_body(self, node: Node, f: Field) -> Pieces:
        bare = onnx.NodeProto()
        bare.CopyFrom(node.proto)
        del bare.attribute[:], bare.input[:], bare.output[:]
        bare.op_type = node.op
        bare.input.extend(t.name for t in node.inputs)
        bare.output.extend(t.name for t in node.outputs)
        out = Pieces()
        out.add(bare.SerializeToString())
        places = (p for p in fields(self.file.buffer, f.payload, f.end) if p.number == _ATTRIBUTE)
        for place, proto in zip(places, node.proto.attribute, strict=True):
            if proto.name in node.attr_edits:
                continue
            bodies = {b.graph.start: b.scope for b in node.bodies if b.attribute == place}
            if any(self.scope_changed(s) for s in bodies.values()) or (self.data is not None and _external(proto.t)):
                out.message(_ATTRIBUTE, self._attribute(place, proto, bodies))
            else:
                out.add(self.copy(place))
        for name, value in node.attr_edits.items():
            if value is not None:
                out.message(_ATTRIBUTE, _as_pieces(onnx.helper.make_attribute(name, value).SerializeToString()))
        return out

    def _attribute(self, place: Field, proto: onnx.AttributeProto, bodies: dict[int, Scope]) -> Pieces:
        out = Pieces()
        for f in fields(self.file.buffer, place.payload, place.end):
            if f.start in bodies:
                self._message(out, f, bodies[f.start], self.graph_body)
            elif f.number == _ATTRIBUTE_TENSOR and _external(proto.t) and self.data is not None:
                out.message(f.number, self._move_outside(f, proto.t))
            else:
                out.add(self.copy(f))
        return out

    # -- tensors ---------------------------------------------------------------------------

    def _initializer(self, out: Pieces, f: Field, header: TensorProto, scope: Scope) -> None:
        if f.start in scope.removed_fields:
            return
        if self.data is not None and _external(header):
            out.message(f.number, self._move_outside(f, header))
        else:
            out.add(self.copy(f))

    def _move_outside(self, f: Field, header: TensorProto) -> Pieces:
        where = self.file.ref(header, f).external
        assert where is not None and self.data is not None
        if self.data.linked_from is not None:
            location, checksum = self.data.refer(where.path)
            pointing = _point_at(header, location, where.offset, where.n_bytes, checksum)
            return _as_pieces(pointing.SerializeToString())
        offset = self.data.place(Span(where.path, where.offset, where.n_bytes))
        return _as_pieces(_point_at(header, self.data.name, offset, where.n_bytes).SerializeToString())

    def _new_initializers(self, out: Pieces, scope: Scope) -> None:
        for const in scope.new_constants:
            out.message(_INITIALIZER, self.tensor(const.name, const.weight))
            if self.graph.ir_version < 4:
                info = onnx.helper.make_tensor_value_info(
                    const.name, get_element_type(const.weight.dtype), const.weight.shape
                )
                out.message(_INPUT, _as_pieces(info.SerializeToString()))

    def _constant_nodes(self, out: Pieces, scope: Scope, number: int) -> None:
        # A function has no initializers, and below IR 4 those of a body would have to be its inputs.
        for const in scope.new_constants:
            node = onnx.helper.make_node("Constant", [], [const.name], name=const.name)
            attribute = Pieces()
            attribute.add(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR).SerializeToString())
            attribute.message(_ATTRIBUTE_TENSOR, self.tensor(const.name, const.weight))
            body = _as_pieces(node.SerializeToString())
            body.message(_ATTRIBUTE, attribute)
            out.message(number, body)

    def tensor(self, name: str, weight: Weight) -> Pieces:
        header = TensorProto(name=name, dims=weight.shape, data_type=get_element_type(weight.dtype))
        n_bytes = weight_bytes(weight)
        value = Computed(n_bytes, partial(_pack, weight))
        if self.data is not None and n_bytes >= _EXTERNAL_FROM:
            offset = self.data.place(value)
            return _as_pieces(_point_at(header, self.data.name, offset, n_bytes).SerializeToString())
        out = _as_pieces(header.SerializeToString())
        raw = Pieces()
        raw.add(value)
        out.message(_RAW_DATA, raw)
        return out


def _pack(weight: Weight) -> NDArray[Any]:
    """The elements as a file holds them: of four bits, two in a byte, the first in the low bits."""
    value = weight.load()
    if not is_half_byte(weight.dtype):
        return value
    flat = value.reshape(-1).astype(np.int8).astype(np.uint8) & 0x0F
    pairs = np.pad(flat, (0, flat.size % 2)).reshape(-1, 2)
    packed: NDArray[Any] = pairs[:, 0] | (pairs[:, 1] << 4)
    return packed


def _as_pieces(data: bytes) -> Pieces:
    out = Pieces()
    out.add(data)
    return out


def _external(header: TensorProto) -> bool:
    return header.data_location == TensorProto.EXTERNAL


def _initializers(scope: Scope) -> list[TensorProto]:
    return list(scope.proto.initializer) if isinstance(scope.proto, onnx.GraphProto) else []


def _point_at(
    header: TensorProto, location: str, offset: int, n_bytes: int, checksum: str | None = None
) -> TensorProto:
    out = TensorProto()
    out.CopyFrom(header)
    out.ClearField("raw_data")
    del out.external_data[:]
    out.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(n_bytes))):
        out.external_data.add(key=key, value=value)
    if checksum is not None:  # ONNX's own key: the SHA-1 of the whole file
        out.external_data.add(key="checksum", value=checksum)
    return out


def has_external(graph: Graph) -> bool:
    """Whether any tensor of the model lies in another file."""
    if any(_external(a.t) for n in graph.nodes() for a in n.proto.attribute):
        return True
    return any(_external(h) for s in graph.scopes for h in _initializers(s))


def stored_files(graph: Graph) -> set[str]:
    """The data files that the model's tensors lie in."""
    weights = [v.weight for s in graph.scopes for v in s.values.values() if isinstance(v, Const)]
    refs = [w.ref.external for w in weights if isinstance(w, StoredTensor)]
    return {str(e.path) for e in refs if e is not None}
