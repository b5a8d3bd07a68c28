"""One job done: the rows that it yields. A row is what was measured on one model, or one check."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from converter.study import compensate, exact, recall
from converter.study.data import Images, Split, contrast
from converter.study.nets import Nets, Shape
from converter.study.plan import BATCH, LAG, Job
from converter.study.training import Arm, Feed, adam, batches, evaluate, logits, sgd, train

Row = dict[str, Any]
CONTRASTS = (0.25, 0.5, 0.7, 1.0, 2.0)
_CHECK = 25  # steps between two looks at the LSTMs
_SGD_RATE = 0.1
_HELD = 40_000_000  # numbers of patches that are held at once to move biases into weights


@dataclass(frozen=True, slots=True)
class Setting:
    """What all jobs share: the images, the seed that every other seed is mixed with, where to compute."""

    images: Images
    key: int = 0
    device: str = "cpu"
    stop: threading.Event = field(default_factory=threading.Event)


def run(job: Job, setting: Setting, only: int | None = None) -> list[Row]:
    """Do a job, or (to see how long that takes) ``only`` so many of its steps."""
    rows = _KINDS[job.kind](job, setting, only)
    return [{"job": job.id, "of": len(rows), "block": job.block} | row for row in rows]


@dataclass(slots=True)
class _Stack:
    """Trained nets with what they were given."""

    arms: list[Arm]
    splits: list[Split]
    feed: Feed
    nets: Nets
    images: Images
    gradients: Sequence[torch.Tensor] = ()

    @property
    def tested(self) -> Any:
        return np.stack([split.test for split in self.splits])


def _trained(
    job: Job,
    setting: Setting,
    only: int | None,
    *,
    dtype: torch.dtype = torch.float32,
    start: float = 0.0,
    optimiser: Callable[..., Any] = adam,
) -> _Stack:
    images = contrast(setting.images) if job.task == "contrast" else setting.images
    arms = [Arm(seed, v.bias, v.input, v.decay, v.rate) for seed in job.seeds for v in job.variants]
    splits = {seed: _split(job, images, seed, setting.key) for seed in job.seeds}
    mine = [splits[arm.seed] for arm in arms]
    channels, size = images.x.shape[1:3]
    shape = Shape(job.width, job.depth, job.norm, channels, size, images.classes)
    seeds = [(arm.seed, setting.key, 0) for arm in arms]
    nets = Nets(shape, seeds, [arm.bias for arm in arms], start=start, dtype=dtype, device=setting.device)
    feed = Feed(images, arms, mine, dtype=dtype, device=setting.device)
    make: dict[str, Any] = {"dtype": dtype, "device": setting.device}
    update = optimiser(
        nets, torch.tensor([a.rate for a in arms], **make), torch.tensor([a.decay for a in arms], **make)
    )
    order = batches(arms, mine, BATCH, job.steps, setting.key)
    gradients = train(nets, feed, order, update, job.steps, setting.stop, only)
    return _Stack(arms, mine, feed, nets, images, gradients)


def _split(job: Job, images: Images, seed: int, key: int) -> Split:
    split = images.split(seed, key)
    if job.task != "validation":
        return split
    mixed = np.random.default_rng([seed, key, 8]).permutation(split.train)
    third = len(mixed) // 3
    return Split(np.sort(mixed[third:]), np.sort(mixed[:third]))


def _about(job: Job, arm: Arm) -> Row:
    return {
        "seed": arm.seed,
        "width": job.width,
        "depth": job.depth,
        "norm": job.norm,
        "bias": arm.bias,
        "input": arm.input,
        "weight_decay": arm.decay,
        "rate": arm.rate,
        "steps": job.steps,
    }


def _train(job: Job, setting: Setting, only: int | None) -> list[Row]:
    stack = _trained(job, setting, only)
    if only is not None:
        return []
    accuracy, loss = evaluate(stack.nets, stack.feed, stack.tested)
    return [
        _about(job, arm) | {"accuracy": float(a), "loss": float(lo)}
        for arm, a, lo in zip(stack.arms, accuracy, loss, strict=True)
    ]


def _identity(job: Job, setting: Setting, only: int | None) -> list[Row]:
    """Biases drawn at random at the start, in float64: nets with and without must say the same to rounding."""
    stack = _trained(job, setting, only, dtype=torch.float64, start=1.0)
    if only is not None:
        return []
    said = logits(stack.nets, stack.feed, stack.tested)
    accuracy, _ = evaluate(stack.nets, stack.feed, stack.tested)
    rows = []
    for k in range(0, len(stack.arms), 2):
        apart = float((said[k] - said[k + 1]).abs().max() / said[k].abs().max())
        more = {"apart": apart, "accuracy": float(accuracy[k]), "accuracy_without": float(accuracy[k + 1])}
        rows.append(_about(job, stack.arms[k]) | {"bias": "paired"} | more)
    return rows


def _drift(job: Job, setting: Setting, only: int | None) -> list[Row]:
    rows = []
    for name, optimiser, rate in (("Adam", adam, 1e-2), ("SGD with momentum", sgd, _SGD_RATE)):
        mine = replace(job, variants=tuple(replace(v, rate=rate) for v in job.variants))
        stack = _trained(mine, setting, only, optimiser=optimiser)
        if only is not None:
            continue
        accuracy, _ = evaluate(stack.nets, stack.feed, stack.tested)
        by_name = dict(zip(stack.nets.values, stack.gradients, strict=True))
        for k in range(0, len(stack.arms), 2):
            more = {"optimiser": name, "accuracy": float(accuracy[k]), "accuracy_without": float(accuracy[k + 1])}
            rows.append(_about(mine, stack.arms[k]) | more | _dead(stack.nets, by_name, k))
    return rows


def _dead(nets: Nets, gradients: dict[str, torch.Tensor], model: int) -> Row:
    """How far the dead biases went, and what gradient they saw beside that of the weights."""
    layers = range(nets.shape.depth)
    bias = torch.cat([nets.conv_bias(layer)[model].detach() for layer in layers])
    seen = {
        kind: torch.cat([gradients[f"{kind}{layer}"][model].flatten() for layer in layers]) for kind in ("bias", "conv")
    }
    return {
        "largest": float(bias.abs().max()),
        "rms": float(bias.square().mean().sqrt()),
        "gradient_bias": float(seen["bias"].square().mean().sqrt()),
        "gradient_weight": float(seen["conv"].square().mean().sqrt()),
    }


def _ablate(job: Job, setting: Setting, only: int | None) -> list[Row]:
    stack = _trained(job, setting, only)
    if only is not None:
        return []
    rows = []
    most = min(1_000, _HELD // (9 * job.width * (stack.nets.shape.size // 2) ** 2))
    for k, (arm, split) in enumerate(zip(stack.arms, stack.splits, strict=True)):
        net = compensate.unstacked(stack.nets, k)
        scale, offset = stack.images.scaling(split, arm.input)
        fit, test = (
            torch.as_tensor(stack.images.x[part] * scale - offset, dtype=torch.float64)
            for part in (split.train[:most], split.test)
        )
        labels = torch.as_tensor(stack.images.y[split.test])
        methods = compensate.ablated(net, fit, test, labels, CONTRASTS)
        rows.append(_about(job, arm) | {"methods": methods, "layers": compensate.layers(net, fit)})
    return rows


def _recall(job: Job, setting: Setting, only: int | None) -> list[Row]:
    arms = [arm for _ in job.seeds for arm in recall.ARMS]
    seeds = [seed for seed in job.seeds for _ in recall.ARMS]
    how = {"key": setting.key, "lag": LAG, "steps": job.steps, "check": min(_CHECK, job.steps)}
    found = recall.run(seeds, arms, device=setting.device, stop=setting.stop, only=only, **how)
    if only is not None:
        return []
    rows = []
    for k, (seed, arm) in enumerate(zip(seeds, arms, strict=True)):
        seen = [float(a) for a in found.accuracy[:, k]]
        more = {"accuracy": seen[-1], "curve": seen, "checks": list(found.steps)}
        done = recall.solved_at(found.steps, seen)
        rows.append({"seed": seed, "forget_bias": arm, "lag": LAG, "steps": job.steps, "solved_at": done} | more)
    return rows


def _exact(job: Job, setting: Setting, only: int | None) -> list[Row]:
    if only is not None:
        return []
    key = setting.key
    found = {
        "replaceability": exact.replaceability_rows(key),
        "first layer": exact.first_layer_rows(setting.images, 0, key),
        "dead": exact.dead_rows(key),
        "constant channel": exact.constant_channel_rows(key),
        "update": exact.update_rows(key),
    }
    return [{"check": check} | row for check, rows in found.items() for row in rows]


_KINDS: dict[str, Callable[[Job, Setting, int | None], list[Row]]] = {
    "train": _train,
    "identity": _identity,
    "drift": _drift,
    "ablate": _ablate,
    "recall": _recall,
    "exact": _exact,
}
