"""One job done: the rows that it yields. A row is what was measured on one model, or one check."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from converter.dataclass import dataclass
from converter.study import nets, tasks
from converter.study.data import INPUTS, Array, Images, Split, make_contrast
from converter.study.nets import Nets, Shape, extract_patches, measure_replaceability
from converter.study.plan import ARMS, BATCH, Job
from converter.study.training import (
    Arm,
    Feed,
    Stopped,
    compute_logits,
    draw_batches,
    evaluate,
    make_adam,
    make_sgd,
    train,
)

Row = dict[str, Any]
SIZES = (1, 4, 16, 64, 256, 1024)
CORRELATIONS = (0.0, 0.2, 0.8)
_DRAWS = 20_000  # of the input of a layer
_FIRST = 1_000  # images at most that r of the first layer is measured on
_ROUNDING = 1e-13  # what is less is not told apart: it may change with the processor


def measure_replaceability_rows(key: int) -> list[Row]:
    """r of n inputs max(0, z), z standard normal with correlation rho between any two: measured, and by formula."""
    common, own = _draw_normal(1, [key, 6]), _draw_normal(max(SIZES), [key, 7])
    rows = []
    for rho in CORRELATIONS:
        x = np.maximum(math.sqrt(rho) * common + math.sqrt(1 - rho) * own, 0)
        second, mean = (x.T @ x / len(x)).astype(np.float64), x.mean(0, dtype=np.float64)
        for n in SIZES:
            q = 1 / (1 - float(mean[:n] @ np.linalg.solve(second[:n, :n], mean[:n]))) - 1
            q *= (_DRAWS - n - 2) / (_DRAWS - 1)  # an inverse of so few draws is too large (inverse Wishart)
            rows.append({"rho": rho, "n": n, "measured": 1 / (1 + q), "theory": theoretical_r(n, rho)})
    return rows


def _draw_normal(columns: int, key: list[int]) -> Array:
    """Standard normal draws [draws, columns], each column spread evenly over the quantiles and shuffled."""
    from scipy.special import ndtri

    even = ndtri((np.arange(_DRAWS) + 0.5) / _DRAWS).astype(np.float32)
    return np.random.default_rng(key).permuted(np.tile(even, (columns, 1)), axis=1).T


def theoretical_r(n: int, rho: float) -> float:
    """1 / (1 + q), q = mu' Sigma^-1 mu, for n rectified standard normals with correlation rho.

    Their mean is 1/sqrt(2 pi), their variance 1/2 - 1/(2 pi); the covariance of two of them is the arc-cosine kernel
    of order 1 (Cho & Saul 2009) less the squared mean. The eigenvalue of the constant vector decides.
    """
    mean2 = 1 / (2 * math.pi)
    variance = 0.5 - mean2
    product = (math.sqrt(1 - rho * rho) + rho * (math.pi - math.acos(rho))) / (2 * math.pi)
    return 1 / (1 + n * mean2 / (variance + (n - 1) * (product - mean2)))


def measure_first_layer(images: Images, seed: int, key: int) -> list[Row]:
    """r of the first layer on real images, for every input variant: dense, and 3 x 3 with zero padding."""
    split = images.split(seed, key)
    rows = []
    for kind in INPUTS:
        scale, offset = images.scaling(split, kind)
        x = torch.as_tensor(images.x[split.train[:_FIRST]] * scale - offset, dtype=torch.float64)
        rows.append(
            {
                "layer": "dense",
                "input": kind,
                "r": measure_replaceability(x.flatten(1)),
                "empty": _empty_share(x.flatten(1)),
            }
        )
        met = extract_patches(x)
        rows.append({"layer": "conv", "input": kind, "r": measure_replaceability(met), "empty": _empty_share(met)})
    return rows


def _empty_share(rows: Tensor) -> float:
    """Share of inputs that are all zero: no bias-free function can imitate a constant there."""
    return float((rows == 0).all(1).double().mean())


def _batch(x: Tensor) -> Tensor:
    return functional.batch_norm(x, None, None, training=True)


def _rms(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean((1, 2, 3), keepdim=True) + 1e-5)


def _frozen(x: Tensor) -> Tensor:
    mean, var = torch.zeros_like(x[0, :, 0, 0]), torch.ones_like(x[0, :, 0, 0])
    return functional.batch_norm(x, mean, var, training=False)


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
        "batch norm, its statistics frozen": (False, _frozen),
        "layer norm": (False, _layer),
        "group norm, 2 groups": (False, lambda x: functional.group_norm(x, 2)),
        "RMS norm": (False, _rms),
        "ReLU, batch norm": (False, lambda x: _batch(torch.relu(x))),
        "3 x 3 zero-padded, batch norm": (False, lambda x: _batch(functional.conv2d(x, weight, padding=1))),
        "nothing": (False, lambda x: x),
    }


def _at_least_rounding(error: Tensor) -> float:
    return max(float(error), _ROUNDING)


def measure_dead(key: int) -> list[Row]:
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
            {
                "followed_by": name,
                "expected_dead": dead,
                "change": _at_least_rounding((after - before).norm() / before.norm()),
            }
        )
    return rows


def measure_constant_channel(key: int) -> list[Row]:
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
                "inside": _at_least_rounding(inner.max()),
                "border": _at_least_rounding(error.max()) if padding else 0.0,
            })  # fmt: skip
    return rows


def measure_update(key: int) -> list[Row]:
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


CONTRASTS = (0.25, 0.5, 0.7, 1.0, 2.0)
_CHECK = 25  # steps between two looks at the LSTMs
_SGD_RATE = 0.1
_YARDSTICK = ("original", "zero", "sequential")
_FITTED = 1_000  # images at most that biases are moved into weights with
_HELD = 40_000_000  # numbers of patches that are held at once to move biases into weights


@dataclass(frozen=True, slots=True)
class Setting:
    """What all jobs share: the images, the seed that every other seed is mixed with, where to compute."""

    images: Images
    key: int = 0
    device: str = "cpu"
    stop: threading.Event = field(default_factory=threading.Event)


def run_job(job: Job, setting: Setting, only: int | None = None) -> list[Row]:
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


def _train_stack(
    job: Job,
    setting: Setting,
    only: int | None,
    *,
    dtype: torch.dtype = torch.float32,
    start: float = 0.0,
    optimiser: Callable[..., Any] = make_adam,
) -> _Stack:
    images = make_contrast(setting.images) if job.task == "contrast" else setting.images
    arms = [Arm(seed, *astuple(variant)) for seed in job.seeds for variant in job.variants]
    splits = {seed: _split_images(job, images, seed, setting.key) for seed in job.seeds}
    mine = [splits[arm.seed] for arm in arms]
    channels, size = images.x.shape[1:3]
    shape = Shape(job.width, job.depth, job.norm, channels, size, images.classes, job.residual)
    seeds = [(arm.seed, setting.key, 0) for arm in arms]
    make: dict[str, Any] = {"dtype": dtype, "device": setting.device}
    nets = Nets(shape, seeds, [a.bias for a in arms], filters=[a.filters for a in arms], start=start, **make)
    feed = Feed(images, arms, mine, dtype=dtype, device=setting.device)
    update = optimiser(
        nets, torch.tensor([a.rate for a in arms], **make), torch.tensor([a.decay for a in arms], **make)
    )
    order = draw_batches(arms, mine, BATCH, job.steps, setting.key)
    gradients = train(nets, feed, order, update, job.steps, setting.stop, only)
    return _Stack(arms, mine, feed, nets, images, gradients)


def _split_images(job: Job, images: Images, seed: int, key: int) -> Split:
    split = images.split(seed, key)
    if job.task != "validation":
        return split
    mixed = np.random.default_rng([seed, key, 8]).permutation(split.train)
    third = len(mixed) // 3
    return Split(np.sort(mixed[third:]), np.sort(mixed[:third]))


def _describe_arm(job: Job, arm: Arm) -> Row:
    return {
        "seed": arm.seed,
        "width": job.width,
        "depth": job.depth,
        "norm": job.norm,
        "bias": arm.bias,
        "input": arm.input,
        "weight_decay": arm.decay,
        "rate": arm.rate,
        "filters": arm.filters,
        "steps": job.steps,
    }


def _run_training(job: Job, setting: Setting, only: int | None) -> list[Row]:
    stack = _train_stack(job, setting, only)
    if only is not None:
        return []
    accuracy, loss = evaluate(stack.nets, stack.feed, stack.tested)
    rows = [
        _describe_arm(job, arm)
        | {"task": job.task, "residual": job.residual, "removed": False, "accuracy": float(a), "loss": float(lo)}
        for arm, a, lo in zip(stack.arms, accuracy, loss, strict=True)
    ]
    if job.block == "mechanism":
        for k, row in enumerate(rows):
            row["layers"] = nets.measure_imitation(nets.unstack(stack.nets, k), _images_of(stack, k, "train", _FITTED))
    return rows


def _images_of(stack: _Stack, k: int, part: str, most: int | None = None) -> torch.Tensor:
    """The first images of model ``k``'s part of the data, scaled as it is given them, in float64."""
    split, (scale, offset) = stack.splits[k], stack.images.scaling(stack.splits[k], stack.arms[k].input)
    x = stack.images.x[getattr(split, part)[:most]] * scale - offset
    return torch.as_tensor(x, dtype=torch.float64, device=stack.nets.flat.device)


