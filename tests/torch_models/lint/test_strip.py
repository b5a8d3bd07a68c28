"""``strip``: the same answers in eval mode, the same training, and checkpoints that fit both ways."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from converter.errors import DataError
from converter.torch_models.lint import Linted, checkpoints, examine, lint, original_state_dict, strip
from converter.torch_models.lint.confirm import difference
from converter.torch_models.lint.module_copies import float_tensors
from tests.torch_models.lint.nets import Attention, Generator, Recurrent, UNet, scrambled

IMAGE = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
STEPS = torch.randn(4, 7, 16, generator=torch.Generator().manual_seed(2))


class Ways(nn.Module):
    """A bias that goes to two norms, to one of them through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.k = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 1)
        self.n, self.m = nn.BatchNorm2d(5), nn.BatchNorm2d(6)
        self.out = nn.Conv2d(11, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(x)
        return self.out(torch.cat([self.n(self.k(y)), self.m(y)], 1).relu())


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.n, self.d = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 3)
        self.n.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.n(self.c(x)).relu())


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0), 2)


def tracked() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.InstanceNorm2d(5, track_running_stats=True), nn.ReLU())


NETS: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "U-Net": (UNet, IMAGE, 34),
    "two ways": (Ways, IMAGE, 11),
    "CycleGAN generator": (lambda: Generator(2, blocks=1), IMAGE[:2], 36),
    "instance norm with statistics": (tracked, IMAGE, 5),
    "frozen norm": (Frozen, IMAGE, 5),
    "transformer encoder": (encoder, STEPS, 0),
    "keys of their own": (Attention, STEPS, 16),
    "LSTM": (Recurrent, STEPS[..., :3], 0),
    "GRU": (lambda: Recurrent(nn.GRU, 2), STEPS[..., :3], 0),
}


@functools.cache
def examined(name: str) -> Linted:
    """Traced once: the findings are about the structure."""
    make, x, _ = NETS[name]
    return examine(make(), x)


def answers(net: nn.Module, x: Tensor, mode: bool = False) -> list[Tensor]:
    """In float64, with the net left as it is."""
    return float_tensors(copy.deepcopy(net).double().train(mode)(x.double()))


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], nn.Module]
    x: Tensor
    n: int

    def stripped(self, net: nn.Module) -> nn.Module:
        return strip(net, linted=examined(self.name))


@pytest.fixture(params=NETS)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    return Case(request.param, *NETS[request.param])


def test_eval_answers_stay_to_rounding(case: Case) -> None:
    make, x, n = case.make, case.x, case.n
    net = scrambled(make()).double()
    less = case.stripped(net)
    assert sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in less.parameters()) == n
    assert difference(answers(net, x), answers(less, x)) <= 1e-12
    assert not checkpoints(less).left


def test_training_answers_stay_to_rounding(case: Case) -> None:
    make, x = case.make, case.x
    net = scrambled(make()).double()
    if isinstance(net, Frozen):
        return  # its mean was moved: `train(True)` would thaw it
    less = case.stripped(net)
    assert difference(answers(net, x, True), answers(less, x, True)) <= 1e-12


def test_nothing_dead_is_left(case: Case) -> None:
    make, x, n = case.make, case.x, case.n
    less = case.stripped(scrambled(make()))
    left = [f for f in lint(less, x).findings if f.code not in ("forget-gate-bias", "doubled-rnn-bias")]
    for finding in left:  # what shares its parameter stays, at zero
        start, stop = finding.part or (None, None)
        assert not less.get_parameter(finding.parameter)[start:stop].any()
    assert not (left and n)


def test_old_checkpoint_loads_into_the_stripped_net(case: Case) -> None:
    make, x = case.make, case.x
    less = case.stripped(make().double())
    other = scrambled(make(), seed=7).double()
    less.load_state_dict(other.state_dict())
    assert difference(answers(other, x), answers(less, x)) <= 1e-12


def test_stripped_checkpoint_goes_back(case: Case) -> None:
    make, x = case.make, case.x
    less = case.stripped(scrambled(make()).double())
    back = make().double()
    back.load_state_dict(original_state_dict(less))
    assert difference(answers(less, x), answers(back, x)) == 0


def test_stripped_checkpoint_loads_as_it_is(case: Case) -> None:
    less = case.stripped(scrambled(case.make()).double())
    state = {key: value.clone() for key, value in less.state_dict().items()}
    less.load_state_dict(state)
    assert all(torch.equal(state[key], value) for key, value in less.state_dict().items())


def test_old_checkpoint_loads_through_a_copy_and_a_parent() -> None:
    parent = nn.ModuleDict({"net": copy.deepcopy(strip(UNet(), IMAGE))})
    other = nn.ModuleDict({"net": scrambled(UNet(), seed=3)})
    parent.load_state_dict(other.state_dict())
    assert difference(answers(other["net"], IMAGE), answers(parent["net"], IMAGE)) <= 1e-6


def test_module_that_checks_versions_loads_its_old_checkpoint() -> None:
    class Versioned(UNet):
        _version = 2

        def _load_from_state_dict(
            self, state: dict[str, Tensor], prefix: str, meta: dict[str, int], *rest: object
        ) -> None:
            assert meta["version"] == 2
            super()._load_from_state_dict(state, prefix, meta, *rest)

    less, other = strip(Versioned(), IMAGE), scrambled(Versioned(), seed=3)
    less.load_state_dict(other.state_dict())
    assert difference(answers(other, IMAGE), answers(less, IMAGE)) <= 1e-6


