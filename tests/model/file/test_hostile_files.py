"""Files that are no models, odd models, and places where nothing may be written."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import converter
from converter.errors import ModelError
from tests.files import digests, feeds, folded_or_refused, needs_permissions, refused, small_model, within, write
from tests.outputs import assert_same_outputs


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def nested(depth: int) -> bytes:
    """A model whose graph holds a node whose attribute holds a graph, and so on."""
    body = b""
    for _ in range(depth):
        for number in (6, 5, 1):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            body = bytes([number << 3 | 2]) + varint(len(body)) + body
    return b"\x08\x08" + b"\x3a" + varint(len(body)) + body


MODEL = small_model().SerializeToString()
NOT_MODELS = {
    "empty": b"",
    "one byte": b"\x08",
    "text": b"# Not a model\nJust a README that somebody renamed.\n",
    "zeros": bytes(4096),
    "zip": b"PK\x03\x04" + bytes(100),
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 102\n",
    "random": random.Random(3).randbytes(4096),
    "half": MODEL[: len(MODEL) // 2],
    "one byte short": MODEL[:-1],
    "huge length": b"\x08\x08\x3a" + varint(1 << 62) + b"abc",
    "length over the end": b"\x08\x08\x3a\x7f\x0a",
    "endless varint": b"\x08" + b"\xff" * 64,
    "no graph": b"\x08\x08",
    "no IR version": onnx.ModelProto(graph=small_model().graph).SerializeToString(),
    "wrong wire types": b"\x0d\x01\x02\x03\x04\x38\x01",
    "group tags": b"\x08\x08\x3b\x3c",
    "deeply nested": nested(5000),
    "a tensor": numpy_helper.from_array(np.ones((3, 4), np.float32), "t").SerializeToString(),
}


@pytest.mark.parametrize("content", NOT_MODELS.values(), ids=NOT_MODELS)
def test_refuses_what_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    before = digests(tmp_path)
    with refused("model.onnx", kind=ModelError):
        converter.fold(path, out=tmp_path / "out.onnx")
    assert digests(tmp_path) == before


def test_every_truncation_is_refused_or_harmless(tmp_path: Path) -> None:
    """Cut anywhere, a file is an error of the user's or a smaller model; never a crash."""
    path = tmp_path / "model.onnx"
    for size in range(0, len(MODEL), 7):
        path.write_bytes(MODEL[:size])
        folded_or_refused(path)


