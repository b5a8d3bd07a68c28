"""Two tasks of their own: the forget gate, LSTMs that must still know what the first one was; and dense nets on points.

M LSTMs are stacked by batched products. Gates are in torch's order: input, forget, cell, output. There is one bias
vector, not torch's two whose sum is what counts.

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

from converter.dataclass import dataclass
from converter.study.plan import BATCH, Job, start_of
from converter.study.training import Arm, Stopped

HIDDEN, SEQUENCES, RATE, CLIP = 32, 32, 5e-3, 1.0
TESTED = 400  # sequences
SOLVED = 95.0  # per cent


@dataclass(frozen=True, slots=True)
class RecallResult:
    """Accuracy in per cent at every check, [checks, M], and after how many steps the checks were."""

    steps: tuple[int, ...]
    accuracy: np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class LstmStack:
    """M LSTMs with a linear head on the last hidden state."""

    def __init__(self, seeds: Sequence[Sequence[int]], arms: Sequence[str], lag: int, device: str) -> None:
        drawn = [_draw_weights(seed, arm, lag) for seed, arm in zip(seeds, arms, strict=True)]
        make: dict[str, Any] = {"dtype": torch.float32, "device": device}
        self.values = [torch.as_tensor(np.stack(part), **make).requires_grad_() for part in zip(*drawn, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits [M, B, 2] of sequences [M, B, T]: the first entry comes in by one input, the others by another."""
        inputs, recurrent, bias, head, head_bias = self.values
        count, batch, lag = x.shape
        h = c = torch.zeros(count, batch, HIDDEN, device=x.device)
        bias = bias[:, None]
        for t in range(lag):
            entering = x[:, :, t, None] * inputs[:, None, min(t, 1)]
            gates = torch.baddbmm(bias + entering, h, recurrent)
            i, f, o = torch.sigmoid(gates[..., : 3 * HIDDEN]).chunk(3, dim=2)
            c = f * c + i * torch.tanh(gates[..., 3 * HIDDEN :])
            h = o * torch.tanh(c)
        return torch.baddbmm(head_bias[:, None], h, head)


def _draw_weights(seed: Sequence[int], arm: str, lag: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Weights from U(-1/sqrt(H), 1/sqrt(H)), biases 0 but for the forget gate. Here the gates are i, f, o, cell.

    torch has two bias vectors, each drawn like the weights: what counts is their sum. ln(T - 1) is the largest start
    that Tallec & Ollivier (arXiv 1804.11188) give to a lag of T.
    """
    rng = np.random.default_rng(list(seed))
    reach = 1 / math.sqrt(HIDDEN)
    inputs = rng.uniform(-reach, reach, (2, 4 * HIDDEN))
    recurrent = rng.uniform(-reach, reach, (HIDDEN, 4 * HIDDEN))
    head = rng.uniform(-reach, reach, (HIDDEN, 2))
    small, bias = rng.uniform(-reach, reach, (2, 4 * HIDDEN)).sum(0), np.zeros(4 * HIDDEN)
    if arm == "torch":
        bias = small
    else:
        bias[HIDDEN : 2 * HIDDEN] = start_of(arm, lag)
    return [inputs, recurrent, bias, head, np.zeros(2)]


def train_lstms(
    seeds: Sequence[int],
    arms: Sequence[str],
    *,
    key: int,
    lag: int,
    steps: int,
    check: int,
    device: str = "cpu",
    stop: threading.Event | None = None,
    only: int | None = None,
) -> RecallResult:
    """Train a stack; ``seeds`` and ``arms`` name each LSTM, equal seeds have equal weights and sequences."""
    cells = LstmStack([(seed, key, 3) for seed in seeds], arms, lag, device)
    draws = {seed: np.random.default_rng([seed, key, 4]) for seed in seeds}
    test = _draw_sequences(seeds, {seed: np.random.default_rng([seed, key, 5]) for seed in seeds}, TESTED, lag, device)
    adam = torch.optim.Adam(cells.values, lr=RATE)
    done: list[int] = []
    found = []
    for step in range(1, (steps if only is None else min(only, steps)) + 1):
        if stop is not None and stop.is_set():
            raise Stopped
        x = _draw_sequences(seeds, draws, SEQUENCES, lag, device)
        _train_step(cells, adam, x)
        if step % check == 0:
            done.append(step)
            found.append(_measure_accuracy(cells, test))
    return RecallResult(tuple(done), np.array(found))


def _draw_sequences(
    seeds: Sequence[int], draws: dict[int, np.random.Generator], count: int, lag: int, device: str
) -> Tensor:
    """Coins +-1, [M, count, T]; the first is to be recalled, the others distract."""
    drawn = {seed: 2.0 * rng.integers(0, 2, (count, lag)) - 1 for seed, rng in draws.items()}
    return torch.as_tensor(np.stack([drawn[s] for s in seeds]), dtype=torch.float32, device=device)


def _train_step(cells: LstmStack, adam: torch.optim.Adam, x: Tensor) -> None:
    answer = (x[:, :, 0] > 0).long()
    loss = functional.cross_entropy(cells.forward(x).flatten(0, 1), answer.flatten(), reduction="sum") / x.shape[1]
    adam.zero_grad()
    torch.autograd.backward(loss)
    with torch.no_grad():  # each model's gradient is clipped by its own norm
        gradients = [value.grad for value in cells.values if value.grad is not None]
        norms = torch.sqrt(sum((g.flatten(1) ** 2).sum(1) for g in gradients))  # type: ignore[arg-type]
        factor = (CLIP / (norms + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factor.view(-1, *[1] * (g.dim() - 1)))
    adam.step()


@torch.no_grad()
def _measure_accuracy(cells: LstmStack, x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    answer = (x[:, :, 0] > 0).long()
    right = (cells.forward(x).argmax(2) == answer).double().mean(1) * 100
    return np.asarray(right.cpu().numpy(), dtype=np.float64)


def find_solved(steps: Sequence[int], accuracy: Sequence[float]) -> int | None:
    """The first check from which on the task stayed solved; None if it never was at the end."""
    solved = None
    for step, value in zip(reversed(steps), reversed(accuracy), strict=True):
        if value <= SOLVED:
            break
        solved = step
    return solved


TASKS = ("threshold", "xor", "rings")
TESTED_POINTS = 2_000  # points
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
        drawn = [_draw_layers(np.random.default_rng([arm.seed, key, 9]), width, size) for arm in arms]
        make: dict[str, Any] = {"dtype": torch.float32, "device": device}
        self.values = [torch.as_tensor(np.stack(part), **make).requires_grad_() for part in zip(*drawn, strict=True)]
        self.inner = torch.tensor([float(arm.bias == "all") for arm in arms], **make)[:, None, None]
        self.outer = torch.tensor([float(arm.bias != "none") for arm in arms], **make)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        first, bias, head, head_bias = self.values
        hidden = torch.relu(torch.baddbmm(bias[:, None] * self.inner, x, first))
        return torch.baddbmm(head_bias[:, None] * self.outer, hidden, head)


def _draw_layers(rng: np.random.Generator, width: int, size: int) -> list[Array]:
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
    x, y = _stack_points(job.task, TESTED_POINTS, arms, tests, device)
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
