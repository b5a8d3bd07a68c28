"""Affine maps that move over several operators: each identity with symbols."""

from __future__ import annotations

import numpy as np
import sympy as sp

from tests.proofs.symbolic import Array, assert_equal, differ, symbols

X, W, V = symbols("x", 2, 3), symbols("w", 3, 4), symbols("v", 3, 4)
B, D = symbols("b", 4), symbols("d", 4)
S, T = symbols("s", 4), symbols("t", 4)
P = symbols("p", 4, positive=True)


def product(x: Array, w: Array) -> Array:
    """A matrix product, sum by sum."""
    return np.array(
        [[sum(x[i, k] * w[k, j] for k in range(w.shape[0])) for j in range(w.shape[1])] for i in range(len(x))]
    )


def relu(x: Array) -> Array:
    """max(v, 0) = (v + |v|) / 2."""
    return np.vectorize(lambda v: (v + sp.Abs(v)) / 2, otypes=[object])(x)


def test_a_sum_gives_the_factor_to_both_and_the_shift_to_one() -> None:
    both = S * (product(X, W) + B + product(X, V) + D) + T
    assert_equal(both, product(X, W * S) + (S * B + T) + product(X, V * S) + S * D)
    assert differ(both, product(X, W * S) + (S * B + T) + product(X, V * S) + (S * D + T))


def test_a_join_gives_each_part_its_own() -> None:
    s, t = symbols("s", 8), symbols("t", 8)
    joined = s * np.concatenate([product(X, W) + B, product(X, V) + D], axis=1) + t
    parts = [product(X, W * s[:4]) + s[:4] * B + t[:4], product(X, V * s[4:]) + s[4:] * D + t[4:]]
    assert_equal(joined, np.concatenate(parts, axis=1))


def test_a_part_changes_its_part_of_the_layer() -> None:
    s, t = np.concatenate([S[:2], np.ones(2, dtype=object)]), np.concatenate([T[:2], np.zeros(2, dtype=object)])
    whole = product(X, W * s) + s * B + t
    assert_equal(whole[:, :2], S[:2] * (product(X, W) + B)[:, :2] + T[:2])
    assert_equal(whole[:, 2:], (product(X, W) + B)[:, 2:])


def test_a_factor_of_scores_goes_into_the_query() -> None:
    number = sp.Symbol("n", real=True)
    query, key = product(X, W) + B, product(X, V) + D
    assert_equal(number * product(query, key.T), product(product(X, number * W) + number * B, key.T))
    assert differ(number * product(query, key.T), product(product(X, number * W) + B, key.T))


def test_positive_factors_pass_rectifiers_and_others_do_not() -> None:
    y = symbols("y", 2, 4)
    assert_equal(P * relu(y), relu(P * y))
    assert differ(-P * relu(y), relu(-P * y))


def test_a_clip_takes_factor_and_shift_into_its_bounds() -> None:
    n, t, low, high, y = sp.Symbol("n", positive=True), *sp.symbols("t low high y", real=True)
    clip = sp.Min(sp.Max(y, low), high)
    moved = sp.Min(sp.Max(n * y + t, n * low + t), n * high + t)
    for case in ({y: 3, low: -1, high: 2}, {y: -3, low: -1, high: 2}, {y: 1, low: -1, high: 2}):
        assert sp.simplify((n * clip + t - moved).subs(case)) == 0
    backwards = {n: -2, t: 1, y: 1, low: -1, high: 2}
    assert (n * clip + t - moved).subs(backwards) != 0  # a negative factor would swap the bounds


def test_branches_of_one_input_add_their_kernels() -> None:
    assert_equal(product(X, W) + B + product(X, V) + D, product(X, W + V) + (B + D))
    square, scale, shift = symbols("q", 3, 3), symbols("s", 3), symbols("t", 3)
    assert_equal(product(X, square) + (scale * X + shift), product(X, square + np.diag(scale)) + shift)


def test_an_input_beside_its_product_is_an_identity_in_the_matrix() -> None:
    square, bias = symbols("q", 3, 3), symbols("b", 3)
    assert_equal(X + (product(X, square) + bias), product(X, square + np.eye(3, dtype=int)) + bias)
    assert differ(X + (product(X, square) + bias), product(X, square + np.ones((3, 3), dtype=int)) + bias)


def test_a_factor_of_a_product_of_computed_matrices_is_in_alpha_and_beta() -> None:
    number, alpha, beta = sp.symbols("n alpha beta", real=True)
    added, other = symbols("c", 2, 4), symbols("z", 3, 4)
    whole = number * (alpha * product(X, other) + beta * added)
    assert_equal(whole, (number * alpha) * product(X, other) + (number * beta) * added)
    assert_equal(whole, alpha * product(number * X, other) + beta * (number * added))
    assert differ(whole, (number * alpha) * product(X, other) + beta * added)


def test_a_bound_at_zero_stays_for_a_factor_of_each_channel() -> None:
    y = symbols("y", 2, 4)
    clip = np.vectorize(lambda v: sp.Max(v, 0), otypes=[object])
    values = {s: k - 3 for k, s in enumerate(y.reshape(-1))} | {p: k + 1 for k, p in enumerate(P)}
    assert all(sp.simplify(e.subs(values)) == 0 for e in (P * clip(y) - clip(P * y)).reshape(-1))
    other = np.vectorize(lambda v: sp.Max(v, 1), otypes=[object])
    assert any(sp.simplify(e.subs(values)) != 0 for e in (P * other(y) - other(P * y)).reshape(-1))


def test_what_goes_into_a_recurrent_input_is_in_its_gates() -> None:
    s, t = symbols("s", 3), symbols("t", 3)
    gates, state = symbols("r", 4, 3), symbols("h", 4)
    rows = product(s * X + t, gates.T) + state + B
    assert_equal(rows, product(X, (gates * s).T) + state + (B + np.array([sum(r * t) for r in gates])))
    assert differ(rows, product(X, (gates * s).T) + state + B)


def test_a_difference_loses_what_both_sides_have() -> None:
    z = symbols("z", 2, 3)
    assert_equal((product(X, W) + B) - (product(z, W) + B), product(X, W) - product(z, W))
    assert differ((product(X, W) + B) - (product(z, W) + D), product(X, W) - product(z, W))
