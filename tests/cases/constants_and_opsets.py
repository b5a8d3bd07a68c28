"""Optional inputs, computed constants, training mode, old opsets, overridable, shared and escaping tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tests.cases.case import Build, Case, fold, inputs_of, refuse
from tests.cases.conv_batch_norm import CONV, CONVT, ir3_stays_consistent, opset6
from tests.cases.sharing import IF, PLAIN, TWO, net
from tests.tiny import Draw, X, Y, as_inputs, drop_unread, model

BN = "BatchNormalization <epsilon = 1e-3>"
STAY = "Conv BatchNormalization"
TAIL = f"y = {BN} (h, g, be, m, v)"
INT = np.array([0], np.int64)


def built(text: str, opset: int = 17, ir: int = 8, **more: np.ndarray) -> Build:
    """Return the builder of a graph over w [5,3,3,2], b and BN constants, and ``more``."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5) | more
        return drop_unread(model(text, consts, opset=opset, ir=ir))

    return build


# Absent inputs ----------------------------------------------------------------------------------------------


def empty_gemm_c() -> onnx.ModelProto:
    """Gemm with an empty third input."""
    draw = Draw()
    text = f'(float[7,3] x) => (float[7,5] y) {{ h = Gemm (x, w, "") {TAIL} }}'
    return model(text, {"w": draw.normal(3, 5)} | draw.bn(5))


def empty_transposed() -> onnx.ModelProto:
    """ConvTranspose with an empty third input."""
    draw = Draw()
    text = f'{X} => (float[2,5,13,14] y) {{ h = ConvTranspose (x, w, "") {TAIL} }}'
    return model(text, draw.conv(3, 5, 3, 2) | draw.bn(5))


# the zero bias that torch computes at run time ------------------------------------------------

ZERO = np.array(0, np.float32)
SLICED = "s = Shape (w) n = Slice (s, i0, i1, i0) z = CastLike (zero, x) e = Expand (z, n)"
STARTED = "n = Shape <start = 0, end = 1> (w) e0 = Expand (zero, n) e = CastLike (e0, x)"
OF_SHAPE = "n = Shape <start = 0, end = 1> (w) e = ConstantOfShape <value = float[1] {0}> (n)"
INDEX = {"i0": INT, "i1": INT + 1, "zero": ZERO}
HALF_W = Draw(np.float16).normal(5, 3, 3, 2)


def computed(head: str) -> tuple[Build, Build]:
    """Return Conv with a computed zero bias: with and without a BatchNormalization behind it."""
    with_bn = built(f"{X} => {Y} {{ {head} h = Conv (x, w, e) {TAIL} }}", **INDEX)
    return with_bn, built(f"{X} => {Y} {{ {head} y = Conv (x, w, e) }}", **INDEX)


def weight_through(head: str, stored: np.ndarray) -> Build:
    """Return Conv+BN whose weight is computed from a stored constant ``k``."""
    return built(f"{X} => {Y} {{ {head} h = Conv (x, u, b) {TAIL} }}", k=stored, s=np.array([5, 3, 3, 2], np.int64))


WEIGHT = Draw().normal(5, 3, 3, 2)
COMPUTED = (
    *(
        fold(f"{name}-bias", build, CONV, "Conv")
        for name, (build, _) in {
            "slice": computed(SLICED),
            "start": computed(STARTED),
            "of-shape": computed(OF_SHAPE),
        }.items()
    ),
    fold("zero-bias-seen", computed(STARTED)[1], "drop-zero-bias", "Conv", check=inputs_of("Conv", 2)),
    fold("weight-behind-cast", weight_through("u = Cast <to = 1> (k)", HALF_W), CONV, "Conv"),
    fold("weight-behind-reshape", weight_through("u = Reshape (k, s)", WEIGHT.reshape(5, 18)), CONV, "Conv"),
    fold(
        "weight-behind-transpose",
        weight_through("u = Transpose <perm = [3,2,0,1]> (k)", np.ascontiguousarray(WEIGHT.transpose(2, 3, 1, 0))),
        CONV,
        "Conv",
    ),
)


# training mode in every dialect ----------------------------------------------------------------

TRAIN9 = f"""{X} => (float[2,5,9,12] y, float[5] m2, float[5] v2, float[5] m3, float[5] v3) {{
    h = Conv (x, w, b) y, m2, v2, m3, v3 = {BN} (h, g, be, m, v) }}"""
