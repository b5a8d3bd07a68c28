"""The closed form against plain least squares, in its three ways."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from converter.ablate.compensate import choose_method, output_residual, solve
from converter.ablate.im2col import Rows
from converter.errors import DataError

G, P, N, OUT = 2, 400, 6, 3


@pytest.fixture
def layer() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    x = np.abs(rng.standard_normal((G, P, N))) + 0.2
    weight = rng.standard_normal((G, OUT, N))
    y = x @ weight.swapaxes(1, 2) + rng.standard_normal((G, 1, OUT))
    return x, weight, y


def patches(x: np.ndarray, y: np.ndarray) -> Iterator[Rows]:
    for k in range(0, x.shape[1], 50):
        yield Rows(x[:, k : k + 50], y[:, k : k + 50], k)


def by_least_squares(x: np.ndarray, weight: np.ndarray, y: np.ndarray, ridge: float, group: int) -> np.ndarray:
    """Ridge regression as ordinary least squares with n further rows."""
    part = x[group]
    load = np.sqrt(ridge * (part**2).sum() / N)
    wide = np.concatenate([part, load * np.eye(N)])
    target = np.concatenate([y[group] - part @ weight[group].T, np.zeros((N, OUT))])
    return np.linalg.lstsq(wide, target, rcond=None)[0]


@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0])
def test_dense_is_ridge_regression_of_what_is_missing(layer, ridge: float) -> None:
    x, weight, y = layer
    found = solve(lambda: patches(x, y), weight, "dense", ridge)
    for g in range(G):
        np.testing.assert_allclose(found.delta[g], by_least_squares(x, weight, y, ridge, g), atol=1e-9)
    after = output_residual(Rows(x, y, 0), weight + found.delta.swapaxes(1, 2))
    before = output_residual(Rows(x, y, 0), weight)
    assert found.left == pytest.approx((after**2).sum() / (before**2).sum(), rel=1e-9)
    assert (found.method, found.positions) == ("dense", P)


def test_conjugate_gradients_arrive_where_the_dense_solver_does(layer) -> None:
    x, weight, y = layer
    dense = solve(lambda: patches(x, y), weight, "dense")
    steps = solve(lambda: patches(x, y), weight, "cg")
    np.testing.assert_allclose(steps.delta, dense.delta, atol=0.02 * np.abs(dense.delta).max())
    assert steps.left == pytest.approx(dense.left, rel=1e-3)
    assert 1 < steps.steps <= 3 * N


def test_the_centre_moves_nothing_else(layer) -> None:
    x, weight, y = layer
    taps = np.array([False, True, False, False, True, False])
    found = solve(lambda: patches(x, y), weight, "centre", taps=taps)
    assert not found.delta[:, ~taps].any()
    alone = solve(lambda: patches(x[:, :, taps], y - x @ weight.swapaxes(1, 2)), np.zeros((G, OUT, 2)), "dense")
    np.testing.assert_allclose(found.delta[:, taps], alone.delta, atol=1e-12)
    assert dense_left(layer) < found.left < 1


def dense_left(layer) -> float:
    x, weight, y = layer
    return solve(lambda: patches(x, y), weight, "dense").left


@pytest.mark.parametrize("method", ["dense", "cg"])
def test_where_nothing_is_missing_nothing_changes(layer, method: str) -> None:
    """The obvious closed form would shrink the weight itself; this one does not."""
    x, weight, _ = layer
    found = solve(lambda: patches(x, x @ weight.swapaxes(1, 2)), weight, method, ridge=10.0)
    assert np.abs(found.delta).max() < 1e-12


@pytest.mark.parametrize("method", ["dense", "cg"])
def test_inputs_that_are_all_zero_take_nothing_over(layer, method: str) -> None:
    _, weight, y = layer
    found = solve(lambda: patches(np.zeros((G, P, N)), y), weight, method)
    assert not found.delta.any()
    assert found.left == 1.0


@pytest.mark.parametrize("method", ["dense", "cg"])
def test_no_data_and_no_numbers_are_errors(layer, method: str) -> None:
    x, weight, y = layer
    with pytest.raises(DataError, match="no data to calibrate"):
        solve(lambda: iter(()), weight, method)
    with pytest.raises(DataError, match="not finite"):
        solve(lambda: patches(x, y * np.inf), weight, method)


def test_the_way_is_chosen_by_size_and_memory() -> None:
    assert choose_method(2048, 1) == "dense"
    assert choose_method(2049, 1) == "cg"
    assert choose_method(2049, 1, centre=True) == "centre"
    assert choose_method(100, 1, max_bytes=3 * 8 * 100 * 100 - 1) == "cg"
    assert choose_method(100, 4, max_bytes=3 * 8 * 4 * 100 * 100) == "dense"
