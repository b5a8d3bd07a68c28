"""Copies of a model that hand out inner tensors, and take inner constants as inputs.

The copy shares nothing with its original. What none of the wanted tensors needs is left out of it, so that looking
at an early layer does not run the late ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from converter.protos.reference_nodes import captures
from converter.protos.source import Source, serialized


@dataclass(frozen=True, slots=True)
class Opening:
    """An input slot of a node of the main graph that becomes an input of the model.

    ``node`` is the name of the node's first output; ``elem`` is ONNX's number of the element type.
    """

    node: str
    slot: int
    name: str
    elem: int
    shape: tuple[int, ...]


def tapped(source: Source, wanted: Iterable[str], openings: Iterable[Opening] = ()) -> tuple[bytes, frozenset[str]]:
    """The model that computes ``wanted``, serialised, and which inputs it still has.

    Parameters
    ----------
    wanted : tensors of the main graph that nodes make
    openings : slots that are fed from now on

    Raises
    ------
    ModelError
        The copy is over the 2 GB that protobuf takes in one message.
    """
    whole = source.proto
    by_node: dict[str, list[Opening]] = {}
    for opening in openings:
        by_node.setdefault(opening.node, []).append(opening)
    names = list(dict.fromkeys(wanted))
    needed, nodes = _needed(whole.graph, names, by_node)
    graph = GraphProto(name=whole.graph.name or "tapped")
    for node in nodes:
        graph.node.append(_opened(node, by_node))
    graph.initializer.extend(t for t in whole.graph.initializer if t.name in needed)
    graph.sparse_initializer.extend(t for t in whole.graph.sparse_initializer if t.values.name in needed)
    graph.input.extend(i for i in whole.graph.input if i.name in needed)
    made = {node.output[0] for node in nodes}
    for opening in (o for held in by_node.values() for o in held if o.node in made):
        graph.input.append(helper.make_tensor_value_info(opening.name, opening.elem, opening.shape))
    graph.output.extend(_outputs(whole.graph, names))
    copy = ModelProto(ir_version=max(whole.ir_version, 4), opset_import=whole.opset_import, graph=graph)
    copy.functions.extend(whole.functions)
    return serialized(copy, source.label), frozenset(i.name for i in graph.input)


def _outputs(graph: GraphProto, names: Iterable[str]) -> list[ValueInfoProto]:
    known = {o.name: o for o in graph.output}
    return [known.get(name) or ValueInfoProto(name=name) for name in names]  # onnxruntime infers the type


def _opened(node: NodeProto, by_node: dict[str, list[Opening]]) -> NodeProto:
    held = by_node.get(node.output[0], ()) if node.output else ()
    if not held:
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    for opening in held:
        copy.input[opening.slot] = opening.name
    return copy


def _needed(
    graph: GraphProto, wanted: Collection[str], by_node: dict[str, list[Opening]]
) -> tuple[set[str], list[NodeProto]]:
    """Tensors and nodes behind ``wanted``, the nodes in the model's order."""
    maker = {name: node for node in graph.node for name in node.output if name}
    needed: set[str] = set()
    kept: dict[int, NodeProto] = {}
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name in needed:
            continue
        needed.add(name)
        node = maker.get(name)
        if node is None or id(node) in kept:
            continue
        kept[id(node)] = node
        open_slots = {o.slot for o in by_node.get(node.output[0], ())}
        pending.extend(n for slot, n in enumerate(node.input) if n and slot not in open_slots)
        pending.extend(captures(node))
    return needed, [node for node in graph.node if id(node) in kept]


def elem_of(dtype: np.dtype[Any]) -> int:
    """ONNX's number of an element type."""
    return int(helper.np_dtype_to_tensor_dtype(dtype))
