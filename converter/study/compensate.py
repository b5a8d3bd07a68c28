"""Biases of a trained net moved into its weights, layer after layer, in float64.

Each layer is asked to give, on what the changed layers before it now hand over, what the original gave:
W' = W + D', D = (S + lambda mean(diag S) I)^-1 E[x (y - W x)'], with S = E[x x'] of the patches x, zero padding
included. The ridge is on the change, so that it shrinks no weight (`biasopt ablate` does the same for ONNX models).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from converter.study.nets import _EPS, _POOLED, Nets

RIDGE = 1e-2
METHODS = ("original", "zero", "head", "independent", "sequential")


@dataclass(frozen=True, slots=True)
class Plain:
    """One net by itself: weights [w, C, 3, 3] and biases [w] of its convolutions, weight and bias of its head."""

    convs: tuple[tuple[Tensor, Tensor], ...]
    head: Tensor
    head_bias: Tensor

    def before(self, layer: int, x: Tensor) -> Tensor:
        """What layer ``layer`` is given for images x."""
        for k, (weight, bias) in enumerate(self.convs[:layer]):
            x = torch.relu(functional.conv2d(x, weight, bias, padding=1))
            x = functional.max_pool2d(x, 2) if k < _POOLED else x
        return x

    def logits(self, x: Tensor) -> Tensor:
        return self.before(len(self.convs), x).flatten(1) @ self.head + self.head_bias


@torch.no_grad()
def unstacked(nets: Nets, model: int) -> Plain:
    """One net of a stack, in float64, its batch norms folded into the convolutions as `biasopt fold` does."""
    shape = nets.shape
    convs = []
    for layer in range(shape.depth):
        weight = nets.values[f"conv{layer}"][model].detach().double().cpu()
        bias = nets.conv_bias(layer)[model].double().cpu()
        if shape.norm == "batch":
            part = slice(model * shape.width, (model + 1) * shape.width)
            mean, var = (stat[part].double().cpu() for stat in nets.running[layer])
            gamma, beta = (nets.values[f"{name}{layer}"][model].double().cpu() for name in ("gamma", "beta"))
            scale = gamma / torch.sqrt(var + _EPS)
            weight, bias = weight * scale[:, None, None, None], (bias - mean) * scale + beta
        convs.append((weight, bias))
    head_bias = (nets.values["head_bias"] * nets.head_mask)[model].double().cpu()
    return Plain(tuple(convs), nets.values["head"][model].detach().double().cpu(), head_bias)


def patches(x: Tensor) -> Tensor:
    """Rows [positions, 9 C] that a 3 x 3 kernel meets, zero padding included."""
    return functional.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)


def replaceability(rows: Tensor) -> float:
    """r = 1 - mu' S^-1 mu: what share of a constant the best linear function of the inputs fails to give."""
    second = rows.T @ rows / len(rows)
    mean = rows.mean(0)
    fitted = torch.linalg.lstsq(second[None], mean[None, :, None], driver="gelsd").solution[0, :, 0]
    return float(min(1.0, max(0.0, 1 - float(mean @ fitted))))


def changed(net: Plain, x: Tensor, method: str) -> Plain:
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
        made = _without(made, layer, _fitted(net, source, layer, x))
    return made


def _without(net: Plain, layer: int, weight: Tensor) -> Plain:
    convs = list(net.convs)
    convs[layer] = (weight, torch.zeros_like(convs[layer][1]))
    return replace(net, convs=tuple(convs))


def _fitted(net: Plain, source: Plain, layer: int, x: Tensor) -> Tensor:
    weight, bias = net.convs[layer]
    flat = weight.flatten(1)
    wanted = patches(net.before(layer, x)) @ flat.T + bias
    rows = patches(source.before(layer, x))
    second = rows.T @ rows / len(rows)
    ridge = RIDGE * second.diagonal().mean() * torch.eye(len(second), dtype=second.dtype)
    change = torch.linalg.solve(second + ridge, rows.T @ (wanted - rows @ flat.T) / len(rows))
    made: Tensor = (flat + change.T).view_as(weight)
    return made


@torch.no_grad()
def ablated(net: Plain, fit: Tensor, test: Tensor, labels: Tensor, contrasts: Sequence[float]) -> dict[str, Any]:
    """Every method of `METHODS` on one net: accuracy, agreement, error of the logits, accuracy at other contrasts."""
    reference = net.logits(test)
    found = {}
    for method in METHODS:
        made = changed(net, fit, method)
        logits = made.logits(test)
        found[method] = {
            "accuracy": _share(logits.argmax(1) == labels),
            "agreement": _share(logits.argmax(1) == reference.argmax(1)),
            "error": float((logits - reference).norm() / (reference - reference.mean(0)).norm()),
            "contrast": {f"{c:g}": _share(made.logits(test * c).argmax(1) == labels) for c in contrasts},
        }
    return found


def _share(hits: Tensor) -> float:
    return float(hits.double().mean() * 100)


@torch.no_grad()
def layers(net: Plain, fit: Tensor) -> list[dict[str, float]]:
    """For each convolution how replaceable its bias is, and how large: |b| over the spread of what it is added to."""
    found = []
    for layer, (weight, bias) in enumerate(net.convs):
        rows = patches(net.before(layer, fit))
        spread = (rows @ weight.flatten(1).T).std(0)
        found.append({"r": replaceability(rows), "size": float((bias.abs() / spread.clamp_min(1e-12)).mean())})
    return found
