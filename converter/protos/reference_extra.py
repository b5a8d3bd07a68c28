"""Operators outside the standard: onnxruntime's fused ones, and experimental ones of 2018 exporters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from converter.protos.reference_call import Call, Op, Outputs, Unsupported
from converter.protos.reference_conv import Array, conv


def erf(x: Array) -> Array:
    """The error function, elementwise, in float64."""
    values = np.fromiter(map(math.erf, x.ravel().tolist()), dtype=np.float64, count=x.size)
    return values.reshape(x.shape)


def gelu(x: Array, approximate: bool = False) -> Array:
    """Gaussian error linear unit, exact or by tanh."""
    if approximate:
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


def _image_scaler(call: Call) -> Outputs:
    bias = np.asarray(call.get("bias", ()), dtype=np.float64).reshape(1, -1, 1, 1)
    return (call.input(0) * call.get("scale", 1.0) + bias,)


def _crop(call: Call) -> Outputs:
    x, (left, top, right, bottom) = call.input(0), call.get("border")
    size = call.get("scale")
    high, wide = size or (x.shape[2] - top - bottom, x.shape[3] - left - right)
    return (np.ascontiguousarray(x[:, :, top : top + high, left : left + wide]),)


def _activate(x: Array, kind: str, params: list[float]) -> Array:
    match kind:
        case "":
            return x
        case "Relu":
            return np.maximum(x, 0)
        case "LeakyRelu":
            return np.where(x >= 0, x, x * params[0])
        case "Sigmoid":
            return np.asarray(1 / (1 + np.exp(-x)))
        case "Tanh":
            return np.tanh(x)
        case "Clip":
            return np.clip(x, params[0], params[1])
        case "HardSigmoid":
            return np.clip(x * params[0] + params[1], 0, 1)
    raise Unsupported(f"activation {kind} of a fused operator")


def _fused_conv(call: Call) -> Outputs:
    sliding: dict[str, Any] = {k: call.get(k) for k in ("auto_pad", "strides", "dilations", "pads")}
    y = conv(*(call.input(i) for i in range(3)), group=call.get("group", 1), **sliding)
    if call.input(3) is not None:
        y = y + call.input(3)
    return (_activate(y, call.get("activation", ""), call.get("activation_params", [])),)


MICROSOFT = "com.microsoft"
EXTRAS: dict[tuple[str, str], Op] = {
    # Experimental operators of 2018 exporters, which onnxruntime still runs.
    ("", "ImageScaler"): _image_scaler,
    ("", "Crop"): _crop,
    ("", "Affine"): lambda c: (c.get("alpha", 1.0) * c.input(0) + c.get("beta", 0.0),),
    ("", "ScaledTanh"): lambda c: (c.get("alpha", 1.0) * np.tanh(c.get("beta", 1.0) * c.input(0)),),
    ("", "ParametricSoftplus"): lambda c: (c.get("alpha") * np.log1p(np.exp(c.get("beta") * c.input(0))),),
    # What onnxruntime's own optimiser writes.
    (MICROSOFT, "FusedConv"): _fused_conv,
    (MICROSOFT, "Gelu"): lambda c: (gelu(c.input(0)),),
    (MICROSOFT, "BiasGelu"): lambda c: (gelu(c.input(0) + c.input(1)),),
}
