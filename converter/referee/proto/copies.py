"""Copies of a model that hand out inner tensors, and take inner constants as inputs.

The copy shares nothing with its original. What none of the wanted tensors needs is left out of it, so that looking
at an early layer does not run the late ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from converter.dataclass import dataclass
from converter.errors import DataError
from converter.model.file.disk import read_whole
from converter.model.file.dtypes import encode, get_element_type
from converter.model.file.preparation import write_out
from converter.referee.proto.source import LARGEST, LoadedModel, list_bodies, serialize, walk_nodes
from converter.referee.proto.tensors import UNIT_ROUNDOFF, Weights, read_tensor
from converter.referee.reference.evaluator import NOT_WEIGHTS
from converter.referee.reference.kernels import list_captures


def make_loadable(source: LoadedModel) -> LoadedModel:
    """The source itself, or a throw-away copy without the outputs named "" that onnxruntime dies of."""
    if not any(map(_crashes, walk_nodes(source.proto))):
        return source
    copy = ModelProto()
    copy.CopyFrom(source.proto)
    for k, node in enumerate(walk_nodes(copy)):
        if _crashes(node):
            _rewrite(node, f"/biasopt/unused/{k}")
    return replace(source, proto=copy, path=None)


def write_out_functions(a: LoadedModel, b: LoadedModel) -> tuple[LoadedModel, LoadedModel]:
    """Both without functions of their own where one has functions that the other lacks, so that they can be cut.

    Who wrote them out of one model may have done it wrongly, and who does it here as well: both are to be run as they
    are, too.
    """
    if _list_functions(a) == _list_functions(b):
        return a, b
    return _write_out(a), _write_out(b)


def _list_functions(source: LoadedModel) -> set[tuple[str, str, str]]:
    return {(f.domain, f.name, getattr(f, "overload", "")) for f in source.proto.functions}


def _write_out(source: LoadedModel) -> LoadedModel:
    found = write_out(source.proto)
    return source if found is None else replace(source, proto=found, path=None, digest=source.compute_digest())


def _crashes(node: NodeProto) -> bool:
    if node.domain not in ("", "ai.onnx") or not node.output:
        return False
    return (node.op_type == "BatchNormalization" and not node.output[-1]) or (
        node.op_type == "Split" and "" in node.output
    )


def _rewrite(node: NodeProto, prefix: str) -> None:
    if node.op_type == "BatchNormalization":
        while len(node.output) > 1 and not node.output[-1]:
            del node.output[-1]
        return
    for k, name in enumerate(node.output):  # how many there are decides how a Split splits: none may go
        node.output[k] = name or f"{prefix}/{k}"


def perturb_weights(model: ModelProto, seed: int, folder: Path | None = None, times: float = 1.0) -> ModelProto:
    """``model`` with its float weights times ``1 + times * u * xi``, rounded back to their type."""
    copy = ModelProto()
    copy.CopyFrom(model)
    weights = Weights(folder, seed, times)
    # The same exemptions as in the float64 reference: what is read as sizes or exponents stays.
    fixed = {n.input[i] for n in walk_nodes(copy) for i in NOT_WEIGHTS.get(n.op_type, ()) if i < len(n.input)}
    for tensor in copy.graph.initializer:
        if tensor.name not in fixed:
            _replace(tensor, weights, tensor.name, folder)
    for node in walk_nodes(copy):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t") and node.output[0] not in fixed:
                _replace(attribute.t, weights, node.output[0], folder)
    return copy


def _replace(tensor: TensorProto, weights: Weights, name: str, folder: Path | None) -> None:
    if tensor.data_type not in UNIT_ROUNDOFF:
        return
    dtype = read_tensor(tensor, folder).dtype
    moved = encode(weights.tensor(tensor, name).astype(dtype), tensor.name)
    tensor.CopyFrom(moved)


def rename_ports(source: LoadedModel, names: Mapping[str, str]) -> LoadedModel:
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
    # Another tensor that has the wanted name already makes way.
    mapping = {old: f"{old}/biasopt/taken" for old in names if old not in names.values()}
    mapping |= {new: old for old, new in names.items()}
    return replace(source, proto=rename_tensors(source.proto, mapping), path=None)


def rename_tensors(model: ModelProto, names: Mapping[str, str]) -> ModelProto:
    """A copy in which each tensor ``k`` of the main graph is called ``names[k]``, also where subgraphs read it."""
    copy = ModelProto()
    copy.CopyFrom(model)
    _rename(copy.graph, names)
    return copy


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
    for _, body in list_bodies(node):
        _rename(body, mapping)


@dataclass(frozen=True, slots=True)
class InputSlot:
    """An input slot of a node of the main graph that becomes an input of the model.

    ``node`` is the name of the node's first output; ``elem`` is ONNX's number of the element type.
    """

    node: str
    slot: int
    name: str
    elem: int
    shape: tuple[int, ...]


def extract_outputs(
    source: LoadedModel, wanted: Iterable[str], openings: Iterable[InputSlot] = ()
) -> tuple[bytes, frozenset[str]]:
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
    by_node: dict[str, list[InputSlot]] = {}
    for opening in openings:
        by_node.setdefault(opening.node, []).append(opening)
    names = list(dict.fromkeys(wanted))
    needed, nodes = _find_needed(whole.graph, names, by_node)
    copy = ModelProto(ir_version=max(whole.ir_version, 4), opset_import=whole.opset_import)
    graph = copy.graph  # filled where it is: to hand it over would copy its weights again
    graph.name = whole.graph.name or "tapped"
    for node in nodes:
        graph.node.append(_open_slots(node, by_node))
    graph.initializer.extend(t for t in whole.graph.initializer if t.name in needed)
    graph.sparse_initializer.extend(t for t in whole.graph.sparse_initializer if t.values.name in needed)
    graph.input.extend(i for i in whole.graph.input if i.name in needed)
    made = {node.output[0] for node in nodes}
    for opening in (o for held in by_node.values() for o in held if o.node in made):
        graph.input.append(helper.make_tensor_value_info(opening.name, opening.elem, opening.shape))
    graph.output.extend(_list_outputs(whole.graph, names))
    copy.functions.extend(whole.functions)
    return serialize(copy, source.label), frozenset(i.name for i in graph.input)


def expose_outputs(source: LoadedModel, names: Iterable[str]) -> bytes:
    """The whole model, serialised, that hands out these tensors of the main graph as well.

    Protobuf merges what stands behind a message into it: the weights are neither parsed nor copied for it.
    """
    source = make_loadable(source)
    content = serialize(source.proto, source.label) if source.path is None else read_whole(source.path, LARGEST)
    known = {output.name for output in source.proto.graph.output}
    more = ModelProto()
    more.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in known)
    return content + serialize(more, source.label)


def _list_outputs(graph: GraphProto, names: Iterable[str]) -> list[ValueInfoProto]:
    known = {o.name: o for o in graph.output}
    return [known.get(name) or ValueInfoProto(name=name) for name in names]  # onnxruntime infers the type


def _open_slots(node: NodeProto, by_node: dict[str, list[InputSlot]]) -> NodeProto:
    held = by_node.get(node.output[0], ()) if node.output else ()
    if not held:
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    for opening in held:
        copy.input[opening.slot] = opening.name
    return copy


def _find_needed(
    graph: GraphProto, wanted: Collection[str], by_node: dict[str, list[InputSlot]]
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
        pending.extend(list_captures(node))
    return needed, [node for node in graph.node if id(node) in kept]


def get_elem_type(dtype: np.dtype[Any]) -> int:
    """ONNX's number of an element type."""
    return get_element_type(dtype)
