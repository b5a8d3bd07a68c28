"""Arithmetic with a constant after Conv and ConvTranspose, and constants that only look per channel."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from tests.cases.case import Case, fold, refuse
from tests.tiny import Draw, X, Y, model

CONV = "fold-affine-into-conv"
CONVT = "fold-affine-into-conv-transpose"
IOT = "(float[2,3,11,13] x) => (float[2,5,23,38] y)"


def after_conv(
    tail: str,
    *,
    io: str = f"{X} => {Y}",
    w: tuple[int, ...] = (5, 3, 3, 2),
    bias: bool = True,
    **shapes: tuple[int, ...],
) -> Callable[[], onnx.ModelProto]:
    """Return the builder of ``h = Conv(x, w[, b])`` and ``tail``; constants are positive, in [0.5, 2]."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(*w, bias=w[0] if bias else 0)
        consts |= {k: draw.positive(*v) for k, v in shapes.items()}
        call = "x, w, b" if bias else "x, w"
        return model(f"{io} {{ h = Conv ({call}) {tail} }}", consts)

    return build


def after_transposed(
    tail: str, *, group: int = 1, io: str = IOT, **shapes: tuple[int, ...]
) -> Callable[[], onnx.ModelProto]:
    """Return the builder of a ConvTranspose without bias, then ``tail``."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(3 * group, 5, 3, 2) | {k: draw.positive(*v) for k, v in shapes.items()}
        text = f"{io} {{ h = ConvTranspose <strides = [2, 3], group = {group}> (x, w) {tail} }}"
        return model(text, consts)

    return build


def row(name: str, tail: str, **more: object) -> Case:
    """Make a row that leaves one Conv."""
    return fold(name, after_conv(tail, **more), CONV, "Conv")  # type: ignore[arg-type]


C = (1, 5, 1, 1)
C3 = (5, 1, 1)
GROUPED = "(float[2,6,11,13] x) => (float[2,10,23,38] y)"
ON_W = {"io": "(float[2,3,11,5] x) => (float[2,4,9,4] y)", "w": (4, 3, 3, 2)}
ON_H = {"io": "(float[2,3,6,13] x) => (float[2,4,4,12] y)", "w": (4, 3, 3, 2)}
ON_N = {"io": "(float[4,3,11,13] x) => (float[4,4,9,12] y)", "w": (4, 3, 3, 2)}
BATCH = {"w": (5, 3, 3, 2)}
ONE = "(float[1,3,11,13] x) => "
RANK5 = f"{X} => "


def trap(name: str, op: str, bad: tuple[int, ...], good: tuple[int, ...], *, twin_io: str = "", **more: object) -> Case:
    """Make a row whose constant of shape ``bad`` is not per-channel, and the twin where it is."""
    tail = f"y = {op} (h, k)"
    twin = more | ({"io": twin_io} if twin_io else {})
    return refuse(
        name,
        after_conv(tail, k=bad, **more),  # type: ignore[arg-type]
        CONV,
        "not-per-channel",
        f"Conv {op}",
        after_conv(tail, k=good, **twin),  # type: ignore[arg-type]
    )


Q = (1, 4, 1, 1)
TRAPS = (
    trap("mul-by-4-hits-w", "Mul", (4,), Q, **ON_W),
    trap("mul-by-4-1-hits-h", "Mul", (4, 1), Q, **ON_H),
    trap("mul-per-sample", "Mul", (4, 1, 1, 1), Q, **ON_N),
    trap(
        "mul-expands-batch", "Mul", (4, 5, 1, 1), C, io=f"{ONE}(float[4,5,9,12] y)", twin_io=f"{ONE}(float[1,5,9,12] y)"
    ),
    trap("add-by-4-hits-w", "Add", (4,), Q, **ON_W),
    trap("add-by-4-1-hits-h", "Add", (4, 1), Q, **ON_H),
    trap("add-per-sample", "Add", (4, 1, 1, 1), Q, **ON_N),
    trap("add-rank-5", "Add", (1, 1, 5, 1, 1), C, io=f"{RANK5}(float[1,2,5,9,12] y)", twin_io=f"{RANK5}{Y}"),
    trap(
        "add-expands-channels",
        "Add",
        (4, 1, 1),
        (1, 1, 1),
        io=f"{X} => (float[2,4,9,12] y)",
        w=(1, 3, 3, 2),
        twin_io=f"{X} => (float[2,1,9,12] y)",
    ),
    trap("add-ones-rank-5", "Add", (1, 1, 1, 1, 1), (1,), io=f"{RANK5}(float[1,2,5,9,12] y)", twin_io=f"{RANK5}{Y}"),
)


def conv_times_conv() -> onnx.ModelProto:
    """The product of two Convs."""
    draw = Draw()
    text = f"{X} => {Y} {{ h = Conv (x, w, b) k = Conv (x, w2, b2) y = Mul (h, k) }}"
    return model(text, draw.conv(5, 3, 3, 2, bias=5) | draw.conv(5, 3, 3, 2, bias=5, tag="2"))


ROWS: tuple[Case, ...] = (
    row("sum-of-two", "y = Sum (h, k)", k=C3),
    row("sum-const-first", "y = Sum (k, h)", k=C3),
    row("sum-then-mul", "t = Sum (h, k) y = Mul (t, d)", k=C3, d=C3),
    fold(
        "sums-merge",
        after_conv("r = Relu (h) p = Sum (r, k) q = Sum (d, p) y = Abs (q)", k=C3, d=C3),
        "merge-affines",
        "Conv Relu Add Abs",
    ),
    refuse(
        "sum-hits-w",
        after_conv("y = Sum (h, k)", k=(4,), **ON_W),
        CONV,
        "not-per-channel",
        "Conv Sum",
        after_conv("y = Sum (h, k)", k=(4, 1, 1), **ON_W),
    ),
    row("mul-add", "p = Mul (h, k) y = Add (p, a)", k=C, a=C),
    row("mul-add-const-first", "p = Mul (k, h) y = Add (a, p)", k=C, a=C),
    row("sub-div-mul-add", "p = Sub (h, s) q = Div (p, d) r = Mul (q, k) y = Add (r, a)", s=C, d=C, k=C, a=C),
    row("mul-rank-0", "y = Mul (h, k)", k=()),
    row("mul-rank-0-const-first", "y = Mul (k, h)", k=()),
    row("mul-shape-1", "y = Mul (h, k)", k=(1,)),
    row("div-scalar", "y = Div (h, k)", k=()),
    row("conv-bias-add", "y = Add (h, a)", a=C3),
    row("conv-add", "y = Add (h, a)", a=C3, bias=False),
    row("conv-add-const-first", "y = Add (a, h)", a=C3, bias=False),
    row("conv-add-scalar", "y = Add (h, a)", a=(), bias=False),
    fold("conv-transpose-mul", after_transposed("y = Mul (h, k)", k=C), CONVT, "ConvTranspose"),
    fold("conv-transpose-add", after_transposed("y = Add (h, a)", a=C), CONVT, "ConvTranspose"),
    fold(
        "grouped-conv-transpose-mul",
        after_transposed("y = Mul (h, k)", group=2, io=GROUPED, k=(1, 10, 1, 1)),
        CONVT,
        "ConvTranspose",
    ),
    *TRAPS,
    refuse(
        "conv-times-conv", conv_times_conv, CONV, "not-constant", "Conv Conv Mul", after_conv("y = Mul (h, k)", k=C)
    ),
)
