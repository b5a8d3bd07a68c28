"""Tiny models: ONNX text for the topology, seeded arrays for the constants.

Every axis has its own prime (N=2, I=3, O=5, H=11, W=13) unless a row is *about* sizes that
coincide, so that a transposed axis cannot hide. ``gamma`` and ``var`` lie in [0.5, 2] unless a
row is about their value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from tests import onnx_text

Array = np.ndarray[Any, np.dtype[Any]]
Consts = Mapping[str, Array]

X = "(float[2,3,11,13] x)"
Y = "(float[2,5,9,12] y)"


class Draw:
    """Seeded arrays of one stored type."""

    def __init__(self, dtype: Any = np.float32, seed: int = 20240229) -> None:
        self.dtype = np.dtype(dtype)
        self._rng = np.random.default_rng(seed)

    def normal(self, *shape: int) -> Array:
        """Standard normal values."""
        return np.asarray(self._rng.standard_normal(shape)).astype(self.dtype)

    def positive(self, *shape: int) -> Array:
        """Values in [0.5, 2]."""
        return np.asarray(self._rng.uniform(0.5, 2.0, shape)).astype(self.dtype)

    def bn(self, channels: int, tag: str = "") -> dict[str, Array]:
        """Return ``g``, ``be``, ``m``, ``v`` of a BatchNormalization, the names ending in ``tag``."""
        c = channels
        values = (self.positive(c), self.normal(c), self.normal(c), self.positive(c))
        return {k + tag: v for k, v in zip(("g", "be", "m", "v"), values, strict=True)}

    def conv(self, *shape: int, bias: int = 0, tag: str = "") -> dict[str, Array]:
        """Return weight ``w`` of ``shape`` and, with ``bias`` > 0, a bias ``b`` of that length."""
        found = {"w" + tag: self.normal(*shape)}
        if bias:
            found["b" + tag] = self.normal(bias)
        return found


def model(graph: str, consts: Consts | None = None, *, opset: int = 17, ir: int = 8, rest: str = "") -> onnx.ModelProto:
    """Parse ``(inputs) => (outputs) { nodes }``; ``consts`` become initializers, ``rest`` holds functions.

    Every operator without a label in the text is named after its first output.
    """
    opsets = f'["" : {opset}' + (', "loc" : 1]' if rest else "]")
    proto = onnx.parser.parse_model(f"<ir_version: {ir}, opset_import: {opsets}>\ntiny {graph}\n{rest}")
    for owner in (*graphs(proto.graph), *proto.functions):
        for node in owner.node:
            node.name = node.name or f"{node.op_type.lower()}_{node.output[0]}"
    proto.graph.initializer.extend(tensors(consts or {}))
    return proto


def tensors(consts: Consts) -> list[onnx.TensorProto]:
    """Turn named arrays into named TensorProtos."""
    return [onnx_text.encode(np.ascontiguousarray(v).reshape(v.shape), k) for k, v in consts.items()]


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield ``graph`` and, depth first, every graph in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    yield from graphs(inner)


def all_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes of the main graph, of every subgraph and of every function."""
    found = [n for g in graphs(proto.graph) for n in g.node]
    for function in proto.functions:
        for node in function.node:
            found.append(node)
            found += [n for a in node.attribute if a.HasField("g") for g in graphs(a.g) for n in g.node]
    return found


def node_named(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """Return the one node called ``name``."""
    (found,) = [n for n in all_nodes(proto) if n.name == name]
    return found


def only_op(proto: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    """Return the one node of type ``op_type``."""
    (found,) = [n for n in all_nodes(proto) if n.op_type == op_type]
    return found


def body(proto: onnx.ModelProto, node: str, attribute: str) -> onnx.GraphProto:
    """Return a graph attribute of the node called ``node``."""
    (found,) = [a.g for a in node_named(proto, node).attribute if a.name == attribute]
    return found


def as_inputs(proto: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """List initializers as graph inputs too (all of them where no name is given)."""
    for tensor in proto.graph.initializer:
        if not names or tensor.name in names:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            proto.graph.input.append(value)
    return proto


def as_constants(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Hold every initializer of the main graph in a Constant node instead."""
    nodes = [
        onnx.helper.make_node("Constant", [], [t.name], name=f"const_{t.name}", value=t)
        for t in proto.graph.initializer
    ]
    kept = list(proto.graph.node)
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(nodes + kept)
    return proto


def sub(proto: onnx.ModelProto, **changed: Array) -> onnx.ModelProto:
    """Replace initializers of the main graph by other arrays, the shapes free."""
    for tensor in proto.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    return proto


def conv_bn() -> onnx.ModelProto:
    """A convolution and its batch norm: what every fold can do."""
    draw = Draw()
    text = f"{X} => {Y} {{ c = Conv(x, w) y = BatchNormalization(c, g, be, m, v) }}"
    return model(text, draw.conv(5, 3, 3, 3) | draw.bn(5))


def drop_unread(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without the initializers that no node reads; in place."""
    read = {i for n in proto.graph.node for i in n.input}
    kept = [t for t in proto.graph.initializer if t.name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return proto
