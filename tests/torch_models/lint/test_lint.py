"""``lint``: findings with their place, their evidence and their fix; and what it must not do."""

from __future__ import annotations

import copy
import inspect
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from converter.errors import DataError, ModelError
from converter.records.lint import CODES, Kind, LintReport
from converter.torch_models.lint import lint, linter, recording
from converter.torch_models.lint.confirm import Change, Measured
from converter.torch_models.lint.module_copies import Example, parse_example
from tests.torch_models.lint import nets
from tests.torch_models.lint.nets import Attention, Generator, HandWritten, Recurrent, UNet

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
STEPS = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(2))


def made(make: object, *args: object, x: Tensor = IMAGE, **kwargs: object) -> LintReport:
    torch.manual_seed(0)
    with recording() as places:
        net = make(*args, **kwargs)  # type: ignore[operator]
    return lint(net, x, places=places, root=Path(nets.__file__).parent)


def test_unet() -> None:
    report = made(UNet)
    assert report.n_dead == 2 * (5 + 7 + 5)
    assert {f.code for f in report.findings} == {"bias-before-batch-norm"}
    assert not report.unconfirmed


def test_generator() -> None:
    report = made(Generator)
    dead = [f for f in report.findings if f.kind is Kind.DEAD]
    assert {f.code for f in dead} == {"bias-before-instance-norm"}
    assert report.n_dead == 4 + 8 + 16 + 4 * 16 + 8 + 4
    assert "affine=True" in dead[0].fix


def test_rule_that_switches_biases_on_for_instance_norms() -> None:
    lines, start = inspect.getsourcelines(Generator)
    line = start + next(i for i, text in enumerate(lines) if "use_bias = " in text)
    (rule,) = [f for f in made(Generator).findings if f.code == "use-bias-if-instance-norm"]
    assert rule.location is not None
    assert rule.location.line == line
    assert "104 parameters in 9 biases" in rule.message
    with_batch_norm = made(Generator, norm_layer=nn.BatchNorm2d)
    assert not with_batch_norm.findings


def test_constructing_call_is_found_to_the_column() -> None:
    finding = made(UNet).findings[0]
    assert finding.location is not None
    assert finding.called_from is None
    source = Path(finding.location.path).read_text(encoding="utf-8").splitlines()
    text = source[finding.location.line - 1][finding.location.column - 1 : finding.location.end_column - 1]
    assert text == "nn.Conv2d(i, o, 3, padding=1)"


def test_constructing_call_is_read_from_the_class_where_nobody_watched() -> None:
    finding = lint(HandWritten(), IMAGE).findings[0]
    assert finding.location is not None
    lines, start = inspect.getsourcelines(HandWritten)
    assert finding.location.line == start + next(i for i, text in enumerate(lines) if "nn.Conv2d" in text)


def test_of_a_layer_of_torchs_own_the_users_call_is_shown() -> None:
    report = made(nn.TransformerEncoderLayer, 16, 4, 32, batch_first=True, x=STEPS)
    (finding,) = report.findings
    assert (finding.code, finding.part) == ("attention-key-bias", (16, 32))
    assert finding.location is not None
    assert Path(finding.location.path) == Path(__file__)


def test_transformer_encoder() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    report = made(nn.TransformerEncoder, layer, 2, x=STEPS)
    assert [f.module for f in report.findings] == ["layers.0.self_attn", "layers.1.self_attn"]
    assert report.n_dead == 32


def test_finding_has_its_evidence() -> None:
    finding = made(UNet).findings[0]
    assert finding.evidence["output_change"] <= 1e-12
    assert finding.evidence["gradient_ratio"] <= 1e-12
    assert finding.evidence["ends_at"] == ["a.1"]
    assert "0-6 %" in finding.cost


@pytest.mark.parametrize(("make", "n"), [(nn.LSTM, 20), (nn.GRU, 10), (nn.RNN, 5)])
def test_doubled_recurrent_biases(make: type[nn.RNNBase], n: int) -> None:
    report = made(Recurrent, make, x=STEPS[..., :3])
    (finding,) = [f for f in report.findings if f.code == "doubled-rnn-bias"]
    assert (finding.parameter, finding.n_parameters, finding.part) == ("r.bias_hh_l0", n, (0, n))
    assert report.n_redundant == n


def test_candidate_of_a_gru_is_not_doubled() -> None:
    """Its third of b_hh is inside the reset gate's product: moving it as well would be seen."""
    twin = linter.Twin(nn.GRU(3, 5), Example((STEPS[..., :3],), {}))
    assert twin.output_change([Change("bias_hh_l0", (0, 10), "bias_ih_l0")]) <= 1e-12
    assert twin.output_change([Change("bias_hh_l0", (0, 15), "bias_ih_l0")]) > 1e-3


