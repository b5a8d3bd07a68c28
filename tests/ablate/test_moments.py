"""How well a bias can be imitated: the formula, its two tables, and its honest form on other data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from converter.ablate.im2col import Moments, Rows, measure_residual, solve_direction, weight_groups


def moments(x: np.ndarray, rows: int = 20) -> Moments:
    """x [P, n] as rows of data."""
    made = Moments()
    for k, part in enumerate(np.array_split(x, rows)):
        made.add(Rows(part[None], part[None, :, :1], k))
    return made


def relu_inputs(n: int, positions: int, correlation: float) -> np.ndarray:
    rng = np.random.default_rng(n)
    shared = rng.standard_normal((positions, 1))
    own = rng.standard_normal((positions, n))
    return np.maximum(math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own, 0)


@pytest.mark.parametrize("n", [1, 4, 16, 64, 256])
def test_independent_inputs_imitate_a_bias_the_better_the_more_there_are(n: int) -> None:
    # q = n m^2 / s^2 for ReLU of a standard normal: m^2 = 1/(2 pi), s^2 = 1/2 - 1/(2 pi)
    q = n * (1 / (2 * math.pi)) / (0.5 - 1 / (2 * math.pi))
    found = moments(relu_inputs(n, 200_000 if n < 100 else 40_000, 0.0))
    assert found.residual()[0] == pytest.approx(1 / (1 + q), rel=0.015)
    assert found.residual_held_out()[0] == pytest.approx(1 / (1 + q), rel=0.03)


@pytest.mark.parametrize(
    ("correlation", "n", "r"),
    [(0.2, 4, 0.44), (0.2, 16, 0.31), (0.2, 64, 0.27), (0.8, 4, 0.63), (0.8, 16, 0.62), (0.8, 64, 0.62)],
)
def test_correlated_inputs_leave_a_floor(correlation: float, n: int, r: float) -> None:
    found = moments(relu_inputs(n, 200_000, correlation)).residual()[0]
    assert round(found, 2) == pytest.approx(r, abs=0.0051)


def test_it_is_what_least_squares_leaves_and_sherman_and_morrison_say() -> None:
    x = np.abs(np.random.default_rng(0).standard_normal((500, 7))) + 0.1
    found = moments(x)
    v, rest, *_ = np.linalg.lstsq(x, np.ones(500), rcond=None)
    assert found.residual()[0] == pytest.approx(rest[0] / 500, rel=1e-6)
    np.testing.assert_allclose(solve_direction(found.second, found.mean)[0], v, rtol=1e-5)
    mean, covariance = x.mean(axis=0), np.cov(x.T, bias=True)
    assert found.residual()[0] == pytest.approx(1 / (1 + mean @ np.linalg.solve(covariance, mean)), rel=1e-6)


def test_inputs_without_a_mean_cannot_imitate_it() -> None:
    x = np.random.default_rng(0).standard_normal((4000, 5))
    assert moments(np.concatenate([x, -x])).residual()[0] == pytest.approx(1.0, abs=1e-6)


def test_patches_of_zeros_bound_it_from_below() -> None:
    x = np.abs(np.random.default_rng(0).standard_normal((1000, 9))) + 1
    x[:129] = 0
    assert moments(np.random.default_rng(1).permutation(x)).residual()[0] >= 0.129


def test_dead_and_equal_inputs_do_no_harm() -> None:
    x = np.abs(np.random.default_rng(0).standard_normal((400, 3)))
    more = np.concatenate([x, x[:, :1], np.zeros((400, 2))], axis=1)
    assert moments(more).residual()[0] == pytest.approx(moments(x).residual()[0], rel=1e-5)
    assert moments(np.zeros((40, 3))).residual()[0] == 1.0


def test_more_inputs_than_positions_look_perfect_only_where_they_were_fitted() -> None:
    x = np.random.default_rng(0).standard_normal((60, 50)) + 0.05
    found = moments(x)
    assert found.residual()[0] < 0.35
    assert found.residual_held_out()[0] > 1.0  # v does harm
    assert math.isnan(moments(x[:1], rows=1).residual_held_out()[0])


def test_what_imitates_is_fitted_on_its_own_rows_alone() -> None:
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_normal((20, 30, 4)))
    mine = np.arange(20) < 7
    made = Moments(fitted=mine)
    for k in range(20):
        made.add(Rows(x[k][None] * (1 if mine[k] else 1e6), x[k][None, :, :1], k))
    flat = x[mine].reshape(-1, 4)
    v = made.imitation(1e-9)
    assert v is not None
    np.testing.assert_allclose(v[0], np.linalg.lstsq(flat, np.ones(len(flat)), rcond=None)[0], rtol=1e-4)
    assert Moments().imitation(1e-2) is None
    only = Moments(only=np.array([True, False, True, False]))
    only.add(Rows(x[0][None], x[0][None, :, :1], 0))
    part = only.imitation(1e-2)
    assert part is not None
    assert part[0, [1, 3]].tolist() == [0, 0]
    assert part[0, [0, 2]].all()


def test_groups_count_by_their_biases() -> None:
    assert weight_groups(np.array([0.2, 0.8]), np.array([1.0, 1.0, 2.0, 0.0])) == pytest.approx((2 * 0.2 + 4 * 0.8) / 6)
    assert weight_groups(np.array([0.2, 0.8]), np.zeros(4)) == pytest.approx(0.5)


def test_channels_far_from_zero_keep_their_deviation() -> None:
    y = 1e6 + np.random.default_rng(0).standard_normal((1, 3000, 2)) * np.array([1.0, 0.25])
    made = Moments()
    made.add(Rows(np.ones((1, 3000, 1)), y, 0))
    np.testing.assert_allclose(made.channels.deviation[0], y[0].std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(made.channels.mean[0], y[0].mean(axis=0))
    np.testing.assert_array_equal(made.channels.low[0], y[0].min(axis=0))
    np.testing.assert_array_equal(made.channels.high[0], y[0].max(axis=0))


def test_residual_is_the_mean_square_of_what_is_left() -> None:
    rng = np.random.default_rng(3)
    x, v = rng.standard_normal((300, 4)) + 1, rng.standard_normal(4)
    second, mean = (x.T @ x / 300)[None], x.mean(axis=0)[None]
    assert measure_residual(v[None], second, mean)[0] == pytest.approx(((1 - x @ v) ** 2).mean())
