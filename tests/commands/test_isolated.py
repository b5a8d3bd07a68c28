"""What a stranger's model does to onnxruntime happens to a child process: each is a verdict, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import cli
import converter
from converter.commands.verify import memory_limit
from converter.isolation import IS_POSSIBLE
from converter.records import Verdict

pytestmark = pytest.mark.skipif(not IS_POSSIBLE, reason="no fork on this system: the models run in this process")
ROOT = Path(__file__).resolve().parents[2]
FOLD = "c = Conv(x, w) m = Mul(c, k)"  # something to fold, so that there is something to prove


def net(body: str, **constants: np.ndarray) -> ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 3, 4, 5] x) => (float y) {{ {FOLD} {body} }}"""
    model = onnx.parser.parse_model(text)
    draw = np.random.default_rng(2)
    constants = {"w": draw.normal(size=(5, 3, 1, 1)).astype(np.float32), "k": np.full(1, 2, np.float32)} | constants
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    return model


NEVER_ENDS = net(
    "s = ReduceSum<keepdims=0>(m) y = Loop(trips, yes, s) <body = b (int64 i, bool go, float v) => (bool on, float u)"
    " { on = Identity(go) u = Add(v, one) }>",
    trips=np.array(2**62),
    yes=np.array(True),
    one=np.array(1, np.float32),
)
GROWS = net(
    "q = Loop(trips, yes, m) <body = b (int64 i, bool go, float v) => (bool on, float u) "
    "{ on = Identity(go) u = Concat<axis=0>(v, v) }> y = ReduceSum<keepdims=0>(q)",
    trips=np.array(60),
    yes=np.array(True),
)
RUNS = net("y = ReduceSum<keepdims=0>(m)")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, model in (("never", NEVER_ENDS), ("grows", GROWS), ("runs", RUNS)):
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_loop_without_end_is_inconclusive(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    assert cli.run(["fold", "never.onnx", "-o", "o.onnx", "--timeout", "2"]) == 4
    assert "did not end within 2 s, at: onnxruntime: original" in " ".join(capsys.readouterr().out.split())
    assert time.monotonic() - begun < 60
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["grows.onnx", "never.onnx", "runs.onnx"]


def test_memory_that_grows_is_inconclusive(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.commands.verify.memory_limit", lambda asked: 6 * 10**8)
    assert cli.run(["fold", "grows.onnx", "-o", "o.onnx", "--no-verify"]) == 0
    capsys.readouterr()
    assert cli.run(["verify", "grows.onnx", "o.onnx", "--stages", "algebra"]) == 4
    said = " ".join(capsys.readouterr().out.split())
    assert "needed more than" in said or "ran out of memory" in said
    Path("o.onnx").unlink()


def test_the_limit_follows_what_is_asked_for() -> None:
    assert memory_limit(10**8) == 2 * 10**8 + (1 << 30)
    free = memory_limit(None)
    assert free is not None
    assert free > 1 << 27


def test_verify_and_bench_end_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converter.fold("never.onnx", "folded.onnx", verify=False)
    assert cli.run(["verify", "never.onnx", "folded.onnx", "--timeout", "2"]) == 4
    assert cli.run(["bench", "never.onnx", "folded.onnx", "--timeout", "2"]) == 3
    assert "the benchmark did not end within 2 s" in capsys.readouterr().err


def test_the_verdict_is_that_of_this_process(folder: Path) -> None:
    (folder / "f.onnx").write_bytes(converter.fold("runs.onnx", verify=False).to_bytes())
    here, there = (converter.compare("runs.onnx", "f.onnx", isolated=isolated) for isolated in (False, True))
    assert here.verdict is there.verdict is Verdict.PASS
    assert [(s.id, s.status, s.why) for s in here.stages] == [(s.id, s.status, s.why) for s in there.stages]
    assert here.warnings == there.warnings
    assert [o for s in here.stages for o in s.outputs] == [o for s in there.stages for o in s.outputs]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda n: str(int(n))
)
def test_signals_end_it_at_once_and_leave_nothing(number: int, code: int, folder: Path) -> None:
    command = [sys.executable, str(ROOT / "biasopt.py"), "fold", "never.onnx", "-o", "o.onnx"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            while not any(folder.glob(".*.tmp")):  # it writes, then it runs the models
                assert process.poll() is None
                time.sleep(0.02)
            time.sleep(0.5)
            begun = time.monotonic()
            process.send_signal(number)
            assert process.wait(20) == code
            assert time.monotonic() - begun < 5
        finally:  # a test that fails must not wait for a command that never ends
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.stderr is not None
        assert process.stderr.read().count("\n") == 1
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["grows.onnx", "never.onnx", "runs.onnx"]