def test_layers_directions_and_cells() -> None:
    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.r = nn.LSTM(3, 5, 2, bidirectional=True, proj_size=2)
            self.cell = nn.GRUCell(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.cell(self.r(x)[0][0])

    report = made(Cells, x=STEPS[..., :3])
    found = {f.parameter for f in report.findings if f.code == "doubled-rnn-bias"}
    ends = ("l0", "l0_reverse", "l1", "l1_reverse")
    assert found == {*(f"r.bias_hh_{end}" for end in ends), "cell.bias_hh"}
    assert not report.unconfirmed


def test_forget_gate_near_zero_and_what_to_set() -> None:
    report = made(Recurrent, x=torch.randn(2, 41, 3))
    (finding,) = [f for f in report.findings if f.code == "forget-gate-bias"]
    assert finding.part == (5, 10)
    assert finding.evidence["memory_steps"] == pytest.approx(1 + math.exp(finding.evidence["bias"]))
    assert finding.evidence["advised"] == 2.0


@pytest.mark.parametrize(("value", "steps"), [(1.0, 41), (0.0, 3)])
def test_forget_gate_that_is_well(value: float, steps: int) -> None:
    net = Recurrent()
    with torch.no_grad():
        net.r.bias_ih_l0[5:10], net.r.bias_hh_l0[5:10] = value, 0.0
    assert "forget-gate-bias" not in {f.code for f in lint(net, torch.randn(2, steps, 3)).findings}


class Frozen(nn.Module):
    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        self.c, self.n = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, affine=affine)
        self.n.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.n(self.c(x)).relu()


def test_frozen_norm() -> None:
    (finding,) = lint(nets.scrambled(Frozen()), IMAGE).findings
    assert (finding.code, finding.kind, finding.parameter) == ("frozen-norm-bias", Kind.REDUNDANT, "c.bias")
    assert finding.evidence["output_change"] <= 1e-12


def test_frozen_norm_whose_offset_is_not_trained_needs_the_bias() -> None:
    assert not lint(Frozen(affine=False), IMAGE).findings
    net = Frozen()
    net.n.bias.requires_grad_(False)
    assert not lint(net, IMAGE).findings


def test_net_in_eval_mode_is_linted_as_it_trains() -> None:
    assert [f.code for f in lint(Frozen().eval(), IMAGE).findings] == ["bias-before-batch-norm"]


@pytest.mark.parametrize(("bias", "dtypes"), [(0.1, []), (30.0, ["bfloat16"]), (300.0, ["bfloat16", "float16"])])
def test_large_bias_before_a_norm(bias: float, dtypes: list[str]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    with torch.no_grad():
        net[0].weight.div_(net[0](IMAGE).std())
        net[0].bias.fill_(bias)
    found = [f for f in lint(net, IMAGE).findings if f.code == "large-bias-before-norm"]
    assert [f.evidence["dtype"] for f in found] == dtypes
    for f in found:
        assert f.evidence["sd"] == pytest.approx(bias, rel=0.5)
        assert f.evidence["error"] > 4 * f.evidence["error_without"]


def test_what_float64_contradicts_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def contradicts(twin: object, changes: dict[str, Change]) -> dict[str, Measured]:
        return dict.fromkeys(changes, Measured(0.5, 0.5, False, "changing it moves the output"))

    monkeypatch.setattr(linter, "confirm", contradicts)
    report = lint(UNet(), IMAGE)
    assert not report.findings
    assert {(u.code, u.why) for u in report.unconfirmed} == {("bias-before-batch-norm", "changing it moves the output")}


def test_module_that_does_not_run_in_float64_has_no_findings() -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.n = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.n(self.c(x.float()))

    report = lint(Narrow(), IMAGE)
    assert not report.findings
    assert [u.parameter for u in report.unconfirmed] == ["c.bias"]
    assert "float64" in report.notes[0]


def test_module_and_example_are_left_alone() -> None:
    net = UNet()
    before, x = copy.deepcopy(net.state_dict()), IMAGE.clone()
    lint(net, x)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert torch.equal(x, IMAGE)
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_caller_keeps_its_random_numbers() -> None:
    net = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    lint(net, IMAGE)
    assert torch.equal(torch.rand(3), expected)


def test_example_that_does_not_fit() -> None:
    with pytest.raises(DataError, match=r"does not run .*\(in a\.0 \(Conv2d\)\).*give an example"):
        lint(UNet(), torch.randn(2, 4, 16, 16))


def test_untraceable_module_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if torch.compiler.is_exporting() or get_proxy_mode() is not None:
                raise NotImplementedError("this kernel is\nnot for tracing")
            return x

    net = nn.Sequential(nn.Conv2d(3, 4, 1), Odd())
    with pytest.raises(ModelError, match=r"could not be traced: module 1 \(Odd\), operator ") as caught:
        lint(net, IMAGE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [(IMAGE,), {"x": IMAGE}, IMAGE])
def test_examples_of_all_sorts(given: object) -> None:
    assert len(parse_example(given).tensors()) == 1
    assert lint(UNet(), given).n_dead == 34


def test_zeros_as_an_example_confirm_too() -> None:
    assert lint(UNet(), torch.zeros(1, 3, 16, 16)).n_dead == 34


def test_head_of_zeros_hides_nothing() -> None:
    """As vision transformers start: without values for it, every gradient is 0 and every bias looks dead."""

    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = Attention(packed=True), nn.Linear(16, 2)
            for parameter in (*self.head.parameters(), self.attention.out.weight):
                nn.init.zeros_(parameter)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x))

    (finding,) = made(Zero, x=STEPS).findings
    assert (finding.parameter, finding.part) == ("attention.qkv.bias", (16, 32))
    assert finding.evidence["output_change"] > 0


def test_codes_are_kebab_case_and_explained() -> None:
    names = [code.name for code in CODES]
    assert len(set(names)) == len(names)
    for code in CODES:
        assert code.name == code.name.lower().replace("_", "-")
        assert code.summary
        assert code.why.endswith(".")
        assert code.fix


def test_separate_keys_projection() -> None:
    (finding,) = made(Attention, x=STEPS).findings
    assert (finding.code, finding.parameter, finding.fix) == ("attention-key-bias", "k.bias", "bias=False")
