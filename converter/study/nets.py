"""Biases of a trained net moved into its weights, layer after layer, in float64.

Each layer is asked to give, on what the changed layers before it now hand over, what the original gave:
W' = W + D', D = (S + lambda mean(diag S) I)^-1 E[x (y - W x)'], with S = E[x x'] of the patches x, zero padding
included. The ridge is on the change, so that it shrinks no weight (`biasopt ablate` does the same for ONNX models).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from converter.dataclass import dataclass

NORMS = ("none", "batch", "instance", "layer", "group")
BIASES = ("all", "head", "none")  # which biases a net has: everywhere, in its head alone, nowhere
_GROUPS = 2  # of group norm
_EPS = 1e-5
_MOMENTUM = 0.1
_LARGE = 32  # pixels
FILTERS = ("free", "centred")


@dataclass(frozen=True, slots=True)
class Shape:
    """What the nets of a stack have in common: ``depth`` 3 x 3 convolutions of ``width`` channels, then a head.

    Attributes
    ----------
    residual : bool
        Every convolution but the first is added to its own input.
    """

    width: int
    depth: int
    norm: str
    channels: int
    size: int
    classes: int
    residual: bool = False

    @property
    def pools(self) -> tuple[int, ...]:
        """The layers after which the image is halved: the first two, or every other one of larger images."""
        return tuple(layer for layer in ((1, 3, 5) if self.size >= _LARGE else (0, 1)) if layer < self.depth)

    @property
    def features(self) -> int:
        """Inputs of the head."""
        side = self.size >> len(self.pools)
        return self.width * side * side


class Nets:
    """M nets of one shape.

    Parameters
    ----------
    seeds : sequence of int
        Of the initial weights of each; equal seeds, equal weights, whatever the biases.
    biases : sequence of str
        Of `BIASES`, for each.
    filters : sequence of str, optional
        Of `FILTERS`, for each; ``centred`` ones have weights that add up to 0, whatever is learned.
    start : float
        Standard deviation of the initial biases of the convolutions; 0 as usual.
    """

    def __init__(
        self,
        shape: Shape,
        seeds: Sequence[Sequence[int]],
        biases: Sequence[str],
        *,
        filters: Sequence[str] | None = None,
        start: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        self.shape, self.count = shape, len(seeds)
        drawn = [_draw_parameters(shape, seed, start) for seed in seeds]
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
        centred = [float(f == "centred") for f in filters or ["free"] * self.count]
        self.centred = torch.tensor(centred, **make)[:, None, None, None, None] if any(centred) else None
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

    def conv_weight(self, layer: int) -> Tensor:
        """Weights [M, w, C, 3, 3] as they act: of centred filters less their mean."""
        weight = self.values[f"conv{layer}"]
        return weight if self.centred is None else weight - self.centred * weight.mean((2, 3, 4), keepdim=True)

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        """Logits [M, B, classes] of images [B, M * C, H, W]."""
        for layer in range(self.shape.depth):
            weight, before = self.conv_weight(layer).flatten(0, 1), x
            x = functional.conv2d(x, weight, self.conv_bias(layer).flatten(), padding=1, groups=self.count)
            x = self._norm(x, layer, training)
            x = torch.relu(x + before if self.shape.residual and layer else x)
            if layer in self.shape.pools:
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


def _draw_parameters(
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


RIDGE = 1e-2
METHODS = ("original", "zero", "head", "independent", "sequential")


@dataclass(frozen=True, slots=True)
class SingleNet:
    """One net by itself: weights [w, C, 3, 3] and biases [w] of its convolutions, weight and bias of its head."""

    convs: tuple[tuple[Tensor, Tensor], ...]
    head: Tensor
    head_bias: Tensor
    pools: tuple[int, ...] = (0, 1)
    residual: bool = False

    def before(self, layer: int, x: Tensor) -> Tensor:
        """What layer ``layer`` is given for images x."""
        for k, (weight, bias) in enumerate(self.convs[:layer]):
            y = functional.conv2d(x, weight, bias, padding=1)
            x = torch.relu(y + x if self.residual and k else y)
            x = functional.max_pool2d(x, 2) if k in self.pools else x
        return x

    def logits(self, x: Tensor) -> Tensor:
        return self.before(len(self.convs), x).flatten(1) @ self.head + self.head_bias


@torch.no_grad()
def unstack(nets: Nets, model: int) -> SingleNet:
    """One net of a stack, in float64, its batch norms folded into the convolutions as `biasopt fold` does."""
    shape = nets.shape
    convs = []
    for layer in range(shape.depth):
        weight = nets.conv_weight(layer)[model].detach().double()
        bias = nets.conv_bias(layer)[model].double()
        if shape.norm == "batch":
            part = slice(model * shape.width, (model + 1) * shape.width)
            mean, var = (stat[part].double() for stat in nets.running[layer])
            gamma, beta = (nets.values[f"{name}{layer}"][model].double() for name in ("gamma", "beta"))
            scale = gamma / torch.sqrt(var + _EPS)
            weight, bias = weight * scale[:, None, None, None], (bias - mean) * scale + beta
        convs.append((weight, bias))
    head_bias = (nets.values["head_bias"] * nets.head_mask)[model].double()
    head = nets.values["head"][model].detach().double()
    return SingleNet(tuple(convs), head, head_bias, shape.pools, shape.residual)


def extract_patches(x: Tensor) -> Tensor:
    """Rows [positions, 9 C] that a 3 x 3 kernel meets, zero padding included."""
    return functional.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)


def measure_replaceability(rows: Tensor) -> float:
    """r = 1 - mu' S^-1 mu: what share of a constant the best linear function of the inputs fails to give."""
    # Few numbers: on the CPU, whose least squares take what is not of full rank.
    second, mean = (rows.T @ rows / len(rows)).cpu(), rows.mean(0).cpu()
    fitted = torch.linalg.lstsq(second[None], mean[None, :, None], driver="gelsd").solution[0, :, 0]
    return float(min(1.0, max(0.0, 1 - float(mean @ fitted))))


