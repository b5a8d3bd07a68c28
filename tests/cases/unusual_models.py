"""What reading a folder's code makes one doubt.

Large weights (folders work on them in blocks), inner graphs on one side only, attributes that a
function's caller sets, operators of other domains that only sound familiar, overridable neutral elements.
"""

from __future__ import annotations

import numpy as np
import onnx

from tests.cases.case import Build, Case, fold, refuse
from tests.cases.constants_and_opsets import built, still_lists
from tests.cases.conv_batch_norm import CONV, CONVT, opset6
from tests.cases.matmul_batch_norm import GEMM
from tests.cases.padding_and_sign import PLAIN as BN_CONV
from tests.cases.sharing import IF, PLAIN, in_function
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
    fold("large-conv", wide("Conv", "", (257, 67, 3, 3), "1,67,4,5", "1,257,2,3", 257), CONV, "Conv"),
    fold("large-grouped", wide("ConvTranspose", TWO, (74, 211, 3, 3), "1,74,2,3", "1,422,4,5", 422), CONVT),
    fold("large-square", wide("ConvTranspose", TWO, (202, 101, 3, 3), "1,202,2,3", "1,202,4,5", 202), CONVT),
    fold("large-gemm", wide("Gemm", "", (409, 331), "3,409", "3,331", 331), GEMM, "Gemm"),
    fold("large-gemm-trans-b", wide("Gemm", "transB = 1", (331, 409), "3,409", "3,331", 331), GEMM, "Gemm"),
    fold(
        "large-grouped-next",
        wide("Conv", TWO, (202, 101, 3, 3), "1,202,4,5", "1,202,2,3", 202, before=True),
        NEXT,
    ),
    fold(
        "large-transposed",
        wide("ConvTranspose", TWO, (422, 331, 1, 1), "1,422,2,3", "1,662,2,3", 422, before=True),
        "fold-bn-into-next-conv-transpose",
    ),
    fold(
        "large-next-gemm",
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
    refuse("bn-in-branch", bn_inside, CONV, "captured-by-subgraph", f"{STAY} Conv If", PLAIN),
    refuse("next-conv-in-branch", conv_inside, NEXT, "captured-by-subgraph", f"{STAY} Conv If", BN_CONV),
    refuse("output-of-a-body", body_output, CONV, "output-is-graph-output", f"{STAY} Loop", PLAIN),
)


# Functions and domains ----------------------------------------------------------------------------------


def attribute_per_call() -> onnx.ModelProto:
    """A function whose calls set epsilon, of another operator set than the model's, so that it is not written out."""
    proto = in_function(2)
    function = proto.functions[0]
    function.opset_import[0].version = 16
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
    """A function called BatchNormalization in a domain of its own, after a Conv: it negates."""
    rest = """<domain: "loc", opset_import: ["" : 16]>
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
    refuse("epsilon-differs-per-call", attribute_per_call, CONV, "", f"f f {STAY}", lambda: in_function(2)),
    fold("nested-function", nested_function, CONV, "outer f Conv"),
    fold("long-domain-name", spelled_out, CONV, "Conv", valid=False),
)


# Overridable neutral elements ----------------------------------------------------------------------------

ZERO = built(f"{X} => {Y} {{ y = Conv (x, w, b) }}", b=np.zeros(5, np.float32))
ONES = graph(
    f"{X} => (float[2,3,11,13] y) {{ h = Relu (x) t = Mul (h, k) y = Relu (t) }}", k=np.ones((3, 1, 1), np.float32)
)
NEUTRAL = (
    refuse("zero-bias-overridable", lambda: as_inputs(ZERO(), "b"), "drop-zero-bias", "overridable", "Conv", ZERO),
    refuse("ones-overridable", lambda: as_inputs(ONES(), "k"), "drop-identity-affine", "overridable", "Mul", ONES),
)


def opset_5() -> onnx.ModelProto:
    """BatchNormalization of opset 1, which biasopt does not know."""
    proto = opset6("consumed_inputs = [0, 0, 0, 1, 1], is_test = 1,")
    proto.opset_import[0].version = 5
    return proto


OLDER = (
    refuse("opset-5", opset_5, CONV, "opset", STAY, opset6, ort=False),
    fold(
        "ir-3-zero-bias",
        lambda: as_inputs(built(f"{X} => {Y} {{ y = Conv (x, w, b) }}", 8, 3, b=np.zeros(5, np.float32))()),
        "drop-zero-bias",
        "Conv",
        check=still_lists("x"),
    ),
)

SOUND: tuple[Case, ...] = (fold("batch-norm-of-another-domain", other_domain, ""),)
ROWS: tuple[Case, ...] = (*LARGE, *ONE_SIDE, *DOMAINS, *NEUTRAL, *OLDER)
