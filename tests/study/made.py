"""Small nets, images and rows that the tests of the study share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from converter.study import plan
from converter.study.data import Images, load_digits
from converter.study.nets import Nets, Shape
from converter.study.plan import Job, Variant
from converter.study.training import Arm, Feed, draw_batches, make_adam, make_sgd, train

FEW = 6  # steps


def few_images(count: int = 240) -> Images:
    """The first digits: enough for splits and batches."""
    every = load_digits()
    return Images("digits", every.x[:count], every.y[:count])


def stack(
    arms: list[Arm],
    *,
    width: int = 3,
    depth: int = 3,
    norm: str = "none",
    steps: int = FEW,
    optimiser: str = "adam",
    images: Images | None = None,
    batch: int = 32,
    start: float = 0.3,
    filters: bool = False,
) -> tuple[Nets, Feed]:
    """A stack trained for a few steps in float64."""
    images = images or few_images()
    splits = [images.split(arm.seed, 0) for arm in arms]
    shape = Shape(width, depth, norm, 1, 8, images.classes)
    make = {"dtype": torch.float64}
    nets = Nets(shape, [(arm.seed, 0, 0) for arm in arms], [arm.bias for arm in arms], start=start, **make,
                filters=[arm.filters for arm in arms] if filters else None)  # fmt: skip
    feed = Feed(images, arms, splits, dtype=torch.float64, device="cpu")
    rates, decays = (torch.tensor([getattr(arm, k) for arm in arms], **make) for k in ("rate", "decay"))
    update = {"adam": make_adam, "sgd": make_sgd}[optimiser](nets, rates, decays)
    train(nets, feed, draw_batches(arms, splits, batch, steps, 0), update, steps)
    return nets, feed


def small(job: Job, steps: int = FEW) -> Job:
    """A job of the plan, shortened."""
    return replace(job, steps=steps, seeds=job.seeds[:2])


def one_of(block: str, **more: object) -> Job:
    """The first job of a block, shortened."""
    job = plan.plan_jobs(plan.StudyScope(blocks=(block,), seeds=2))[0]
    return replace(small(job), **more)


def model_rows(block: str, accuracy: dict[str, np.ndarray], **more: object) -> list[dict]:
    """Rows of one block: accuracies by arm, one for each seed."""
    base = {"block": block, "norm": "none", "depth": 2, "input": "raw", "weight_decay": 0.0, "rate": 0.01, "width": 8,
            "filters": "free", "task": "images", "residual": False, "removed": False}  # fmt: skip
    return [
        base | {"job": "j", "of": 1, "seed": seed, "bias": bias, "accuracy": float(a), "loss": 0.1} | more
        for bias, values in accuracy.items()
        for seed, a in enumerate(values)
    ]


__all__ = ["FEW", "Arm", "Variant", "few_images", "model_rows", "one_of", "small", "stack"]
