"""Layers of random graphs that cut, repeat, stretch, clip and add values, and products of other forms."""

from __future__ import annotations

import numpy as np

from tests.rewrite.random_builder import Builder
from tests.rewrite.random_layers import Layer


def cut(b: Builder, x: str) -> str:
    """A part along an axis: one of two from Split, or of Slice or Gather."""
    shape = b.shapes[x]
    axes = [k for k, d in enumerate(shape) if k and d > 1]
    if not axes:
        return x
    axis = b.pick(axes)
    size = shape[axis]
    at = b.number(1, size - 1)
    match b.pick(["Split", "Slice", "Gather"]):
        case "Split":
            return _split(b, x, axis, at)
        case "Slice":
            return _slice(b, x, axis, b.pick([(0, at), (at, size), (-at, 2**31)]))
    indices = [b.number(0, size - 1) for _ in range(b.number(1, 3))]
    return b.add("Gather", [x, b.integers(indices, "places")], _resized(shape, axis, len(indices)), axis=axis)


def _resized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _split(b: Builder, x: str, axis: int, at: int) -> str:
    shape = b.shapes[x]
    sizes = [at, shape[axis] - at]
    inputs, attributes = ([x, b.integers(sizes, "parts")], {}) if b.opset >= 13 else ([x], {"split": sizes})
    first = b.add("Split", inputs, _resized(shape, axis, sizes[0]), n_outputs=2, axis=axis, **attributes)
    second = f"{first}_extra1"
    b.shapes[second] = _resized(shape, axis, sizes[1])
    return str(b.pick([first, second]))


def _slice(b: Builder, x: str, axis: int, ends: tuple[int, int]) -> str:
    shape = b.shapes[x]
    out = _resized(shape, axis, len(range(shape[axis])[slice(*ends)]))
    if b.opset < 10:
        return b.add("Slice", [x], out, starts=[ends[0]], ends=[ends[1]], axes=[axis])
    return b.add("Slice", [x, *(b.integers([v], "cut") for v in (*ends, axis))], out)


def stretch(b: Builder, x: str) -> str:
    """Tile, Pad in each mode, Resize."""
    shape = b.shapes[x]
    kinds = ["Tile", "Pad"] + (["Resize"] if b.opset >= 13 and len(shape) == 4 else [])
    axis = b.number(1, len(shape) - 1)
    match b.pick(kinds):
        case "Tile":
            times = [2 if k == axis else 1 for k in range(len(shape))]
            return b.add("Tile", [x, b.integers(times, "times")], _resized(shape, axis, 2 * shape[axis]))
        case "Pad":
            return _pad(b, x, axis)
    scales = b.initializer(np.array([1, 1, 2, b.pick([1, 2])], np.float32), "scales")
    times = [int(t) for t in b.constants[scales]]
    out = tuple(t * d for t, d in zip(times, shape, strict=True))
    mode = b.pick(["nearest", "linear", "cubic"])
    return b.add("Resize", [x, "", scales], out, mode=mode)


def _pad(b: Builder, x: str, axis: int) -> str:
    shape = b.shapes[x]
    modes = ["constant", "edge"] + (["reflect"] if shape[axis] > 1 else [])
    pads = [1 if k % len(shape) == axis else 0 for k in range(2 * len(shape))]
    mode, out = b.pick(modes), _resized(shape, axis, shape[axis] + 2)
    if b.opset < 11:
        return b.add("Pad", [x], out, mode=mode, pads=pads)
    fill = [b.initializer(np.asarray(b.pick([0.0, 0.5]), np.float32), "fill")] if b.flag() else []
    return b.add("Pad", [x, b.integers(pads, "pads"), *fill], out, mode=mode)


def bound(b: Builder, x: str) -> str:
    """Clip, Abs, Max with a constant, a product with positive numbers."""
    shape = b.shapes[x]
    op = b.pick(["Mul", "Abs", "Clip", *(["Max"] if b.opset >= 8 else [])])
    if op == "Abs":
        return b.add("Abs", [x], shape)
    if op == "Clip" and b.opset < 11:
        return b.add("Clip", [x], shape, **b.pick([{"min": -0.5, "max": 1.5}, {"min": 0.0}, {"max": 0.25}]))
    if op == "Clip":
        bounds = [b.initializer(np.asarray(v, np.float32), "bound") for v in (-0.5, 1.5)]
        return b.add("Clip", [x, *bounds], shape)
    size = (shape[1], *(1 for _ in shape[2:]))
    values = b.above_zero(*(size if b.flag() else ()))
    return b.add(op, [x, b.constant(values, "k")], shape)


def left_product(b: Builder, x: str) -> str:
    """A matrix times the activation."""
    shape = b.shapes[x]
    out = b.number(1, 4)
    if len(shape) < 3:
        return b.add("MatMul", [x, b.constant(b.normal(shape[1], out), "W")], (shape[0], out))
    return b.add("MatMul", [b.constant(b.normal(out, shape[-2]), "W"), x], _resized(shape, len(shape) - 2, out))


def add_up(b: Builder, x: str) -> str:
    """A Sum of several terms, constants among them; or a layer beside its own input."""
    shape = b.shapes[x]
    if b.opset >= 8 and b.flag():
        size = (shape[1], *(1 for _ in shape[2:]))
        constants = [b.constant(b.normal(*size), "k") for _ in range(b.number(1, 2))]
        terms = [x, b.add("Abs", [x], shape), *constants]
        return b.add("Sum", b.pick([terms, terms[::-1]]), shape)
    if len(shape) == 2 or b.flag():
        made = b.add("MatMul", [x, b.constant(b.normal(shape[-1], shape[-1]), "W")], shape)
    else:
        n = len(shape) - 2
        kernel = b.constant(b.normal(shape[1], shape[1], *[3] * n), "W")
        made = b.add("Conv", [x, kernel], shape, pads=[1] * 2 * n)
    return b.add("Add", b.pick([[x, made], [made, x]]), shape)


def gram(b: Builder, x: str) -> str:
    """A Gemm of two computed matrices: x^T times a layer of x."""
    shape = b.shapes[x]
    if len(shape) != 2:
        return x
    out = b.number(1, 4)
    made = b.add("MatMul", [x, b.constant(b.normal(shape[1], out), "W")], (shape[0], out))
    added = [b.constant(b.normal(out), "C")] if b.opset < 11 or b.flag() else []
    return b.add("Gemm", [x, made, *added], (shape[1], out), transA=1, alpha=b.pick([1.0, 0.5]))


MOVES: tuple[Layer, ...] = (cut, stretch, bound)
SUMS: tuple[Layer, ...] = (add_up, gram)
