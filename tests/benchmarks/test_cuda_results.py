"""The measurements for a GPU: they refuse to be made without one, and make a document with a made-up one."""

from __future__ import annotations

import argparse
import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import onnx
import pytest

from converter.errors import DataError, RuntimeUnavailable
from converter.runtime import Session
from tests.benchmarks import cuda_bias, cuda_nets, cuda_results, cuda_tables, gpu_session


def test_without_a_gpu_there_are_no_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(provider: str) -> None:
        raise RuntimeUnavailable(f"no {provider}")

    monkeypatch.setattr(cuda_results, "probe", refuse)
    monkeypatch.setattr(sys, "argv", ["cuda_results", "--out", str(tmp_path)])
    assert cuda_results.main() == 3
    assert "no results: no cuda" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_rehearsal_writes_nothing_into_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["cuda_results", "--provider", "cpu"])
    with pytest.raises(SystemExit, match="2"):
        cuda_results.main()


def test_a_rehearsal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(*_: object, **__: object) -> None:
        raise DataError("not now")

    monkeypatch.setattr(cuda_results.converter, "measure_latency", measure)
    monkeypatch.setattr(cuda_bias, "remove_by_data", lambda *_: 0)
    argv = "cuda_results --provider cpu --small --nets ViT-S/16 --batches 1 --out".split()
    monkeypatch.setattr(sys, "argv", [*argv, str(tmp_path)])
    assert cuda_results.main() == 0
    found = json.loads((tmp_path / "results-cuda.json").read_text())["nets"]["ViT-S/16"]["1"]
    error = found["errors"]["float32"]
    assert 0 < error["a"] < 1e-5
    assert 0.3 < error["ratio"] < 3
    assert found["removal"] == {"biases": 0}
    said = (tmp_path / "results-cuda.md").read_text()
    assert "A rehearsal" in said
    assert "not now" in said
    monkeypatch.setattr(sys, "argv", [*argv, str(tmp_path), "--limit", "-1"])
    assert cuda_results.main() == 0
    assert "Left out for want of time: 4 measurements." in (tmp_path / "results-cuda.md").read_text()


def test_the_main_numbers_of_every_net_come_before_the_rest_of_any() -> None:
    given = argparse.Namespace(provider="cuda", nets=["ResNet-50", "ViT-S/16"], batches=[1, 32])
    steps = cuda_results.list_steps(given)
    first = steps[: steps.index(("ResNet-50", 1, "removal", ""))]
    assert {step[0] for step in first} == {"ResNet-50", "ViT-S/16"}
    assert [step[2:] for step in first[:4]] == [
        ("errors", ""), ("latency", "as deployed"), ("bias", "TF32"), ("bias", "TF32, fuse_conv_bias")
    ]  # fmt: skip
    assert len(set(steps)) == len(steps)
    assert sum(step[2] == "bias" for step in steps) == 2 * 2 * 12  # fuse x NHWC x precision x batch x net


def test_the_twin_has_no_bias_and_the_same_interface() -> None:
    for name, biases in (("ResNet-50", 1), ("U-Net, InstanceNorm", 13), ("ViT-S/16", 14)):
        model = cuda_nets.build(name, 1, small=True)
        twin, gone = cuda_bias.strip_biases(model)
        assert gone == biases, name
        onnx.checker.check_model(twin, full_check=True)
        assert [o.name for o in twin.graph.output] == ["y"]
        assert all(len(n.input) < 3 for n in twin.graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm"))
        assert cuda_bias.strip_biases(twin)[1] == 0
        feeds = {"x": np.zeros((1, 3, 64, 64), np.float32)}
        assert Session(twin.SerializeToString()).run(feeds)["y"].shape[0] == 1


def test_what_a_bias_costs_has_an_interval() -> None:
    found = types.SimpleNamespace(a=types.SimpleNamespace(p50_ms=2.0), ratio=0.9, low=0.85, high=0.95)
    cost = cuda_bias.tell_cost(found, 10)  # type: ignore[arg-type]
    assert {key: round(value, 6) for key, value in cost.items()} == {
        "biases": 10,
        "us": 20.0,
        "low": 10.0,
        "high": 30.0,
    }


def test_nodes_of_a_run_are_counted(tmp_path: Path) -> None:
    onnx.save(cuda_nets.build("MobileNetV2", 1, small=True), tmp_path / "m.onnx")
    found = cuda_bias.count_kernels(tmp_path / "m.onnx", "cpu", {}, np.float32, (1, 3, 64, 64))
    assert found["nodes"] > 10
    assert found["kernels"] == 0


def test_the_whole_session_is_rehearsed_and_keeps_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, float]] = []

    def part(command: list[str], log: Path, seconds: float) -> int:
        ran.append((log.name, seconds))
        return 124 if log.name == "tests.log" else 0

    monkeypatch.setattr(gpu_session, "run_part", part)
    monkeypatch.setattr(sys, "argv", ["gpu_session", "--limit", "100", "--out", str(tmp_path)])
    assert gpu_session.main() == 1  # but what follows was done all the same
    assert [name for name, _ in ran] == ["doctor.log", "tests.log", "results.log"]
    assert all(seconds <= 100 for _, seconds in ran)


def test_a_part_that_hangs_is_ended(tmp_path: Path) -> None:
    begun = time.monotonic()
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    assert gpu_session.run_part(["-c", code], tmp_path / "log", 0.5) == 124
    assert time.monotonic() - begun < 20
    assert gpu_session.run_part(["-c", "print('said')"], tmp_path / "log", 30) == 0
    assert (tmp_path / "log").read_text() == "said\n"


def test_every_net_is_a_model_at_every_batch() -> None:
    for name in cuda_nets.NETS:
        model = cuda_nets.build(name, 2, small=True)
        onnx.checker.check_model(model, full_check=True)
        assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 2


def test_half_precision_leaves_no_float32(tmp_path: Path) -> None:
    onnx.save(cuda_nets.build("EfficientNet-B0", 1, small=True), tmp_path / "m.onnx")
    model = onnx.load_from_string(cuda_results.half(tmp_path / "m.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert onnx.TensorProto.FLOAT not in {t.data_type for t in model.graph.initializer}


def test_the_document_shows_both_levels_and_what_was_refused() -> None:
    latency = {
        "outcome": "NOT-SLOWER", "ratio": 0.99, "low": 0.98, "high": 1.0, "a_ms": 2.0, "b_ms": 1.98,
        "load": {"ratio": 0.8, "low": 0.7, "high": 0.9}, "submit_ms": [0.5, 0.4], "peak_bytes": [100, 90],
    }  # fmt: skip
    results = {
        "date": "2026-01-01",
        "rehearsal": False,
        "env": {"gpu": {"name": "a GPU", "driver": "1"}, "machine": {}, "versions": {"onnxruntime": "1"}},
        "nets": {
            "N": {
                "1": {
                    "errors": {"TF32": {"a": 1e-3, "b": 1e-3, "ratio": 1.0}, "x": {"error": "no a|b"}},
                    "latency": {"as deployed": latency | {"unoptimised": latency | {"ratio": 0.7}}},
                }
            }
        },
    }
    said = cuda_tables.markdown(results)
    assert "| N | TF32 | 1.0e-03 | 1.0e-03 | 1.00 |" in said
    assert "no a/b" in said
    assert "| as deployed, off | 2.000 ms | 1.980 ms | 0.700 |" in said
    assert "0.50 ms, 0.40 ms" in said
    assert "| N | 1 | 0.80 | 0.70 to 0.90 | 0.90 |" in said
    assert "rehearsal" not in said
