"""Conv and BatchNormalization in If, Loop and Scan bodies and in model-local functions."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from tests.cases.case import Build, Case, fold, refuse
from tests.cases.conv_batch_norm import CONV
from tests.cases.sharing import in_function
from tests.tiny import Draw, body, model, tensors

BN = "BatchNormalization <epsilon = 1e-3>"

INNER = f"h = Conv (a, w, b) r = {BN} (h, g, be, m, v)"
IN_LOOP = f"""(float[2,3,11,13] x, int64 n, bool c) => (float[2,3,11,13] y) {{
    y = Loop (n, c, x) <body = l (int64 i, bool p, float[2,3,11,13] a) => (bool q, float[2,3,11,13] r) {{
        q = Identity (p) {INNER} }}> }}"""
IN_SCAN = f"""(float[2,3,11,13] x, float[7,2,3,11,13] s) => (float[2,3,11,13] y) {{
    y = Scan <num_scan_inputs = 1, body = l (float[2,3,11,13] p, float[2,3,11,13] t) => (float[2,3,11,13] r) {{
        a = Add (p, t) {INNER} }}> (x, s) }}"""


def inside(text: str, op: str, own: bool) -> Build:
    """Return Conv 1x1 + BN in a Loop or Scan body, its initializers in the body or outside."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = {"w": draw.normal(3, 3, 1, 1) / 4, "b": draw.normal(3)} | draw.bn(3)
        proto = model(text, {} if own else consts)
        if own:
            body(proto, f"{op.lower()}_y", "body").initializer.extend(tensors(consts))
        return proto

    return build


def lands_in_the_body(op: str) -> Callable[[onnx.ModelProto], None]:
    """Return a check that the new weight lives in the graph that holds the Conv."""

    def check(proto: onnx.ModelProto) -> None:
        inner = body(proto, f"{op.lower()}_y", "body")
        (conv,) = [n for n in inner.node if n.op_type == "Conv"]
        assert {t.name for t in inner.initializer} == set(conv.input[1:])
        assert not proto.graph.initializer

    return check


def parametrised(calls: int, *, other: bool = False) -> Build:
    """Return a function over (a, w, b) with BN constants inside, called with initializers once or twice.

    Of another operator set than the model's, so that it is not written out.
    """

    def build() -> onnx.ModelProto:
        draw = Draw()
        proto = in_function(calls)
        function = proto.functions[0]
        function.opset_import[0].version = 16
        kept = [n for n in function.node if n.output[0] not in {"w", "b"}]
        del function.node[:]
        function.node.extend(kept)
        function.input.extend(["w", "b"])
        for i, node in enumerate(proto.graph.node):
            tag = str(i) if other else ""
            node.input.extend([f"w{tag}", f"b{tag}"])
        for i in range(calls if other else 1):
            tag = str(i) if other else ""
            proto.graph.initializer.extend(tensors(draw.conv(5, 3, 3, 2, bias=5, tag=tag)))
        return proto

    return build


ROWS: tuple[Case, ...] = (
    *(
        fold(
            f"{op.lower()}-{'own' if own else 'outer'}",
            inside(text, op, own),
            CONV,
            ops,
            check=lands_in_the_body(op),
        )
        for op, text, ops in (("Loop", IN_LOOP, "Loop Identity Conv"), ("Scan", IN_SCAN, "Scan Add Conv"))
        for own in (True, False)
    ),
    fold("function-called-twice", lambda: in_function(2), CONV, "f f Conv"),
    refuse(
        "weights-differ-per-call",
        parametrised(2, other=True),
        CONV,
        "",
        "f f Conv BatchNormalization",
        lambda: in_function(2),
    ),
)
