"""The forget gate: LSTMs that must still know, after T steps, what the first one was.

M of them are stacked by batched products. Gates are in torch's order: input, forget, cell, output. There is one bias
vector, not torch's two whose sum is what counts.
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
from converter.study.plan import start_of
from converter.study.training import Stopped

HIDDEN, BATCH, RATE, CLIP = 32, 32, 5e-3, 1.0
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
        x = _draw_sequences(seeds, draws, BATCH, lag, device)
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
