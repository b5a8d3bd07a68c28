"""Quantized layers: weights behind DequantizeLinear, integer products, and values that are dequantized."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx

from tests.cases.case import Build, Case, fold, refuse
from tests.tiny import Draw, X, Y, drop_unread, model

BN = "BatchNormalization <epsilon = 1e-3>"
CONV, NEXT, GEMM, MATMUL = "fold-bn-into-conv", "fold-bn-into-next-conv", "fold-bn-into-gemm", "fold-affine-into-matmul"
BN_Q, AFFINE_Q = "fold-bn-into-quantized", "fold-affine-into-quantized"
STAY = "DequantizeLinear Conv BatchNormalization"


def quantized(*shape: int, low: int = -127, high: int = 127, dtype: object = np.int8) -> np.ndarray:
    """Return random integers of a quantized weight."""
    return np.random.default_rng(7).integers(low, high, shape, endpoint=True).astype(dtype)


def net(text: str, opset: int = 17, *, negative: bool = False, **consts: np.ndarray) -> Build:
    """Return a graph over ``wq`` [5,3,3,2], its scales, a bias and BN constants, or those that are given."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        known = {
            "wq": quantized(5, 3, 3, 2),
            "s1": np.array(0.02, np.float32),
            "s5": draw.positive(5) / 64,
            "z1": np.array(0, np.int8),
            "z5": np.zeros(5, np.int8),
            "b": draw.normal(5),
            **draw.bn(5),
        }
        if negative:
            known["g"][2] *= -1
        known |= consts
        return drop_unread(model(text, known, opset=opset))

    return build


def conv(dequantize: str, **more: object) -> Build:
    """Return DequantizeLinear (to w), Conv and a batch norm."""
    return net(f"{X} => {Y} {{ w = {dequantize} h = Conv (x, w, b) y = {BN} (h, g, be, m, v) }}", **more)  # type: ignore[arg-type]


def keeps_bytes(name: str = "wq") -> object:
    """Return a check that the integers are as they were, and where the scale lies."""

    def check(proto: onnx.ModelProto) -> None:
        (left,) = [n for n in proto.graph.node if n.op_type in ("DequantizeLinear", "ConvInteger", "MatMulInteger")]
        assert name in left.input

    return check


def has_turned(proto: onnx.ModelProto) -> None:
    """One channel of the integers has changed its sign, all scales are positive."""
    (left,) = [n for n in proto.graph.node if n.op_type == "DequantizeLinear"]
    held = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert (held[left.input[1]] > 0).all()
    was, now = quantized(5, 3, 3, 2), held[left.input[0]]
    assert [bool((w == n).all()) for w, n in zip(was, now, strict=True)] == [True, True, False, True, True]


PLAIN = conv("DequantizeLinear (wq, s1)")
PER_AXIS = conv("DequantizeLinear <axis = 0> (wq, s5, z5)")
TURNED = conv("DequantizeLinear (wq, s1)", negative=True)
LEAST = quantized(5, 3, 3, 2)
LEAST[2, 0, 0, 0] = -128
TWICE = f"""{X} => (float[2,5,9,12] y, float[2,5,9,12] z) {{ w = DequantizeLinear (wq, s1) h = Conv (x, w, b)
    z = Conv (x, w) y = {BN} (h, g, be, m, v) }}"""
ONCE = f"""{X} => (float[2,5,9,12] y, float[2,5,9,12] z) {{ w = DequantizeLinear (wq, s1) h = Conv (x, w, b)
    u = DequantizeLinear (wq, s1) z = Conv (x, u) y = {BN} (h, g, be, m, v) }}"""
BIAS = f"""{X} => {Y} {{ w = DequantizeLinear <axis = 0> (wq, s5, z5) c = DequantizeLinear <axis = 0> (bq, s5)
    h = Conv (x, w, c) y = {BN} (h, g, be, m, v) }}"""
BEFORE = f"""{X} => {Y} {{ w = DequantizeLinear (wq, s1) h = {BN} (x, g3, be3, m3, v3) y = Conv (h, w, b) }}"""
TRANSPOSED = """(float[2,7,3] x) => (float[2,7,5] y) { d = DequantizeLinear <axis = 0> (wm, s5) w = Transpose (d)
    h = MatMul (x, w) y = Mul (h, k) }"""
BLOCKED = """(float[2,7,8] x) => (float[2,7,5] y) { w = DequantizeLinear <axis = 0, block_size = 4> (wb, s25)
    h = MatMul (x, w) y = Mul (h, k) }"""
