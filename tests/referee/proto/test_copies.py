"""Copies that onnxruntime loads: outputs without a name crash it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from converter.referee.proto.copies import expose_outputs, make_loadable
from converter.referee.proto.source import LoadedModel, count_stored_bytes, walk_nodes
from converter.referee.reference.evaluator import Reference
from converter.runtime import Session
from tests import tiny
from tests.referee.verify import nets

X = np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4)


def norm(opset: int, outputs: list[str]) -> onnx.ModelProto:
    model = parser.parse_model(f"""
        <ir_version: 7, opset_import: ["" : {opset}]>
        g (float[1,3,2,4] x) => (float[1,3,2,4] y) {{ y = BatchNormalization(x, s, b, m, v) }}
    """)
    for k, name in enumerate("sbmv"):
        model.graph.initializer.append(numpy_helper.from_array(np.float32([1, 2, 3]) + k, name))
    del model.graph.node[0].output[:]
    model.graph.node[0].output.extend(outputs)
    return model


@pytest.mark.parametrize("opset", [9, 13, 17])
def test_a_batch_norm_keeps_only_outputs_that_have_a_name(opset: int) -> None:
    model = norm(opset, ["y", "", "", "", ""][: 3 if opset > 13 else 5])
    source = make_loadable(LoadedModel.open(model))
    assert list(source.proto.graph.node[0].output) == ["y"]
    assert len(model.graph.node[0].output) > 1  # the caller's own stays as it is
    wanted = Session(norm(opset, ["y"]).SerializeToString()).run({"x": X})["y"]
    assert np.array_equal(Session(source.for_runtime()[0]).run({"x": X})["y"], wanted)
    assert np.allclose(Reference(model).run({"x": X})["y"], wanted, atol=1e-5)


def test_a_split_keeps_how_many_outputs_it_has() -> None:
    model = parser.parse_model("""
        <ir_version: 7, opset_import: ["" : 13]>
        g (float[1,3,2,4] x) => (float[1,3,2,2] y) { z, y = Split<axis = 3>(x) }
    """)
    model.graph.node[0].output[0] = ""
    source = make_loadable(LoadedModel.open(model))
    assert np.array_equal(Session(source.for_runtime()[0]).run({"x": X})["y"], X[..., 2:])


def test_bodies_and_functions_count() -> None:
    inner = norm(13, ["y", ""])
    body = helper.make_graph(list(inner.graph.node), "body", [], list(inner.graph.output))
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13, "mine" : 1]> g (float[1] x) => (float[1] y) { y = Identity(x) }
    """)
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body))
    function = helper.make_function("mine", "f", ["x"], ["y"], list(inner.graph.node), [helper.make_opsetid("", 13)])
    model.functions.append(function)
    norms = [n for n in walk_nodes(make_loadable(LoadedModel.open(model)).proto) if n.op_type == "BatchNormalization"]
    assert [list(n.output) for n in norms] == [["y"]] * 3


def test_most_models_are_loaded_as_they_are() -> None:
    source = LoadedModel.open(nets.plain())
    assert make_loadable(source) is source


@pytest.mark.parametrize("kept", ["memory", "file", "data file"])
def test_inner_tensors_are_handed_out_beside_the_outputs(tmp_path: Path, kept: str) -> None:
    text = "(float[1,3,2,4] x) => (float[1,3,2,4] y) { a = Mul(x, k)\n r = Relu(a)\n y = Add(r, k) }"
    model = tiny.model(text, {"k": np.full((1, 3, 2, 4), -2, np.float32)})
    path = tmp_path / "m.onnx"
    if kept != "memory":
        onnx.save(model, path, save_as_external_data=kept == "data file", location="d", size_threshold=0)
    source = LoadedModel.open(model if kept == "memory" else path)
    content = expose_outputs(source, ["a", "y"])
    session = Session(content, external_dir=source.folder)
    assert [port.name for port in session.outputs] == ["y", "a"]
    assert not getattr(session._session, "_model_bytes", None), "what was loaded is not held a second time"
    found = session.run({"x": X})
    assert np.array_equal(found["a"], -2 * X)
    assert np.array_equal(found["y"], np.maximum(-2 * X, 0) - 2)
    size = 96 if kept == "memory" else path.stat().st_size + (96 if kept == "data file" else 0)
    assert count_stored_bytes(source) == size
