"""A hypothesis strategy for random valid float ONNX models, with inputs to run them on.

``cases()`` draws chains and small DAGs of the layers in ``random_layers`` and ``random_views``,
at every opset and IR version that the installed onnxruntime runs. Models that fold must keep are
drawn as often as models that it may change: shared weights, inner tensors that are outputs,
constants held by nodes, constants that the caller may override, unused initializers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.outputs import session
from tests.rewrite.random_builder import Builder, Draw
from tests.rewrite.random_layers import Layer, activation, affine, batch_norm, conv, conv_transpose, gemm, matmul
from tests.rewrite.random_moves import MOVES, SUMS, left_product
from tests.rewrite.random_views import branch, join, pool, view

OLDEST_OPSET = 7  # onnxruntime has no BatchNormalization kernel below
LINEAR: tuple[Layer, ...] = (conv, conv_transpose, matmul, left_product)
LINEAR_FOR_VECTORS: tuple[Layer, ...] = (gemm, matmul)
SCALING: tuple[Layer, ...] = (batch_norm, affine)
BETWEEN: tuple[Layer, ...] = (view, activation, pool, join)
BETWEEN_VECTORS: tuple[Layer, ...] = (view, activation, join)


@dataclass(frozen=True, repr=False)
class Case:
    """A model and the inputs to run it on."""

    model: onnx.ModelProto
    feeds: tuple[dict[str, NDArray], ...]

    def __repr__(self) -> str:
        return f"Case:\n{onnx.printer.to_text(self.model)}\n"


def _runs(opset: int, ir_version: int) -> bool:
    """Whether onnxruntime has kernels for the ops of random graphs at this opset."""
    ones = numpy_helper.from_array(np.ones((1, 1, 1), np.float32), "W")
    one = numpy_helper.from_array(np.ones(1, np.float32), "v")
    dims = numpy_helper.from_array(np.asarray([1, -1], np.int64), "dims")
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["a"]),
        helper.make_node("BatchNormalization", ["a", "v", "v", "v", "v"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[1]),
        helper.make_node("Reshape", ["c", "dims"], ["d"]),
        helper.make_node("Identity", ["d"], ["e"]),
    ]
    x, e = (helper.make_tensor_value_info(name, 1, None) for name in ("x", "e"))
    graph = helper.make_graph(nodes, "probe", [x], [e], [ones, one, dims])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    try:
        session(model).run(None, {"x": np.ones((1, 1, 2), np.float32)})
    except Exception:
        return False
    return True


@cache
def newest_opset() -> int:
    """The newest opset that both onnx and onnxruntime support."""
    return max(op for op in range(OLDEST_OPSET, onnx.defs.onnx_opset_version() + 1) if _runs(op, 8))


@cache
def newest_ir_version() -> int:
    """The newest IR version that both onnx and onnxruntime support."""
    return max(version for version in range(3, int(onnx.IR_VERSION) + 1) if _runs(17, version))


@st.composite
def cases(draw: st.DrawFn, max_motifs: int = 4) -> Case:
    """Random models with one run-time batch each, plus a second one where the batch is symbolic."""
    opset = draw(st.sampled_from([17, *range(OLDEST_OPSET, newest_opset() + 1)]))
    ir_version = draw(st.sampled_from([8, *range(3, newest_ir_version() + 1)]))
    b = Builder(draw, opset, ir_version, np.random.default_rng(draw(st.integers(0, 9999))))
    rank = b.pick([4, 2, 3, 5])
    b.shapes["x"] = (b.number(1, 3), b.number(1, 4), *(b.number(3, 6 if rank < 5 else 4) for _ in range(rank - 2)))
    x = "x"
    for _ in range(b.number(1, max_motifs)):
        x = _motif(b, x)
        if b.pick([False, False, False, True]):
            x = b.pick(list(b.shapes))
    if b.flag():
        b.initializer(b.normal(2, 3), "unused")
    return _finish(draw, b)


def _motif(b: Builder, x: str) -> str:
    """A few layers in one of the orders that fold looks for, or one layer of any kind."""
    orders = [(LINEAR, SCALING), (SCALING, LINEAR), (LINEAR, BETWEEN, SCALING), (SCALING, BETWEEN, LINEAR)]
    orders += [(LINEAR, SCALING, SCALING), (BETWEEN,), (BETWEEN, BETWEEN), ((branch,),)]
    orders += [(LINEAR, MOVES, SCALING), (SCALING, MOVES, LINEAR), (LINEAR, MOVES, BETWEEN, SCALING), (MOVES,)]
    orders += [(SUMS, SCALING), (LINEAR, SUMS, SCALING)]
    vectors = {LINEAR: LINEAR_FOR_VECTORS, BETWEEN: BETWEEN_VECTORS}
    for layers in b.pick(orders):
        usable = vectors.get(layers, layers) if len(b.shapes[x]) == 2 else layers
        x = b.pick(usable)(b, x)
    return x


def _finish(draw: Draw, b: Builder) -> Case:
    overridable = [t.name for t in b.initializers if b.ir_version < 4]
    if b.ir_version >= 4 and b.pick([False, False, False, True]):
        floats = [t.name for t in b.initializers if t.data_type == TensorProto.FLOAT]
        overridable = [n for n in floats if not n.startswith("scales") and b.flag()]
    symbolic = not b.batch_is_fixed and b.flag()
    graph = helper.make_graph(
        _named(b), "random", _inputs(b, overridable, symbolic), _outputs(draw, b, symbolic), initializer=b.initializers
    )
    opsets = [helper.make_opsetid("", b.opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=b.ir_version, producer_name="random")
    if b.flag():
        model = onnx.shape_inference.infer_shapes(model)
    frozen = [] if b.ir_version < 4 else overridable
    return Case(model, tuple(_feeds(b, frozen, b.shapes["x"][0] + extra) for extra in range(1 + symbolic)))


def _named(b: Builder) -> list[onnx.NodeProto]:
    """Nodes with names of their own, or some without names."""
    some_unnamed = b.flag()
    for i, node in enumerate(b.nodes):
        node.name = "" if some_unnamed and i % 3 else f"node{i}"
    return b.nodes


def _inputs(b: Builder, overridable: list[str], symbolic: bool) -> list[onnx.ValueInfoProto]:
    shape = ["N", *b.shapes["x"][1:]] if symbolic else b.shapes["x"]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    if any(node.op_type == "If" for node in b.nodes):
        inputs.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
    listed = [t for t in b.initializers if t.name in overridable]
    return inputs + [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in listed]


def _outputs(draw: Draw, b: Builder, symbolic: bool) -> list[onnx.ValueInfoProto]:
    """Every activation that nothing reads, and some inner ones; their sizes stated or left open."""
    stated = not symbolic and b.flag()
    made = [node.output[0] for node in b.nodes if node.output[0] in b.shapes]
    read = {name for node in b.nodes for name in _reads(node)}
    inner = [name for name in made if name in read]
    extra = set(draw(st.lists(st.sampled_from(inner), max_size=2))) if inner and b.flag() else set()
    names = [name for name in made if name not in read or name in extra] or ["x"]
    shapes = [b.shapes[name] if stated else [None] * len(b.shapes[name]) for name in names]
    return [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip(names, shapes, strict=True)
    ]


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node or a body inside it reads."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return set(node.input) | {name for body in bodies for inner in body.node for name in _reads(inner)}


def _feeds(b: Builder, overridable: list[str], batch: int) -> dict[str, NDArray]:
    rng = np.random.default_rng(batch)
    feeds: dict[str, NDArray] = {"x": rng.standard_normal((batch, *b.shapes["x"][1:])).astype(np.float32)}
    feeds["condition"] = np.asarray(batch % 2 == 0)
    held = {t.name: numpy_helper.to_array(t) for t in b.initializers}
    return feeds | {name: np.asarray(np.float32(1.5) * held[name]) for name in overridable}
