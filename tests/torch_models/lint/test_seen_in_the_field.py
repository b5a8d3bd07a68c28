"""Ways in which modules that others ship are written, each with what is right about its biases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from converter.torch_models.lint import lint, original_state_dict, strip


class NormEval(nn.Module):
    """A backbone that is fine-tuned: its ``train`` leaves the norm in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b, self.d, self.e = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)

    def train(self, mode: bool = True) -> NormEval:
        super().train(mode)
        self.b.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.e(self.d(functional.relu(self.b(self.c(x))))))


class Statistics(nn.Module):
    """Fixed statistics by the functional form: under names of its own, or those of a module that is never called."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.c, self.own = nn.Conv2d(3, 8, 3), own
        self.g, self.h = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        if own:
            self.register_buffer("mu", torch.zeros(8))
            self.register_buffer("var", torch.ones(8))
        else:
            self.norm = nn.BatchNorm2d(8, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, var = (self.mu, self.var) if self.own else (self.norm.running_mean, self.norm.running_var)
        return functional.relu(functional.batch_norm(self.c(x), mean, var, self.g, self.h, False))


class LinearNorm(nn.Module):
    """A linear layer whose batch norm sees tokens as a batch; the shape comes from what the layer gave."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(x)
        return functional.hardswish(self.b(x.flatten(0, 1)).reshape_as(x))


class Heads(nn.Module):
    """Queries, keys and values packed head by head, and a cache of keys that is empty at the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 2, 3, 4).permute(3, 0, 2, 1, 4)
        k, v = (torch.cat([past, new], 2) for past, new in ((x.new_zeros(n, 2, 0, 4), k), (x.new_zeros(n, 2, 0, 4), v)))
        return self.out((torch.softmax(q @ k.transpose(2, 3) / 2, -1) @ v).transpose(1, 2).reshape(n, t, 8))


class Counted(nn.Module):
    """One that keeps more from its second run on."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b, self.seen = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), None

    def forward(self, x: Tensor) -> Any:
        y = self.b(self.c(x))
        first, self.seen = self.seen is None, y.detach().mean()
        return y if first else (y, y.mean())


def findings(net: nn.Module, *shape: int) -> set[tuple[str, str, Any]]:
    return {(f.code, f.parameter, f.part) for f in lint(net, torch.randn(*shape)).findings}


def test_train_is_called_as_a_training_loop_would() -> None:
    found = findings(NormEval(), 2, 3, 9, 9)
    assert ("frozen-norm-bias", "c.bias", None) in found
    assert ("bias-before-batch-norm", "d.bias", None) in found


def test_what_was_frozen_by_hand_stays_so() -> None:
    net = NormEval()
    net.train()
    net.e.eval()
    assert {code for code, *_ in findings(net, 2, 3, 9, 9)} == {"frozen-norm-bias"}


@pytest.mark.parametrize("own", [True, False])
def test_statistics_of_a_functional_norm_take_nothing_over(own: bool) -> None:
    report = lint(Statistics(own), torch.randn(2, 3, 8, 8))
    assert not report.findings
    assert "not those of a batch norm module" in report.unconfirmed[0].why


def test_a_shape_that_comes_from_the_layer_itself() -> None:
    assert findings(LinearNorm(), 2, 5, 6) == {("bias-before-batch-norm", "c.bias", None)}


def test_keys_that_are_packed_head_by_head_beside_an_empty_cache() -> None:
    assert findings(Heads(), 2, 5, 8) == {
        ("attention-key-bias", "qkv.bias", (4, 8)),
        ("attention-key-bias", "qkv.bias", (16, 20)),
    }


def test_outputs_that_grow_with_the_second_run() -> None:
    assert findings(Counted(), 2, 3, 8, 8) == {("bias-before-batch-norm", "c.bias", None)}


class Squashed(nn.Module):
    def forward(self, b: Tensor) -> Tensor:
        return torch.tanh(b) + b.mean()


def test_a_parametrised_bias() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    for layer in (net[0], net[3]):
        nn.utils.parametrize.register_parametrization(layer, "bias", Squashed())
    name = "0.parametrizations.bias.original"
    assert findings(net, 2, 3, 8, 8) == {("bias-before-batch-norm", name, None)}


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.b(self.c(x))


def test_what_is_not_followed_is_said() -> None:
    report = lint(Autocast(), torch.randn(2, 3, 8, 8))
    assert report.findings or any("under autocast is not followed" in note for note in report.notes)


@pytest.mark.filterwarnings("ignore")
def test_quantisation_aware_training_says_why_nothing_is_dead() -> None:
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).train()
    net.qconfig = get_default_qat_qconfig("fbgemm")  # type: ignore[assignment]
    report = lint(prepare_qat(net), torch.randn(2, 3, 8, 8))
    assert not report.findings
    assert any("none is dead exactly" in " ".join(note.split()) for note in report.notes)


def test_lazy_modules_get_their_shapes() -> None:
    net = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    assert findings(net, 2, 3, 8, 8) == {("bias-before-batch-norm", "0.bias", None)}
    assert torch.nn.parameter.is_lazy(net[0].weight)  # the user's own is left as it was


class TwoNames(nn.Module):
    """A part that the decoder holds too, as segmentation nets have it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.decoder = nn.Module()
        self.decoder.encoder = self.encoder
        self.decoder.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder.head(self.encoder(x))


def _normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8), nn.ReLU())


NETS = {
    "two names": TwoNames,
    "weight norm": lambda: _normed(nn.utils.parametrizations.weight_norm),
    "spectral norm": lambda: _normed(nn.utils.parametrizations.spectral_norm),
    "old weight norm": lambda: _normed(nn.utils.weight_norm),
    "old spectral norm": lambda: _normed(nn.utils.spectral_norm),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETS)
def test_old_checkpoints_fit_what_was_stripped_and_back(name: str) -> None:
    torch.manual_seed(0)
    net, x = NETS[name](), torch.randn(2, 3, 8, 8)
    net(x)
    made = strip(net, x)
    assert not [n for n, _ in made.named_parameters() if n.endswith("0.bias")]
    old = NETS[name]()
    for _ in range(3):
        old(torch.randn(4, 3, 8, 8))
    made.load_state_dict(old.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(made.eval()(x), old.eval()(x), rtol=1e-4, atol=1e-5)
    again = NETS[name]()
    again.load_state_dict(original_state_dict(made))
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), old(x), rtol=1e-4, atol=1e-5)


def test_a_compiled_module_is_stripped_and_loads_old_checkpoints() -> None:
    net, x = _normed(lambda conv: conv), torch.randn(2, 3, 8, 8)
    made = strip(torch.compile(net, backend="eager"), x)
    old = _normed(lambda conv: conv)
    old(torch.randn(4, 3, 8, 8))
    compiled = torch.compile(old, backend="eager")
    made.load_state_dict(compiled.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(made.eval()(x), old.eval()(x), rtol=1e-4, atol=1e-5)
