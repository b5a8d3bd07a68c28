"""The benchmark measures what it says: counts, errors, costs, and what did not work."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import tiny
from tests.benchmarks import peers, proc, score, tables

TOOLS = [tables.Tool("biasopt", "0.1.0"), tables.Tool("onnxruntime", "1.32.0"), tables.Tool("onnxsim", "")]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    draw = tiny.Draw()
    text = f"{tiny.X} => {tiny.Y} {{ c = Conv(x, w, b) y = BatchNormalization(c, g, be, m, v) }}"
    path = tmp_path / "model.onnx"
    onnx.save(tiny.model(text, draw.conv(5, 3, 3, 3, bias=5) | draw.bn(5)), path)
    return path


def test_counts_what_is_there(saved: Path) -> None:
    assert score.counts(saved) == {"nodes": 2, "bn": 1, "bias": 1}


def test_counts_inside_branches_and_not_empty_names(tmp_path: Path) -> None:
    text = """(bool p, float[2,3,11,13] x) => (y) {
        y = If(p) <then_branch = t () => (a) { a = Conv(x, w, "") },
                   else_branch = e () => (a) { c = Conv(x, w) a = BatchNormalization(c, g, be, m, v) }>
    }"""
    draw = tiny.Draw()
    onnx.save(tiny.model(text, draw.conv(5, 3, 3, 3) | draw.bn(5)), tmp_path / "if.onnx")
    assert score.counts(tmp_path / "if.onnx") == {"nodes": 4, "bn": 1, "bias": 0}


def test_error_is_zero_for_the_same_model_and_not_for_another(saved: Path) -> None:
    proto = onnx.load(saved)
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "be")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.1), "be"))
    other = saved.with_name("other.onnx")
    onnx.save(proto, other)
    assert score.max_error(saved, saved) == 0
    assert 1e-3 < score.max_error(saved, other) < 1


def test_knows_a_weight_that_the_caller_may_override(saved: Path) -> None:
    assert not score.overridable(saved)
    onnx.save(tiny.as_inputs(onnx.load(saved), "w"), saved)
    assert score.overridable(saved)


def test_a_process_has_a_cost_and_an_exit_code() -> None:
    cost = proc.run([sys.executable, "-c", "import sys; block = bytearray(200_000_000); sys.exit('no luck')"])
    assert cost.exit_code == 1
    assert cost.peak_bytes > 200e6
    assert "no luck" in cost.said


def test_tables_show_ratios_crashes_and_what_is_not_installed() -> None:
    result = {"before": {"bn": 3, "bias": 1}, "after": {"bn": 0, "bias": 3}, "error": 3e-7}
    fine = [
        tables.Row("biasopt", 0.5, 1e8, 0.5, 2.0, result=result),
        tables.Row("onnxruntime", 1.0, 5e7, 1.0, 1.0, result=result),
    ]
    broken = [tables.Row("biasopt", crashed="Segmentation fault"), fine[1]]
    page = tables.markdown({"one": fine, "two": broken}, TOOLS, 5)
    assert "| one | 1.00 s | 0.50x | 1.00x | not installed |" in page
    assert "| two | 1.00 s | crashed | 1.00x | not installed |" in page
    assert "| one | 3 | 0 | 0 | not installed |" in page
    assert "| geometric mean of 1 |  | 0.50x | 1.00x | - |" in page
    assert "| sum of 1 | 3 | 0 | 0 | - |" in page
    assert "| one | 3e-07 | 3e-07 | not installed |" in page
    assert "* two, biasopt: `Segmentation fault`" in page


def test_biasopt_is_measured_as_by_default_and_without_its_check(tmp_path: Path) -> None:
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    assert {"biasopt", peers.UNCHECKED} <= set(peers.TOOLS)
    assert "--no-verify" not in peers.command("biasopt", source, target, freeze=False)
    without = peers.command(peers.UNCHECKED, source, target, freeze=True)
    assert {"--no-verify", "--freeze-overridable"} <= set(without)
    assert peers.installed("biasopt") == peers.installed(peers.UNCHECKED) != ""


def test_an_unknown_tool_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.main(["--tools", "onnxsmi"]) == 2
    assert "onnxsmi" in capsys.readouterr().err


@pytest.mark.slow
def test_torchvision_nets_build_beside_any_torch() -> None:
    pytest.importorskip("torch")
    from tests.benchmarks import nets

    net = nets.build("resnet18")
    assert sum(type(module).__name__ == "BatchNorm2d" for module in net.modules()) == 20
