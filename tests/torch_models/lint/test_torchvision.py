"""Real nets: of torchvision's classification nets only VGG with batch norms has convolution biases that are dead."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from converter.errors import RuntimeUnavailable
from converter.torch_models.lint import lint, recording, strip
from converter.torch_models.lint.confirm import difference
from converter.torch_models.lint.flow import find_candidates
from converter.torch_models.lint.module_copies import Example
from converter.torch_models.lint.trace import trace_module
from converter.torch_models.spec.libraries import need

pytestmark = pytest.mark.slow

try:
    models = need("torchvision").models
except RuntimeUnavailable as missing:
    pytest.skip(f"torchvision cannot be imported: {missing}", allow_module_level=True)

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def built(name: str) -> nn.Module:
    """The net as it is, but for a VGG's classifier of a hundred million weights, which costs seconds to fill."""
    torch.manual_seed(0)
    if not name.startswith("vgg"):
        return models.get_model(name, weights=None)
    return models.get_model(name, weights=None, init_weights=False, num_classes=7)


@pytest.mark.parametrize(
    ("name", "n"), [("vgg11_bn", 2752), ("vgg13_bn", 2944), ("vgg16_bn", 4224), ("vgg19_bn", 5504)]
)
def test_vgg_with_batch_norms(name: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: None)
    found = list(find_candidates(trace_module(built(name), Example((IMAGES,), {})), None))
    assert sum(candidate.n_parameters for candidate in found) == n
    assert {candidate.code for candidate in found} == {"bias-before-batch-norm"}


@pytest.mark.parametrize("name", ["vgg11", "resnet50", "squeezenet1_0"])
def test_others_have_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: None)
    assert not list(find_candidates(trace_module(built(name), Example((IMAGES,), {})), None))


def test_vgg11_confirmed_located_and_stripped() -> None:
    with recording() as places:
        net = models.vgg11_bn(weights=None, num_classes=5)
        net.classifier = nn.Linear(512 * 7 * 7, 5)
    report = lint(net, IMAGES[:, :, :32, :32], places=places)
    assert report.n_dead == 2752
    assert not report.unconfirmed
    assert {f.location.path.rpartition("/")[2] for f in report.findings if f.location} == {"vgg.py"}
    less = strip(net, IMAGES[:, :, :32, :32])
    assert sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in less.parameters()) == 2752
    x = IMAGES[:, :, :32, :32]
    assert difference([net.eval()(x)], [less.eval()(x)]) <= 1e-4


def test_key_biases_of_swin_attention() -> None:
    net = models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [7, 7], num_classes=3)
    report = lint(net, IMAGES)
    assert {f.code for f in report.findings} == {"attention-key-bias"}
    assert report.n_dead == 24 + 48


def test_offsets_of_mobilenets_linear_bottlenecks() -> None:
    """No activation follows them, only 1x1 convolutions with batch norms: 17 betas that change nothing in training."""
    found = list(find_candidates(trace_module(models.mobilenet_v2(weights=None), Example((IMAGES,), {})), None))
    assert {candidate.code for candidate in found} == {"dead-norm-offset"}
    assert len(found) == 17
    assert sum(c.n_parameters for c in found) == 16 + 2 * 24 + 3 * 32 + 4 * 64 + 3 * 96 + 3 * 160 + 320


def test_timm_attention() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    net = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=2)
    report = lint(net, torch.randn(2, 3, 32, 32))
    assert [f.part for f in report.findings if f.code == "attention-key-bias"] == [(192, 384)] * 2
