"""All nets of a stack trained at once: the sum of their losses gives each its own gradient."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from converter.dataclass import dataclass
from converter.study.data import Array, Images, Split
from converter.study.nets import Nets

_B1, _B2, _EPS = 0.9, 0.999, 1e-8  # Kingma & Ba (arXiv 1412.6980)
_MOMENTUM = 0.9
_EVALUATED = 300  # images of 8 x 8 at once in evaluation, fewer of larger ones


class Stopped(Exception):
    """The run was interrupted."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What one net of a stack is: the seed of its split, weights and batches, and what it is given."""

    seed: int
    bias: str = "all"
    input: str = "raw"
    decay: float = 0.0
    rate: float = 1e-2
    filters: str = "free"


class Feed:
    """The images of a stack: each model's own split, order of batches and scaling."""

    def __init__(
        self, images: Images, arms: Sequence[Arm], splits: Sequence[Split], *, dtype: torch.dtype, device: str
    ) -> None:
        self._x = torch.as_tensor(images.x, dtype=dtype, device=device)
        self._y = torch.as_tensor(images.y, device=device)  # [N]
        scaling = [images.scaling(split, arm.input) for arm, split in zip(arms, splits, strict=True)]
        make: dict[str, Any] = {"dtype": dtype, "device": device}
        self._scale = torch.tensor([scale for scale, _ in scaling], **make)[:, None, None, None, None]
        self._offset = torch.as_tensor(np.stack([offset for _, offset in scaling]), **make)[:, None]

    def labels(self, index: Array) -> Tensor:
        """Labels [M, B] of an index [M, B]."""
        return self._y[torch.as_tensor(index, device=self._y.device)]

    def __call__(self, index: Array) -> tuple[Tensor, Tensor]:
        """Images [B, M * C, H, W] and labels [M, B] of an index [M, B]."""
        at = torch.as_tensor(index, device=self._x.device)
        x = self._x[at] * self._scale - self._offset
        return x.transpose(0, 1).flatten(1, 2), self._y[at]


def draw_batches(arms: Sequence[Arm], splits: Sequence[Split], size: int, steps: int, key: int) -> Iterator[Array]:
    """Indices [M, B] of each step; equal seeds, equal order."""
    orders = {arm.seed: np.random.default_rng([arm.seed, key, 2]) for arm in arms}
    train = {arm.seed: split.train for arm, split in zip(arms, splits, strict=True)}
    per_epoch = max(1, min(map(len, train.values())) // size)
    for step in range(steps):
        if step % per_epoch == 0:
            epoch = {seed: rng.permutation(train[seed]) for seed, rng in orders.items()}
        part = slice(step % per_epoch * size, (step % per_epoch + 1) * size)
        yield np.stack([epoch[arm.seed][part] for arm in arms])


def make_adam(nets: Nets, rates: Tensor, decays: Tensor) -> Callable[[Tensor, float], None]:
    """Adam with a rate and a weight decay per model; the decay is decoupled from the gradient (arXiv 1711.05101).

    Each step takes ``rate * schedule * decay`` of a parameter away.
    """
    rate, decay = nets.spread(rates), nets.spread(decays)
    first, second, step = torch.zeros_like(nets.flat), torch.zeros_like(nets.flat), 0

    def update(gradient: Tensor, schedule: float) -> None:
        nonlocal step
        step += 1
        nets.flat.mul_(1 - schedule * rate * decay)
        first.mul_(_B1).add_(gradient, alpha=1 - _B1)
        second.mul_(_B2).addcmul_(gradient, gradient, value=1 - _B2)
        scaled = (second / (1 - _B2**step)).sqrt_().add_(_EPS)
        nets.flat.sub_(rate * (schedule / (1 - _B1**step)) * first / scaled)

    return update


def make_sgd(nets: Nets, rates: Tensor, decays: Tensor) -> Callable[[Tensor, float], None]:
    """Gradient descent with momentum."""
    rate, decay, moving = nets.spread(rates), nets.spread(decays), torch.zeros_like(nets.flat)

    def update(gradient: Tensor, schedule: float) -> None:
        moving.mul_(_MOMENTUM).add_(gradient.addcmul(nets.flat, decay))
        nets.flat.sub_(rate * schedule * moving)

    return update


def train(
    nets: Nets,
    feed: Feed,
    order: Iterator[Array],
    update: Callable[[Tensor, float], None],
    steps: int,
    stop: threading.Event | None = None,
    only: int | None = None,
) -> list[Tensor]:
    """Train with a rate that falls to 0 along a cosine.

    Parameters
    ----------
    steps : int
        Of the schedule.
    only : int, optional
        Steps to do of these, to see how long they take.

    Returns
    -------
    list of Tensor
        The gradients of the last step, in the order of `Nets.leaves`.
    """
    gradients: list[Tensor] = []
    for step, index in enumerate(order):
        if stop is not None and stop.is_set():
            raise Stopped
        if step == (steps if only is None else min(only, steps)):
            break
        x, y = feed(index)
        logits = nets.forward(x, training=True)
        loss = functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum") / y.shape[1]
        gradients = list(torch.autograd.grad(loss, nets.leaves()))
        with torch.no_grad():
            update(torch.cat([g.reshape(-1) for g in gradients]), 0.5 * (1 + math.cos(math.pi * step / steps)))
    return gradients


@torch.no_grad()
def compute_logits(nets: Nets, feed: Feed, index: Array) -> Tensor:
    """Logits [M, N, classes] in evaluation mode."""
    most = max(16, _EVALUATED * 64 // nets.shape.size**2)
    parts = [index[:, k : k + most] for k in range(0, index.shape[1], most)]
    return torch.cat([nets.forward(feed(part)[0]) for part in parts], dim=1)


@torch.no_grad()
def evaluate(nets: Nets, feed: Feed, index: Array) -> tuple[Array, Array]:
    """Accuracy in per cent and mean cross entropy of each model: [M], [M]."""
    found = compute_logits(nets, feed, index).double()
    y = feed.labels(index)
    right = (found.argmax(2) == y).double().mean(1) * 100
    loss = functional.cross_entropy(found.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)
    return right.cpu().numpy(), loss.cpu().numpy()
