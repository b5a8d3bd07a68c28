"""Nets whose biases partly cannot matter, in torch. Needs torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

WIDTH, HEADS, N_LAYERS = 16, 4, 1
MINUS_INFINITY = float("-inf")


# ---- convolutions before instance norm ----------------------------------------------------------


class Block(nn.Sequential):
    """Twice a convolution with bias, instance norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for n in (inputs, outputs):
            layers += [nn.Conv2d(n, outputs, 3, padding=1), nn.InstanceNorm2d(outputs, affine=True), nn.LeakyReLU(0.01)]
        super().__init__(*layers)


class UNet(nn.Module):
    """The plan of nnU-Net: strided convolutions down, transposed ones up, every other convolution normed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block(1, 4)
        self.down = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.InstanceNorm2d(8, affine=True), nn.ReLU())
        self.bottom = Block(8, 8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.last = Block(8, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        up = self.up(self.bottom(self.down(skip)))
        return self.head(self.last(torch.cat([skip, up], 1)))


class Residual(nn.Module):
    """Two reflected convolutions with instance norm, beside a shortcut."""

    def __init__(self, n: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for last in (nn.ReLU(), nn.Identity()):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(n, n, 3), nn.InstanceNorm2d(n), last]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def generator() -> nn.Module:
    """The plan of the generator of CycleGAN."""

    def normed(layer: nn.Module, n: int) -> list[nn.Module]:
        return [layer, nn.InstanceNorm2d(n), nn.ReLU()]

    up = {"stride": 2, "padding": 1, "output_padding": 1}
    return nn.Sequential(
        nn.ReflectionPad2d(3),
        *normed(nn.Conv2d(3, 4, 7), 4),
        *normed(nn.Conv2d(4, 8, 3, stride=2, padding=1), 8),
        Residual(8),
        *normed(nn.ConvTranspose2d(8, 4, 3, **up), 4),
        nn.ReflectionPad2d(3),
        nn.Conv2d(4, 3, 7),
        nn.Tanh(),
    )


# ---- attention ----------------------------------------------------------------------------------


class Attention(nn.Module):
    """Self-attention: `how` is matmul or sdpa; `fused`: one projection, cut as ViT or as GPT do it."""

    def __init__(self, how: str, fused: str = "", causal: bool = False) -> None:
        super().__init__()
        self.how, self.fused, self.causal = how, fused, causal
        if fused:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        else:
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.o = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.projected(x)
        weigh = self.by_hand if self.how == "matmul" else self.built_in
        z = weigh(q, k, v, mask)
        return self.o(z.transpose(1, 2).reshape(x.shape))

    def projected(self, x: Tensor) -> tuple[Tensor, ...]:
        n, length, width = x.shape
        if self.fused == "vit":
            parts = self.qkv(x).reshape(n, length, 3, HEADS, width // HEADS)
            return parts.permute(2, 0, 3, 1, 4).unbind(0)
        parts = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        return tuple(p.view(n, length, HEADS, width // HEADS).transpose(1, 2) for p in parts)

    def built_in(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if self.causal:
            closed = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(closed, MINUS_INFINITY)
        if mask is not None:
            scores = scores + mask
        return scores.softmax(-1) @ v


class Layer(nn.Module):
    """A layer of an encoder: `first` puts the norms before what they normalise, as ViT does, not after, as BERT."""

    def __init__(self, first: bool, **attention: Any) -> None:
        super().__init__()
        self.first = first
        self.attention = Attention(**attention)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        a, b = self.norms
        if self.first:
            x = x + self.attention(a(x), mask)
            return x + self.mlp(b(x))
        x = a(x + self.attention(x, mask))
        return b(x + self.mlp(x))


class Bert(nn.Module):
    """An encoder of sequences."""

    def __init__(self, **attention: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(False, **attention) for _ in range(N_LAYERS))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x[:, 0])


class ViT(nn.Module):
    """An encoder of pictures."""

    def __init__(self, **attention: Any) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, 5, WIDTH))
        self.layers = nn.ModuleList(Layer(True, **attention) for _ in range(N_LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for layer in self.layers:
            x = layer(x, None)
        return self.head(self.norm(x)[:, 0])


class Encoder(nn.Module):
    """torch's own encoder, with or without a mask of padding."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)
        self.body = nn.TransformerEncoder(layer, N_LAYERS, enable_nested_tensor=False)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.body(x, src_key_padding_mask=padding)
