"""Proofs: affines merge, a bias moves into a mean, and what changes nothing may go."""

from __future__ import annotations

import sympy as sp

from tests.proofs import formulas
from tests.proofs.symbolic import assert_equal, batch_norm, conv, gemm, per_channel, symbols, zeros
from tests.proofs.test_backward_folds import bn


def test_bn_into_bn() -> None:
    """The first keeps its statistics: gamma takes the second's scale, beta all the rest."""
    x, one, two = symbols("x", 1, 2, 2), bn(2, "a"), bn(2, "b")
    scale, shift = formulas.affine_of_bn(*two)
    gamma, beta, mean, sigma = one
    want = batch_norm(batch_norm(x, *one), *two)
    assert_equal(batch_norm(x, gamma * scale, beta * scale + shift, mean, sigma), want)


def test_affine_into_the_bn_before() -> None:
    x, norm, scale, shift = symbols("x", 1, 2, 2), bn(2), symbols("s", 2), symbols("t", 2)
    gamma, beta, mean, sigma = norm
    want = per_channel(scale, 3) * batch_norm(x, *norm) + per_channel(shift, 3)
    assert_equal(batch_norm(x, gamma * scale, beta * scale + shift, mean, sigma), want)


def test_affine_into_the_bn_after() -> None:
    """gamma takes the scale; beta takes gamma / sigma * (shift - mean + scale * mean) with the mean kept."""
    x, norm, scale, shift = symbols("x", 1, 2, 2), bn(2), symbols("s", 2), symbols("t", 2)
    gamma, beta, mean, sigma = norm
    new_beta = beta + gamma / sigma * (shift - mean + scale * mean)
    want = batch_norm(per_channel(scale, 3) * x + per_channel(shift, 3), *norm)
    assert_equal(batch_norm(x, gamma * scale, new_beta, mean, sigma), want)


def test_affines_merge() -> None:
    """Composition is associative and takes scales first: (s2, t2) after (s1, t1)."""
    x = symbols("x", 1, 2, 2)
    (s1, t1), (s2, t2) = ((symbols(f"s{i}", 2), symbols(f"t{i}", 2)) for i in (1, 2))
    want = per_channel(s2, 3) * (per_channel(s1, 3) * x + per_channel(t1, 3)) + per_channel(t2, 3)
    assert_equal(per_channel(s2 * s1, 3) * x + per_channel(s2 * t1 + t2, 3), want)


def test_a_bias_moves_into_the_mean() -> None:
    """BN(conv + b) is BN with the mean less b: the bias is gone, gamma, beta and sigma stay."""
    x, w, b = symbols("x", 1, 2, 3), symbols("w", 2, 2, 2), symbols("b", 2)
    gamma, beta, mean, sigma = bn(2)
    want = batch_norm(conv(x, w, b), gamma, beta, mean, sigma)
    assert_equal(batch_norm(conv(x, w), gamma, beta, mean - b, sigma), want)


def test_in_training_a_bias_cancels() -> None:
    """The mean of a batch moves with the bias and the variance does not: why absorbing is right."""
    values, b = sp.symbols("v0:5", real=True), sp.Symbol("b", real=True)
    mean, moved = sum(values) / sp.Integer(5), sum(v + b for v in values) / sp.Integer(5)
    assert sp.expand(moved - mean - b) == 0
    variance = sum((v - mean) ** 2 for v in values)
    assert sp.expand(sum((v + b - moved) ** 2 for v in values) - variance) == 0


def test_a_zero_bias_adds_nothing() -> None:
    x, w, alpha, beta = symbols("x", 1, 2, 3), symbols("w", 2, 2, 2), *sp.symbols("alpha beta", real=True)
    assert_equal(conv(x, w, zeros(2)), conv(x, w))
    a, b = symbols("a", 2, 2), symbols("b", 2, 2)
    assert_equal(gemm(a, b, zeros(2), alpha, beta), gemm(a, b, None, alpha))


def test_an_identity_bn_changes_nothing() -> None:
    """gamma = sigma and beta = mean, whatever the mean."""
    x, mean, sigma = symbols("x", 1, 2, 2), symbols("m", 2), symbols("sigma", 2, positive=True)
    assert_equal(batch_norm(x, sigma, mean, mean, sigma), x)


def test_rounding_once_is_what_the_order_of_passes_protects() -> None:
    """Folding and then absorbing is the same number as absorbing and then folding, before rounding."""
    b, gamma, beta, mean = (symbols(n, 1) for n in ("b", "gamma", "beta", "mean"))
    sigma = symbols("sigma", 1, positive=True)
    scale, shift = formulas.affine_of_bn(gamma, beta, mean, sigma)
    _, absorbed_shift = formulas.affine_of_bn(gamma, beta, mean - b, sigma)
    assert_equal(scale * b + shift, absorbed_shift)
