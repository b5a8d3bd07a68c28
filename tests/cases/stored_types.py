"""Conv and BatchNormalization in each stored type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from tests.cases.case import Case, fold, refuse, stored_as, tolerance
from tests.tiny import Draw, model

CONV = "fold-bn-into-conv"


def io(kind: str) -> str:
    """Return graph inputs and outputs of an ONNX text type."""
    return f"({kind}[2,3,11,13] x) => ({kind}[2,5,9,12] y)"


def typed(
    kind: str, dtype: Any, *, opset: int = 17, ir: int = 8, stats: Any = None, eps: float = 1e-3, **changed: Any
) -> Callable[[], onnx.ModelProto]:
    """Return the builder of Conv+BN in one stored type; ``stats`` is BN's own; ``changed`` replaces constants."""

    def build() -> onnx.ModelProto:
        draw = Draw(dtype)
        consts = draw.conv(5, 3, 3, 2, bias=5) | Draw(stats or dtype, seed=7).bn(5)
        text = f"{io(kind)} {{ h = Conv (x, w, b) y = BatchNormalization <epsilon = {eps}> (h, g, be, m, v) }}"
        consts |= {k: np.asarray(v).astype(consts[k].dtype) for k, v in changed.items()}
        return model(text, consts, opset=opset, ir=ir)

    return build


SMALL_W = Draw(seed=3).normal(5, 3, 3, 2) * 0.02
NO_VAR = [1.0, 0.0, 0.5, 2.0, 1.5]
NEAR_MEAN = [0.1, 1e-3, 0.2, -0.1, 0.3]
SMALL_B = [0.1, 2e-3, 0.2, -0.1, 0.3]
BIG_GAMMA = [1.0, 1.5, 60000.0, 0.5, 2.0]
TINY_VAR = [1.0, 1.5, 1e-3, 0.5, 2.0]

VAR_0 = typed("float16", np.float16, eps=1e-8, w=SMALL_W, v=NO_VAR, m=NEAR_MEAN, b=SMALL_B)
# One channel's factor is 1.3e6, its weights are near 0.1: the products pass 65504, the outputs do not.
TOO_BIG = {"w": SMALL_W * 5, "b": NEAR_MEAN, "m": NEAR_MEAN, "v": TINY_VAR}

ROWS: tuple[Case, ...] = (
    fold(
        "float64", typed("double", np.float64), CONV, "Conv", ort=False, tol=1e-12, check=stored_as(TensorProto.DOUBLE)
    ),
    fold(
        "float16",
        typed("float16", np.float16),
        CONV,
        "Conv",
        tol=tolerance(np.float16),
        check=stored_as(TensorProto.FLOAT16),
    ),
    fold("fp16-var-0-eps-1e-8", VAR_0, CONV, "Conv", tol=tolerance(np.float16), check=stored_as(TensorProto.FLOAT16)),
    fold(
        "bn15-fp16-params-fp32",
        typed("float16", np.float16, stats=np.float32),
        CONV,
        "Conv",
        tol=tolerance(np.float16),
        check=stored_as(TensorProto.FLOAT16),
    ),
    refuse(
        "fp16-overflow",
        typed("float16", np.float16, g=BIG_GAMMA, **TOO_BIG),
        CONV,
        "overflow",
        "Conv BatchNormalization",
        typed("float16", np.float16, g=[1.0, 1.5, 1.0, 0.5, 2.0], **TOO_BIG),
        tol=tolerance(np.float16),
        feed_scale=1e-3,
        says="2",
    ),
)