def test_copy_by_default_and_in_place_when_asked() -> None:
    net = UNet()
    before = copy.deepcopy(net.state_dict())
    less = strip(net, IMAGE)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert less is not net
    assert less.a[0].bias is None
    assert strip(net, IMAGE, in_place=True) is net
    assert net.a[0].bias is None


def test_half_precision_means_are_rounded_once() -> None:
    net = scrambled(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).float()
    less = strip(net, IMAGE)
    exact = net[1].running_mean.double() - net[0].bias.detach().double()
    assert torch.equal(less[1].running_mean, exact.float())


def test_what_eval_mode_reads_elsewhere_stays() -> None:
    class Peeks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.n, self.d, self.m = (
                nn.Conv2d(3, 5, 3),
                nn.BatchNorm2d(5),
                nn.Conv2d(5, 4, 1),
                nn.BatchNorm2d(4),
            )

        def forward(self, x: Tensor) -> Tensor:
            y = self.c(x)
            z = self.m(self.d(self.n(y).relu()))
            return z if self.training else torch.cat([z, y], 1)

    zeros = Peeks()
    nn.init.zeros_(zeros.c.bias)
    for net in (scrambled(Peeks()), zeros):
        less = strip(net, IMAGE)
        assert less.c.bias is not None
        assert less.d.bias is None
        assert checkpoints(less).left == ("c.bias: eval mode reads it elsewhere",)


def test_shared_bias_becomes_zero() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.d = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3)
            self.d.bias = self.c.bias
            self.n, self.m = nn.BatchNorm2d(5), nn.BatchNorm2d(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.n(self.c(x)) + self.m(self.d(x))

    net = scrambled(Twice()).double()
    less = strip(net, IMAGE.double())
    assert not less.c.bias.any()
    assert less.c.bias is less.d.bias
    assert difference(answers(net, IMAGE), answers(less, IMAGE)) <= 1e-12


def test_needs_an_example() -> None:
    with pytest.raises(DataError, match="needs an example"):
        strip(UNet())
    with pytest.raises(DataError, match="was not stripped"):
        checkpoints(UNet())


def trained(net: nn.Module, make: Callable[..., torch.optim.Optimizer], steps: int) -> list[Tensor]:
    """Eval answers after each of some steps."""
    optimizer = make(net.parameters())
    draw = torch.Generator().manual_seed(9)
    found = []
    for _ in range(steps):
        x, y = (torch.randn(4, c, 16, 16, generator=draw, dtype=torch.float64) for c in (3, 2))
        net.train()
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
        found.append(net.eval()(IMAGE.double()).detach())
    return found


def test_sgd_with_momentum_trains_the_same_net() -> None:
    """A dead bias has no gradient, so nothing that SGD does depends on it; weight decay moves it where nobody looks.

    Eval answers agree too: the running mean follows whatever the bias does.
    """
    net = scrambled(UNet()).double()
    less = strip(net, IMAGE.double())

    def sgd(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)  # type: ignore[arg-type]

    for a, b in zip(trained(net, sgd, 8), trained(less, sgd, 8), strict=True):
        assert difference([a], [b]) <= 1e-10


def test_adam_walks_a_dead_bias_and_that_is_all() -> None:
    """Adam divides by the gradient's own size, so rounding noise (1e-17) becomes steps that change nothing in training.

    In eval mode the running mean lags behind the walk: by what the bias moved within the mean's memory of ten
    steps. With Adam's epsilon above the noise the walk, and the difference, are gone.
    """
    lr, steps = 1e-3, 8
    net = scrambled(UNet()).double()
    less = strip(net, IMAGE.double())
    start = net.a[0].bias.detach().clone()

    def adam(eps: float) -> Callable[..., torch.optim.Optimizer]:
        return lambda parameters: torch.optim.Adam(parameters, lr=lr, eps=eps)

    quiet = [trained(copy.deepcopy(n), adam(1e-8), steps)[-1] for n in (net, less)]
    assert difference(quiet[:1], quiet[1:]) <= 1e-8
    loud = [trained(n, adam(1e-20), steps)[-1] for n in (net, less)]
    walked = float((net.a[0].bias.detach() - start).abs().max())
    assert lr / 10 <= walked <= 1.5 * lr * steps
    assert 1e-9 <= difference(loud[:1], loud[1:]) <= 100 * lr * steps


def test_merged_recurrent_bias_learns_at_half_the_rate() -> None:
    """Two biases with one gradient move twice: the sum is the same function, not the same training."""
    torch.manual_seed(0)
    net = Recurrent().double()
    less = strip(net, STEPS[..., :3].double())
    x = STEPS[..., :3].double()
    moved = []
    for n in (net, less):
        before = (n.r.bias_ih_l0 + n.r.bias_hh_l0).detach().clone()
        optimizer = torch.optim.SGD([p for p in n.parameters() if p.requires_grad], lr=0.1)
        n(x).square().mean().backward()
        optimizer.step()
        moved.append((n.r.bias_ih_l0 + n.r.bias_hh_l0).detach() - before)
    assert torch.allclose(moved[0], 2 * moved[1], rtol=1e-9)
    assert not less.r.bias_hh_l0.requires_grad
