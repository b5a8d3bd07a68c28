"""From two files to a verdict, an exit code and reports; the clock is told where its answer matters."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import cli
import converter
from converter.bench.compare import Bench, Request
from converter.bench.design import Design
from converter.bench.interleaved import InterleavedBench, Measurement, Mode
from converter.errors import DataError, ModelError, RuntimeUnavailable
from converter.records import Latency, Verdict
from converter.referee.proto.source import LoadedModel
from converter.report import terminal
from converter.runtime.session import Placement
from converter.runtime.timing import Deployment
from tests.bench import nets
from tests.bench.machine import Machine

Pair = tuple[Path, Path]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Give a model, and the same with its batch norm written as its weights."""
    folded = nets.model(
        "g (float[1,1,4,4] x) => (float[1,1,2,2] y) <float[1,1,3,3] w = {1,2,3,4,5,6,7,8,9}, float[1] b = {1}>"
        " { y = Conv(x, w, b) }"
    )
    return nets.saved(nets.with_batch_norm(), tmp_path / "a.onnx"), nets.saved(folded, tmp_path / "b.onnx")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a function that replaces the measuring by that of a machine whose time is told."""
    monkeypatch.setattr(Bench, "_find_peaks", lambda self: (100, 90))

    def tell(ratio: float = 1.0, off: float = 1.0, **noise: float) -> None:
        def duet(_: Bench, how: Deployment, design: Design) -> Measurement:
            told = Machine(**({"noise": 0.002} | noise))  # type: ignore[arg-type]
            opens = told.pair(off if how.level == "off" else ratio)
            return InterleavedBench(opens, replace(design, sessions=3, blocks=2, pairs=6), clock=told.clock).measure()

        monkeypatch.setattr(Bench, "_measure_interleaved", duet)

    return tell


def test_for_real(pair: Pair, tmp_path: Path) -> None:
    """Everything as it is, on this machine; nothing is said about what it finds."""
    stages: list[str] = []
    found = converter.measure_latency(
        *pair, quick=True, max_time=1.0, threads=1, samples=tmp_path / "s.npz", progress=stages.append
    )
    assert isinstance(found, Latency)
    assert found.a.n == found.b.n > 0
    assert 0 < found.a.min_ms <= found.a.p50_ms <= found.a.p90_ms
    assert found.a.peak_bytes is None or found.a.peak_bytes > 10_000_000
    assert (
        sum(found.a.detail["histogram"]["counts"]) + found.a.detail["histogram"]["above"] == found.a.detail["samples"]
    )
    assert found.a.detail["histogram"]["edges_ms"] == found.b.detail["histogram"]["edges_ms"]
    assert found.model_a is not None
    assert found.model_a.nodes == {"Conv": 1, "BatchNormalization": 1}
    assert found.environment is not None
    assert list(found.environment.nodes_by_ep) == ["CPUExecutionProvider"]
    assert found.inputs is not None
    assert (found.inputs.kind, found.inputs.shapes) == ("random", {"x": (1, 1, 4, 4)})
    with np.load(tmp_path / "s.npz") as kept:
        assert len(kept["a_ms"]) == len(kept["b_ms"]) == len(kept["block"]) == found.a.detail["samples"]
        assert len(kept["session"]) == len(found.blocks)
    for wanted in ("A/A control, block 1 of 5", "session 2 of", "block 1 of", "warm-up of B", "memory of A"):
        assert any(wanted in said for said in stages), wanted


def test_both_levels(pair: Pair, machine: Callable[..., None], tmp_path: Path) -> None:
    machine(1.0, off=0.8)
    found = converter.measure_latency(*pair, show_unoptimised=True, samples=tmp_path / "s.npz", max_time=100)
    assert (found.outcome, found.verdict, found.design["opt_level"]) == ("NOT-SLOWER", Verdict.PASS, "all")
    assert found.unoptimised is not None
    assert (found.unoptimised.outcome, found.unoptimised.design["opt_level"]) == ("FASTER", "off")
    assert found.unoptimised.verdict is Verdict.SKIPPED  # the gate asks about what is deployed
    assert found.design["nodes_run"]["a"] == found.design["nodes_run"]["b"]  # onnxruntime folds the first itself
    assert found.unoptimised.design["nodes_run"] == {"a": 2, "b": 1}
    assert found.design["max_time"] == 50
    assert {p.name for p in tmp_path.glob("s*.npz")} == {"s.npz", "s-off.npz"}


def test_why_says_that_onnxruntime_folds_itself(pair: Pair, machine: Callable[..., None]) -> None:
    machine()
    folds = "folds the batch norms of A itself"
    assert folds in converter.measure_latency(*pair).why
    assert folds not in converter.measure_latency(*pair, opt_level="off").why
    assert folds not in converter.measure_latency(pair[0], pair[0]).why


def test_inputs_of_the_user(pair: Pair, machine: Callable[..., None]) -> None:
    machine()
    found = converter.measure_latency(*pair, inputs={"x": np.ones((1, 1, 4, 4), np.float32)})
    assert found.inputs is not None
    assert (found.inputs.kind, found.inputs.real, found.inputs.seed) == ("npz", True, None)
    with pytest.raises(DataError, match="'z' is not an input"):
        converter.measure_latency(*pair, inputs={"x": np.ones((1, 1, 4, 4), np.float32), "z": np.ones(1)})
    with pytest.raises(DataError, match="could not run it"):
        converter.measure_latency(*pair, inputs={"x": np.ones((1, 1, 2, 2), np.float32)})


def test_models_with_other_inputs_are_no_pair(pair: Pair, tmp_path: Path) -> None:
    other = nets.saved(nets.model("g (float[1,1,4,4] z) => (float[1,1,4,4] y) { y = Relu(z) }"), tmp_path / "c.onnx")
    with pytest.raises(DataError, match=r"c\.onnx|'z'|is not an input"):
        converter.measure_latency(pair[0], other)


def test_batch_and_shape(machine: Callable[..., None], pair: Pair) -> None:
    machine()
    opened = nets.dense("N")
    found = converter.measure_latency(opened, opened.SerializeToString(), batch=5)
    assert found.inputs is not None
    assert found.inputs.shapes == {"x": (5, 8)}
    found = converter.measure_latency(opened, opened, shapes={"x": (7, 8)})
    assert found.inputs is not None
    assert found.inputs.shapes == {"x": (7, 8)}
    with pytest.raises(DataError, match="batch size is fixed"):
        converter.measure_latency(*pair, batch=2)


def test_a_folder_of_external_data(pair: Pair, tmp_path: Path, machine: Callable[..., None]) -> None:
    machine()
    onnx.save(onnx.load(pair[0]), tmp_path / "e.onnx", save_as_external_data=True, location="w", size_threshold=0)
    assert converter.measure_latency(tmp_path / "e.onnx", pair[1]).model_a is not None


def test_memory_too_small_for_both(pair: Pair, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    called = []
    monkeypatch.setattr("converter.bench.compare.find_free_bytes", lambda: 200)  # 100 + 90 are more than 80 % of it
    monkeypatch.setattr(
        Bench, "_measure_isolated", lambda self, how, design: called.append(1) or self._measure_interleaved(how, design)
    )
    converter.measure_latency(*pair)
    monkeypatch.setattr("converter.bench.compare.find_free_bytes", lambda: 300)
    converter.measure_latency(*pair)
    assert called == [1]


def test_memory_of_the_gpu_too_small_for_both(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Bench, how: Deployment, design: Design) -> Measurement:
        raise ModelError("CUDA failure 2: out of memory")

    monkeypatch.setattr(Bench, "__init__", lambda self: None)
    monkeypatch.setattr(Bench, "_both_fit", lambda self: True)
    monkeypatch.setattr(Bench, "_measure_interleaved", full)
    monkeypatch.setattr(
        Bench, "_measure_isolated", lambda self, how, design: Measurement(design, mode=Mode.TWO_PROCESSES)
    )
    bench = Bench()  # type: ignore[call-arg]
    assert bench._measure_times(Deployment("cuda"), Design()).mode == "two processes"
    with pytest.raises(ModelError):
        bench._measure_times(Deployment("cpu"), Design())


def test_a_model_that_runs_elsewhere_has_no_time(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    """Asked for CUDA, and the convolutions ran on the CPU: an error, never a number."""
    bench = object.__new__(Bench)
    bench.request, bench.feeds, bench.models = Request(), {}, [(pair[0], None)]
    bench.sources = (LoadedModel.open(pair[0]), LoadedModel.open(pair[1]))
    found = Placement({"CPUExecutionProvider": 1}, (("CPUExecutionProvider", "Conv", "conv"),))
    monkeypatch.setattr("converter.bench.compare.find_placement", lambda *_, **__: found)
    assert bench._find_placement(0, Deployment()) is found
    with pytest.raises(RuntimeUnavailable, match="asked for CUDAExecutionProvider"):
        bench._find_placement(0, Deployment("cuda"))


def test_progress_moves_only_between_stages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thread that draws would be in the times."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    before = threading.active_count()
    with terminal.progress(still=True) as progress:
        progress("A/A control")
        assert threading.active_count() == before
    assert "A/A control" in capsys.readouterr().err


def test_what_cannot_be_measured(pair: Pair) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        converter.measure_latency(pair[0], "missing.onnx")
    with pytest.raises(RuntimeUnavailable, match="unknown"):
        converter.measure_latency(*pair, provider="npu")
    with pytest.raises(ValueError, match="no gate"):
        converter.measure_latency(*pair, gate="fast")


@pytest.mark.parametrize(
    ("ratio", "more", "code"),
    [
        (1.0, [], 0),
        (1.2, [], 1),
        (1.2, ["--margin", "30%"], 0),
        (1.2, ["--gate", "none"], 0),
        (1.0, ["--gate", "faster:5%"], 1),
        (0.8, ["--gate", "faster:5%"], 0),
        (0.8, ["--gate", "equivalent"], 1),
        (1.02, [], 4),
        (1.02, ["--on-inconclusive", "pass"], 0),
    ],
)
def test_exit_codes(pair: Pair, machine: Callable[..., None], ratio: float, more: list[str], code: int) -> None:
    machine(ratio, noise=0.006)
    assert cli.run(["bench", *map(str, pair), "-q", *more]) == code


def test_a_noisy_machine_exits_4(pair: Pair, machine: Callable[..., None]) -> None:
    machine(1.1, noise=0.5)
    assert cli.run(["bench", *map(str, pair), "-q"]) == 4
    assert cli.run(["bench", *map(str, pair), "-q", "--on-inconclusive", "pass"]) == 0
    machine(4.0, noise=0.1)  # not a noise that this could be
    assert cli.run(["bench", *map(str, pair), "-q", "--on-inconclusive", "pass"]) == 1


def test_reports(pair: Pair, machine: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine(1.2)
    argv = ["bench", *map(str, pair), "--json", "--report", str(tmp_path / "r")]
    assert cli.run(argv) == 1
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert (document["schema"], document["outcome"], document["exit_code"]) == ("biasopt.bench/1", "SLOWER", 1)
    assert document["tool"]["argv"] == argv
    assert "slower" in said.err
    assert (tmp_path / "r" / "samples.npz").is_file()
    assert json.loads((tmp_path / "r" / "report.json").read_text())["bench"]["ratio"] == document["bench"]["ratio"]
    assert cli.run(["bench", *map(str, pair)]) == 1
    assert "A beside A" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--gate", "fast"], 2),
        (["--margin", "0"], 2),
        (["--provider-option", "x"], 2),
        (["--provider", "npu"], 2),
        (["--opt-level", "most"], 2),
        (["--cuda-graph"], 3),
        (["--shape", "q=1"], 3),
    ],
)
def test_usage(pair: Pair, argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", *map(str, pair), *argv]) == code
    assert capsys.readouterr().err


def test_one_set_of_inputs(pair: Pair, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((1, 1, 4, 4), np.float32))
    given = ["--inputs", str(tmp_path / "x.npz")]
    assert cli.run(["bench", *map(str, pair), *given, *given]) == 2


def test_each_session_has_an_engine_of_its_own_built_once(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT, by a session that only says what it was given."""
    loads: list[tuple[str, str]] = []
    said: list[str] = []

    class Told:
        first_run_ms = load_ms = 1.0

        def __init__(self, model: Path, how: Deployment, external: Path | None = None) -> None:
            assert how.options["trt_engine_cache_enable"] == how.options["trt_timing_cache_enable"] == "1"
            assert how.options["trt_engine_cache_path"] == how.options["trt_timing_cache_path"]
            loads.append((model.name, Path(how.options["trt_engine_cache_path"]).name))

        def bind(self, feeds: object) -> None: ...
        def close(self) -> None: ...

    monkeypatch.setattr("converter.bench.compare.TimedSession", Told)
    monkeypatch.setattr(Bench, "_find_peaks", lambda self: (100, 90))
    a, b = (LoadedModel.open(path) for path in pair)
    how = Deployment("tensorrt", {"trt_fp16_enable": "1"})
    bench = Bench(a, b, Request(how=how, say=said.append), tmp_path)
    assert loads == [("a.onnx", "a-all-0"), ("b.onnx", "b-all-0")]
    bench._begin_session(1, how)
    bench._make_opener(0, how)()
    assert loads[2:] == [("a.onnx", "a-all-1"), ("b.onnx", "b-all-1"), ("a.onnx", "a-all-1")]
    assert [len(each) for each in bench.builds] == [2, 2]
    assert "TensorRT builds the engine of B, 2" in said
    own = Deployment("tensorrt", {"trt_engine_cache_enable": "0"})
    assert bench._with_caches(0, own) is own
    assert bench._with_caches(0, Deployment()) == Deployment()
