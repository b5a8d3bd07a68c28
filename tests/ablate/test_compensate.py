"""Compensation end to end: the three solvers, order, and what a deadline does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter.ablate.compensate import FitOptions, compensate
from converter.ablate.measure import measure_effects
from models import zoo
from tests.ablate.made import chain, data_of, draw, images, net_of
from tests.tiny import model

MODELS = Path(__file__).parents[2] / "models"


@pytest.mark.parametrize(
    ("how", "method", "least"),
    [
        (FitOptions(), "dense", 0.98),
        (FitOptions(dense_most=8), "cg", 0.98),
        (FitOptions(dense_most=8, max_bytes=10), "centre", 0.9),
    ],
)
def test_every_solver_beats_zeroing(how: FitOptions, method: str, least: float) -> None:
    net, _ = net_of(MODELS / "digits_cnn_bn.onnx")
    train, _ = zoo.digits()
    image, labels = train.images, train.labels
    data = data_of(net.source, {"image": image[:900]}, labels[:900])
    sites = net.sites[1:3]
    done = compensate(net, sites, data.part(np.arange(300)), how)
    assert done is not None
    assert [f.method for f in done.fits] == [method, method]
    zero = dict(net.original)
    for site in sites:
        zero |= net.without(site)
    found, _ = measure_effects(net, {"a": done.state, "z": zero}, data.part(np.arange(300, 900)), "out", decides=True)
    assert found["z"].agreement < 0.8 < least < found["a"].agreement


def test_each_layer_is_fitted_on_the_model_as_changed_so_far() -> None:
    """By hand: the second fit sees what the first one left."""
    text = "(float[N,5] x) => (float[N,3] z) { a = Gemm(x, w, b)  r = Relu(a)  c = Gemm(r, v, d)  z = Gemm(c, o, e) }"
    consts = {"w": draw(5, 7), "b": draw(7), "v": draw(7, 6), "d": draw(6), "o": draw(6, 3), "e": draw(3)}
    net, _ = net_of(model(text, consts))
    x = np.abs(draw(200, 5, seed=3))
    done = compensate(net, net.sites[:2], data_of(net.source, {"x": x}).all(), FitOptions())
    assert done is not None
    w, b, v, d = (consts[k].astype(np.float64) for k in "wbvd")
    first = ridge(x, x @ w + b - x @ w)
    seen = np.maximum(x @ (w + first), 0)
    second = ridge(seen, np.maximum(x @ w + b, 0) @ v + d - seen @ v)
    np.testing.assert_allclose(done.fits[0].weight, w + first, atol=1e-5)
    np.testing.assert_allclose(done.fits[1].weight, v + second, atol=1e-5)
    # which is not what fitting each alone would give
    alone = compensate(net, net.sites[1:2], data_of(net.source, {"x": x}).all(), FitOptions())
    assert alone is not None
    assert np.abs(alone.fits[0].weight - done.fits[1].weight).max() > 0.01


def ridge(x: np.ndarray, missing: np.ndarray) -> np.ndarray:
    second = x.T @ x / len(x)
    load = 1e-2 * np.trace(second) / len(second) * np.eye(len(second))
    return np.linalg.solve(second + load, x.T @ missing / len(x))


def test_a_deadline_leaves_nothing_half_done() -> None:
    net, _ = net_of(chain())
    data = data_of(net.source, {"x": images(32)}).all()
    assert compensate(net, net.sites[1:3], data, FitOptions(), deadline=0.0) is None
