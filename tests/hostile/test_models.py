"""A model that cannot be is one clear line, from the editor and from the referee, and nothing is written."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

import converter
from converter.commands.fold import Run
from converter.errors import ModelError
from converter.model.file import ModelFile
from converter.model.file.disk import read_whole
from converter.model.file.validate import MAX_INLINED
from converter.records import Verdict
from converter.records.options import FoldOptions
from converter.referee.proto.source import LoadedModel
from converter.referee.proto.structural_hash import is_same_computation
from converter.referee.proto.tensors import read_tensor
from converter.referee.verify import comparison
from tests.hostile.mutate import valid_models


def net() -> ModelProto:
    """Conv, BatchNormalization, and an LSTM's worth of names: small, valid, and with something to fold."""
    rng = np.random.default_rng(3)

    def tensor(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(np.asarray(rng.random(shape), np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv"),
        helper.make_node("BatchNormalization", ["c", "s", "o", "m", "v"], ["y"], "norm", epsilon=1e-5),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [tensor("w", 4, 3, 3, 3), tensor("b", 4), *(tensor(name, 4) for name in "somv")],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])


def not_text(model: ModelProto, name: bytes) -> ModelProto:
    """The model with a name of the same length in other bytes, which protobuf reads, and which are no UTF-8."""
    found = model.SerializeToString()
    assert found.count(name) >= 1
    return ModelProto.FromString(found.replace(name, b"\xff" * len(name)))


def function(name: str, *called: str) -> onnx.FunctionProto:
    nodes = [helper.make_node(op, ["a"], [f"t{k}"], domain="d") for k, op in enumerate(called)]
    nodes.append(helper.make_node("Add", ["t0", "t1"] if len(called) > 1 else ["a", "a"], ["r"]))
    return helper.make_function(
        "d", name, ["a"], ["r"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    )


def calling(*functions: onnx.FunctionProto) -> ModelProto:
    model = net()
    model.opset_import.append(helper.make_opsetid("d", 1))
    model.functions.extend(functions)
    model.graph.node.append(helper.make_node(functions[0].name, ["y"], ["z"], domain="d"))
    model.graph.output[0].name = "z"
    return model


def _edit(change: Callable[[ModelProto], Any]) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        model = net()
        change(model)
        return model

    return make


def _attribute(model: ModelProto, node: int, name: str, value: Any) -> None:
    for k, a in enumerate(model.graph.node[node].attribute):
        if a.name == name:
            del model.graph.node[node].attribute[k]
    model.graph.node[node].attribute.append(helper.make_attribute(name, value))


def _weight(model: ModelProto, **fields: Any) -> None:
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(model.graph.initializer[1], name)[:] = value
        else:
            setattr(model.graph.initializer[1], name, value)


def _no_data(model: ModelProto) -> None:
    model.graph.initializer[1].ClearField("raw_data")


def _typed(model: ModelProto) -> None:
    _no_data(model)
    model.graph.initializer[1].float_data.extend([1.0, 2.0])


def _external(model: ModelProto, **entries: str) -> None:
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def _rename_output(model: ModelProto, name: str) -> None:
    model.graph.node[0].output[0] = name


def _second_graph(model: ModelProto) -> None:
    attribute = AttributeProto(name="dilations", type=AttributeProto.INTS, ints=[1, 1])
    attribute.g.CopyFrom(model.graph)
    model.graph.node[0].attribute.append(attribute)


BROKEN: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "name of a tensor": (lambda: not_text(net(), b"c"), "is not text"),
    "name of an operator": (lambda: not_text(net(), b"BatchNormalization"), "is not text"),
    "name of an initializer": (lambda: not_text(net(), b"w"), "is not text"),
    "name of an attribute": (lambda: not_text(net(), b"epsilon"), "is not text"),
    "seventy dims": (_edit(lambda m: _weight(m, dims=[1] * 70)), "cannot have the shape"),
    "negative size": (_edit(lambda m: _weight(m, dims=[-4])), "cannot have the shape"),
    "huge size": (_edit(lambda m: _weight(m, dims=[2**62, 2**62])), "cannot have the shape"),
    "data cut short": (_edit(lambda m: _weight(m, raw_data=b"\0" * 7)), "bytes of data"),
    "data too long": (_edit(lambda m: _weight(m, raw_data=b"\0" * 20)), "bytes of data"),
    "values of another number": (_edit(_typed), "has 2 values, its shape [4] and type FLOAT need 4"),
    "input of 2000 dims": (
        _edit(lambda m: m.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 1, [1] * 2000))), "2000 dimensions"
    ),
    "list for a number": (_edit(lambda m: _attribute(m, 1, "epsilon", [1.0])), "is FLOATS, and must be FLOAT"),
    "text for a number": (_edit(lambda m: _attribute(m, 0, "group", "")), "is STRING, and must be INT"),
    "a tensor made twice": (_edit(lambda m: m.graph.node.add().CopyFrom(m.graph.node[0])), "makes 'c', which is there"),
    "an input made again": (_edit(lambda m: _rename_output(m, "x")), "makes 'x', which is there already"),
    "a weight made again": (_edit(lambda m: _rename_output(m, "w")), "makes 'w', which is there already"),
    "no element type": (_edit(lambda m: _weight(m, data_type=0)), "has no element type"),
    "unknown element type": (_edit(lambda m: _weight(m, data_type=64)), "has the element type 64"),
    "attribute twice": (
        _edit(lambda m: m.graph.node[1].attribute.append(helper.make_attribute("epsilon", 1.0))), "is there twice"
    ),
    "graph in a number": (_edit(_second_graph), "holds a graph"),
    "no inputs": (_edit(lambda m: m.graph.node[0].ClearField("input")), "has 0 inputs, and Conv takes 2 to 3"),
    "no outputs": (_edit(lambda m: m.graph.node[0].ClearField("output")), "has 0 outputs, and Conv makes 1"),
    "nothing made": (
        _edit(lambda m: m.graph.node[0].output.__setitem__(0, "")), "a Conv that makes nothing"
    ),
    "attribute of a function": (
        _edit(lambda m: setattr(m.graph.node[1].attribute[0], "ref_attr_name", "e")), "the node is in none"
    ),
    "version of a domain": (
        _edit(lambda m: m.opset_import.append(helper.make_opsetid("d", 2**40))), "version 1099511627776"
    ),
    "function calls itself": (lambda: calling(function("f", "f", "f")), "calls itself"),
    "functions in a circle": (lambda: calling(function("f", "g"), function("g", "f")), "calls itself"),
    "function twice": (lambda: calling(function("f"), function("f")), "is there twice"),
    "function bomb": (
        lambda: calling(*(function(f"f{k}", *[f"f{k + 1}"] * 2) for k in range(25)), function("f25")),
        f"more than the {MAX_INLINED}",
    ),
    "offset": (_edit(lambda m: _external(m, location="d", offset="x")), "not a number"),
    "offset of 5000 digits": (_edit(lambda m: _external(m, location="d", offset="9" * 5000)), "not a number"),
    "negative length": (_edit(lambda m: _external(m, location="d", length="-4")), "not a number"),
    "NUL in a location": (_edit(lambda m: _external(m, location="a\0b")), "no file is called"),
    "long location": (_edit(lambda m: _external(m, location="a" * 5000)), "no file is called"),
    "location outside": (_edit(lambda m: _external(m, location="../../etc/passwd")), "outside the model's directory"),
}  # fmt: skip