BLOCKED_IN = """(float[2,7,8] x) => (float[2,7,5] y) { w = DequantizeLinear <axis = 0, block_size = 4> (wb, s25)
    h = Mul (x, k8) y = MatMul (h, w) }"""
ROWS_GEMM = f"""(float[7,3] x) => (float[7,5] y) {{ w = DequantizeLinear <axis = 0> (wm, s5)
    h = Gemm <transB = 1, alpha = 0.5> (x, w, b) y = {BN} (h, g, be, m, v) }}"""
K = Draw(seed=5).normal(5)

WEIGHTS: tuple[Case, ...] = (
    fold("dq-per-tensor", PLAIN, CONV, "DequantizeLinear Conv", check=keeps_bytes()),
    fold("dq-per-axis", PER_AXIS, CONV, "DequantizeLinear Conv", check=keeps_bytes()),
    fold("dq-zero-point", conv("DequantizeLinear (wq, s1, z1)"), CONV, "DequantizeLinear Conv", check=keeps_bytes()),
    fold(
        "dq-uint8",
        conv(
            "DequantizeLinear (wq, s1, z1)", wq=quantized(5, 3, 3, 2, low=0, high=255, dtype=np.uint8), z1=np.uint8(131)
        ),
        CONV,
        "DequantizeLinear Conv",
    ),
    fold("dq-opset-13", conv("DequantizeLinear <axis = 0> (wq, s5)", opset=13), CONV, "DequantizeLinear Conv"),
    fold("dq-negative", TURNED, CONV, "DequantizeLinear Conv", check=has_turned),
    fold(
        "dq-gamma-0", conv("DequantizeLinear (wq, s1)", g=np.float32([1, 0, 2, 0.5, 1])), CONV, "DequantizeLinear Conv"
    ),
    fold("dq-int32-bias", net(BIAS, bq=quantized(5, dtype=np.int32)), CONV, "DequantizeLinear Conv", tol=2e-5),
    fold(
        "dq-int4-negative",
        conv(
            "DequantizeLinear (wq, s1)",
            opset=21,
            negative=True,
            wq=quantized(5, 3, 3, 2, low=-7, high=7, dtype=ml_dtypes.int4),
        ),
        CONV,
        "DequantizeLinear Conv",
    ),
    fold(
        "dq-before",
        net(BEFORE, **Draw(seed=9).bn(3, "3") | {"be3": np.zeros(3, np.float32), "m3": np.zeros(3, np.float32)}),
        NEXT,
        "DequantizeLinear Conv",
        check=keeps_bytes(),
    ),
    fold("dq-transposed", net(TRANSPOSED, wm=quantized(5, 3), k=K), MATMUL, "DequantizeLinear Transpose MatMul"),
    fold(
        "dq-blocked",
        net(BLOCKED, 21, wb=quantized(8, 5), s25=Draw().positive(2, 5) / 64, k=K),
        MATMUL,
        "DequantizeLinear MatMul",
    ),
    fold("dq-gemm", net(ROWS_GEMM, wm=quantized(5, 3)), GEMM, "DequantizeLinear Gemm"),
    refuse("dq-opset-12", conv("DequantizeLinear (wq, s1)", opset=12), CONV, "per-axis-scale", STAY, PLAIN),
    refuse(
        "dq-of-inputs",
        conv("DequantizeLinear <axis = 1> (wq, s3)", s3=Draw().positive(3) / 64),
        CONV,
        "scale-axis",
        STAY,
        PER_AXIS,
    ),
    refuse(
        "dq-minus-128", conv("DequantizeLinear (wq, s1)", negative=True, wq=LEAST), CONV, "integer-range", STAY, TURNED
    ),
    refuse("dq-read-twice", net(TWICE), CONV, "several-readers", f"{STAY} Conv", net(ONCE)),
    refuse(
        "dq-blocked-inputs",
        net(BLOCKED_IN, 21, wb=quantized(8, 5), s25=Draw().positive(2, 5) / 64, k8=Draw(seed=5).normal(8)),
        "fold-affine-into-next-matmul",
        "scale-axis",
        "DequantizeLinear Mul MatMul",
        net(BLOCKED_IN, 21, wb=quantized(8, 5), s25=Draw().positive(2, 5) / 64, k8=np.repeat(np.float32([2, 3]), 4)),
    ),
)

# -- integer products, and values that are dequantized ---------------------------------------------------

