"""The parameter stage: correct folds pass, and each injected bug is named by layer and channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import converter
from converter.records import Stage, Verdict
from converter.referee.proto.diff import find_changed_regions
from converter.referee.proto.source import LoadedModel
from converter.referee.verify.models import Options
from converter.referee.verify.parameters import check_parameters
from tests.referee.verify.nets import ARCHITECTURES, Net, arrays, fold, plain, residual

Change = Callable[[np.ndarray], None]


def judge(a: ModelProto, b: ModelProto) -> Stage:
    left, right = LoadedModel.open(a), LoadedModel.open(b)
    return check_parameters(left, right, find_changed_regions(left, right), Options())


def changed(model: ModelProto, name: str, how: Change) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            value = numpy_helper.to_array(tensor).copy()
            how(value)
            tensor.CopyFrom(numpy_helper.from_array(value, name))
            return copy
    raise AssertionError(name)


def with_epsilon(model: ModelProto, which: int, value: float) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    norms = [n for n in copy.graph.node if n.op_type == "BatchNormalization"]
    next(a for a in norms[which].attribute if a.name == "epsilon").f = value
    return copy


def failures(stage: Stage) -> list[dict[str, Any]]:
    return [c.detail for c in stage.outputs if c.status is Verdict.FAIL]


def one_failure(stage: Stage) -> dict[str, Any]:
    assert stage.status is Verdict.FAIL
    (found,) = failures(stage)
    assert repr(found["layer"]) in stage.why
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("make", [fold, lambda m: converter.fold(m, verify=False).model], ids=["plain", "ours"])
def test_a_correct_fold_is_recomputed_in_full(name: str, make: Callable[[ModelProto], ModelProto]) -> None:
    model = ARCHITECTURES[name]()
    stage = judge(model, make(model))
    assert stage.status is Verdict.PASS
    assert stage.detail["recomputed"] == stage.detail["places"] > 0
    assert 0 < stage.detail["ulp_max"] <= 0.5
    assert not stage.detail["not_recomputed"]


@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarm(seed: int) -> None:
    for build in ARCHITECTURES.values():
        model = build(seed)
        assert judge(model, converter.fold(model, verify=False).model).status is Verdict.PASS


@pytest.mark.parametrize("value", [0.0, 1e-3, 2e-5])
@pytest.mark.parametrize("which", range(10))
def test_another_epsilon_in_any_one_layer(which: int, value: float) -> None:
    model = residual(blocks=(2, 1))
    found = one_failure(judge(model, fold(with_epsilon(model, which, value))))
    convs = [n.name for n in model.graph.node if n.op_type == "Conv"]
    assert found["layer"] == convs[which]


def test_an_epsilon_that_a_large_variance_hides() -> None:
    """Every weight moves by less than its last place; that many are rounded to the other side gives it away."""
    model = changed(plain(), "var1", lambda v: v.__imul__(2e3))
    stage = judge(model, fold(with_epsilon(model, 0, 0.0)))
    assert one_failure(stage)["ulp"] <= 1
    assert "are not the recomputed ones rounded once" in stage.why
    assert judge(model, fold(model)).status is Verdict.PASS


def _scaled_channel(value: np.ndarray) -> None:
    value[3] *= np.float32(1.01)


def _doubled_weight(value: np.ndarray) -> None:
    value[3, 2, 1, 1] *= 2


def _halved(value: np.ndarray) -> None:
    value[...] = value.astype(np.float16)


BUGS = {
    "one channel x 1.01": ("weight", _scaled_channel, 3),
    "one weight x 2": ("weight", _doubled_weight, 3),
    "one bias to 0": ("bias", lambda b: b.__setitem__(3, 0), 3),
    "all weights in fp16": ("weight", _halved, None),
    "one weight by 2 ulp": ("weight", lambda w: w.__setitem__((3, 0, 0, 0), w[3, 0, 0, 0] * (1 + 4e-7)), 3),
    "one bias by 2 ulp": ("bias", lambda b: b.__setitem__(3, b[3] * (1 + 4e-7)), 3),
    "one weight is NaN": ("weight", lambda w: w.__setitem__((3, 0, 0, 0), np.nan), 3),
    "one bias is infinite": ("bias", lambda b: b.__setitem__(3, np.inf), 3),
}


@pytest.mark.parametrize("layer", [0, 2, 4])
@pytest.mark.parametrize("bug", BUGS)
def test_an_injected_bug_is_named(bug: str, layer: int) -> None:
    what, how, channel = BUGS[bug]
    model = plain()
    convs = [n.name for n in model.graph.node if n.op_type == "Conv"]
    name = convs[layer // 2]
    stage = judge(model, changed(fold(model), f"{name}/biasopt/{what}", how))
    found = one_failure(stage)
    assert (found["layer"], found["what"]) == (name, what)
    assert channel is None or found["channel"] == channel
    assert channel is None or f"channel {channel}" in stage.why


def test_a_weight_that_no_fold_touched() -> None:
    model = plain()
    found = one_failure(judge(model, changed(fold(model), "fc", lambda w: w.__setitem__((4, 2), w[4, 2] * 1.5))))
    assert (found["channel"], found["op"]) == (4, "MatMul")


@pytest.mark.parametrize("folded", [0, 1])
def test_a_shared_weight_changed_in_place(folded: int) -> None:
    """Folding one of two layers that read the same tensor must leave the other's alone."""
    net = Net(channels=4).conv(4, 3, bias=True)
    net.bn() if folded == 0 else net.relu()
    net.conv(4, 3, bias=True)
    net.bn() if folded == 1 else net.relu()
    model = net.model()
    convs = [n for n in model.graph.node if n.op_type == "Conv"]
    convs[1].input[1] = "w0"
    good = fold(model)
    assert judge(model, good).status is Verdict.PASS
    new = f"{convs[folded].name}/biasopt/weight"
    found = one_failure(judge(model, changed(good, "w0", lambda w: w.__setitem__(..., arrays(good)[new]))))
    assert found["layer"] == convs[1 - folded].name
    found = one_failure(judge(model, changed(good, new, lambda w: w.__setitem__(..., arrays(model)["w0"]))))
    assert found["layer"] == convs[folded].name


