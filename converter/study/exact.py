"""What needs no training: how replaceable a bias is, where it is dead, and the bias as a constant channel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from converter.study.compensate import patches, replaceability
from converter.study.data import INPUTS, Array, Images

Row = dict[str, Any]
SIZES = (1, 4, 16, 64, 256, 1024)
CORRELATIONS = (0.0, 0.2, 0.8)
_DRAWS = 20_000  # of the input of a layer
_FIRST = 1_000  # images at most that r of the first layer is measured on
_ROUNDING = 1e-13  # what is less is not told apart: it may change with the processor
DEAD = 1e-12  # relative change in float64 up to which it is rounding


def replaceability_rows(key: int) -> list[Row]:
    """r of n inputs max(0, z), z standard normal with correlation rho between any two: measured, and by formula."""
    common, own = _normal(1, [key, 6]), _normal(max(SIZES), [key, 7])
    rows = []
    for rho in CORRELATIONS:
        x = np.maximum(math.sqrt(rho) * common + math.sqrt(1 - rho) * own, 0)
        second, mean = (x.T @ x / len(x)).astype(np.float64), x.mean(0, dtype=np.float64)
        for n in SIZES:
            q = 1 / (1 - float(mean[:n] @ np.linalg.solve(second[:n, :n], mean[:n]))) - 1
            q *= (_DRAWS - n - 2) / (_DRAWS - 1)  # an inverse of so few draws is too large (inverse Wishart)
            rows.append({"rho": rho, "n": n, "measured": 1 / (1 + q), "theory": r_theory(n, rho)})
    return rows


def _normal(columns: int, key: list[int]) -> Array:
    """Standard normal draws [draws, columns], each column spread evenly over the quantiles and shuffled."""
    from scipy.special import ndtri

    even = ndtri((np.arange(_DRAWS) + 0.5) / _DRAWS).astype(np.float32)
    return np.random.default_rng(key).permuted(np.tile(even, (columns, 1)), axis=1).T


def r_theory(n: int, rho: float) -> float:
    """1 / (1 + q), q = mu' Sigma^-1 mu, for n rectified standard normals with correlation rho.

    Their mean is 1/sqrt(2 pi), their variance 1/2 - 1/(2 pi); the covariance of two of them is the arc-cosine kernel
    of order 1 (Cho & Saul 2009) less the squared mean. The eigenvalue of the constant vector decides.
    """
    mean2 = 1 / (2 * math.pi)
    variance = 0.5 - mean2
    product = (math.sqrt(1 - rho * rho) + rho * (math.pi - math.acos(rho))) / (2 * math.pi)
    return 1 / (1 + n * mean2 / (variance + (n - 1) * (product - mean2)))


def first_layer_rows(images: Images, seed: int, key: int) -> list[Row]:
    """r of the first layer on real images, for every input variant: dense, and 3 x 3 with zero padding."""
    split = images.split(seed, key)
    rows = []
    for kind in INPUTS:
        scale, offset = images.scaling(split, kind)
        x = torch.as_tensor(images.x[split.train[:_FIRST]] * scale - offset, dtype=torch.float64)
        rows.append({"layer": "dense", "input": kind, "r": replaceability(x.flatten(1)), "empty": _empty(x.flatten(1))})
        met = patches(x)
        rows.append({"layer": "conv", "input": kind, "r": replaceability(met), "empty": _empty(met)})
    return rows


def _empty(rows: Tensor) -> float:
    """Share of inputs that are all zero: no bias-free function can imitate a constant there."""
    return float((rows == 0).all(1).double().mean())


def _batch(x: Tensor) -> Tensor:
    return functional.batch_norm(x, None, None, training=True)


def _rms(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean((1, 2, 3), keepdim=True) + 1e-5)


def _layer(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[1:])


def _followers(weight: Tensor, skip: Tensor) -> dict[str, tuple[bool, Callable[[Tensor], Tensor]]]:
    """What may follow a convolution, and whether its bias is dead there."""
    return {
        "batch norm": (True, _batch),
        "instance norm": (True, functional.instance_norm),
        "group norm, one channel a group": (True, lambda x: functional.group_norm(x, x.shape[1])),
        "max pooling, batch norm": (True, lambda x: _batch(functional.max_pool2d(x, 2, padding=1))),
        "3 x 3 unpadded, batch norm": (True, lambda x: _batch(functional.conv2d(x, weight))),
        "residual addition, batch norm": (True, lambda x: _batch(x + skip)),
        "layer norm": (False, _layer),
        "group norm, 2 groups": (False, lambda x: functional.group_norm(x, 2)),
        "RMS norm": (False, _rms),
        "ReLU, batch norm": (False, lambda x: _batch(torch.relu(x))),
        "3 x 3 zero-padded, batch norm": (False, lambda x: _batch(functional.conv2d(x, weight, padding=1))),
        "nothing": (False, lambda x: x),
    }


def _told(error: Tensor) -> float:
    return max(float(error), _ROUNDING)


def dead_rows(key: int) -> list[Row]:
    """In float64 and training mode: by how much the output changes, relatively, with a random bias added."""
    draw = torch.Generator().manual_seed(key)
    x = torch.randn(16, 6, 8, 8, generator=draw, dtype=torch.float64)
    bias = torch.randn(6, generator=draw, dtype=torch.float64)[:, None, None]
    weight = torch.randn(6, 6, 3, 3, generator=draw, dtype=torch.float64)
    skip = torch.randn(x.shape, generator=draw, dtype=torch.float64)
    rows = []
    for name, (dead, follow) in _followers(weight, skip).items():
        before, after = follow(x), follow(x + bias)
        rows.append(
            {"followed_by": name, "expected_dead": dead, "change": _told((after - before).norm() / before.norm())}
        )
    return rows


def constant_channel_rows(key: int) -> list[Row]:
    """A bias as the weight of one more channel that is always 1: what differs, inside and at the border."""
    draw = torch.Generator().manual_seed(key + 1)
    x = torch.randn(4, 3, 8, 8, generator=draw, dtype=torch.float64)
    weight, bias = (
        torch.randn(5, 3, 3, 3, generator=draw, dtype=torch.float64),
        torch.randn(5, generator=draw, dtype=torch.float64),
    )
    more = torch.cat([weight, torch.zeros(5, 1, 3, 3, dtype=torch.float64)], dim=1)
    more[:, 3, 1, 1] = bias
    spread = torch.cat([weight, (bias / 9)[:, None, None, None].expand(5, 1, 3, 3)], dim=1)
    ones = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    rows = []
    for padding in (0, 1):
        wanted = functional.conv2d(x, weight, bias, padding=padding)
        for name, kernel in (("centre", more), ("spread over the kernel", spread)):
            error = (functional.conv2d(ones, kernel, padding=padding) - wanted).abs()
            inner = error[..., 1:-1, 1:-1] if padding else error
            rows.append({
                "padding": padding,
                "weight": name,
                "inside": _told(inner.max()),
                "border": _told(error.max()) if padding else 0.0,
            })  # fmt: skip
    return rows


def update_rows(key: int) -> list[Row]:
    """Is the step of a bias its delta times the rate? For each optimiser the relative error of that sentence."""
    rows = []
    for name in ("SGD", "SGD with momentum", "Adam"):
        draw = torch.Generator().manual_seed(key + 2)
        x, target = (torch.randn(8, c, 6, 6, generator=draw, dtype=torch.float64) for c in (3, 4))
        conv = torch.nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
        for value in conv.parameters():
            torch.nn.init.normal_(value, generator=draw)
        momentum = 0.9 if "momentum" in name else 0.0
        made: torch.optim.Optimizer = (
            torch.optim.Adam(conv.parameters(), 0.1)
            if name == "Adam"
            else torch.optim.SGD(conv.parameters(), 0.1, momentum=momentum)
        )
        error = 0.0
        for _ in range(3):
            error = max(error, _step_error(conv, made, x, target))
        rows.append({"optimiser": name, "error": max(error, _ROUNDING)})
    return rows


def _step_error(conv: torch.nn.Conv2d, made: torch.optim.Optimizer, x: Tensor, target: Tensor) -> float:
    assert conv.bias is not None
    before = conv.bias.detach().clone()
    y = conv(x)
    delta = (2 * (y - target) / y.numel()).detach()
    made.zero_grad()
    torch.autograd.backward(((y - target) ** 2).mean())
    made.step()
    said = -0.1 * delta.sum((0, 2, 3))  # over the batch and over every place of the image
    return float((conv.bias.detach() - before - said).norm() / said.norm())
