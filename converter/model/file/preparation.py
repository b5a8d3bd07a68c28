"""A model put in order as it is opened: functions written out at their calls, nodes behind what they read."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import GraphProto, ModelProto, NodeProto


def are_sorted(model: ModelProto) -> bool:
    """Whether every node of every graph and function comes after the nodes that make its inputs."""
    return all(_is_sorted(nodes) for nodes in _node_lists(model))


def sort_nodes(model: ModelProto) -> bool:
    """Put the nodes of each graph and function behind what they read, otherwise as they stood; in place.

    Nodes that read each other in a circle, with all that hangs on them, stay where they are: whoever reads the model
    says so.

    Returns
    -------
    bool
        Whether any node moved.
    """
    moved = False
    for nodes in _node_lists(model):
        if not _is_sorted(nodes):
            order = _sort(nodes)
            copies = [NodeProto.FromString(nodes[i].SerializeToString()) for i in order]
            del nodes[:]
            nodes.extend(copies)
            moved = moved or order != list(range(len(order)))
    return moved


def _node_lists(model: ModelProto) -> Iterator[Any]:
    """The nodes of each graph and function, inner ones first: sorting an outer list makes new nodes."""
    for function in model.functions:
        yield from _lists_in(function.node)
    yield from _lists_in(model.graph.node)


def _lists_in(nodes: Any) -> Iterator[Any]:
    for graph in (g for node in nodes for g in _bodies(node)):
        yield from _lists_in(graph.node)
    yield nodes


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _is_sorted(nodes: Iterable[NodeProto]) -> bool:
    made, awaited = {""}, set[str]()
    for node in nodes:
        awaited.update(name for name in _reads(node) if name not in made)
        if not awaited.isdisjoint(node.output):
            return False
        made.update(node.output)
    return True


def _reads(node: NodeProto) -> Iterator[str]:
    """What the node reads, and what the graphs inside it take from around them."""
    yield from node.input
    for graph in _bodies(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own.update(t.values.name for t in graph.sparse_initializer)
        own.update(name for inner in graph.node for name in inner.output)
        yield from (name for inner in graph.node for name in _reads(inner) if name not in own)
        yield from (v.name for v in graph.output if v.name not in own)


def _sort(nodes: Sequence[NodeProto]) -> list[int]:
    """Kahn's algorithm, the earliest node that may come next first."""
    maker: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.output:
            maker.setdefault(name, i)
    maker.pop("", None)
    needs = [{maker[name] for name in _reads(node) if name in maker} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for i, sources in enumerate(needs):
        for source in sources:
            readers[source].append(i)
    ready = [i for i, sources in enumerate(needs) if not sources]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for reader in readers[i]:
            needs[reader].discard(i)
            if not needs[reader]:
                heapq.heappush(ready, reader)
    left = set(range(len(nodes))) - set(order)
    return order + sorted(left)


_MOST_BYTES = 1 << 30  # of a model that is copied as a message, three times over


def has_calls(model: onnx.ModelProto) -> bool:
    """Whether the model has functions of its own that may be written out."""
    return bool(model.functions) and not model.training_info


def write_out(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy without functions of its own; None where some stay, or it cannot be made.

    Calls' results keep their names, and so does what the main graph had; what lay in a function gets a number after
    its name. A function of another operator set than the model's is left as it is, and so is the model.

    Parameters
    ----------
    model : ModelProto
        With its weights, or with the places of external ones.
    """
    if not has_calls(model) or model.ByteSize() > _MOST_BYTES:
        return None
    from onnx.inliner import inline_local_functions

    try:
        found: onnx.ModelProto = inline_local_functions(model)
    except (ValueError, RuntimeError, DecodeError, EncodeError):
        return None  # functions that call themselves, or a call that does not fit its function
    return None if found.functions else found
