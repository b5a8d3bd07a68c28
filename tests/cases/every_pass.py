"""Rows for passes and reasons that the other chapters leave out."""

from __future__ import annotations

import numpy as np
import onnx

from tests.cases.arithmetic import C as PER_CHANNEL
from tests.cases.arithmetic import after_transposed
from tests.cases.before_conv import conv_then, lstm
from tests.cases.case import Case, fold, refuse
from tests.cases.constants_and_opsets import TAIL, built
from tests.cases.unusual_models import BN, bn_of, graph
from tests.tiny import X, as_inputs, sub

CONVT = "fold-bn-into-conv-transpose"
IDENTITY_STATS = {"g": np.ones(3, np.float32), "be": np.zeros(3, np.float32), "m": np.zeros(3, np.float32)}
IDENTITY = IDENTITY_STATS | {"v": np.ones(3, np.float32)}
SAME = "(float[2,3,11,13] x) => (float[2,3,11,13] y)"
NORM = "BatchNormalization <epsilon = 0.0>"


def transposed_twice(reader: str) -> str:
    """ConvTranspose and BatchNormalization; a second output reads the one or the other."""
    return (
        f"{X} => (float[2,5,13,14] y, float[2,5,13,14] z) {{ h = ConvTranspose (x, u, b) {TAIL} z = Relu ({reader}) }}"
    )


def conv_then_rounding(constant: np.ndarray) -> onnx.ModelProto:
    """Conv, then a number is added and subtracted again."""
    proto = conv_then("t = Add (h, k) y = Sub (t, k)", "2,5,9,12", k=())()
    return sub(proto, k=constant)


TIMES_GEMM = "(float[3,3] x) => (float[3,5] y) { h = Mul (x, k) y = Gemm (h, w, c) }"
KERNEL = np.random.default_rng(0).standard_normal((3, 5, 3, 2)).astype(np.float32)
ROUNDS = np.array(2.0**23 * 1.5, np.float32)
INTEGERS = "(int64[2,3] x) => (int64[2,3] y) { h = Abs (x) t = Add (h, k) y = Abs (t) }"
FLOATS = INTEGERS.replace("int64", "float")
OLD = f"{SAME} {{ h = Relu (x) p = Mul <broadcast = 1> (h, k) t = Mul <broadcast = 1> (p, d) y = Sigmoid (t) }}"
NEW = f"{SAME} {{ h = Relu (x) p = Mul (h, k) t = Mul (p, d) y = Sigmoid (t) }}"
WIDE = "(float[2,7,3] x) => (float[2,7,5] y) {{ h = {op} (x, k) y = MatMul (h, w) }}"
BATCHED = "(float[2,7,3] x) => (float[2,7,5] y) { h = MatMul (x, w) y = Mul (h, k) }"

ROWS: tuple[Case, ...] = (
    refuse(
        "conv-transpose-second-consumer",
        built(transposed_twice("h"), u=KERNEL),
        CONVT,
        "several-readers",
        "ConvTranspose BatchNormalization",
        built(transposed_twice("y"), u=KERNEL),
    ),
    refuse(
        "conv-transpose-mul-hits-w",
        after_transposed("y = Mul (h, k)", k=(38,)),
        "fold-affine-into-conv-transpose",
        "not-per-channel",
        "ConvTranspose Mul",
        after_transposed("y = Mul (h, k)", k=PER_CHANNEL),
    ),
    fold("mul-next-gemm", graph(TIMES_GEMM, k=(3,), w=(3, 5), c=(5,)), "fold-affine-into-next-gemm", "Gemm"),
    refuse(
        "mul-rows-next-gemm",
        graph(TIMES_GEMM, k=(3, 1), w=(3, 5), c=(5,)),
        "fold-affine-into-next-gemm",
        "channel-axis",
        "Mul Gemm",
        graph(TIMES_GEMM, k=(1, 3), w=(3, 5), c=(5,)),
    ),
    refuse(
        "bn-time-next-matmul",
        graph(
            f"(float[2,3,3] x) => (float[2,3,5] y) {{ h = {BN} (x, g, be, m, v) y = MatMul (h, w) }}",
            w=(3, 5),
            **bn_of(3),
        ),
        "fold-bn-into-next-matmul",
        "channel-axis",
        "BatchNormalization MatMul",
        graph(
            f"(float[2,3] x) => (float[2,5] y) {{ h = {BN} (x, g, be, m, v) y = MatMul (h, w) }}", w=(3, 5), **bn_of(3)
        ),
    ),
    refuse(
        "add-next-batched-matmul",
        graph(WIDE.format(op="Add"), k=(3,), w=(3, 5)),
        "fold-affine-into-next-matmul",
        "no-bias-slot",
        "Add MatMul",
        graph(WIDE.format(op="Mul"), k=(3,), w=(3, 5)),
    ),
    refuse(
        "matmul-stack-mul",
        graph(BATCHED, w=(2, 3, 5), k=()),
        "fold-affine-into-matmul",
        "weight-rank",
        "MatMul",
        graph(BATCHED, w=(3, 5), k=()),
    ),
    refuse(
        "identity-bn-between-input-and-output",
        graph(f"{SAME} {{ y = {NORM} (x, g, be, m, v) }}", **IDENTITY),
        "drop-identity-bn",
        "output-is-graph-output",
        "BatchNormalization",
        graph(f"{SAME} {{ h = Relu (x) y = {NORM} (h, g, be, m, v) }}", **IDENTITY),
    ),
    refuse(
        "integer-add-zero",
        graph(INTEGERS, k=np.zeros(3, np.int64)),
        "drop-identity-affine",
        "not-float",
        "Add",
        graph(FLOATS, k=np.zeros(3, np.float32)),
    ),
    refuse(
        "mul-mul-opset-6",
        graph(OLD, 6, k=np.array(2, np.float32), d=np.array(3, np.float32)),
        "merge-affines",
        "old-broadcast",
        "Mul Mul",
        graph(NEW, k=np.array(2, np.float32), d=np.array(3, np.float32)),
        ort=False,
    ),
    refuse(
        "conv-add-that-rounds",
        lambda: conv_then_rounding(ROUNDS),
        "fold-affine-into-conv",
        "rounding-add",
        "Conv Add Sub",
        lambda: conv_then_rounding(np.array(0.5, np.float32)),
    ),
    refuse(
        "conv-weight-dequantized",
        built(
            f"{X} => (float[2,5,9,12] y) {{ u = DequantizeLinear (q, s) a = Abs (u) h = Conv (x, a, b) {TAIL} }}",
            q=np.arange(90, dtype=np.int8).reshape(5, 3, 3, 2),
            s=np.array(0.01, np.float32),
        ),
        "fold-bn-into-conv",
        "weight-quantized",
        "DequantizeLinear Abs Conv BatchNormalization",
        built(f"{X} => (float[2,5,9,12] y) {{ h = Conv (x, w, b) {TAIL} }}"),
    ),
    refuse("lstm-overridable", lambda: as_inputs(lstm(), "b"), "merge-rnn-biases", "overridable", "LSTM", lstm),
)
