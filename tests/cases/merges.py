"""Forward into matrix products, merges, underflow, integers, and batch norms that are to be kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tests.cases.case import Build, Case, fold, inputs_of, refuse
from tests.cases.conv_batch_norm import CONV, transposed
from tests.cases.padding_and_sign import NO_RELU
from tests.cases.sharing import PLAIN
from tests.cases.stored_types import SMALL_W, typed
from tests.cases.unusual_models import BN, STAY, bn_of, graph
from tests.tiny import Draw, X, model

# Forward into matrix products ------------------------------------------------------------------------------


def next_gemm(
    attrs: str, w: tuple[int, int], c: tuple[int, ...] | None = (5,), x: str = "7,3", opset: int = 17
) -> Build:
    """Return BN over 3 features, Gemm."""
    call = "h, w" if c is None else "h, w, c"
    consts: dict[str, Any] = {"w": w} | ({} if c is None else {"c": c})
    text = f"(float[7,3] x) => (float[7,5] y) {{ h = {BN} (x, g, be, m, v) y = Gemm <{attrs}> ({call}) }}"
    return graph(text.replace(" <>", ""), opset, **consts, **bn_of(3))


G = "fold-bn-into-next-gemm"
M = "fold-affine-into-next-matmul"
SQUARE = f"(float[3,3] x) => (float[3,5] y) {{ h = {BN} (x, g, be, m, v) y = Gemm <transA = 1> (h, w) }}"
FORWARD = (
    fold("next-gemm", next_gemm("", (3, 5)), G, "Gemm"),
    fold("next-gemm-all", next_gemm("alpha = 0.25, beta = 3.0, transB = 1", (5, 3)), G, "Gemm"),
    fold("next-gemm-c-m-1", next_gemm("beta = 0.5", (3, 5), (7, 1)), G, "Gemm"),
    fold("next-gemm-c-scalar", next_gemm("beta = 0.5", (3, 5), ()), G, "Gemm"),
    fold("next-gemm-no-c", next_gemm("alpha = 2.0", (3, 5), None), G, "Gemm", check=inputs_of("Gemm", 3)),
    fold("next-gemm-opset-9", next_gemm("", (3, 5), opset=9), G, "Gemm"),
    refuse(
        "next-gemm-trans-a",
        graph(SQUARE, w=(3, 5), **bn_of(3)),
        G,
        "channel-axis",
        "BatchNormalization Gemm",
        graph(SQUARE.replace("transA = 1", "transA = 0"), w=(3, 5), **bn_of(3)),
    ),
    fold(
        "mul-next-matmul-3d",
        graph("(float[2,7,3] x) => (float[2,7,5] y) { h = Mul (k, x) y = MatMul (h, w) }", k=(3,), w=(3, 5)),
        M,
        "MatMul",
    ),
    fold(
        "mul-add-next-matmul-add",
        graph(
            "(float[2,7,3] x) => (float[2,7,5] y) { p = Mul (k, x) h = Add (p, a) q = MatMul (h, w) y = Add (q, b) }",
            k=(1, 1, 3),
            a=(3,),
            w=(3, 5),
            b=(5,),
        ),
        M,
        "MatMul Add",
    ),
    refuse(
        "mul-rows-next-matmul",
        graph("(float[3,3] x) => (float[3,5] y) { h = Mul (k, x) y = MatMul (h, w) }", k=(3, 1), w=(3, 5)),
        M,
        "channel-axis",
        "Mul MatMul",
        graph("(float[3,3] x) => (float[3,5] y) { h = Mul (k, x) y = MatMul (h, w) }", k=(1, 3), w=(3, 5)),
    ),
    fold(
        # The first rewrite renames a tensor; what was known of its shape must not be lost to the second.
        "neg-matmul-add-matmul-add",
        graph(
            """(float[2,7,3] x) => (float[2,7,5] y) { h = Relu (x) n = Neg (h) p = MatMul (n, u) q = Add (p, a)
            r = MatMul (q, w) t = Add (r, b) y = Tanh (t) }""",
            u=(3, 3),
            a=(3,),
            w=(3, 5),
            b=(5,),
        ),
        M,
        "Relu MatMul MatMul Add Tanh",
    ),
    fold(
        "bn-transpose-matmul",
        graph(
            f"""(float[2,3,7] x) => (float[2,7,5] y) {{ h = {BN} (x, g, be, m, v) t = Transpose <perm = [0,2,1]> (h)
            q = MatMul (t, w) y = Add (q, b) }}""",
            w=(3, 5),
            b=(5,),
            **bn_of(3),
        ),
        "fold-bn-into-next-matmul",
        "Transpose MatMul Add",
    ),
)

# Merges without a linear operator beside them, and what must not merge -----------------------------------------


def row_of(middle: str, kind: str = "float", **consts: Any) -> Build:
    """Return Relu, ``middle`` (h to t), Sigmoid; integers: Abs on both sides."""
    first, last = ("Relu", "Sigmoid") if kind == "float" else ("Abs", "Neg")
    text = f"({kind}[2,3,11,13] x) => ({kind}[2,3,11,13] y) {{ h = {first} (x) {middle} y = {last} (t) }}"
    return graph(text, **consts)


C = (3, 1, 1)
POSITIVE = {"k": Draw().positive(*C), "a": Draw(seed=2).normal(*C)}
MERGES = (
    fold(
        "bn-bn",
        row_of(
            f"p = {BN} (h, g1, be1, m1, v1) t = {BN} (p, g2, be2, m2, v2)", **bn_of(3, "1"), **Draw(seed=9).bn(3, "2")
        ),
        "merge-bn-into-bn",
        "Relu BatchNormalization Sigmoid",
    ),
    *(
        fold(
            name,
            row_of(text, **bn_of(3), **POSITIVE),
            "merge-affine-into-bn",
            "Relu BatchNormalization Sigmoid",
        )
        for name, text in {
            "bn-mul": f"p = {BN} (h, g, be, m, v) q = Mul (k, p) t = Sub (a, q)",
            "mul-bn": f"p = Mul (h, k) q = Add (p, a) t = {BN} (q, g, be, m, v)",
            "div-neg-bn": f"p = Div (h, k) q = Neg (p) r = Sub (a, q) t = {BN} (r, g, be, m, v)",
        }.items()
    ),
    fold("mul-div", row_of("p = Mul (h, k) t = Div (p, d)", **POSITIVE, d=np.array(1.5, np.float32)), "merge-affines"),
)
INTEGERS = {
    "int-div": ("p = Div (h, k) t = Div (p, d)", {"k": np.int64(2), "d": np.int64(3)}),
    "int-div-mul": ("p = Div (h, k) t = Mul (p, d)", {"k": np.int64(2), "d": np.int64(2)}),
    "int-add": ("p = Add (h, k) t = Add (p, d)", {"k": np.int64(2**62 + 1), "d": np.int64(3)}),
}


def untouched(name: str, middle: str, consts: dict[str, Any]) -> Case:
    """Make a row over integers, where nothing may be rewritten except exactly."""
    build = row_of(middle, "int64", **{k: np.asarray(v) for k, v in consts.items()})
    return fold(name, build, "")


# Soundness only: nothing need happen, but the outputs stay.
SOUND: tuple[Case, ...] = (
    *(untouched(name, *spec) for name, spec in INTEGERS.items()),
    fold(
        "merged-constant-underflows",
        graph(
            f"{X} => (float[2,3,11,13] y) {{ h = Relu (x) p = Mul (h, k) t = Mul (p, d) y = Abs (t) }}",
            k=np.array(1e-30, np.float32),
            d=np.array(1e-20, np.float32),
        ),
        "",
        feed_scale=3e37,
    ),
    fold("identity-before-conv", NO_RELU, ""),
)

# Small factors: their product underflows where one after the other does not ----------------------------------------


def half(text: str, **values: float) -> Build:
    """Return Relu, ``text`` (h to t), Abs in float16; a constant is one number per channel."""

    def build() -> onnx.ModelProto:
        consts: dict[str, np.ndarray] = {k: np.full(C, v, np.float16) for k, v in values.items() if k in "kd"}
        consts |= {k: np.full(3, v, np.float16) for k, v in values.items() if k not in "kd"}
        io = "(float16[2,3,11,13] x) => (float16[2,3,11,13] y)"
        return model(f"{io} {{ h = Relu (x) {text} y = Abs (t) }}", consts)

    return build


NORM = "BatchNormalization <epsilon = 1e-3> (p, g, be, m, v)"
SECOND = "BatchNormalization <epsilon = 1e-3> (p, g2, be2, m2, v2)"
HALF: dict[str, Any] = {"tol": 4e-3, "feed_scale": 1e3}
ONE_BN = {"g": 1e-3, "be": 0.0, "m": 0.0, "v": 1.0}
TWO_BN = {"g2": 2e-4, "be2": 0.0, "m2": 0.0, "v2": 1.0}
GROWN = {"k": 0.5, "d": 0.25}
SMALL = (
    refuse(
        "fp16-merged-factor",
        half("p = Mul (h, k) t = Mul (p, d)", k=1e-4, d=1e-3),
        "merge-affines",
        "rounding",
        "Mul Mul",
        half("p = Mul (h, k) t = Mul (p, d)", **GROWN),
        **HALF,
    ),
    refuse(
        "fp16-merged-gamma",
        half(f"p = Mul (h, k) t = {NORM}", k=1e-4, **ONE_BN),
        "merge-affine-into-bn",
        "rounding",
        "Mul BatchNormalization",
        half(f"p = Mul (h, k) t = {NORM}", k=0.5, **ONE_BN),
        **HALF,
    ),
    refuse(
        "fp16-merged-norms",
        half(f"p = {NORM.replace('(p,', '(h,')} t = {SECOND}", **ONE_BN, **TWO_BN),
        "merge-bn-into-bn",
        "rounding",
        "BatchNormalization BatchNormalization",
        half(f"p = {NORM.replace('(p,', '(h,')} t = {SECOND}", **(ONE_BN | {"g": 1.0}), **TWO_BN),
        **HALF,
    ),
    refuse(
        "fp16-weight-underflows",
        typed("float16", np.float16, w=SMALL_W / 100, g=[1.0, 1.0, 1e-3, 1.0, 1.0]),
        CONV,
        "rounding",
        STAY,
        typed("float16", np.float16, w=SMALL_W / 100, g=[1.0, 1.0, 0.5, 1.0, 1.0]),
        says="2",
        tol=4e-3,
    ),
)


# --keep-bn -------------------------------------------------------------------------------------------------------

KEEP = {"keep_bn": True}
ABSORB = "absorb-bias-into-bn"


def keeps(name: str, build: Build, op: str, **more: Any) -> Case:
    """Make a row where the bias goes into the mean and the BatchNormalization stays."""
    return fold(name, build, ABSORB, f"{op} BatchNormalization", options=KEEP, check=inputs_of(op, 2), **more)


KEPT = (
    keeps("keep-bn-conv", PLAIN, "Conv"),
    keeps(
        "keep-bn-conv-transpose",
        lambda: transposed(3, 5, 3, 2, io="(float[2,3,11,13] x) => (float[2,5,13,14] y)", attrs="strides = [1, 1]"),
        "ConvTranspose",
    ),
    keeps(
        "keep-bn-gemm",
        graph(
            f"(float[7,3] x) => (float[7,5] y) {{ h = Gemm <beta = 0.5> (x, w, c) y = {BN} (h, g, be, m, v) }}",
            w=(3, 5),
            c=(5,),
            **bn_of(5),
        ),
        "Gemm",
    ),
    refuse(
        "keep-bn-gemm-c-m-1",
        graph(
            f"(float[5,3] x) => (float[5,5] y) {{ h = Gemm (x, w, c) y = {BN} (h, g, be, m, v) }}",
            w=(3, 5),
            c=(5, 1),
            **bn_of(5),
        ),
        ABSORB,
        "not-per-channel",
        "Gemm BatchNormalization",
        graph(
            f"(float[5,3] x) => (float[5,5] y) {{ h = Gemm (x, w, c) y = {BN} (h, g, be, m, v) }}",
            w=(3, 5),
            c=(1, 5),
            **bn_of(5),
        ),
        options=KEEP,
    ),
)

ROWS: tuple[Case, ...] = (*FORWARD, *MERGES, *SMALL, *KEPT)
