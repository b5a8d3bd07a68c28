"""Processes with one model alone: their memory, their times, and pairs that do not fit together."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from converter.bench import isolated, worker
from converter.bench.design import AA_BLOCKS, Design
from converter.bench.isolated import IsolatedBench, make_worker_call
from converter.bench.judge import judge
from converter.errors import BiasoptError, DataError
from converter.runtime.machine import find_free_bytes
from converter.runtime.timing import Deployment
from tests.bench import nets
from tests.bench.machine import Machine

X = {"x": np.ones((1, 8), np.float32)}


def test_a_process_says_what_its_model_takes(tmp_path: Path) -> None:
    path = nets.saved(nets.dense(), tmp_path / "m.onnx")
    worker.write_feeds(X, tmp_path / "x.npz")
    said = make_worker_call(path, None, Deployment(threads=1), tmp_path / "x.npz", 100)(3, (0.0, 0.1), 2)
    assert said["peak_bytes"] > 10_000_000
    assert said["load_ms"] > 0
    assert len(said["samples"]) == 3
    assert said["repeat"] == 2


def test_an_error_in_the_process_is_one_here(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    worker.write_feeds(X, tmp_path / "x.npz")
    with pytest.raises(BiasoptError, match="cannot load it"):
        make_worker_call(tmp_path / "m.onnx", None, Deployment(), tmp_path / "x.npz", 100)()


def test_a_process_that_dies_or_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(isolated.subprocess, "run", dies)
    with pytest.raises(DataError, match="TimeoutExpired"):
        make_worker_call(Path("m.onnx"), None, Deployment(), Path("x.npz"), 1)()


def test_the_process_loads_only_what_a_run_needs() -> None:
    """What it imports counts as the model's memory."""
    code = (
        "import sys, converter.bench.worker; "
        "print([m for m in ('onnx', 'scipy', 'rich', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_work_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = nets.saved(nets.dense(), tmp_path / "m.onnx")
    worker.write_feeds(X, tmp_path / "x.npz")
    how = {"provider": "cpu", "options": {}, "level": "off", "threads": 1, "custom_ops": None}
    asked = {"model": str(path), "external_dir": str(tmp_path), "feeds": str(tmp_path / "x.npz"), "how": how}
    asked |= {"samples": 2, "warm_up": [0, 0.1], "repeat": 0}
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asked)))
    monkeypatch.setattr(sys, "stdout", said)
    worker.main()
    assert len(json.loads(said.getvalue())["samples"]) == 2


def test_inputs_survive_the_way(tmp_path: Path) -> None:
    feeds = {
        "a/b": np.arange(3),
        "mask": np.array([True, False]),
        "bf": np.array([[1, 2]], ml_dtypes.bfloat16),
        "f8": np.array([1, 2], ml_dtypes.float8_e4m3fn),
    }
    worker.write_feeds(feeds, tmp_path / "x.npz")
    back = worker.read_feeds(tmp_path / "x.npz")
    assert list(back) == list(feeds)
    for name, value in feeds.items():
        assert back[name].dtype == value.dtype
        assert back[name].astype(float).tolist() == value.astype(float).tolist()


def test_memory_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    here = worker.find_peak_bytes()

    def missing(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(worker.Path, "open", missing)
    monkeypatch.setattr(isolated.Path, "read_text", missing)
    for found in (here, worker.find_peak_bytes(), find_free_bytes()):
        assert found is None or found > 1 << 20


class Process:
    """A process on a machine whose time is told."""

    def __init__(self, machine: Machine, ms: float, noise: float) -> None:
        self.machine, self.ms, self.noise, self.asked = machine, ms, noise, 0

    def __call__(self, samples: int = 0, warm_up: tuple[float, float] = (0, 1), repeat: int = 0) -> dict[str, Any]:
        self.asked += 1
        self.machine.sleep(1000 + self.ms * samples)
        slowness = 1 + abs(self.machine.rng.gauss(0, self.noise))  # of this process
        times = [self.ms * slowness * (1 + self.machine.rng.gauss(0, 0.002)) for _ in range(samples)]
        return {"load_ms": 5.0, "first_run_ms": 9.0, "samples": times, "repeat": repeat or 1, "peak_bytes": 1}


def alternated(design: Design, ratio: float, noise: float = 0.0) -> tuple[Any, tuple[Process, Process]]:
    machine = Machine()
    processes = Process(machine, 20, noise), Process(machine, 20 * ratio, noise)
    return IsolatedBench(processes, design, clock=machine.clock).measure(), processes


def test_pairs_that_do_not_fit_together_take_turns() -> None:
    found, (a, b) = alternated(Design(), 1.0)
    said = judge(found)
    assert said.outcome == "NOT-SLOWER"
    assert (a.asked, b.asked) == (2 * AA_BLOCKS + 20, 20)
    assert said.design["mode"] == "two processes"
    assert any("memory does not hold both" in warning for warning in said.warnings)
    assert said.design["unit"] == "block"  # each block has processes of its own
    assert judge(alternated(Design(), 1.1)[0]).outcome == "SLOWER"


def test_processes_that_differ_by_themselves_decide_nothing() -> None:
    found = judge(alternated(Design(), 1.1, noise=0.3)[0])
    assert (found.outcome, found.aa["steady"]) == ("INCONCLUSIVE", False)


def test_they_stop_when_time_is_over() -> None:
    found, _ = alternated(Design(max_time=40.0), 1.0)
    assert (found.stopped, found.seconds < 45) == ("time", True)
    assert 2 <= len(found.blocks) < 20
    assert any("40 s were over" in warning for warning in found.warnings)
