"""Quantized operators in float64: DequantizeLinear, and onnxruntime's own (com.microsoft).

What is quantized at run time is rounded where runtimes round it, in float32; sums of integers are exact. Source:
ONNX DequantizeLinear 10 to 25, DynamicQuantizeLinear 11; onnxruntime's ContribOperators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from converter.referee.reference.call import KernelCall, Op, Outputs, Unsupported
from converter.referee.reference.conv import Array

_MICROSOFT = "com.microsoft"


def dequantize(call: KernelCall) -> Outputs:
    """scale * (x - zero), for all, per slice of an axis, or per block along it."""
    x, scale, zero = call.input(0), call.input(1), call.input(2)
    fit = _per_axis(x, call.get("axis", 1), call.get("block_size", 0))
    values = x.astype(np.float64)
    if zero is not None:
        values = values - fit(zero.astype(np.float64))
    return (values * fit(np.asarray(scale, dtype=np.float64)),)


def _per_axis(x: Array, axis: int, block: int) -> Callable[[Array], Array]:
    """How a scale or zero point lines up with ``x``: one for all, one per slice of ``axis``, or blocked along it."""

    def fit(p: Array) -> Array:
        if p.size == 1 and p.ndim <= 1:
            return p.reshape(())
        if block:
            return np.take(np.repeat(p, block, axis=axis), range(x.shape[axis]), axis=axis)
        return p.reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])

    return fit


def quantize_dynamically(x: Array) -> tuple[Array, float]:
    """Integers less their zero point, and their scale, as DynamicQuantizeLinear finds them (uint8, float32)."""
    values = np.asarray(x, np.float32)
    low, high = np.float32(values.min(initial=0.0)), np.float32(values.max(initial=0.0))
    scale = (high - low) / np.float32(255)
    if scale == 0:
        return np.zeros(values.shape), 1.0
    zero = np.clip(np.rint(-low / scale), 0, 255)
    integers = np.clip(np.rint(values / scale) + zero, 0, 255)
    return (integers - zero).astype(np.float64), float(scale)


def _center(values: Array, zero: Any) -> Array:
    """Integers less their zero point, which may be one per column."""
    return values.astype(np.float64) - (0 if zero is None else zero.astype(np.float64))


def _dynamic_quantize_matmul(call: KernelCall) -> Outputs:
    integers, scale = quantize_dynamically(call.input(0))
    y = integers @ _center(call.input(1), call.input(3)) * (scale * call.input(2))
    return (y if call.input(4) is None else y + call.input(4),)


def _matmul_integer_to_float(call: KernelCall) -> Outputs:
    left, right = _center(call.input(0), call.input(4)), _center(call.input(1), call.input(5))
    y = left @ right * (call.input(2) * call.input(3))
    return (y if call.input(6) is None else y + call.input(6),)


def unpack_blocks(packed: Array, scales: Array, zeros: Any, groups: Any, given: dict[str, Any]) -> Array:
    """The matrix [N, K] of a MatMulNBits, dequantized.

    Parameters
    ----------
    packed : ndarray uint8 [N, blocks, bytes of a block]
    scales : ndarray [N * blocks]
    zeros : ndarray, optional; packed as the matrix is, a row [blocks] for each output, or floats
    groups : must be None
    """
    bits, n, k, block = given.get("bits", 4), given["N"], given["K"], given["block_size"]
    if bits not in (2, 4, 8) or groups is not None:
        raise Unsupported(f"MatMulNBits of {bits} bits, or with g_idx")
    blocks = -(-k // block)
    integers = _unpack_bits(packed.reshape(n, blocks, -1), bits)[..., :block]
    if zeros is None:
        at: Any = float(1 << (bits - 1))
    elif zeros.dtype == np.uint8:
        at = _unpack_bits(zeros.reshape(n, -1), bits)[:, :blocks].reshape(n, blocks, 1)
    else:
        at = zeros.astype(np.float64).reshape(n, blocks, 1)
    values = (integers - at) * np.asarray(scales, np.float64).reshape(n, blocks, 1)
    return np.asarray(values.reshape(n, -1)[:, :k])


def _unpack_bits(packed: Array, bits: int) -> Array:
    """Bytes [..., n] as numbers [..., n * 8 / bits], low bits first."""
    parts = [(packed >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1).astype(np.float64)


def _matmul_n_bits(call: KernelCall) -> Outputs:
    packed, scales, zeros, groups = (call.input(k) for k in range(1, 5))
    matrix = unpack_blocks(packed, scales, zeros, groups, call.attributes)
    y = np.asarray(call.input(0), np.float64) @ matrix.T
    return (y if call.input(5) is None else y + call.input(5),)


def _q_gemm(call: KernelCall) -> Outputs:
    left, right = _center(call.input(0), call.input(2)), call.input(3)
    transposed = call.get("transB", 0)
    zero = call.input(5)
    right = _center(right.T if transposed else right, zero)
    alpha = call.get("alpha", 1.0)
    scale = alpha * call.input(1) * call.input(4)
    sums = (left.T if call.get("transA", 0) else left) @ right
    if call.input(6) is not None:
        sums = sums + call.input(6)
    y = sums * scale
    if call.input(7) is None:
        return (y,)
    return (_quantize(y, call.input(7), call.input(8), np.zeros(0, np.uint8)),)


def _dynamic_quantize_lstm(call: KernelCall) -> Outputs:
    """X is quantized as a whole, each state on its own; gates in the order i, o, f, c."""
    x, bias, state, cell, peepholes = (call.input(k) for k in (0, 3, 5, 6, 7))
    usual = [a.lower() for a in call.get("activations") or []]
    if usual not in ([], ["sigmoid", "tanh", "tanh"] * (len(usual) // 3)) or call.get("clip") or peepholes is not None:
        raise Unsupported("DynamicQuantizeLSTM with activations of its own, clip or peepholes")
    lengths = call.input(4)
    if call.get("input_forget") or (lengths is not None and (lengths < x.shape[0]).any()):
        raise Unsupported("DynamicQuantizeLSTM with sequences of different lengths")
    direction, size = call.get("direction", "forward"), call.get("hidden_size")
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    outputs, states, cells = [], [], []
    for k, backward in enumerate(ways):
        w, r = (_dequantize_gates(call, slot, k) for slot in (1, 2))
        both = np.zeros(4 * size) if bias is None else bias[k][: 4 * size] + bias[k][4 * size :]
        h = np.zeros((x.shape[1], size)) if state is None else state[k]
        c = np.zeros((x.shape[1], size)) if cell is None else cell[k]
        y, h, c = _run_lstm(x[::-1] if backward else x, w, r, both, h, c)
        outputs.append(y[::-1] if backward else y)
        states.append(h)
        cells.append(c)
    return (np.stack(outputs, axis=1), np.stack(states), np.stack(cells))[: call.n_outputs]


def _dequantize_gates(call: KernelCall, slot: int, k: int) -> Array:
    """W [I, 4H] or R [H, 4H] of one direction."""
    scale, zero = call.input(8 if slot == 1 else 10), call.input(9 if slot == 1 else 11)
    return np.asarray(_center(call.input(slot)[k], None if zero is None else zero[k]) * np.asarray(scale)[k])


def _run_lstm(x: Array, w: Array, r: Array, bias: Array, h: Array, c: Array) -> tuple[Array, Array, Array]:
    def sigmoid(v: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-v)))

    integers, scale = quantize_dynamically(x)
    given = integers @ w * scale + bias
    found = []
    for row in given:
        integers, scale = quantize_dynamically(h)
        i, o, f, g = np.split(row + integers @ r * scale, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        found.append(h)
    return np.stack(found), h, c


# -- operators on integers whose result is rounded to integers again --------------------------


def _quantize(y: Array, scale: Any, point: Any, like: Any) -> Array:
    """y / scale, rounded to the nearest integer (of two, the even one), and cut to the type's range."""
    dtype = like.dtype if point is None else point.dtype
    info = np.iinfo(dtype)
    q = np.rint(y / np.asarray(scale, np.float64)) + (0 if point is None else point.astype(np.float64))
    return np.asarray(np.clip(q, info.min, info.max).astype(dtype))


