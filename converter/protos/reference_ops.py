"""Operators that onnx.reference lacks, gets wrong, computes in float32 or computes too slowly.

Each takes a :class:`Call` and returns the outputs. Found by running models against onnxruntime:
BatchNormalization before opset 14 runs as training or raises; DequantizeLinear is missing at opset 10-18; Erf is
rounded to float32; LRN loops over the batch axis; Softmax before opset 13 ignores that it flattens; binary
operators before opset 7 ignore ``axis`` and ``broadcast``; Upsample knows integer factors only.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from converter.protos.reference_call import Call, Op, Outputs
from converter.protos.reference_conv import Array, conv, conv_transpose
from converter.protos.reference_extra import EXTRAS, erf, gelu
from converter.protos.reference_pool import POOLS
from converter.protos.reference_resize import Rule, resize, target


def _sliding(call: Call) -> dict[str, Any]:
    return {k: call.get(k) for k in ("auto_pad", "strides", "dilations", "pads")}


def _conv(call: Call) -> Outputs:
    x, weight, bias = call.input(0), call.input(1), call.input(2)
    return (conv(x, weight, bias, group=call.get("group", 1), **_sliding(call)),)


def _conv_transpose(call: Call) -> Outputs:
    extra = {k: call.get(k) for k in ("output_padding", "output_shape")}
    x, weight, bias = call.input(0), call.input(1), call.input(2)
    return (conv_transpose(x, weight, bias, group=call.get("group", 1), **_sliding(call), **extra),)


def is_training(op_type: str, opset: int, attributes: dict[str, Any], n_outputs: int) -> bool:
    """Whether a BatchNormalization normalises with the statistics of its own batch."""
    if op_type != "BatchNormalization":
        return False
    if opset >= 14:
        return bool(attributes.get("training_mode", 0))
    return not attributes.get("is_test", 0) if opset < 7 else n_outputs > 1


def _batch_norm(call: Call) -> Outputs:
    x, scale, bias, mean, var = call.inputs[:5]
    eps, momentum = call.get("epsilon", float(np.float32(1e-5))), call.get("momentum", float(np.float32(0.9)))
    shape = (1, -1) + (1,) * (x.ndim - 2) if scale.ndim == 1 else (1, *scale.shape)
    if not is_training("BatchNormalization", call.opset, call.attributes, call.n_outputs):
        return (_normalise(x, [p.reshape(shape) for p in (scale, bias, mean, var)], eps),)
    axes = (0, *range(2, x.ndim)) if scale.ndim == 1 else (0,)
    now_mean, now_var = x.mean(axis=axes), x.var(axis=axes)
    y = _normalise(x, [p.reshape(shape) for p in (scale, bias, now_mean, now_var)], eps)
    running = [old * momentum + new * (1 - momentum) for old, new in ((mean, now_mean), (var, now_var))]
    return (y, *running, now_mean, now_var)[: call.n_outputs]


def _normalise(x: Array, parameters: list[Array], eps: float) -> Array:
    scale, bias, mean, var = parameters
    y = np.asarray(x - mean)
    y *= scale / np.sqrt(var + eps)
    y += bias
    return y


def _lrn(call: Call) -> Outputs:
    x, size = call.input(0), call.get("size")
    low, high = (size - 1) // 2, -(-(size - 1) // 2)
    squares = np.pad(x * x, [(0, 0), (low, high), *[(0, 0)] * (x.ndim - 2)])
    total = sum(squares[:, k : k + x.shape[1]] for k in range(size))
    alpha, beta, bias = (call.get(k, d) for k, d in (("alpha", float(np.float32(1e-4))), ("beta", 0.75), ("bias", 1.0)))
    return (x / (bias + alpha / size * total) ** beta,)


def _softmax_like(finish: Callable[[Array, int], Array]) -> Op:
    def op(call: Call) -> Outputs:
        x = call.input(0)
        if x.size == 0:
            return (x,)
        axis = call.get("axis", -1 if call.opset >= 13 else 1)
        if call.opset >= 13:
            return (finish(x, axis),)
        # Before opset 13 all axes from `axis` on are normalised together.
        flat = x.reshape(math.prod(x.shape[: axis % x.ndim if axis < x.ndim else x.ndim]), -1)
        return (finish(flat, 1).reshape(x.shape),)

    return op


def _softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def _log_softmax(x: Array, axis: int) -> Array:
    shifted = x - x.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def _hardmax(x: Array, axis: int) -> Array:
    result = np.zeros_like(x)
    np.put_along_axis(result, np.expand_dims(x.argmax(axis=axis), axis), 1, axis=axis)
    return result


def _dequantize(call: Call) -> Outputs:
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


def _resize(call: Call) -> Outputs:
    x = call.input(0)
    if call.opset < 11:
        scales, sizes, roi = call.input(1), None, None
        rule = Rule(call.get("mode", "nearest"), "asymmetric", "floor")
    else:
        roi, scales, sizes = (call.input(i) for i in (1, 2, 3))
        rule = _resize_rule(call)
    lists = [None if v is None or v.size == 0 else v.tolist() for v in (scales, sizes, roi)]
    axes, policy = call.get("axes"), call.get("keep_aspect_ratio_policy", "stretch")
    full_scales, full_sizes = target(x.shape, lists[0], lists[1], axes, policy)
    return (resize(x, full_scales, full_sizes, rule, _full_roi(lists[2], axes, x.ndim)),)


def _resize_rule(call: Call) -> Rule:
    return Rule(
        mode=call.get("mode", "nearest"),
        coordinates=call.get("coordinate_transformation_mode", "half_pixel"),
        nearest=call.get("nearest_mode", "round_prefer_floor"),
        cubic_a=call.get("cubic_coeff_a", -0.75),
        exclude_outside=bool(call.get("exclude_outside", 0)),
        extrapolation=call.get("extrapolation_value", 0.0),
        antialias=bool(call.get("antialias", 0)),
    )


def _full_roi(roi: list[float] | None, axes: list[int] | None, rank: int) -> list[float] | None:
    if roi is None or not axes:
        return roi
    full = [0.0] * rank + [1.0] * rank
    for k, axis in enumerate(axes):
        full[axis % rank], full[axis % rank + rank] = roi[k], roi[k + len(axes)]
    return full


def _upsample(call: Call) -> Outputs:
    x = call.input(0)
    scales = call.get("scales") or call.input(1).tolist()
    mode = {"bilinear": "linear"}.get(call.get("mode", "nearest"), call.get("mode", "nearest"))
    full_scales, sizes = target(x.shape, scales, None, None)
    return (resize(x, full_scales, sizes, Rule(mode, "asymmetric", "floor"), None),)


_COMBINE = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _put(data: Array, where: tuple[Array, ...], updates: Array, reduction: str) -> Outputs:
    result = np.array(data)
    combine = _COMBINE.get(reduction)
    if combine is None:
        result[where] = updates
    else:
        combine.at(result, where, updates)
    return (result,)


def _scatter_nd(call: Call) -> Outputs:
    data, indices, updates = call.inputs[:3]
    return _put(data, tuple(np.moveaxis(indices, -1, 0)), updates, call.get("reduction", ""))


def _scatter(call: Call) -> Outputs:
    data, indices, updates = call.inputs[:3]
    where = list(np.indices(indices.shape))
    where[call.get("axis", 0)] = indices
    return _put(data, tuple(where), updates, call.get("reduction", ""))


def _dropout(call: Call) -> Outputs:
    x, ratio, training = call.input(0), call.input(1), call.input(2)
    mask = np.ones(x.shape, dtype=bool)
    if call.opset >= 12 and training is not None and bool(training):
        p = 0.5 if ratio is None else float(ratio)
        mask = np.random.default_rng(zlib.crc32(call.name.encode())).random(x.shape) >= p
        x = np.where(mask, x / (1 - p), 0.0)
    return (x, mask if call.opset >= 10 else mask.astype(np.float64))[: call.n_outputs]


def _legacy_binary(function: Callable[[Array, Array], Array]) -> Op:
    """Arithmetic with the one-sided broadcasting of opset 6 and before."""

    def op(call: Call) -> Outputs:
        a, b = call.input(0), call.input(1)
        if call.get("broadcast", 0) and call.get("axis") is not None and b.ndim:
            b = b.reshape(b.shape + (1,) * (a.ndim - call.get("axis") % a.ndim - b.ndim))
        return (function(a, b),)

    return op


def _sigmoid(call: Call) -> Outputs:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-call.input(0))),)


OPS: dict[tuple[str, str], Op] = {
    ("", "Conv"): _conv,
    ("", "ConvTranspose"): _conv_transpose,
    ("", "BatchNormalization"): _batch_norm,
    ("", "LRN"): _lrn,
    ("", "Softmax"): _softmax_like(_softmax),
    ("", "LogSoftmax"): _softmax_like(_log_softmax),
    ("", "Hardmax"): _softmax_like(_hardmax),
    ("", "Erf"): lambda c: (erf(c.input(0)),),
    ("", "Sigmoid"): _sigmoid,
    ("", "Gelu"): lambda c: (gelu(c.input(0), c.get("approximate", "none") == "tanh"),),
    ("", "DequantizeLinear"): _dequantize,
    ("", "Resize"): _resize,
    ("", "Upsample"): _upsample,
    ("", "ScatterND"): _scatter_nd,
    ("", "ScatterElements"): _scatter,
    ("", "Scatter"): _scatter,
    ("", "Dropout"): _dropout,
}
OPS.update({("", name): op for name, op in POOLS.items()})
OPS.update(EXTRAS)

_LEGACY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power}


def find(domain: str, op_type: str, opset: int) -> Op | None:
    """Our own implementation of an operator, if there is one."""
    if domain == "" and opset < 7 and op_type in _LEGACY:
        return _legacy_binary(_LEGACY[op_type])
    return OPS.get((domain, op_type))
