"""BatchNormalization and arithmetic before Conv and ConvTranspose: padding, groups, negative scales."""

from __future__ import annotations

import numpy as np
import onnx

from tests.cases.before_conv import AFFINE_NEXT, BN, BN_NEXT, PADDED, before
from tests.cases.case import Build, Case, fold, refuse
from tests.tiny import Draw, X, Y, model, sub

CONVT_NEXT = "fold-bn-into-next-conv-transpose"
AFFINE_CONVT_NEXT = "fold-affine-into-next-conv-transpose"
STAY = "BatchNormalization Conv"
NONE = np.zeros(3, np.float32)
PLAIN = before(BN)


def pure_scale(attrs: str, io: str) -> Build:
    """Return BN with mean = beta = 0 before a padded Conv."""
    build = before(BN, attrs, io=io)
    return lambda: sub(build(), m=NONE, be=NONE)


def pads(text: str, x: str, y: str, k: tuple[int, int] = (2, 2)) -> Build:
    """Return BN before a Conv [5,3,*k] with other attributes, from ``x`` to ``y``."""
    return before(BN, text, io=f"(float[{x}] x) => (float[{y}] y)", w=(5, 3, *k))


PADDING = (
    fold("pads-0", before(BN, "pads = [0, 0, 0, 0]"), BN_NEXT, "Conv"),
    fold("valid", before(BN, 'auto_pad = "VALID"'), BN_NEXT, "Conv"),
    fold(
        "same-without-padding",
        pads('auto_pad = "SAME_UPPER", strides = [2, 2]', "2,3,10,12", "2,5,5,6"),
        BN_NEXT,
        "Conv",
    ),
    fold("same-lower-1x1", pads('auto_pad = "SAME_LOWER"', "2,3,11,13", "2,5,11,13", (1, 1)), BN_NEXT, "Conv"),
    fold("padding-never-read", pads("pads = [0,0,1,1], strides = [2,2]", "2,3,10,12", "2,5,5,6"), BN_NEXT, "Conv"),
    fold("pure-scale-padded", pure_scale("pads = [1, 1, 1, 1]", PADDED), BN_NEXT, "Conv"),
    fold("pure-scale-same", pure_scale('auto_pad = "SAME_UPPER"', f"{X} => (float[2,5,11,13] y)"), BN_NEXT, "Conv"),
    refuse(
        "same-lower",
        before(BN, 'auto_pad = "SAME_LOWER"', io=f"{X} => (float[2,5,11,13] y)"),
        BN_NEXT,
        "padded-shift",
        STAY,
        PLAIN,
    ),
    refuse(
        "same-unknown-size",
        pads('auto_pad = "SAME_UPPER", strides = [2, 2]', "2,3,H,W", "2,5,P,Q"),
        BN_NEXT,
        "padded-shift",
        STAY,
        pads('auto_pad = "VALID", strides = [2, 2]', "2,3,H,W", "2,5,P,Q"),
    ),
    refuse(
        "one-sided-pad",
        pads("pads = [0, 0, 0, 1]", "2,3,11,13", "2,5,10,13"),
        BN_NEXT,
        "padded-shift",
        STAY,
        pads("pads = [0, 0, 0, 0]", "2,3,11,13", "2,5,10,12"),
    ),
    refuse(
        "add-padded",
        before("h = Add (x, k)", "pads = [1, 1, 1, 1]", io=PADDED, k=(1, 3, 1, 1)),
        AFFINE_NEXT,
        "padded-shift",
        "Add Conv",
        before("h = Add (x, k)", k=(1, 3, 1, 1)),
    ),
    refuse(
        "bn-two-readers",
        before(f"{BN} z = Relu (h)", io=f"{X} => (float[2,5,9,12] y, float[2,3,11,13] z)"),
        BN_NEXT,
        "",
        STAY,
        before(f"{BN} z = Relu (x)", io=f"{X} => (float[2,5,9,12] y, float[2,3,11,13] z)"),
    ),
    refuse(
        "bn-is-graph-output",
        before(BN, io=f"{X} => (float[2,5,9,12] y, float[2,3,11,13] h)"),
        BN_NEXT,
        "",
        STAY,
        PLAIN,
    ),
)


