"""Rows beyond the tables: what reading a folder's code makes one doubt.

Large weights (folders work on them in blocks), inner graphs on one side only, attributes that a
function's caller sets, operators of other domains that only sound familiar, integers, underflow,
and batch norms that are to be kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tests.cases.a_conv_bn import CONV, CONVT, transposed
from tests.cases.a_linear_bn import GEMM
from tests.cases.a_scope import IF, PLAIN, in_function
from tests.cases.case import Build, Case, fold, inputs_of, refuse
from tests.cases.e_forward import NO_RELU
from tests.cases.e_forward import PLAIN as BN_CONV
from tests.cases.e_scope import built
from tests.tiny import Draw, X, Y, as_inputs, body, model, tensors

BN = "BatchNormalization <epsilon = 1e-3>"
STAY = "Conv BatchNormalization"
NEXT = "fold-bn-into-next-conv"


def graph(text: str, opset: int = 17, **consts: np.ndarray | tuple[int, ...]) -> Build:
    """Return a graph whose constants are given, or drawn in a given shape."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        drawn = {k: draw.normal(*v) if isinstance(v, tuple) else v for k, v in consts.items()}
        return model(text, drawn, opset=opset)

    return build


def bn_of(channels: int, tag: str = "") -> dict[str, np.ndarray]:
    """Return BN constants."""
    return Draw(seed=3).bn(channels, tag)


# Weights of more than 2**17 elements -----------------------------------------------------------------


def wide(op: str, attrs: str, w: tuple[int, ...], x: str, y: str, channels: int, *, before: bool = False) -> Build:
    """Return BN after (or before) a linear operator with a large weight."""
    chain = f"h = {BN} (x, g, be, m, v) y = {op} <{attrs}> (h, w)"
    if not before:
        chain = f"h = {op} <{attrs}> (x, w) y = {BN} (h, g, be, m, v)"
    text = f"(float[{x}] x) => (float[{y}] y) {{ {chain} }}".replace(" <>", "")
    return graph(text, w=w, **bn_of(channels))


TWO = "group = 2"
LARGE = (
    fold("E7-large-conv", wide("Conv", "", (257, 67, 3, 3), "1,67,4,5", "1,257,2,3", 257), CONV, "Conv"),
    fold("E18-large-grouped", wide("ConvTranspose", TWO, (74, 211, 3, 3), "1,74,2,3", "1,422,4,5", 422), CONVT),
    fold("E18-large-square", wide("ConvTranspose", TWO, (202, 101, 3, 3), "1,202,2,3", "1,202,4,5", 202), CONVT),
    fold("E17-large-gemm", wide("Gemm", "", (409, 331), "3,409", "3,331", 331), GEMM, "Gemm"),
    fold("E17-large-gemm-trans-b", wide("Gemm", "transB = 1", (331, 409), "3,409", "3,331", 331), GEMM, "Gemm"),
    fold(
        "E26-large-grouped",
        wide("Conv", TWO, (202, 101, 3, 3), "1,202,4,5", "1,202,2,3", 202, before=True),
        NEXT,
    ),
    fold(
        "E25-large-transposed",
        wide("ConvTranspose", TWO, (422, 331, 1, 1), "1,422,2,3", "1,662,2,3", 422, before=True),
        "fold-bn-into-next-conv-transpose",
    ),
    fold(
        "E17-large-next-gemm",
        wide("Gemm", "transB = 1", (331, 409), "3,409", "3,331", 409, before=True),
        "fold-bn-into-next-gemm",
    ),
)


# One of the two in an inner graph ---------------------------------------------------------------------

BN_INSIDE = f"""{IF} => {Y} {{ h = Conv (x, w, b) y = If (c) <
    then_branch = t () => (float[2,5,9,12] r) {{ r = {BN} (h, g, be, m, v) }},
    else_branch = e () => (float[2,5,9,12] q) {{ q = Conv (x, w) }}> }}"""
CONV_INSIDE = f"""{IF} => {Y} {{ h = {BN} (x, g, be, m, v) y = If (c) <
    then_branch = t () => (float[2,5,9,12] r) {{ r = Conv (h, w, b) }},
    else_branch = e () => (float[2,5,9,12] q) {{ q = Conv (x, w) }}> }}"""
BODY_OUTPUT = f"""(float[2,3,11,13] x, int64 n) => (float[2,3,11,13] y, float[k,2,3,11,13] z) {{
    y, z = Loop (n, yes, x) <body = l (int64 i, bool p, float[2,3,11,13] a) =>
        (bool q, float[2,3,11,13] r, float[2,3,11,13] h) {{
        q = Identity (p) h = Conv (a, w, b) r = {BN} (h, g, be, m, v) }}> }}"""


