"""ONNX ops as explicit sums over arrays of anything that adds and multiplies: symbols or floats.

Written from the operators' definitions, index by index, and knowing nothing of biasopt. The same
function proves a formula on symbols and evaluates it on numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

Array = NDArray[Any]


def symbols(name: str, *shape: int, **assumptions: bool) -> Array:
    """A tensor of distinct real symbols: name_0_0, name_0_1, …"""
    out = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        out[index] = sp.Symbol("_".join([name, *map(str, index)]), real=True, **assumptions)
    return out


def zeros(*shape: int) -> Array:
    """Exact zeros."""
    return np.full(shape, sp.Integer(0), dtype=object)


def assert_equal(left: Array, right: Array) -> None:
    """The same polynomial in every element, whatever the values of the symbols."""
    assert left.shape == right.shape
    for index in np.ndindex(left.shape):
        difference = sp.expand(left[index] - right[index])
        assert sp.simplify(difference) == 0, f"element {index} differs by {difference}"


def differ(left: Array, right: Array) -> list[tuple[int, ...]]:
    """Elements that are not the same polynomial."""
    return [i for i in np.ndindex(left.shape) if sp.simplify(sp.expand(left[i] - right[i])) != 0]


def per_channel(vector: Array, rank: int) -> Array:
    """A vector of C as [1, C, 1, …]."""
    return vector.reshape(1, -1, *(1,) * (rank - 2))


def batch_norm(x: Array, gamma: Array, beta: Array, mean: Array, sigma: Array) -> Array:
    """BatchNormalization in inference mode; sigma is sqrt(var + epsilon), a positive number."""
    g, b, m, s = (per_channel(v, x.ndim) for v in (gamma, beta, mean, sigma))
    return g * (x - m) / s + b


def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
) -> Array:
    """Conv: x [N, C, *spatial], w [O, C/group, *kernel], pads as ONNX orders them."""
    rank = x.ndim - 2
    pads, strides, dilations = pads or [0] * 2 * rank, strides or [1] * rank, dilations or [1] * rank
    n, _, *spatial = x.shape
    out, width, *kernel = w.shape
    size = [
        (spatial[a] + pads[a] + pads[a + rank] - (kernel[a] - 1) * dilations[a] - 1) // strides[a] + 1
        for a in range(rank)
    ]
    y = np.empty((n, out, *size), dtype=object)
    for index in np.ndindex(y.shape):
        sample, o, *at = index
        first = o // (out // group) * width  # first input channel of this output's group
        total = b[o] if b is not None else 0
        for i, *tap in np.ndindex(width, *kernel):
            where = [at[a] * strides[a] - pads[a] + tap[a] * dilations[a] for a in range(rank)]
            if all(0 <= where[a] < spatial[a] for a in range(rank)):
                total = total + w[(o, i, *tap)] * x[(sample, first + i, *where)]
        y[index] = total
    return y


def conv_transpose(
    x: Array,
    w: Array,
    b: Array | None = None,
    group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """ConvTranspose: x [N, C, *spatial], w [C, O/group, *kernel]; every input is scattered over its window."""
    rank = x.ndim - 2
    pads, strides = pads or [0] * 2 * rank, strides or [1] * rank
    n, channels, *spatial = x.shape
    _, width, *kernel = w.shape
    size = [strides[a] * (spatial[a] - 1) + kernel[a] - pads[a] - pads[a + rank] for a in range(rank)]
    out = width * group
    y = np.full((n, out, *size), 0, dtype=object)
    if b is not None:
        y = y + per_channel(b, x.ndim)
    for sample, c, *at in np.ndindex(x.shape):
        block = c // (channels // group) * width  # first output channel of this input's group
        for o, *tap in np.ndindex(width, *kernel):
            where = [at[a] * strides[a] - pads[a] + tap[a] for a in range(rank)]
            if all(0 <= where[a] < size[a] for a in range(rank)):
                y[(sample, block + o, *where)] += w[(c, o, *tap)] * x[(sample, c, *at)]
    return y


def gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    alpha: Any = 1,
    beta: Any = 1,
    trans_a: bool = False,
    trans_b: bool = False,
) -> Array:
    """Gemm: alpha * A' B' + beta * C, C broadcast to [M, N]."""
    left, right = a.T if trans_a else a, b.T if trans_b else b
    y = alpha * matmul(left, right)
    return y if c is None else y + beta * np.broadcast_to(c, y.shape)


def matmul(a: Array, b: Array) -> Array:
    """MatMul of [..., M, K] and [K, N]."""
    y = np.empty((*a.shape[:-1], b.shape[1]), dtype=object)
    for *lead, column in np.ndindex(y.shape):
        y[(*lead, column)] = sum(a[(*lead, k)] * b[k, column] for k in range(b.shape[0]))
    return y


def average_pool(x: Array, kernel: int, pad: int = 0, count_padding: bool = False) -> Array:
    """AveragePool over the last axis of [N, C, L]."""
    n, c, length = x.shape
    y = np.empty((n, c, length + 2 * pad - kernel + 1), dtype=object)
    for sample, channel, at in np.ndindex(y.shape):
        inside = [at - pad + tap for tap in range(kernel) if 0 <= at - pad + tap < length]
        count = kernel if count_padding else len(inside)
        y[sample, channel, at] = sum(x[sample, channel, i] for i in inside) / sp.Integer(count)
    return y


def combinations(**choices: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination of keyword arguments."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