CHAIN = """q, s, z = DynamicQuantizeLinear (x) sw = Mul (s, s1) i = ConvInteger (q, wq, z, z1) f = Cast <to = 1> (i)
    p = Mul (f, sw)"""
WITH_BIAS = f"{X} => {Y} {{ {CHAIN} r = Reshape (b, rs) a = Add (p, r) y = {BN} (a, g, be, m, v) }}"
WITHOUT = f"{X} => {Y} {{ {CHAIN} y = {BN} (p, g, be, m, v) }}"
READ_TWICE = f"""{X} => (float[2,5,9,12] y, float[2,5,9,12] k) {{ {CHAIN} y = {BN} (p, g, be, m, v)
    k = Add (p, one) }}"""
RS = np.array([1, 5, 1, 1])
DATA = "(float[2,5,9,12] x) => (float[2,5,9,12] y)"
BETWEEN = f"{DATA} {{ q = QuantizeLinear (x, s1, z1) d = DequantizeLinear (q, s1, z1) y = {BN} (d, g, be, m, v) }}"
READ_BOTH = f"""(float[2,5,9,12] x) => (float[2,5,9,12] y, float[2,5,9,12] k) {{ q = QuantizeLinear (x, s1, z1)
    d = DequantizeLinear (q, s1, z1) k = Relu (d) y = {BN} (d, g, be, m, v) }}"""
LAST = f"{DATA} {{ q = QuantizeLinear <axis = 1> (x, s5) d = DequantizeLinear <axis = 1> (q, s5) y = Mul (d, k12) }}"
CHANNEL = f"{DATA} {{ q = QuantizeLinear <axis = 1> (x, s5) d = DequantizeLinear <axis = 1> (q, s5) y = Mul (d, k5) }}"
NUMBER = f"{DATA} {{ q = QuantizeLinear (x, s1, z1) d = DequantizeLinear (q, s1, z1) y = Div (d, n) }}"
MM = """q, s, z = DynamicQuantizeLinear (x) sw = Mul (s, s1) i = MatMulInteger (q, wi, z, z1) f = Cast <to = 1> (i)
    p = Mul (f, sw)"""
DIVIDED = f"(float[2,7,3] x) => (float[2,7,5] y) {{ {MM} a = Add (p, b) y = Div (a, n) }}"
COLUMNS = f"(float[2,7,3] x) => (float[2,7,5] y) {{ {MM} a = Mul (p, k) y = Add (a, b) }}"
MOVED = """(float[2,5,9,12] x) => (float[2,9,12,5] y) { q = QuantizeLinear (x, s1, z1) d = DequantizeLinear (q, s1, z1)
    t = Transpose <perm = [0, 2, 3, 1]> (d) y = Mul (t, k) }"""
POOLED = f"""(float[2,5,9,12] x) => (float[2,5,4,6] y) {{ q = QuantizeLinear (x, s1, z1)
    d = DequantizeLinear (q, s1, z1) t = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
    y = {BN} (t, g, be, m, v) }}"""
JOINED = """(float[2,5,9,12] x) => (float[2,3,30,6] y) { q = QuantizeLinear (x, s1, z1) d = DequantizeLinear (q, s1, z1)
    t = Reshape (d, to) y = Mul (t, k3) }"""
STATIC = f"""(uint8[2,3,11,13] q) => {Y} {{ i = ConvInteger (q, wq, zx, z1) f = Cast <to = 1> (i) p = Mul (f, s1)
    y = {BN} (p, g, be, m, v) }}"""
STATIC_5 = STATIC.replace("s1)", "sc)")
TWO = f"""{X} => (float[2,5,9,12] y, float[2,5,9,12] k) {{ {CHAIN} y = {BN} (p, g, be, m, v)
    i2 = ConvInteger (q, wq, z, z1) f2 = Cast <to = 1> (i2) k = Mul (f2, sw) }}"""
SCORES = NUMBER.replace("y = Div (d, n)", "e = Div (d, n) y = Softmax <axis = -1> (e)")
SCORES_BN = BETWEEN.replace(f"y = {BN} (d", f"e = {BN} (d").replace("v) }", "v) y = Softmax <axis = -1> (e) }")
WI = quantized(3, 5)
N = np.array(8, np.float32)
Q_STAY = "QuantizeLinear DequantizeLinear BatchNormalization"
INTEGERS = "DynamicQuantizeLinear Mul ConvInteger Cast Mul"

