"""What a dead bias costs in training: step time with it and without, as a ratio.

``python -m tests.benchmarks.step_time [--device cuda] [--pairs N] [--threads N] [--net NAME]``

Both nets have the same weights and see the same batch. Steps alternate in random order within each pair, so that
a clock that wanders takes both along; the figure is the median of the paired ratios (stripped / original) with a
95 % interval from the sign test. Below 1 the net without biases is faster. An A/A pair (two copies with biases)
says what this machine can resolve.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from converter.torch_models.lint import strip
from converter.torch_models.spec.libraries import need


@dataclass(frozen=True)
class Case:
    """One net and its batch."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


def _trunk() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _separable() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _vgg() -> nn.Module:
    net = need("torchvision.models").vgg16_bn(weights=None, num_classes=10)
    net.classifier = nn.Linear(512 * 7 * 7, 10)  # the features are the question
    return net


CASES = (
    Case("3x3 conv, 64 channels, twice", _trunk, (16, 64, 32, 32)),
    Case("1x1 and depthwise, twice", _separable, (16, 64, 32, 32)),
    Case("vgg16_bn features, 64 pixels", _vgg, (4, 3, 64, 64)),
)


def step(net: nn.Module, x: Tensor) -> float:
    """Seconds of one forward and backward pass and an SGD step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    _wait(x)
    start = time.perf_counter()
    net(x).square().mean().backward()
    optimizer.step()
    _wait(x)
    return time.perf_counter() - start


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def ratios(a: nn.Module, b: nn.Module, x: Tensor, pairs: int) -> list[float]:
    """Paired ratios of step times, b / a, after a warm-up."""
    draw = random.Random(0)
    found = []
    for pair in range(-3, pairs):
        order = [a, b] if draw.random() < 0.5 else [b, a]
        seconds = {id(net): step(net, x) for net in order}
        if pair >= 0:
            found.append(seconds[id(b)] / seconds[id(a)])
    return sorted(found)


def interval(values: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval by the sign test (order statistics)."""
    n = len(values)
    tail = int((n - 1.96 * math.sqrt(n)) / 2)
    return values[max(tail - 1, 0)], values[n // 2], values[min(n - tail, n - 1)]


def main() -> None:
    """Measure and print one row per net."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--net", help="part of a name")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"torch {torch.__version__}, {given.device}, {given.threads} threads, {given.pairs} pairs")
    print("| net | dead | step ms | stripped / original | A/A |\n|---|---|---|---|---|")
    for case in CASES:
        if given.net and given.net not in case.name:
            continue
        torch.manual_seed(0)
        net, x = case.make(), torch.randn(case.shape)
        less = strip(net, x)
        dead = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in less.parameters())
        nets = [n.to(given.device) for n in (net, less, copy.deepcopy(net))]
        x = x.to(given.device)
        low, middle, high = interval(ratios(nets[0], nets[1], x, given.pairs))
        same = interval(ratios(nets[0], nets[2], x, given.pairs))
        ms = 1e3 * sorted(step(nets[0], x) for _ in range(5))[2]
        print(
            f"| {case.name} | {dead:,} | {ms:.1f} | {middle:.3f} [{low:.3f}, {high:.3f}] "
            f"| {same[1]:.3f} [{same[0]:.3f}, {same[2]:.3f}] |",
            flush=True,
        )


if __name__ == "__main__":
    main()