def conv_inside() -> onnx.ModelProto:
    """BN in the main graph, the Conv that reads it in a branch."""
    draw = Draw()
    return model(CONV_INSIDE, draw.conv(5, 3, 3, 2, bias=5) | draw.bn(3))


def bn_inside() -> onnx.ModelProto:
    """Conv in the main graph, the BN that reads it in a branch."""
    draw = Draw()
    return model(BN_INSIDE, draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5))


def body_output() -> onnx.ModelProto:
    """The Conv's result is a scan output of its Loop body."""
    draw = Draw()
    proto = model(BODY_OUTPUT, {"yes": np.array(True)})
    consts = {"w": draw.normal(3, 3, 1, 1) / 4, "b": draw.normal(3)} | draw.bn(3)
    body(proto, "loop_y", "body").initializer.extend(tensors(consts))
    return proto


ONE_SIDE = (
    refuse("E12-bn-in-branch", bn_inside, CONV, "captured-by-subgraph", f"{STAY} Conv If", PLAIN),
    refuse("E12-next-conv-in-branch", conv_inside, NEXT, "captured-by-subgraph", f"{STAY} Conv If", BN_CONV),
    refuse("E11-output-of-a-body", body_output, CONV, "output-is-graph-output", f"{STAY} Loop", PLAIN),
)


# Functions and domains ----------------------------------------------------------------------------------


def attribute_per_call() -> onnx.ModelProto:
    """A function whose calls set epsilon."""
    proto = in_function(2)
    function = proto.functions[0]
    function.attribute.append("eps")
    (norm,) = [n for n in function.node if n.op_type == "BatchNormalization"]
    del norm.attribute[:]
    norm.attribute.add(name="epsilon", ref_attr_name="eps", type=onnx.AttributeProto.FLOAT)
    for node, value in zip(proto.graph.node, (0.5, 2.0), strict=True):
        node.attribute.append(onnx.helper.make_attribute("eps", value))
    return proto


def nested_function() -> onnx.ModelProto:
    """A function that calls the function with Conv+BN."""
    proto = in_function(1)
    outer = onnx.helper.make_function(
        "loc",
        "outer",
        ["a"],
        ["r"],
        [onnx.helper.make_node("f", ["a"], ["r"], domain="loc", name="inner")],
        [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("loc", 1)],
    )
    proto.functions.append(outer)
    proto.graph.node[0].op_type = "outer"
    return proto


def other_domain() -> onnx.ModelProto:
    """A function called BatchNormalization in a domain of its own (it negates), after a Conv."""
    rest = """<domain: "loc", opset_import: ["" : 17]>
        BatchNormalization (a, g, be, m, v) => (r) { r = Neg (a) }"""
    draw = Draw()
    text = f"{X} => {Y} {{ h = Conv (x, w, b) y = loc.BatchNormalization (h, g, be, m, v) }}"
    return model(text, draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5), rest=rest)


def spelled_out() -> onnx.ModelProto:
    """The standard domain under its long name, in opset_import and in every node."""
    proto = PLAIN()
    proto.opset_import[0].domain = "ai.onnx"
    for node in proto.graph.node:
        node.domain = "ai.onnx"
    return proto


DOMAINS = (
    refuse("E35-epsilon-differs-per-call", attribute_per_call, CONV, "", f"f f {STAY}", lambda: in_function(2)),
    fold("E35-nested-function", nested_function, CONV, "outer f Conv"),
    fold("E5-long-domain-name", spelled_out, CONV, "Conv", valid=False),
)


# Overridable neutral elements ----------------------------------------------------------------------------

