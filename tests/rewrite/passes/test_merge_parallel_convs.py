"""Two branches of one input that are added become one convolution: its rows."""

from __future__ import annotations

from tests.cases.case import fold, inputs_of, refuse
from tests.rewrite.passes.moved_maps import Build, net, norm
from tests.rewrite.passes.walk import PassRows

P = "merge-parallel-convs"
X = "(float[2,6,11,13] x)"
SAME = "<pads = [1, 1, 1, 1]>"


def two(
    first: str, second: str, out: str = "2,6,11,13", rest: str = "", more: str = "", **consts: tuple[int, ...]
) -> Build:
    """Two convolutions of x, and their sum."""
    text = f"{X} => (float[{out}] y{more}) {{ a = Conv {first} c = Conv {second} y = Add (a, c) {rest} }}"
    return net(text, **consts)


def beside(node: str, attrs: str = SAME, **consts: object) -> Build:
    """A convolution of x and something else of it."""
    held = {"w": (6, 6, 3, 3), "b": (6,)} | consts
    bn = {"": 6} if "BatchNormalization" in node else {}
    return net(f"{X} => (float[2,6,11,13] y) {{ a = Conv {attrs} (x, w, b) {node} y = Add (c, a) }}", bn=bn, **held)


def residual(text: str, more: str = "", *, bn: dict[str, int] | None = None, **consts: object) -> Build:
    """A convolution beside the input as it is."""
    return net(f"{X} => (float[2,6,11,13] y{more}) {{ {text} }}", bn=bn, **({"w": (6, 6, 3, 3), "b": (6,)} | consts))


def products(text: str) -> Build:
    """Products of x, which has three axes."""
    return net(f"(float[2,7,5] x) => (float[2,7,5] y) {{ {text} }}", w=(5, 5), u=(5, 5), b=(5,), d=(5,))


BIG, SMALL = {"w": (6, 6, 3, 3), "b": (6,)}, {"u": (6, 6, 1, 1), "d": (6,)}


