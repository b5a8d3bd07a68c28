"""``assert_same`` on models, arrays, functions and modules; and the fixture of the pytest plugin."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import biasopt
from converter.errors import DataError
from converter.records import Verdict
from converter.runtime import Session
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
X = np.random.default_rng(1).standard_normal((2, 3, 11, 13)).astype(np.float32)


def conv_bn(scale: float = 1.0) -> onnx.ModelProto:
    draw = tiny.Draw()
    text = f"{tiny.X} => {tiny.Y} {{ c = Conv(x, w) y = BatchNormalization(c, g, be, m, v) }}"
    consts = draw.conv(5, 3, 3, 3) | draw.bn(5)
    return tiny.model(text, consts | {"w": (consts["w"] * scale).astype(np.float32)})


def run(model: onnx.ModelProto, x: Any = X) -> Any:
    return Session(model.SerializeToString()).run({"x": x})["y"]


def test_two_models_go_to_the_referee(tmp_path: Path) -> None:
    folded = biasopt.fold(conv_bn(), verify=False).model
    assert {stage.id for stage in biasopt.assert_same(conv_bn(), folded).stages} >= {"structure", "parameters"}
    onnx.save(conv_bn(), tmp_path / "a.onnx")
    assert biasopt.assert_same(tmp_path / "a.onnx", folded.SerializeToString(), inputs={"x": X}).verdict is Verdict.PASS


def test_a_difference_is_an_assertion_that_begins_like_the_report() -> None:
    with pytest.raises(AssertionError, match=r"^FAIL") as failed:
        biasopt.assert_same(conv_bn(), conv_bn(1.001))
    assert len(str(failed.value).splitlines()) <= 24


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1.0001, 0.5])
def test_arrays_belong_to_inputs_and_are_measured_by_the_models_own_float64(scale: float, swap: bool) -> None:
    sides: list[Any] = [conv_bn(), run(conv_bn(scale))]
    if swap:
        sides.reverse()
    if scale == 1.0:
        assert biasopt.assert_same(*sides, inputs=[X]).level == "B"
    else:
        with pytest.raises(AssertionError, match="output"):
            biasopt.assert_same(*sides, inputs={"x": X})


def test_a_function_and_named_outputs() -> None:
    assert biasopt.assert_same(lambda x: {"y": run(conv_bn(), x)}, conv_bn()).inputs.kind == "random"  # type: ignore[union-attr]
    with pytest.raises(AssertionError):
        biasopt.assert_same(lambda x: run(conv_bn(), x) + np.float32(1e-3), conv_bn())


def test_what_has_no_float64_agrees_to_the_last_bits_or_is_open() -> None:
    y = run(conv_bn())
    assert biasopt.assert_same(y, [y.copy()], inputs=[X]).level == "C"
    near = y * np.float32(1 + 1e-5)
    with pytest.raises(AssertionError):
        biasopt.assert_same(y, near, inputs=[X])
    with pytest.raises(unittest.SkipTest):
        biasopt.assert_same(y, near, inputs=[X], on_inconclusive="skip")
    assert biasopt.assert_same(y, near, inputs=[X], on_inconclusive="pass").verdict is Verdict.INCONCLUSIVE


def test_shapes_and_counts_that_differ_fail() -> None:
    y = run(conv_bn())
    with pytest.raises(AssertionError, match="shape"):
        biasopt.assert_same(conv_bn(), y[:1], inputs=[X])
    with pytest.raises(AssertionError, match="not as many outputs"):
        biasopt.assert_same(conv_bn(), [y, y], inputs=[X])


def test_what_cannot_be_asked_is_an_error() -> None:
    with pytest.raises(DataError, match="give inputs="):
        biasopt.assert_same(np.ones(3), np.ones(3))
    with pytest.raises(DataError, match="the model takes x"):
        biasopt.assert_same(conv_bn(), run(conv_bn()), inputs={"image": X})
    with pytest.raises(TypeError, match="samples is an option of two ONNX models"):
        biasopt.assert_same(conv_bn(), run(conv_bn()), inputs=[X], samples=3)
    with pytest.raises(ValueError, match="fail, skip, pass"):
        biasopt.assert_same(conv_bn(), conv_bn(), on_inconclusive="maybe")


def test_a_report_is_written_before_it_raises(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        biasopt.assert_same(conv_bn(), run(conv_bn(2.0)), inputs=[X], report=tmp_path / "r")
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"report.json", "report.md", "report.html"}


def test_a_torch_module_against_its_export(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.ReLU()).eval()
    biasopt.export_model(net, tmp_path / "net.onnx", example=torch.as_tensor(X), verify=False)
    assert biasopt.assert_same(net, tmp_path / "net.onnx").level == "B"
    assert biasopt.assert_same(tmp_path / "net.onnx", net, inputs=[torch.as_tensor(X)]).level == "B"
    with torch.no_grad():
        net[0].bias[2] += 1e-3
    with pytest.raises(AssertionError, match="times the original's"):
        biasopt.assert_same(net, tmp_path / "net.onnx")


def test_the_fixture_writes_its_report_beside_the_test(tmp_path: Path) -> None:
    onnx.save(conv_bn(), tmp_path / "a.onnx")
    onnx.save(conv_bn(1.01), tmp_path / "b.onnx")
    (tmp_path / "converter.py").write_text("NAME = 'theirs'\n")
    (tmp_path / "test_mine.py").write_text(
        "import converter\n"
        "def test_same(assert_same_model):\n    assert_same_model('a.onnx', 'a.onnx')\n"
        "def test_differ(assert_same_model):\n    assert_same_model('a.onnx', 'b.onnx')\n"
    )
    plugin = () if _is_installed() else ("-p", "biasopt.integrations.pytest_plugin")
    argv = (sys.executable, "-m", "pytest", "-q", "--rootdir=.", "--basetemp=t", "-p", "no:cacheprovider", *plugin)
    done = subprocess.run(
        [*argv, "test_mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "FAIL" in done.stdout
    reports = sorted(path.relative_to(tmp_path / "t").as_posix() for path in (tmp_path / "t").rglob("report.html"))
    assert reports == ["test_differ0/same-1/report.html", "test_same0/same-1/report.html"]


def _is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(point.name == "biasopt" for point in entry_points(group="pytest11"))
