"""Layers of random graphs that move, join or pool values without weights."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.rewrite.random_builder import Builder, Shape
from tests.rewrite.random_layers import affine, batch_norm


def pool(b: Builder, x: str) -> str:
    """MaxPool, AveragePool with and without counted padding, global pools."""
    n, c, *spatial = b.shapes[x]
    op = b.pick(["GlobalAveragePool", "MaxPool", "AveragePool", "GlobalMaxPool"])
    if op.startswith("Global"):
        return b.add(op, [x], (n, c, *(1 for _ in spatial)))
    kernel = [b.number(1, min(3, size)) for size in spatial]
    strides = [b.number(1, 2) for _ in spatial]
    pads = [min(b.number(0, 1), k - 1) for k in kernel * 2]
    attributes: dict[str, object] = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    if op == "AveragePool" and b.flag():
        attributes["count_include_pad"] = 1
    half = len(spatial)
    size = [(spatial[i] + pads[i] + pads[i + half] - kernel[i]) // strides[i] + 1 for i in range(half)]
    return b.add(op, [x], (n, c, *size), **attributes)


def view(b: Builder, x: str) -> str:
    """An op that only renames, moves or regroups elements."""
    return str(VIEWS[b.pick(list(VIEWS))](b, x))


def _identity(b: Builder, x: str) -> str:
    return b.add("Identity", [x], b.shapes[x])


def _dropout(b: Builder, x: str) -> str:
    attributes = {"ratio": 0.3} if b.opset < 12 and b.flag() else {}
    inputs = [x]
    if b.opset >= 12 and b.flag():
        inputs.append(b.initializer(np.asarray(0.3, np.float32), "ratio"))
    return b.add("Dropout", inputs, b.shapes[x], **attributes)


def _transpose(b: Builder, x: str) -> str:
    order = b.draw(st.permutations(range(len(b.shapes[x]))))
    b.batch_is_fixed |= order[0] != 0
    return b.add("Transpose", [x], tuple(b.shapes[x][i] for i in order), perm=order)


def _transpose_pair(b: Builder, x: str) -> str:
    """Channels last, one layer, channels first again."""
    rank = len(b.shapes[x])
    last, first = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
    y = b.add("Transpose", [x], tuple(b.shapes[x][i] for i in last), perm=last)
    shape = b.shapes[y]
    if b.flag():
        y = affine(b, y)
    if b.shapes[y] != shape:
        return y
    return b.add("Transpose", [y], tuple(shape[i] for i in first), perm=first)


def _unsqueeze(b: Builder, x: str) -> str:
    shape = b.shapes[x]
    if len(shape) == 5:
        return _squeeze(b, x)
    axis = b.number(1, len(shape))
    return _with_axes(b, "Unsqueeze", x, axis, (*shape[:axis], 1, *shape[axis:]))


def _squeeze(b: Builder, x: str) -> str:
    shape = b.shapes[x]
    axes = [i for i, size in enumerate(shape) if size == 1 and i > 0]
    if not axes or len(shape) == 2:
        return _identity(b, x)
    axis = b.pick(axes)
    return _with_axes(b, "Squeeze", x, axis, (*shape[:axis], *shape[axis + 1 :]))


def _with_axes(b: Builder, op: str, x: str, axis: int, shape: Shape) -> str:
    if b.opset < 13:
        return b.add(op, [x], shape, axes=[axis])
    return b.add(op, [x, b.integers([axis])], shape)


def _flatten(b: Builder, x: str) -> str:
    shape = b.shapes[x]
    axis = b.pick([1, 1, 2, 0]) if len(shape) > 2 else 1
    b.batch_is_fixed |= axis != 1
    rows = math.prod(shape[:axis])
    return b.add("Flatten", [x], (rows, math.prod(shape[axis:])), **({} if axis == 1 and b.flag() else {"axis": axis}))


def _reshape(b: Builder, x: str) -> str:
    shape = b.shapes[x]
    n, c, *rest = shape
    match b.pick(["flat", "zeros", "spatial", "swap"]):
        case "zeros":
            target, out = [0] * len(shape), shape
        case "spatial" if rest:
            target, out = [0, 0, -1], (n, c, math.prod(rest))
        case "swap" if rest:  # equal element counts, another meaning
            target, out = [0, *reversed(shape[1:])], (n, *reversed(shape[1:]))
        case _:
            target, out = [0, -1], (n, math.prod(shape[1:]))
    return b.add("Reshape", [x, b.integers(target, "shape")], out)


VIEWS = {
    "identity": _identity,
    "dropout": _dropout,
    "flatten": _flatten,
    "reshape": _reshape,
    "transpose": _transpose,
    "channels last and back": _transpose_pair,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
}


def join(b: Builder, x: str) -> str:
    """A residual Add/Sub/Mul with, or a Concat onto, an earlier activation."""
    shape = b.shapes[x]
    alike = [name for name, other in b.shapes.items() if other == shape]
    if b.flag() and shape[1] <= 8:
        beside = [name for name, other in b.shapes.items() if _differ_on_channels_only(other, shape)]
        y = b.pick(beside)
        return b.add("Concat", [x, y], (shape[0], shape[1] + b.shapes[y][1], *shape[2:]), axis=1)
    terms = [x, b.pick(alike)]
    return b.add(b.pick(["Add", "Sub", "Mul"]), terms[::-1] if b.flag() else terms, shape)


def _differ_on_channels_only(a: Shape, b: Shape) -> bool:
    return len(a) == len(b) and a[0] == b[0] and a[2:] == b[2:]


def branch(b: Builder, x: str) -> str:
    """An If on a constant or run-time condition; both bodies read x from outside."""
    channels = b.number(1, 3)
    bodies = [_body(b, x, channels, f"{b.prefix}{side}{len(b.nodes)}_") for side in ("then", "else")]
    shape = (b.shapes[x][0], channels, *b.shapes[x][2:])
    return b.add("If", ["condition"], shape, then_branch=bodies[0], else_branch=bodies[1])


def _body(b: Builder, x: str, channels: int, prefix: str) -> object:
    inner = Builder(b.draw, b.opset, b.ir_version, b.rng, prefix, outer=b)
    features = b.shapes[x][1]
    inner.shapes[x] = b.shapes[x]
    out = (b.shapes[x][0], channels, *b.shapes[x][2:])
    if len(out) == 2:
        y = inner.add("MatMul", [x, inner.constant(b.normal(features, channels), "W")], out)
    else:
        kernel = (1,) * (len(out) - 2)
        y = inner.add("Conv", [x, inner.constant(b.normal(channels, features, *kernel), "W")], out)
    if b.flag():
        y = batch_norm(inner, y)
    elif b.flag():
        y = inner.add("Relu", [y], out)
    b.batch_is_fixed |= inner.batch_is_fixed
    result = helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * len(out))
    return helper.make_graph(inner.nodes, prefix + "body", [], [result], inner.initializers)
