"""Rules one by one: where a change of a bias ends, and where nobody may say so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from converter.torch_models.lint.confirm import TOLERANCE, Change, Twin
from converter.torch_models.lint.flow import BiasFlow, Trace
from converter.torch_models.lint.module_copies import Example
from converter.torch_models.lint.rules.layout import match_axes, refine_group
from converter.torch_models.lint.trace import TracedModule, trace_module
from tests.torch_models.lint.nets import Attention, HandWritten, causal, rotated, sigmoid, sink, softmax

STEPS = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(3))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))


class Step(nn.Module):
    """A bias of six channels at 8 x 8 places, and one function of it."""

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.c, self.step = nn.Conv2d(3, 6, 1), step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.c(x), x)


def traced(net: nn.Module, x: Tensor = IMAGE) -> TracedModule:
    return trace_module(net, Example((x,), {}))


def decide(net: nn.Module, parameter: str, x: Tensor = IMAGE, part: tuple[int, int] | None = None) -> Trace:
    """The trace's verdict, which float64 must not contradict."""
    found = traced(net, x)
    outcome = BiasFlow(found).trace(parameter, part)
    moved = Twin(found.module, found.example).output_change([Change(parameter, part)])
    assert (moved <= TOLERANCE) is outcome.dead, moved
    return outcome


def bn(y: Tensor) -> Tensor:
    return nn.functional.batch_norm(y, None, None, training=True)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("weigh", "turn", "norm", "dead"),
    [
        (None, None, False, True),
        (softmax, None, False, True),
        (causal, None, False, True),
        (None, rotated, False, False),
        (softmax, rotated, False, False),
        (None, None, True, False),
        (sigmoid, None, False, False),
        (sink, None, False, False),
    ],
)
def test_key_biases(packed: bool, weigh: object, turn: object, norm: bool, dead: bool) -> None:
    torch.manual_seed(0)
    net = Attention(weigh, packed, turn, norm)  # type: ignore[arg-type]
    name, part = ("qkv.bias", (16, 32)) if packed else ("k.bias", None)
    assert decide(net, name, STEPS, part).dead is dead


@pytest.mark.parametrize("part", [(0, 16), (32, 48), (15, 32), (16, 33), (0, 48)])
def test_other_parts_of_a_packed_bias_live(part: tuple[int, int]) -> None:
    torch.manual_seed(0)
    assert not decide(Attention(packed=True), "qkv.bias", STEPS, part).dead


@pytest.mark.parametrize("own", ["q.bias", "v.bias", "out.bias"])
def test_query_value_and_output_biases_live(own: str) -> None:
    torch.manual_seed(0)
    assert not decide(Attention(softmax), own, STEPS).dead


