"""A hypothesis strategy for random models in which biases travel: float64, every operator of the table.

A model is drawn node by node, and each node is run as it is drawn: its outputs' values tell which may come next.
Nodes that the reference refuses, or whose values grow too large, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converter.referee.reference.evaluator import Reference, Unsupported

Array = NDArray[Any]
Layer = Callable[["Drawing", str], str]

OPSETS = (17, 11, 13, 18, 21, 23)
LARGEST = 1e4  # beyond it, rounding says more than rules
MOST_ELEMENTS = 600


class Refused(Exception):
    """A node that cannot be added."""


@dataclass
class Drawing:
    """A model under construction; the first choice is always the plainest."""

    draw: st.DrawFn
    opset: int
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)

    def pick(self, options: Sequence[Any]) -> Any:
        """One of the options."""
        return self.draw(st.sampled_from(list(options)))

    def flag(self) -> bool:
        """A coin."""
        return bool(self.draw(st.booleans()))

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an activation."""
        return tuple(self.values[name].shape)

    def constant(self, value: Any) -> str:
        """The name of a new constant."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def random(self, *shape: int) -> str:
        """A new constant of normal values."""
        return self.constant(self.rng.normal(0.2, 0.7, shape))

    def add(self, op: str, inputs: Sequence[str], n_outputs: int = 1, **attributes: Any) -> str:
        """Append a node and run it; its first output."""
        k = len(self.nodes)
        outputs = [f"t{k}"] + [f"t{k}_{i}" for i in range(1, n_outputs)]
        node = helper.make_node(op, list(inputs), outputs, f"n{k}", **attributes)
        known = self.values | self.constants
        held = {n: known[n] for n in inputs if n}
        got = _run(node, held, self.opset)
        for value in got.values():
            small = value.size <= MOST_ELEMENTS and value.size
            finite = value.dtype.kind != "f" or (np.abs(value[value > -np.inf]) < LARGEST).all()
            if not small or not finite:
                raise Refused
        self.nodes.append(node)
        self.values |= got
        return outputs[0]

    def with_axes(self, op: str, x: str, axes: Sequence[int], since: int, **attributes: Any) -> str:
        """A node whose axes are an input since some opset, an attribute before."""
        if self.opset >= since:
            return self.add(op, [x, self.constant(np.int64(axes))], **attributes)
        return self.add(op, [x], axes=list(axes), **attributes)

    def partner(self, x: str) -> str:
        """A float activation of the same shape, perhaps itself."""
        return str(self.pick([x, *(n for n, v in self.values.items() if n != x and _alike(v, self.values[x]))]))

    def floats(self) -> list[str]:
        """Activations that layers may read, newest first."""
        return [n for n, v in reversed(self.values.items()) if v.dtype.kind == "f" and v.ndim and np.isfinite(v).all()]


def _alike(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(np.isfinite(a).all())


def _run(node: onnx.NodeProto, held: dict[str, Array], opset: int) -> dict[str, Array]:
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in held.items()
    ]
    outputs = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in node.output]
    graph = helper.make_graph([node], "one", inputs, outputs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        return Reference(proto).run(held)
    except (Unsupported, ValueError, IndexError) as problem:
        raise Refused from problem


@dataclass(frozen=True, repr=False)
class Flowing:
    """A model and the inputs to run it on."""

    model: onnx.ModelProto
    feeds: dict[str, Array]

    def __repr__(self) -> str:
        return f"Flowing:\n{onnx.printer.to_text(self.model)}\n"


@st.composite
def flowing(
    draw: st.DrawFn, starts: Sequence[Layer], layers: Sequence[Layer], ends: Sequence[Layer], most: int = 6
) -> Flowing:
    """Random models: a layer with a bias, what its shift may meet, and something that may end it."""
    d = Drawing(draw, draw(st.sampled_from(OPSETS)), np.random.default_rng(draw(st.integers(0, 999))))
    shape = d.pick([(1, 4, 4, 4), (2, 4, 4, 4), (2, 4, 6), (3, 4), (1, 8, 2, 2)])
    d.values["x"] = d.rng.normal(0, 1, shape)
    plan = [starts, *[[*layers, *starts]] * draw(st.integers(1, most)), ends, ends]
    x = "x"
    for choices in plan:
        try:
            x = d.pick(choices)(d, x)
        except Refused:
            continue
        if choices is not ends and d.pick([False, False, False, True]):
            x = d.pick(d.floats())
        if x not in d.floats():
            x = d.floats()[0]
    assume(d.nodes)
    return _finished(d)


def _finished(d: Drawing) -> Flowing:
    read = {name for node in d.nodes for name in node.input}
    made = [name for node in d.nodes for name in node.output]
    extra = d.draw(st.lists(st.sampled_from(made), max_size=1)) if d.pick([False, False, True]) else []
    outputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(d.values[n].dtype), [None] * d.values[n].ndim)
        for n in made
        if n not in read or n in extra
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.DOUBLE, d.shape("x"))]
    held = [numpy_helper.from_array(v, n) for n, v in d.constants.items() if n in read]
    graph = helper.make_graph(d.nodes, "flowing", inputs, outputs, held)
    made_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", d.opset)], ir_version=8)
    return Flowing(made_model, {"x": d.values["x"]})
