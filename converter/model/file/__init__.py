"""onnx alone: read, check, infer shapes, write, and evaluate in float64."""

from __future__ import annotations

from converter.model.file.checker import contradiction, infer_shapes, problems
from converter.model.file.disk import DiskBuffer
from converter.model.file.reader import NEWEST_OPSET, External, ModelFile, TensorRef, graphs
from converter.model.file.staging import Staged, claim, data_name, name_replaced, stage
from converter.model.file.writer import Computed, DataFile, Pieces, Span
from converter.model.shapes.claims import list_stale, with_claims, without_claims
from converter.model.shapes.inference import Sizes, computes_sizes, follow_sizes
from converter.model.shapes.symbols import Size, product, quotient, size

__all__ = [
    "NEWEST_OPSET",
    "Computed",
    "DataFile",
    "DiskBuffer",
    "External",
    "ModelFile",
    "Pieces",
    "Size",
    "Sizes",
    "Span",
    "Staged",
    "TensorRef",
    "claim",
    "computes_sizes",
    "contradiction",
    "data_name",
    "follow_sizes",
    "graphs",
    "infer_shapes",
    "list_stale",
    "name_replaced",
    "problems",
    "product",
    "quotient",
    "size",
    "stage",
    "with_claims",
    "without_claims",
]
