"""Tensors of two models correspond by what they hold; a name that moved on is no doubt, and hides no error."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from converter.records import Verdict
from converter.referee.proto.source import LoadedModel
from converter.referee.unreached.correspondence import align
from converter.referee.verify import compare
from tests.benchmarks import verdict_same as same
from tests.benchmarks.verdict_nets import NETS

X = {"x": np.random.default_rng(1).standard_normal((1, 3, 14, 14)).astype(np.float32)}
MOVED = {
    "equalised": same.equalise_channels,
    "permuted": same.permute_channels,
    "neutral": same.make_norms_neutral,
    "arithmetic": same.write_norms_as_arithmetic,
    "folded": same.fold_in_float32,
}


def made(change: same.Change, net: str = "cnn", *, numbered: bool = False) -> tuple[ModelProto, ModelProto]:
    first = NETS[net](3)
    if numbered:
        first = same.number(first)
    second = change(copy.deepcopy(first))
    assert second is not None
    return first, same.number(second) if numbered else second


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("kind", MOVED)
def test_names_that_moved_on_are_no_doubt(kind: str, numbered: bool) -> None:
    parity = compare(*made(MOVED[kind], numbered=numbered))
    assert (parity.verdict, parity.level) == (Verdict.PASS, "B")


@pytest.mark.parametrize("kind", MOVED)
def test_a_wrong_number_behind_them_is_no_pass(kind: str) -> None:
    first, second = made(MOVED[kind], numbered=True)
    tensor = max(second.graph.initializer, key=lambda t: np.prod(t.dims))
    value = numpy_helper.to_array(tensor).copy()
    value[2] *= np.float32(1.003)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    assert compare(first, second).verdict is Verdict.FAIL


def test_every_tensor_gets_the_originals_name_or_its_own() -> None:
    first, second = made(MOVED["folded"], numbered=True)
    aligned = align(LoadedModel.open(first), LoadedModel.open(second), [X], 1 << 30).proto
    norms = [n.output[0] for n in first.graph.node if n.op_type == "BatchNormalization"]
    assert [n.output[0] for n in aligned.graph.node if n.op_type == "Conv"] == norms
    names = [t.name for t in aligned.graph.initializer] + [n for node in aligned.graph.node for n in node.output]
    assert len(set(names)) == len(names)
    kept = [n.output[0] for n in first.graph.node if n.op_type == "Relu"]
    assert [n.output[0] for n in aligned.graph.node if n.op_type == "Relu"] == kept


def test_of_tensors_of_one_value_the_last_ones_correspond() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { %s\n y = Neg(c) }'
    first, second = (parser.parse_model(text % t) for t in ("a = Abs(x)\n b = Relu(a)\n c = Identity(b)", "c = Abs(x)"))
    feeds = {"x": np.float32([1, -2, 3, -4])}
    aligned = align(LoadedModel.open(first), LoadedModel.open(second), [feeds], 1 << 30).proto
    assert [n.output[0] for n in aligned.graph.node] == ["c", "y"]
