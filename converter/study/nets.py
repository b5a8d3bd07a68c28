"""M convolutional nets as one: images side by side as channels, convolutions in M groups.

Every normalisation here is that of each net alone, running statistics included: batch and instance norm work per
channel, and group norm gets M times as many groups. Arms differ by masks, not by shape. (`torch.func.vmap` would stack
nets too, but cannot update running statistics.)

Parameters are [M, ...] and views of one flat vector each model's slice of which the optimisers treat on its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

NORMS = ("none", "batch", "instance", "layer", "group")
BIASES = ("all", "head", "none")  # which biases a net has: everywhere, in its head alone, nowhere
_GROUPS = 2  # of group norm
_EPS = 1e-5
_MOMENTUM = 0.1
_POOLED = 2  # layers after which the image is halved


@dataclass(frozen=True, slots=True)
class Shape:
    """What the nets of a stack have in common: ``depth`` 3 x 3 convolutions of ``width`` channels, then a head."""

    width: int
    depth: int
    norm: str
    channels: int
    size: int
    classes: int

    @property
    def features(self) -> int:
        """Inputs of the head."""
        side = self.size
        for _ in range(min(self.depth, _POOLED)):
            side //= 2
        return self.width * side * side


class Nets:
    """M nets of one shape.

    Parameters
    ----------
    seeds : sequence of int
        Of the initial weights of each; equal seeds, equal weights, whatever the biases.
    biases : sequence of str
        Of `BIASES`, for each.
    start : float
        Standard deviation of the initial biases of the convolutions; 0 as usual.
    """

    def __init__(
        self,
        shape: Shape,
        seeds: Sequence[Sequence[int]],
        biases: Sequence[str],
        *,
        start: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        self.shape, self.count = shape, len(seeds)
        drawn = [_drawn(shape, seed, start) for seed in seeds]
        blocks = {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}
        self.sizes = [block[0].size for block in blocks.values()]
        flat = np.concatenate([block.reshape(-1) for block in blocks.values()])
        self.flat = torch.as_tensor(flat, dtype=dtype, device=device)
        self.values: dict[str, Tensor] = {}
        place = 0
        for name, block in blocks.items():
            part = self.flat[place : place + block.size].view(block.shape).detach()
            self.values[name] = part.requires_grad_()
            place += block.size
        make: dict[str, Any] = {"dtype": dtype, "device": device}
        self.conv_mask = torch.tensor([[float(b == "all")] for b in biases], **make)
        self.head_mask = torch.tensor([[float(b != "none")] for b in biases], **make)
        channels = self.count * shape.width
        self.running = [
            (torch.zeros(channels, **make), torch.ones(channels, **make))
            for _ in range(shape.depth if shape.norm == "batch" else 0)
        ]

    def leaves(self) -> list[Tensor]:
        """The parameters, in the order of the flat vector."""
        return list(self.values.values())

    def spread(self, per_model: Tensor) -> Tensor:
        """One value per model [M] as one per parameter [P]."""
        return torch.cat([per_model.repeat_interleave(size) for size in self.sizes])

    def conv_bias(self, layer: int) -> Tensor:
        """Biases [M, w] as they act: zero in nets without."""
        return self.values[f"bias{layer}"] * self.conv_mask

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        """Logits [M, B, classes] of images [B, M * C, H, W]."""
        for layer in range(self.shape.depth):
            weight = self.values[f"conv{layer}"].flatten(0, 1)
            x = functional.conv2d(x, weight, self.conv_bias(layer).flatten(), padding=1, groups=self.count)
            x = torch.relu(self._norm(x, layer, training))
            if layer < _POOLED:
                x = functional.max_pool2d(x, 2)
        features = x.reshape(len(x), self.count, -1).transpose(0, 1)
        bias = (self.values["head_bias"] * self.head_mask)[:, None]
        return torch.baddbmm(bias, features, self.values["head"])

    def _norm(self, x: Tensor, layer: int, training: bool) -> Tensor:
        kind = self.shape.norm
        if kind == "none":
            return x
        gamma, beta = self.values[f"gamma{layer}"].flatten(), self.values[f"beta{layer}"].flatten()
        if kind == "batch":
            mean, var = self.running[layer]
            return functional.batch_norm(x, mean, var, gamma, beta, training, _MOMENTUM, _EPS)
        if kind == "instance":
            return functional.instance_norm(x, weight=gamma, bias=beta, eps=_EPS)
        groups = self.count * (1 if kind == "layer" else _GROUPS)
        return functional.group_norm(x, groups, gamma, beta, _EPS)


def _drawn(
    shape: Shape, seed: Sequence[int], start: float
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Initial parameters of one net: He's for what a ReLU follows (arXiv 1502.01852), biases 0."""
    rng = np.random.default_rng(list(seed))
    w, found, channels = shape.width, {}, shape.channels
    for layer in range(shape.depth):
        found[f"conv{layer}"] = rng.normal(0, math.sqrt(2 / (9 * channels)), (w, channels, 3, 3))
        found[f"bias{layer}"] = start * rng.normal(size=w)
        if shape.norm != "none":
            found[f"gamma{layer}"], found[f"beta{layer}"] = np.ones(w), np.zeros(w)
        channels = w
    found["head"] = rng.normal(0, math.sqrt(1 / shape.features), (shape.features, shape.classes))
    found["head_bias"] = np.zeros(shape.classes)
    return found
