"""Operators over constants, as exporters compute parameters and sizes with them. Source: the ONNX operator schemas.

Those that parameters are mostly computed with are here; others that are known to be right are onnx.reference's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from converter.model.file.dtypes import decode, get_numpy_dtype

Shape = tuple[int, ...]
Attr = Callable[[str, Any], Any]  # name, default -> value

_MOST_ELEMENTS = 1 << 26  # of a constant that a node fills in; more is not computed ahead


def numpy_dtype(kind: int) -> np.dtype[Any]:
    """The numpy type of an element type as onnx numbers them."""
    return get_numpy_dtype(kind)


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
    value = np.zeros(1, np.float32) if proto is None else decode(proto)
    return _filled(value.reshape(()), tuple(int(d) for d in args[0]))


def _filled(value: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    _check_size(math.prod(shape))
    return np.broadcast_to(value, shape)


def _range(start: NDArray[Any], limit: NDArray[Any], delta: NDArray[Any]) -> NDArray[Any]:
    first, last, step = (np.asarray(a).reshape(()) for a in (start, limit, delta))
    count = max(math.ceil((float(last) - float(first)) / float(step)), 0)
    _check_size(count)
    return np.asarray(first + np.arange(count).astype(first.dtype) * step)


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
        index[axis] = _cut(int(start), int(end), step, args[0].shape[axis])
    return np.asarray(args[0][tuple(index)])


def _cut(start: int, end: int, step: int, length: int) -> slice:
    """ONNX's slice as Python's: going down, an end before the first element is None, not minus one."""
    start, end = (v + length if v < 0 else v for v in (start, end))
    if step > 0:
        return slice(max(start, 0), max(end, 0), step)
    return slice(min(max(start, 0), length - 1), None if end < 0 else end, step)


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
    axis, block = int(attr("axis", 1)), int(attr("block_size", 0))
    if not is_quantization_scale(scale.shape, value.shape, axis, block) or zero.size not in (1, scale.size):
        raise ValueError("a scale or a zero point that does not fit")
    scale, zero = (_align_scale(p, value, axis, block) for p in (scale, zero))
    return np.asarray(((value.astype(np.float64) - zero.astype(np.float64)) * scale).astype(scale.dtype))


def is_quantization_scale(scale: Shape, value: Shape, axis: int, block: int) -> bool:
    """Whether a DequantizeLinear of a value can have a scale of this shape: one, one per slice, or per block."""
    if len(scale) < 2 and math.prod(scale) == 1:
        return True
    if not -len(value) <= axis < len(value):
        return False
    at = axis % len(value)
    if not block:
        return scale == (value[at],)
    return scale == tuple(-(-d // block) if k == at else d for k, d in enumerate(value))


def _align_scale(p: NDArray[Any], value: NDArray[Any], axis: int, block: int) -> NDArray[Any]:
    """A scale or zero point in a shape that broadcasts to the value."""
    if p.size == 1 and p.ndim < 2:
        return p.reshape(())
    if block:
        return np.repeat(p, block, axis).take(range(value.shape[axis]), axis)
    return p.reshape([-1 if k == axis % value.ndim else 1 for k in range(value.ndim)])


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
    "Reciprocal": lambda _, args: _arithmetic(np.reciprocal, args),
    "Exp": lambda _, args: _arithmetic(np.exp, args),
    "Abs": lambda _, args: np.abs(args[0]),
    "Pow": lambda _, args: _power(*args),
    "Tile": lambda _, args: _tile(*args),
    "Erf": lambda _, args: _erf(args[0]),
    "Range": lambda _, args: _range(*args),
}
_BROADCASTS = frozenset({"Add", "Sub", "Mul", "Div", "Pow"})

# Element by element, with broadcasting.
_ELEMENTWISE = frozenset(
    "Log Tanh Sigmoid Softplus Softsign Relu LeakyRelu Elu Selu HardSigmoid Floor Ceil Round Sign Not Clip Sin Cos "
    "Max Min Mean Sum Where Equal Greater Less GreaterOrEqual LessOrEqual And Or Xor Mod PRelu Celu HardSwish "
    "ThresholdedRelu IsNaN IsInf BitShift".split()
)
# Whose result is no larger than what they are given.
_SHRINKING = frozenset(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare Split Flatten DepthToSpace SpaceToDepth Trilu CumSum LpNormalization Softmax LogSoftmax "
    "ArgMax ArgMin Hardmax GatherElements GatherND ScatterElements ScatterND Shape Size Compress "
    "GlobalAveragePool GlobalMaxPool".split()
)
_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum"})
# From this opset on onnx.reference computes it as it is specified.
_LIBRARY_SINCE = {
    "ArgMax": 13,
    "ArgMin": 13,
    "Hardmax": 13,
    "Softmax": 13,
    "LogSoftmax": 13,
    "Clip": 6,
    "Sum": 8,
    "Mean": 8,
    "Max": 8,
    "Min": 8,
}
_MOST_WORK = 1 << 30  # multiplications of a product that is computed ahead
Evaluator = Callable[[list[Any]], Sequence[Any]]  # inputs, None where left out -> outputs


def is_evaluated(op: str, opset: int) -> bool:
    """Whether constants that this operator makes of constants are computed here."""
    if op in _BROADCASTS and opset < 7:  # broadcasting is by attributes there
        return False
    if op in EVALUATORS:
        return True
    in_library = op in _ELEMENTWISE or op in _SHRINKING or op in _PRODUCTS or op == "Pad"
    return in_library and opset >= _LIBRARY_SINCE.get(op, 7)


def make_evaluator(
    op: str, opset: int, attr: Attr, protos: Iterable[onnx.AttributeProto], n_outputs: int
) -> Evaluator | None:
    """What computes a node of constants; it raises where they do not fit. None: the operator is not known.

    Parameters
    ----------
    attr : callable
        (name, default) -> the attribute's value.
    protos : iterable of AttributeProto
        All of the attributes.
    """
    if not is_evaluated(op, opset):
        return None
    if op in EVALUATORS:
        compute = EVALUATORS[op]
        return lambda args: (compute(attr, args),)
    names = [f"o{k}" for k in range(n_outputs)]
    node = onnx.NodeProto(op_type=op, output=names, attribute=protos)

    def run(args: list[Any]) -> Sequence[Any]:
        _check_work(op, attr, args)
        node.input[:] = [f"i{k}" if a is not None else "" for k, a in enumerate(args)]
        with np.errstate(all="ignore"):
            return tuple(np.asarray(y) for y in _find_library(node, opset).run(*args))

    return run


def _find_library(node: onnx.NodeProto, opset: int) -> Any:
    from onnx.reference.ops import load_op  # slow to load, and seldom asked for

    params = {"log": lambda *_: None, "opsets": {"": opset}, "verbose": 0, "new_ops": None}
    return load_op("", node.op_type, opset)(node, params)


def _check_work(op: str, attr: Attr, args: list[Any]) -> None:
    """Before anything is computed, as for sizes."""
    given = [a for a in args if a is not None]
    if op in _ELEMENTWISE:
        _check_size(math.prod(np.broadcast_shapes(*(a.shape for a in given))))
    elif op == "Einsum":
        _check_einsum(str(attr("equation", "")), given)
    elif op in _PRODUCTS:
        summed = max(1, given[0].shape[0 if attr("transA", 0) else -1])
        result = (given[0].size // summed) * (given[1].size // summed)
        _check_size(result)
        if result * summed > _MOST_WORK:
            raise ValueError("too much to compute ahead")
    elif op == "Pad":
        if len(given) < 2:
            raise ValueError("pads by attribute")
        begins, ends = given[1].reshape(2, -1).tolist()
        _check_size(math.prod(sum(d) for d in zip(given[0].shape, begins, ends, strict=True)))
    _check_size(sum(a.size for a in given))


def _check_einsum(equation: str, args: list[Any]) -> None:
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or [len(t) for t in terms] != [a.ndim for a in args]:
        raise ValueError("axes that are not told apart")
    sizes = {label: d for term, a in zip(terms, args, strict=True) for label, d in zip(term, a.shape, strict=True)}
    _check_size(math.prod(sizes[label] for label in right))
    if math.prod(sizes.values()) > _MOST_WORK:
        raise ValueError("too much to compute ahead")


def _power(base: Any, exponent: Any) -> NDArray[Any]:
    _check_size(math.prod(np.broadcast_shapes(base.shape, exponent.shape)))
    with np.errstate(all="ignore"):
        return np.asarray(np.power(base, exponent).astype(base.dtype))


def _tile(value: Any, repeats: Any) -> NDArray[Any]:
    times = [int(n) for n in repeats]
    if len(times) != value.ndim:
        raise ValueError("one number of repeats for each axis")
    _check_size(value.size * math.prod(times))
    return np.asarray(np.tile(value, times))


def _erf(value: Any) -> NDArray[Any]:
    found = np.fromiter(map(math.erf, value.reshape(-1).tolist()), np.float64, value.size)
    return np.asarray(found.reshape(value.shape).astype(value.dtype))