def test_keys_of_multihead_attention() -> None:
    class Self(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.m(x, x, x)[0]

    torch.manual_seed(0)
    net = Self()
    nn.init.normal_(net.m.in_proj_bias)
    assert decide(net, "m.in_proj_bias", STEPS, (16, 32)).dead
    assert not decide(net, "m.in_proj_bias", STEPS, (0, 16)).dead


def test_hand_written_norm() -> None:
    outcome = decide(HandWritten(), "c.bias")
    assert outcome.dead
    assert {cancel.kind for cancel in outcome.cancels} == {"centring"}


def fold_patches(y: Tensor, by: int = 2, channels: int | None = None) -> Tensor:
    """Into patches, channels last, and back, as nets that mix convolutions and transformers do: by merging reshapes."""
    n, c, h, w = y.shape
    rows, columns = h // by, w // by
    patches = y.reshape(n * c * rows, by, columns, by).transpose(1, 2).reshape(n, c, rows * columns, by * by)
    tokens = patches.transpose(1, 3).reshape(n * by * by, rows * columns, -1)
    tokens = tokens / 3 if channels is None else tokens
    back = tokens.view(n, by * by, rows * columns, -1).transpose(1, 3)
    if channels is not None:  # the batch taken for channels: each channel meets others
        back = back.reshape(n * c, -1).view(channels, -1, rows * columns, by * by)
        n, c = channels, n * c // channels
    return back.reshape(n * c * rows, columns, by, by).transpose(1, 2).reshape(n, c, h, w)


def window(y: Tensor, kernel: int, stride: int, padding: int = 0, out: int = 8) -> Tensor:
    columns = nn.functional.unfold(y, kernel, stride=stride, padding=padding)
    return nn.functional.fold(columns, (out, out), kernel, stride=stride, padding=padding)


def in_windows(y: Tensor) -> Tensor:
    """A norm over the windows of each channel's columns."""
    columns = nn.functional.unfold(y, 2, stride=2)
    return bn(columns.view(len(y), 6, 4, -1).flatten(2))


DEAD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "channel shuffle": lambda y, _: bn(y.view(2, 2, 3, 8, 8).transpose(1, 2).reshape(2, 6, 8, 8)),
    "split and joined again": lambda y, _: bn(torch.cat(y.chunk(2, 1)[::-1], 1)),
    "repeated": lambda y, _: bn(y.repeat(1, 2, 1, 1)),
    "flipped": lambda y, _: bn(y.flip(1)),
    "places moved": lambda y, _: bn(y.roll(3, 2)),
    "half of it": lambda y, _: bn(y[:, :, :, ::2] / 3 + 1),
    "minus": lambda y, _: bn(1 - y),
    "circular pad": lambda y, _: bn(nn.functional.pad(y, (1, 1, 1, 1), mode="circular")),
    "cropped": lambda y, _: bn(nn.functional.pad(y, (-1, -1, 0, 0))),
    "mean over places": lambda y, _: bn(y.mean((2, 3))),
    "largest place": lambda y, _: bn(y.amax((2, 3))),
    "another input's scale by channel": lambda y, x: bn(y * x.mean((0, 2, 3)).repeat(2)[:, None, None]),
    "channels last and linear": lambda y, _: bn((y.permute(0, 2, 3, 1) @ torch.ones(6, 4).to(y)).permute(0, 3, 1, 2)),
    "einsum": lambda y, _: bn(torch.einsum("nchw,cd->ndhw", y, torch.arange(24.0).view(6, 4).to(y))),
    "its own mean": lambda y, _: y - y.mean((2, 3), keepdim=True),
    "its own deviation": lambda y, _: (y - y.amin((2, 3), keepdim=True)) / y.std((2, 3), keepdim=True),
    "softmax over places": lambda y, _: y.flatten(2).softmax(-1),
    "written in place": lambda y, _: bn(y.add_(1).mul_(2)),
    "feature dropout before an instance norm": lambda y, _: nn.functional.instance_norm(
        nn.functional.dropout2d(y, 0.3, training=True)
    ),
    "folded into patches and back": lambda y, _: bn(fold_patches(y)),
    "joined with the batch": lambda y, _: bn((-y.reshape(12, 64)).view(2, 6, 8, 8)),
    "joined with the batch, and through a layer": lambda y, _: bn(
        nn.functional.linear(y.reshape(12, 8, 8), torch.arange(64.0).view(8, 8).to(y)).view(2, 6, 8, 8).mean(3)
    ),
    "unfolded and folded": lambda y, _: bn(window(y, 2, 2)),
    "unfolded": lambda y, _: in_windows(y),
    "chosen by channel": lambda y, _: bn(torch.where(torch.arange(6)[:, None, None] > 2, y, 0.0)),
}
LIVE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "stacked beside twice itself": lambda y, _: bn(torch.stack([y, 2 * y], 2)),
    "flattened into features": lambda y, _: nn.functional.layer_norm(y.flatten(1), (384,)),
    "squared": lambda y, _: bn(y.square()),
    "gated by its input": lambda y, x: bn(y * x[:, :1]),
    "divided into": lambda y, _: bn(1 / (y + 20)),
    "softmax over channels": lambda y, _: y.softmax(1),
    "masked at places": lambda y, x: bn(y.masked_fill(x[:, :1] > 0, 0.0)),
    "feature dropout before a batch norm": lambda y, _: bn(nn.functional.dropout2d(y, 0.5, training=True)),
    "joined along places": lambda y, _: bn(torch.cat([y, torch.zeros_like(y)], 2)),
    "read before it is written": lambda y, _: (lambda old: bn(y.mul_(y.detach().sin())) + bn(old).view_as(y))(
        y.view(2, 6, 64)
    ),
    "written through a view": lambda y, _: (y[:, :, :2].relu_(), bn(y))[1],
    "larger of two": lambda y, x: bn(torch.maximum(y, x.repeat(1, 2, 1, 1))),
    "mean over channels": lambda y, _: y - y.mean(1, keepdim=True),
    "minus half of its mean": lambda y, _: y - 0.5 * y.mean((2, 3), keepdim=True),
    "the mean of another": lambda y, _: y.flip(1) - y.mean((2, 3), keepdim=True),
    "positions added to a product": lambda y, x: bn(
        y.flatten(2).transpose(1, 2) @ x.flatten(2)[:, :, :6].mean(1)[:, :, None]
    ),
    "rounded": lambda y, _: bn(torch.round(y)),
    "cast to whole numbers": lambda y, _: bn((8 * y).to(torch.int64).to(y.dtype)),
    "pixel shuffle": lambda y, _: bn(nn.functional.pixel_shuffle(torch.cat([y, y], 1), 2)),
    "transposed convolution": lambda y, _: bn(nn.functional.conv_transpose2d(y, torch.ones(6, 2, 3, 3).to(y))),
    "folded into patches of which others are made": lambda y, _: bn(fold_patches(y, channels=3)),
    "joined with the batch and cut": lambda y, _: bn(y.reshape(12, 64)[1:11].reshape(2, 5, 64)),
    "joined with the batch and scaled": lambda y, x: bn(
        (y.reshape(12, 64) * x.reshape(6, 64).repeat(2, 1)).view(2, 6, 64)
    ),
    "joined with the batch, taken apart by another size": lambda y, _: bn(y.reshape(12, 64).view(4, 3, 64)),
    "unfolded with padding": lambda y, _: bn(nn.functional.unfold(y, 2, stride=2, padding=1)),
    "folded over one another": lambda y, _: bn(window(y, 3, 1)),
    "folded into a larger image": lambda y, _: bn(window(y, 2, 2, out=9)),
    "columns normalised among each other": lambda y, _: nn.functional.layer_norm(
        nn.functional.unfold(y, 2, stride=2).transpose(1, 2), (24,)
    ),
    "it is an output too": lambda y, _: torch.cat([bn(y), y]),
}


