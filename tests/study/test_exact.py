"""What needs no training comes out as theory says, and the tables of the science are met to two digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from converter.study import claims, jobs, nets
from converter.study.data import load_digits
from converter.study.nets import Nets, Shape
from tests.study import made

pytestmark = pytest.mark.slow

# r of n rectified normal inputs at n = 1, 4, 16, 64, 256, 1024
TABLE = {
    0.0: (0.68, 0.35, 0.12, 0.032, 0.0083, 0.0021),
    0.2: (0.68, 0.44, 0.31, 0.27, 0.25, 0.25),
    0.8: (0.68, 0.63, 0.62, 0.62, 0.62, 0.62),
}


@pytest.fixture(scope="module")
def drawn() -> list[dict]:
    return jobs.measure_replaceability_rows(0)


def test_formula_of_r_to_two_digits() -> None:
    for rho, row in TABLE.items():
        for n, r in zip(jobs.SIZES, row, strict=True):
            assert float(f"{jobs.theoretical_r(n, rho):.2g}") == r


def test_drawn_r_is_the_formula(drawn: list[dict]) -> None:
    for row in drawn:
        assert row["measured"] == pytest.approx(row["theory"], rel=0.02), row


def test_covariance_of_rectified_normals_behind_the_formula() -> None:
    rng = np.random.default_rng(0)
    z = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 400_000).clip(0)
    s = z.T @ z / len(z)
    m = z.mean(0)
    assert 1 - m @ np.linalg.solve(s, m) == pytest.approx(jobs.theoretical_r(2, 0.8), rel=0.01)


def test_first_layer_on_digits() -> None:
    r = {(row["layer"], row["input"]): row["r"] for row in jobs.measure_first_layer(load_digits(), 0, 0)}
    assert r["dense", "raw"] == pytest.approx(0.010, abs=0.002)
    assert r["dense", "centred"] < 1e-6  # pixels that are always background make a perfect bias
    assert r["dense", "pixel"] == pytest.approx(1, abs=1e-6)
    assert r["conv", "raw"] == pytest.approx(0.357, abs=0.01)
    assert r["conv", "centred"] == pytest.approx(0.93, abs=0.01)


def test_r_is_at_least_the_share_of_empty_inputs() -> None:
    for row in jobs.measure_first_layer(made.few_images(), 0, 0):
        assert row["r"] >= row["empty"] - 1e-9


def test_dead_where_it_should_be_and_nowhere_else() -> None:
    for row in jobs.measure_dead(0):
        assert (row["change"] <= claims.DEAD) == row["expected_dead"], row


def test_constant_channel_is_a_bias_but_at_padded_borders() -> None:
    rows = {(row["padding"], row["weight"]): row for row in jobs.measure_constant_channel(0)}
    assert max(row["inside"] for row in rows.values()) < 1e-12
    assert rows[1, "centre"]["border"] < 1e-12
    assert rows[1, "spread over the kernel"]["border"] > 0.1


def test_the_step_is_delta_times_rate_for_plain_sgd_alone() -> None:
    error = {row["optimiser"]: row["error"] for row in jobs.measure_update(0)}
    assert error["SGD"] < 1e-12
    assert error["SGD with momentum"] > 0.1
    assert error["Adam"] > 0.1


def test_replaceability_is_one_over_one_plus_q() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.4, 1, (5_000, 3)) @ rng.normal(size=(3, 3)) + 0.2
    q = x.mean(0) @ np.linalg.solve(np.cov(x.T, bias=True), x.mean(0))
    assert nets.measure_replaceability(torch.as_tensor(x)) == pytest.approx(1 / (1 + q))


def trained(norm: str = "batch") -> tuple[Nets, torch.Tensor, nets.SingleNet]:
    """A net with running statistics and biases, images, and the same net by itself."""
    stack, feed = made.stack([made.Arm(0), made.Arm(1)], norm=norm, steps=12, width=6)
    x, _ = feed(np.arange(120)[None].repeat(2, 0))
    return stack, x, nets.unstack(stack, 1)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_net_taken_out_of_the_stack_says_the_same(norm: str) -> None:
    stack, x, net = trained(norm)
    with torch.no_grad():
        torch.testing.assert_close(net.logits(x[:, 1:2]), stack.forward(x)[1], rtol=1e-9, atol=1e-9)


def test_compensation_leaves_no_bias_and_less_error_the_better_it_is() -> None:
    _, x, net = trained()
    x = x[:, 1:2]
    error = {}
    for method in nets.METHODS:
        with torch.no_grad():
            changed = nets.remove_biases(net, x, method)
        if method != "original":
            assert all((b == 0).all() for _, b in changed.convs)
        error[method] = float((changed.logits(x) - net.logits(x)).norm().detach())
    assert error["original"] == 0
    assert error["sequential"] < error["independent"] < error["zero"]
    assert error["head"] < error["zero"]


def test_ridge_is_on_the_change_and_shrinks_no_weight() -> None:
    """Without biases there is nothing to make up for: the weights stay, whatever the ridge."""
    _, x, net = trained()
    bare = nets.remove_biases(net, x[:, 1:2], "zero")
    with torch.no_grad():
        again = nets.remove_biases(bare, x[:, 1:2], "sequential")
    for (before, _), (after, _) in zip(bare.convs, again.convs, strict=True):
        torch.testing.assert_close(before, after)


def test_patches_are_what_a_convolution_meets() -> None:
    x, w = torch.randn(2, 3, 5, 5, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    by_hand = (nets.extract_patches(x) @ w.flatten(1).T).view(2, 25, 4).transpose(1, 2).reshape(2, 4, 5, 5)
    torch.testing.assert_close(by_hand, torch.nn.functional.conv2d(x, w, padding=1))


def test_parameters_of_a_net() -> None:
    from converter.study.plan import count_parameters

    nets = Nets(Shape(4, 2, "none", 1, 8, 10), [(0, 0, 0)], ["all"])
    assert sum(nets.sizes) == count_parameters(4, (1, 8, 8), 10, biases=True)
    assert count_parameters(4, (1, 8, 8), 10, biases=False) == sum(nets.sizes) - 8
