"""A model in which inputs and outputs have the names that another model gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnx import GraphProto, ModelProto, NodeProto

from converter.errors import DataError
from converter.protos.source import Source, body_graphs


def renamed(source: Source, names: Mapping[str, str]) -> Source:
    """A throw-away copy in which the input or output ``names[k]`` is called ``k``.

    Raises
    ------
    DataError
        There is no such input or output.
    """
    ends = {v.name for v in (*source.proto.graph.input, *source.proto.graph.output)}
    for old, new in names.items():
        if new not in ends:
            raise DataError(f"{source.label}: has no input or output {new!r} to be taken for {old!r}")
    copy = ModelProto()
    copy.CopyFrom(source.proto)
    # Another tensor that has the wanted name already makes way.
    mapping = {old: f"{old}/biasopt/taken" for old in names if old not in names.values()}
    mapping |= {new: old for old, new in names.items()}
    _rename(copy.graph, mapping)
    return replace(source, proto=copy, path=None)


def _rename(graph: GraphProto, mapping: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = mapping.get(value.name, value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = mapping.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        _rename_node(node, mapping)


def _rename_node(node: NodeProto, mapping: Mapping[str, str]) -> None:
    for field in (node.input, node.output):
        for k, name in enumerate(field):
            if name in mapping:
                field[k] = mapping[name]
    for _, body in body_graphs(node):
        _rename(body, mapping)
