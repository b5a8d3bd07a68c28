"""Proofs: a factor of a quantized layer folds into its scale, for all values of all symbols."""

from __future__ import annotations

import pytest
import sympy as sp

from tests.proofs import formulas
from tests.proofs.symbolic import Array, assert_equal, batch_norm, conv, differ, matmul, symbols
from tests.proofs.test_backward_folds import bn


def dequantize(q: Array, scale: Array, zero: Array) -> Array:
    """Scale and zero point broadcast to q."""
    return scale * (q - zero)


@pytest.mark.parametrize("per_axis", [True, False])
def test_bn_into_the_scale_of_a_conv(per_axis: bool) -> None:
    q, x, b, norm = symbols("q", 2, 2, 2), symbols("x", 1, 2, 4), symbols("b", 2), bn(2)
    scale = symbols("s", 2, 1, 1) if per_axis else symbols("s", 1, 1, 1)
    zero = symbols("z", 2, 1, 1) if per_axis else symbols("z", 1, 1, 1)
    factor, shift = formulas.affine_of_bn(*norm)
    new = dequantize(q, scale * factor.reshape(2, 1, 1), zero)
    want = batch_norm(conv(x, dequantize(q, scale, zero), b), *norm)
    assert_equal(conv(x, new, factor * b + shift), want)


def test_a_negative_factor_turns_the_integers_about_their_zero_point() -> None:
    q, s, z = symbols("q", 3), symbols("s", 1), symbols("z", 1)
    factor = symbols("k", 1, positive=True)
    assert_equal(dequantize(2 * z - q, factor * s, z), -factor * dequantize(q, s, z))


def test_a_factor_of_zero_makes_the_integers_the_zero_point() -> None:
    q, s, z = symbols("q", 3), symbols("s", 1), symbols("z", 1)
    assert_equal(dequantize(z + 0 * q, s, z), 0 * dequantize(q, s, z))


def test_a_factor_within_a_block_is_no_factor_of_its_scale() -> None:
    q, s, k = symbols("q", 4), symbols("s", 2), symbols("k", 4)
    spread, blocks = s.repeat(2), k.reshape(2, 2)[:, 0]
    assert differ(k * spread * q, (s * blocks).repeat(2) * q)
    alike = blocks.repeat(2)
    assert_equal(alike * spread * q, (s * blocks).repeat(2) * q)


def test_a_factor_into_the_scale_of_an_integer_product() -> None:
    """y = i (x's scale) (W's scale) + b; the integers, and what is found at run time, stay."""
    q, w, b = symbols("q", 2, 3), symbols("w", 3, 2), symbols("b", 2)
    x_scale, w_scale, k, t = sp.Symbol("sx"), symbols("sw", 1), symbols("k", 2), symbols("t", 2)
    i = matmul(q, w)
    assert_equal(i * (x_scale * (w_scale * k)) + (b * k + t), (i * (x_scale * w_scale) + b) * k + t)


def test_a_scale_of_data_and_one_add_are_a_batch_norm() -> None:
    q, s, z, norm = symbols("q", 1, 2, 3), symbols("s", 1), symbols("z", 1), bn(2)
    factor, shift = (v.reshape(1, 2, 1) for v in formulas.affine_of_bn(*norm))
    assert_equal(dequantize(q, s * factor, z) + shift, batch_norm(dequantize(q, s, z), *norm))


def test_no_shift_goes_through_the_zero_point() -> None:
    """It is an integer of the type: the shift of a batch norm stays beside it."""
    q, s, z, t = symbols("q", 1), symbols("s", 1), symbols("z", 1), symbols("t", 1)
    assert_equal(dequantize(q, s, z) + t, dequantize(q, s, z - t / s))  # equal, for a zero point of real numbers
    assert differ(dequantize(q, s, z) + t, dequantize(q, s, z))


def test_a_mean_takes_a_bias_with_it_that_is_rounded_at_run_time() -> None:
    """(i + n) s less its mean over the positions is i s less its mean, whatever integer n the bias became."""
    i, n, s = symbols("i", 2, 3), symbols("n", 2, 1), sp.Symbol("s")

    def center(x: Array) -> Array:
        return x - x.sum(axis=1, keepdims=True) / 3

    assert_equal(center((i + n) * s), center(i * s))
