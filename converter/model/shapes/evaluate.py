"""Small tensors of sizes, node by node: numbers where they follow from the model, symbols where not.

A value is an array of type object whose entries are as `size_terms` says. Source: the ONNX operator schemas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from converter.model.file.dtypes import get_numpy_dtype
from converter.model.shapes.constant_ops import EVALUATORS
from converter.model.shapes.symbols import ELEMENTWISE, Entry, Size, product, size

MOST_ELEMENTS = 1 << 10  # of a tensor of sizes; weights are no sizes
_MOST_FLOATS = 16  # scales of a Resize; biases are no sizes
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
Dims = Sequence[int | str | None]
Value = NDArray[np.object_]
MALFORMED = (ValueError, IndexError, TypeError, KeyError, OverflowError, ZeroDivisionError)


class Call:
    """One node, with the values of its inputs (None where nothing is known) and the dims of its first."""

    def __init__(self, node: NodeProto, values: Sequence[Value | None], dims: Dims | None) -> None:
        self.node = node
        self.values = values
        self.dims = dims

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default`."""
        found = next((a for a in self.node.attribute if a.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    def arg(self, slot: int) -> Value:
        """The value in an input slot, which must be known in part."""
        found = self.values[slot] if slot < len(self.values) else None
        if found is None:
            raise ValueError("not known")
        return found

    def has_input(self, slot: int) -> bool:
        """Whether there is something in an input slot."""
        return slot < len(self.node.input) and self.node.input[slot] != ""

    def numbers(self, slot: int, attribute: str = "") -> list[int] | None:
        """Whole numbers from an input, or from an attribute in older operator sets; None if there are none."""
        if self.has_input(slot):
            return as_integers(self.arg(slot))
        found = self.attr(attribute) if attribute else None
        return None if found is None else [int(v) for v in found]


def as_integers(value: Value) -> list[int]:
    """The entries as integers; ValueError if one is not known."""
    entries = list(value.reshape(-1))
    if any(not isinstance(e, int) for e in entries):
        raise ValueError("not known")
    return [int(e) for e in entries]


def stored(tensor: TensorProto) -> Value | None:
    """A tensor of the model as a value; None if it is large, or its data is not here."""
    most = _MOST_FLOATS if tensor.data_type in _FLOATS else MOST_ELEMENTS
    if math.prod(tensor.dims) > most or tensor.data_location == TensorProto.EXTERNAL:
        return None
    try:
        array = numpy_helper.to_array(tensor)
    except MALFORMED:
        return None
    return entries_of(array) if array.dtype.kind in "biuf" else None


def entries_of(array: NDArray[Any]) -> Value:
    """An array as entries: Python's own integers and truth values; floats stay in their type, to round as it does."""
    out = np.empty(array.shape, object)
    for i, entry in enumerate(array.reshape(-1)):
        out.reshape(-1)[i] = entry if array.dtype.kind == "f" else entry.item()
    return out


def constant(node: NodeProto) -> Value | None:
    """The value of a Constant node."""
    call = Call(node, (), None)
    tensor = call.attr("value")
    if tensor is not None:
        return stored(tensor)
    for name, dtype in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32)):
        if (found := call.attr(name)) is not None:
            return entries_of(np.asarray(found, dtype))
    return None


def evaluate(call: Call) -> Value | None:
    """The node's value; None if nothing of it is known, or the operator is not one that exporters size with."""
    op = call.node.op_type
    try:
        out = _elementwise(call, ELEMENTWISE[op]) if op in ELEMENTWISE else _OPERATORS[op](call)
    except MALFORMED:
        return None
    return out if out.size <= MOST_ELEMENTS and any(e is not None for e in out.flat) else None


def _elementwise(call: Call, f: Callable[..., Entry]) -> Value:
    if call.node.op_type == "Mod" and call.attr("fmod", 0):
        raise ValueError("the sign follows the dividend")
    args = [call.arg(slot) for slot in range(len(call.node.input))]
    if call.node.op_type in ("Min", "Max") and len(args) != 2:
        raise ValueError("not of two")
    return np.asarray(np.frompyfunc(f, len(args), 1)(*args), object)


def _shape(call: Call) -> Value:
    if call.dims is None:
        raise ValueError("not known")
    out = np.array([None if d is None else size(d) for d in call.dims], object)
    return out[call.attr("start", 0) : call.attr("end", len(call.dims))]


def _size(call: Call) -> Value:
    if call.dims is None or None in call.dims:
        raise ValueError("not known")
    return np.array(product(size(d) for d in call.dims if d is not None), object)


def _cast(call: Call) -> Value:
    to = get_numpy_dtype(call.attr("to"))

    def entry(v: Entry) -> Entry:
        if isinstance(v, Size):
            return v if to in (np.int32, np.int64) else None
        if v is None or (isinstance(v, float | np.floating) and not math.isfinite(v)):
            return None
        if to.kind == "b":
            return bool(v)
        if to.kind in "iu":
            n = int(v)
            return n if np.iinfo(to).min <= n <= np.iinfo(to).max else None
        return to.type(v) if to.kind == "f" else None

    return np.asarray(np.frompyfunc(entry, 1, 1)(call.arg(0)), object)


def _move(call: Call) -> Value:
    """What only moves or repeats entries does so with symbols as with numbers: its other inputs are numbers."""
    given = [call.arg(k) if call.has_input(k) else None for k in range(1, len(call.node.input))]
    more = [None if v is None else np.array(as_integers(v), np.int64).reshape(v.shape) for v in given]
    return np.asarray(EVALUATORS[call.node.op_type](call.attr, [call.arg(0), *more]), object)


def _concat(call: Call) -> Value:
    return np.concatenate([call.arg(i) for i in range(len(call.node.input))], call.attr("axis", 1))


def _filled(x: Any, shape: tuple[int, ...]) -> Value:
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError("no sizes")
    return np.broadcast_to(x, shape)


def _constant_of_shape(call: Call) -> Value:
    tensor = call.attr("value")
    fill = np.zeros(1, np.float32) if tensor is None else numpy_helper.to_array(tensor)
    return _filled(entries_of(fill.reshape(-1)[0:1]).reshape(()), tuple(as_integers(call.arg(0))))


def _range(call: Call) -> Value:
    start, limit, delta = (as_integers(call.arg(i))[0] for i in range(3))
    if len(range(start, limit, delta)) > MOST_ELEMENTS:
        raise ValueError("no sizes")
    return np.array(range(start, limit, delta), object)


def _reduce_prod(call: Call) -> Value:
    x = call.arg(0)
    axes = call.numbers(1, "axes")
    if axes not in (None, [0], [-1]) or x.ndim != 1 or any(not isinstance(e, (int, Size)) for e in x):
        raise ValueError("not a vector of sizes")
    return np.full((1,) if call.attr("keepdims", 1) else (), product(x), object)


_OPERATORS: Mapping[str, Callable[[Call], Value]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": lambda call: call.arg(0),
    "Cast": _cast,
    "Concat": _concat,
    **dict.fromkeys(("Gather", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Expand", "Slice"), _move),
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "ReduceProd": _reduce_prod,
}
OPERATORS = frozenset({*ELEMENTWISE, *_OPERATORS})
