"""Weights that sum to one, and casts that lose nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converter.model.graph import load
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.bias_flow.rules import propagate
from converter.rewrite.bias_flow.rules.product import sums_to_one
from converter.rewrite.bias_flow.shift import Block, Propagate, Shift
from tests.rewrite.bias_flow.judge import model

LAST = "p = Softmax<axis = -1>(x)"
WEIGHTS = [
    (LAST, {2}),
    ("p = Softmax<axis = 1>(x)", {1}),
    (f"{LAST.replace('p', 's', 1)} p = Transpose<perm = [0, 2, 1]>(s)", {1}),
    (f"{LAST.replace('p', 's', 1)} p = Transpose<perm = [2, 0, 1]>(s)", {0}),
    (f"{LAST.replace('p', 's', 1)} p = Transpose(s)", {0}),
    ("s = Softmax<axis = 0>(x) t = Transpose<perm = [1, 2, 0]>(s) p = Transpose<perm = [0, 2, 1]>(t)", {1}),
    ("s = Softmax<axis = 2>(x) i = Identity(s) d, m = Dropout(i) p = Cast<to = 1>(d)", {2}),
    ("s = Softmax<axis = 2>(x) c = Cast<to = 6>(s) p = Cast<to = 11>(c)", set()),
    ("s = Softmax<axis = 2>(x) p, m = Dropout(s, r, on)", set()),
    ("s = Softmax<axis = 2>(x) n = IsNaN(s) p = Where(n, z, s)", set()),
    ("s = LogSoftmax<axis = 2>(x) p = Identity(s)", set()),
    ("s = Softmax<axis = 2>(x) p = Mul(s, z)", set()),
    ("p = Identity(x)", set()),
]


@pytest.mark.parametrize(("text", "axes"), WEIGHTS)
def test_along_which_axis_they_sum_to_one(text: str, axes: set[int]) -> None:
    kind = "float" if "to = 1>" in text else "double"
    constants: dict[str, Any] = {"r": np.float64(0.5), "on": np.array(True), "z": np.float64(0.5)}
    proto = model(f"(double[3,3,3] x) => ({kind}[3,3,3] p) {{ {text} }}", **constants)
    graph = load(proto)
    tensor = graph.scopes[0].values["p"]
    assert {a for a in range(3) if sums_to_one(Facts(graph), tensor, a)} == axes


FLOATS = {TensorProto.FLOAT16: 1, TensorProto.BFLOAT16: 2, TensorProto.FLOAT: 3, TensorProto.DOUBLE: 4}
WIDER = {(a, b) for a in FLOATS for b in FLOATS if FLOATS[b] >= FLOATS[a]} - {
    (TensorProto.FLOAT16, TensorProto.BFLOAT16)
}


@pytest.mark.parametrize("op", ["Cast", "CastLike"])
@pytest.mark.parametrize("after", FLOATS)
@pytest.mark.parametrize("before", FLOATS)
def test_a_shift_passes_only_a_cast_that_holds_every_value(op: str, before: int, after: int) -> None:
    """bfloat16 reaches further than float16 and is coarser: neither holds the other."""
    node = helper.make_node("Cast", ["x"], ["y"], to=after)
    if op == "CastLike":
        node = helper.make_node("CastLike", ["x", "r"], ["y"])
    ends = [helper.make_tensor_value_info(n, t, [2, 3]) for n, t in (("x", before), ("r", after), ("y", after))]
    graph = helper.make_graph([node], "g", ends[:2], ends[2:])
    proto: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    facts = Facts(load(proto))
    outcome = propagate(facts, next(iter(facts.graph.nodes())), {0: Shift.of_value(np.ones((1, 3)))})
    assert isinstance(outcome, Propagate if (before, after) in WIDER else Block)
