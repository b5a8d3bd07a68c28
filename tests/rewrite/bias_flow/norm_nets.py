"""A convolution's bias and what stands between it and a norm, as inference graphs.

In training most of the first rows are dead before a batch norm. At inference the norm's statistics
are fixed: there the bias is absorbed, by the norm's mean, a bias further down, or the fold of the norm itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from tests.rewrite.bias_flow.judge import bn, model


@dataclass(frozen=True)
class Row:
    """``gone`` and ``kept`` are nodes whose bias leaves or stays; ``norms`` batch norms are left."""

    name: str
    body: str
    constants: dict[str, Any] = field(default_factory=dict)
    gone: str = ""
    kept: str = ""
    norms: int = 0
    opset: int = 17
    out: str = "4,?,?"
    skip: tuple[str, ...] = ()  # passes that would take the norm back through what lies between

    def build(self) -> onnx.ModelProto:
        """The model: `c` is the convolution whose bias is asked after."""
        n_channels, *sizes = self.out.split(",")
        dims = ",".join(["2", n_channels, *("N" if s == "?" else s for s in sizes)])
        text = f"(double[2,3,8,8] x) => (double[{dims}] y) {{ {self.body} }}"
        return model(text, self.opset, **{"W": (4, 3, 3, 3), "b": (4,), **self.constants})


CONV = "c = Conv(x, W, b)"
BN4 = bn("n", 4)
NORM = "y = BatchNormalization({0}, ng, nb, nm, nv)"
SHIFTED = "y = Add(e, t)"
SCALE_SHIFT = {"s": (4,), "t": (4,)}
BACK = ("fold-bn-into-conv", "hoist-bn")


def _to_bn(
    name: str, between: str, last: str, gone: str = "c", kept: str = "", norms: int = 1, **constants: Any
) -> Row:
    out = constants.pop("out", "4,?,?")
    opset = constants.pop("opset", 17)
    skip = constants.pop("skip", ())
    body = f"{CONV} {between} {NORM.format(last)}"
    return Row(name, body, {**BN4, **constants}, gone, kept, norms, opset, out, skip)


# What training would call dead: here the batch norm folds into the convolution, or something takes the bias over.
ABSORBED = [
    _to_bn("conv, batch norm", "", "c", gone="", kept="c", norms=0),
    Row(
        "conv, batch norm without scale and shift",
        f"{CONV} {NORM.format('c')}",
        {**BN4, "ng": np.ones(4), "nb": np.zeros(4)},
        kept="c",
    ),
    _to_bn("max pool", "p = MaxPool<kernel_shape=[2,2]>(c)", "p", skip=BACK),
    _to_bn("padded max pool", "p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(c)", "p", skip=BACK),
    _to_bn("average pool", "p = AveragePool<kernel_shape=[2,2]>(c)", "p", skip=BACK),
    _to_bn("padded average pool", "p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)", "p", skip=BACK),
    _to_bn(
        "linear upsampling", 'p = Resize<mode="linear">(c, , f)', "p", skip=("hoist-bn",), f=np.float32([1, 1, 2, 2])
    ),
    _to_bn(
        "nearest upsampling", 'p = Resize<mode="nearest">(c, , f)', "p", skip=("hoist-bn",), f=np.float32([1, 1, 2, 2])
    ),
    _to_bn("pointwise conv", "p = Conv(c, V)", "p", norms=0, V=(4, 4, 1, 1)),
    _to_bn("valid conv", "p = Conv(c, V)", "p", norms=0, V=(4, 4, 3, 3)),
    _to_bn(
        "reflected conv",
        'r = Pad<mode="reflect">(c, w) p = Conv(r, V)',
        "p",
        norms=0,
        V=(4, 4, 3, 3),
        w=np.int64([0, 0, 1, 1, 0, 0, 1, 1]),
    ),
    _to_bn("residual", "h = Conv(x, U) p = Add(c, h)", "p", skip=BACK, U=(4, 3, 3, 3)),
    _to_bn("concat", "p = Concat<axis=1>(c, c)", "p", **bn("n", 8), out="8,?,?"),
    _to_bn("scale per channel", "p = Mul(c, f)", "p", gone="", kept="c", norms=0, f=(1, 4, 1, 1)),
    _to_bn("dropout", "p = Dropout(c)", "p", gone="", kept="c", norms=0),
]

# The norm takes the mean itself: nothing depends on the bias.
INSTANCE = "y = InstanceNormalization(c, s, t)"
DEAD = [
    Row("instance norm", f"{CONV} {INSTANCE}", SCALE_SHIFT, "c"),
    Row(
        "instance norm in three dims",
        "d = Unsqueeze(x, five) c = Conv(d, W, b) y = InstanceNormalization(c, s, t)",
        {**SCALE_SHIFT, "W": (4, 3, 3, 3, 1), "five": np.int64([4])},
        "c",
        out="4,?,?,1",
    ),
    Row(
        "group norm, one channel a group",
        f"{CONV} y = GroupNormalization<num_groups=4>(c, s, t)",
        SCALE_SHIFT,
        "c",
        opset=21,
    ),
    Row(
        "group norm as instance norm",  # how torch exports it before opset 21
        f"{CONV} r = Reshape(c, into) i = InstanceNormalization(r, one, zero) e = Reshape(i, back) {SHIFTED}",
        {
            "into": np.int64([0, 4, -1]),
            "back": np.int64([2, 4, 6, 6]),
            "one": np.ones(4),
            "zero": np.zeros(4),
            "t": (4, 1, 1),
        },
        "c",
    ),
    Row("mean and variance", f"{CONV} y = MeanVarianceNormalization<axes=[2,3]>(c)", {}, "c"),
    Row(
        "the mean subtracted",
        f"{CONV} m = ReduceMean<axes=[2,3]>(c) e = Sub(c, m) {SHIFTED}",
        {"t": (4, 1, 1)},
        "c",
    ),
    Row(
        "layer norm over space",
        f"{CONV} r = Reshape(c, into) y = LayerNormalization<axis=-1>(r, s, t)",
        {"into": np.int64([0, 4, 36]), "s": (36,), "t": (36,)},
        "c",
        out="4,?",
    ),
    Row(
        "max pool, then instance norm",
        f"{CONV} p = MaxPool<kernel_shape=[2,2]>(c) {INSTANCE.replace('c,', 'p,')}",
        SCALE_SHIFT,
        "c",
    ),
    Row(
        "gated, then instance norm",  # the gate depends on the bias, but hands it on as one number per channel
        f"{CONV} a = GlobalAveragePool(x) g = Conv(a, V) h = Sigmoid(g) p = Mul(c, h) {INSTANCE.replace('c,', 'p,')}",
        {**SCALE_SHIFT, "V": (4, 3, 1, 1)},
        "c",
    ),
    Row(
        "training batch norm",
        f"{CONV} y, unused1, unused2 = BatchNormalization<training_mode=1>(c, ng, nb, nm, nv)",
        BN4,
        "c",
        norms=1,
    ),
    Row(
        "training batch norm whose statistics have names that nobody reads",
        f"{CONV} y, mean, var = BatchNormalization<training_mode=1>(c, ng, nb, nm, nv)",
        BN4,
        "c",
        norms=1,
    ),
    Row(
        "layer norm over space whose mean has a name that nobody reads",
        f"{CONV} r = Reshape(c, into) y, mean, inverse = LayerNormalization<axis=-1>(r, s, t)",
        {"into": np.int64([0, 4, 36]), "s": (36,), "t": (36,)},
        "c",
        out="4,?",
    ),
    Row(
        "indices and a mask that nobody reads, then instance norm",
        f"{CONV} p, at = MaxPool<kernel_shape=[2,2]>(c) d, mask = Dropout(p) {INSTANCE.replace('c,', 'd,')}",
        SCALE_SHIFT,
        "c",
    ),
    Row(
        "transposed conv, instance norm",
        "c = ConvTranspose<strides=[2,2]>(x, W, b) y = InstanceNormalization(c, s, t)",
        {**SCALE_SHIFT, "W": (3, 4, 3, 3)},
        "c",
    ),
]

GATE = "a = GlobalAveragePool(c) g = Conv(a, V) h = Sigmoid(g) p = Mul(c, h)"
ROOT = "q = Mul(c, c) m = ReduceMean<axes=[1]>(q) r = Sqrt(m) e = Div(c, r)"
LIVE = [
    _to_bn("relu", "p = Relu(c)", "p", gone="", kept="c"),
    _to_bn(
        "average pool that counts its padding",
        "p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c)",
        "p",
        gone="",
        kept="c",
    ),
    _to_bn("zero padding", "p = Pad(c, w)", "p", gone="", kept="c", w=np.int64([0, 0, 1, 1, 0, 0, 1, 1])),
    _to_bn("padded conv", "p = Conv<pads=[1,1,1,1]>(c, V)", "p", gone="", kept="c", norms=0, V=(4, 4, 3, 3)),
    _to_bn("gate", GATE, "p", gone="", kept="c", V=(4, 4, 1, 1)),
    _to_bn(
        "transposed conv", "p = ConvTranspose<strides=[2,2]>(c, V)", "p", gone="", kept="c", norms=0, V=(4, 4, 3, 3)
    ),
    _to_bn(
        "pixel shuffle",
        'p = DepthToSpace<blocksize=2, mode="CRD">(c)',
        "p",
        gone="",
        kept="c",
        skip=BACK,
        W=(16, 3, 3, 3),
        b=(16,),
    ),
    Row("root mean square", f"{CONV} {ROOT} {SHIFTED}", {"t": (4, 1, 1)}, kept="c"),
    Row("group norm", f"{CONV} y = GroupNormalization<num_groups=2>(c, s, t)", SCALE_SHIFT, kept="c", opset=21),
    Row(
        "group norm, one group",
        f"{CONV} y = GroupNormalization<num_groups=1>(c, s, t)",
        SCALE_SHIFT,
        kept="c",
        opset=21,
    ),
    Row(
        "layer norm over channels and space",
        f"{CONV} y = LayerNormalization<axis=1>(c, s, t)",
        {"s": (4, 6, 6), "t": (4, 6, 6)},
        kept="c",
    ),
    Row(
        "layer norm over channels",
        f"{CONV} r = Transpose<perm=[0,2,3,1]>(c) l = LayerNormalization(r, s, t) y = Transpose<perm=[0,3,1,2]>(l)",
        SCALE_SHIFT,
        kept="c",
    ),
]

# A bias that goes though the norm mixes channels, or a shuffle lies behind: its shift is of the one form that may.
SPECIAL = [
    Row(
        "layer norm over channels, one value for all",
        f"{CONV} r = Transpose<perm=[0,2,3,1]>(c) l = LayerNormalization(r, s, t) y = Transpose<perm=[0,3,1,2]>(l)",
        {**SCALE_SHIFT, "b": np.full(4, 0.7)},
        "c",
    ),
    Row(
        "group norm, one value for each group",
        f"{CONV} y = GroupNormalization<num_groups=2>(c, s, t)",
        {**SCALE_SHIFT, "b": np.repeat([0.7, -1.1], 2)},
        "c",
        opset=21,
    ),
    Row(
        "pixel shuffle, phases alike",
        f'c = Conv(x, W, b) p = DepthToSpace<blocksize=2, mode="CRD">(c) {NORM.format("p")}',
        {**BN4, "W": (16, 3, 3, 3), "b": np.repeat([0.7, -1.1, 0.2, 1.0], 4)},
        "c",
        norms=1,
        skip=BACK,
    ),
    Row(
        "pointwise conv before a pixel shuffle",
        f'{CONV} p = Conv(c, V, d) q = DepthToSpace<blocksize=2, mode="CRD">(p) {NORM.format("q")}',
        {**BN4, "V": (16, 4, 1, 1), "d": (16,)},
        "c",
        kept="p",
        norms=1,
        skip=BACK,
    ),
]
