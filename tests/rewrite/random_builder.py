"""A small ONNX graph under construction, its choices made by hypothesis.

Every choice lists its plainest value first, so that a failing graph shrinks towards a short chain
of plain layers with plain constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass
class Builder:
    """Nodes and constants of one graph; ``shapes`` holds the run-time shape of every tensor."""

    draw: Draw
    opset: int
    ir_version: int
    rng: np.random.Generator
    prefix: str = ""
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, NDArray] = field(default_factory=dict)
    positive: set[str] = field(default_factory=set)  # activations that are > 0 everywhere
    batch_is_fixed: bool = False  # a layer used the batch size in a constant's shape
    outer: Builder | None = None  # for the body of an If: where constants may also live

    # choices ---------------------------------------------------------------------------------

    def pick(self, options: Sequence[Any]) -> Any:
        """One of the options; shrinks to the first."""
        return self.draw(st.sampled_from(list(options)))

    def flag(self) -> bool:
        """A coin that shrinks to False."""
        return bool(self.draw(st.booleans()))

    def number(self, low: int, high: int) -> int:
        """An integer in [low, high]; shrinks to low."""
        return int(self.draw(st.integers(low, high)))

    # values ----------------------------------------------------------------------------------

    def normal(self, *shape: int) -> NDArray:
        """Random weights of a size that keeps activations near one."""
        return (0.7 * self.rng.standard_normal(shape)).astype(np.float32)

    def away_from_zero(self, *shape: int) -> NDArray:
        """Magnitudes in [0.5, 2], random signs."""
        sign = self.rng.choice([-1.0, 1.0], shape)
        return (sign * self.rng.uniform(0.5, 2, shape)).astype(np.float32)

    def above_zero(self, *shape: int) -> NDArray:
        """Values in [0.5, 2]."""
        return self.rng.uniform(0.5, 2, shape).astype(np.float32)

    # tensors ---------------------------------------------------------------------------------

    def fresh(self, stem: str) -> str:
        """A name that is not taken."""
        return f"{self.prefix}{stem}{len(self.shapes) + len(self.constants)}"

    def add(self, op: str, inputs: Sequence[str], shape: Shape, n_outputs: int = 1, **attributes: Any) -> str:
        """Append a node; return its first output."""
        name = self.fresh(op.lower())
        outputs = [name] + [f"{name}_extra{i}" for i in range(1, n_outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, **attributes))
        self.shapes[name] = tuple(int(size) for size in shape)
        return name

    def initializer(self, values: NDArray, stem: str = "w") -> str:
        """A new initializer, here or in the graph around."""
        home = self.outer if self.outer and (self.ir_version < 4 or self.flag()) else self
        name = home.fresh(stem)
        home.initializers.append(numpy_helper.from_array(np.array(values, order="C"), name))
        home.constants[name] = values
        return name

    def constant(self, values: NDArray, stem: str = "w") -> str:
        """A float constant, held in one of the ways that exporters hold them."""
        ways = ["initializer", "constant node", "identity", "reshape", "transpose"]
        if self.opset >= 8 and values.size and np.all(values == values.flat[0]):
            ways += ["expand"] + (["constant of shape"] if self.opset >= 9 else [])
        if self.opset >= 10 and stem == "W" and self.outer is None:  # onnxruntime looks for scales beside them
            ways += ["dequantized", "dequantized"]
        way = self.pick(ways)
        name = HOLDERS[way](self, np.asarray(values), stem)
        self.constants[name] = values
        return name

    def shared_or_new(self, values: NDArray, stem: str, positive: bool = False) -> str:
        """An earlier constant of this shape, or a new one."""
        known = self.constants | (self.outer.constants if self.outer else {})
        alike = [
            name
            for name, old in known.items()
            if old.dtype == np.float32 and old.shape == values.shape and (not positive or np.all(old > 0.1))
        ]
        if alike and self.flag():
            return str(self.pick(alike))
        return self.constant(values, stem)

    def integers(self, values: Sequence[int], stem: str = "dims") -> str:
        """An int64 vector."""
        return self.initializer(np.asarray(values, np.int64), stem)


def _held_by_node(b: Builder, values: NDArray, stem: str) -> str:
    name = b.fresh(stem)
    b.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values)))
    return name


def _behind_identity(b: Builder, values: NDArray, stem: str) -> str:
    inner = b.initializer(values, stem)
    name = b.fresh(stem)
    b.nodes.append(helper.make_node("Identity", [inner], [name]))
    return name


def _behind_reshape(b: Builder, values: NDArray, stem: str) -> str:
    inner, dims = b.initializer(values.reshape(-1), stem), b.integers(values.shape)
    name = b.fresh(stem)
    b.nodes.append(helper.make_node("Reshape", [inner, dims], [name]))
    return name


def _behind_transpose(b: Builder, values: NDArray, stem: str) -> str:
    inner = b.initializer(values.T, stem)
    name = b.fresh(stem)
    b.nodes.append(helper.make_node("Transpose", [inner], [name]))
    return name


def _expanded(b: Builder, values: NDArray, stem: str) -> str:
    inner, dims = b.initializer(values.reshape(-1)[:1].reshape(()), stem), b.integers(values.shape)
    name = b.fresh(stem)
    b.nodes.append(helper.make_node("Expand", [inner, dims], [name]))
    return name


def _constant_of_shape(b: Builder, values: NDArray, stem: str) -> str:
    dims = b.integers(values.shape)
    name = b.fresh(stem)
    value = numpy_helper.from_array(values.reshape(-1)[:1])
    b.nodes.append(helper.make_node("ConstantOfShape", [dims], [name], value=value))
    return name


def _dequantized(b: Builder, values: NDArray, stem: str) -> str:
    """Integers behind DequantizeLinear: near the values, with one scale or one for each slice of an axis."""
    axis = b.number(0, values.ndim - 1) if b.opset >= 13 and b.flag() else None
    kept = (axis,) if axis is not None else ()
    peak = np.abs(values).max(tuple(k for k in range(values.ndim) if k not in kept), keepdims=True)
    scale = (peak / 100 + 1e-3).astype(np.float32)
    zero = b.pick([0, 5]) if b.flag() else None
    low = b.pick([-127, -128])  # at the lower end a number without a negative
    integers = np.clip(np.rint(values / scale) + (zero or 0), low, 127).astype(np.int8)
    scale = scale.reshape(-1) if axis is not None else scale.reshape(())
    inputs = [b.initializer(integers, f"{stem}q"), b.initializer(scale, "s")]
    if zero is not None:
        inputs.append(b.initializer(np.full(scale.shape, zero, np.int8), "z"))
    name = b.fresh(stem)
    attributes = {"axis": axis} if axis is not None else {}
    b.nodes.append(helper.make_node("DequantizeLinear", inputs, [name], **attributes))
    return name


HOLDERS: dict[str, Callable[[Builder, NDArray, str], str]] = {
    "initializer": Builder.initializer,
    "constant node": _held_by_node,
    "identity": _behind_identity,
    "reshape": _behind_reshape,
    "transpose": _behind_transpose,
    "expand": _expanded,
    "constant of shape": _constant_of_shape,
    "dequantized": _dequantized,
}
