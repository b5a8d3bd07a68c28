"""What a module keeps, what hooks are shown, other sizes: a bias that is felt there is not called dead."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from converter.errors import ModelError
from converter.torch_models.lint import lint
from converter.torch_models.lint.module_copies import copy_module

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    centre: Tensor

    def __init__(self, step: Callable[[Net, Tensor], object]) -> None:
        super().__init__()
        self.c, self.n = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.step = step
        self.features: list[Tensor] = []
        self.register_buffer("centre", torch.zeros(4))

    def forward(self, x: Tensor) -> object:
        y = self.c(x)
        self.step(self, y)
        return self.n(y)


def _kept(net: Net, y: Tensor) -> None:
    net.feature = y


def _listed(net: Net, y: Tensor) -> None:
    net.features.append(y)


def _averaged(net: Net, y: Tensor) -> None:
    net.centre.mul_(0.9).add_(0.1 * y.mean((0, 2, 3)).detach())


@pytest.mark.parametrize("step", [_kept, _listed, _averaged])
def test_bias_that_is_felt_in_what_the_module_keeps(step: Callable[[Net, Tensor], object]) -> None:
    report = lint(Net(step), IMAGE)
    assert not report.findings
    assert [(u.parameter, "moves the output" in u.why) for u in report.unconfirmed] == [("c.bias", True)]


def test_what_is_kept_and_does_not_feel_it() -> None:
    report = lint(Net(lambda net, y: setattr(net, "feature", y.var((0, 2, 3)))), IMAGE)
    assert [f.parameter for f in report.findings] == ["c.bias"]


@pytest.mark.parametrize("before", [False, True])
def test_bias_that_a_hook_is_shown(before: bool) -> None:
    net, seen = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), []
    if before:
        net[1].register_forward_pre_hook(lambda _, args: seen.append(args))
    else:
        net[0].register_forward_hook(lambda *args: seen.append(args))
    report = lint(net, IMAGE)
    assert not report.findings
    assert [u.parameter for u in report.unconfirmed] == ["0.bias"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_hooks_of_torch_s_own_are_no_readers() -> None:
    for norm in (nn.utils.spectral_norm, nn.utils.weight_norm):
        report = lint(nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)), IMAGE)
        assert [f.parameter for f in report.findings] == ["0.bias"]


class Padded(nn.Module):
    """Zeros at the edge, unless the size is a multiple of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.n = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.d, self.m = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        gap = -x.shape[-1] % 8
        found: Tensor = self.n(nn.functional.pad(self.c(x), (0, gap))) + self.m(
            nn.functional.pad(self.d(nn.functional.pad(x, (0, gap))), (0, 0))
        )
        return found


@pytest.mark.parametrize("size", [8, 48])
def test_bias_that_is_felt_at_another_size(size: int) -> None:
    report = lint(Padded(), torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(4)))
    assert [f.parameter for f in report.findings] == ["d.bias"]
    assert [(u.parameter, "another size" in u.why) for u in report.unconfirmed] == [("c.bias", True)]


def test_an_infinite_output_hides_nothing() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.n = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.n(self.c(x))
            return y + self.n.get_buffer("running_mean").view(-1, 1, 1), torch.full_like(x, -torch.inf)

    assert not lint(Masked(), IMAGE).findings


def test_lazy_modules_that_get_no_shapes_are_named() -> None:
    net = nn.Sequential(nn.LazyConv2d(8, 3))
    with pytest.raises(ModelError, match=r"Sequential: its lazy modules get no shapes \(.*\); give an example"):
        lint(net, torch.randn(2, 3))
    with pytest.raises(ModelError, match=r"no shape yet for 0\.weight, 0\.bias \(lazy modules\)"):
        copy_module(net)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scripted_parts_are_followed() -> None:
    report = lint(nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)), IMAGE)
    assert [f.parameter for f in report.findings] == ["0.bias"]