def _read(call: KernelCall, slot: int) -> Array:
    """The float64 values of an operand, its scale and its zero point, in three slots in a row."""
    return np.asarray(_center(call.input(slot), call.input(slot + 2)) * np.asarray(call.input(slot + 1), np.float64))


def _make_pair_op(combine: Callable[[Array, Array], Array]) -> Op:
    def op(call: KernelCall) -> Outputs:
        y = combine(_read(call, 0), _read(call, 3))
        return (_quantize(y, call.input(6), call.input(7), call.input(0)),)

    return op


def _make_single_op(compute: Callable[[Array, KernelCall], Array]) -> Op:
    def op(call: KernelCall) -> Outputs:
        return (_quantize(compute(_read(call, 0), call), call.input(3), call.input(4), call.input(0)),)

    return op


def _take_mean(x: Array, call: KernelCall) -> Array:
    """Of each map."""
    axes = range(1, x.ndim - 1) if call.get("channels_last", 0) else range(2, x.ndim)
    return np.asarray(x.mean(axis=tuple(axes), keepdims=True))


def _leak(x: Array, call: KernelCall) -> Array:
    return np.where(x >= 0, x, x * call.get("alpha", 0.01))


def _concat_quantized(call: KernelCall) -> Outputs:
    parts = [_read(call, slot) for slot in range(2, len(call.inputs), 3)]
    joined = np.concatenate(parts, axis=call.get("axis", 1))
    return (_quantize(joined, call.input(0), call.input(1), call.input(2)),)


def _where_quantized(call: KernelCall) -> Outputs:
    y = np.where(call.input(0), _read(call, 1), _read(call, 4))
    return (_quantize(y, call.input(7), call.input(8), call.input(1)),)


QUANTIZED: dict[tuple[str, str], Op] = {
    (_MICROSOFT, "QLinearAdd"): _make_pair_op(np.add),
    (_MICROSOFT, "QLinearMul"): _make_pair_op(np.multiply),
    # No QLinearAveragePool: means of few steps are ties, which kernels round as they like.
    (_MICROSOFT, "QLinearGlobalAveragePool"): _make_single_op(_take_mean),
    (_MICROSOFT, "QLinearLeakyRelu"): _make_single_op(_leak),
    (_MICROSOFT, "QLinearSigmoid"): _make_single_op(lambda x, _: np.asarray(1 / (1 + np.exp(-x)))),
    (_MICROSOFT, "QLinearConcat"): _concat_quantized,
    (_MICROSOFT, "QLinearWhere"): _where_quantized,
    (_MICROSOFT, "DequantizeLinear"): dequantize,
    (_MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_quantize_matmul,
    (_MICROSOFT, "MatMulIntegerToFloat"): _matmul_integer_to_float,
    (_MICROSOFT, "MatMulNBits"): _matmul_n_bits,
    (_MICROSOFT, "QGemm"): _q_gemm,
    (_MICROSOFT, "DynamicQuantizeLSTM"): _dynamic_quantize_lstm,
}
