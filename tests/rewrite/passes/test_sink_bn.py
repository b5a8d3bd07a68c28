"""A BatchNormalization goes downstream into all that reads it: its rows."""

from __future__ import annotations

from tests.cases.case import fold, refuse
from tests.rewrite.passes.moved_maps import Build, ints, net, norm
from tests.rewrite.passes.walk import PassRows

P = "sink-bn"
X = "(float[2,3,11,13] x)"
TWO = {"w1": (5, 3, 3, 2), "b1": (5,), "w2": (4, 3, 1, 1)}
OUT = "(float[2,5,9,12] y, float[2,4,11,13] z)"


def two(rest: str = "", attrs: str = "", outputs: str = OUT, **more: object) -> Build:
    """A norm before two convolutions."""
    text = f"{X} => {outputs} {{ {norm('x', 'h')} y = Conv {attrs} (h, w1, b1) z = Conv (h, w2) {rest} }}"
    return net(text, bn={"": 3}, **(TWO | more))


def cell(op: str, gates: int, result: str = "y", bias: bool = True, **more: object) -> Build:
    """A norm before a recurrent layer."""
    consts = {"w": (1, gates * 4, 3), "r": (1, gates * 4, 4)} | ({"b": (1, 2 * gates * 4)} if bias else {})
    call = f"{op} <hidden_size = 4> (t, w, r{', b' if bias else ''})"
    text = (
        f"(float[2,3,7] x) => (float[7,1,2,4] y) {{ {norm('x', 'h')} t = Transpose <perm = [2, 0, 1]> (h) "
        f"{result} = {call} }}"
    )
    return net(text, bn={"": 3}, **(consts | more))


class TestSinkBn(PassRows):
    name = P
    own = (
        fold("bn-two-convs", two(), P, "Conv Conv"),
        fold(
            "bn-two-convs-and-its-shape", two("s = Shape (h)", outputs=f"{OUT[:-1]}, int64[4] s)"), P, "Conv Conv Shape"
        ),
        fold("bn-lstm", cell("LSTM", 4), P, "LSTM Transpose"),
        fold("bn-gru-without-bias", cell("GRU", 3, bias=False), P, "GRU Transpose"),
        fold("bn-rnn", cell("RNN", 1), P, "RNN Transpose"),
        fold(
            "bn-reflect-conv",
            net(
                f'{X} => (float[2,5,13,15] y) {{ {norm("x", "h")} p = Pad <mode = "reflect"> (h, n) y '
                f"= Conv (p, w1, b1) }}",
                bn={"": 3},
                w1=(5, 3, 1, 1),
                b1=(5,),
                n=ints(0, 0, 1, 1, 0, 0, 1, 1),
            ),
            P,
            "Conv Pad",
        ),
        fold(
            "bn-concat-conv",
            net(
                f"(float[2,3,11,13] x, float[2,2,11,13] u) => (float[2,5,11,13] y) {{ {norm('x', 'h')} "
                "c = Concat <axis = 1> (u, h) y = Conv (c, w1, b1) }",
                bn={"": 3},
                w1=(5, 5, 1, 1),
                b1=(5,),
            ),
            P,
            "Concat Conv",
        ),
        fold(
            "bn-split-convs",
            net(
                f"{X} => (float[2,5,11,13] y, float[2,4,11,13] z) {{ {norm('x', 'h')} p, q = Split <axis = 1> (h, n) "
                "y = Conv (p, w1, b1) z = Conv (q, w2) }",
                bn={"": 3},
                w1=(5, 1, 1, 1),
                b1=(5,),
                w2=(4, 2, 1, 1),
                n=ints(1, 2),
            ),
            P,
            "Conv Conv Split",
        ),
        fold(
            "bn-conv-and-bn",
            net(
                f"{X} => (float[2,5,11,13] y, float[2,3,11,13] z) {{ {norm('x', 'h')} y = Conv (h, "
                f"w1, b1) {norm('h', 'z', 'q')} }}",
                bn={"": 3, "q": 3},
                w1=(5, 3, 1, 1),
                b1=(5,),
            ),
            P,
            "BatchNormalization Conv",
        ),
        refuse(
            "bn-conv-and-relu",
            two("u = Relu (h)", outputs=f"{OUT[:-1]}, float[2,3,11,13] u)"),
            P,
            "stops",
            "BatchNormalization",
            two(),
        ),
        refuse(
            "bn-two-convs-padded",
            two("", "<pads = [1, 1, 1, 1]>", "(float[2,5,11,14] y, float[2,4,11,13] z)"),
            P,
            "padded-shift",
            "BatchNormalization",
            two(),
        ),
        refuse(
            "bn-spread-conv",
            net(
                f"{X} => (float[2,5,13,15] y, float[2,4,11,13] z) {{ {norm('x', 'h')} y = "
                f"ConvTranspose (h, w1) z = Conv (h, w2) }}",
                bn={"": 3},
                w1=(3, 5, 3, 3),
                w2=(4, 3, 1, 1),
            ),
            P,
            "transposed-shift",
            "BatchNormalization",
        ),
        refuse(
            "bn-on-two-ways",
            net(
                f"{X} => (float[2,5,11,13] y, float[2,4,11,13] z) {{ {norm('x', 'h')} c = Concat <axis = 1> (h, h) "
                "y = Conv (c, w) z = Conv (h, w2) }",
                bn={"": 3},
                w=(5, 6, 1, 1),
                w2=(4, 3, 1, 1),
            ),
            P,
            "branches",
            "BatchNormalization",
        ),
    )
