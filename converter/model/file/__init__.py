"""onnx alone: read, check, infer shapes, write, and evaluate in float64."""

from __future__ import annotations

from converter.model.file.checker import contradiction, infer_shapes, problems
from converter.model.file.disk import DiskBuffer
from converter.model.file.reader import NEWEST_OPSET, External, ModelFile, TensorRef, graphs
from converter.model.file.staging import Staged, claim, data_name, find_stale_data, stage
from converter.model.file.writer import Computed, DataFile, Pieces, Span

__all__ = [
    "NEWEST_OPSET",
    "Computed",
    "DataFile",
    "DiskBuffer",
    "External",
    "ModelFile",
    "Pieces",
    "Span",
    "Staged",
    "TensorRef",
    "claim",
    "contradiction",
    "data_name",
    "find_stale_data",
    "graphs",
    "infer_shapes",
    "problems",
    "stage",
]