def test_flipped_bytes_never_crash(tmp_path: Path) -> None:
    path, rng = tmp_path / "model.onnx", random.Random(5)
    for _ in range(300):
        content = bytearray(MODEL)
        for _ in range(rng.choice([1, 1, 1, 4, 16])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        folded_or_refused(path)


def test_refuses_missing_and_folders(tmp_path: Path) -> None:
    with refused("gone.onnx", kind=ModelError):
        converter.fold(tmp_path / "gone.onnx")
    with refused(str(tmp_path), kind=ModelError):
        converter.fold(tmp_path)
    (tmp_path / "dangling.onnx").symlink_to("nowhere")
    with refused("dangling.onnx", kind=ModelError):
        converter.fold(tmp_path / "dangling.onnx")
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    with refused("loop.onnx", kind=ModelError):
        converter.fold(tmp_path / "loop.onnx")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_refuses_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with within(10), refused("pipe.onnx", kind=ModelError):
        converter.fold(tmp_path / "pipe.onnx")


@needs_permissions
def test_refuses_an_unreadable_file(tmp_path: Path) -> None:
    path = write(small_model(), tmp_path / "model.onnx")
    path.chmod(0)
    with refused("model.onnx", kind=ModelError):
        converter.fold(path)


# Versions and domains ------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [onnx.defs.onnx_opset_version() + 1, 999, 0, -1])
def test_an_unknown_opset_is_refused_or_left_alone(tmp_path: Path, opset: int) -> None:
    """Ops may mean something else there: an error of one line, or findings and no rewrite."""
    model = small_model()
    model.opset_import[0].version = opset
    result = folded_or_refused(write(model, tmp_path / "model.onnx"))
    if result is not None:
        assert not result.rewrites
        assert result.model == model
        assert "opset" in {finding.code for finding in result.findings}


@pytest.mark.parametrize("ir_version", [onnx.IR_VERSION + 1, 99])
def test_an_unknown_ir_version_is_refused_or_kept(tmp_path: Path, ir_version: int) -> None:
    """Newer than this onnx knows: an error of one line, or a fold that leaves the version alone."""
    model = small_model()
    model.ir_version = ir_version
    result = folded_or_refused(write(model, tmp_path / "model.onnx"))
    assert result is None or result.model.ir_version == ir_version


def test_no_opset_import_is_an_error_or_opset_1(tmp_path: Path) -> None:
    model = small_model()
    del model.opset_import[:]
    result = folded_or_refused(write(model, tmp_path / "model.onnx"))
    assert result is None or not result.rewrites


def test_leaves_custom_domains_alone(tmp_path: Path) -> None:
    """Nodes of unknown domains stay as they are, also those that share a name with an op of ours."""
    model = small_model()
    model.opset_import.add(domain="com.example", version=3)
    model.graph.node[3].domain = "com.example"
    mine = helper.make_node("BatchNormalization", ["y", *model.graph.node[1].input[1:]], ["z"], domain="com.example")
    model.graph.node.append(mine)
    model.graph.output.append(helper.make_tensor_value_info("z", 1, None))
    result = converter.fold(write(model, tmp_path / "model.onnx"), verify=False)
    assert [rewrite.pass_name for rewrite in result.rewrites] == ["fold-bn-into-conv"]
    assert list(result.model.graph.node)[-2:] == list(model.graph.node)[-2:]
    assert result.model.opset_import == model.opset_import


def test_a_custom_op_between_stops_the_fold() -> None:
    model = small_model()
    model.opset_import.add(domain="com.example", version=3)
    model.graph.node[0].domain = "com.example"  # a "Conv" that need not be one
    result = converter.fold(model, verify=False, only=["fold-bn-into-conv"])
    assert not result.rewrites
    assert result.model == model


# Names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["initializer", "node output", "node name", "graph input", "value_info", "in a body"])
def test_names_of_ours_that_are_taken(kind: str) -> None:
    """What fold would call a new tensor may be there already."""
    plain = converter.fold(small_model(), verify=False).model
    known = {t.name for t in small_model().graph.initializer}
    taken = [t.name for t in plain.graph.initializer if t.name not in known]
    assert taken
    assert all("/biasopt/" in name for name in taken)
    model = small_model()
    for name in taken:
        match kind:
            case "initializer":
                model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), name))
                model.graph.node.append(helper.make_node("Identity", [name], [f"{name}_out"]))
                model.graph.output.append(helper.make_tensor_value_info(f"{name}_out", 1, [3]))
            case "node output":
                model.graph.node.append(helper.make_node("Neg", ["x"], [name]))
                model.graph.output.append(helper.make_tensor_value_info(name, 1, [None, 3, 6, 7]))
            case "node name":
                model.graph.node[3].name = name
            case "graph input":
                model.graph.input.append(helper.make_tensor_value_info(name, 1, [1]))
            case "value_info":
                model.graph.value_info.append(helper.make_tensor_value_info(name, 1, [1]))
            case "in a body":
                _add_if(model, name)
    onnx.checker.check_model(model)
    result = converter.fold(model, verify=False)
    assert result.rewrites
    onnx.checker.check_model(result.model)
    extra = {name: np.ones(1, np.float32) for name in taken} | {"condition": np.asarray(True)}
    assert_same_outputs(model, result.model, [feeds() | extra])


