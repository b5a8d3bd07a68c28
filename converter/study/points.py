"""Dense nets on points: tasks so small that the need of a bias can be proved.

A net of linear layers and ReLU without any bias is homogeneous, f(a x) = a f(x) for a > 0: along a ray from the origin
its answer never changes. So no width helps where the answer does change along a ray:

threshold   is one positive number above 1? Every input lies on the same ray, so that half of the answers are wrong.
rings       is a point of the plane inside of a ring? Every ray crosses the ring.
xor         are two noisy bits different? 00 lies at the origin, 11 not: what says "same" at 11 says nothing at 00.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from converter.study.plan import BATCH, Job
from converter.study.training import Arm, Stopped

TASKS = ("threshold", "xor", "rings")
TESTED = 2_000  # points
_NOISE = 0.15  # standard deviation of a bit

Array = np.ndarray[Any, np.dtype[np.float64]]


def draw_points(task: str, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Points [N, 1 or 2] and labels [N], 0 or 1, each as often."""
    if task == "threshold":
        x = np.concatenate([rng.uniform(0, 1, count // 2), rng.uniform(1, 2, count - count // 2)])[:, None]
        return x, (x[:, 0] > 1).astype(np.float64)
    if task == "xor":
        bits = rng.integers(0, 2, (count, 2))
        return bits + _NOISE * rng.normal(size=bits.shape), (bits[:, 0] != bits[:, 1]).astype(np.float64)
    label = np.arange(count) % 2
    radius, angle = 0.5 + label + rng.uniform(0, 0.4, count), rng.uniform(0, 2 * math.pi, count)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), label.astype(np.float64)


class DenseNets:
    """M nets of one hidden layer of ReLU: x [M, B, D] to logits [M, B, 2]."""

    def __init__(self, arms: Sequence[Arm], width: int, size: int, key: int, device: str) -> None:
        drawn = [_draw_weights(np.random.default_rng([arm.seed, key, 9]), width, size) for arm in arms]
        make: dict[str, Any] = {"dtype": torch.float32, "device": device}
        self.values = [torch.as_tensor(np.stack(part), **make).requires_grad_() for part in zip(*drawn, strict=True)]
        self.inner = torch.tensor([float(arm.bias == "all") for arm in arms], **make)[:, None, None]
        self.outer = torch.tensor([float(arm.bias != "none") for arm in arms], **make)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        first, bias, head, head_bias = self.values
        hidden = torch.relu(torch.baddbmm(bias[:, None] * self.inner, x, first))
        return torch.baddbmm(head_bias[:, None] * self.outer, hidden, head)


def _draw_weights(rng: np.random.Generator, width: int, size: int) -> list[Array]:
    """He's for the hidden layer (arXiv 1502.01852); its biases are drawn too, so that units differ in one dimension."""
    first = rng.normal(0, math.sqrt(2 / size), (size, width))
    return [first, rng.normal(0, 0.5, width), rng.normal(0, math.sqrt(1 / width), (width, 2)), np.zeros(2)]


def train_points(job: Job, key: int, device: str, stop: threading.Event, only: int | None) -> list[dict[str, Any]]:
    """Rows of a job: accuracy in per cent of each arm of each seed, on fresh points."""
    arms = [Arm(seed, v.bias, v.input, v.decay, v.rate) for seed in job.seeds for v in job.variants]
    size = 1 if job.task == "threshold" else 2
    nets = DenseNets(arms, job.width, size, key, device)
    adam = torch.optim.Adam(nets.values, lr=arms[0].rate)
    draws = {seed: np.random.default_rng([seed, key, 10]) for seed in job.seeds}
    for step in range(job.steps if only is None else min(only, job.steps)):
        if stop.is_set():
            raise Stopped
        for group in adam.param_groups:
            group["lr"] = 0.5 * arms[0].rate * (1 + math.cos(math.pi * step / job.steps))
        x, y = _stack_points(job.task, BATCH, arms, draws, device)
        loss = functional.cross_entropy(nets.forward(x).flatten(0, 1), y.flatten(), reduction="sum") / BATCH
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
    if only is not None:
        return []
    tests = {seed: np.random.default_rng([seed, key, 11]) for seed in job.seeds}
    x, y = _stack_points(job.task, TESTED, arms, tests, device)
    with torch.no_grad():
        right = (nets.forward(x).argmax(2) == y).double().mean(1) * 100
    common = {"task": job.task, "width": job.width, "steps": job.steps}
    return [
        common | {"seed": arm.seed, "bias": arm.bias, "rate": arm.rate, "accuracy": float(a)}
        for arm, a in zip(arms, right.cpu().numpy(), strict=True)
    ]


def _stack_points(
    task: str, count: int, arms: Sequence[Arm], draws: dict[int, np.random.Generator], device: str
) -> tuple[Tensor, Tensor]:
    """The same points for every arm of a seed: [M, count, D] and labels [M, count]."""
    drawn = {seed: draw_points(task, count, rng) for seed, rng in draws.items()}
    x, y = (np.stack([drawn[arm.seed][k] for arm in arms]) for k in (0, 1))
    return torch.as_tensor(x, dtype=torch.float32, device=device), torch.as_tensor(y, device=device).long()
