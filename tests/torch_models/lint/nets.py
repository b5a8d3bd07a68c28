"""Nets that people train: a CycleGAN generator, a U-Net, attention in its spellings, a hand-written norm."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    def __init__(self, width: int, use_bias: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for last in (False, True):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=use_bias), nn.InstanceNorm2d(width)]
            layers += [] if last else [nn.ReLU(True)]
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Generator(nn.Module):
    """CycleGAN's generator: reflection pads, strided and transposed convolutions, residual blocks."""

    def __init__(self, width: int = 4, norm_layer: type[nn.Module] = nn.InstanceNorm2d, blocks: int = 2) -> None:
        super().__init__()
        use_bias = norm_layer == nn.InstanceNorm2d
        model = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7, bias=use_bias), norm_layer(width), nn.ReLU(True)]
        for i, o in pairwise((width, 2 * width, 4 * width)):
            model += [nn.Conv2d(i, o, 3, stride=2, padding=1, bias=use_bias), norm_layer(o), nn.ReLU(True)]
        model += [Residual(4 * width, use_bias) for _ in range(blocks)]
        for i, o in pairwise((4 * width, 2 * width, width)):
            up = nn.ConvTranspose2d(i, o, 3, stride=2, padding=1, output_padding=1, bias=use_bias)
            model += [up, norm_layer(o), nn.ReLU(True)]
        self.model = nn.Sequential(*model, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def double(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(i, o, 3, padding=1),
        nn.BatchNorm2d(o),
        nn.ReLU(inplace=True),
        nn.Conv2d(o, o, 3, padding=1, bias=True),
        nn.BatchNorm2d(o),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = double(3, 5), double(5, 7), double(10, 5)
        self.pool, self.up, self.out = nn.MaxPool2d(2), nn.ConvTranspose2d(7, 5, 2, 2), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.out(self.c(torch.cat([a, self.up(self.b(self.pool(a)))], 1)))


def rotated(x: Tensor) -> Tensor:
    """Rotary positions."""
    steps, half = x.shape[-2], x.shape[-1] // 2
    angle = torch.arange(steps, dtype=x.dtype)[:, None] * 0.3 ** torch.arange(half, dtype=x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


def softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


def causal(scores: Tensor) -> Tensor:
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(mask, float("-inf")).softmax(-1)


def sigmoid(scores: Tensor) -> Tensor:
    return scores.sigmoid()


def sink(scores: Tensor) -> Tensor:
    return torch.cat([scores, torch.zeros_like(scores[..., :1])], -1).softmax(-1)[..., :-1]


class Attention(nn.Module):
    """Four heads of four; ``weigh`` is None for torch's own function."""

    def __init__(
        self,
        weigh: Callable[[Tensor], Tensor] | None = None,
        packed: bool = False,
        turn: Callable[[Tensor], Tensor] | None = None,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.weigh, self.turn = weigh, turn
        if packed:
            self.qkv = nn.Linear(16, 48)
        else:
            self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.norm = nn.LayerNorm(4, bias=False) if norm else None
        self.out = nn.Linear(16, 16)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        n, steps, _ = x.shape
        if hasattr(self, "qkv"):
            return self.qkv(x).reshape(n, steps, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return tuple(layer(x).view(n, steps, 4, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        if self.norm is not None:
            q, k = self.norm(q), self.norm(k)
        if self.turn is not None:
            q, k = self.turn(q), self.turn(k)
        if self.weigh is None:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = self.weigh(q @ k.transpose(-2, -1) / 2) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class HandWritten(nn.Module):
    """A batch norm in plain arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.scale = nn.Conv2d(3, 5, 3), nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(x)
        y = y - y.mean((0, 2, 3), keepdim=True)
        return y / (y.pow(2).mean((0, 2, 3), keepdim=True) + 1e-5).sqrt() * self.scale[:, None, None]


class Recurrent(nn.Module):
    def __init__(self, make: type[nn.RNNBase] = nn.LSTM, layers: int = 1) -> None:
        super().__init__()
        self.r, self.out = make(3, 5, layers, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.r(x)[0])


def scrambled(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, biases and statistics as training might leave them."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.5)
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=draw))
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=draw) + 0.5)
    return net
