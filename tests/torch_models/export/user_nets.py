"""Nets as users write them; every tensor of a net is random, so that a wrong fold would show."""

import torch
from torch import nn


def spread(net, seed=0):
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*net.named_parameters(), *net.named_buffers()):
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=random) + 0.5)
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=random) * 0.3)
            else:
                value.fill_(7)
    return net


class Block(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.body = nn.Sequential(nn.ReLU(), inner)

    def forward(self, x):
        return self.body(self.norm(self.conv(x)))


def block(inner=None, width=4):
    return spread(Block(inner or nn.Conv2d(5, width, 1))).eval()


class Many(nn.Module):
    """Integers in, a dict out."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, ids, mask=None, *, scale):
        found = self.norm(self.table(ids).transpose(1, 2))
        if mask is not None:
            found = found * mask[:, None]
        return {"logits": found * scale, "best": found.argmax(1), "parts": (found.sum(-1), None)}


def many():
    return spread(Many()).eval()


def many_inputs():
    return {"ids": torch.arange(10).reshape(2, 5), "scale": torch.tensor(2.0)}


def pair_inputs():
    return torch.ones(2, 3, 7, 9), torch.ones(2, 3, 7, 9)


class Sum(nn.Module):
    def forward(self, left, right):
        return left + right, left - right


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class Broken(nn.Module):
    def forward(self, x):
        raise ValueError("no good\nat all")


class Branch(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 1e9 else x + 1


class Baked(nn.Module):
    """Leaves torch, so that tracing sees a constant."""

    def forward(self, x):
        return torch.from_numpy(x.detach().numpy() * 2)


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class OneBatch(nn.Module):
    """Its shape arithmetic is Python's, which tracing does not see."""

    def forward(self, x):
        return x.reshape(int(x.shape[0]), -1)


class Stubborn(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(True)


class Thing:
    pass


class Strange(nn.Module):
    def forward(self, x):
        return Thing()


def fails():
    raise KeyError("backbone")


def number():
    return 3


def in_training():
    return block().train()


def without_statistics():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))


def with_nan():
    net = block()
    net.conv.weight.data[0, 0, 0, 0] = float("nan")
    return net


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3))


def on_meta():
    with torch.device("meta"):
        return Block(nn.Identity())


def unseen():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None)).eval()


def bfloat16():
    return block().bfloat16()


def half():
    return block().half()


class Fixed(nn.Module):
    """A width that tracing takes for a constant."""

    def forward(self, x):
        return x.reshape(-1, 3, 7, int(x.shape[3])) * 2 + x[:, :, :, :1].expand(-1, -1, -1, int(x.shape[3]))


class Passes(nn.Module):
    """Gives back what it was given, and one thing twice."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(9, 2)

    def forward(self, both):
        y = self.lin(both["a"])
        return y, [y, both["b"]]


def both_inputs():
    return ({"a": torch.ones(2, 9), "b": torch.ones(2, 3)},)


class Recurrent(nn.Module):
    """Its states' first size is 2, as the batch of the example is."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.lstm(x)


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x)
