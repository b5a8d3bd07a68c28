"""onnx alone: read, check, infer shapes, write, and evaluate in float64."""

from __future__ import annotations

from converter.protos.check import contradiction, infer_shapes, problems
from converter.protos.emit import Computed, DataFile, Pieces, Span, Staged, data_name, span_of, stage
from converter.protos.modelfile import NEWEST_OPSET, External, ModelFile, TensorRef, graphs

__all__ = [
    "NEWEST_OPSET",
    "Computed",
    "DataFile",
    "External",
    "ModelFile",
    "Pieces",
    "Span",
    "Staged",
    "TensorRef",
    "contradiction",
    "data_name",
    "graphs",
    "infer_shapes",
    "problems",
    "span_of",
    "stage",
]