@torch.no_grad()
def measure_imitation(net: SingleNet, x: Tensor) -> list[dict[str, float]]:
    """For each convolution what its weights make of the best constant that its inputs give.

    The best constant is c(x) = mu' S^-1 x, the linear function of the inputs that comes closest to 1; its mean is
    1 - r. A filter w is a multiple of it, and a rest that does not go with it: w'x = a c(x) + rest. Such a rest has
    mean 0 (it is orthogonal to c in S), so that *all* of the mean of w'x comes through c(x). ``bias`` is how large
    that mean is, beside the standard deviation of w'x (root of the mean square over channels); ``noise`` how much the
    part a c(x) varies, beside its mean; ``r`` as in `measure_replaceability`.
    """
    found = []
    for layer, (weight, _) in enumerate(net.convs):
        rows = extract_patches(net.before(layer, x))
        y = rows @ weight.flatten(1).T
        r = measure_replaceability(rows)
        size = float((y.mean(0) / y.std(0).clamp_min(1e-12)).square().mean().sqrt())
        found.append({"r": r, "bias": size, "noise": math.sqrt(r / (1 - r)) if r < 1 else math.inf})
    return found


def remove_biases(net: SingleNet, x: Tensor, method: str) -> SingleNet:
    """The net without biases of its convolutions.

    Parameters
    ----------
    x : Tensor [N, C, H, W]
        Images to fit on.
    method : str
        ``zero`` leaves them out; ``head`` also lets the head's bias restore the mean of the logits; ``independent``
        fits every layer on the original's inputs; ``sequential`` on those of the net as changed so far.
    """
    if method == "original":
        return net
    zeroed = replace(net, convs=tuple((w, torch.zeros_like(b)) for w, b in net.convs))
    if method == "zero":
        return zeroed
    if method == "head":
        return replace(zeroed, head_bias=net.head_bias + (net.logits(x) - zeroed.logits(x)).mean(0))
    made = net
    for layer in range(len(net.convs)):
        source = net if method == "independent" else made
        made = _replace_layer(made, layer, _fit_weights(net, source, layer, x))
    return made


def _replace_layer(net: SingleNet, layer: int, weight: Tensor) -> SingleNet:
    convs = list(net.convs)
    convs[layer] = (weight, torch.zeros_like(convs[layer][1]))
    return replace(net, convs=tuple(convs))


def _fit_weights(net: SingleNet, source: SingleNet, layer: int, x: Tensor) -> Tensor:
    weight, bias = net.convs[layer]
    flat = weight.flatten(1)
    wanted = extract_patches(net.before(layer, x)) @ flat.T + bias
    rows = extract_patches(source.before(layer, x))
    second = rows.T @ rows / len(rows)
    ridge = RIDGE * second.diagonal().mean() * torch.eye(len(second), dtype=second.dtype, device=second.device)
    change = torch.linalg.solve(second + ridge, rows.T @ (wanted - rows @ flat.T) / len(rows))
    made: Tensor = (flat + change.T).view_as(weight)
    return made


@torch.no_grad()
def ablate_net(
    net: SingleNet,
    fit: Tensor,
    test: Tensor,
    labels: Tensor,
    contrasts: Sequence[float],
    methods: Iterable[str] = METHODS,
) -> dict[str, Any]:
    """Methods of `METHODS` on one net: accuracy, agreement, error of the logits, accuracy at other contrasts."""
    reference = net.logits(test)
    found = {}
    for method in methods:
        made = remove_biases(net, fit, method)
        logits = made.logits(test)
        found[method] = {
            "accuracy": _percent_true(logits.argmax(1) == labels),
            "agreement": _percent_true(logits.argmax(1) == reference.argmax(1)),
            "error": float((logits - reference).norm() / (reference - reference.mean(0)).norm()),
            "contrast": {f"{c:g}": _percent_true(made.logits(test * c).argmax(1) == labels) for c in contrasts},
        }
    return found


def _percent_true(hits: Tensor) -> float:
    return float(hits.double().mean() * 100)


@torch.no_grad()
def measure_layers(net: SingleNet, fit: Tensor) -> list[dict[str, float]]:
    """For each convolution how replaceable its bias is, and how large: |b| over the spread of what it is added to."""
    found = []
    for layer, (weight, bias) in enumerate(net.convs):
        rows = extract_patches(net.before(layer, fit))
        spread = (rows @ weight.flatten(1).T).std(0)
        found.append({"r": measure_replaceability(rows), "size": float((bias.abs() / spread.clamp_min(1e-12)).mean())})
    return found
