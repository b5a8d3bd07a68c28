"""The graph: read a model, ask it, change it by edits, write it."""

from __future__ import annotations

from converter.model.graph.graph import Dim, Graph, collecting_seldom, load
from converter.model.graph.nodes import (
    Bypass,
    Const,
    DropInput,
    Edit,
    Node,
    Rename,
    Scope,
    SetAttr,
    SetConst,
    SetInput,
    SetOp,
    StoredTensor,
    Tensor,
    Value,
    weight_bytes,
)
from converter.model.graph.writer import emit, has_external, stored_files

__all__ = [
    "Bypass",
    "Const",
    "Dim",
    "DropInput",
    "Edit",
    "Graph",
    "Node",
    "Rename",
    "Scope",
    "SetAttr",
    "SetConst",
    "SetInput",
    "SetOp",
    "StoredTensor",
    "Tensor",
    "Value",
    "collecting_seldom",
    "emit",
    "has_external",
    "load",
    "stored_files",
    "weight_bytes",
]
