"""What `fold` asks of the referee and of the benchmark, and what follows from their answers."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import converter
import converter.commands.bench
from converter.commands.fold import fold_options
from converter.records import FateKind, Latency, Timing, Verdict
from converter.records.options import Advice, BenchOptions, FoldOptions, VerifyOptions
from converter.referee.verify.request import compare

MODEL = Path(converter.__file__).parents[1] / "models" / "digits_cnn_bn.onnx"


def latency(verdict: Verdict) -> Latency:
    time = Timing(400, 1.0, 1.1, None, 1.0, 0.9, 0.1, 5.0, 2.0)
    return Latency(verdict, "SLOWER", 1.2, 1.1, 1.3, 0.02, "not-slower", "it was told to say so", time, time)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the benchmark is asked; it answers with the verdict under "verdict"."""
    seen: dict[str, Any] = {"verdict": Verdict.PASS}

    def measured(a: Any, b: Any, options: BenchOptions) -> Latency:
        seen.update(vars(options), a=a, b=b)
        return latency(seen["verdict"])

    monkeypatch.setattr(converter.commands.bench, "measure_latency", measured)
    return seen


def test_what_the_referee_takes_is_what_fold_passes_on() -> None:
    named = inspect.signature(converter.fold).parameters.keys()
    assert inspect.signature(compare).parameters.keys() - {"ref", "got"} <= named


def test_a_misspelt_option_is_found_before_the_work() -> None:
    with pytest.raises(TypeError, match="no argument 'onyl'"):
        converter.fold("no-such-model.onnx", onyl=["fold-bn-into-conv"])


def test_inputs_that_are_not_there_are_found_before_the_work() -> None:
    with pytest.raises(converter.DataError, match="there are no such inputs"):
        converter.fold("no-such-model.onnx", inputs="no-such-inputs.npz")


@pytest.mark.parametrize(
    ("verdict", "on_inconclusive", "code"),
    [
        (Verdict.PASS, "fail", 0),
        (Verdict.FAIL, "pass", 1),
        (Verdict.INCONCLUSIVE, "fail", 4),
        (Verdict.INCONCLUSIVE, "pass", 0),
    ],
)
def test_a_model_that_got_slower_is_not_written(
    tmp_path: Path, asked: dict[str, Any], verdict: Verdict, on_inconclusive: str, code: int
) -> None:
    asked["verdict"] = verdict
    out = tmp_path / "o.onnx"
    result = converter.fold(MODEL, out=out, bench=True, quick=True, on_inconclusive=on_inconclusive)
    assert (result.exit_code, out.exists()) == (code, code == 0)
    assert result.latency is not None
    assert result.latency.verdict is verdict
    assert [p.name for p in tmp_path.iterdir()] == (["o.onnx"] if code == 0 else [])


def test_the_benchmark_runs_what_the_referee_saw(tmp_path: Path, asked: dict[str, Any]) -> None:
    np.savez(tmp_path / "i.npz", image=np.zeros((7, 1, 8, 8), np.float32))
    options: dict[str, Any] = {"provider": "cpu", "seed": 5, "quick": True, "opt_level": "basic"}
    converter.fold(MODEL, inputs=[tmp_path / "i.npz"], bench=True, latency_margin=0.07, **options)
    assert asked["a"] == MODEL
    assert isinstance(asked["b"], bytes)
    assert asked["shapes"] == {"image": (7, 1, 8, 8)}
    assert {name: asked[name] for name in options} == options
    assert asked["margin"] == 0.07