@pytest.mark.parametrize("which", BROKEN)
def test_what_cannot_be_is_one_line_for_every_reader(which: str, tmp_path: Path) -> None:
    make, words = BROKEN[which]
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    readers: list[Callable[[], Any]] = [
        lambda: converter.inspect(path),
        lambda: converter.fold(path, out=tmp_path / "out.onnx"),
        lambda: converter.compare(path, path),
        lambda: LoadedModel.open(path),
        lambda: converter.fold(path, out=tmp_path / "out.onnx", certificate=tmp_path / "cert.json"),
    ]
    for read in readers:
        with pytest.raises(ModelError) as caught:
            read()
        said = str(caught.value)
        assert words in said and said.startswith(str(path)) and "; " in said
        assert len(said) < 600 and "\n" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_name_that_nothing_makes_is_an_error(tmp_path: Path) -> None:
    model = net()
    model.graph.initializer[1].name = "elsewhere"
    with pytest.raises(ModelError, match="reads 'b', which nothing makes"):
        converter.inspect(model)


@pytest.mark.parametrize("which", ["data", "link", "fifo", "device", "folder", "loop", "name"])
def test_external_data_is_a_regular_file_beside_the_model(which: str, tmp_path: Path) -> None:
    model = net()
    _external(model, location="a" * 300 if which == "name" else "data", offset="0", length="16")
    path, data = tmp_path / "model.onnx", tmp_path / "data"
    path.write_bytes(model.SerializeToString())
    match which:
        case "data":
            data.write_bytes(b"\0" * 15)
        case "link":
            data.symlink_to("/etc/passwd")
        case "fifo":
            os.mkfifo(data)
        case "device":
            data.symlink_to("/dev/zero")
        case "folder":
            data.mkdir()
        case "loop":
            data.symlink_to(tmp_path / "data")
        case _:
            pass
    for read in (lambda: converter.fold(path, verify=False), lambda: read_tensor(model.graph.initializer[1], tmp_path)):
        with pytest.raises(ModelError):
            read()


