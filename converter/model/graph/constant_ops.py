"""Operators over constants, as exporters compute parameters with them. Source: the ONNX operator schemas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

Attr = Callable[[str, Any], Any]  # name, default -> value

_MOST_ELEMENTS = 1 << 26  # of a constant that a node fills in; more is not computed ahead


def numpy_dtype(kind: int) -> np.dtype[Any]:
    """The numpy type of an element type as onnx numbers them."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))


def constant(attr: Attr) -> NDArray[Any] | None:
    """What a Constant node holds, if it is no tensor."""
    for name, dtype in (("value_float", np.float32), ("value_int", np.int64)):
        if (value := attr(name, None)) is not None:
            return np.array(value, dtype)
    for name, dtype in (("value_floats", np.float32), ("value_ints", np.int64)):
        if (value := attr(name, None)) is not None:
            return np.array(list(value), dtype)
    return None


def _axes(attr: Attr, args: list[Any]) -> list[int] | None:
    if len(args) > 1 and args[1] is not None:
        return [int(a) for a in args[1]]
    axes = attr("axes", None)
    return None if axes is None else list(axes)


def _identity(_: Attr, args: list[Any]) -> NDArray[Any]:
    return np.asarray(args[0])


def _cast(attr: Attr, args: list[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(args[0].astype(numpy_dtype(attr("to", None))))


def _transpose(attr: Attr, args: list[Any]) -> NDArray[Any]:
    return np.asarray(np.transpose(args[0], attr("perm", None)))


def _reshape(attr: Attr, args: list[Any]) -> NDArray[Any]:
    shape = [int(d) for d in (args[1] if len(args) > 1 else attr("shape", None))]
    if not attr("allowzero", 0):
        shape = [args[0].shape[i] if d == 0 else d for i, d in enumerate(shape)]
    return np.asarray(args[0].reshape(shape))


def _squeeze(attr: Attr, args: list[Any]) -> NDArray[Any]:
    axes = _axes(attr, args)
    return np.asarray(np.squeeze(args[0], None if axes is None else tuple(axes)))


def _unsqueeze(attr: Attr, args: list[Any]) -> NDArray[Any]:
    return np.asarray(np.expand_dims(args[0], tuple(_axes(attr, args) or ())))


def _expand(_: Attr, args: list[Any]) -> NDArray[Any]:
    shape = np.broadcast_shapes(args[0].shape, tuple(int(d) for d in args[1]))
    return _filled(args[0], shape)


def _constant_of_shape(attr: Attr, args: list[Any]) -> NDArray[Any]:
    proto: TensorProto | None = attr("value", None)
    value = np.zeros(1, np.float32) if proto is None else onnx.numpy_helper.to_array(proto)
    return _filled(value.reshape(()), tuple(int(d) for d in args[0]))


def _filled(value: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    _check_size(math.prod(shape))
    return np.broadcast_to(value, shape)


def _check_size(n_elements: int) -> None:
    """Before anything is computed: a few small constants make one of any size."""
    if n_elements > _MOST_ELEMENTS:
        raise ValueError("too large to be a parameter")


def _slice(attr: Attr, args: list[Any]) -> NDArray[Any]:
    if len(args) == 1:
        starts, ends, axes, steps = attr("starts", None), attr("ends", None), attr("axes", None), None
    else:
        starts, ends = args[1], args[2]
        axes = args[3] if len(args) > 3 else None
        steps = args[4] if len(args) > 4 else None
    index = [slice(None)] * args[0].ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = int(axes[i]) if axes is not None else i
        step = int(steps[i]) if steps is not None else 1
        if step < 0:
            raise ValueError("negative step")
        index[axis] = slice(int(start), int(end), step)
    return np.asarray(args[0][tuple(index)])


def _gather(attr: Attr, args: list[Any]) -> NDArray[Any]:
    axis = int(attr("axis", 0))
    _check_size(args[0].size // max(1, args[0].shape[axis]) * args[1].size)
    return np.asarray(np.take(args[0], args[1].astype(np.int64), axis=axis))


def _concat(attr: Attr, args: list[Any]) -> NDArray[Any]:
    _check_size(sum(arg.size for arg in args))
    return np.concatenate(args, axis=attr("axis", 1))


def _dequantize(attr: Attr, args: list[Any]) -> NDArray[Any]:
    value, scale = args[0], args[1]
    zero = args[2] if len(args) > 2 and args[2] is not None else np.zeros_like(scale, value.dtype)
    if attr("block_size", 0):
        raise ValueError("blocked")
    if scale.ndim == 1 and scale.size > 1:
        dims = [1] * value.ndim
        dims[attr("axis", 1)] = -1
        scale, zero = scale.reshape(dims), zero.reshape(dims)
    _check_size(math.prod(np.broadcast_shapes(value.shape, zero.shape, scale.shape)))
    return np.asarray(((value.astype(np.float64) - zero.astype(np.float64)) * scale).astype(scale.dtype))


def _arithmetic(op: Callable[..., Any], args: list[Any]) -> NDArray[Any]:
    """In the type of the operands, as the runtime would compute it."""
    _check_size(math.prod(np.broadcast_shapes(*(arg.shape for arg in args))))
    with np.errstate(all="ignore"):
        out = np.asarray(op(*args))
    if out.dtype != args[0].dtype:
        raise ValueError("not a parameter")
    return out


def _divide(a: Any, b: Any) -> Any:
    if not np.issubdtype(a.dtype, np.integer):
        return a / b
    if (b == 0).any():
        raise ValueError("division by zero")
    return np.trunc(a / b).astype(a.dtype)


EVALUATORS: dict[str, Callable[[Attr, list[Any]], NDArray[Any]]] = {
    "Identity": _identity,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Slice": _slice,
    "Gather": _gather,
    "Concat": _concat,
    "DequantizeLinear": _dequantize,
    "Add": lambda _, args: _arithmetic(np.add, args),
    "Sub": lambda _, args: _arithmetic(np.subtract, args),
    "Mul": lambda _, args: _arithmetic(np.multiply, args),
    "Div": lambda _, args: _arithmetic(_divide, args),
    "Neg": lambda _, args: np.negative(args[0]),
    "Sqrt": lambda _, args: _arithmetic(np.sqrt, args),
}