@pytest.mark.parametrize("name", DEAD)
def test_dead(name: str) -> None:
    torch.manual_seed(0)
    assert decide(Step(DEAD[name]), "c.bias").dead


@pytest.mark.parametrize("name", LIVE)
def test_live(name: str) -> None:
    torch.manual_seed(0)
    assert not decide(Step(LIVE[name]), "c.bias").dead


def test_a_single_image_does_not_hide_what_differs_between_images() -> None:
    """With a batch of one, a gate per image would look like a scale per channel."""
    net = Step(lambda y, x: bn(y * x.mean((1, 2, 3), keepdim=True)))
    found = trace_module(net, Example((IMAGE[:1],), {}))
    assert not BiasFlow(found).trace("c.bias").dead
    assert len(found.example.args[0]) == 2


def test_reshape_groups() -> None:
    assert match_axes((2, 6, 5), (2, 2, 3, 5)) == [([0], [0]), ([1], [1, 2]), ([2], [3])]
    assert match_axes((4, 3), (2, 6)) == [([0, 1], [0, 1])]


def test_finest_axes_of_a_group() -> None:
    assert refine_group((2, 6, 4), (24, 2)) == [(2, 0, 0), (6, 1, 0), (2, 2, 0), (2, 2, 1)]
    assert refine_group((2, 1, 6), (12, 1)) == [(2, 0, 0), (6, 2, 0)]
    assert refine_group((4, 3), (6, 2)) is None
    assert refine_group((0, 3), (3, 0)) is None


def test_falls_back_to_torch_fx() -> None:
    """Control flow on values stops torch.export; the recording of operators goes on."""

    def step(y: Tensor, x: Tensor) -> Tensor:
        return bn(y) if float(x.sum()) > -1e9 else y

    found = traced(Step(step))
    assert found.tracer == "torch.fx"
    assert BiasFlow(found).trace("c.bias").dead


@pytest.mark.parametrize("step", [lambda y, _: bn(y), lambda y, _: y.relu(), lambda y, x: bn(y * x[:, :1])])
def test_both_tracers_agree(step: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    first = BiasFlow(traced(Step(step))).trace("c.bias").dead

    def declines(*_: object) -> None:
        raise RuntimeError("declined")

    monkeypatch.setattr("converter.torch_models.lint.trace._export_graph", declines)
    found = traced(Step(step))
    assert found.tracer == "torch.fx"
    assert BiasFlow(found).trace("c.bias").dead is first
