"""The layers that random graphs are made of: ``layer(builder, x) -> name of the new activation``.

Rank-2 activations are [N, F], others [N, C, *spatial]; sizes are those at run time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.rewrite.random_builder import Builder, Shape

Layer = Callable[[Builder, str], str]


def divisors(n: int) -> list[int]:
    """Divisors of n, smallest first."""
    return [d for d in range(1, n + 1) if n % d == 0]


def bias_inputs(b: Builder, size: int) -> list[str]:
    """The optional third input of a conv: absent, empty, random, shared or all zero."""
    match b.pick(["absent", "random", "zero", "empty"]):
        case "random":
            return [b.shared_or_new(b.normal(size), "b")]
        case "zero":
            return [b.shared_or_new(np.zeros(size, np.float32), "b")]
        case "empty":
            return [""]
    return []


def conv(b: Builder, x: str) -> str:
    """Conv, 1-D to 3-D, any groups, pads, strides, dilations."""
    n, c, *spatial = b.shapes[x]
    group = b.pick(divisors(c))
    out = group * b.number(1, 4 if group == 1 else max(1, min(2, 8 // group)))
    kernel = [b.number(1, min(3, size)) for size in spatial]
    attributes: dict[str, object] = {"group": group} if group > 1 or b.flag() else {}
    auto_pad = b.pick(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
    strides = [b.number(1, 2) for _ in spatial] if b.flag() else [1] * len(spatial)
    dilations = [1] * len(spatial)
    if b.flag() and not auto_pad.startswith("SAME"):
        dilations = [b.number(1, 2) if (k - 1) * 2 < size else 1 for k, size in zip(kernel, spatial, strict=True)]
    pads = [b.number(0, 1) for _ in range(2 * len(spatial))] if auto_pad == "NOTSET" and b.flag() else None
    if auto_pad != "NOTSET":
        attributes["auto_pad"] = auto_pad
    if pads:
        attributes["pads"] = pads
    if b.flag() or not pads:
        attributes["kernel_shape"] = kernel
    attributes |= {"strides": strides, "dilations": dilations}
    size = _windows(spatial, kernel, strides, dilations, pads, auto_pad)
    weight = b.shared_or_new(b.normal(out, c // group, *kernel), "W")
    return b.add("Conv", [x, weight, *bias_inputs(b, out)], (n, out, *size), **attributes)


def _windows(
    spatial: list[int], kernel: list[int], strides: list[int], dilations: list[int], pads: list[int] | None, auto: str
) -> list[int]:
    """Output sizes of a convolution or pool."""
    if auto.startswith("SAME"):
        return [math.ceil(size / stride) for size, stride in zip(spatial, strides, strict=True)]
    half = len(spatial)
    total = [pads[i] + pads[i + half] if pads else 0 for i in range(half)]
    return [(spatial[i] + total[i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(len(spatial))]


def conv_transpose(b: Builder, x: str) -> str:
    """ConvTranspose with groups, pads, strides, output padding."""
    n, c, *spatial = b.shapes[x]
    if math.prod(spatial) > 150:
        return conv(b, x)
    group = b.pick(divisors(c))
    out = group * b.number(1, 3 if group == 1 else max(1, min(2, 8 // group)))
    kernel = [b.number(1, 3) for _ in spatial]
    strides = [b.number(1, 2) for _ in spatial] if b.flag() else [1] * len(spatial)
    extra = [stride - 1 if b.flag() else 0 for stride in strides]
    pads = [min(b.number(0, 1), (k - 1) // 2) for k in kernel * 2]
    size = [
        stride * (s - 1) + k + e - pads[i] - pads[i + len(spatial)]
        for i, (s, k, stride, e) in enumerate(zip(spatial, kernel, strides, extra, strict=True))
    ]
    attributes: dict[str, object] = {"group": group} if group > 1 else {}
    if any(extra):
        attributes["output_padding"] = extra
    attributes |= {"strides": strides, "pads": pads}
    weight = b.shared_or_new(b.normal(c, out // group, *kernel), "W")
    return b.add("ConvTranspose", [x, weight, *bias_inputs(b, out)], (n, out, *size), **attributes)


def gemm(b: Builder, x: str) -> str:
    """Gemm: the activation on either side, every attribute, every broadcast form of C."""
    n, f = b.shapes[x]
    on_the_right = b.pick([False, False, False, True])  # constant A, activation as B
    turned = b.flag()
    b.batch_is_fixed |= on_the_right or turned
    rows, inner = (f, n) if turned else (n, f)
    other = b.number(1, 4)
    if on_the_right:
        inner, columns = (f, n) if turned else (n, f)
        rows, k_other = other, inner
    else:
        columns, k_other = other, inner
    flip = b.flag()
    plain = (rows, k_other) if on_the_right else (k_other, columns)
    weight = b.shared_or_new(b.normal(*(plain[::-1] if flip else plain)), "W")
    attributes: dict[str, object] = {"alpha": b.pick([1.0, 0.5, -1.25]), "beta": b.pick([1.0, 2.0, -0.5, 0.0])}
    trans_a, trans_b = (flip, turned) if on_the_right else (turned, flip)
    attributes |= {"transA": int(trans_a), "transB": int(trans_b)}
    inputs = [weight, x] if on_the_right else [x, weight]
    return b.add("Gemm", inputs + _gemm_c(b, rows, columns), (rows, columns), **attributes)


def _gemm_c(b: Builder, m: int, n: int) -> list[str]:
    forms: dict[str, Shape] = {"(N,)": (n,), "(1,N)": (1, n), "(1,)": (1,), "()": (), "(M,1)": (m, 1), "(M,N)": (m, n)}
    absent = ["absent", "empty"] if b.opset >= 11 else []
    form = b.pick(["(N,)", *absent, *(key for key in forms if key != "(N,)")])
    if form in absent:
        return [""] if form == "empty" else []
    b.batch_is_fixed |= form in ("(M,1)", "(M,N)")
    shape = forms[form]
    return [b.shared_or_new(np.zeros(shape, np.float32) if b.flag() else b.normal(*shape), "C")]


def matmul(b: Builder, x: str) -> str:
    """MatMul with weights on either side, 2-D or batched, perhaps an Add after it."""
    *lead, rows, inner = b.shapes[x]
    side = b.pick(["right", "right", "left", "batched"]) if lead else b.pick(["right", "right", "left"])
    width = b.number(1, 4)
    if side == "left":
        b.batch_is_fixed |= not lead
        weight, inputs_shape = b.normal(width, rows), (*lead, width, inner)
        y = b.add("MatMul", [b.shared_or_new(weight, "W"), x], inputs_shape)
    else:
        b.batch_is_fixed |= side == "batched"
        weight = b.normal(*lead, inner, width) if side == "batched" else b.normal(inner, width)
        y = b.add("MatMul", [x, b.shared_or_new(weight, "W")], (*lead, rows, width))
    if b.flag():
        size = b.shapes[y][-1]
        terms = [y, b.shared_or_new(b.pick([b.normal(size), np.zeros(size, np.float32)]), "b")]
        y = b.add("Add", terms[::-1] if b.flag() else terms, b.shapes[y])
    return y


def batch_norm(b: Builder, x: str) -> str:
    """BatchNormalization in inference mode, with the attributes of the opset."""
    shape = b.shapes[x]
    attributes: dict[str, object] = {}
    epsilon = b.pick([1e-5, None, 0.0, 0.1])
    if epsilon is not None:
        attributes["epsilon"] = epsilon
    if b.flag():
        attributes["momentum"] = 0.8
    if b.opset >= 14 and b.flag():
        attributes["training_mode"] = 0
    size: Shape = (shape[1],)
    if b.opset < 9 and b.flag():
        attributes["spatial"] = int(b.flag())
        size = size if attributes["spatial"] else shape[1:]
    if b.pick([False, False, False, True]):
        values = [np.ones(size, np.float32), *np.zeros((2, *size), np.float32), np.ones(size, np.float32)]
    else:
        values = [b.away_from_zero(*size), b.normal(*size), b.normal(*size), b.above_zero(*size)]
    names = [b.shared_or_new(v, f"bn{i}_", positive=i == 3) for i, v in enumerate(values)]
    return b.add("BatchNormalization", [x, *names], shape, **attributes)


def affine(b: Builder, x: str) -> str:
    """Mul, Add, Sub, Div by a constant of some broadcast form, or Neg."""
    op = b.pick(["Mul", "Add", "Sub", "Div", "Neg"])
    if op == "Neg":
        return b.add("Neg", [x], b.shapes[x])
    size = _constant_shape(b, b.shapes[x])
    values = _constant_values(b, op, size)
    # constant / x only where x cannot come near zero
    first = b.flag() and (op != "Div" or x in b.positive)
    name = b.shared_or_new(values, "k") if op != "Div" else b.constant(values, "k")
    out = np.broadcast_shapes(b.shapes[x], size)
    return b.add(op, [name, x] if first else [x, name], out)


def _constant_values(b: Builder, op: str, size: Shape) -> NDArray:
    if b.pick([False, False, False, True]):
        return np.full(size, 1 if op in ("Mul", "Div") else 0, np.float32)  # changes nothing
    return b.away_from_zero(*size) if op in ("Mul", "Div") else b.normal(*size)


def _constant_shape(b: Builder, shape: Shape) -> Shape:
    """Per channel and scalar forms first, then forms that vary along other axes, raise the rank or broadcast x."""
    ones = (1,) * (len(shape) - 2)
    n, c = shape[:2]
    forms: list[Shape] = [(1, c, *ones), (c, *ones), (), (1,), (1, 1, *ones)]
    forms += [shape[-1:], (shape[-2], 1), (n, 1, *ones), (1, *shape[1:]), shape[1:], shape, (1, *shape)]
    forms += [(1, *(1,) * len(shape)), (3, *(1,) * len(shape))]
    forms += [(*shape[:axis], 3, *shape[axis + 1 :]) for axis in (0, 1) if shape[axis] == 1]
    form: Shape = b.pick(forms)
    if len(form) > 5:
        return (1, c, *ones)
    b.batch_is_fixed |= len(form) > len(shape) or (len(form) == len(shape) and form[0] > 1)
    return form


def activation(b: Builder, x: str) -> str:
    """A pointwise nonlinearity."""
    op = b.pick(["Relu", "LeakyRelu", "Sigmoid", "Tanh"])
    y = b.add(op, [x], b.shapes[x], **({"alpha": 0.2} if op == "LeakyRelu" else {}))
    if op == "Sigmoid":
        b.positive.add(y)
    return y
