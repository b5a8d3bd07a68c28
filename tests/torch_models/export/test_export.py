"""Torch in, ONNX out: every batch norm still there, the same answers, and fold takes it from there."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import converter
from converter.records import Verdict
from converter.torch_models import spec as torchspec
from converter.torch_models.spec import InputSpec
from tests.torch_models.export.conftest import Run

pytestmark = pytest.mark.slow

X = ("--input", "x=2,3,7,9")
EXPORTERS = pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])


def ops(path: Path | str) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@EXPORTERS
def test_batch_norms_stay_in_inference_form(run: Run, exporter: str) -> None:
    done = run("export", "nets.py:block", "-o", "net.onnx", *X, "--exporter", exporter)
    assert done.code == 0, done.err
    model = onnx.load("net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert ops("net.onnx") == ["Conv", "BatchNormalization", "Relu", "Conv"]
    norm = model.graph.node[1]
    assert len(norm.output) == 1
    assert not any(a.name == "training_mode" and a.i for a in norm.attribute)
    assert len(model.graph.node[0].input) == 2  # the module's conv has no bias, and none was made up
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["x", "output"]
    assert "1 BatchNormalization, 1 bias vector" in done.out


@EXPORTERS
def test_fold_takes_every_batch_norm(run: Run, exporter: str) -> None:
    assert run("export", "nets.py:block", "-o", "net.onnx", *X, "--exporter", exporter).code == 0
    assert run("fold", "net.onnx").code == 0
    assert ops("net.folded.onnx") == ["Conv", "Relu", "Conv"]


@EXPORTERS
def test_fold_in_the_same_command(run: Run, exporter: str) -> None:
    done = run("export", "nets.py:block", "-o", "net.onnx", *X, "--exporter", exporter, "--fold")
    assert done.code == 0
    assert "fold-bn-into-conv" in done.out
    assert ops("net.onnx") == ["Conv", "Relu", "Conv"]
    kept = {p.key: p.value for p in onnx.load("net.onnx").metadata_props}
    assert kept["biasopt.spec"] == "nets.py:block"
    assert json.loads(kept["biasopt.rewrites"])


@EXPORTERS
def test_the_exporter_s_own_fusion_on_request(run: Run, exporter: str) -> None:
    assert run("export", "nets.py:block", "-o", "net.onnx", *X, "--exporter", exporter, "--fuse-bn").code == 0
    assert "BatchNormalization" not in ops("net.onnx")


@EXPORTERS
def test_answers_are_torch_s(run: Run, exporter: str) -> None:
    import torch

    from converter.runtime import Session
    from converter.torch_models import spec as torchspec

    assert run("export", "nets.py:block", "-o", "net.onnx", *X, "--exporter", exporter).code == 0
    net = torchspec.load("nets.py:block", inputs=[torchspec.parse_input("2,3,7,9")]).module
    x = torch.randn(2, 3, 7, 9)
    got = Session(Path("net.onnx")).run({"x": x.numpy()})["output"]
    assert np.allclose(got, net(x).detach().numpy(), rtol=1e-5, atol=1e-6)


@EXPORTERS
def test_integers_in_and_a_dict_out(run: Run, exporter: str) -> None:
    done = run("export", "nets.py:many", "-o", "net.onnx", "--example", "nets.py:many_inputs", "--exporter", exporter)
    assert done.code == 0, done.out
    graph = onnx.load("net.onnx").graph
    assert [v.name for v in graph.input] == ["ids", "scale"]
    assert [v.name for v in graph.output] == ["logits", "best", "parts_0"]
    assert "int64 [2, 5]" in done.out


def test_two_outputs_and_two_inputs(run: Run) -> None:
    assert run("export", "nets.py:Sum", "-o", "net.onnx", "--example", "nets.py:pair_inputs").code == 0
    assert [v.name for v in onnx.load("net.onnx").graph.output] == ["output_0", "output_1"]


@pytest.mark.parametrize("kind", ["half", "bfloat16"])
def test_narrow_floats(run: Run, kind: str) -> None:
    done = run("export", f"nets.py:{kind}", "-o", "net.onnx", *X)
    assert done.code == 0, done.out
    assert f"x       {'float16' if kind == 'half' else 'bfloat16'}" in done.out
    assert ("compared in float64" in done.out) == (kind == "bfloat16")  # for which onnxruntime's CPU has no Conv


def test_torchscript_file(run: Run) -> None:
    import torch

    from converter.torch_models import spec as torchspec

    net = torchspec.load("nets.py:block", inputs=[torchspec.parse_input("2,3,7,9")]).module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        torch.jit.trace(net, torch.ones(2, 3, 7, 9)).save("net.pt")
    done = run("export", "net.pt", "-o", "net.onnx", *X)
    assert done.code == 0, done.err
    assert sorted(ops("net.onnx")) == ["BatchNormalization", "Conv", "Conv", "Relu"]
    assert "only the torchscript exporter" in run("export", "net.pt", "-o", "b.onnx", *X, "--exporter", "dynamo").err


@pytest.fixture
def program(folder: Path) -> None:
    import torch

    from converter.torch_models import spec as torchspec

    net = torchspec.load("nets.py:block", inputs=[torchspec.parse_input("2,3,7,9")]).module
    torch.export.save(torch.export.export(net, (torch.ones(2, 3, 7, 9),)), "net.pt2")


def test_program_of_torch_export_has_its_own_example(run: Run, program: None) -> None:
    done = run("export", "net.pt2", "-o", "net.onnx")
    assert done.code == 0, done.err
    assert ops("net.onnx") == ["Conv", "BatchNormalization", "Relu", "Conv"]
    assert "only the dynamo exporter" in run("export", "net.pt2", "-o", "b.onnx", "--exporter", "torchscript").err
    assert "leave --dynamic out" in run("export", "net.pt2", "-o", "b.onnx", "--dynamic", "batch").err
    Path("w.pt").write_bytes(b"")
    assert "has its own weights" in run("export", "net.pt2", "-o", "b.onnx", "--weights", "w.pt").err


def test_program_in_training_mode(run: Run) -> None:
    import torch

    from converter.torch_models import spec as torchspec

    net = torchspec.load("nets.py:in_training", inputs=[torchspec.parse_input("2,3,7,9")]).module
    torch.export.save(torch.export.export(net, (torch.ones(2, 3, 7, 9),)), "net.pt2")
    done = run("export", "net.pt2", "-o", "net.onnx")
    assert done.code == 3
    assert "was exported in training mode (batch_norm)" in done.err


def test_opset(run: Run) -> None:
    assert run("export", "nets.py:block", "-o", "a.onnx", *X, "--opset", "18").code == 0
    assert onnx.load("a.onnx").opset_import[0].version == 18
    assert run("export", "nets.py:block", "-o", "b.onnx", *X, "--opset", "13", "--exporter", "torchscript").code == 0
    assert onnx.load("b.onnx").opset_import[0].version == 13
    assert "exporters know 7 to" in run("export", "nets.py:block", "-o", "c.onnx", *X, "--opset", "99").err


def test_a_module_from_python(folder: Path) -> None:
    import torch

    said: list[str] = []
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    result: Any = converter.export_model(net, "net.onnx", example=torch.randn(1, 3, 8, 8), progress=said.append)
    assert (result.exit_code, result.parity.verdict, result.output) == (0, Verdict.PASS, Path("net.onnx"))
    assert result.counts.batch_norms == 1
    assert result.outputs[0].shape == (1, 4, 6, 6)
    assert "torch: exporting (dynamo)" in said
    assert not net.training
    assert "the module came in training mode; it was set to eval mode" in result.notes


def test_json(run: Run) -> None:
    done = run("export", "nets.py:block", "-o", "net.onnx", *X, "--json", "--fold", "--quick")
    document = json.loads(done.out)
    assert document["schema"] == "biasopt.export/1"
    assert document["inputs"] == [{"name": "x", "dtype": "float32", "shape": [2, 3, 7, 9]}]
    assert (document["exporter"], document["output"], document["exit_code"]) == ("dynamo", "net.onnx", 0)
    assert document["parity"]["verdict"] == document["fold"]["parity"]["verdict"] == "PASS"
    assert document["counts"]["batch_norms"] == 1
    assert document["fold"]["counts"]["after"]["batch_norms"] == 0


def test_resnet_of_torchvision_exports_and_folds(run: Run, torchvision: None) -> None:
    done = run("export", "torchvision:resnet18", "-o", "r.onnx", "--input", "1,3,64,64", "--quick")
    assert done.code == 0, done.out + done.err
    assert "20 BatchNormalizations" in done.out
    assert "the weights are random" in done.out
    assert run("fold", "r.onnx", "--quick").code == 0
    assert "BatchNormalization" not in ops("r.folded.onnx")


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_who_may_not_read_the_checkpoint_may_not_read_the_model(run: Run, mode: int) -> None:
    import torch

    asked = ("export", "nets.py:block", *X, "--exporter", "torchscript", "--no-verify")
    torch.save(torchspec.load("nets.py:block", inputs=[InputSpec((2, 3, 7, 9))]).module.state_dict(), "w.pt")
    Path("w.pt").chmod(mode)
    mask = os.umask(0o022)
    try:
        assert run(*asked, "--weights", "w.pt", "-o", "net.onnx").code == 0
        assert run(*asked, "--weights", "w.pt", "-o", "folded.onnx", "--fold").code == 0
    finally:
        os.umask(mask)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in Path().glob("*.onnx")} == dict.fromkeys(
        ("net.onnx", "folded.onnx"), oct(mode)
    )
