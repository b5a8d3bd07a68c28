"""Channels that training has switched off: a gamma, a weight or a variance so small that the product underflows.

What underflow takes from such a channel shows nowhere in float32 and bfloat16; in float16 it may.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from tests.cases.case import Case, fold, refuse, tolerance
from tests.cases.stored_types import CONV, typed
from tests.tiny import Draw, X, model

NEXT_GEMM = "fold-bn-into-next-gemm"
BF16 = ml_dtypes.bfloat16


def weak(channel: int = 2, **values: float) -> dict[str, list[float]]:
    """Return gamma (around 1) and others of five channels, with one value of one channel changed."""
    ordinary = {"g": [1.0, 1.5, 0.75, 0.5, 2.0], "be": [0.5, 1.0, -1.0, 0.25, 0.75], "m": [0.1, 0.2, -0.1, 0.3, 0.5]}
    found = {k: list(v) for k, v in ordinary.items()}
    for name, value in values.items():
        found[name][channel] = value
    return found


def dead_weights(scale: float) -> np.ndarray:
    """Return a Conv's weights, those of channel 2 times ``scale``."""
    w = Draw(seed=3).normal(5, 3, 3, 2)
    w[2] *= np.float32(scale)
    return w


def switched_off(*, shift: float, gamma: float = 1e-42, kind: str = "float", dtype: Any = np.float32) -> Any:
    """Return Conv and BN with a weak gamma and no mean in every channel, each shifted by ``shift``."""
    changed = {"g": [gamma] * 5, "be": [shift] * 5, "m": [0.0] * 5, "b": [0.0] * 5}
    return typed(kind, dtype, **changed)


def before_gemm(gamma: float) -> Callable[[], onnx.ModelProto]:
    """Return BN, one gamma of which is ``gamma``, and Gemm."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.bn(3) | {"w": draw.normal(3, 5), "b": draw.normal(5)}
        consts["g"][1] = gamma
        text = """(float[7,3] x) => (float[7,5] y) {
            h = BatchNormalization <epsilon = 1e-3> (x, g, be, m, v) y = Gemm (h, w, b) }"""
        return model(text, consts)

    return build


def two_norms(gamma: float) -> Callable[[], onnx.ModelProto]:
    """Return Relu, two BNs with one weak gamma each in the same channel, Abs."""

    def build() -> onnx.ModelProto:
        one, two = Draw().bn(3), Draw(seed=7).bn(3)
        one["g"][1] = two["g"][1] = gamma
        consts = one | {f"{k}2": v for k, v in two.items()}
        text = f"""{X} => (float[2,3,11,13] y) {{ h = Relu (x)
            p = BatchNormalization <epsilon = 1e-3> (h, g, be, m, v)
            t = BatchNormalization <epsilon = 1e-3> (p, g2, be2, m2, v2) y = Abs (t) }}"""
        return model(text, consts)

    return build


def factors(*values: float) -> Callable[[], onnx.ModelProto]:
    """Return Relu, two Muls by the same factors per channel, Abs."""
    k = np.asarray(values, np.float32).reshape(-1, 1, 1)
    text = f"{X} => (float[2,3,11,13] y) {{ h = Relu (x) p = Mul (h, k) t = Mul (p, k) y = Abs (t) }}"
    return lambda: model(text, {"k": k})


ROWS: tuple[Case, ...] = (
    fold("weak-gamma", typed("float", np.float32, **weak(g=1e-42)), CONV, "Conv"),
    fold("weak-gamma-no-shift", typed("float", np.float32, **weak(g=1e-42, be=0.0, m=0.0)), CONV, "Conv"),
    fold("weak-weight", typed("float", np.float32, w=dead_weights(1e-38), **weak(g=1e-3)), CONV, "Conv"),
    fold("weak-everything", typed("float", np.float32, w=dead_weights(1e-40), **weak(g=1e-41, be=1e-40)), CONV, "Conv"),
    fold(
        "weak-gamma-and-variance",
        typed("float", np.float32, eps=1e-10, v=[1.0, 1.0, 1e-40, 1.0, 1.0], **weak(g=1e-44)),
        CONV,
        "Conv",
    ),
    fold(
        "weak-gamma-bfloat16",
        typed("bfloat16", BF16, opset=22, ir=10, **weak(g=1e-39)),
        CONV,
        "Conv",
        tol=tolerance(BF16),
        ort=False,
    ),
    fold("all-weak-but-shifted", switched_off(shift=0.5), CONV, "Conv"),
    refuse(
        "all-weak",
        switched_off(shift=0.0),
        CONV,
        "rounding",
        "Conv BatchNormalization",
        switched_off(shift=1e-9),
        says="0",
        ort=False,
    ),
    refuse(
        "fp16-all-weak",
        switched_off(shift=0.0, gamma=1e-6, kind="float16", dtype=np.float16),
        CONV,
        "rounding",
        "Conv BatchNormalization",
        switched_off(shift=0.0, gamma=0.5, kind="float16", dtype=np.float16),
        tol=4e-3,
    ),
    fold("weak-gamma-forward", before_gemm(1e-42), NEXT_GEMM, "Gemm"),
    fold("weak-gammas-merge", two_norms(1e-25), "merge-bn-into-bn", "Relu BatchNormalization Abs"),
    fold("weak-factors-merge", factors(0.5, 1e-25, 2.0), "merge-affines", "Relu Mul Abs"),
    refuse("weak-factors-alone", factors(1e-22, 1e-22, 1e-22), "merge-affines", "rounding", "Mul Mul", ort=False),
)