def _run_identity(job: Job, setting: Setting, only: int | None) -> list[Row]:
    """Biases drawn at random at the start, in float64: nets with and without must say the same to rounding."""
    stack = _train_stack(job, setting, only, dtype=torch.float64, start=1.0)
    if only is not None:
        return []
    said = compute_logits(stack.nets, stack.feed, stack.tested)
    accuracy, _ = evaluate(stack.nets, stack.feed, stack.tested)
    rows = []
    for k in range(0, len(stack.arms), 2):
        apart = float((said[k] - said[k + 1]).abs().max() / said[k].abs().max())
        more = {"apart": apart, "accuracy": float(accuracy[k]), "accuracy_without": float(accuracy[k + 1])}
        rows.append(_describe_arm(job, stack.arms[k]) | {"bias": "paired"} | more)
    return rows


def _run_drift(job: Job, setting: Setting, only: int | None) -> list[Row]:
    rows = []
    for name, optimiser, rate in (("Adam", make_adam, 1e-2), ("SGD with momentum", make_sgd, _SGD_RATE)):
        mine = replace(job, variants=tuple(replace(v, rate=rate) for v in job.variants))
        stack = _train_stack(mine, setting, only, optimiser=optimiser)
        if only is not None:
            continue
        accuracy, _ = evaluate(stack.nets, stack.feed, stack.tested)
        by_name = dict(zip(stack.nets.values, stack.gradients, strict=True))
        for k in range(0, len(stack.arms), 2):
            more = {"optimiser": name, "accuracy": float(accuracy[k]), "accuracy_without": float(accuracy[k + 1])}
            rows.append(_describe_arm(mine, stack.arms[k]) | more | _measure_drift(stack.nets, by_name, k))
    return rows


