"""The benchmark measures what it says: counts, errors, costs, and what did not work."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import tiny
from tests.benchmarks import peers, proc, score, tables
from tests.benchmarks.run_log import Header, Measured, Row, Run, RunLog, Tool

TOOLS = [Tool("biasopt", "0.1.0"), Tool("onnxruntime", "1.32.0"), Tool("onnxsim", "")]

HEADER = Header(TOOLS, 5, "code")
RESULT = {"before": {"nodes": 9, "bn": 3, "bias": 1}, "after": {"nodes": 6, "bn": 0, "bias": 3}, "error": 3e-7}


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
    fine = [
        Row("biasopt", 0.5, 1e8, 0.5, 2.0, result=RESULT),
        Row("onnxruntime", 1.0, 5e7, 1.0, 1.0, result=RESULT),
    ]
    broken = [Row("biasopt", crashed="Segmentation fault"), fine[1]]
    run = Run(HEADER, [Measured("one", fine), Measured("two", broken), Measured("one (default)", fine)])
    page = tables.markdown(run)
    assert "| one | 1.00 s | 0.50x | 1.00x | not installed |" in page
    assert "| two | 1.00 s | crashed | 1.00x | not installed |" in page
    assert "| one | 3 | 0 | 0 | not installed |" in page
    assert "| geometric mean of 2 |  | 0.50x | 1.00x | - |" in page
    assert "| sum of 2 | 6 | 0 | 0 | - |" in page
    assert "| one | 3e-07 | 3e-07 | not installed |" in page
    assert "* two, biasopt: `Segmentation fault`" in page
    sums = tables.sums(run)  # what crashed is in none; torch's default exports stand by themselves
    assert "on 1 models" in sums
    assert "BatchNorm left of 3 | nodes left of 9 | biases left of 1 |" in sums
    assert "| biasopt | 0 | 6 | 3 | 0.50x | 2.00x | 3e-07 | 0 | 6 | 3 |" in sums


def test_the_page_says_that_the_machine_was_shared_where_its_load_tells_so() -> None:
    assert "shared with other work" in tables.where(Run(HEADER, [Measured("one", [], load=2.5)]))
    assert "shared" not in tables.where(Run(HEADER, [Measured("one", [], load=0.9)]))


def test_a_run_goes_on_where_it_was_and_only_if_the_same_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    log = RunLog.open(file, HEADER)
    log.add(Measured("one", [Row("biasopt", 0.5)], 1.0))
    log.add(Measured("two", [], 1.0))
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])  # killed while it wrote
    again = RunLog.open(file, HEADER)
    assert list(again.found) == ["one"]
    assert again.header.date
    assert again.header.machine
    again.add(Measured("two", [], 1.0))
    assert file.read_bytes() == whole
    assert list(RunLog.open(file, HEADER).found) == ["one", "two"]
    assert not RunLog.open(file, Header(TOOLS, 5, "other code")).found
    assert not RunLog.open(file, HEADER).found


def test_what_takes_too_long_is_ended_and_said() -> None:
    cost = proc.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.3)
    assert cost.exit_code
    assert cost.seconds < 30
    assert cost.said == "ended after 0.3 s"


def test_a_run_has_a_limit_on_its_time_and_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "models", lambda names: iter([("one", Path("a")), ("two", Path("b"))]))
    monkeypatch.setattr(peers, "installed", lambda tool: "" if tool == "onnxsim" else "1.0")
    costs = [Row(tool, 1.0, 1.0, 1.0, 1.0, "", RESULT) for tool in ("onnxruntime", "biasopt")]
    monkeypatch.setattr(peers, "measure", lambda label, *rest: Measured(label, costs))
    argv = ["--tools", "biasopt,onnxsim", "--log", str(tmp_path / "run"), "--out", str(tmp_path / "page.md")]
    assert peers.main([*argv, "--max-time", "0"]) == peers.UNFINISHED
    said = capsys.readouterr().err
    assert "one is next; the same command goes on" in said
    assert "left out: onnxsim, which cannot be imported" in said
    assert "-m pip install onnxsim" in said
    assert not (tmp_path / "page.md").exists()
    assert peers.main(argv) == 0
    assert "| two | 3 | 0 | 0 | not installed |" in (tmp_path / "page.md").read_text()
    assert not (tmp_path / "run").exists()


def test_the_documents_hold_what_one_run_found() -> None:
    run = Run.read(peers.OUT.with_suffix(".json"))
    assert Run.read_text(run.to_json()) == run
    for file, text in tables.documents(run, proc.ROOT).items():
        assert file.read_text(encoding="utf-8") == text, f"{file.name} is not of docs/bench-peers.json"


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
