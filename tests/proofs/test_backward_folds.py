"""Proofs: an affine after a linear op folds into its weights, for all values of all symbols."""

from __future__ import annotations

from typing import Any

import pytest
import sympy as sp

from tests.proofs import formulas
from tests.proofs.symbolic import (
    assert_equal,
    batch_norm,
    combinations,
    conv,
    conv_transpose,
    differ,
    gemm,
    matmul,
    per_channel,
    symbols,
)


def bn(channels: int, prefix: str = "") -> list[Any]:
    """gamma, beta, mean and sigma = sqrt(var + epsilon) > 0."""
    names = ("gamma", "beta", "mean")
    return [symbols(prefix + name, channels) for name in names] + [symbols(prefix + "sigma", channels, positive=True)]


@pytest.mark.parametrize("group", [1, 2, 4], ids=["dense", "grouped", "depthwise"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "geometry", [{}, {"pads": [1, 0]}, {"strides": [2], "pads": [1, 1]}, {"dilations": [2]}], ids=str
)
def test_bn_into_conv(group: int, bias: bool, geometry: dict[str, Any]) -> None:
    x, w = symbols("x", 1, 4, 4), symbols("w", 4, 4 // group, 2)
    b = symbols("b", 4) if bias else None
    norm = bn(4)
    new_w, new_b = formulas.into_conv(w, b, *formulas.affine_of_bn(*norm))
    want = batch_norm(conv(x, w, b, group, **geometry), *norm)
    assert_equal(conv(x, new_w, new_b, group, **geometry), want)


def test_bn_into_conv_2d() -> None:
    x, w, b, norm = symbols("x", 1, 2, 3, 3), symbols("w", 2, 2, 2, 2), symbols("b", 2), bn(2)
    new_w, new_b = formulas.into_conv(w, b, *formulas.affine_of_bn(*norm))
    kwargs = {"pads": [1, 0, 0, 1], "strides": [2, 1]}
    assert_equal(conv(x, new_w, new_b, **kwargs), batch_norm(conv(x, w, b, **kwargs), *norm))


def test_bn_into_conv_3d() -> None:
    x, w, norm = symbols("x", 1, 2, 2, 2, 2), symbols("w", 2, 1, 2, 1, 2), bn(2)
    new_w, new_b = formulas.into_conv(w, None, *formulas.affine_of_bn(*norm))
    assert_equal(conv(x, new_w, new_b, group=2), batch_norm(conv(x, w, None, group=2), *norm))


@pytest.mark.parametrize("case", combinations(group=[1, 2], bias=[True, False], strides=[[1], [2]]), ids=str)
def test_bn_into_conv_transpose(case: dict[str, Any]) -> None:
    group, strides = case["group"], case["strides"]
    x, w, norm = symbols("x", 1, 4, 3), symbols("w", 4, 4 // group, 3), bn(4)
    b = symbols("b", 4) if case["bias"] else None
    new_w, new_b = formulas.into_conv_transpose(w, b, *formulas.affine_of_bn(*norm), group)
    want = batch_norm(conv_transpose(x, w, b, group, [1, 0], strides), *norm)
    assert_equal(conv_transpose(x, new_w, new_b, group, [1, 0], strides), want)


def test_scaling_the_wrong_axis_of_a_square_conv_transpose_is_wrong() -> None:
    """Cin = Cout / group * group: no shape tells the axes apart, the algebra does."""
    x, w, scale, shift = symbols("x", 1, 4, 2), symbols("w", 4, 2, 2), symbols("s", 4), symbols("t", 4)
    want = per_channel(scale, 3) * conv_transpose(x, w, None, 2) + per_channel(shift, 3)
    assert differ(conv_transpose(x, w * scale.reshape(4, 1, 1), shift, 2), want)
    new_w, new_b = formulas.into_conv_transpose(w, None, scale, shift, 2)
    assert not differ(conv_transpose(x, new_w, new_b, 2), want)


C_FORMS: dict[str, tuple[int, ...] | None] = {
    "absent": None,
    "(N,)": (3,),
    "(1,N)": (1, 3),
    "()": (),
    "(1,)": (1,),
    "(M,1)": (2, 1),
    "(M,N)": (2, 3),
}


@pytest.mark.parametrize("form", C_FORMS)
@pytest.mark.parametrize("trans", combinations(trans_a=[False, True], trans_b=[False, True]), ids=str)
def test_bn_into_gemm(form: str, trans: dict[str, bool]) -> None:
    """Alpha stays an attribute, beta goes into C, whatever C's shape."""
    alpha, beta = sp.symbols("alpha beta_", real=True)
    x = symbols("x", *((4, 2) if trans["trans_a"] else (2, 4)))
    w = symbols("w", *((3, 4) if trans["trans_b"] else (4, 3)))
    shape = C_FORMS[form]
    c = None if shape is None else symbols("c", *shape)
    norm = bn(3)
    new_w, new_c = formulas.into_gemm(w, c, *formulas.affine_of_bn(*norm), beta, trans["trans_b"])
    want = batch_norm(gemm(x, w, c, alpha, beta, **trans), *norm)
    assert_equal(gemm(x, new_w, new_c, alpha, 1, **trans), want)


def test_bn_into_matmul() -> None:
    """Of rank 2: the MatMul becomes a Gemm with the shift as its C."""
    x, w, norm = symbols("x", 2, 3), symbols("w", 3, 4), bn(4)
    new_w, new_c = formulas.into_gemm(w, None, *formulas.affine_of_bn(*norm))
    assert_equal(gemm(x, new_w, new_c), batch_norm(matmul(x, w), *norm))


def test_bn_into_matmul_and_add() -> None:
    x, w, b, norm = symbols("x", 2, 3), symbols("w", 3, 4), symbols("b", 4), bn(4)
    new_w, new_c = formulas.into_gemm(w, b, *formulas.affine_of_bn(*norm))
    assert_equal(matmul(x, new_w) + new_c, batch_norm(matmul(x, w) + b, *norm))


def test_bn_into_transposed_matmul_of_rank_3() -> None:
    """[N, T, F] MatMul, Transpose(0, 2, 1), BN: the channel of the BN is the MatMul's column."""
    x, w, norm = symbols("x", 1, 2, 3), symbols("w", 3, 2), bn(2)
    new_w, new_b = formulas.into_gemm(w, None, *formulas.affine_of_bn(*norm))
    want = batch_norm(matmul(x, w).transpose(0, 2, 1), *norm)
    assert_equal((matmul(x, new_w) + new_b).transpose(0, 2, 1), want)


def test_bn_after_matmul_of_rank_3_does_not_fold() -> None:
    """With T = F sizes coincide, but the BN's channel is time: no column scale gives it."""
    x, w, norm = symbols("x", 1, 2, 3), symbols("w", 3, 2), bn(2)
    new_w, new_b = formulas.into_gemm(w, None, *formulas.affine_of_bn(*norm))
    assert differ(matmul(x, new_w) + new_b, batch_norm(matmul(x, w), *norm))


AFFINES = {
    "x * k": (lambda x, k: x * k, lambda k: (k, 0 * k)),
    "k * x": (lambda x, k: k * x, lambda k: (k, 0 * k)),
    "x + k": (lambda x, k: x + k, lambda k: (k / k, k)),
    "x - k": (lambda x, k: x - k, lambda k: (k / k, -k)),
    "k - x": (lambda x, k: k - x, lambda k: (-k / k, k)),
    "x / k": (lambda x, k: x / k, lambda k: (1 / k, 0 * k)),
    "-x": (lambda x, k: -x, lambda k: (-k / k, 0 * k)),
}


@pytest.mark.parametrize("name", AFFINES)
def test_affine_normal_form_folds_into_conv(name: str) -> None:
    """Mul, Add, Sub, Div, Neg in either order are y = scale * x + shift, and fold as such."""
    op, normal = AFFINES[name]
    x, w, b, k = symbols("x", 1, 2, 3), symbols("w", 2, 2, 2), symbols("b", 2), symbols("k", 2, positive=True)
    new_w, new_b = formulas.into_conv(w, b, *normal(k))
    assert_equal(conv(x, new_w, new_b), op(conv(x, w, b), per_channel(k, 3)))


def test_constant_over_x_is_no_affine() -> None:
    """k / x has no scale and shift: its second derivative is not zero."""
    x, k = sp.symbols("x k", positive=True)
    assert sp.diff(k / x, x, 2) != 0
    assert sp.diff(x / k, x, 2) == 0


def test_sigma_is_what_the_operator_says() -> None:
    """Standardising and scaling is one affine: sqrt(var + eps) is positive, so it may be divided by."""
    x, gamma, beta, mean = sp.symbols("x gamma beta mean", real=True)
    var, eps = sp.symbols("var epsilon", positive=True)
    scale = gamma / sp.sqrt(var + eps)
    assert sp.simplify(gamma * (x - mean) / sp.sqrt(var + eps) + beta - (scale * x + (beta - mean * scale))) == 0
