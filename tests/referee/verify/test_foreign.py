"""Pairs that other tools made: nothing in them says what was rewritten."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from converter.records import Verdict
from converter.referee.verify import compare
from tests.referee.verify import nets
from tests.referee.verify.test_comparison import BUGS, copied


def foreign(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same fold under names of nobody's."""
    names: dict[str, str] = {}
    for k, tensor in enumerate(model.graph.initializer):
        if "/biasopt/" in tensor.name:
            names[tensor.name] = f"folded_{k}"
            tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


@pytest.mark.parametrize("name", sorted(nets.ARCHITECTURES))
def test_a_correct_foreign_fold_passes(name: str) -> None:
    model = nets.ARCHITECTURES[name]()
    parity = compare(model, foreign(nets.fold(model)))
    assert (parity.verdict, parity.level) == (Verdict.PASS, "B")


@pytest.mark.parametrize("name", sorted(nets.ARCHITECTURES))
@pytest.mark.parametrize("bug", BUGS)
def test_what_moves_forty_times_as_far_as_rounding_fails(name: str, bug: str) -> None:
    model = nets.ARCHITECTURES[name]()
    parity = compare(model, foreign(nets.fold(model, **BUGS[bug])))  # type: ignore[arg-type]
    (check,) = next(s for s in parity.stages if s.id == "algebra").outputs
    assert check.score is not None
    assert parity.verdict is not Verdict.PASS
    assert (check.status is Verdict.FAIL) is (check.score > 40)
    if check.score > 40:
        assert parity.verdict is Verdict.FAIL


def test_other_operators_for_the_same_function_pass() -> None:
    """A Gemm as MatMul and Add, a batch norm as Mul and Add."""
    model = nets.plain()
    other = copied(model)
    gemm = other.graph.node[-1]
    weight = next(t for t in other.graph.initializer if t.name == "fc")
    value = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value.T), "fc_t"))
    nodes = [helper.make_node("MatMul", [gemm.input[0], "fc_t"], ["y"], name="head")]
    del other.graph.node[-1]
    other.graph.node.extend(nodes)
    assert compare(model, other).verdict is Verdict.PASS
    wrong = copied(other)
    moved = value.T.copy()
    moved[0, 0] += np.float32(1e-3)
    next(t for t in wrong.graph.initializer if t.name == "fc_t").CopyFrom(numpy_helper.from_array(moved, "fc_t"))
    assert compare(model, wrong).verdict is Verdict.FAIL


def test_a_quantised_copy_is_pointed_to_the_decisions() -> None:
    model = nets.plain()
    other = copied(model)
    other.graph.node[-1].output[0] = "before"
    scale, zero = numpy_helper.from_array(np.float32(0.05), "s"), numpy_helper.from_array(np.int8(0), "z")
    other.graph.initializer.extend([scale, zero])
    other.graph.node.append(helper.make_node("QuantizeLinear", ["before", "s", "z"], ["q"]))
    other.graph.node.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]))
    parity = compare(model, other)
    assert parity.verdict is Verdict.FAIL
    assert any("--stages decision" in w for w in parity.warnings)
    assert not any("--stages decision" in w for w in compare(other, other).warnings)
    x = np.random.default_rng(0).standard_normal((200, 3, 16, 16)).astype(np.float32)
    alone = compare(model, other, inputs={"x": x}, stages=["decision"], margin=0.3)
    assert (alone.verdict, alone.level) == (Verdict.PASS, "C")