ZERO = built(f"{X} => {Y} {{ y = Conv (x, w, b) }}", b=np.zeros(5, np.float32))
ONES = graph(
    f"{X} => (float[2,3,11,13] y) {{ h = Relu (x) t = Mul (h, k) y = Relu (t) }}", k=np.ones((3, 1, 1), np.float32)
)
NEUTRAL = (
    refuse("E6-zero-bias-overridable", lambda: as_inputs(ZERO(), "b"), "drop-zero-bias", "overridable", "Conv", ZERO),
    refuse("E6-ones-overridable", lambda: as_inputs(ONES(), "k"), "drop-identity-affine", "overridable", "Mul", ONES),
)

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
    fold("E28-next-gemm", next_gemm("", (3, 5)), G, "Gemm"),
    fold("E28-next-gemm-all", next_gemm("alpha = 0.25, beta = 3.0, transB = 1", (5, 3)), G, "Gemm"),
    fold("E28-next-gemm-c-m-1", next_gemm("beta = 0.5", (3, 5), (7, 1)), G, "Gemm"),
    fold("E28-next-gemm-c-scalar", next_gemm("beta = 0.5", (3, 5), ()), G, "Gemm"),
    fold("E28-next-gemm-no-c", next_gemm("alpha = 2.0", (3, 5), None), G, "Gemm", check=inputs_of("Gemm", 3)),
    fold("E28-next-gemm-opset-9", next_gemm("", (3, 5), opset=9), G, "Gemm"),
    refuse(
        "E28-next-gemm-trans-a",
        graph(SQUARE, w=(3, 5), **bn_of(3)),
        G,
        "channel-axis",
        "BatchNormalization Gemm",
        graph(SQUARE.replace("transA = 1", "transA = 0"), w=(3, 5), **bn_of(3)),
    ),
    fold(
        "E28-mul-next-matmul-3d",
        graph("(float[2,7,3] x) => (float[2,7,5] y) { h = Mul (k, x) y = MatMul (h, w) }", k=(3,), w=(3, 5)),
        M,
        "MatMul",
    ),
    fold(
        "E28-mul-add-next-matmul-add",
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
        "E28-mul-rows-next-matmul",
        graph("(float[3,3] x) => (float[3,5] y) { h = Mul (k, x) y = MatMul (h, w) }", k=(3, 1), w=(3, 5)),
        M,
        "channel-axis",
        "Mul MatMul",
        graph("(float[3,3] x) => (float[3,5] y) { h = Mul (k, x) y = MatMul (h, w) }", k=(1, 3), w=(3, 5)),
    ),
    fold(
        "E28-bn-transpose-matmul",
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
        "E22-bn-bn",
        row_of(
            f"p = {BN} (h, g1, be1, m1, v1) t = {BN} (p, g2, be2, m2, v2)", **bn_of(3, "1"), **Draw(seed=9).bn(3, "2")
        ),
        "merge-bn-into-bn",
        "Relu BatchNormalization Sigmoid",
    ),
    *(
        fold(
            f"E22-{name}",
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
    fold(
        "E22-mul-div", row_of("p = Mul (h, k) t = Div (p, d)", **POSITIVE, d=np.array(1.5, np.float32)), "merge-affines"
    ),
)
INTEGERS = {
    "int-div": ("p = Div (h, k) t = Div (p, d)", {"k": np.int64(2), "d": np.int64(3)}),
    "int-div-mul": ("p = Div (h, k) t = Mul (p, d)", {"k": np.int64(2), "d": np.int64(2)}),
    "int-add": ("p = Add (h, k) t = Add (p, d)", {"k": np.int64(2**62 + 1), "d": np.int64(3)}),
}


def untouched(name: str, middle: str, consts: dict[str, Any]) -> Case:
    """Make a row over integers, where nothing may be rewritten except exactly."""
    build = row_of(middle, "int64", **{k: np.asarray(v) for k, v in consts.items()})
    return fold(f"E22-{name}", build, "")


# Soundness only: nothing need happen, but the outputs stay.
SOUND: tuple[Case, ...] = (
    *(untouched(name, *spec) for name, spec in INTEGERS.items()),
    fold(
        "E29-merged-constant-underflows",
        graph(
            f"{X} => (float[2,3,11,13] y) {{ h = Relu (x) p = Mul (h, k) t = Mul (p, d) y = Abs (t) }}",
            k=np.array(1e-30, np.float32),
            d=np.array(1e-20, np.float32),
        ),
        "",
        feed_scale=3e37,
    ),
    fold("E36-batch-norm-of-another-domain", other_domain, ""),
    fold("E27-identity-before-conv", NO_RELU, ""),
)

# --keep-bn -------------------------------------------------------------------------------------------------------

KEEP = {"keep_bn": True}
ABSORB = "absorb-bias-into-bn"


def keeps(name: str, build: Build, op: str, **more: Any) -> Case:
    """Make a row where the bias goes into the mean and the BatchNormalization stays."""
    return fold(name, build, ABSORB, f"{op} BatchNormalization", options=KEEP, check=inputs_of(op, 2), **more)


KEPT = (
    keeps("E13-keep-bn-conv", PLAIN, "Conv"),
    keeps(
        "E13-keep-bn-conv-transpose",
        lambda: transposed(3, 5, 3, 2, io="(float[2,3,11,13] x) => (float[2,5,13,14] y)", attrs="strides = [1, 1]"),
        "ConvTranspose",
    ),
    keeps(
        "E13-keep-bn-gemm",
        graph(
            f"(float[7,3] x) => (float[7,5] y) {{ h = Gemm <beta = 0.5> (x, w, c) y = {BN} (h, g, be, m, v) }}",
            w=(3, 5),
            c=(5,),
            **bn_of(5),
        ),
        "Gemm",
    ),
    refuse(
        "E13-keep-bn-gemm-c-m-1",
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

ROWS: tuple[Case, ...] = (*LARGE, *ONE_SIDE, *DOMAINS, *NEUTRAL, *FORWARD, *MERGES, *KEPT)
