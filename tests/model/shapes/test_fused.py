"""Shapes of onnxruntime's own operators: those that onnxruntime gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from converter.model.graph import load
from tests.harness import run_ort
from tests.referee.reference.test_fused import NODES, Node


@pytest.mark.parametrize("node", NODES, ids=str)
def test_shape_is_what_onnxruntime_gives(node: Node) -> None:
    model, feeds = node.build()
    graph = load(model)
    (made,) = [n for n in graph.nodes() if n.op == node.op]
    assert graph.shape(made.outputs[0]) == np.asarray(run_ort(model, feeds)[0]).shape


def test_what_follows_has_a_shape_too() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[n,7,12] x) => (float[a,b,c] y) {
        h = com.microsoft.QuickGelu (x) y = Transpose <perm = [0, 2, 1]> (h) }"""
    graph = load(onnx.parser.parse_model(text))
    (last,) = [n for n in graph.nodes() if n.op == "Transpose"]
    assert graph.shape(last.inputs[0]) == ("n", 7, 12)
