"""Proofs: how much more a fold may round than the original, law by law; and no counter-example in float16.

A bound is a sum of sizes that are not negative, each times how often it is rounded, in units of the unit roundoff u:
P = |s| |W| |x| and Q of a second operator, Y = |y|, Z = |s (W x + b)| and the like. What a fold rounds is held against
the original's by the triangle inequality; no term that is left may be negative for sums of n = 1, 2, 3, ... products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sympy as sp

from converter.referee.normal_form.laws import FACTOR, Law, find_factor

n, m = sp.symbols("n m", integer=True, positive=True)
P, Q, X, Y, Z, V, M, B, T = sp.symbols("P Q X Y Z V M B T", nonnegative=True)


def is_never_negative(bound: Any, least: dict[Any, int]) -> bool:
    """Whether every term's coefficient is at least 0, where n and m are at least ``least``."""
    shifted = sp.expand(bound.subs({k: k + v - 1 for k, v in least.items()}, simultaneous=True))
    terms = sp.Poly(shifted, P, Q, X, Y, Z, V, M, B, T).coeffs()
    return all(sp.Poly(c, n, m).eval({n: 1, m: 1}) >= 0 and _grows(c) for c in terms)


def _grows(coefficient: Any) -> bool:
    return all(sp.diff(coefficient, k).is_nonnegative for k in (n, m))


# law: (original, folded); the input's own rounding, P or X, is in both
BOUNDS: dict[str, tuple[Law, Any, Any, float, int]] = {
    # s (W x): n products, the product with s | (n + 1) roundings of s W
    "scale": (Law.SCALE, n * P + P + P, (n + 1) * P + P, 1, 1),
    # s (W x + V z): sums, their sum, the product | each weight once more, the sum
    "scale of a sum": (Law.SCALE, n * P + m * Q + Z + Y + P + Q, (n + 1) * P + (m + 1) * Q + Y + P + Q, 2, 1),
    # s (W x + b) + t: |b'| <= Y + P
    "shift": (Law.SHIFT, n * P + Z + Y + P, (n + 1) * P + (Y + P) + Y + P, 2, 1),
    # (x + a) + b: |a + b| <= X + Y
    "two additions": (Law.SHIFT, X + Z + Y, X + (X + Y) + Y, 2, 1),
    # s2 (s1 x + t1) + t2: |t| <= Y + X, X = |s x|
    "two affine maps": (Law.SHIFT, X + X + Z + V + Y, X + X + X + (Y + X) + Y, 2, 1),
    # s ((z + b) - m) + t, computed as s z + (t - s m): |s m'| <= M + Z + P, |t'| <= Y + P
    "mean": (
        Law.NORM_KEPT,
        n * P + 2 * Z + 2 * M + B + T + Y + P,
        n * P + P + 3 * (M + Z + P) + B + (Y + P) + Y + P,
        4,
        1,
    ),
    "mean of more": (
        Law.NORM_KEPT,
        n * P + 2 * Z + 2 * M + B + T + Y + P,
        n * P + P + 3 * (M + Z + P) + B + (Y + P) + Y + P,
        2,
        4,
    ),
    # (W x + b) + (V z + d): |b + d| <= Z + V + P + Q, and |W x + b'| at most that and P
    "siblings": (
        Law.SIBLINGS,
        n * P + Z + m * Q + V + Y + P + Q,
        n * P + P + 2 * (Z + V + P + Q) + m * Q + Y + P + Q,
        3,
        1,
    ),
    "siblings of more": (
        Law.SIBLINGS,
        n * P + Z + m * Q + V + Y + P + Q,
        n * P + P + 2 * (Z + V + P + Q) + m * Q + Y + P + Q,
        2,
        2,
    ),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_the_constant_of_a_law(name: str) -> None:
    law, original, folded, factor, least = BOUNDS[name]
    assert is_never_negative(factor * original - folded, {n: least, m: least})
    known = FACTOR[law]
    assert known is not None
    assert factor <= known


@pytest.mark.parametrize("name", ["shift", "siblings", "siblings of more", "mean of more"])
def test_the_proof_can_fail(name: str) -> None:
    _, original, folded, factor, least = BOUNDS[name]
    assert not is_never_negative((factor - 1) * original - folded, {n: least, m: least})


def test_laws_without_a_constant_decide() -> None:
    assert find_factor([Law.SCALE, Law.SHIFT]) == 2
    assert find_factor([Law.SHIFT, Law.THROUGH_WEIGHTS]) is None
    assert {law for law, factor in FACTOR.items() if factor is None} == {
        *(Law.THROUGH_WEIGHTS, Law.PRODUCT, Law.THROUGH_MEAN, Law.CENTRED, Law.SOFTMAX, Law.ROWS, Law.CAST)
    }


# -- in float16, every operation rounded -----------------------------------------------------------------

_U = 2.0**-11
_COUNT = 20_000
Half = np.ndarray[Any, np.dtype[np.float16]]


def draw(rng: np.random.Generator, *shape: int) -> Half:
    """Numbers of sizes far apart, with either sign."""
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-4, 4, shape)).astype(np.float16)