def test_a_bug_in_one_layer_of_fifty() -> None:
    model = residual(widths=(4, 4, 4, 4), blocks=(3, 4, 6, 3), size=16)
    good = fold(model)
    assert judge(model, good).status is Verdict.PASS
    name = next(t.name for k, t in enumerate(good.graph.initializer) if k > 60 and t.name.endswith("weight"))
    found = one_failure(judge(model, changed(good, name, lambda w: w.__setitem__(1, w[1] * np.float32(1.01)))))
    assert name.startswith(found["layer"])
    assert found["channel"] == 1


def test_another_tools_fold_informs_but_does_not_fail() -> None:
    model = plain()
    theirs = fold(model)
    for tensor in theirs.graph.initializer:
        tensor.name = tensor.name.replace("biasopt", "theirs")
    for node in theirs.graph.node:
        node.input[:] = [n.replace("biasopt", "theirs") for n in node.input]
    assert judge(model, theirs).status is Verdict.PASS
    slack = changed(theirs, "conv0_node/theirs/weight", lambda w: w.__imul__(np.float32(1 + 5e-7)))
    assert judge(model, slack).status is Verdict.PASS  # folded in float32, rounded several times
    stage = judge(model, changed(theirs, "conv0_node/theirs/weight", _scaled_channel))
    assert stage.status is Verdict.INCONCLUSIVE
    assert "conv0_node" in stage.why
    stage = judge(
        model, changed(changed(theirs, "conv0_node/theirs/weight", _scaled_channel), "fc", lambda w: w.fill(1))
    )
    assert stage.status is Verdict.SKIPPED  # several differences: the names may have changed their meaning


def test_what_has_no_normal_form_is_counted() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 18]> g (float[2,3,5] x) => (float[2,4] y) { h = Relu(x) a = CumSum(h, k)'
    )
    text += " s = ReduceSum<keepdims=0>(a, ax) y = MatMul(s, w) }"
    model = onnx.parser.parse_model(text)
    values = {"k": np.array(1), "ax": np.array([2]), "w": np.ones((3, 4), np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in values.items())
    other = ModelProto()
    other.CopyFrom(model)
    other.graph.node[2].op_type = "ReduceMean"
    stage = judge(model, other)
    assert stage.status is Verdict.SKIPPED
    assert stage.detail["recomputed"] == 0
    assert stage.detail["not_recomputed"]
    assert "0 of" in stage.why
