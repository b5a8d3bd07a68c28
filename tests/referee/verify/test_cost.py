"""What the proof of a fold takes, counted, not timed: sessions, float64 steps, bytes hashed, files parsed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import converter
from converter.model.file.reader import ModelFile
from converter.records import Verdict
from converter.referee import verify
from converter.referee.normal_form.compare import recompute as recompute_place
from converter.referee.proto import source
from converter.referee.reference.evaluator import GraphEvaluator
from converter.runtime import Session

N_LAYERS = 6


def save(model: ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def make_model(nodes: list[Any], shape: list[int], **held: Any) -> ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in held.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def convolutions(width: int = 48) -> ModelProto:
    """Convolutions with a batch norm each, whose weights are most of the file."""
    rng, nodes, held, before = np.random.default_rng(0), [], {}, "x"
    for k in range(N_LAYERS):
        held[f"w{k}"] = rng.normal(0, (2 / (9 * width)) ** 0.5, (width, width, 3, 3))
        held |= {f"{n}{k}": rng.uniform(0.5, 1.5, width) for n in "gbmv"}
        norm = [f"c{k}", *(f"{n}{k}" for n in "gbmv")]
        nodes.append(helper.make_node("Conv", [before, f"w{k}"], [f"c{k}"], f"conv{k}", pads=[1] * 4))
        nodes.append(helper.make_node("BatchNormalization", norm, [f"n{k}"], f"norm{k}"))
        before = "y" if k == N_LAYERS - 1 else f"r{k}"
        nodes.append(helper.make_node("Relu", [f"n{k}"], [before], f"relu{k}"))
    return make_model(nodes, [1, width, 6, 6], **held)


def tied(width: int = 80) -> ModelProto:
    """Layers of one weight, each behind the same factor."""
    rng, nodes, before = np.random.default_rng(0), [], "x"
    for k in range(N_LAYERS):
        nodes.append(helper.make_node("Mul", [before, "f"], [f"s{k}"], f"mul{k}"))
        nodes.append(helper.make_node("MatMul", [f"s{k}", "w"], [f"p{k}"], f"product{k}"))
        before = "y" if k == N_LAYERS - 1 else f"r{k}"
        nodes.append(helper.make_node("Relu", [f"p{k}"], [before], f"relu{k}"))
    return make_model(nodes, [2, width], w=rng.normal(0, 0.15, (width, width)), f=0.75)


def test_a_proof_makes_two_sessions_and_reads_and_hashes_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = save(convolutions(), tmp_path / "a.onnx"), tmp_path / "b.onnx"
    count: Counter[str] = Counter()

    def counted(owner: Any, name: str, what: str) -> None:
        plain = getattr(owner, name)

        def method(*given: Any, **named: Any) -> Any:
            count[what] += 1
            return plain(*given, **named)

        monkeypatch.setattr(owner, name, method)

    plain_hash = hashlib.sha256

    class Hash:
        def __init__(self, data: Any = b"") -> None:
            self._inner = plain_hash()
            self.update(data)

        def update(self, data: Any) -> None:
            count["bytes hashed"] += memoryview(data).nbytes
            self._inner.update(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    monkeypatch.setattr(hashlib, "sha256", Hash)
    counted(Session, "__init__", "sessions")
    counted(GraphEvaluator, "_step", "float64 steps")
    counted(source, "_parse", "files parsed by the referee")
    counted(ModelFile, "_parse", "files parsed by the fold")
    result = converter.fold(model, out, verify=True)
    assert result.parity is not None
    assert (result.parity.verdict, result.parity.level) == (Verdict.PASS, "P")
    hashed = count.pop("bytes hashed")
    assert count == {"sessions": 2, "files parsed by the referee": 2, "files parsed by the fold": 1}
    # The original for the output's metadata; each side of the comparison; what names that hash takes is small.
    files = 2 * model.stat().st_size + out.stat().st_size
    assert files <= hashed < 1.1 * files


def test_layers_that_share_their_weights_are_recomputed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = save(tied(), tmp_path / "a.onnx"), tmp_path / "b.onnx"
    asked: list[str] = []

    def recompute(region: Any, *given: Any) -> Any:
        asked.append(region.output)
        return recompute_place(region, *given)

    monkeypatch.setattr("converter.referee.normal_form.repeated.recompute", recompute)
    result = converter.fold(model, out, verify=True)
    assert result.parity is not None
    assert (result.parity.verdict, result.parity.level) == (Verdict.PASS, "P")
    places = next(s for s in result.parity.stages if s.id == "parameters").outputs
    assert len(places) == N_LAYERS
    assert len(asked) == 1
    assert [c.detail["layer"] for c in places] == [f"product{k}" for k in range(N_LAYERS)]
    assert len({c.detail["ulp"] for c in places}) == 1


def test_of_layers_that_share_their_weights_one_that_is_off_is_found(tmp_path: Path) -> None:
    model, out = save(tied(), tmp_path / "a.onnx"), tmp_path / "b.onnx"
    assert converter.fold(model, out, verify=True).exit_code == 0
    folded = onnx.load(out)
    (weight,) = (t for t in folded.graph.initializer if len(t.dims) == 2)
    values = numpy_helper.to_array(weight).copy()
    values[3, 5] += 2 * np.spacing(values[3, 5])
    folded.graph.initializer.append(numpy_helper.from_array(values, "other"))
    off = [n for n in folded.graph.node if n.op_type == "MatMul"][N_LAYERS - 2]
    off.input[1] = "other"
    found = verify.compare(model, folded.SerializeToString(), stages=("parameters",))
    assert found.verdict is Verdict.FAIL
    bad = [c for s in found.stages for c in s.outputs if c.status is Verdict.FAIL]
    assert [c.detail["layer"] for c in bad] == [off.name]


def test_a_proof_loads_no_reference_library(tmp_path: Path) -> None:
    model = save(convolutions(4), tmp_path / "a.onnx")
    script = (
        "import sys, pathlib, converter; p = pathlib.Path(sys.argv[1]);"
        "r = converter.fold(p, p.with_name('b.onnx'), verify=True);"
        "print(r.parity.level, 'onnx.reference' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(model)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["P", "False"]


@pytest.mark.parametrize(("given", "expected"), [({}, "1"), ({"OMP_NUM_THREADS": "3"}, None)])
def test_blas_has_one_thread_unless_asked_for_more(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cli

    environment: dict[str, str] = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    cli._keep_blas_to_one_thread()
    assert environment.get("OPENBLAS_NUM_THREADS") == expected