def dot(w: Half, x: Half) -> Half:
    """Sums of products over the last axis, one after the other."""
    total = w[..., 0] * x[..., 0]
    for k in range(1, w.shape[-1]):
        total = (total + (w[..., k] * x[..., k]).astype(np.float16)).astype(np.float16)
    return total


def wide(*values: Half) -> list[np.ndarray[Any, Any]]:
    return [v.astype(np.float64) for v in values]


def half(value: np.ndarray[Any, Any]) -> Half:
    return value.astype(np.float16)


def search_shift(rng: np.random.Generator, length: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Errors of the fold of s (W x + b) + t, and the original's bound; t often cancels what is before it."""
    w, x, b, s, t = (draw(rng, _COUNT, *d) for d in ((length,), (length,), (), (), ()))
    W, A, b_, s_, t_ = wide(w, x, b, s, t)
    near = rng.random(_COUNT) < 0.5
    t = np.where(near, half(-s_ * ((W * A).sum(-1) + b_) * (1 + rng.normal(size=_COUNT) * 0.01)), t)
    (t_,) = wide(t)
    exact = s_ * ((W * A).sum(-1) + b_) + t_
    folded = dot(half(s_[:, None] * W), x) + half(s_ * b_ + t_)
    size = np.abs(s_) * np.abs(W * A).sum(-1)
    bound = (length + 1) * size + np.abs(exact - t_) + np.abs(exact)
    return np.abs(folded.astype(np.float64) - exact), bound


def search_scale(rng: np.random.Generator, length: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    w, x, s = draw(rng, _COUNT, length), draw(rng, _COUNT, length), draw(rng, _COUNT)
    W, A, s_ = wide(w, x, s)
    exact = s_ * (W * A).sum(-1)
    folded = dot(half(s_[:, None] * W), x)
    return np.abs(folded.astype(np.float64) - exact), (length + 2) * np.abs(s_) * np.abs(W * A).sum(-1)


def search_additions(rng: np.random.Generator, length: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    x, a, b = (draw(rng, _COUNT) for _ in range(3))
    a = np.where(rng.random(_COUNT) < 0.5, half(-x.astype(np.float64) * (1 + rng.normal(size=_COUNT) * 0.01)), a)
    x_, a_, b_ = wide(x, a, b)
    exact = x_ + a_ + b_
    folded = x + half(a_ + b_)
    return np.abs(folded.astype(np.float64) - exact), np.abs(x_) + np.abs(x_ + a_) + np.abs(exact)


def search_siblings(rng: np.random.Generator, length: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    w, x, v, z = (draw(rng, _COUNT, length) for _ in range(4))
    b, d = draw(rng, _COUNT), draw(rng, _COUNT)
    W, A, N, C, b_, d_ = wide(w, x, v, z, b, d)
    one, other = (W * A).sum(-1) + b_, (N * C).sum(-1) + d_
    folded = half(dot(w, x) + half(b_ + d_)) + dot(v, z)
    bound = (length + 1) * (np.abs(W * A).sum(-1) + np.abs(N * C).sum(-1)) + np.abs(one) + np.abs(other)
    return np.abs(folded.astype(np.float64) - one - other), bound + np.abs(one + other)


SEARCHES: dict[str, tuple[Law, Callable[..., Any]]] = {
    "scale": (Law.SCALE, search_scale),
    "shift": (Law.SHIFT, search_shift),
    "two additions": (Law.SHIFT, search_additions),
    "siblings": (Law.SIBLINGS, search_siblings),
}


@pytest.mark.parametrize("length", [1, 2, 3, 9])
@pytest.mark.parametrize("name", SEARCHES)
def test_no_counter_example(name: str, length: int) -> None:
    """No fold is further off than its law allows; some come near enough that half of it would not do for n = 1."""
    law, search = SEARCHES[name]
    factor = FACTOR[law]
    assert factor is not None
    with np.errstate(all="ignore"):
        error, bound = search(np.random.default_rng(length), length)
    allowed = bound * _U / (1 - (length + 4) * _U) + 2.0**-24 * (length + 2)  # numbers below the smallest normal one
    usable = np.isfinite(error) & np.isfinite(bound)
    assert usable.mean() > 0.9
    worst = float((error / allowed)[usable].max())
    assert worst <= factor
    assert worst > 0.2


def test_a_shift_through_weights_has_no_constant() -> None:
    """W (x + b) as W x + W b, where x is nearly -b: the sums are large, and what is left of them is not."""
    x = np.full(9, 1000, np.float16)
    b, w = -x + np.float16(0.5), np.linspace(0.9, 1.1, 9).astype(np.float16)
    x_, b_, w_ = wide(x, b, w)
    exact = (w_ * (x_ + b_)).sum()
    folded = float(dot(w[None], x[None])[0] + half((w_ * b_).sum()))
    original = float(dot(w[None], (x + b)[None])[0])
    assert abs(original - exact) < 0.01 * exact
    assert abs(folded - exact) > 0.5 * exact