class TestMergeParallelConvs(PassRows):
    name = P
    own = (
        fold("three-and-one", two(f"{SAME} (x, w, b)", "(x, u, d)", **BIG, **SMALL), P, "Conv"),
        fold(
            "one-and-three-without-biases",
            two("(x, u)", f"{SAME} (x, w)", w=(6, 6, 3, 3), u=(6, 6, 1, 1)),
            P,
            "Conv",
            check=inputs_of("Conv", 2),
        ),
        fold(
            "grouped-strided",
            two(
                "<pads = [1, 1, 1, 1], strides = [2, 1], group = 2> (x, w, b)",
                "<strides = [2, 1], group = 2> (x, u)",
                "2,6,6,13",
                w=(6, 3, 3, 3),
                b=(6,),
                u=(6, 3, 1, 1),
            ),
            P,
            "Conv",
        ),
        fold(
            "dilated",
            two(
                "<pads = [2, 2, 2, 2], dilations = [2, 2]> (x, w)",
                "<pads = [0, 2, 0, 2], dilations = [3, 2]> (x, u)",
                w=(6, 6, 3, 3),
                u=(6, 6, 1, 3),
            ),
            P,
            "Conv",
        ),
        fold(
            "uneven-padding", two("<pads = [2, 1, 0, 1]> (x, w)", "(x, u)", w=(6, 6, 3, 3), u=(6, 6, 1, 1)), P, "Conv"
        ),
        fold("identity-batch-norm", beside(norm("x", "c")), P, "Conv"),
        fold(
            "identity-batch-norm-grouped",
            beside(norm("x", "c"), "<pads = [1, 1, 1, 1], group = 3>", w=(6, 2, 3, 3)),
            P,
            "Conv",
        ),
        fold("scaled-identity", beside("c = Mul (x, s)", s=(6, 1, 1)), P, "Conv"),
        fold("shifted-identity", beside("c = Add (x, s)", s=(6, 1, 1)), P, "Conv"),
        fold(
            "rep-vgg-block",
            net(
                f"{X} => (float[2,6,11,13] y) {{ a = Conv {SAME} (x, w, b) c = Conv (x, u, d) e = Add (a, c) "
                f"{norm('x', 'f')} y = Add (e, f) }}",
                bn={"": 6},
                **BIG,
                **SMALL,
            ),
            P,
            "Conv",
        ),
        fold("conv-and-its-input", residual("a = Conv <pads = [1, 1, 1, 1]> (x, w, b) y = Add (x, a)"), P, "Conv"),
        fold(
            "depthwise-and-its-input",
            residual("a = Conv <pads = [1, 1, 1, 1], group = 6> (x, w) y = Add (a, x)", w=(6, 1, 3, 3)),
            P,
            "Conv",
        ),
        fold(
            "conv-and-its-input-then-batch-norm",
            residual(f"a = Conv <pads = [1, 1, 1, 1]> (x, w, b) s = Add (x, a) {norm('s', 'y')}", bn={"": 6}),
            P,
            "Conv",
        ),
        refuse(
            "conv-of-smaller-output-and-its-input",
            residual("a = Conv <strides = [11, 13], pads = [1, 1, 1, 1]> (x, w, b) y = Add (x, a)"),
            P,
            "not-per-channel",
            "Conv Add",
            residual("a = Conv <pads = [1, 1, 1, 1]> (x, w, b) y = Add (x, a)"),
        ),
        refuse(
            "conv-of-one-channel-and-its-input",
            residual("a = Conv <pads = [1, 1, 1, 1]> (x, w) y = Add (x, a)", w=(1, 6, 3, 3)),
            P,
            "not-per-channel",
            "Conv Add",
        ),
        refuse(
            "conv-read-elsewhere-and-its-input",
            residual("a = Conv <pads = [1, 1, 1, 1]> (x, w, b) y = Add (x, a) z = Relu (a)", ", float[2,6,11,13] z"),
            P,
            "several-readers",
            "Conv Add",
        ),
        fold(
            "three-branches-of-a-sum",
            net(
                f"{X} => (float[2,6,11,13] y) {{ a = Conv {SAME} (x, w, b) c = Conv (x, u, d) y = Sum (a, x, c) }}",
                **BIG,
                **SMALL,
            ),
            P,
            "Conv",
        ),
        fold(
            "two-branches-of-a-sum-of-three",
            net(
                f"{X} => (float[2,6,11,13] y) {{ a = Conv {SAME} (x, w, b) c = Conv (x, u, d) r = Abs (x) "
                "y = Sum (a, r, c) }",
                **BIG,
                **SMALL,
            ),
            P,
            "Abs Conv Sum",
        ),
        fold("conv-less-its-input", residual("a = Conv <pads = [1, 1, 1, 1]> (x, w, b) y = Sub (a, x)"), P, "Conv"),
        fold("input-less-its-conv", residual("a = Conv <pads = [1, 1, 1, 1]> (x, w, b) y = Sub (x, a)"), P, "Conv"),
        fold(
            "small-conv-less-large-one",
            net(
                f"{X} => (float[2,6,11,13] y) {{ a = Conv {SAME} (x, w, b) c = Conv (x, u, d) y = Sub (c, a) }}",
                **BIG,
                **SMALL,
            ),
            P,
            "Conv",
        ),
        fold("input-less-product", products("a = MatMul (x, w) e = Add (a, b) y = Sub (x, e)"), P, "MatMul Add"),
        fold("two-products", products("a = MatMul (x, w) c = MatMul (x, u) y = Add (a, c)"), P, "MatMul"),
        fold(
            "two-products-with-biases",
            products("a = MatMul (x, w) e = Add (a, b) c = MatMul (x, u) f = Add (d, c) y = Add (e, f)"),
            P,
            "MatMul Add",
        ),
        fold("product-and-its-input", products("a = MatMul (x, w) e = Add (a, b) y = Add (x, e)"), P, "MatMul Add"),
        fold("product-and-scaled-input", products("a = MatMul (x, w) e = Mul (x, b) y = Add (e, a)"), P, "MatMul"),
        fold(
            "two-gemms",
            net(
                "(float[7,5] x) => (float[7,11] y) { a = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b) "
                "c = Gemm <transB = 1> (x, u, d) y = Add (a, c) }",
                w=(11, 5),
                u=(11, 5),
                b=(11,),
                d=(11,),
            ),
            P,
            "Gemm",
        ),
        refuse(
            "gemm-of-turned-input",
            net(
                "(float[5,5] x) => (float[5,5] y) { a = Gemm <transA = 1> (x, w) y = Add (x, a) }",
                w=(5, 5),
            ),
            P,
            "not-per-channel",
            "Gemm Add",
            net("(float[5,5] x) => (float[5,5] y) { a = Gemm (x, w) y = Add (x, a) }", w=(5, 5)),
        ),
        refuse(
            "bias-without-place",
            products("a = MatMul (x, w) c = MatMul (x, u) f = Add (d, c) y = Add (a, f)"),
            P,
            "not-per-channel",
            "MatMul",
            products("a = MatMul (x, w) e = Add (a, b) c = MatMul (x, u) f = Add (d, c) y = Add (e, f)"),
        ),
        refuse(
            "products-of-other-shapes",
            net(
                "(float[7,5] x) => (float[7,11] y) { a = MatMul (x, w) c = MatMul (x, u) y = Add (a, c) }",
                w=(5, 11),
                u=(5, 1),
            ),
            P,
            "not-per-channel",
            "MatMul Add",
        ),
        refuse(
            "branch-read-elsewhere",
            two(f"{SAME} (x, w, b)", "(x, u, d)", rest="z = Relu (c)", more=", float[2,6,11,13] z", **BIG, **SMALL),
            P,
            "several-readers",
            "Conv Conv",
            two(f"{SAME} (x, w, b)", "(x, u, d)", **BIG, **SMALL),
        ),
        refuse(
            "other-strides",
            two(
                "<pads = [1, 1, 1, 1], strides = [1, 13]> (x, w, b)",
                "<strides = [1, 14]> (x, u, d)",
                "2,6,11,1",
                **BIG,
                **SMALL,
            ),
            P,
            "not-per-channel",
            "Conv Conv",
        ),
        refuse(
            "off-centre",
            two("<pads = [1, 1, 1, 1]> (x, w)", "<pads = [2, 0, 0, 2]> (x, u)", w=(6, 6, 3, 3), u=(6, 6, 3, 3)),
            P,
            "not-per-channel",
            "Conv Conv",
        ),
        refuse(
            "other-groups",
            two("<pads = [1, 1, 1, 1], group = 2> (x, w)", "(x, u)", w=(6, 3, 3, 3), u=(6, 6, 1, 1)),
            P,
            "not-per-channel",
            "Conv Conv",
        ),
        refuse(
            "padding-by-size",
            two('<auto_pad = "SAME_UPPER"> (x, w)', "(x, u)", w=(6, 6, 3, 3), u=(6, 6, 1, 1)),
            P,
            "not-per-channel",
            "Conv Conv",
        ),
        refuse(
            "identity-along-rows",
            beside("c = Mul (x, s)", s=(11, 1)),
            P,
            "not-per-channel",
            "Conv Mul",
            beside("c = Mul (x, s)", s=(6, 1, 1)),
        ),
    )
