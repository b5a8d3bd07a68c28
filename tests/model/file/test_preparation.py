"""Models whose nodes are not sorted, which onnxruntime loads, and text that is no UTF-8."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import converter
from converter.model.file.preparation import are_sorted, sort_nodes

_CHAIN = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, 4, 4] x, bool c) => (float[N, 5, 4, 4] y) {
        a = Conv (x, w) b = BatchNormalization (a, s, t, m, v) r = Relu (b)
        y = If (c) <then_branch = yes () => (float[N, 5, 4, 4] p) { q = Neg (r) p = Abs (q) },
                    else_branch = no () => (float[N, 5, 4, 4] o) { o = Identity (r) }>
    }
"""


def _net(seed: int = 0) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(_CHAIN)
    for name, shape in (("w", (5, 3, 1, 1)), *((name, (5,)) for name in "stmv")):
        value = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def _shuffle(nodes: list[onnx.NodeProto], seed: int) -> None:
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    random.Random(seed).shuffle(copies)
    del nodes[:]
    nodes.extend(copies)


def _shuffled(seed: int) -> onnx.ModelProto:
    model = _net()
    _shuffle(model.graph.node, seed)
    for attribute in (a for n in model.graph.node for a in n.attribute if a.HasField("g")):
        _shuffle(attribute.g.node, seed)
    return model


@pytest.mark.parametrize("seed", range(4))
def test_what_is_not_sorted_is_sorted(seed: int, tmp_path: Path) -> None:
    model = _shuffled(seed)
    before, path = model.SerializeToString(), tmp_path / "a.onnx"
    path.write_bytes(before)
    assert not are_sorted(model)
    result = converter.fold(path, tmp_path / "b.onnx")
    assert result.exit_code == 0
    assert result.was_unsorted
    assert result.after.batch_norms == 0
    assert are_sorted(onnx.load(tmp_path / "b.onnx"))
    assert path.read_bytes() == before


def test_sorted_nodes_stay_where_they_are() -> None:
    model = _net()
    assert not sort_nodes(model)
    assert model == _net()
    assert not converter.inspect(model).was_unsorted


def test_a_proto_that_is_not_sorted_stays_as_it_is() -> None:
    model = _shuffled(1)
    before = model.SerializeToString()
    assert converter.compare(model, _net()).verdict == "PASS"
    assert model.SerializeToString() == before


def test_text_that_is_not_utf_8_is_bytes(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 3, 4, 4] x) => (float[2, 5, 4, 4] y, string[2] z) {
            a = Conv (x, w) y = BatchNormalization (a, s, t, m, v) z = Identity (k)
        }
    """)
    model.graph.initializer.extend(_net().graph.initializer)
    model.graph.initializer.append(helper.make_tensor("k", onnx.TensorProto.STRING, [2], [b"\xff\xfe", b"cat"]))
    result = converter.fold(model, tmp_path / "b.onnx")
    assert result.exit_code == 0
    assert result.after.batch_norms == 0
    (text,) = (t for t in onnx.load(tmp_path / "b.onnx").graph.initializer if t.name == "k")
    assert list(text.string_data) == [b"\xff\xfe", b"cat"]
