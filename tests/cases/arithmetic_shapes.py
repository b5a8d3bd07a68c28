"""Constants that are and are not per channel: every operator, either operand order, sizes that coincide."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from tests.cases.arithmetic import CONV, after_conv, after_transposed
from tests.cases.case import Build, Case, fold, refuse
from tests.cases.unusual_models import BN, bn_of, graph
from tests.tiny import Draw, X, model, sub

GEMM = "fold-affine-into-gemm"
MATMUL = "fold-affine-into-matmul"

# Every form that is a scalar or per-channel against [2,5,9,12], for every operator.
FORMS: dict[str, tuple[int, ...]] = {
    "rank-0": (),
    "1": (1,),
    "1-1-1": (1, 1, 1),
    "1-1-1-1": (1, 1, 1, 1),
    "c-1-1": (5, 1, 1),
    "1-c-1-1": (1, 5, 1, 1),
}
CALLS = {
    "mul": "Mul (h, k)",
    "const-mul": "Mul (k, h)",
    "add": "Add (h, k)",
    "const-add": "Add (k, h)",
    "sub": "Sub (h, k)",
    "const-sub": "Sub (k, h)",
    "div": "Div (h, k)",
}
EVERY_FORM = tuple(
    fold(f"{call}-by-{form}", after_conv(f"y = {text}", k=shape), CONV, "Conv")
    for (call, text), (form, shape) in itertools.product(CALLS.items(), FORMS.items())
)

# Sizes that coincide: C = H' = W' = N = 4 in turn, for more operators.
PLACES = {
    "w": ({"io": "(float[2,3,11,5] x) => (float[2,4,9,4] y)", "w": (4, 3, 3, 2)}, (4,)),
    "h": ({"io": "(float[2,3,6,13] x) => (float[2,4,4,12] y)", "w": (4, 3, 3, 2)}, (4, 1)),
    "n": ({"io": "(float[4,3,11,13] x) => (float[4,4,9,12] y)", "w": (4, 3, 3, 2)}, (4, 1, 1, 1)),
    "hw": ({"io": "(float[2,3,6,5] x) => (float[2,4,4,4] y)", "w": (4, 3, 3, 2)}, (4, 4)),
}


def trap(
    name: str, call: str, shape: tuple[int, ...], good: tuple[int, ...], twin: dict[str, object], **more: object
) -> Case:
    """Make a row whose constant ``k`` is not per-channel."""
    tail = f"y = {call}"
    keep = f"Conv {call.split()[0]}"
    bad = after_conv(tail, k=shape, **more)  # type: ignore[arg-type]
    return refuse(name, bad, CONV, "not-per-channel", keep, after_conv(tail, k=good, **twin))  # type: ignore[arg-type]


TRAPS = tuple(
    trap(f"{call}-hits-{place}", CALLS[call], shape, (4, 1, 1), more, **more)  # type: ignore[arg-type]
    for call, (place, (more, shape)) in itertools.product(("sub", "const-sub", "div", "const-mul"), PLACES.items())
)
GROWING = (
    trap(
        "sub-raises-rank",
        "Sub (h, k)",
        (1, 1, 5, 1, 1),
        (5, 1, 1),
        {},
        io=f"{X} => (float[1,2,5,9,12] y)",
    ),
    trap(
        "mul-rank-5-hits-n",
        "Mul (h, k)",
        (1, 5, 1, 1, 1),
        (5, 1, 1),
        {"io": "(float[5,3,11,13] x) => (float[5,5,9,12] y)"},
        io="(float[5,3,11,13] x) => (float[1,5,5,9,12] y)",
    ),
    trap(
        "const-sub-expands-channels",
        "Sub (k, h)",
        (4, 1, 1),
        (1, 1, 1),
        {"io": f"{X} => (float[2,1,9,12] y)", "w": (1, 3, 3, 2)},
        io=f"{X} => (float[2,4,9,12] y)",
        w=(1, 3, 3, 2),
    ),
    trap(
        "div-expands-batch",
        "Div (h, k)",
        (4, 1, 1, 1),
        (1, 1, 1, 1),
        {"io": "(float[1,3,11,13] x) => (float[1,5,9,12] y)"},
        io="(float[1,3,11,13] x) => (float[4,5,9,12] y)",
    ),
    trap(
        "mul-expands-width",
        "Mul (h, k)",
        (1, 5, 1, 7),
        (1, 5, 1, 1),
        {"io": "(float[2,3,11,2] x) => (float[2,5,9,1] y)"},
        io="(float[2,3,11,2] x) => (float[2,5,9,7] y)",
    ),
)


def by(value: float, op: str = "Div") -> Build:
    """Return Conv divided by a per-channel constant whose channel 3 is ``value``."""
    build = after_conv(f"y = {op} (h, k)", k=(5, 1, 1))
    constant = np.array([0.5, 1.5, 2.0, value, 0.75], np.float32).reshape(5, 1, 1)
    return lambda: sub(build(), k=constant)


DIVISIONS = (
    refuse(
        "const-divided-by-conv",
        after_conv("y = Div (k, h)", k=(5, 1, 1)),
        CONV,
        "divides-by-result",
        "Conv Div",
        after_conv("y = Div (h, k)", k=(5, 1, 1)),
    ),
    refuse("division-by-zero", by(0.0), CONV, "", "Conv Div", by(0.25), says="3"),
    refuse("division-by-tiny", by(1e-42), CONV, "", "Conv Div", by(1e-3), says="3"),
    refuse("mul-by-nan", by(float("nan"), "Mul"), CONV, "not-finite", "Conv Mul", by(0.25, "Mul"), says="3"),
    fold("neg", after_conv("y = Neg (h)"), CONV, "Conv"),
    fold("mul-by-zero-channel", by(0.0, "Mul"), CONV, "Conv"),
    fold("chain", after_conv("p = Neg (h) q = Sub (k, p) y = Div (q, d)", k=(5, 1, 1), d=(1,)), CONV, "Conv"),
)


def linear(text: str, *, x: str = "7,3", y: str = "7,5", **shapes: tuple[int, ...]) -> Build:
    """Return a graph from x to y over seeded constants."""
    return lambda: model(
        f"(float[{x}] x) => (float[{y}] y) {{ {text} }}", {k: Draw(seed=len(k)).positive(*v) for k, v in shapes.items()}
    )


# The channel axis of Gemm and MatMul is the last one: (C,) and (1, C) are per-channel, (C, 1) is not.
LAST = (
    fold("gemm-mul-c", linear("h = Gemm (x, w, b) y = Mul (h, k)", w=(3, 5), b=(5,), k=(5,)), GEMM, "Gemm"),
    fold("gemm-sub-1-c", linear("h = Gemm (x, w, b) y = Sub (k, h)", w=(3, 5), b=(5,), k=(1, 5)), GEMM, "Gemm"),
    fold("gemm-add-scalar", linear("h = Gemm (x, w) y = Add (h, k)", w=(3, 5), k=()), GEMM, "Gemm"),
    fold("matmul-mul-c", linear("h = MatMul (x, w) y = Mul (h, k)", w=(3, 5), k=(5,)), MATMUL, "MatMul"),
    fold("matmul-div-scalar", linear("h = MatMul (x, w) y = Div (h, k)", w=(3, 5), k=()), MATMUL, "MatMul"),
    fold(
        "matmul-3d-mul-add",
        linear("h = MatMul (x, w) p = Mul (k, h) y = Add (p, b)", x="2,7,3", y="2,7,5", w=(3, 5), k=(1, 1, 5), b=(5,)),
        MATMUL,
        "MatMul Add",
    ),
    refuse(
        "matmul-mul-rows",
        linear("h = MatMul (x, w) y = Mul (h, k)", x="5,3", y="5,5", w=(3, 5), k=(5, 1)),
        MATMUL,
        "not-per-channel",
        "MatMul Mul",
        linear("h = MatMul (x, w) y = Mul (h, k)", x="5,3", y="5,5", w=(3, 5), k=(1, 5)),
    ),
    refuse(
        "gemm-mul-rows",
        linear("h = Gemm (x, w) y = Mul (h, k)", x="5,3", y="5,5", w=(3, 5), k=(5, 1)),
        GEMM,
        "not-per-channel",
        "Gemm Mul",
        linear("h = Gemm (x, w) y = Mul (h, k)", x="5,3", y="5,5", w=(3, 5), k=(5,)),
    ),
    refuse(
        "matmul-add-raises-rank",
        linear("h = MatMul (x, w) y = Mul (h, k)", y="1,7,5", w=(3, 5), k=(1, 1, 5)),
        MATMUL,
        "not-per-channel",
        "MatMul Mul",
        linear("h = MatMul (x, w) y = Mul (h, k)", w=(3, 5), k=(1, 5)),
    ),
)
TRANSPOSED = (
    fold(
        "conv-transpose-const-sub",
        after_transposed("p = Sub (k, h) y = Mul (p, s)", k=(5, 1, 1), s=()),
        "fold-affine-into-conv-transpose",
        "ConvTranspose",
    ),
)

# Constants that enlarge the value: nothing may pass them --------------------------------------------------------


def enlarging(middle: str, x: str, y: str = "2,3,11,13", **consts: Any) -> Build:
    """Return Relu (x to h), ``middle`` (h to t), Sigmoid; BN constants of 3 channels are there for the taking."""
    text = f"(float[{x}] x) => (float[{y}] y) {{ h = Relu (x) {middle} y = Sigmoid (t) }}"
    used = {k: v for k, v in bn_of(3).items() if "BatchNormalization" in middle}
    return graph(text, **consts, **used)


ONES = np.ones((3, 1, 1), np.float32)
ONES_5 = np.ones((1, 1, 1, 1, 1), np.float32)
WHOLE = "2,3,11,13"
TIMES = "t = Mul (h, k)"
INTO_BN = f"p = Mul (h, k) t = {BN} (p, g, be, m, v)"
NEXT_CONV = "p = Add (h, k) t = Conv (p, w)"
AFTER_BN = f"p = {BN} (h, g, be, m, v) t = Mul (p, k)"
KERNEL = Draw(seed=4).normal(5, 3, 1, 1)
ENLARGING = (
    refuse(
        "next-conv-grows-channels",
        enlarging(NEXT_CONV, "2,1,11,13", "2,5,11,13", k=(3, 1, 1), w=KERNEL),
        "fold-affine-into-next-conv",
        "not-per-channel",
        "Add Conv",
        enlarging(NEXT_CONV, WHOLE, "2,5,11,13", k=(3, 1, 1), w=KERNEL),
    ),
    refuse(
        "bn-grows-channels",
        enlarging(INTO_BN, "2,1,11,13", k=(3, 1, 1)),
        "merge-affine-into-bn",
        "not-per-channel",
        "Mul BatchNormalization",
        enlarging(INTO_BN, WHOLE, k=(3, 1, 1)),
    ),
    refuse(
        "after-bn-raises-rank",
        enlarging(AFTER_BN, WHOLE, "1,2,3,11,13", k=ONES_5 * 2),
        "merge-affine-into-bn",
        "not-per-channel",
        "Mul BatchNormalization",
        enlarging(AFTER_BN, WHOLE, k=ONES * 2),
    ),
    refuse(
        "ones-grow-channels",
        enlarging(TIMES, "2,1,11,13", k=ONES),
        "drop-identity-affine",
        "enlarges",
        "Mul",
        enlarging(TIMES, WHOLE, k=ONES),
    ),
    refuse(
        "ones-raise-rank",
        enlarging(TIMES, WHOLE, "1,2,3,11,13", k=ONES_5),
        "drop-identity-affine",
        "enlarges",
        "Mul",
        enlarging(TIMES, WHOLE, k=ONES),
    ),
)

ROWS: tuple[Case, ...] = (*EVERY_FORM, *TRAPS, *GROWING, *DIVISIONS, *LAST, *TRANSPOSED, *ENLARGING)
