"""Proofs: an affine before a linear op folds into it, and where it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

from tests.proofs import formulas
from tests.proofs.symbolic import (
    Array,
    assert_equal,
    average_pool,
    combinations,
    conv,
    conv_transpose,
    differ,
    gemm,
    matmul,
    per_channel,
    symbols,
    zeros,
)


def scaled(x: Array, scale: Array, shift: Array) -> Array:
    """scale * x + shift per channel."""
    return per_channel(scale, x.ndim) * x + per_channel(shift, x.ndim)


@pytest.mark.parametrize("group", [1, 2, 4], ids=["dense", "grouped", "depthwise"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("geometry", [{}, {"strides": [2]}, {"dilations": [2]}], ids=str)
def test_affine_into_next_conv(group: int, bias: bool, geometry: dict[str, Any]) -> None:
    """Unpadded: each output sees all taps, so the shift adds the weights of its group's channels."""
    x, w = symbols("x", 1, 4, 4), symbols("w", 4, 4 // group, 2)
    b = symbols("b", 4) if bias else None
    scale, shift = symbols("s", 4), symbols("t", 4)
    new_w, new_b = formulas.from_before_conv(w, b, scale, shift, group)
    assert_equal(conv(x, new_w, new_b, group, **geometry), conv(scaled(x, scale, shift), w, b, group, **geometry))


@pytest.mark.parametrize("pads", [[1, 0], [0, 1], [1, 1], [2, 2]], ids=str)
@pytest.mark.parametrize("group", [1, 2])
def test_a_pure_scale_passes_padding(pads: list[int], group: int) -> None:
    """Padding is zero before and after a scale."""
    x, w, b, scale = symbols("x", 1, 2, 3), symbols("w", 2, 2 // group, 3), symbols("b", 2), symbols("s", 2)
    new_w, new_b = formulas.from_before_conv(w, b, scale, zeros(2), group)
    assert_equal(conv(x, new_w, new_b, group, pads), conv(scaled(x, scale, zeros(2)), w, b, group, pads))


@pytest.mark.parametrize(("pads", "wrong"), [([1, 0], {0}), ([0, 1], {2}), ([1, 1], {0, 3})], ids=str)
def test_a_shift_does_not_pass_padding(pads: list[int], wrong: set[int]) -> None:
    """Exactly the outputs whose window meets the padding differ: there the shift is not seen."""
    x, w, scale, shift = symbols("x", 1, 2, 3), symbols("w", 2, 2, 2), symbols("s", 2), symbols("t", 2)
    new_w, new_b = formulas.from_before_conv(w, None, scale, shift, 1)
    found = differ(conv(x, new_w, new_b, 1, pads), conv(scaled(x, scale, shift), w, None, 1, pads))
    assert {where for _, _, where in found} == wrong


def test_padding_that_no_tap_reads_is_no_padding() -> None:
    """With stride 2 the last padded element is never reached."""
    x, w, scale, shift = symbols("x", 1, 1, 4), symbols("w", 1, 1, 2), symbols("s", 1), symbols("t", 1)
    new_w, new_b = formulas.from_before_conv(w, None, scale, shift, 1)
    geometry = {"pads": [0, 1], "strides": [2]}
    assert_equal(conv(x, new_w, new_b, **geometry), conv(scaled(x, scale, shift), w, **geometry))


@pytest.mark.parametrize("case", combinations(group=[1, 2], strides=[[1], [2]], pads=[[0, 0], [1, 0]]), ids=str)
def test_a_scale_passes_conv_transpose(case: dict[str, Any]) -> None:
    x, w = symbols("x", 1, 4, 3), symbols("w", 4, 2, 2)
    b, scale = symbols("b", 2 * case["group"]), symbols("s", 4)
    new_w = formulas.from_before_conv_transpose(w, scale)
    assert_equal(conv_transpose(x, new_w, b, **case), conv_transpose(scaled(x, scale, zeros(4)), w, b, **case))


def shift_through_transposed(kernel: int, stride: int) -> Array:
    """What a shift of the input adds to each output of a ConvTranspose."""
    x, w, shift = symbols("x", 1, 2, 3), symbols("w", 2, 1, kernel), symbols("t", 2)
    moved = conv_transpose(scaled(x, symbols("o", 2) * 0 + 1, shift), w, strides=[stride])
    return np.vectorize(sp.expand, otypes=[object])(moved - conv_transpose(x, w, strides=[stride]))


def test_a_shift_passes_conv_transpose_of_one_tap() -> None:
    """Kernel 1, stride 1: each output sees each channel once, so the shift is one number per channel."""
    assert len(set(shift_through_transposed(1, 1).ravel())) == 1


@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (3, 1), (2, 2), (3, 2), (1, 2)])
def test_a_shift_passes_no_other_conv_transpose(kernel: int, stride: int) -> None:
    """Outputs see different taps (borders, phases), so no bias per channel does the same."""
    assert len(set(shift_through_transposed(kernel, stride).ravel())) > 1


