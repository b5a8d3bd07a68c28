"""Operators that numpy has as they are: most of what nets are made of, without loading onnx's library for them.

That library's two hundred modules take longer to load than a small net to fold, and each of its calls looks at more
than it computes. Each function raises what numpy raises where its inputs do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from converter.referee.reference.call import KernelCall, Op, Outputs
from converter.referee.reference.conv import Array


def _binary(function: Callable[[Array, Array], Array]) -> Op:
    """Arithmetic of two tensors of one type; before opset 7 `kernels` broadcasts by other rules."""

    def op(call: KernelCall) -> Outputs:
        a, b = call.inputs
        if a.dtype != b.dtype:
            raise TypeError(f"operands are {a.dtype} and {b.dtype}")
        return (np.asarray(function(a, b), a.dtype),)

    return op


def _divide(a: Array, b: Array) -> Array:
    """Integers are cut towards zero."""
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    whole = a // b
    return np.asarray(whole + ((a % b != 0) & ((a < 0) != (b < 0))))


def _unary(function: Callable[[Array], Array]) -> Op:
    def op(call: KernelCall) -> Outputs:
        x = call.input(0)
        return (np.asarray(function(x), x.dtype),)

    return op


def _matmul(call: KernelCall) -> Outputs:
    return (np.asarray(np.matmul(call.inputs[0], call.inputs[1])),)


def _transpose(call: KernelCall) -> Outputs:
    return (np.transpose(call.input(0), call.get("perm")),)


def _reshape(call: KernelCall) -> Outputs:
    x = call.input(0)
    asked = call.get("shape") if call.opset < 5 else np.ravel(call.input(1)).tolist()
    if not call.get("allowzero", 0):
        asked = [x.shape[k] if d == 0 else d for k, d in enumerate(asked)]
    return (x.reshape([int(d) for d in asked]),)


def _flatten(call: KernelCall) -> Outputs:
    x, axis = call.input(0), call.get("axis", 1)
    rows = math.prod(x.shape[: axis if axis >= 0 else axis + x.ndim])
    return (x.reshape(rows, x.size // rows if rows else math.prod(x.shape[axis:])),)


def _squeeze(call: KernelCall) -> Outputs:
    axes: Sequence[int] | None = call.get("axes")
    if call.opset >= 13:
        axes = None if call.input(1) is None else np.ravel(call.input(1)).tolist()
    elif not axes:
        axes = None
    return (np.squeeze(call.input(0), None if axes is None else tuple(int(a) for a in axes)),)


def _shape(call: KernelCall) -> Outputs:
    return (np.asarray(np.shape(call.input(0))[call.get("start", 0) : call.get("end")], np.int64),)


def _gather(call: KernelCall) -> Outputs:
    return (np.asarray(np.take(call.inputs[0], call.inputs[1], axis=call.get("axis", 0))),)


def _concat(call: KernelCall) -> Outputs:
    return (np.concatenate(call.inputs, axis=call.get("axis", 1)),)


def _slice(call: KernelCall) -> Outputs:
    x = call.input(0)
    if call.opset < 10:
        starts, ends, axes, steps = (call.get(name) for name in ("starts", "ends", "axes", "steps"))
    else:
        starts, ends, axes, steps = (
            None if (v := call.input(k)) is None else np.ravel(v).tolist() for k in range(1, 5)
        )
    places = [slice(None)] * x.ndim
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        places[axes[k] if axes else k] = slice(start, end, steps[k] if steps else None)
    return (x[tuple(places)],)


ELEMENTARY: dict[tuple[str, str], Op] = {
    ("", "Add"): _binary(np.add),
    ("", "Sub"): _binary(np.subtract),
    ("", "Mul"): _binary(np.multiply),
    ("", "Div"): _binary(_divide),
    ("", "Relu"): _unary(lambda x: np.maximum(x, 0)),
    ("", "Neg"): _unary(np.negative),
    ("", "Abs"): _unary(np.abs),
    ("", "Sqrt"): _unary(np.sqrt),
    ("", "Tanh"): _unary(np.tanh),
    ("", "Exp"): _unary(np.exp),
    ("", "MatMul"): _matmul,
    ("", "Transpose"): _transpose,
    ("", "Reshape"): _reshape,
    ("", "Flatten"): _flatten,
    ("", "Squeeze"): _squeeze,
    ("", "Shape"): _shape,
    ("", "Gather"): _gather,
    ("", "Concat"): _concat,
    ("", "Slice"): _slice,
}
