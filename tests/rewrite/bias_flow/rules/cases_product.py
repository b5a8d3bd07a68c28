"""Convolutions and matrix products, and which shifts they carry or depend on."""

from __future__ import annotations

from tests.rewrite.bias_flow.rules.one_node import Case
from tests.rewrite.bias_flow.rules.values import ALL2, ALL3, X2, X3, some


def conv(attributes: str, *weight: int, x: tuple[int, ...] = (2, 4, 5, 5), op: str = "Conv") -> Case:
    """A convolution that is not padded: a shift per channel goes through."""
    node = f"y = {op}<{attributes}>(x, W)" if attributes else f"y = {op}(x, W)"
    return Case(node, {"x": x, "W": some(*weight)}, "- 1", name=f"{op} {weight} {attributes}", felt="")


def padded(attributes: str, *weight: int, x: tuple[int, ...] = (2, 4, 5, 5), op: str = "Conv") -> Case:
    """A convolution that depends on a shift at its borders or phases."""
    return Case(
        f"y = {op}<{attributes}>(x, W)", {"x": x, "W": some(*weight)}, felt="- 1", name=f"{op} {weight} {attributes}"
    )


CONV = [
    conv("", 3, 4, 1, 1),
    conv("", 3, 4, 3, 3),
    conv("strides = [2, 2]", 3, 4, 3, 3),
    conv("dilations = [2, 2]", 3, 4, 2, 2),
    conv("group = 2", 6, 2, 3, 3),
    conv("group = 4", 4, 1, 3, 3),
    conv("pads = [0, 0, 0, 0]", 3, 4, 2, 2),
    conv('auto_pad = "VALID"', 3, 4, 3, 3),
    conv('auto_pad = "SAME_UPPER"', 3, 4, 1, 1),
    conv("pads = [0, 0, 1, 1], strides = [2, 2]", 3, 4, 2, 2, x=(2, 4, 4, 4)),  # the padding is never reached
    conv("", 3, 4, 2, x=(2, 4, 5)),
    conv("", 3, 4, 2, 1, 2, x=(1, 4, 3, 3, 3)),
    Case("y = Conv(x, W, b)", {"x": (2, 4, 5, 5), "W": some(3, 4, 2, 2), "b": some(3)}, "- 1"),
    Case("y = Conv(x, W)", {"x": (2, 4, 5, 5), "W": (3, 4, 2, 2)}, name="Conv by data", felt="- 1"),
    Case("y = Conv(x, W, b)", {"x": (2, 4, 5, 5), "W": some(3, 4, 2, 2), "b": (3,)}, slots=(2,), name="Conv's bias"),
    padded("pads = [1, 1, 1, 1]", 3, 4, 3, 3),
    padded("pads = [0, 0, 0, 1]", 3, 4, 1, 2),
    padded('auto_pad = "SAME_LOWER"', 3, 4, 2, 2),
    padded("pads = [1, 1, 1, 1]", 3, 4, 1, 1),
    conv("", 4, 3, 1, 1, op="ConvTranspose"),
    conv("group = 2", 4, 3, 1, 1, op="ConvTranspose"),
    padded("kernel_shape = [3, 3]", 4, 3, 3, 3, op="ConvTranspose"),
    padded("strides = [2, 2]", 4, 3, 2, 2, op="ConvTranspose"),
    padded("strides = [2, 2]", 4, 3, 1, 1, op="ConvTranspose"),
    padded("pads = [1, 1, 1, 1]", 4, 3, 3, 3, op="ConvTranspose"),
    Case(
        "y = ConvTranspose<output_padding = [1, 1], strides = [2, 2]>(x, W)",
        {"x": (2, 4, 3, 3), "W": some(4, 3, 1, 1)},
        felt="- 1",
    ),
]

MATRIX = [
    Case("y = Gemm(x, W)", {**X2, "W": some(4, 2)}, ALL2),
    Case("y = Gemm<transB = 1, alpha = 0.5>(x, W, b)", {**X2, "W": some(2, 4), "b": some(2)}, ALL2),
    Case("y = Gemm<transA = 1>(x, W)", {**X2, "W": some(3, 2)}),
    Case("y = Gemm<beta = 0.5>(r, W, x)", {"r": (3, 5), "W": some(5, 4), **X2}, slots=(2,)),
    Case("y = Gemm(x, r)", {**X2, "r": (4, 2)}, ALL2, name="Gemm by data"),
    Case("y = Gemm(r, x)", {"r": (2, 3), **X2}, ALL2, slots=(1,)),
    Case("y = Gemm<transB = 1, alpha = 0.5>(r, x)", {"r": (2, 4), **X2}, ALL2, slots=(1,), name="Gemm by data, turned"),
    Case("y = Gemm<transA = 1>(x, r, W)", {**X2, "r": (3, 2), "W": some(2)}, ALL2, name="Gemm by data, turned first"),
    Case("y = MatMul(x, W)", {**X3, "W": some(4, 2)}, ALL3),
    Case("y = MatMul(x, W)", {**X3, "W": some(2, 4, 5)}, ALL3, name="MatMul by matrices"),
    Case("y = MatMul(x, W)", {**X2, "W": some(2, 4, 5)}, ALL2, name="MatMul by matrices of more axes"),
    Case("y = MatMul(W, x)", {"W": some(5, 3), **X3}, ALL3, slots=(1,)),
    Case("y = MatMul(x, r)", {**X3, "r": (2, 4, 5)}, ALL3, name="MatMul by data"),
    Case("y = MatMul(x, r)", {**X3, "r": (1, 4, 5)}, ALL3, name="MatMul by data, broadcast"),
    Case("y = MatMul(x, r)", {**X3, "r": (5, 1, 4, 2)}, ALL3, name="MatMul by data of more axes"),
    Case("y = MatMul(r, x)", {"r": (2, 5, 3), **X3}, ALL3, slots=(1,), name="data by MatMul"),
    Case("y = MatMul(x, r)", {**X3, "r": (2, 4, 5)}, slots=(0, 1), name="both of MatMul", felt="- 2"),
    Case(
        "y = MatMul(w, x)",
        {"r": (2, 5, 3), **X3},
        "- 0 2 02",
        slots=(1,),
        before="w = Softmax<axis = -1>(r)",
        name="weighed by rows of softmax",
    ),
    Case(
        "y = MatMul(w, x)",
        {"r": (2, 3, 5, 3), **X2},
        "- 1",
        slots=(1,),
        before="w = Softmax<axis = 3>(r)",
        opset=11,
        name="weighed by rows of softmax of more axes",
    ),
    Case(
        "y = MatMul(w, x)",
        {"r": (2, 5, 3), **X3},
        ALL3,
        slots=(1,),
        before="w = Softmax<axis = 1>(r)",
        name="weighed by columns of softmax",
    ),
    Case(
        "y = MatMul(w, x)",
        {"r": (2, 5, 3), **X3},
        ALL3,
        slots=(1,),
        before="w = Sigmoid(r)",
        name="weighed by sigmoid",
    ),
]
