"""Do weights replace biases, and does width help? Digits nets of three widths, trained here, ablated by `converter`.

python -m tests.bench.ablate_digits              trains, prints the table, writes docs/ablate-width.svg and .json
python -m tests.bench.ablate_digits --seeds 1    quicker

Three convolutions (3x3, padded; max-pool after the first two) with BatchNorm, ReLU, and a linear head; half of
scikit-learn's 1,797 digits to train and calibrate on, half to test on. One thread, seeded.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if not __package__:
    sys.path.insert(0, str(ROOT))

WIDTHS = (4, 16, 64)
EPOCHS, BATCH, RATE = 30, 64, 1e-2


def halves(seed: int) -> tuple[Any, Any, Any, Any]:
    """Images [N, 1, 8, 8] of deviation 1 and labels: of the half to train on, and of the half to test on."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = raw.images[:, None].astype(np.float32)
    images /= images.std()
    order = np.random.default_rng(seed).permutation(len(images))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    return images[first], raw.target[first], images[second], raw.target[second]


def trained(width: int, seed: int, *, epochs: int = EPOCHS, norm: bool = True) -> tuple[bytes, tuple[Any, Any, Any, Any]]:
    """A trained net as ONNX, its BatchNorms nodes of their own, and its data."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = halves(seed)
    layers: list[nn.Module] = []
    for k in range(3):
        layers.append(nn.Conv2d(width if k else 1, width, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(width)] if norm else []
        layers += [nn.ReLU()] + ([nn.MaxPool2d(2)] if k < 2 else [])
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 4, 10))
    x, y = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    steps = epochs * -(-len(x) // BATCH)
    best = torch.optim.Adam(net.parameters(), RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(best, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            best.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            best.step()
            rate.step()
    return exported(net.eval()), data


def exported(net: Any) -> bytes:
    """The net as ONNX, nothing folded."""
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, 8, 8),),
            buffer,
            dynamo=False,
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["image"],
            output_names=["out"],
            dynamic_axes={"image": {0: "N"}, "out": {0: "N"}},
        )
    return buffer.getvalue()