@pytest.mark.parametrize("trans", combinations(trans_a=[False, True], trans_b=[False, True]), ids=str)
@pytest.mark.parametrize("shape", [None, (3,), (2, 3), (2, 1), ()], ids=str)
def test_affine_into_next_gemm(trans: dict[str, bool], shape: tuple[int, ...] | None) -> None:
    """The affine runs over the contracted axis: alpha multiplies what it adds, beta goes into C."""
    alpha, beta = sp.symbols("alpha beta_", real=True)
    x, scale, shift = symbols("x", 2, 4), symbols("s", 4), symbols("t", 4)
    w = symbols("w", *((3, 4) if trans["trans_b"] else (4, 3)))
    c = None if shape is None else symbols("c", *shape)
    new_w, new_c = formulas.from_before_gemm(w, c, scale, shift, alpha, beta, trans["trans_b"])
    before, moved = (y.T if trans["trans_a"] else y for y in (x, scaled(x, scale, shift)))
    assert_equal(gemm(before, new_w, new_c, alpha, 1, **trans), gemm(moved, w, c, alpha, beta, **trans))


def test_affine_into_next_matmul() -> None:
    x, w, scale, shift = symbols("x", 2, 3), symbols("w", 3, 4), symbols("s", 3), symbols("t", 3)
    new_w, new_c = formulas.from_before_gemm(w, None, scale, shift)
    assert_equal(gemm(x, new_w, new_c), matmul(scaled(x, scale, shift), w))


def test_affine_passes_flatten() -> None:
    """Each channel's numbers repeat for each of its elements, in row-major order."""
    x, w, scale, shift = symbols("x", 1, 2, 2, 2), symbols("w", 8, 2), symbols("s", 2), symbols("t", 2)
    new_w, new_c = formulas.from_before_gemm(w, None, np.repeat(scale, 4), np.repeat(shift, 4))
    assert_equal(gemm(x.reshape(1, 8), new_w, new_c), matmul(scaled(x, scale, shift).reshape(1, 8), w))


@pytest.mark.parametrize("pad", [0, 1])
def test_affine_passes_average_pool_that_counts_no_padding(pad: int) -> None:
    x, scale, shift = symbols("x", 1, 2, 4), symbols("s", 2), symbols("t", 2)
    assert_equal(average_pool(scaled(x, scale, shift), 3, pad), scaled(average_pool(x, 3, pad), scale, shift))


def test_only_a_scale_passes_average_pool_that_counts_padding() -> None:
    x, scale, shift = symbols("x", 1, 2, 4), symbols("s", 2), symbols("t", 2)
    pooled = average_pool(x, 3, 1, count_padding=True)
    assert_equal(average_pool(scaled(x, scale, zeros(2)), 3, 1, True), scaled(pooled, scale, zeros(2)))
    wrong = differ(average_pool(scaled(x, scale, shift), 3, 1, True), scaled(pooled, scale, shift))
    assert {where for _, _, where in wrong} == {0, 3}


def test_an_increasing_affine_passes_max_pool() -> None:
    """It keeps the order of any two values, so the same element is the largest; decreasing, it turns the order."""
    b, t = sp.symbols("b t", real=True)
    gap = sp.Symbol("gap", positive=True)
    up, down = sp.Symbol("up", positive=True), sp.Symbol("down", negative=True)
    larger = b + gap
    assert sp.expand((up * larger + t) - (up * b + t)).is_positive
    assert sp.expand((down * larger + t) - (down * b + t)).is_negative
    for scale, passes in ((up, True), (down, False)):
        for one, two in ((larger, b), (b, larger)):
            same = sp.simplify(sp.Max(scale * one + t, scale * two + t) - (scale * larger + t)) == 0
            assert same == passes
