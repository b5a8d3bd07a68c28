"""From an edited graph back to a file: what no edit touched keeps its bytes and its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    StringStringEntryProto,
    TensorProto,
    helper,
)

from converter.errors import ModelError
from converter.model.file import Computed, DataFile, DiskBuffer, Pieces, Span, claim, data_name, stage
from converter.model.file.dtypes import get_element_type
from converter.model.file.reader import list_external, tensors
from converter.model.file.wire import Buffer, Field, fields
from converter.referee.certificate.graph import Graph, Node, Scope, Tensor
from converter.referee.proto.source import LoadedModel, serialize
from converter.referee.proto.tensors import is_external, locate_external
from converter.temporary import find_closed

_EXTERNAL_FROM = 1024  # bytes; smaller tensors stay in the model
# Field numbers of onnx.proto.
_GRAPH, _METADATA, _FUNCTION = 7, 14, 25
_NODE, _INITIALIZER, _INPUT, _VALUE_INFO, _ANNOTATION = 1, 5, 11, 13, 14
_FUNCTION_NODE, _FUNCTION_VALUE_INFO = 7, 12
_ATTRIBUTE, _TENSOR, _SUBGRAPH, _SUBGRAPHS, _RAW_DATA = 5, 5, 6, 11, 9


class Serializer:
    """Writes a graph.

    Parameters
    ----------
    source : LoadedModel
        What the graph was made from.
    metadata : mapping
        Entries of the model's metadata to set.
    data : DataFile, optional
        Where external tensors go, and large new ones; without it external ones stay where they are.
    """

    def __init__(self, graph: Graph, source: LoadedModel, metadata: Mapping[str, str], data: DataFile | None) -> None:
        self.graph, self.source, self.metadata, self.data = graph, source, metadata, data
        self.buffer: Buffer = serialize(source.proto) if source.path is None else DiskBuffer(source.path)
        self._changed: dict[str, bool] = {}

    def build(self) -> Pieces:
        """The whole model."""
        out, functions = Pieces(), 0
        entries = iter(self.graph.model.metadata_props)
        for f in fields(self.buffer, 0, len(self.buffer)):
            if f.number == _GRAPH:
                self._write_scope(out, f, self.graph.scopes[""])
            elif f.number == _FUNCTION:
                self._write_scope(out, f, self.graph.scopes[f"functions/{functions}"])
                functions += 1
            elif f.number != _METADATA or next(entries).key not in self.metadata:
                out.add(self._copy(f))
        for key, value in self.metadata.items():
            out.message(_METADATA, _make_pieces(StringStringEntryProto(key=key, value=value).SerializeToString()))
        return out

    def _copy(self, f: Field) -> Span:
        return Span(self.buffer, f.start, f.end - f.start)

    def _write_scope(self, out: Pieces, f: Field, scope: Scope) -> None:
        if not self._is_changed(scope):
            out.add(self._copy(f))
            return
        write = self._build_function if scope.is_function else self._build_graph
        out.message(f.number, write(scope, f))

    def _is_changed(self, scope: Scope) -> bool:
        if scope.path not in self._changed:
            held = scope.proto.initializer if isinstance(scope.proto, GraphProto) else []
            moved = self.data is not None and any(map(is_external, held))
            edited = bool(scope.added or scope.frozen or scope.first - scope.names.keys() or moved)
            self._changed[scope.path] = edited or any(map(self._is_new, scope.nodes))
        return self._changed[scope.path]

    def _is_new(self, node: Node) -> bool:
        if not node.alive or any(map(self._is_changed, node.bodies)):
            return True
        if self.data is not None and any(is_external(a.t) for a in node.proto.attribute):
            return True
        edges = [w.name for w in node.inputs], [w.name for w in node.outputs]
        same = node.op == node.proto.op_type and edges == (list(node.proto.input), list(node.proto.output))
        return not same or [*node.attributes.values()] != [*node.proto.attribute]

    # -- graphs and functions --------------------------------------------------------------------

    def _build_graph(self, scope: Scope, place: Field) -> Pieces:
        proto = scope.proto
        assert isinstance(proto, GraphProto)
        gone = scope.first - scope.names.keys()
        hidden = {_INPUT: gone | scope.frozen, _VALUE_INFO: gone, _ANNOTATION: gone, _INITIALIZER: gone}
        names = {
            _INPUT: iter([v.name for v in proto.input]),
            _VALUE_INFO: iter([v.name for v in proto.value_info]),
            _ANNOTATION: iter([q.tensor_name for q in proto.quantization_annotation]),
        }
        nodes, held = iter(scope.nodes), iter(proto.initializer)
        as_nodes = scope.parent is not None and self.graph.ir_version < 4  # initializers would have to be inputs
        out = Pieces()
        self._write_constant_nodes(out, scope.added if as_nodes else [], _NODE)
        for f in fields(self.buffer, place.payload, place.end):
            if f.number == _NODE:
                self._write_node(out, f, next(nodes))
            elif f.number == _INITIALIZER:
                stored = next(held)
                if stored.name not in gone:
                    self._move_stored(out, f, stored)
            elif f.number not in names or next(names[f.number]) not in hidden[f.number]:
                out.add(self._copy(f))
        for tensor in scope.added if not as_nodes else ():
            self._write_initializer(out, tensor)
        return out

    def _write_initializer(self, out: Pieces, tensor: Tensor) -> None:
        out.message(_INITIALIZER, self._build_tensor(tensor))
        if self.graph.ir_version < 4 and tensor.constant is not None:
            kind = get_element_type(tensor.constant.dtype)
            info = helper.make_tensor_value_info(tensor.name, kind, tensor.constant.shape)
            out.message(_INPUT, _make_pieces(info.SerializeToString()))

    def _build_function(self, scope: Scope, place: Field) -> Pieces:
        assert isinstance(scope.proto, FunctionProto)
        gone = scope.first - scope.names.keys()
        out, nodes, infos = Pieces(), iter(scope.nodes), iter(scope.proto.value_info)
        self._write_constant_nodes(out, scope.added, _FUNCTION_NODE)
        for f in fields(self.buffer, place.payload, place.end):
            if f.number == _FUNCTION_NODE:
                self._write_node(out, f, next(nodes))
            elif f.number != _FUNCTION_VALUE_INFO or next(infos).name not in gone:
                out.add(self._copy(f))
        return out

    def _write_constant_nodes(self, out: Pieces, tensors: list[Tensor], number: int) -> None:
        for tensor in tensors:
            body = _make_pieces(helper.make_node("Constant", [], [tensor.name], name=tensor.name).SerializeToString())
            attribute = _make_pieces(AttributeProto(name="value", type=AttributeProto.TENSOR).SerializeToString())
            attribute.message(_TENSOR, self._build_tensor(tensor))
            body.message(_ATTRIBUTE, attribute)
            out.message(number, body)

    # -- nodes -------------------------------------------------------------------------------------

    def _write_node(self, out: Pieces, f: Field, node: Node) -> None:
        if not node.alive:
            return
        if self._is_new(node):
            out.message(f.number, self._build_node(node, f))
        else:
            out.add(self._copy(f))

    def _build_node(self, node: Node, place: Field) -> Pieces:
        copy = NodeProto()
        copy.CopyFrom(node.proto)
        del copy.attribute[:], copy.input[:], copy.output[:]
        copy.op_type = node.op
        copy.input.extend(w.name for w in node.inputs)
        copy.output.extend(w.name for w in node.outputs)
        out, bodies = _make_pieces(copy.SerializeToString()), iter(node.bodies)
        places = (f for f in fields(self.buffer, place.payload, place.end) if f.number == _ATTRIBUTE)
        protos: list[AttributeProto] = list(node.proto.attribute)
        for f, proto in zip(places, protos, strict=True):
            n_graphs = (proto.type == AttributeProto.GRAPH) + len(proto.graphs)
            inside = [next(bodies) for _ in range(n_graphs)]
            if node.attributes.get(proto.name) != proto:
                continue
            if any(map(self._is_changed, inside)) or (self.data is not None and is_external(proto.t)):
                out.message(_ATTRIBUTE, self._build_attribute(f, proto, inside))
            else:
                out.add(self._copy(f))
        kept = {id(a) for a in node.proto.attribute}
        for attribute in node.attributes.values():
            if id(attribute) not in kept:
                out.message(_ATTRIBUTE, _make_pieces(attribute.SerializeToString()))
        return out

    def _build_attribute(self, place: Field, proto: AttributeProto, inside: list[Scope]) -> Pieces:
        out, scopes = Pieces(), iter(inside)
        for f in fields(self.buffer, place.payload, place.end):
            if f.number in (_SUBGRAPH, _SUBGRAPHS):
                self._write_scope(out, f, next(scopes))
            elif f.number == _TENSOR and self.data is not None and is_external(proto.t):
                self._move_stored(out, f, proto.t)
            else:
                out.add(self._copy(f))
        return out

    # -- tensors -------------------------------------------------------------------------------------

    def _move_stored(self, out: Pieces, f: Field, stored: TensorProto) -> None:
        """A tensor of the original, its data moved along with the model."""
        if self.data is None or not is_external(stored):
            out.add(self._copy(f))
            return
        path, offset, length = locate_external(stored, self.source.folder)
        n_bytes = path.stat().st_size - offset if length is None else length
        header = TensorProto()
        header.CopyFrom(stored)
        out.message(f.number, self._place_outside(header, Span(path, offset, n_bytes)))

    def _build_tensor(self, tensor: Tensor) -> Pieces:
        constant = tensor.constant
        assert constant is not None
        kind = get_element_type(constant.dtype)
        header = TensorProto(name=tensor.name, dims=constant.shape, data_type=kind)
        value = Computed(constant.n_bytes, constant.pack)
        if self.data is not None and constant.n_bytes >= _EXTERNAL_FROM:
            return self._place_outside(header, value)
        out, raw = _make_pieces(header.SerializeToString()), Pieces()
        raw.add(value)
        out.message(_RAW_DATA, raw)
        return out

    def _place_outside(self, header: TensorProto, piece: Span | Computed) -> Pieces:
        assert self.data is not None
        place = self.data.place(piece)
        header.ClearField("raw_data")
        del header.external_data[:]
        header.data_location = TensorProto.EXTERNAL
        entries: list[tuple[str, Any]] = [("location", self.data.name), ("offset", place), ("length", piece.n_bytes)]
        for key, value in entries:
            header.external_data.add(key=key, value=str(value))
        return _make_pieces(header.SerializeToString())


def _make_pieces(data: bytes) -> Pieces:
    out = Pieces()
    out.add(data)
    return out


_PROTO_LIMIT = (1 << 31) - 1  # bytes that protobuf takes in one message


def build_model(graph: Graph, source: LoadedModel, metadata: Mapping[str, str]) -> ModelProto:
    """The model as the edits left it; external tensors stay where they lie."""
    model: ModelProto = ModelProto.FromString(Serializer(graph, source, metadata, None).build().to_bytes())
    return model


def write_model(
    graph: Graph, source: LoadedModel, metadata: Mapping[str, str], target: Path, *, replaces: bool = False
) -> None:
    """Write the model, whole or not at all; what lay in data files goes into one beside it.

    Raises
    ------
    ModelError
        It cannot be written.
    """
    staged = claim(target)
    try:
        outside = DataFile(data_name(target, b"replay"))
        data = outside if any(map(is_external, tensors(graph.model))) else None
        pieces = Serializer(graph, source, metadata, data).build()
        if data is None and pieces.n_bytes > _PROTO_LIMIT:
            data = outside
            pieces = Serializer(graph, source, metadata, data).build()
        read = [] if source.path is None else [source.path, *(place.path for place in list_external(source.path))]
        stage(staged, pieces, data, closed=find_closed(read), replaces=replaces)
        staged.commit()
    except ValueError as exc:
        raise ModelError(f"{target}: cannot be written ({exc})") from exc
    finally:
        staged.discard()
