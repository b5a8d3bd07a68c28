"""Constants that the original computes by nodes, evaluated with the reference's own kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.protos.reference_call import Unsupported
from converter.protos.reference_nodes import kernel, plain_attributes
from converter.replay.constants import Computed, Constant, Held
from converter.replay.sheet import Item, Wire, attribute_tensor

_FUEL = 64  # nodes in a chain
_LARGEST = 1 << 26  # elements
_UNREPEATABLE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


def is_derived(wire: Wire, fuel: int = _FUEL) -> bool:
    """Whether constants alone make it."""
    if wire.constant is not None:
        return not (wire.is_input and wire.scope.sheet.ir_version >= 4)
    item = wire.maker
    if item is None or not item.is_standard or item.bodies or item.op in _UNREPEATABLE or fuel < 1:
        return False
    return all(is_derived(w, fuel - 1) for w in item.inputs if w.name)


def evaluated(wire: Wire) -> Constant | None:
    """The value of a chain of constants; None if it is none, or cannot be computed here."""
    if wire.constant is not None:
        return wire.constant
    item = wire.maker
    if item is None or not is_derived(wire):
        return None
    if item.op == "Constant" and (tensor := attribute_tensor(item)) is not None:
        return Held(tensor, wire.scope.sheet.folder)
    try:
        value = _array(wire)
    except (Unsupported, ValueError, TypeError, IndexError, KeyError):
        return None
    return None if value is None or value.size > _LARGEST else Computed(value)


def _array(wire: Wire) -> np.ndarray[Any, Any] | None:
    if not wire.name:
        return None
    if wire.constant is not None:
        return wire.constant.load()
    item = wire.maker
    assert item is not None
    if item.op == "Constant":
        return _held(item)
    op = kernel(item.as_node(), "", item.scope.sheet.opset(item.scope))
    if op is None:
        raise Unsupported(item.op)
    inputs = tuple(_array(w) for w in item.inputs)
    result = np.asarray(op(inputs)[item.outputs.index(wire)])
    kept = next((x.dtype for x in inputs if x is not None), result.dtype)
    # The kernels make every float a float64; an operator that keeps its input's type keeps it here too.
    return result.astype(kept) if result.dtype == np.float64 and kept.kind != "i" and item.op != "Cast" else result


def _held(item: Item) -> np.ndarray[Any, Any]:
    tensor = attribute_tensor(item)
    if tensor is not None:
        return Held(tensor, item.scope.sheet.folder).load()
    (value,) = plain_attributes(item.as_node()).values()
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array