OFF = "h = Conv (x, w, b) y = BatchNormalization <epsilon = 1e-3, training_mode = 0> (h, g, be, m, v)"
TRAINING = (
    refuse("opset-9-five-outputs", built(TRAIN9, opset=9), CONV, "training-mode", STAY, PLAIN, ort=False),
    refuse("opset-6-is-test-absent", lambda: opset6(""), CONV, "training-mode", STAY, opset6, ort=False),
    fold("training-mode-0", built(f"{X} => {Y} {{ {OFF} }}"), CONV, "Conv"),
)


# old opsets ---------------------------------------------------------------------------------


def spatial6(value: int) -> onnx.ModelProto:
    """Opset 6, inference, ``spatial``."""
    draw = Draw()
    stats = {k: draw.positive(*((5, 9, 12) if value == 0 else (5,))) for k in ("g", "be", "m", "v")}
    text = f"""{X} => {Y} {{ h = Conv (x, w, b)
        y = BatchNormalization <epsilon = 1e-3, is_test = 1, spatial = {value}> (h, g, be, m, v) }}"""
    return as_inputs(model(text, draw.conv(5, 3, 3, 2, bias=5) | stats, opset=6, ir=3))


def arithmetic6(attrs: str, *shape: int, op: str = "Mul") -> Build:
    """Return Conv and an opset 6 operator with explicit broadcasting."""
    text = f"{X} => (float[2,4,9,4] y) {{ h = Conv (x, w, b) y = {op} <{attrs}> (h, k) }}"

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(4, 3, 3, 2, bias=4) | {"k": draw.positive(*shape)}
        return as_inputs(model(text.replace("[2,3,11,13]", "[2,3,11,5]"), consts, opset=6, ir=3))

    return build


def shared_ir3() -> onnx.ModelProto:
    """IR 3, the weight shared with a Conv that has no BatchNormalization."""
    text = f"{TWO} {{ h = Conv (x, w, b) {TAIL} z = Conv (x2, w, b) }}"
    return as_inputs(built(text, opset=8, ir=3)())


def still_lists(*names: str) -> Callable[[onnx.ModelProto], None]:
    """Return a check that an IR 3 model lists exactly its inputs and its initializers."""

    def check(proto: onnx.ModelProto) -> None:
        held = {t.name for t in proto.graph.initializer}
        assert {v.name for v in proto.graph.input} == held | set(names)

    return check


AFFINE = "fold-affine-into-conv"
ON_AXIS_1 = arithmetic6("broadcast = 1, axis = 1", 4)
OLD = (
    refuse("opset-6-spatial-0", lambda: spatial6(0), CONV, "spatial-stats", STAY, lambda: spatial6(1), ort=False),
    fold("opset-6-mul-axis-1", ON_AXIS_1, AFFINE, "Conv", ort=False, check=ir3_stays_consistent),
    fold("opset-6-add-axis-1", arithmetic6("broadcast = 1, axis = 1", 4, op="Add"), AFFINE, "Conv", ort=False),
    refuse(
        "opset-6-mul-last-axis",
        arithmetic6("broadcast = 1", 4),
        AFFINE,
        "not-per-channel",
        "Conv Mul",
        ON_AXIS_1,
        ort=False,
    ),
    fold("ir-3-shared-weight", shared_ir3, CONV, "Conv Conv", check=still_lists("x", "x2")),
)


# overridable initializers ------------------------------------------------------------------------


def only_x(proto: onnx.ModelProto) -> None:
    """The frozen names are no longer inputs."""
    assert [v.name for v in proto.graph.input] == ["x"]


FREEZE = {"freeze_overridable": True}
OVERRIDABLE = (
    *(
        fold(f"freeze-{n}", lambda n=n: as_inputs(PLAIN(), n), CONV, "Conv", options=FREEZE, check=only_x)  # type: ignore[misc]
        for n in ("w", "g", "v")
    ),
    fold("freeze-all", lambda: as_inputs(PLAIN()), CONV, "Conv", options=FREEZE, check=only_x),
    refuse("all-overridable", lambda: as_inputs(PLAIN()), CONV, "overridable", STAY, PLAIN),
)


# sharing and escaping ------------------------------------------------------------------------