def test_of_external_data_only_what_the_shape_needs_is_read(tmp_path: Path) -> None:
    model = net()
    _external(model, location="data", length=str(40 << 30))
    with (tmp_path / "data").open("wb") as sparse:
        sparse.truncate(40 << 30)
    assert read_tensor(model.graph.initializer[1], tmp_path).tolist() == [0.0] * 4


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "fifo", "."])
def test_only_regular_files_are_read(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    for read in (
        lambda: LoadedModel.open(Path(path)),
        lambda: ModelFile(Path(path)),
        lambda: read_whole(Path(path), 9),
    ):
        with pytest.raises(ModelError, match=r"is not a regular file|is a directory|no graph"):
            read()


def test_a_file_longer_than_any_model_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "m.onnx").open("wb") as sparse:
        sparse.truncate(30 << 30)
    with pytest.raises(ModelError, match="at most"):
        LoadedModel.open(tmp_path / "m.onnx")


def test_functions_are_hashed_once_each() -> None:
    """Nineteen functions that call each other twice are half a million nodes inlined, and nineteen hashes."""
    model = LoadedModel.open(calling(*(function(f"f{k}", *[f"f{k + 1}"] * 2) for k in range(18)), function("f18")))
    assert is_same_computation(model, model)


def doubling(n: int, op: str) -> ModelProto:
    """A bias that nodes compute from one number, twice as long at every step."""
    model = net()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))
    steps = [helper.make_node(op, [f"d{k}" if k else "one"] * 2, [f"d{k + 1}"], axis=0) for k in range(n)]
    nodes = [*steps, helper.make_node("Add", ["c", f"d{n}"], ["e"]), *model.graph.node]
    model.graph.ClearField("node")
    model.graph.node.extend([nodes[n + 1], *nodes[: n + 1], nodes[-1]])
    model.graph.node[-1].input[0] = "e"
    return model


