"""The networks of the zoo as torch modules. Every one reads images ``x`` of shape ``[N, 1, 8, 8]``.

Letters of shapes: N samples, T tokens, D width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CnnBiasBn(nn.Sequential):
    """Convolution *with* bias, BatchNorm, ReLU, three times; BatchNorm cancels the bias. Logits ``[N, 10]``."""

    def __init__(self) -> None:
        super().__init__(
            *_conv_bn(1, 12, bias=True),
            *_conv_bn(12, 24, bias=True),
            nn.MaxPool2d(2),
            *_conv_bn(24, 32, bias=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )


class CnnPlainBn(nn.Sequential):
    """Bias-free convolutions; a BatchNorm also *before* the unpadded stem and before the head. Logits ``[N, 10]``."""

    def __init__(self) -> None:
        super().__init__(
            nn.BatchNorm2d(1),
            nn.Conv2d(1, 16, 3, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            *_conv_bn(16, 24, bias=False),
            *_conv_bn(24, 32, bias=False),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.BatchNorm1d(32 * 9),
            nn.Linear(32 * 9, 10),
        )


def _conv_bn(n_in: int, n_out: int, *, bias: bool) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.Conv2d(n_in, n_out, 3, padding=1, bias=bias), nn.BatchNorm2d(n_out), nn.ReLU()


class InvertedResidual(nn.Module):
    """Widen, depthwise, narrow without activation; added to its input where the shapes agree."""

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1, widen: int = 3) -> None:
        super().__init__()
        wide = n_in * widen
        self.is_residual = stride == 1 and n_in == n_out
        self.body = nn.Sequential(
            nn.Conv2d(n_in, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, n_out, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, n_in, *]`` to ``[N, n_out, *]``."""
        out: Tensor = self.body(x)
        return x + out if self.is_residual else out


class MobileNet(nn.Sequential):
    """Four inverted residuals between a stem and a 1x1 head. Logits ``[N, 10]``."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            InvertedResidual(16, 16),
            InvertedResidual(16, 24, stride=2),
            InvertedResidual(24, 24),
            InvertedResidual(24, 24),
            nn.Conv2d(24, 48, 1, bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(48, 10),
        )


class UNet(nn.Module):
    """Two levels, InstanceNorm with scale and shift after convolutions with bias. Mask logits ``[N, 1, 8, 8]``."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.enter = self._block(1, width)
        self.down = self._block(width, 2 * width)
        self.bottom = self._block(2 * width, 4 * width)
        self.grow_bottom = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up = self._block(4 * width, 2 * width)
        self.grow_up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.leave = self._block(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    @staticmethod
    def _block(n_in: int, n_out: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1), nn.InstanceNorm2d(n_out, affine=True), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, 1, 8, 8]`` to ``[N, 1, 8, 8]``."""
        whole = self.enter(x)
        half = self.down(functional.max_pool2d(whole, 2))
        quarter = self.bottom(functional.max_pool2d(half, 2))
        half = self.up(torch.cat([self.grow_bottom(quarter), half], 1))
        whole = self.leave(torch.cat([self.grow_up(half), whole], 1))
        mask: Tensor = self.head(whole)
        return mask


class RowLstm(nn.Module):
    """An LSTM reads the image row by row; its last state is classified. Logits ``[N, 10]``."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, 1, 8, 8]`` to ``[N, 10]``."""
        _, (state, _) = self.lstm(x.squeeze(1))
        logits: Tensor = self.head(state[-1])
        return logits


class Pixel(nn.Module):
    """Make a vector an image of one pixel, from which ConvTranspose grows."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C]`` to ``[N, C, 1, 1]``."""
        return x.unsqueeze(-1).unsqueeze(-1)


class Autoencoder(nn.Sequential):
    """Linear and BatchNorm1d down to 12 numbers, ConvTranspose and BatchNorm2d up again. Images ``[N, 1, 8, 8]``."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(64, 96),
            nn.BatchNorm1d(96),
            nn.ReLU(),
            nn.Linear(96, 12),
            nn.BatchNorm1d(12),
            nn.Linear(12, 64, bias=False),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            Pixel(),
            nn.ConvTranspose2d(64, 32, 2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 24, 4, stride=2, padding=1),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.ConvTranspose2d(24, 12, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 1, 3, padding=1),
        )


class Attention(nn.Module):
    """Multi-head self-attention with three separate, biased projections."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        q, k, v = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
        score = (q @ k.transpose(-2, -1)) / float(q.shape[-1]) ** 0.5
        mixed: Tensor = self.out((score.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(width), Attention(width, n_heads))
        self.think = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        x = x + self.attend(x)
        out: Tensor = x + self.think(x)
        return out


class TinyVit(nn.Module):
    """Sixteen patches of 2x2 pixels, two transformer blocks, mean over the patches. Logits ``[N, 10]``."""

    def __init__(self, width: int = 32, n_heads: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.place = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(Block(width, n_heads), Block(width, n_heads), nn.LayerNorm(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, 1, 8, 8]`` to ``[N, 10]``."""
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.place
        logits: Tensor = self.head(self.blocks(tokens).mean(1))
        return logits
