"""The file itself: open sizes, provenance, the same bytes every time, whole or absent."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest

from converter.errors import DataError
from converter.torch_models.export import exporters, exporting, parse_dynamic
from tests.torch_models.export.conftest import Run

pytestmark = pytest.mark.slow

X = ("--input", "x=1,3,7,9")
EXPORTERS = pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])


def dims(value: onnx.ValueInfoProto) -> list[str | int]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@EXPORTERS
def test_an_open_batch(run: Run, exporter: str) -> None:
    done = run("export", "nets.py:block", "-o", "net.onnx", *X, "--exporter", exporter, "--dynamic", "batch")
    assert done.code == 0, done.err
    graph = onnx.load("net.onnx").graph
    assert dims(graph.input[0]) == ["batch", 3, 7, 9]
    assert dims(graph.output[0]) == ["batch", 4, 5, 7]


@EXPORTERS
def test_open_sizes_by_name(run: Run, exporter: str) -> None:
    asked = ("--dynamic", "ids=0:batch,1:length", "--exporter", exporter)
    done = run("export", "nets.py:many", "-o", "net.onnx", "--example", "nets.py:many_inputs", *asked)
    assert done.code == 0, done.out + done.err
    assert dims(onnx.load("net.onnx").graph.input[0]) == ["batch", "length"]


def test_a_batch_that_tracing_took_for_a_constant_is_found(run: Run) -> None:
    asked = ("--dynamic", "batch", "--exporter", "torchscript")
    done = run("export", "nets.py:OneBatch", "-o", "net.onnx", *X, *asked)
    assert done.code == 1
    assert "does not run on another input of the same shape" in done.out
    assert run("export", "nets.py:OneBatch", "-o", "net.onnx", *X, "--dynamic", "batch").code == 0


def test_reads_open_sizes() -> None:
    found = parse_dynamic(["batch", "x=0:n,-1:width", "y=1:height"])
    assert found.first == "batch"
    assert found.axes == {"x": {0: "n", -1: "width"}, "y": {1: "height"}}
    assert not parse_dynamic([])
    for wrong in ("1", "x=", "x=a:b", "x=0"):
        with pytest.raises(ValueError, match="is no open size"):
            parse_dynamic([wrong])


def test_open_sizes_that_do_not_fit() -> None:
    import torch

    x, y = torch.ones(2, 3), torch.ones(4)
    with pytest.raises(DataError, match=r"'z' is not an input .* x, y"):
        exporters.resolve_axes(parse_dynamic(["z=0:n"]), ["x", "y"], [x, y])
    with pytest.raises(DataError, match="'y' has 1 axes, so there is no axis 1"):
        exporters.resolve_axes(parse_dynamic(["y=1:n"]), ["x", "y"], [x, y])
    with pytest.raises(DataError, match="'batch' is 2 in 'x' and 4 in 'y'"):
        exporters.resolve_axes(parse_dynamic(["batch"]), ["x", "y"], [x, y])
    assert exporters.resolve_axes(parse_dynamic(["x=-1:n"]), ["x"], [x]) == {"x": {1: "n"}}
    assert exporters.resolve_axes(parse_dynamic(["batch"]), ["n"], [torch.tensor(1)]) == {}


def test_example_grows_where_a_size_is_open() -> None:
    import torch

    x = torch.arange(3).reshape(1, 3)
    (wide,) = exporters.widen({"x": {0: "n"}}, ["x"], [x], least=2)
    assert wide.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert exporters.widen({"x": {1: "n"}}, ["x"], [x], least=2)[0] is x


@EXPORTERS
def test_provenance(run: Run, folder: Path, exporter: str) -> None:
    import torch

    from converter.torch_models import spec as torchspec

    net = torchspec.load("nets.py:block", inputs=[torchspec.parse_input("1,3,7,9")]).module
    torch.save(net.state_dict(), "w.pt")
    spec = f"{folder / 'nets.py'}:block"
    assert run("export", spec, "-o", "net.onnx", *X, "--weights", "w.pt", "--exporter", exporter).code == 0
    model = onnx.load("net.onnx")
    assert {p.key: p.value for p in model.metadata_props} == {
        "biasopt.version": __import__("converter").__version__,
        "biasopt.torch": torch.__version__,
        "biasopt.spec": "nets.py:block",
        "biasopt.weights_sha256": hashlib.sha256(Path("w.pt").read_bytes()).hexdigest(),
        "biasopt.exporter": exporter,
        "biasopt.opset": str(model.opset_import[0].version),
    }


@EXPORTERS
def test_nothing_in_the_file_names_this_machine(run: Run, folder: Path, exporter: str) -> None:
    assert run("export", f"{folder / 'nets.py'}:block", "-o", "net.onnx", *X, "--exporter", exporter).code == 0
    content = Path("net.onnx").read_bytes()
    assert str(folder).encode() not in content
    assert str(Path(onnx.__file__).parents[1]).encode() not in content


@EXPORTERS
def test_the_same_bytes_every_time(run: Run, exporter: str) -> None:
    for name in ("a", "b"):
        assert run("export", "nets.py:block", "-o", f"{name}.onnx", *X, "--exporter", exporter).code == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_large_weights_go_beside_the_model(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_DATA_FROM", 100)
    done = run("export", "nets.py:block", "-o", "net.onnx", *X)
    assert done.code == 0, done.err
    assert sorted(p.name for p in folder.glob("net.onnx*")) == ["net.onnx", "net.onnx.data"]
    assert not list(folder.glob(".*"))
    onnx.checker.check_model(str(folder / "net.onnx"))
    assert run("fold", "net.onnx", "-o", "f.onnx").code == 0


def test_parameters_keep_their_names(run: Run) -> None:
    assert run("export", "nets.py:block", "-o", "net.onnx", *X).code == 0
    names = {t.name for t in onnx.load("net.onnx").graph.initializer}
    assert {"conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"} <= names


def test_a_zero_bias_of_the_module_s_own_stays(run: Run, folder: Path) -> None:
    with (folder / "nets.py").open("a") as file:
        file.write("\ndef zero():\n    net = block()\n    net.body[1].bias.data.zero_()\n    return net\n")
    assert run("export", "nets.py:zero", "-o", "net.onnx", *X).code == 0
    convs = [node for node in onnx.load("net.onnx").graph.node if node.op_type == "Conv"]
    assert [len(node.input) for node in convs] == [2, 3]


@EXPORTERS
def test_inputs_in_a_dict_and_outputs_that_are_inputs_or_one_thing_twice(run: Run, exporter: str) -> None:
    asked = ("--example", "nets.py:both_inputs", "--dynamic", "batch", "--exporter", exporter)
    done = run("export", "nets.py:Passes", "-o", "net.onnx", *asked)
    assert done.code == 0, done.out + done.err
    graph = onnx.load("net.onnx").graph
    assert [v.name for v in graph.input] == ["both_a", "both_b"]
    assert [v.name for v in graph.output] == ["output_0", "output_1_0", "output_1_1"]


def test_a_size_that_tracing_took_for_a_constant_is_found(run: Run) -> None:
    asked = ("--dynamic", "x=3:width", "--exporter", "torchscript")
    done = run("export", "nets.py:Fixed", "-o", "net.onnx", *X, *asked)
    assert (done.code, "at another size of width" in done.out) == (1, True), done.out + done.err
    assert run("export", "nets.py:Fixed", "-o", "net.onnx", *X, "--dynamic", "x=3:width").code == 0


@EXPORTERS
def test_sizes_of_outputs_are_the_module_s(run: Run, exporter: str) -> None:
    asked = ("--input", "x=2,3,4", "--dynamic", "x=0:batch,1:time", "--exporter", exporter)
    done = run("export", "nets.py:Recurrent", "-o", "net.onnx", *asked)
    assert done.code == 0, done.out + done.err
    outputs = [dims(v) for v in onnx.load("net.onnx").graph.output]
    assert outputs == [["batch", "time", 10], [2, "batch", 5], [2, "batch", 5]]


def test_complex_numbers_are_refused(run: Run) -> None:
    done = run("export", "nets.py:Spectrum", "-o", "net.onnx", "--input", "x=2,4")
    assert done.code == 3
    assert "returns complex numbers" in done.err
