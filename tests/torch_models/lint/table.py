"""The 28 nets: a bias `c.bias`, what lies behind it, and whether it changes anything in training.

Sizes are small primes where the operators allow, so that an axis taken for another shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Step = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A convolution `c` with a bias, then `parts` by name in the order that `step` says, then a norm `n`."""

    def __init__(self, step: Step | None = None, norm: nn.Module | None = None, out: int = 6, **parts: nn.Module):
        super().__init__()
        self.c = nn.Conv2d(3, out, 3, padding=1)
        self.step = step
        for name, part in parts.items():
            self.add_module(name, part)
        self.n = nn.BatchNorm2d(out) if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(x)
        return self.n(y if self.step is None else self.step(self, y))


class ChannelNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RMSNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.b(self.a(x.mean((2, 3), keepdim=True)).tanh()).sigmoid()


class Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.linspace(0.5, 2.0, channels).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.s


def then(name: str) -> Step:
    return lambda net, y: getattr(net, name)(y)


def _side(net: Net, y: Tensor) -> Tensor:
    return net.side(y[:, :3])


@dataclass(frozen=True)
class Row:
    name: str
    make: Callable[[], nn.Module]
    dead: bool


def _pool(**kwargs: object) -> nn.Module:
    return nn.AvgPool2d(3, stride=2, padding=1, **kwargs)  # type: ignore[arg-type]


DEAD = (
    Row("batch norm", lambda: Net(), True),
    Row("batch norm without affine", lambda: Net(norm=nn.BatchNorm2d(6, affine=False)), True),
    Row("instance norm", lambda: Net(norm=nn.InstanceNorm2d(6)), True),
    Row("group norm, a group per channel", lambda: Net(norm=nn.GroupNorm(6, 6)), True),
    Row("padded max pool", lambda: Net(then("p"), p=nn.MaxPool2d(3, 2, 1)), True),
    Row("average pool", lambda: Net(then("p"), p=nn.AvgPool2d(2)), True),
    Row("padded average pool without the padding", lambda: Net(then("p"), p=_pool(count_include_pad=False)), True),
    Row(
        "upsample",
        lambda: Net(lambda m, y: nn.functional.interpolate(m.p(y), scale_factor=2), p=nn.UpsamplingBilinear2d(11)),
        True,
    ),
    Row("1x1 convolution", lambda: Net(then("k"), norm=nn.BatchNorm2d(5), k=nn.Conv2d(6, 5, 1)), True),
    Row("valid convolution", lambda: Net(then("k"), norm=nn.BatchNorm2d(5), k=nn.Conv2d(6, 5, 3)), True),
    Row(
        "reflect-padded convolution",
        lambda: Net(then("k"), norm=nn.BatchNorm2d(5), k=nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect")),
        True,
    ),
    Row("residual sum", lambda: Net(lambda m, y: y + m.k(y.mean((2, 3), keepdim=True)), k=nn.Conv2d(6, 6, 1)), True),
    Row("concatenation", lambda: Net(lambda m, y: torch.cat([y, y[:, :2]], 1), norm=nn.BatchNorm2d(8)), True),
    Row("scale per channel", lambda: Net(then("s"), s=Scale(6)), True),
)
LIVE = (
    Row("group norm of 3 groups", lambda: Net(norm=nn.GroupNorm(3, 6)), False),
    Row("layer norm over channels and places", lambda: Net(norm=nn.LayerNorm((6, 8, 8))), False),
    Row("layer norm over channels", lambda: Net(norm=ChannelNorm(6)), False),
    Row("root mean square norm", lambda: Net(norm=RMSNorm()), False),
    Row("relu", lambda: Net(then("r"), r=nn.ReLU()), False),
    Row("padded average pool with the padding", lambda: Net(then("p"), p=_pool(count_include_pad=True)), False),
    Row("zero pad", lambda: Net(then("p"), p=nn.ZeroPad2d(1)), False),
    Row("zero-padded convolution", lambda: Net(then("k"), k=nn.Conv2d(6, 6, 3, padding=1)), False),
    Row("squeeze and excitation", lambda: Net(then("g"), g=Gate(6)), False),
    Row("dropout", lambda: Net(then("d"), d=nn.Dropout(0.3)), False),
    Row("strided transposed convolution", lambda: Net(then("k"), k=nn.ConvTranspose2d(6, 6, 3, stride=2)), False),
    Row(
        "1x1 convolution and pixel shuffle",
        lambda: Net(lambda m, y: m.u(m.k(y)), norm=nn.BatchNorm2d(2), k=nn.Conv2d(6, 8, 1), u=nn.PixelShuffle(2)),
        False,
    ),
    Row("group norm of one group", lambda: Net(norm=nn.GroupNorm(1, 6)), False),
    Row("another reader", lambda: Net(lambda m, y: y * y.mean((2, 3), keepdim=True)), False),
)
ROWS = DEAD + LIVE