BATCH_NORMS: tuple[Case, ...] = (
    fold("chain-bias-bn", net(WITH_BIAS, rs=RS), BN_Q, f"{INTEGERS} Add", check=keeps_bytes()),
    fold("chain-bn", net(WITHOUT), BN_Q, f"{INTEGERS} Add"),
    fold("data-bn", net(BETWEEN), BN_Q, "QuantizeLinear DequantizeLinear Add"),
    fold("data-bn-opset-13", net(BETWEEN, 13), BN_Q, "QuantizeLinear DequantizeLinear Add"),
    fold("data-bn-opset-21", net(BETWEEN, 21), BN_Q, "QuantizeLinear DequantizeLinear Add"),
    fold("data-pooled", net(POOLED), BN_Q, "QuantizeLinear DequantizeLinear MaxPool Add"),
    fold("chain-static", net(STATIC, zx=np.uint8(131)), BN_Q, "ConvInteger Cast Mul Add"),
    fold(
        "chain-static-channels",
        net(STATIC_5, zx=np.uint8(131), sc=Draw().positive(5, 1, 1)),
        BN_Q,
        "ConvInteger Cast Mul Add",
    ),
    refuse(
        "chain-scale-shared",
        net(TWO),
        BN_Q,
        "several-readers",
        f"{INTEGERS} BatchNormalization ConvInteger Cast Mul",
        net(WITHOUT),
    ),
    refuse(
        "data-bn-before-softmax",
        net(SCORES_BN, be=np.zeros(5, np.float32), m=np.zeros(5, np.float32)),
        BN_Q,
        "coarser-kernel",
        f"{Q_STAY} Softmax",
        net(BETWEEN),
    ),
    refuse("data-opset-12", net(BETWEEN, 12), BN_Q, "per-axis-scale", Q_STAY, net(BETWEEN, 13)),
    refuse("data-negative", net(BETWEEN, negative=True), BN_Q, "negative-scale", Q_STAY, net(BETWEEN)),
    refuse("data-read-twice", net(READ_BOTH), BN_Q, "several-readers", f"{Q_STAY} Relu", net(BETWEEN)),
    refuse(
        "chain-read-twice",
        net(READ_TWICE, one=np.ones((2, 5, 9, 12), np.float32)),
        BN_Q,
        "several-readers",
        f"{INTEGERS} BatchNormalization Add",
        net(WITHOUT),
    ),
)
ARITHMETIC: tuple[Case, ...] = (
    fold("chain-div", net(DIVIDED, wi=WI, n=N), AFFINE_Q, "DynamicQuantizeLinear Mul MatMulInteger Cast Mul Add"),
    fold("chain-mul-add", net(COLUMNS, wi=WI, k=K), AFFINE_Q, "DynamicQuantizeLinear Mul MatMulInteger Cast Mul Add"),
    fold("data-number", net(NUMBER, n=N), AFFINE_Q, "QuantizeLinear DequantizeLinear"),
    fold(
        "data-number-twice",
        net(NUMBER.replace("y = Div (d, n)", "e = Div (d, n) y = Mul (e, n)"), n=N),
        AFFINE_Q,
        "QuantizeLinear DequantizeLinear",
    ),
    fold("data-number-opset-10", net(NUMBER, 10, n=N), AFFINE_Q, "QuantizeLinear DequantizeLinear"),
    fold("data-channels", net(CHANNEL, k5=Draw().positive(5, 1, 1)), AFFINE_Q, "QuantizeLinear DequantizeLinear"),
    refuse(
        "data-before-softmax",
        net(SCORES, n=N),
        AFFINE_Q,
        "coarser-kernel",
        "QuantizeLinear DequantizeLinear Div Softmax",
        net(NUMBER, n=N),
    ),
    fold("data-moved", net(MOVED, k=K**2 + 1), AFFINE_Q, "QuantizeLinear DequantizeLinear Transpose"),
    refuse(
        "data-joined",
        net(JOINED, to=np.array([2, 3, 30, 6]), k3=Draw().positive(3, 1, 1)),
        AFFINE_Q,
        "channel-axis",
        "QuantizeLinear DequantizeLinear Reshape Mul",
        net(MOVED, k=K**2 + 1),
    ),
    refuse(
        "data-last-axis",
        net(LAST, k12=Draw().positive(12)),
        AFFINE_Q,
        "scale-axis",
        "QuantizeLinear DequantizeLinear Mul",
        net(CHANNEL, k5=Draw().positive(5, 1, 1)),
    ),
)
ROWS = (*WEIGHTS, *BATCH_NORMS, *ARITHMETIC)
