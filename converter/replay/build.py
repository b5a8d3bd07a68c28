"""From an edited sheet back to a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from converter.errors import ModelError
from converter.protos import Computed, DataFile, Pieces, Span, data_name, stage
from converter.protos.reference_weights import external_location, is_external
from converter.replay.sheet import Area, Item, Sheet, Wire

_PROTO_LIMIT = (1 << 31) - 1  # bytes that protobuf takes in one message
_EXTERNAL_FROM = 1024  # bytes; smaller tensors stay in the model


def built(sheet: Sheet, metadata: Mapping[str, str]) -> ModelProto:
    """The model as the edits left it."""
    old = sheet.model
    model = ModelProto()
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if old.HasField(name):
            setattr(model, name, getattr(old, name))
    model.opset_import.extend(old.opset_import)
    _graph(sheet.areas[""], model.graph)
    for k, function in enumerate(old.functions):
        model.functions.append(_function(sheet.areas[f"functions/{k}"], function))
    model.training_info.extend(old.training_info)
    model.metadata_props.extend(p for p in old.metadata_props if p.key not in metadata)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model


def _graph(area: Area, new: GraphProto) -> None:
    old = area.proto
    assert isinstance(old, GraphProto)
    as_nodes = area.parent is not None and area.sheet.ir_version < 4  # there, initializers would have to be inputs
    if as_nodes:
        new.node.extend(_constant_node(w) for w in area.added)
    new.node.extend(_node(item) for item in area.items if item.alive)
    new.name, new.doc_string = old.name, old.doc_string
    gone = area.first - area.names.keys()
    new.initializer.extend(t for t in old.initializer if t.name not in gone)
    new.sparse_initializer.extend(old.sparse_initializer)
    new.input.extend(v for v in old.input if v.name not in gone | area.frozen)
    new.output.extend(old.output)
    new.value_info.extend(v for v in old.value_info if v.name not in gone)
    new.quantization_annotation.extend(q for q in old.quantization_annotation if q.tensor_name not in gone)
    new.metadata_props.extend(old.metadata_props)
    for wire in area.added if not as_nodes else ():
        new.initializer.append(_tensor(wire))
        if area.sheet.ir_version < 4:
            tensor = new.initializer[-1]
            new.input.append(helper.make_tensor_value_info(wire.name, tensor.data_type, list(tensor.dims)))


def _function(area: Area, old: FunctionProto) -> FunctionProto:
    new = FunctionProto()
    new.CopyFrom(old)
    del new.node[:], new.value_info[:]
    gone = area.first - area.names.keys()
    new.value_info.extend(v for v in old.value_info if v.name not in gone)
    new.node.extend(_constant_node(w) for w in area.added)
    new.node.extend(_node(item) for item in area.items if item.alive)
    return new


def _node(item: Item) -> NodeProto:
    inner = [i for body in item.bodies for i in body.items]
    if not item.touched and not any(i.touched or i.bodies for i in inner) and not any(b.added for b in item.bodies):
        return item.proto
    node = item.as_node()
    bodies = iter(item.bodies)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            attribute.g.Clear()
            _graph(next(bodies), attribute.g)
        for graph in attribute.graphs:
            graph.Clear()
            _graph(next(bodies), graph)
    return node


def _tensor(wire: Wire) -> TensorProto:
    constant = wire.constant
    assert constant is not None
    array = np.ascontiguousarray(constant.load())
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return TensorProto(name=wire.name, dims=constant.shape, data_type=kind, raw_data=array.tobytes())


def _constant_node(wire: Wire) -> NodeProto:
    node: NodeProto = helper.make_node("Constant", [], [wire.name], name=wire.name)
    node.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=_tensor(wire)))
    return node


# -- writing -----------------------------------------------------------------------------------


def write(model: ModelProto, folder: Path | None, target: Path) -> None:
    """Write the model, whole or not at all; what lay in data files goes into one beside it.

    Raises
    ------
    ModelError
        It cannot be written.
    """
    tensors = list(_tensors(model))
    outside = [t for t in tensors if is_external(t)]
    data: DataFile | None = None
    if outside or sum(len(t.raw_data) for t in tensors) > _PROTO_LIMIT:
        data = DataFile(data_name(target, b"replay"))
        for tensor in tensors:
            _move(tensor, folder, data)
    pieces = Pieces()
    try:
        pieces.add(model.SerializeToString())
    except ValueError as exc:
        raise ModelError(f"{target}: cannot be written ({exc})") from exc
    stage(target, pieces, data).commit()


def _move(tensor: TensorProto, folder: Path | None, data: DataFile) -> None:
    if is_external(tensor):
        path, offset, length = external_location(tensor, folder)
        n_bytes = path.stat().st_size - offset if length is None else length
        piece: Span | Computed = Span(path, offset, n_bytes)
    elif len(tensor.raw_data) >= _EXTERNAL_FROM:
        raw = tensor.raw_data
        piece = Computed(len(raw), lambda: np.frombuffer(raw, np.uint8))
    else:
        return
    place = data.place(piece)
    del tensor.external_data[:]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries: list[tuple[str, Any]] = [("location", data.name), ("offset", place), ("length", piece.n_bytes)]
    for key, value in entries:
        tensor.external_data.add(key=key, value=str(value))


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    pending: list[Any] = [model.graph]
    for function in model.functions:
        yield from _of_nodes(function.node, pending)
    while pending:
        graph = pending.pop()
        yield from graph.initializer
        yield from _of_nodes(graph.node, pending)


def _of_nodes(nodes: Any, pending: list[Any]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            pending.extend([attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs)
