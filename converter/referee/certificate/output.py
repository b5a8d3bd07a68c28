"""From an edited sheet back to a file: what no edit touched keeps its bytes and its place."""

from __future__ import annotations

import mmap
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
from converter.model.file import Computed, DataFile, Pieces, Span, data_name, span_of, stage
from converter.model.file.wire import Buffer, Field, fields
from converter.referee.certificate.graph import Area, Item, Sheet, Wire
from converter.referee.proto.source import LoadedModel, serialize
from converter.referee.proto.tensors import is_external, locate_external

_EXTERNAL_FROM = 1024  # bytes; smaller tensors stay in the model
# Field numbers of onnx.proto.
_GRAPH, _METADATA, _FUNCTION = 7, 14, 25
_NODE, _INITIALIZER, _INPUT, _VALUE_INFO, _ANNOTATION = 1, 5, 11, 13, 14
_FUNCTION_NODE, _FUNCTION_VALUE_INFO = 7, 12
_ATTRIBUTE, _TENSOR, _SUBGRAPH, _SUBGRAPHS, _RAW_DATA = 5, 5, 6, 11, 9


class Layout:
    """Writes a sheet.

    Parameters
    ----------
    source : Source
        What the sheet was made from.
    metadata : mapping
        Entries of the model's metadata to set.
    data : DataFile, optional
        Where external tensors go, and large new ones; without it external ones stay where they are.
    """

    def __init__(self, sheet: Sheet, source: LoadedModel, metadata: Mapping[str, str], data: DataFile | None) -> None:
        self.sheet, self.source, self.metadata, self.data = sheet, source, metadata, data
        self.buffer, self.path = _bytes_of(source)
        self._changed: dict[str, bool] = {}

    def model(self) -> Pieces:
        """The whole model."""
        out, functions = Pieces(), 0
        entries = iter(self.sheet.model.metadata_props)
        for f in fields(self.buffer, 0, len(self.buffer)):
            if f.number == _GRAPH:
                self._area(out, f, self.sheet.areas[""])
            elif f.number == _FUNCTION:
                self._area(out, f, self.sheet.areas[f"functions/{functions}"])
                functions += 1
            elif f.number != _METADATA or next(entries).key not in self.metadata:
                out.add(self._copy(f))
        for key, value in self.metadata.items():
            out.message(_METADATA, _whole(StringStringEntryProto(key=key, value=value).SerializeToString()))
        return out

    def _copy(self, f: Field) -> Span:
        return span_of(self.buffer, self.path, f.start, f.end)

    def _area(self, out: Pieces, f: Field, area: Area) -> None:
        if not self._is_changed(area):
            out.add(self._copy(f))
            return
        write = self._function if area.is_function else self._graph
        out.message(f.number, write(area, f))

    def _is_changed(self, area: Area) -> bool:
        if area.path not in self._changed:
            held = area.proto.initializer if isinstance(area.proto, GraphProto) else []
            moved = self.data is not None and any(map(is_external, held))
            edited = bool(area.added or area.frozen or area.first - area.names.keys() or moved)
            self._changed[area.path] = edited or any(map(self._is_new, area.items))
        return self._changed[area.path]

    def _is_new(self, item: Item) -> bool:
        if not item.alive or any(map(self._is_changed, item.bodies)):
            return True
        if self.data is not None and any(is_external(a.t) for a in item.proto.attribute):
            return True
        edges = [w.name for w in item.inputs], [w.name for w in item.outputs]
        same = item.op == item.proto.op_type and edges == (list(item.proto.input), list(item.proto.output))
        return not same or [*item.attributes.values()] != [*item.proto.attribute]

    # -- graphs and functions --------------------------------------------------------------------

    def _graph(self, area: Area, place: Field) -> Pieces:
        proto = area.proto
        assert isinstance(proto, GraphProto)
        gone = area.first - area.names.keys()
        hidden = {_INPUT: gone | area.frozen, _VALUE_INFO: gone, _ANNOTATION: gone, _INITIALIZER: gone}
        names = {
            _INPUT: iter([v.name for v in proto.input]),
            _VALUE_INFO: iter([v.name for v in proto.value_info]),
            _ANNOTATION: iter([q.tensor_name for q in proto.quantization_annotation]),
        }
        items, held = iter(area.items), iter(proto.initializer)
        as_nodes = area.parent is not None and self.sheet.ir_version < 4  # initializers would have to be inputs
        out = Pieces()
        self._constant_nodes(out, area.added if as_nodes else [], _NODE)
        for f in fields(self.buffer, place.payload, place.end):
            if f.number == _NODE:
                self._item(out, f, next(items))
            elif f.number == _INITIALIZER:
                tensor = next(held)
                if tensor.name not in gone:
                    self._held(out, f, tensor)
            elif f.number not in names or next(names[f.number]) not in hidden[f.number]:
                out.add(self._copy(f))
        for wire in area.added if not as_nodes else ():
            self._initializer(out, wire)
        return out

    def _initializer(self, out: Pieces, wire: Wire) -> None:
        out.message(_INITIALIZER, self._made(wire))
        if self.sheet.ir_version < 4 and wire.constant is not None:
            kind = helper.np_dtype_to_tensor_dtype(wire.constant.dtype)
            info = helper.make_tensor_value_info(wire.name, kind, wire.constant.shape)
            out.message(_INPUT, _whole(info.SerializeToString()))

    def _function(self, area: Area, place: Field) -> Pieces:
        assert isinstance(area.proto, FunctionProto)
        gone = area.first - area.names.keys()
        out, items, infos = Pieces(), iter(area.items), iter(area.proto.value_info)
        self._constant_nodes(out, area.added, _FUNCTION_NODE)
        for f in fields(self.buffer, place.payload, place.end):
            if f.number == _FUNCTION_NODE:
                self._item(out, f, next(items))
            elif f.number != _FUNCTION_VALUE_INFO or next(infos).name not in gone:
                out.add(self._copy(f))
        return out

    def _constant_nodes(self, out: Pieces, wires: list[Wire], number: int) -> None:
        for wire in wires:
            body = _whole(helper.make_node("Constant", [], [wire.name], name=wire.name).SerializeToString())
            attribute = _whole(AttributeProto(name="value", type=AttributeProto.TENSOR).SerializeToString())
            attribute.message(_TENSOR, self._made(wire))
            body.message(_ATTRIBUTE, attribute)
            out.message(number, body)

    # -- nodes -------------------------------------------------------------------------------------

    def _item(self, out: Pieces, f: Field, item: Item) -> None:
        if not item.alive:
            return
        if self._is_new(item):
            out.message(f.number, self._node(item, f))
        else:
            out.add(self._copy(f))

    def _node(self, item: Item, place: Field) -> Pieces:
        node = NodeProto()
        node.CopyFrom(item.proto)
        del node.attribute[:], node.input[:], node.output[:]
        node.op_type = item.op
        node.input.extend(w.name for w in item.inputs)
        node.output.extend(w.name for w in item.outputs)
        out, bodies = _whole(node.SerializeToString()), iter(item.bodies)
        places = (f for f in fields(self.buffer, place.payload, place.end) if f.number == _ATTRIBUTE)
        protos: list[AttributeProto] = list(item.proto.attribute)
        for f, proto in zip(places, protos, strict=True):
            n_graphs = (proto.type == AttributeProto.GRAPH) + len(proto.graphs)
            inside = [next(bodies) for _ in range(n_graphs)]
            if item.attributes.get(proto.name) != proto:
                continue
            if any(map(self._is_changed, inside)) or (self.data is not None and is_external(proto.t)):
                out.message(_ATTRIBUTE, self._attribute(f, proto, inside))
            else:
                out.add(self._copy(f))
        kept = {id(a) for a in item.proto.attribute}
        for attribute in item.attributes.values():
            if id(attribute) not in kept:
                out.message(_ATTRIBUTE, _whole(attribute.SerializeToString()))
        return out

    def _attribute(self, place: Field, proto: AttributeProto, inside: list[Area]) -> Pieces:
        out, areas = Pieces(), iter(inside)
        for f in fields(self.buffer, place.payload, place.end):
            if f.number in (_SUBGRAPH, _SUBGRAPHS):
                self._area(out, f, next(areas))
            elif f.number == _TENSOR and self.data is not None and is_external(proto.t):
                self._held(out, f, proto.t)
            else:
                out.add(self._copy(f))
        return out

    # -- tensors -------------------------------------------------------------------------------------

    def _held(self, out: Pieces, f: Field, tensor: TensorProto) -> None:
        """A tensor of the original, its data moved along with the model."""
        if self.data is None or not is_external(tensor):
            out.add(self._copy(f))
            return
        path, offset, length = locate_external(tensor, self.source.folder)
        n_bytes = path.stat().st_size - offset if length is None else length
        header = TensorProto()
        header.CopyFrom(tensor)
        out.message(f.number, self._outside(header, Span(path, offset, n_bytes)))

    def _made(self, wire: Wire) -> Pieces:
        constant = wire.constant
        assert constant is not None
        kind = helper.np_dtype_to_tensor_dtype(constant.dtype)
        header = TensorProto(name=wire.name, dims=constant.shape, data_type=kind)
        value = Computed(constant.n_bytes, constant.load)
        if self.data is not None and constant.n_bytes >= _EXTERNAL_FROM:
            return self._outside(header, value)
        out, raw = _whole(header.SerializeToString()), Pieces()
        raw.add(value)
        out.message(_RAW_DATA, raw)
        return out

    def _outside(self, header: TensorProto, piece: Span | Computed) -> Pieces:
        assert self.data is not None
        place = self.data.place(piece)
        header.ClearField("raw_data")
        del header.external_data[:]
        header.data_location = TensorProto.EXTERNAL
        entries: list[tuple[str, Any]] = [("location", self.data.name), ("offset", place), ("length", piece.n_bytes)]
        for key, value in entries:
            header.external_data.add(key=key, value=str(value))
        return _whole(header.SerializeToString())