def test_what_differs_is_not_measured(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.records import Parity
    from converter.referee import verify

    monkeypatch.setattr(verify, "compare", lambda *_, **__: Parity(Verdict.FAIL, "B", why="no"))
    result = converter.fold(MODEL, bench=True)
    assert (result.exit_code, result.latency) == (1, None)
    assert "a" not in asked


@pytest.mark.parametrize("given", [{"accuracy_margin": 0.5}, {"labels": np.zeros(64, np.int64)}])
def test_decisions_are_judged_where_that_is_asked(given: dict[str, Any]) -> None:
    images = np.random.default_rng(0).random((64, 1, 8, 8)).astype(np.float32)
    result = converter.fold(MODEL, inputs={"image": images}, on_inconclusive="pass", **given)
    assert result.parity is not None
    stages = {stage.id: stage.status for stage in result.parity.stages}
    expected = (
        Verdict.PASS if "accuracy_margin" in given else Verdict.SKIPPED
    )  # without a margin it is told, not judged
    assert stages["decision"] is expected
    plain = converter.fold(MODEL, inputs={"image": images}).parity
    assert plain is not None
    assert "decision" not in {stage.id for stage in plain.stages}


def test_the_report_names_the_file_that_is_written(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    parity = converter.fold(MODEL, out=out, quick=True).parity
    assert parity is not None
    assert parity.b is not None
    assert parity.b.path == str(out)


def test_a_certificate_comes_with_the_model(tmp_path: Path) -> None:
    out, said = tmp_path / "o.onnx", tmp_path / "c.json"
    result = converter.fold(MODEL, out=out, certificate=said, quick=True)
    assert result.certificate == said
    again = converter.replay_certificate(MODEL, said, out=tmp_path / "again.onnx")
    assert again.exit_code == 0
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()
    with pytest.raises(converter.ModelError, match="exists already"):
        converter.fold(MODEL, out=tmp_path / "p.onnx", certificate=said)
    assert not (tmp_path / "p.onnx").exists()


def test_a_certificate_is_neither_the_model_nor_the_output(tmp_path: Path) -> None:
    with pytest.raises(converter.ModelError, match="is to be the output and the certificate"):
        converter.fold(MODEL, out=tmp_path / "o.onnx", certificate=tmp_path / "." / "o.onnx")
    with pytest.raises(converter.ModelError, match="is the input itself"):
        converter.fold(MODEL, out=tmp_path / "o.onnx", certificate=MODEL, force=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_written_is_not_certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.records import Parity
    from converter.referee import verify

    monkeypatch.setattr(verify, "compare", lambda *_, **__: Parity(Verdict.FAIL, "B", why="no"))
    result = converter.fold(MODEL, out=tmp_path / "o.onnx", certificate=tmp_path / "c.json")
    assert (result.exit_code, result.certificate) == (1, None)
    assert list(tmp_path.iterdir()) == []


def test_the_benchmark_has_a_time_of_its_own_and_advises_the_options_of_fold(asked: dict[str, Any]) -> None:
    converter.fold(MODEL, bench=True, bench_time=7.0, max_time=3.0, quick=True)
    assert asked["max_time"] == 7.0
    assert asked["advice"] == Advice(time="--bench-time", margin="--latency-margin")


def test_records_say_what_keywords_say(asked: dict[str, Any]) -> None:
    how = FoldOptions(verify=VerifyOptions(seed=4, quick=True), bench=BenchOptions(seed=4, quick=True, margin=0.05))
    assert fold_options(None, {"seed": 4, "quick": True, "bench": True, "latency_margin": 0.05}) == how
    assert fold_options(how, {}) is not how
    assert fold_options(how, {"verify": False}).verify is None
    assert fold_options(how, {"seed": 5}).bench == replace(how.bench, seed=5)
    result = converter.fold(MODEL, None, how)
    assert (result.exit_code, asked["seed"], asked["margin"]) == (0, 4, 0.05)


DATA = {"image": np.random.default_rng(1).random((400, 1, 8, 8)).astype(np.float32)}


def removal(**more: Any) -> dict[str, Any]:
    return {"inputs": DATA, "budget": 0.2, **more}


def test_biases_go_by_data_where_that_is_asked(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    plain, result = converter.fold(MODEL), converter.fold(MODEL, out=out, removal=removal())
    assert result.exit_code == 0
    gone = [r for r in result.rewrites if r.pass_name == "remove-biases"]
    assert gone
    assert result.after.biases == plain.after.biases - len(gone)
    assert result.parity is not None
    assert (result.parity.scope, result.parity.stages[-1].id) == ("removal", "removal")
    assert result.removal is not None
    assert result.removal["said"]
    assert converter.inspect(out).before.biases == result.after.biases
    written = result.parity.b
    assert written is not None
    assert (written.sha256, written.size_bytes) == (hashlib.sha256(out.read_bytes()).hexdigest(), out.stat().st_size)
    assert sum(written.nodes.values()) == len(onnx.load(out).graph.node)
    assert sum(f.kind is FateKind.REMOVED for f in result.fates) == len(gone)
    assert "of the variance is gone" in result.parity.stages[-1].why
    assert [p.name for p in tmp_path.iterdir()] == ["o.onnx"]


def test_a_budget_that_the_data_cannot_bound_writes_nothing(tmp_path: Path) -> None:
    result = converter.fold(MODEL, out=tmp_path / "o.onnx", removal=removal(budget=1e-3))
    assert (result.exit_code, result.output) == (4, None)
    assert result.parity is not None
    assert "2,995" in result.parity.why
    assert list(tmp_path.iterdir()) == []


def test_what_goes_by_data_has_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="certificate is of exact rewrites"):
        converter.fold(MODEL, out=tmp_path / "o.onnx", certificate=tmp_path / "c.json", removal=removal())


def test_the_pages_do_not_call_decisions_outputs(tmp_path: Path) -> None:
    import cli

    np.savez(tmp_path / "d.npz", **DATA)
    argv = ["fold", str(MODEL), "-o", str(tmp_path / "o.onnx"), "--allow", "remove_biases", "--data"]
    assert cli.run([*argv, str(tmp_path / "d.npz"), "--budget", "20%", "-q", "--report", str(tmp_path)]) == 0
    assert "Same decisions, within the budget." in (tmp_path / "report.html").read_text(encoding="utf-8")
    told = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "the same decisions within the budget" in told
    assert "### Removed by data" in told


def test_a_bias_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cli

    np.savez(tmp_path / "d.npz", **DATA)
    argv = ["fold", str(MODEL), "-o", str(tmp_path / "o.onnx"), "--no-verify", "--allow", "remove-biases", "--data"]
    for option in ("--keep-bias", "--also-remove"):
        assert cli.run([*argv, str(tmp_path / "d.npz"), option, "nosuch"]) == 3
        said = capsys.readouterr().err
        assert said.startswith("biasopt: error: no bias is called 'nosuch'")
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--budget", "1%"],
        ["--data", "x.npz"],
        ["--allow", "remove-biases"],
        ["--allow", "remove-biases", "--data", "x.npz", "--certificate", "c.json"],
    ],
)
def test_options_of_removal_go_together(tmp_path: Path, options: list[str]) -> None:
    import cli

    assert cli.run(["fold", str(MODEL), "-o", str(tmp_path / "o.onnx"), *options]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_a_removal_says_that_outputs_changed(tmp_path: Path) -> None:
    from converter.report.content import Run
    from converter.report.content.verify import verify_report
    from converter.report.render.html import render_html

    parity = converter.fold(MODEL, removal=removal()).parity
    assert parity is not None
    page = render_html(verify_report(parity, Run())).replace("\u00a0", " ")
    assert "<dt>Outputs</dt><dd>changed</dd>" in page
    assert "<dt>Decisions</dt><dd>the same, within the margin</dd>" in page
    assert "at most, limit 20 %" in page
