"""BatchNormalization and arithmetic before the Conv, and biases that go away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tests.cases.case import Case, fold, inputs_of, refuse
from tests.tiny import Draw, X, Y, model

BN_NEXT = "fold-bn-into-next-conv"
AFFINE_NEXT = "fold-affine-into-next-conv"
PADDED = f"{X} => (float[2,5,11,14] y)"


def before(
    head: str, attrs: str = "", *, io: str = f"{X} => {Y}", w: tuple[int, ...] = (5, 3, 3, 2), **shapes: tuple[int, ...]
) -> Callable[[], onnx.ModelProto]:
    """Return the builder of ``head`` (x to h), then Conv with a bias; BN constants are there for BN heads."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(*w, bias=w[0])
        consts |= {k: draw.positive(*v) for k, v in shapes.items()}
        if "BatchNormalization" in head:
            consts |= draw.bn(3)
        return model(f"{io} {{ {head} y = Conv <{attrs}> (h, w, b) }}".replace("<>", ""), consts)

    return build


BN = "h = BatchNormalization <epsilon = 1e-3> (x, g, be, m, v)"
SAME_IO = f"{X} => (float[2,5,11,13] y)"
DEPTHWISE_IO = f"{X} => (float[2,3,9,12] y)"
PLAIN = before(BN)


def zero_bias(op: str, opset: int = 17) -> onnx.ModelProto:
    """A linear operator with an all-zero bias."""
    draw = Draw()
    consts = {"w": draw.normal(5, 3, 3, 2), "b": np.zeros(5, np.float32)}
    text = f"{X} => {Y} {{ y = Conv (x, w, b) }}"
    if op == "Gemm":
        text, consts["w"] = "(float[7,3] x) => (float[7,5] y) { y = Gemm (x, w, b) }", draw.normal(3, 5)
    return model(text, consts, opset=opset)


def conv_then(tail: str, out: str, **shapes: tuple[int, ...]) -> Callable[[], onnx.ModelProto]:
    """Return the builder of Conv with a bias, then ``tail`` (h to y)."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(5, 3, 3, 2, bias=5) | {k: draw.normal(*v) for k, v in shapes.items()}
        if "BatchNormalization" in tail:
            consts |= draw.bn(5)
        return model(f"{X} => (float[{out}] y) {{ h = Conv (x, w, b) {tail} }}", consts)

    return build


def lstm() -> onnx.ModelProto:
    """LSTM with input size 3, hidden size 5 and both halves of its bias."""
    draw = Draw()
    consts = {"w": draw.normal(1, 20, 3), "r": draw.normal(1, 20, 5), "b": draw.normal(1, 40)}
    return model("(float[7,2,3] x) => (float[7,1,2,5] y) { y = LSTM <hidden_size = 5> (x, w, r, b) }", consts)


def recurrent_bias_is_zero(proto: onnx.ModelProto) -> None:
    """The recurrent half of the LSTM's bias has moved into the other half."""
    (node,) = [n for n in proto.graph.node if n.op_type == "LSTM"]
    (bias,) = [onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == node.input[3]]
    assert not bias[:, 20:].any()


ROWS: tuple[Case, ...] = (
    fold("bn-conv", PLAIN, BN_NEXT, "Conv"),
    fold(
        "bn-depthwise-conv",
        before(BN, "group = 3", io=DEPTHWISE_IO, w=(3, 1, 3, 2)),
        BN_NEXT,
        "Conv",
    ),
    refuse(
        "bn-padded-conv",
        before(BN, "pads = [1, 1, 1, 1]", io=PADDED),
        BN_NEXT,
        "padded-shift",
        "BatchNormalization Conv",
        before(BN, "pads = [0, 0, 0, 0]"),
    ),
    refuse(
        "bn-conv-same-upper",
        before(BN, 'auto_pad = "SAME_UPPER"', io=SAME_IO),
        BN_NEXT,
        "padded-shift",
        "BatchNormalization Conv",
        before(BN, 'auto_pad = "VALID"'),
    ),
    fold(
        "mul-padded-conv",
        before("h = Mul (x, k)", "pads = [1, 1, 1, 1]", io=PADDED, k=(1, 3, 1, 1)),
        AFFINE_NEXT,
        "Conv",
    ),
    fold("add-conv", before("h = Add (x, k)", k=(1, 3, 1, 1)), AFFINE_NEXT, "Conv"),
    fold("zero-conv-bias", lambda: zero_bias("Conv"), "drop-zero-bias", "Conv", check=inputs_of("Conv", 2)),
    fold("zero-gemm-c", lambda: zero_bias("Gemm"), "drop-zero-bias", "Gemm", check=inputs_of("Gemm", 2)),
    fold(
        "conv-instance-norm",
        conv_then("y = InstanceNormalization (h, s, t)", "2,5,9,12", s=(5,), t=(5,)),
        "drop-bias-before-instance-norm",
        "Conv InstanceNormalization",
        check=inputs_of("Conv", 2),
    ),
    fold(
        "conv-max-pool-conv-1x1",
        conv_then("p = MaxPool <kernel_shape = [2, 3]> (h) y = Conv (p, u, c)", "2,7,8,10", u=(7, 5, 1, 1), c=(7,)),
        "sink-bias",
        "Conv MaxPool Conv",
        check=lambda proto: one_bias_less(proto, "Conv", 1),
    ),
    fold(
        "conv-max-pool-bn",
        conv_then(
            "p = MaxPool <kernel_shape = [2, 3]> (h) y = BatchNormalization <epsilon = 1e-3> (p, g, be, m, v)",
            "2,5,8,10",
        ),
        "sink-bias",
        "Conv MaxPool BatchNormalization",
        check=inputs_of("Conv", 2),
        options={"skip": ("fold-bn-into-conv", "hoist-bn")},  # which would take the batch norm, too
    ),
    fold("lstm-wb-rb", lstm, "merge-rnn-biases", "LSTM", check=recurrent_bias_is_zero),
)


def one_bias_less(proto: onnx.ModelProto, op_type: str, left: int) -> None:
    """Exactly ``left`` nodes of ``op_type`` still have a bias."""
    found = [len(n.input) for n in proto.graph.node if n.op_type == op_type]
    assert sum(n == 3 for n in found) == left, f"inputs per {op_type}: {found}"
