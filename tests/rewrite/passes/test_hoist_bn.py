"""A BatchNormalization goes upstream into all that makes its input: its rows."""

from __future__ import annotations

import numpy as np

import converter
from converter.records import Verdict
from tests.cases.case import fold, refuse
from tests.rewrite.passes.moved_maps import ints, net, norm
from tests.rewrite.passes.walk import PassRows
from tests.tiny import Draw, model

P = "hoist-bn"
X = "(float[2,3,11,13] x)"
TWO = "a = Conv (x, w1, b1) c = Conv (x, w2)"
CONVS = {"w1": (4, 3, 1, 1), "b1": (4,), "w2": (3, 3, 1, 1)}
SAME = {"w1": (5, 3, 1, 1), "b1": (5,), "w2": (5, 3, 1, 1), "b2": (5,)}
JOIN = "h = Concat <axis = 1> (a, c)"
CUT = "p, q = Split <axis = 1> (h, sizes)"
SPLIT = f"{X} => (float[2,3,11,13] y, float[2,4,11,13] q) {{ h = Conv (x, w, b) "


def concat(rest: str = "", outputs: str = "(float[2,7,11,13] y)", middle: str = JOIN):  # type: ignore[no-untyped-def]
    return net(f"{X} => {outputs} {{ {TWO} {middle} {norm('h', 'y')} {rest} }}", bn={"": 7}, **CONVS)


def added(text: str, y: str = "2,5,11,13", **more: object):  # type: ignore[no-untyped-def]
    return net(f"{X} => (float[{y}] y) {{ {text} }}", bn={"": 5}, **(SAME | more))


TERMS = "a = Conv (x, w1, b1) c = Conv (x, w2, b2) "