def test_constants_that_double_are_not_computed() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    converter.inspect(doubling(40, "Concat"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kB


def test_an_input_too_large_to_be_fed_leaves_it_to_the_proof() -> None:
    model = net()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**40
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2**40
    parity = converter.fold(model).parity
    assert parity is not None and (parity.verdict, parity.level) == (Verdict.PASS, "P")
    assert any("not run whole" in warning for warning in parity.warnings)
    parity = converter.fold(model, verify={"stages": ["algebra"]}).parity
    assert parity is not None and parity.verdict is Verdict.INCONCLUSIVE and "too large to be fed" in parity.why


def test_a_large_model_is_proved_in_little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """onnxruntime would hold copies of all its weights; a proof holds those of one place at a time."""
    monkeypatch.setattr(comparison, "LARGE", 100)
    onnx.save(net(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    parity = converter.fold(tmp_path / "m.onnx").parity
    assert parity is not None and (parity.verdict, parity.level) == (Verdict.PASS, "P")
    assert any("--max-memory" in warning and "not run whole" in warning for warning in parity.warnings)
    parity = converter.fold(tmp_path / "m.onnx", max_memory=1 << 30).parity
    assert parity is not None and parity.verdict is Verdict.PASS and not parity.warnings


def test_a_strangers_metadata_stops_nothing() -> None:
    model = net()
    model.metadata_props.add(key="biasopt.rewrites", value="[" * 100_000)
    assert converter.fold(model, verify=False).rewrites


@pytest.mark.parametrize("where", ["input", "output", "value_info"])
def test_a_size_below_zero_is_one_that_is_left_open(tmp_path: Path, where: str) -> None:
    """Older exporters write -1 for the batch; onnxruntime reads it so, too."""
    model = net()
    if where == "value_info":
        model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [-1, 4, 6, 6]))
    else:
        getattr(model.graph, where)[0].type.tensor_type.shape.dim[0].dim_value = -1
    path, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    path.write_bytes(model.SerializeToString())
    result = converter.fold(path, out=out)
    assert result.parity is not None
    assert result.parity.verdict is Verdict.PASS
    assert [r.pass_name for r in result.rewrites]
    assert converter.compare(path, out).verdict is Verdict.PASS


def test_remarks_that_are_no_text_are_kept_as_they_are(tmp_path: Path) -> None:
    """Exporters write what a source file holds, in whatever encoding; onnxruntime reads such a model."""
    model = net()
    model.doc_string = model.producer_name = model.graph.doc_string = model.graph.node[0].doc_string = "REMARK"
    model.graph.node[1].doc_string = model.graph.initializer[1].doc_string = "REMARK"
    model.metadata_props.add(key="REMARK", value="REMARK")
    model.graph.node[0].attribute.append(helper.make_attribute("dilations", [1, 1], doc_string="REMARK"))
    content = model.SerializeToString().replace(b"REMARK", b"\xff\xfeMARK")
    path, out, certificate = tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "c.json"
    path.write_bytes(content)
    result = converter.fold(path, out=out, certificate=certificate)
    assert result.rewrites and result.parity is not None and result.parity.verdict is Verdict.PASS
    assert out.read_bytes().count(b"\xff\xfeMARK") == content.count(b"\xff\xfeMARK") - 2  # those of the norm and of b
    replayed = tmp_path / "r.onnx"
    assert not converter.replay_certificate(path, certificate, replayed).why
    assert replayed.read_bytes().count(b"\xff\xfeMARK") == out.read_bytes().count(b"\xff\xfeMARK")
    assert converter.compare(path, out).verdict is Verdict.PASS


@pytest.mark.parametrize("at", ["open", "rewrite", "stage"])
def test_a_model_that_is_cut_short_meanwhile_is_one_line(tmp_path: Path, at: str) -> None:
    """A map of the file would end the process by SIGBUS."""
    model = net()
    large = np.ones((512, 4, 3, 3), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(large, "u"))
    model.graph.node.append(helper.make_node("Conv", ["y", "u"], ["z"]))
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 512, 4, 4]))
    path, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"cut short|changed while"), Run(path, out, FoldOptions()) as run:  # noqa: PT012
        for step in ("open", "rewrite", "stage", "commit"):
            getattr(run, step)()
            if step == at:
                os.truncate(path, 70_000 if at != "open" else 900)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_what_nobody_reads_takes_no_map(tmp_path: Path) -> None:
    """The biases of a norm sink into nothing where all that reads it is dead."""
    model = onnx.ModelProto.FromString(valid_models()[7])
    del model.graph.output[0]
    path, certificate = tmp_path / "m.onnx", tmp_path / "c.json"
    path.write_bytes(model.SerializeToString())
    result = converter.fold(path, out=tmp_path / "o.onnx", certificate=certificate)
    assert result.parity is not None and result.parity.verdict is Verdict.PASS
    assert not converter.replay_certificate(path, certificate).why