def _whole(data: bytes) -> Pieces:
    out = Pieces()
    out.add(data)
    return out


def _bytes_of(source: LoadedModel) -> tuple[Buffer, Path | None]:
    if source.path is None:
        return serialize(source.proto), None
    with source.path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), source.path


_PROTO_LIMIT = (1 << 31) - 1  # bytes that protobuf takes in one message


def built(sheet: Sheet, source: LoadedModel, metadata: Mapping[str, str]) -> ModelProto:
    """The model as the edits left it; external tensors stay where they lie."""
    model: ModelProto = ModelProto.FromString(Layout(sheet, source, metadata, None).model().to_bytes())
    return model


def write(sheet: Sheet, source: LoadedModel, metadata: Mapping[str, str], target: Path) -> None:
    """Write the model, whole or not at all; what lay in data files goes into one beside it.

    Raises
    ------
    ModelError
        It cannot be written.
    """
    tensors = [*_tensors(sheet)]
    outside = DataFile(data_name(target, b"replay"))
    data = outside if any(map(is_external, tensors)) else None
    pieces = Layout(sheet, source, metadata, data).model()
    if data is None and pieces.n_bytes > _PROTO_LIMIT:
        data = outside
        pieces = Layout(sheet, source, metadata, data).model()
    try:
        stage(target, pieces, data).commit()
    except ValueError as exc:
        raise ModelError(f"{target}: cannot be written ({exc})") from exc


def _tensors(sheet: Sheet) -> list[TensorProto]:
    graphs = [a.proto for a in sheet.areas.values() if isinstance(a.proto, GraphProto)]
    return [t for g in graphs for t in g.initializer] + [
        a.t for i in sheet.items.values() for a in i.proto.attribute if a.HasField("t")
    ]