class TestHoistBn(PassRows):
    name = P
    own = (
        fold("concat-bn", concat(), P, "Concat Conv Conv"),
        fold(
            "concat-three-and-a-constant-bn",
            net(
                f"{X} => (float[2,9,11,13] y) {{ {TWO} h = Concat <axis = -3> (a, k, c) {norm('h', 'y')} }}",
                bn={"": 9},
                k=(2, 2, 11, 13),
                **CONVS,
            ),
            P,
            "Concat Conv Conv",
        ),
        fold("add-of-two-convs-bn", added(f"{TERMS} h = Add (a, c) {norm('h', 'y')}"), P, "Conv"),
        fold("sub-of-two-convs-bn", added(f"{TERMS} h = Sub (a, c) {norm('h', 'y')}"), P, "Conv"),
        fold(
            "sum-of-three-bn",
            added(f"{TERMS} d = Conv (x, w1) h = Sum (a, c, d) {norm('h', 'y')}"),
            P,
            "Conv",
        ),
        fold(
            "split-bn",
            net(SPLIT + f"{CUT} {norm('p', 'y')} }}", bn={"": 3}, w=(7, 3, 1, 1), b=(7,), sizes=ints(3, 4)),
            P,
            "Conv Split",
        ),
        fold(
            "slice-bn",
            net(
                f"{X} => (float[2,3,11,13] y) {{ h = Conv (x, w, b) p = Slice (h, s, e, ax) {norm('p', 'y')} }}",
                bn={"": 3},
                w=(7, 3, 1, 1),
                b=(7,),
                s=ints(4),
                e=ints(8),
                ax=ints(1),
            ),
            P,
            "",
        ),
        fold(
            "two-slices-bn",
            net(
                f"{X} => (float[2,3,11,13] y, float[2,4,11,13] q) {{ h = Conv (x, w, b) p = Slice (h, s, e, ax) "
                f"q = Slice (h, e, z, ax) {norm('p', 'y')} }}",
                bn={"": 3},
                w=(7, 3, 1, 1),
                b=(7,),
                s=ints(0),
                e=ints(3),
                z=ints(7),
                ax=ints(1),
            ),
            P,
            "Conv Slice Slice",
        ),
        fold(
            "gather-bn",
            net(
                f"{X} => (float[2,3,11,13] y) {{ h = Conv (x, w, b) p = Gather <axis = 1> (h, i) {norm('p', 'y')} }}",
                bn={"": 3},
                w=(7, 3, 1, 1),
                b=(7,),
                i=ints(6, 0, -3),
            ),
            P,
            "Conv Gather",
        ),
        fold(
            "resize-bn",
            net(
                f'{X} => (float[2,5,22,26] y) {{ h = Conv (x, w, b) p = Resize <mode = "linear"> (h, '
                f'"", s) {norm("p", "y")} }}',
                bn={"": 5},
                w=(5, 3, 1, 1),
                b=(5,),
                s=np.array([1, 1, 2, 2], np.float32),
            ),
            P,
            "Conv Resize",
        ),
        fold(
            "cropped-resize-without-a-shift-bn",
            net(
                f"{X} => (float[2,5,22,26] y) {{ h = Conv (x, w, b) p = Resize <coordinate_transformation_mode = "
                f'"tf_crop_and_resize", mode = "linear"> (h, roi, s) {norm("p", "y")} }}',
                bn={"": 5},
                w=(5, 3, 1, 1),
                b=(5,),
                s=np.array([1, 1, 2, 2], np.float32),
                roi=np.array([0, 0, 0, 0, 1, 1, 1.2, 1.2], np.float32),
                be=np.zeros(5, np.float32),
                m=np.zeros(5, np.float32),
            ),
            P,
            "Conv Resize",
        ),
        fold(
            "reflected-bn",
            net(
                f'{X} => (float[2,5,13,15] y) {{ h = Conv (x, w, b) p = Pad <mode = "reflect"> (h, n) '
                f"{norm('p', 'y')} }}",
                bn={"": 5},
                w=(5, 3, 1, 1),
                b=(5,),
                n=ints(0, 0, 1, 1, 0, 0, 1, 1),
            ),
            P,
            "Conv Pad",
        ),
        fold(
            "mean-bn",
            net(
                f"{X} => (float[2,5,1,1] y) {{ h = Conv (x, w, b) p = ReduceMean <axes = [2, 3]> (h) "
                f"{norm('p', 'y')} }}",
                bn={"": 5},
                w=(5, 3, 1, 1),
                b=(5,),
            ),
            P,
            "Conv ReduceMean",
        ),
        fold(
            "tile-bn",
            net(
                f"{X} => (float[2,5,22,13] y) {{ h = Conv (x, w, b) p = Tile (h, n) {norm('p', 'y')} }}",
                bn={"": 5},
                w=(5, 3, 1, 1),
                b=(5,),
                n=ints(1, 1, 2, 1),
            ),
            P,
            "Conv Tile",
        ),
        fold(
            "space-to-depth-alike-bn",
            net(
                f"(float[2,3,10,12] x) => (float[2,20,5,6] y) {{ h = Conv (x, w, b) p = SpaceToDepth "
                "<blocksize = 2> (h) "
                f"{norm('p', 'y')} }}",
                w=(5, 3, 1, 1),
                b=(5,),
                g=np.tile(np.float32([1, 2, 3, 4, 5]), 4),
                be=np.tile(np.float32([5, 4, 3, 2, 1]), 4),
                m=np.zeros(20, np.float32),
                v=np.ones(20, np.float32),
            ),
            P,
            "Conv SpaceToDepth",
        ),
        fold(
            "weight-on-the-left-bn",
            net(
                f"(float[2,3,11] x) => (float[2,5,11] y) {{ h = MatMul (w, x) {norm('h', 'y')} }}", bn={"": 5}, w=(5, 3)
            ),
            P,
            "Add MatMul",
        ),
        fold(
            "deformed-bn",
            net(
                f"(float[2,3,6,7] x, float[2,8,5,6] o) => (float[2,5,5,6] y) {{ h = DeformConv "
                "<kernel_shape = [2, 2]> (x, w, o, b) "
                f"{norm('h', 'y')} }}",
                bn={"": 5},
                opset=19,
                w=(5, 3, 2, 2),
                b=(5,),
            ),
            P,
            "DeformConv",
            ort=False,
        ),
        fold(
            "deformed-without-bias-bn",
            net(
                f"(float[2,3,6,7] x, float[2,8,5,6] o) => (float[2,5,5,6] y) {{ h = DeformConv "
                "<kernel_shape = [2, 2]> (x, w, o) "
                f"{norm('h', 'y')} }}",
                bn={"": 5},
                opset=19,
                w=(5, 3, 2, 2),
            ),
            P,
            "DeformConv",
            ort=False,
        ),
        fold(
            "gate-of-a-layer-bn",
            added(
                f"{TERMS} s = Sigmoid (c) h = Mul (a, s) {norm('h', 'y')}",
                be=np.zeros(5, np.float32),
                m=np.zeros(5, np.float32),
            ),
            P,
            "Conv Conv Mul Sigmoid",
        ),
        refuse(
            "concat-read-elsewhere-bn",
            concat("z = Relu (a)", "(float[2,7,11,13] y, float[2,4,11,13] z)"),
            P,
            "several-readers",
            "BatchNormalization",
            concat(),
        ),
        refuse(
            "concat-is-output-bn",
            concat("", "(float[2,7,11,13] y, float[2,4,11,13] a)"),
            P,
            "output-is-graph-output",
            "BatchNormalization",
            concat(),
        ),
        refuse(
            "concat-with-an-input-bn",
            net(
                f"{X} => (float[2,7,11,13] y) {{ a = Conv (x, w1, b1) h = Concat <axis = 1> (a, x) {norm('h', 'y')} }}",
                bn={"": 7},
                w1=(4, 3, 1, 1),
                b1=(4,),
            ),
            P,
            "no-linear-op",
            "BatchNormalization",
        ),
        refuse(
            "relu-of-a-part-bn",
            concat(middle="r = Relu (c) h = Concat <axis = 1> (a, r)"),
            P,
            "stops",
            "BatchNormalization",
            concat(),
        ),
        refuse(
            "cropped-resize-bn",
            net(
                f"{X} => (float[2,5,22,26] y) {{ h = Conv (x, w, b) p = Resize <coordinate_transformation_mode = "
                f'"tf_crop_and_resize", mode = "linear"> (h, roi, s) {norm("p", "y")} }}',
                bn={"": 5},
                w=(5, 3, 1, 1),
                b=(5,),
                s=np.array([1, 1, 2, 2], np.float32),
                roi=np.array([0, 0, 0, 0, 1, 1, 1.2, 1.2], np.float32),
            ),
            P,
            "extrapolation",
            "BatchNormalization",
        ),
        refuse(
            "zero-padded-bn",
            net(
                f"{X} => (float[2,5,13,15] y) {{ h = Conv (x, w, b) p = Pad (h, n) {norm('p', 'y')} }}",
                bn={"": 5},
                w=(5, 3, 1, 1),
                b=(5,),
                n=ints(0, 0, 1, 1, 0, 0, 1, 1),
            ),
            P,
            "padded-shift",
            "BatchNormalization",
        ),
        refuse(
            "sum-over-positions-bn",
            net(
                f"{X} => (float[2,5,1,1] y) {{ h = Conv (x, w, b) p = ReduceSum (h, ax) {norm('p', 'y')} }}",
                bn={"": 5},
                w=(5, 3, 1, 1),
                b=(5,),
                ax=ints(2, 3),
            ),
            P,
            "varies",
            "BatchNormalization",
        ),
        refuse("gate-bn", added(f"{TERMS} h = Mul (a, c) {norm('h', 'y')}"), P, "bilinear", "BatchNormalization"),
        refuse(
            "space-to-depth-bn",
            net(
                f"(float[2,3,10,12] x) => (float[2,20,5,6] y) {{ h = Conv (x, w, b) p = SpaceToDepth "
                "<blocksize = 2> (h) "
                f"{norm('p', 'y')} }}",
                bn={"": 20},
                w=(5, 3, 1, 1),
                b=(5,),
            ),
            P,
            "varies",
            "BatchNormalization",
        ),
    )


def test_a_table_behind_a_transposition_takes_a_batch_norm() -> None:
    """The shift of a table's rows is one of what is moved on from them: recomputed on every row, read or not."""
    draw = Draw()
    text = """(int64[2,7] i) => (float[2,5,7] y) { e = Gather(t,i) r = Transpose<perm=[0,2,1]>(e)
        y = BatchNormalization(r,g,be,m,v) }"""
    result = converter.fold(model(text, {"t": draw.normal(23, 5), **draw.bn(5)}))
    assert [n.op_type for n in result.model.graph.node] == ["Gather", "Transpose"]
    assert result.parity is not None
    assert (result.parity.verdict, result.parity.level) == (Verdict.PASS, "P"), result.parity.why
