"""Stored types, ranges, epsilon, bad statistics, zero biases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from tests.cases.case import Build, Case, fold, inputs_of, refuse, stored_as, tolerance
from tests.cases.conv_batch_norm import CONV, CONVT, SMALL, between, epsilon
from tests.cases.matmul_batch_norm import GEMM, MATMUL, gemm
from tests.cases.sharing import PLAIN
from tests.cases.stored_types import SMALL_W, typed
from tests.tiny import Draw, X, model, sub

BN = "y = BatchNormalization <epsilon = 1e-3> (t, g, be, m, v)"
STAY = "Conv BatchNormalization"
BF16 = ml_dtypes.bfloat16
KINDS = {"float16": np.float16, "bfloat16": BF16, "double": np.float64}
STORED = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "double": TensorProto.DOUBLE}
GRAPHS = {
    "ConvTranspose": ("2,3,5,7", "2,5,7,8", (3, 5, 3, 2), CONVT, "ConvTranspose"),
    "Gemm": ("7,3", "7,5", (3, 5), GEMM, "Gemm"),
    "MatMul": ("7,3", "7,5", (3, 5), MATMUL, "Gemm | MatMul Add"),
}


def other(op: str, kind: str, stats: Any = None) -> Build:
    """Return ConvTranspose, Gemm or MatMul in a stored type, then BN with parameters of type ``stats``."""
    x, y, w, _, _ = GRAPHS[op]

    def build() -> onnx.ModelProto:
        draw = Draw(KINDS[kind])
        consts = {"w": draw.normal(*w), "b": draw.normal(5)} | Draw(stats or KINDS[kind], seed=7).bn(5)
        call = "x, w" if op == "MatMul" else "x, w, b"
        consts = {k: v for k, v in consts.items() if op != "MatMul" or k != "b"}
        return model(f"({kind}[{x}] x) => ({kind}[{y}] y) {{ t = {op} ({call}) {BN} }}", consts, opset=22, ir=10)

    return build


def type_row(op: str, kind: str) -> Case:
    """Make a row of one operator in one stored type, which must be the type of what is written."""
    _, _, _, name, ops = GRAPHS[op]
    return fold(
        f"{op.lower()}-{kind}",
        other(op, kind),
        name,
        ops,
        tol=tolerance(KINDS[kind]),
        ort=kind == "float16",
        check=stored_as(STORED[kind]),
    )


TYPES = (
    *(type_row(op, kind) for op in GRAPHS for kind in KINDS),
    fold(
        "conv-bfloat16",
        typed("bfloat16", BF16, opset=22, ir=10),
        CONV,
        "Conv",
        tol=tolerance(BF16),
        ort=False,
        check=stored_as(TensorProto.BFLOAT16),
    ),
    fold(
        "bfloat16-params-fp32",
        typed("bfloat16", BF16, opset=22, ir=10, stats=np.float32),
        CONV,
        "Conv",
        tol=tolerance(BF16),
        ort=False,
        check=stored_as(TensorProto.BFLOAT16),
    ),
    fold(
        "gemm-fp16-params-fp32",
        other("Gemm", "float16", np.float32),
        GEMM,
        "Gemm",
        tol=tolerance(np.float16),
        check=stored_as(TensorProto.FLOAT16),
    ),
    refuse(
        "params-fp32-overflow-fp16",
        typed("float16", np.float16, stats=np.float32, g=[1.0, 1.5, 1.0, 0.5, 1e6]),
        CONV,
        "overflow",
        STAY,
        typed("float16", np.float16, stats=np.float32),
        says="4",
        tol=tolerance(np.float16),
        feed_scale=1e-3,
        ort=False,
    ),
    fold(
        "fp16-eps-underflows-everywhere",
        typed("float16", np.float16, eps=1e-8, w=SMALL_W, v=[0.0] * 5, m=[1e-3] * 5, b=[2e-3] * 5),
        CONV,
        "Conv",
        tol=tolerance(np.float16),
        check=stored_as(TensorProto.FLOAT16),
    ),
)

# an epsilon read wrong moves channel 0 (variance 1e-4) by per cents ------------------------------


def gemm_small_variance(attribute: str) -> Build:
    """Return Gemm, BN with the small variances."""
    build = gemm()

    def changed() -> onnx.ModelProto:
        proto = sub(build(), v=SMALL)
        (node,) = [n for n in proto.graph.node if n.op_type == "BatchNormalization"]
        del node.attribute[:]
        if attribute:
            node.attribute.append(onnx.helper.make_attribute("epsilon", float(attribute)))
        return proto

    return changed


EPSILON = (
    *(
        fold(f"eps-{eps or 'absent'}-opset-{opset}", _conv, CONV, "Conv")
        for eps in ("", "0.0", "0.001", "1e-10")
        for opset in (9, 15)
        for _conv in [lambda eps=eps, opset=opset: epsilon(f"<epsilon = {eps}>" if eps else "", opset)]
    ),
    *(fold(f"gemm-eps-{eps or 'absent'}", gemm_small_variance(eps), GEMM, "Gemm") for eps in ("", "0.0", "0.5")),
)

# bad statistics ------------------------------------------------------------------------------------


def with_value(name: str, value: float, channel: int = 3, eps: str = "1e-3") -> Build:
    """Return Conv+BN where one entry of one parameter is ``value``."""

    def build() -> onnx.ModelProto:
        proto = epsilon(f"<epsilon = {eps}>")
        proto = sub(proto, **Draw(seed=5).bn(5))
        held = {t.name: onnx.numpy_helper.to_array(t).copy() for t in proto.graph.initializer}
        held[name][channel] = value
        return sub(proto, **{name: held[name]})

    return build


NAN, INF = float("nan"), float("inf")
GOOD = with_value("v", 1.25)


def bad(name: str, build: Build, code: str, **more: Any) -> Case:
    """Make a row whose channel 3 cannot be folded."""
    return refuse(f"bad-{name}", build, CONV, code, STAY, GOOD, says="3", **more)


BAD = (
    bad("var-below-minus-eps", with_value("v", -0.5), "non-positive-variance"),
    bad("var-is-minus-eps", with_value("v", -0.5, eps="0.5"), "non-positive-variance"),
    bad("var-0-eps-0", with_value("v", 0.0, eps="0.0"), "non-positive-variance"),
    *(bad(f"{n}-nan", with_value(n, NAN), "not-finite") for n in ("g", "be", "m", "v", "w", "b")),
    *(bad(f"{n}-inf", with_value(n, INF), "not-finite") for n in ("g", "be", "m", "v", "w", "b")),
    fold("var-slightly-negative", with_value("v", -5e-4), CONV, "Conv"),
    fold("var-0", with_value("v", 0.0), CONV, "Conv"),
    fold("gamma-0", with_value("g", 0.0), CONV, "Conv"),
    fold("gamma-negative", with_value("g", -1.5), CONV, "Conv"),
)

# ReLU between ---------------------------------------------------------------------------------------


def relu_bn_conv() -> onnx.ModelProto:
    """Conv, ReLU, BN, Conv: the BN cannot go back, but forward."""
    draw = Draw()
    consts = draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5) | draw.conv(7, 5, 2, 2, bias=7, tag="2")
    text = f"""{X} => (float[2,7,8,11] y) {{ h = Conv (x, w, b) r = Relu (h)
        t = BatchNormalization <epsilon = 1e-3> (r, g, be, m, v) y = Conv (t, w2, b2) }}"""
    return model(text, consts)


RELU = (
    fold("relu-bn-goes-forward", relu_bn_conv, "fold-bn-into-next-conv", "Conv Relu Conv"),
    *(
        refuse(f"conv-{op.lower()}-bn", between(op), CONV, "no-linear-op", f"{STAY} {op}", PLAIN)
        for op in ("Sigmoid", "LeakyRelu", "HardSwish")
    ),
)

# zero biases ------------------------------------------------------------------------------------------

DROP = "drop-zero-bias"


def zero(op: str, value: Any = 0.0, dtype: Any = np.float32, opset: int = 17, shape: tuple[int, ...] = (5,)) -> Build:
    """Return one linear operator whose bias holds ``value`` everywhere."""
    kind = {"float32": "float", "float16": "float16"}[np.dtype(dtype).name]
    texts = {
        "Conv": ("2,3,11,13", "2,5,9,12", (5, 3, 3, 2)),
        "ConvTranspose": ("2,3,11,13", "2,5,13,14", (3, 5, 3, 2)),
        "Gemm": ("7,3", "7,5", (3, 5)),
    }
    x, y, w = texts[op]

    def build() -> onnx.ModelProto:
        consts = {"w": Draw(dtype).normal(*w), "b": np.full(shape, value, dtype)}
        return model(f"({kind}[{x}] x) => ({kind}[{y}] y) {{ y = {op} (x, w, b) }}", consts, opset=opset)

    return build


def dropped(name: str, build: Build, op: str, **more: Any) -> Case:
    """Make a row whose bias goes."""
    return fold(f"zero-{name}", build, DROP, op, check=inputs_of(op, 2), **more)


def alone(text: str, **consts: np.ndarray) -> Callable[[], onnx.ModelProto]:
    """Return ReLU, one operator that does nothing, ReLU."""
    return lambda: model(f"{X} => (float[2,3,11,13] y) {{ h = Relu (x) {text} y = Relu (t) }}", consts)


ONE, NULL = np.ones((3, 1, 1), np.float32), np.zeros((3, 1, 1), np.float32)
IDENTITY_BN = {
    "g": np.ones(3, np.float32),
    "be": np.zeros(3, np.float32),
    "m": np.zeros(3, np.float32),
    "v": np.ones(3, np.float32),
}
ZERO = (
    dropped("conv-transpose", zero("ConvTranspose"), "ConvTranspose"),
    dropped("conv-minus-zero", zero("Conv", -0.0), "Conv"),
    dropped("conv-fp16", zero("Conv", dtype=np.float16), "Conv", tol=tolerance(np.float16)),
    dropped("gemm-m-n", zero("Gemm", shape=(7, 5)), "Gemm"),
    dropped("gemm-scalar", zero("Gemm", shape=()), "Gemm"),
    dropped("gemm-opset-11", zero("Gemm", opset=11), "Gemm"),
    refuse("gemm-opset-9", zero("Gemm", opset=9), DROP, "input-required", "Gemm", zero("Gemm", opset=11)),
    fold("add-zero", alone("t = Add (h, k)", k=NULL), "drop-identity-affine", "Relu Relu"),
    fold("sub-zero", alone("t = Sub (h, k)", k=NULL), "drop-identity-affine", "Relu Relu"),
    fold("mul-one", alone("t = Mul (k, h)", k=ONE), "drop-identity-affine", "Relu Relu"),
    fold("div-one", alone("t = Div (h, k)", k=ONE), "drop-identity-affine", "Relu Relu"),
    fold(
        "identity-bn",
        alone("t = BatchNormalization <epsilon = 0.0> (h, g, be, m, v)", **IDENTITY_BN),
        "drop-identity-bn",
        "Relu Relu",
    ),
)


def zero_bias_stays_when_shared() -> onnx.ModelProto:
    """A zero tensor is the bias of one Conv and an operand of an Add elsewhere."""
    draw = Draw()
    text = f"{X} => (float[2,5,9,12] y, float[5] z) {{ y = Conv (x, w, b) z = Add (b, k) }}"
    return model(text, {"w": draw.normal(5, 3, 3, 2), "b": np.zeros(5, np.float32), "k": draw.normal(5)})


ROWS: tuple[Case, ...] = (
    *TYPES,
    *EPSILON,
    *BAD,
    *RELU,
    *ZERO,
    fold("zero-bias-read-elsewhere", zero_bias_stays_when_shared, DROP, "Conv Add", check=inputs_of("Conv", 2)),
)
