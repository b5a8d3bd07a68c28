"""A small torch net for `lint` and `export`: biases before batch norm, before layer norm, and one that matters."""

import torch
from torch import nn


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 6, 3, bias=False)
        self.body_norm = nn.BatchNorm2d(6)
        self.plain = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = torch.relu(self.body_norm(self.body(x)))
        x = torch.relu(self.plain(x))
        return self.head(x.mean((2, 3)))


def small() -> nn.Module:
    torch.manual_seed(0)
    return Small()
