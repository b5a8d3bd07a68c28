"""onnx alone: read, check, infer shapes, write, and evaluate in float64."""

from __future__ import annotations

from converter.protos.check import contradiction, infer_shapes, problems
from converter.protos.emit import Computed, DataFile, Pieces, Span, Staged, data_name, span_of, stage
from converter.protos.modelfile import NEWEST_OPSET, External, ModelFile, TensorRef, graphs
from converter.protos.size_gate import computes_sizes
from converter.protos.size_terms import Size, product, quotient, size
from converter.protos.sizes import Sizes, follow_sizes

__all__ = [
    "NEWEST_OPSET",
    "Computed",
    "DataFile",
    "External",
    "ModelFile",
    "Pieces",
    "Size",
    "Sizes",
    "Span",
    "Staged",
    "TensorRef",
    "computes_sizes",
    "contradiction",
    "data_name",
    "follow_sizes",
    "graphs",
    "infer_shapes",
    "problems",
    "product",
    "quotient",
    "size",
    "span_of",
    "stage",
]