NO_GROWTH = {"no_growth": True}
SHARED = f"h = Conv (x, w, b) {TAIL} k = Conv (x2, w, b)"
ONE_BN = net(f"{TWO} {{ {SHARED} z = Relu (k) }}")
LOOP = f"""(float[2,3,11,13] x, int64 n, bool c, float[2,5,9,12] a0) => (float[2,5,9,12] y, float[2,5,9,12] z) {{
    h = Conv (x, w, b) {TAIL}
    z = Loop (n, c, a0) <body = l (int64 i, bool p, float[2,5,9,12] a) => (bool q, float[2,5,9,12] r) {{
        q = Identity (p) r = Add (a, HELD) }}> }}"""
SCAN = f"""(float[2,3,11,13] x, float[7,2,5,9,12] s, float[2,5,9,12] a0) => (float[2,5,9,12] y, float[2,5,9,12] z) {{
    h = Conv (x, w, b) {TAIL}
    z = Scan <num_scan_inputs = 1, body = l (float[2,5,9,12] a, float[2,5,9,12] t) => (float[2,5,9,12] r) {{
        k = Add (a, t) r = Add (k, HELD) }}> (a0, s) }}"""
NESTED = f"""{IF} => (float[2,5,9,12] y, float[2,5,9,12] z) {{ h = Conv (x, w, b) {TAIL}
    z = If (c) <then_branch = t () => (float[2,5,9,12] r) {{
            r = If (c) <then_branch = tt () => (float[2,5,9,12] rr) {{ rr = Relu (HELD) }},
                        else_branch = te () => (float[2,5,9,12] rq) {{ rq = Neg (y) }}> }},
        else_branch = e () => (float[2,5,9,12] q) {{ q = Neg (y) }}> }}"""
DEEP_W = f"""{IF} => (float[2,5,9,12] y, float[5,3,3,2] z) {{ h = Conv (x, w, b) {TAIL}
    z = If (c) <then_branch = t () => (float[5,3,3,2] r) {{
            r = If (c) <then_branch = tt () => (float[5,3,3,2] rr) {{ rr = Relu (w) }},
                        else_branch = te () => (float[5,3,3,2] rq) {{ rq = Neg (w) }}> }},
        else_branch = e () => (float[5,3,3,2] q) {{ q = Abs (w) }}> }}"""


def captured(name: str, text: str, op: str) -> Case:
    """Make a row where a nested body reads the Conv's output (the twin: the BatchNormalization's)."""
    twin = built(text.replace("HELD", "y"))
    return refuse(name, built(text.replace("HELD", "h")), CONV, "captured-by-subgraph", f"{STAY} {op}", twin)


def gamma_is_var() -> onnx.ModelProto:
    """One tensor is both scale and variance."""
    return net(f"{X} => {Y} {{ h = Conv (x, w, b) y = {BN} (h, g, be, m, g) }}")()


SHARING = (
    refuse("no-growth-one-bn", ONE_BN, CONV, "weight-shared", "Conv Conv BatchNormalization", PLAIN, options=NO_GROWTH),
    refuse(
        "no-growth-two-bns",
        net(f"{TWO} {{ {SHARED} z = {BN} (k, g2, be2, m2, v2) }}"),
        CONV,
        "weight-shared",
        "Conv Conv BatchNormalization BatchNormalization",
        PLAIN,
        options=NO_GROWTH,
    ),
    fold("no-growth-unshared", PLAIN, CONV, "Conv", options=NO_GROWTH),
    fold("gamma-is-var", gamma_is_var, CONV, "Conv"),
    fold("weight-in-nested-if", net(DEEP_W), CONV, "Conv If If Relu Neg Abs"),
    captured("captured-by-loop", LOOP, "Loop"),
    captured("captured-by-scan", SCAN, "Scan"),
    captured("captured-by-nested-if", NESTED, "If If"),
)

ROWS: tuple[Case, ...] = (
    fold("empty-gemm-c", empty_gemm_c, "fold-bn-into-gemm", "Gemm", check=inputs_of("Gemm", 3)),
    fold("empty-conv-transpose-bias", empty_transposed, CONVT, "ConvTranspose", check=inputs_of("ConvTranspose", 3)),
    *COMPUTED,
    *TRAINING,
    *OLD,
    *OVERRIDABLE,
    *SHARING,
)
