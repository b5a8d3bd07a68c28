"""Shapes that a file states of its own tensors: claims, which may be left over from another model or another size.

Exporters write them, and editors that change a graph forget them. onnx's inference takes them as given and goes on
from there. Here inference starts from the graph's inputs and weights alone. What it leaves open is taken on the file's
word, where nothing that the file says is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnx import GraphProto, ModelProto

from converter.model.file.reader import graphs
from converter.model.file.validate import schema_of
from converter.model.shapes.inference import Dim, is_made_up, is_open
from converter.model.shapes.symbols import product, size

Dims = tuple[Dim, ...]


def without_claims(skeleton: ModelProto) -> ModelProto:
    """A copy in which a shape is stated only of what operators make that onnx has no rule for; element types stay."""
    bare = ModelProto()
    bare.CopyFrom(skeleton)
    unknown = _unknown_operators(skeleton)
    for graph in graphs(bare.graph):
        trusted = {name for node in graph.node if unknown(node) for name in node.output}
        for value in (*graph.value_info, *graph.output):
            if value.name not in trusted and value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
    return bare


def _unknown_operators(model: ModelProto) -> Any:
    imports = {"" if i.domain == "ai.onnx" else i.domain: i.version for i in model.opset_import}
    functions = {(f.domain, f.name) for f in model.functions}

    def unknown(node: Any) -> bool:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (node.domain, node.op_type) in functions:
            return False
        schema = schema_of(node.op_type, imports.get(domain, 0), domain)
        return schema is None or not schema.has_type_and_shape_inference_function

    return unknown


def list_stale(skeleton: ModelProto, found: Sequence[Mapping[str, Dims]]) -> tuple[str, ...]:
    """Tensors of which the file states another rank or size than follows from the inputs.

    Parameters
    ----------
    skeleton : ModelProto
        As it came.
    found : sequence of mapping
        Dims by tensor as they follow, a mapping a graph, outermost first.
    """
    stale = (name for claims, dims in _pair(skeleton, found) for name in _stale_in(claims, dims))
    return tuple(dict.fromkeys(stale))


def with_claims(skeleton: ModelProto, found: Sequence[Mapping[str, Dims]]) -> ModelProto | None:
    """As `without_claims`, with what the file states of tensors that inference left open; None if that is nothing.

    A Reshape gives as many elements as it takes: a claim by which it would not is left out.
    """
    told = without_claims(skeleton)
    n_told = 0
    for graph, old, dims in zip(graphs(told.graph), graphs(skeleton.graph), found, strict=True):
        shaped = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Reshape" and n.output}
        constants = {t.name: tuple(t.dims) for t in graph.initializer}
        claims = _claims_of(old)
        for value in (*graph.value_info, *graph.output):
            stated = claims.get(value.name)
            if stated is None or value.type.tensor_type.HasField("shape") or not is_open(dims.get(value.name)):
                continue
            source = shaped.get(value.name, "")
            if source and not _may_hold_as_many(constants.get(source) or dims.get(source), stated):
                continue
            value.type.tensor_type.shape.SetInParent()
            for size_ in stated:
                added = value.type.tensor_type.shape.dim.add()
                if isinstance(size_, int):
                    added.dim_value = size_
                elif size_:
                    added.dim_param = size_
            n_told += 1
    return told if n_told else None


def _pair(
    skeleton: ModelProto, found: Sequence[Mapping[str, Dims]]
) -> Iterator[tuple[dict[str, Dims], Mapping[str, Dims]]]:
    return ((_claims_of(g), dims) for g, dims in zip(graphs(skeleton.graph), found, strict=True))


def _claims_of(graph: GraphProto) -> dict[str, Dims]:
    held = (v for v in (*graph.value_info, *graph.output) if v.type.HasField("tensor_type"))
    shaped = (v for v in held if v.type.tensor_type.HasField("shape"))
    return {v.name: tuple(_dim(d) for d in v.type.tensor_type.shape.dim) for v in shaped}


def _dim(d: Any) -> Dim:
    return int(d.dim_value) if d.HasField("dim_value") else str(d.dim_param) or None


def _stale_in(claims: Mapping[str, Dims], found: Mapping[str, Dims]) -> Iterator[str]:
    return (name for name, stated in claims.items() if name in found and _contradict(stated, found[name]))


def _contradict(stated: Dims, found: Dims) -> bool:
    if len(stated) != len(found):
        return True
    pairs = zip(stated, found, strict=True)
    return any(isinstance(a, int) and not is_made_up(b) and a != b for a, b in pairs)  # one size of an open one, too


def _may_hold_as_many(before: Dims | None, after: Dims) -> bool:
    if before is None or is_open(before) or is_open(after):
        return True
    a, b = (product([size(d) for d in dims if d is not None]) for dims in (before, after))
    return a == b or not {d for d in after if isinstance(d, str)} <= {d for d in before if isinstance(d, str)}