def _add_if(model: onnx.ModelProto, name: str) -> None:
    """An If whose bodies define a tensor of that name, which must not hide one outside."""
    bodies = [
        helper.make_graph([helper.make_node("Neg", ["r"], [name])], side, [], [_value(name)]) for side in ("a", "b")
    ]
    out = f"{name}_if"
    model.graph.node.append(helper.make_node("If", ["condition"], [out], then_branch=bodies[0], else_branch=bodies[1]))
    model.graph.output.append(_value(out))
    if all(value.name != "condition" for value in model.graph.input):
        model.graph.input.append(helper.make_tensor_value_info("condition", 9, []))


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, 1, [None] * 4)


@pytest.mark.parametrize("name", ["", "same"])
def test_nodes_without_a_name_of_their_own(name: str) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,6,7] x) => (float[N,5,4,5] y, float[N,5,4,5] z)
    {
      c = Conv(x, W, b)
      y = BatchNormalization(c, gamma, beta, mean, var)
      d = Conv(x, W, b)
      z = BatchNormalization(d, beta, gamma, mean, var)
    }"""
    model = small_model(text)
    for node in model.graph.node:
        node.name = name
    result = converter.fold(model, verify=False, allow_growth=1.0)  # two batch norms, one weight
    assert result.after.batch_norms == 0
    assert len({rewrite.id for rewrite in result.rewrites}) == 2
    for node in model.graph.node:
        node.name = ""  # the runtime itself refuses two nodes of one name
    folded = result.model
    for node in folded.graph.node:
        node.name = ""
    assert_same_outputs(model, folded, [feeds()])


def test_what_nobody_asked_to_change_is_kept() -> None:
    """Metadata, documentation, annotations and sparse or unused constants of a model that folds."""
    model = small_model()
    model.doc_string, model.domain, model.model_version = "a model", "org.example", 42
    model.metadata_props.add(key="author", value="somebody ü")
    model.graph.doc_string = "a graph"
    model.graph.metadata_props.add(key="g", value="v")
    model.graph.node[0].doc_string, model.graph.node[3].doc_string = "the first conv", "the last conv"
    for node in model.graph.node:
        node.metadata_props.add(key="origin", value=node.name)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "unused"))
    model.graph.quantization_annotation.add(tensor_name="r").quant_parameter_tensor_names.add(key="SCALE", value="b")
    model.graph.value_info.append(_value("r"))
    model.graph.output[0].doc_string = "the output"
    model.functions.add(name="F", domain="local", output=["o"], input=["i"]).node.add(
        op_type="Neg", input=["i"], output=["o"]
    )
    model.functions[0].opset_import.add(domain="", version=17)
    model.opset_import.add(domain="local", version=1)
    folded = converter.fold(model, verify=False).model
    for field in ("doc_string", "domain", "model_version", "opset_import", "functions", "producer_name", "ir_version"):
        assert getattr(folded, field) == getattr(model, field), field
    for field in ("doc_string", "metadata_props", "quantization_annotation", "value_info", "input", "output", "name"):
        assert getattr(folded.graph, field) == getattr(model.graph, field), field
    props = {p.key: p.value for p in folded.metadata_props}
    assert props["author"] == "somebody ü"
    assert "unused" in {t.name for t in folded.graph.initializer}
    conv, act, last = folded.graph.node
    assert (act, last) == (model.graph.node[2], model.graph.node[3])
    assert conv.name == "first"
    assert conv.doc_string == "the first conv"
    assert {p.key: p.value for p in conv.metadata_props}["origin"] == "first"


def test_an_attribute_of_another_opset_is_one_line() -> None:
    """As a tool writes that raises the opset and leaves the nodes: onnxruntime refuses it too."""
    graph = "(float[2,3] x) => (float[2,1] y) { y = ReduceMean <axes = [1]> (x) }"
    text = f'<ir_version: 8, opset_import: ["" : 18]> g {graph}'
    with pytest.raises(ModelError, match="ReduceMean has no attribute 'axes' in the opset that the model names"):
        converter.fold(onnx.parser.parse_model(text))
