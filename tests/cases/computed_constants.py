"""Weights and statistics that nodes compute from constants: normalised, masked, tiled, split, merged."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tests.cases.case import Build, Case, fold, refuse
from tests.cases.conv_batch_norm import CONV
from tests.tiny import Draw, X, Y, as_inputs, drop_unread, model

TAIL = "y = BatchNormalization <epsilon = 1e-3> (h, g, be, m, v)"
STAY = "Conv BatchNormalization"
AFFINE = "fold-affine-into-conv"
INT = np.int64
AXES = np.array([1, 2, 3], INT)
HALF = np.array(0.5, np.float32)


def built(head: str, *, tail: str = f"h = Conv (x, u) {TAIL}", opset: int = 18, **more: np.ndarray) -> Build:
    """Return the builder of ``head``, which computes what ``tail`` reads from w [5,3,3,2] and ``more``."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(5, 3, 3, 2) | draw.bn(5) | {"k": draw.positive(5, 1, 1, 1)} | more
        return drop_unread(model(f"{X} => {Y} {{ {head} {tail} }}", consts, opset=opset))

    return build


def weight(name: str, head: str, **more: Any) -> Case:
    """Make a row whose weight ``u`` is computed by ``head``."""
    return fold(f"computed-{name}", built(head, **more), CONV, "Conv")


MASK = np.asarray(Draw(seed=3).normal(5, 3, 3, 2) > 0)
NORMED = "n = ReduceL2 <keepdims = 1> (w, ax) d = Div (w, n) u = Mul (d, k)"
STANDARD = """a = ReduceMean <keepdims = 1> (w, ax) c = Sub (w, a) q = Mul (c, c) s = ReduceMean <keepdims = 1> (q, ax)
    e = Add (s, eps) r = Sqrt (e) u = Div (c, r)"""
FROZEN = """e = Add (v4, eps) r = Sqrt (e) i = Reciprocal (r) s = Mul (k, i) ms = Mul (m4, s) t = Sub (b4, ms)
    h = Conv (x, w) p = Mul (h, s) y = Add (p, t)"""
SPREAD = {"v4": np.full((5, 1, 1), 0.75, np.float32), "eps": np.array(1e-3, np.float32)} | {
    n: Draw(seed=i).normal(5, 1, 1) for i, n in enumerate(("m4", "b4"))
}
BIG = np.array([1 << 14, 1 << 13, 1, 1], INT)
SCALE = "h = Conv (x, w) y = Mul (h, u)"
LOG_V = np.log(Draw().positive(5))
FROZEN_SCALE = SPREAD | {"k": Draw().positive(5, 1, 1)}

ROWS: tuple[Case, ...] = (
    weight("weight-norm", NORMED, ax=AXES),
    weight("weight-norm-opset-13", "n = ReduceL2 <axes = [1, 2, 3]> (w) d = Div (w, n) u = Mul (d, k)", opset=13),
    weight("standardised", STANDARD, ax=AXES, eps=np.array(1e-5, np.float32)),
    weight("masked", "u = Where (mask, w, zero)", mask=MASK, zero=np.array(0, np.float32)),
    weight("thresholded", "a = Abs (w) mask = Greater (a, half) f = Cast <to = 1> (mask) u = Mul (w, f)", half=HALF),
    weight("split", "u, rest = Split <axis = 0> (both, n)", both=Draw().normal(12, 3, 3, 2), n=np.array([5, 7], INT)),
    weight("split-second", "rest, u = Split <axis = 0> (both, n)", both=Draw().normal(12, 3, 3, 2), n=np.array([7, 5])),
    weight(
        "padded-and-added",
        "p = Pad (w1, n) u = Add (w, p)",
        w1=Draw().normal(5, 3, 1, 1),
        n=np.repeat([0, 1, 0, 1], [2, 1, 3, 2]),
    ),
    weight(
        "low-rank",
        "p = MatMul (a, b) r = Reshape (p, s) u = Add (w, r)",
        a=Draw().normal(5, 2),
        b=Draw().normal(2, 18),
        s=np.array([5, 3, 3, 2], INT),
    ),
    weight("tiled", "u = Tile (one, n)", one=Draw().normal(5, 1, 3, 2), n=np.array([1, 3, 1, 1], INT)),
    weight(
        "einsum",
        'u = Einsum <equation = "oi,icde->ocde"> (a, b)',
        a=Draw().normal(5, 7),
        b=Draw(seed=2).normal(7, 3, 3, 2),
    ),
    weight("scattered", "u = ScatterND (w, at, rows)", at=np.array([[1], [4]], INT), rows=Draw().normal(2, 3, 3, 2)),
    weight("of-its-shape", "n = Shape (w) u = Reshape (flat, n)", flat=Draw().normal(90)),
    weight("tanh-of-half", "f = Cast <to = 1> (w16) u = Tanh (f)", w16=Draw(np.float16).normal(5, 3, 3, 2)),
    weight(
        "deep",
        " ".join(f"c{i} = Mul (c{i - 1}, one)" for i in range(1, 40)).replace("(c0", "(w") + " u = Neg (c39)",
        one=np.array(0.96875, np.float32),
    ),
    fold(
        "computed-variance",
        built("e = Exp (lv)", tail=f"h = Conv (x, w) {TAIL.replace(', v)', ', e)')}", lv=LOG_V),
        CONV,
        "Conv",
    ),
    fold("frozen-norm-reciprocal", built("", tail=FROZEN, **FROZEN_SCALE), AFFINE, "Conv"),
    fold(
        "frozen-norm-power",
        built(
            "",
            tail=FROZEN.replace("r = Sqrt (e) i = Reciprocal (r)", "i = Pow (e, minus)"),
            minus=np.array(-0.5, np.float32),
            **FROZEN_SCALE,
        ),
        AFFINE,
        "Conv",
    ),
    refuse(
        "computed-of-overridable",
        lambda: as_inputs(built(NORMED, ax=AXES)(), "k"),
        CONV,
        "overridable",
        STAY,
        built(NORMED, ax=AXES),
        says="k",
    ),
    refuse(
        "computed-of-random",
        built("r = RandomNormalLike <seed = 1.0> (w) u = Add (w, r)"),
        CONV,
        "not-constant",
        STAY,
        built("r = Neg (w) u = Mul (w, r)"),
        ort=False,
    ),
    refuse(
        "computed-too-large",
        built(
            "t = Tile (one, big) s = ReduceMean <keepdims = 1> (t, ax) u = Mul (w, s)",
            one=HALF.reshape(1, 1, 1, 1),
            big=BIG,
            ax=np.array([0, 1, 2, 3], INT),
        ),
        CONV,
        "not-constant",
        STAY,
        built(
            "t = Tile (one, big) s = ReduceMean <keepdims = 1> (t, ax) u = Mul (w, s)",
            one=HALF.reshape(1, 1, 1, 1),
            big=np.array([4, 1, 2, 1], INT),
            ax=np.array([0, 1, 2, 3], INT),
        ),
    ),
    refuse(
        "computed-of-argument",
        lambda: model(
            f"{X} => {Y} {{ y = loc.f (x, w, k, g, be, m, v) }}",
            Draw().conv(5, 3, 3, 2) | Draw().bn(5) | {"k": Draw().positive(5, 1, 1, 1)},
            rest=f"""<opset_import: ["" : 16], domain: "loc"> f (x, w, k, g, be, m, v) => (y) {{
                n = ReduceL2 <axes = [1, 2, 3]> (w) d = Div (w, n) u = Mul (d, k) h = Conv (x, u) {TAIL} }}""",
        ),
        CONV,
        "function-input",
        STAY,
    ),
)