def _measure_drift(nets: Nets, gradients: dict[str, torch.Tensor], model: int) -> Row:
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


def _run_ablation(job: Job, setting: Setting, only: int | None) -> list[Row]:
    stack = _train_stack(job, setting, only)
    if only is not None:
        return []
    rows = []
    most = min(
        _FITTED if job.block == "ablation" else _FITTED // 2,
        _HELD // (9 * job.width * (stack.nets.shape.size // 2) ** 2),
    )
    for k, (arm, split) in enumerate(zip(stack.arms, stack.splits, strict=True)):
        net = nets.unstack(stack.nets, k)
        fit, test = _images_of(stack, k, "train", most), _images_of(stack, k, "test")
        labels = torch.as_tensor(stack.images.y[split.test], device=fit.device)
        whole = job.block == "ablation"
        wanted = _until_stopped(setting.stop, nets.METHODS if whole else _YARDSTICK)
        methods = nets.ablate_net(net, fit, test, labels, CONTRASTS, wanted)
        row = _describe_arm(job, arm) | {"removed": True, "methods": methods}
        rows.append(row | ({"layers": nets.measure_layers(net, fit)} if whole else {}))
    return rows


def _until_stopped(stop: threading.Event, names: Sequence[str]) -> Iterator[str]:
    """The names one by one, until the run is interrupted: what is done for each takes long on larger images."""
    for name in names:
        if stop.is_set():
            raise Stopped
        yield name


def _run_recall(job: Job, setting: Setting, only: int | None) -> list[Row]:
    arms = [arm for _ in job.seeds for arm in ARMS]
    seeds = [seed for seed in job.seeds for _ in ARMS]
    how = {"key": setting.key, "lag": job.lag, "steps": job.steps, "check": min(_CHECK, job.steps)}
    found = tasks.train_lstms(seeds, arms, device=setting.device, stop=setting.stop, only=only, **how)
    if only is not None:
        return []
    rows = []
    for k, (seed, arm) in enumerate(zip(seeds, arms, strict=True)):
        seen = [float(a) for a in found.accuracy[:, k]]
        more = {"accuracy": seen[-1], "curve": seen, "checks": list(found.steps)}
        done = tasks.find_solved(found.steps, seen)
        rows.append({"seed": seed, "forget_bias": arm, "lag": job.lag, "steps": job.steps, "solved_at": done} | more)
    return rows


def _run_points(job: Job, setting: Setting, only: int | None) -> list[Row]:
    return tasks.train_points(job, setting.key, setting.device, setting.stop, only)


def _run_exact(job: Job, setting: Setting, only: int | None) -> list[Row]:
    if only is not None:
        return []
    key = setting.key
    found = {
        "replaceability": measure_replaceability_rows(key),
        "first layer": measure_first_layer(setting.images, 0, key),
        "dead": measure_dead(key),
        "constant channel": measure_constant_channel(key),
        "update": measure_update(key),
    }
    return [{"check": check} | row for check, rows in found.items() for row in rows]


_KINDS: dict[str, Callable[[Job, Setting, int | None], list[Row]]] = {
    "train": _run_training,
    "identity": _run_identity,
    "drift": _run_drift,
    "ablate": _run_ablation,
    "recall": _run_recall,
    "points": _run_points,
    "exact": _run_exact,
}
