"""The passes compute the formulas that the proofs are about, rounded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import converter
from tests.proofs import formulas

Array = NDArray[np.float64]
Constants = dict[str, Array]
EPSILON = 0.01
NORM = {"gamma": 0, "beta": 0, "mean": 0, "var": 0}


@dataclass(frozen=True)
class Row:
    """One pass on one tiny model, and what it must write: weight and bias (alpha and beta multiplied out)."""

    pass_name: str
    given: str  # "<inputs> => <output>: <nodes>"
    shapes: dict[str, tuple[int, ...]]
    expect: Callable[[Constants], tuple[Array, Array | None]]


def norms(channels: int) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(NORM, (channels,))


def of_bn(c: Constants) -> tuple[Array, Array]:
    return formulas.affine_of_bn(c["gamma"], c["beta"], c["mean"], np.sqrt(c["var"] + np.float32(EPSILON)))


def repeated(pair: tuple[Array, Array], times: int) -> tuple[Array, Array]:
    return np.repeat(pair[0], times), np.repeat(pair[1], times)


def gemm_forward(c: Constants, times: int = 1, alpha: float = 1, beta: float = 1) -> tuple[Array, Array]:
    w, b = formulas.from_before_gemm(c["W"], c.get("b"), *repeated(of_bn(c), times), alpha, beta)
    return alpha * w, b


BN = f"BatchNormalization<epsilon: float = {EPSILON}>"
STATS = "gamma, beta, mean, var"
ROWS = [
    Row(
        "fold-bn-into-conv",
        f"float[1,4,5,6] x => float[1,6,4,5] y: c = Conv<group: int = 2>(x, W, b) y = {BN}(c, {STATS})",
        {"W": (6, 2, 2, 2), "b": (6,), **norms(6)},
        lambda c: formulas.into_conv(c["W"], c["b"], *of_bn(c)),
    ),
    Row(
        "fold-bn-into-conv",
        f"float[1,4,7] x => float[1,8,9] y: c = Conv<group: int = 4, pads: ints = [2, 1]>(x, W) y = {BN}(c, {STATS})",
        {"W": (8, 1, 2), **norms(8)},
        lambda c: formulas.into_conv(c["W"], None, *of_bn(c)),
    ),
    Row(
        "fold-bn-into-conv-transpose",
        f"float[1,4,5] x => float[1,4,6] y: c = ConvTranspose<group: int = 2>(x, W, b) y = {BN}(c, {STATS})",
        {"W": (4, 2, 2), "b": (4,), **norms(4)},
        lambda c: formulas.into_conv_transpose(c["W"], c["b"], *of_bn(c), 2),
    ),
    Row(
        "fold-bn-into-gemm",
        "float[2,4] x => float[2,3] y: "
        f"c = Gemm<alpha: float = 0.5, beta: float = 2.0, transB: int = 1>(x, W, b) y = {BN}(c, {STATS})",
        {"W": (3, 4), "b": (3,), **norms(3)},
        lambda c: (
            0.5 * formulas.into_gemm(c["W"], c["b"], *of_bn(c), 2.0, True)[0],
            formulas.into_gemm(c["W"], c["b"], *of_bn(c), 2.0, True)[1],
        ),
    ),
    Row(
        "fold-bn-into-matmul",
        f"float[2,4] x => float[2,3] y: c = MatMul(x, W) y = {BN}(c, {STATS})",
        {"W": (4, 3), **norms(3)},
        lambda c: formulas.into_gemm(c["W"], None, *of_bn(c)),
    ),
    Row(
        "fold-affine-into-conv",
        "float[1,4,5] x => float[1,3,4] y: c = Conv(x, W, b) y = Sub(k, c)",
        {"W": (3, 4, 2), "b": (3,), "k": (1, 3, 1)},
        lambda c: formulas.into_conv(c["W"], c["b"], -np.ones(3), c["k"].ravel()),
    ),
    Row(
        "fold-affine-into-conv-transpose",
        "float[1,4,5] x => float[1,6,6] y: c = ConvTranspose<group: int = 2>(x, W, b) y = Div(c, k)",
        {"W": (4, 3, 2), "b": (6,), "k": (6, 1)},
        lambda c: formulas.into_conv_transpose(c["W"], c["b"], 1 / c["k"].ravel(), np.zeros(6), 2),
    ),
    Row(
        "fold-affine-into-gemm",
        "float[2,4] x => float[2,3] y: c = Gemm<beta: float = 0.5>(x, W, b) y = Mul(k, c)",
        {"W": (4, 3), "b": (1, 3), "k": (3,)},
        lambda c: formulas.into_gemm(c["W"], c["b"], c["k"], np.zeros(3), 0.5),
    ),
    Row(
        "fold-bn-into-next-conv",
        f"float[1,4,5,6] x => float[1,6,4,5] y: n = {BN}(x, {STATS}) y = Conv<group: int = 2>(n, W, b)",
        {"W": (6, 2, 2, 2), "b": (6,), **norms(4)},
        lambda c: formulas.from_before_conv(c["W"], c["b"], *of_bn(c), 2),
    ),
    Row(
        "fold-affine-into-next-conv",
        "float[1,4,5] x => float[1,6,6] y: n = Mul(x, k) y = Conv<group: int = 2, pads: ints = [1, 1]>(n, W, b)",
        {"W": (6, 2, 2), "b": (6,), "k": (4, 1)},
        lambda c: formulas.from_before_conv(c["W"], c["b"], c["k"].ravel(), np.zeros(4), 2),
    ),
    Row(
        "fold-affine-into-next-conv-transpose",
        "float[1,4,5] x => float[1,6,6] y: n = Mul(x, k) y = ConvTranspose<group: int = 2>(n, W, b)",
        {"W": (4, 3, 2), "b": (6,), "k": (4, 1)},
        lambda c: (formulas.from_before_conv_transpose(c["W"], c["k"].ravel()), c["b"]),
    ),
    Row(
        "fold-bn-into-next-gemm",
        f"float[2,4] x => float[2,3] y: n = {BN}(x, {STATS}) y = Gemm<alpha: float = 0.5, beta: float = 2.0>(n, W, b)",
        {"W": (4, 3), "b": (3,), **norms(4)},
        lambda c: gemm_forward(c, 1, 0.5, 2.0),
    ),
    Row(
        "fold-bn-into-next-gemm",
        f"float[2,4,2,3] x => float[2,3] y: n = {BN}(x, {STATS}) f = Flatten(n) y = Gemm(f, W, b)",
        {"W": (24, 3), "b": (3,), **norms(4)},
        lambda c: gemm_forward(c, 6),
    ),
    Row(
        "fold-bn-into-next-matmul",
        f"float[2,4] x => float[2,3] y: n = {BN}(x, {STATS}) y = MatMul(n, W)",
        {"W": (4, 3), **norms(4)},
        gemm_forward,
    ),
]


def model_of(row: Row) -> tuple[onnx.ModelProto, Constants]:
    head, body = row.given.split(": ", 1)
    inputs, output = head.split(" => ")
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({output}) {{ {body} }}')
    rng = np.random.default_rng(11)
    held = {name: rng.uniform(0.5, 2, shape).astype(np.float32) for name, shape in row.shapes.items()}
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in held.items())
    return model, {name: values.astype(np.float64) for name, values in held.items()}


def written(model: onnx.ModelProto) -> tuple[Array, Array | None]:
    """Weight and bias of the one linear op (and of the Add beside a MatMul), alpha and beta multiplied out."""
    held = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    linear = next(n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"))
    factors = {a.name: a.f for a in linear.attribute if a.name in ("alpha", "beta")}
    weight = held[linear.input[1]] * factors.get("alpha", 1)
    if len(linear.input) > 2:
        return weight, held[linear.input[2]] * factors.get("beta", 1)
    added = [held[name] for n in model.graph.node if n.op_type == "Add" for name in n.input if name in held]
    return weight, added[0] if added else None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.pass_name)
def test_writes_the_formula(row: Row) -> None:
    model, held = model_of(row)
    result = converter.fold(model, verify=False, only=[row.pass_name])
    assert [rewrite.pass_name for rewrite in result.rewrites] == [row.pass_name]
    (weight, bias), (want_weight, want_bias) = written(result.model), row.expect(held)
    half_ulp = 2.0**-24  # float64 arithmetic, one rounding to float32; alpha and beta are powers of two
    np.testing.assert_allclose(weight, want_weight.astype(np.float64), rtol=1.01 * half_ulp, atol=0)
    assert (bias is None) == (want_bias is None)
    if bias is not None and want_bias is not None:
        want = np.broadcast_to(np.asarray(want_bias, np.float64), bias.shape)
        np.testing.assert_allclose(bias, want, rtol=1.01 * half_ulp, atol=0)


WIDE = [
    Row(
        "fold-bn-into-conv",
        f"float[1,64,5,6] x => float[1,1024,3,4] y: c = Conv<group: int = 2>(x, W, b) y = {BN}(c, {STATS})",
        {"W": (1024, 32, 3, 3), "b": (1024,), **norms(1024)},
        lambda c: formulas.into_conv(c["W"], c["b"], *of_bn(c)),
    ),
    Row(
        "fold-bn-into-conv-transpose",
        f"float[1,512,5] x => float[1,512,7] y: c = ConvTranspose<group: int = 2>(x, W, b) y = {BN}(c, {STATS})",
        {"W": (512, 256, 3), "b": (512,), **norms(512)},
        lambda c: formulas.into_conv_transpose(c["W"], c["b"], *of_bn(c), 2),
    ),
    Row(
        "fold-bn-into-conv-transpose",
        f"float[1,512,5] x => float[1,256,7] y: c = ConvTranspose(x, W, b) y = {BN}(c, {STATS})",
        {"W": (512, 256, 3), "b": (256,), **norms(256)},
        lambda c: formulas.into_conv_transpose(c["W"], c["b"], *of_bn(c), 1),
    ),
    Row(
        "fold-bn-into-gemm",
        "float[2,512] x => float[2,700] y: "
        f"c = Gemm<alpha: float = 0.5, transB: int = 1>(x, W, b) y = {BN}(c, {STATS})",
        {"W": (700, 512), "b": (700,), **norms(700)},
        lambda c: (
            0.5 * formulas.into_gemm(c["W"], c["b"], *of_bn(c), 1.0, True)[0],
            formulas.into_gemm(c["W"], c["b"], *of_bn(c), 1.0, True)[1],
        ),
    ),
    Row(
        "fold-bn-into-matmul",
        f"float[2,512] x => float[2,700] y: c = MatMul(x, W) y = {BN}(c, {STATS})",
        {"W": (512, 700), **norms(700)},
        lambda c: formulas.into_gemm(c["W"], None, *of_bn(c)),
    ),
    Row(
        "fold-affine-into-next-conv",
        "float[1,64,5,6] x => float[1,1024,3,4] y: n = Mul(x, k) y = Conv<group: int = 2>(n, W)",
        {"W": (1024, 32, 3, 3), "k": (64, 1, 1)},
        lambda c: (formulas.from_before_conv(c["W"], None, c["k"].ravel(), np.zeros(64), 2)[0], None),
    ),
    Row(
        "fold-affine-into-next-conv-transpose",
        "float[1,512,5] x => float[1,512,7] y: n = Mul(x, k) y = ConvTranspose<group: int = 2>(n, W)",
        {"W": (512, 256, 3), "k": (512, 1)},
        lambda c: (formulas.from_before_conv_transpose(c["W"], c["k"].ravel()), None),
    ),
    Row(
        "fold-bn-into-next-gemm",
        f"float[2,512] x => float[2,700] y: n = {BN}(x, {STATS}) y = Gemm(n, W, b)",
        {"W": (512, 700), "b": (700,), **norms(512)},
        gemm_forward,
    ),
]


@pytest.mark.parametrize("row", WIDE, ids=lambda row: row.pass_name)
def test_writes_the_formula_for_weights_made_in_blocks(row: Row) -> None:
    test_writes_the_formula(row)


def test_two_folds_round_once() -> None:
    """A scale in front and a batch norm behind: both factors on the stored weight, one rounding."""
    row = Row(
        "both",
        f"float[1,512,5] x => float[1,640,3] y: n = Mul(x, k) c = Conv(n, W) y = {BN}(c, {STATS})",
        {"W": (640, 512, 3), "k": (512, 1), **norms(640)},
        lambda c: (np.zeros(0), None),
    )
    model, c = model_of(row)
    result = converter.fold(model, verify=False)
    assert len(result.rewrites) == 2
    weight, _ = written(result.model)
    want = c["W"] * of_bn(c)[0].reshape(-1, 1, 1) * c["k"].reshape(1, -1, 1)
    np.testing.assert_allclose(weight, want, rtol=1.01 * 2.0**-24, atol=0)