def into_transposed(head: str, attrs: str, y: str, *w: int, **shapes: tuple[int, ...]) -> Build:
    """Return ``head`` (x [2,3,11,13] to h), then ConvTranspose with weight ``w`` and a bias."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(*w, bias=w[1]) | {k: draw.positive(*v) for k, v in shapes.items()}
        consts |= draw.bn(3) if "BatchNormalization" in head else {}
        text = f"{X} => (float[2,{y}] y) {{ {head} y = ConvTranspose <{attrs}> (h, w, b) }}"
        return model(text.replace("<>", ""), consts)

    return build


ONE_TAP = into_transposed(BN, "", "5,11,13", 3, 5, 1, 1)
SPREAD = {
    "k3s1": ("", "5,13,15", (3, 5, 3, 3)),
    "k2s2": ("strides = [2, 2]", "5,22,26", (3, 5, 2, 2)),
    "k4s2p1": ("strides = [2, 2], pads = [1, 1, 1, 1]", "5,22,26", (3, 5, 4, 4)),
    "k3s1p1": ("pads = [1, 1, 1, 1]", "5,11,13", (3, 5, 3, 3)),
    "k2s3": ("strides = [3, 3]", "5,32,38", (3, 5, 2, 2)),
    "k1s2": ("strides = [2, 2]", "5,21,25", (3, 5, 1, 1)),
}
STEP = "strides = [2, 2], pads = [1, 0, 1, 0]"
TRANSPOSED = (
    fold("k1s1", ONE_TAP, CONVT_NEXT, "ConvTranspose"),
    *(
        refuse(
            f"spread-{name}", into_transposed(BN, a, y, *w), CONVT_NEXT, "", "BatchNormalization ConvTranspose", ONE_TAP
        )
        for name, (a, y, w) in SPREAD.items()
    ),
    fold(
        "mul-any-kernel",
        into_transposed("h = Mul (x, k)", STEP, "5,21,26", 3, 5, 3, 2, k=(3, 1, 1)),
        AFFINE_CONVT_NEXT,
    ),
    refuse(
        "add-k3",
        into_transposed("h = Add (x, k)", "", "5,13,15", 3, 5, 3, 3, k=(3, 1, 1)),
        AFFINE_CONVT_NEXT,
        "",
        "Add ConvTranspose",
        into_transposed("h = Add (x, k)", "", "5,11,13", 3, 5, 1, 1, k=(3, 1, 1)),
    ),
)


def grouped(group: int, *w: int, channels: int, bias: bool = True) -> Build:
    """Return BN over ``channels``, then a grouped Conv."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(*w, bias=w[0] if bias else 0) | draw.bn(channels)
        text = f"""(float[2,{channels},11,13] x) => (float[2,{w[0]},9,12] y) {{ {BN}
            y = Conv <group = {group}> ({"h, w, b" if bias else "h, w"}) }}"""
        return model(text, consts)

    return build


GROUPED = (
    fold("depthwise-multiplier-2", grouped(3, 6, 1, 3, 2, channels=3), BN_NEXT, "Conv"),
    fold("grouped-no-bias", grouped(2, 10, 3, 3, 2, channels=6, bias=False), BN_NEXT, "Conv"),
    fold("grouped-square", grouped(2, 6, 3, 3, 2, channels=6), BN_NEXT, "Conv"),
)


def through(middle: str, y: str = "2,5,9,11", *, sign: float = 1.0, io: str = X) -> Build:
    """Return BN (x to h), ``middle`` (h to p), Conv [5,3,2,2]; gamma of channel 1 has ``sign``."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(5, 3, 2, 2, bias=5) | draw.bn(3)
        consts["g"] = consts["g"] * np.array([1, sign, 1], np.float32)
        return model(f"{io} => (float[{y}] y) {{ {BN} {middle} y = Conv (p, w, b) }}", consts)

    return build


POOL = "p = MaxPool <kernel_shape = [2, 2]> (h)"


def relu_bn(gamma: float) -> Build:
    """Return Conv, ReLU, BN: the scale of channel 3 is ``gamma``."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        consts = draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5)
        consts["g"][3] = gamma
        text = f"""{X} => {Y} {{ h = Conv (x, w, b) p = Relu (h)
            y = BatchNormalization <epsilon = 1e-3> (p, g, be, m, v) }}"""
        return model(text, consts)

    return build


NO_RELU = through("p = Identity (h)", "2,5,10,12")
SIGNS = (
    refuse("max-pool-gamma-below-0", through(POOL, sign=-1.0), BN_NEXT, "", f"{STAY} MaxPool", through(POOL)),
    refuse("relu-gamma-above-0", through("p = Relu (h)", "2,5,10,12"), BN_NEXT, "", f"{STAY} Relu", NO_RELU),
    refuse("relu-gamma-below-0", through("p = Relu (h)", "2,5,10,12", sign=-1.0), BN_NEXT, "", f"{STAY} Relu", NO_RELU),
    *(
        refuse(f"conv-relu-bn-gamma-{gamma:g}", relu_bn(gamma), "fold-bn-into-conv", "no-linear-op", f"{STAY} Relu")
        for gamma in (-1.5, 0.0)
    ),
)

ROWS: tuple[Case, ...] = (*PADDING, *TRANSPOSED, *GROUPED, *SIGNS)
