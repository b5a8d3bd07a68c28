"""The measurements for a GPU: they refuse to be made without one, and make a document with a made-up one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest

from converter.errors import DataError, RuntimeUnavailable
from tests.benchmarks import cuda_nets, cuda_results, cuda_tables


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
    argv = "cuda_results --provider cpu --small --nets ViT-S/16 --batches 1 --out".split()
    monkeypatch.setattr(sys, "argv", [*argv, str(tmp_path)])
    assert cuda_results.main() == 0
    found = json.loads((tmp_path / "results-cuda.json").read_text())
    error = found["nets"]["ViT-S/16"]["1"]["errors"]["float32"]
    assert 0 < error["a"] < 1e-5
    assert 0.3 < error["ratio"] < 3
    said = (tmp_path / "results-cuda.md").read_text()
    assert "A rehearsal" in said
    assert "not now" in said


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
