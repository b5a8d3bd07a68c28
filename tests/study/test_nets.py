"""A stack of nets is the nets one by one: outputs, training, running statistics, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from converter.study.nets import NORMS, Nets, Shape
from converter.study.training import Arm, compute_logits, draw_batches, evaluate
from tests.study import made

ARMS = [Arm(0), Arm(0, "head"), Arm(1, "all", "centred", 1e-2, 3e-3), Arm(1, "none", "pixel", 1e-3)]


class One(nn.Module):
    """The same net, as anybody would write it."""

    def __init__(self, nets: Nets, model: int, bias: str) -> None:
        super().__init__()
        w, depth, norm = nets.shape.width, nets.shape.depth, nets.shape.norm
        self.convs = nn.ModuleList(nn.Conv2d(1 if k == 0 else w, w, 3, padding=1) for k in range(depth))
        kinds = {
            "none": nn.Identity,
            "batch": lambda: nn.BatchNorm2d(w),
            "instance": lambda: nn.InstanceNorm2d(w, affine=True),
            "layer": lambda: nn.GroupNorm(1, w),
            "group": lambda: nn.GroupNorm(2, w),
        }
        self.norms = nn.ModuleList(kinds[norm]() for _ in range(depth))
        self.head = nn.Linear(nets.shape.features, nets.shape.classes)
        self.double()
        value = {name: v[model].detach().clone() for name, v in nets.values.items()}
        for k, (conv, normed) in enumerate(zip(self.convs, self.norms, strict=True)):
            conv.weight.data = value[f"conv{k}"]
            conv.bias.data = value[f"bias{k}"] * (bias == "all")
            conv.bias.requires_grad_(bias == "all")
            if norm != "none":
                normed.weight.data, normed.bias.data = value[f"gamma{k}"], value[f"beta{k}"]
        self.head.weight.data, self.head.bias.data = value["head"].T.contiguous(), value["head_bias"] * (bias != "none")
        self.head.bias.requires_grad_(bias != "none")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for k, (conv, normed) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = torch.relu(normed(conv(x)))
            x = functional.max_pool2d(x, 2) if k < 2 else x
        return self.head(x.flatten(1))


def alone(arm: Arm, nets: Nets, model: int, optimiser: str) -> One:
    """Train one net in a plain loop, with torch's own optimiser and schedule."""
    images = made.few_images()
    split = images.split(arm.seed, 0)
    net = One(nets, model, arm.bias)
    values = [p for p in net.parameters() if p.requires_grad]
    if optimiser == "adam":
        steps = torch.optim.AdamW(values, arm.rate, weight_decay=arm.decay)
    else:
        steps = torch.optim.SGD(values, arm.rate, momentum=0.9, weight_decay=arm.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(steps, made.FEW)
    scale, offset = images.scaling(split, arm.input)
    for index in draw_batches([arm], [split], 32, made.FEW, 0):
        x = torch.as_tensor(images.x[index[0]], dtype=torch.float64) * scale - torch.as_tensor(offset).double()
        steps.zero_grad()
        functional.cross_entropy(net(x), torch.as_tensor(images.y[index[0]])).backward()
        steps.step()
        schedule.step()
    return net.eval()


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_stack_trains_as_each_net_alone(norm: str, optimiser: str) -> None:
    width = 4 if norm == "group" else 3
    # Adam makes steps of the rounding of a gradient that is zero: that of a bias before its batch norm.
    near = {"rtol": 1e-12, "atol": 4e-9 if (norm, optimiser) == ("batch", "adam") else 1e-13}
    start, _ = made.stack(ARMS, width=width, norm=norm, steps=0, optimiser=optimiser)
    nets, feed = made.stack(ARMS, width=width, norm=norm, optimiser=optimiser)
    images = made.few_images()
    for k, arm in enumerate(ARMS):
        net = alone(arm, start, k, optimiser)
        index = np.stack([images.split(a.seed, 0).test[:40] for a in ARMS])
        scale, offset = images.scaling(images.split(arm.seed, 0), arm.input)
        x = torch.as_tensor(images.x[index[k]], dtype=torch.float64) * scale - torch.as_tensor(offset).double()
        with torch.no_grad():
            torch.testing.assert_close(compute_logits(nets, feed, index)[k], net(x), **near)
        if norm == "batch":
            part = slice(k * width, (k + 1) * width)
            torch.testing.assert_close(nets.running[0][0][part], net.norms[0].running_mean, **near)
            torch.testing.assert_close(nets.running[0][1][part], net.norms[0].running_var, rtol=1e-12, atol=1e-13)


def test_masks_leave_out_biases_through_training() -> None:
    nets, _ = made.stack(ARMS)
    biases = nets.conv_bias(1)
    assert (biases[0] != 0).all()
    assert (biases[1] == 0).all()
    assert (biases[3] == 0).all()
    head = nets.values["head_bias"] * nets.head_mask
    assert [bool((row != 0).all()) for row in head] == [True, True, True, False]


def test_both_arms_of_a_seed_begin_alike_and_see_the_same() -> None:
    nets, _ = made.stack(ARMS, steps=0)
    assert torch.equal(nets.values["conv0"][0], nets.values["conv0"][1])
    assert not torch.equal(nets.values["conv0"][0], nets.values["conv0"][2])
    images = made.few_images()
    splits = [images.split(arm.seed, 0) for arm in ARMS]
    index = next(draw_batches(ARMS, splits, 16, 1, 0))
    assert (index[0] == index[1]).all()
    assert (index[0] != index[2]).any()
    assert np.isin(index[0], splits[0].train).all()


def test_a_net_without_any_bias_is_homogeneous() -> None:
    nets, feed = made.stack([Arm(0, "none"), Arm(0, "all")])
    x, _ = feed(np.arange(20)[None].repeat(2, 0))
    with torch.no_grad():
        once, twice = nets.forward(x), nets.forward(x * 2)
    torch.testing.assert_close(twice[0], 2 * once[0])
    assert (twice[1] - 2 * once[1]).abs().max() > 1e-3


def test_accuracy_is_that_of_the_largest_logit() -> None:
    nets, feed = made.stack(ARMS[:2])
    index = np.arange(50)[None].repeat(2, 0)
    accuracy, loss = evaluate(nets, feed, index)
    said = compute_logits(nets, feed, index)
    assert accuracy[0] == pytest.approx(100 * (said[0].argmax(1).numpy() == made.few_images().y[:50]).mean())
    assert loss[0] == pytest.approx(float(functional.cross_entropy(said[0], feed.labels(index)[0])))


def test_images_in_parts_give_what_all_at_once_give() -> None:
    images = made.few_images(700)
    nets, feed = made.stack(ARMS[:2], images=images)
    index = np.arange(640)[None].repeat(2, 0)
    with torch.no_grad():
        torch.testing.assert_close(compute_logits(nets, feed, index), nets.forward(feed(index)[0]))


def test_shape_counts_the_features_of_the_head() -> None:
    assert Shape(5, 3, "none", 1, 8, 10).features == 5 * 2 * 2
    assert Shape(5, 1, "none", 1, 8, 10).features == 5 * 4 * 4
