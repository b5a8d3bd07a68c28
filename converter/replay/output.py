"""The model that a replay leads to: as a message, or written with its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnx import GraphProto, ModelProto, TensorProto

from converter.errors import ModelError
from converter.protos import DataFile, data_name, stage
from converter.protos.reference_weights import is_external
from converter.protos.source import Source
from converter.replay.layout import Layout
from converter.replay.sheet import Sheet

_PROTO_LIMIT = (1 << 31) - 1  # bytes that protobuf takes in one message


def built(sheet: Sheet, source: Source, metadata: Mapping[str, str]) -> ModelProto:
    """The model as the edits left it; external tensors stay where they lie."""
    model: ModelProto = ModelProto.FromString(Layout(sheet, source, metadata, None).model().to_bytes())
    return model


def write(sheet: Sheet, source: Source, metadata: Mapping[str, str], target: Path) -> None:
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
