"""Local replay: each rewritten place on the activations that really come to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from converter.records import OutputCheck, Stage, Verdict
from converter.referee.proto.diff import find_changed_regions
from converter.referee.proto.source import LoadedModel
from converter.referee.reference.evaluator import Reference
from converter.referee.verify import compare
from converter.referee.verify.options import Options
from converter.referee.verify.region_replay import RegionReplay, add_bound
from converter.referee.verify.rounding_bound import find_unit
from tests.referee.verify.nets import ARCHITECTURES, fold, mobile, plain, residual
from tests.referee.verify.test_parameters import changed

X = np.random.default_rng(5).standard_normal((2, 3, 16, 16)).astype(np.float32)


def replayed(a: ModelProto, b: ModelProto, *, ours: bool = True, x: np.ndarray = X, **options: Any) -> RegionReplay:
    left, right = LoadedModel.open(a), LoadedModel.open(b)
    replay = RegionReplay(find_changed_regions(left, right, {"x": x.shape}), left, right, Options(**options), ours=ours)
    Reference(left.proto).run({"x": x}, replay)
    return replay


def stage_of(a: ModelProto, b: ModelProto, **options: Any) -> Stage:
    stage = replayed(a, b, **options).stage()
    assert stage is not None
    return stage


def failing(stage: Stage) -> OutputCheck:
    (found,) = [c for c in stage.outputs if c.status is not Verdict.PASS]
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_correct_folds_pass_in_the_order_of_the_data(name: str) -> None:
    model = ARCHITECTURES[name]()
    stage = stage_of(model, fold(model))
    norms = [n.output[0] for n in model.graph.node if n.op_type == "BatchNormalization"]
    assert [c.name for c in stage.outputs] == norms
    assert stage.status is Verdict.PASS
    assert stage.detail == {"places": len(norms), "replayed": len(norms), "missed": {}}
    assert all(c.score is not None and 0 < c.score < 0.5 for c in stage.outputs)


def _channel(value: np.ndarray) -> None:
    value[3] *= np.float32(1.01)


BUGS = {
    "one channel x 1.01": ("weight", _channel),
    "one weight x 2": ("weight", lambda w: w.__setitem__((3, 1, 1, 1), 2 * w[3, 1, 1, 1])),
    "one bias to 0": ("bias", lambda b: b.__setitem__(3, 0)),
}


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_found_where_it_is_and_only_there(bug: str, layer: int) -> None:
    what, how = BUGS[bug]
    model = plain()
    conv = [n for n in model.graph.node if n.op_type == "Conv"][layer]
    check = failing(stage_of(model, changed(fold(model), f"{conv.name}/biasopt/{what}", how)))
    assert check.status is Verdict.FAIL
    assert (check.detail["layer"], check.detail["channel"], check.detail["op"]) == (conv.name, 3, "Conv")
    assert f"{conv.name!r}, channel 3" in check.why
    assert check.score is not None and check.score > 100


def test_what_a_place_says_of_itself() -> None:
    model = plain()
    detail = stage_of(model, fold(model)).outputs[1].detail
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert detail["n"] == 8 * 9
    scale = np.abs(values["gamma4"]) / np.sqrt(values["var4"].astype(np.float64) + 1e-5)
    assert detail["scale_max"] == pytest.approx(scale.max(), rel=1e-6)
    assert detail["var_min"] == values["var4"].min()


def test_tensors_are_let_go() -> None:
    """Of a long net, only what a waiting place still needs is held."""
    model = residual(blocks=(4, 4))
    held = []
    left, right = LoadedModel.open(model), LoadedModel.open(fold(model))
    replay = RegionReplay(find_changed_regions(left, right, {"x": X.shape}), left, right, Options(), ours=True)

    def watch(name: str, value: Any) -> None:
        replay(name, value)
        held.append(len(replay._values))

    Reference(left.proto).run({"x": X}, watch)
    assert len(held) > 60
    assert max(held) <= 3
    assert held[-1] == 0


def test_the_original_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[bool] = []
    right = Reference.run
    monkeypatch.setattr(Reference, "run", lambda self, *a, **k: (runs.append(True), right(self, *a, **k))[1])
    model = mobile()
    alone = compare(model, fold(model), stages=["structure", "algebra"])
    without, runs[:] = len(runs), []
    both = compare(model, fold(model), stages=["structure", "algebra", "local"])
    assert len(runs) == without > 0
    assert [s.id for s in both.stages if s not in alone.stages and s.id == "local"] == ["local"]


def test_no_time_no_place() -> None:
    model = plain()
    assert replayed(model, fold(model), deadline=0.0).stage() is None


def test_another_tools_names_may_mean_other_things() -> None:
    model = plain()
    stage = stage_of(model, changed(fold(model), "conv0_node/biasopt/weight", _channel), ours=False)
    assert failing(stage).status is Verdict.INCONCLUSIVE
    assert "no longer means the same" in stage.why


def test_a_place_that_is_not_linear() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[2,3,16,16] x) => (float[2,4,14,14] y)
    { c = Conv(x, w, b) y = InstanceNormalization(c, s, t) }"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(3)
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "s": (4,), "t": (4,)}
    values = {n: rng.uniform(0.5, 1, s).astype(np.float32) for n, s in shapes.items()}
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in values.items())
    other = ModelProto()
    other.CopyFrom(model)
    del other.graph.node[0].input[2:]
    other.graph.node[0].output[0] = other.graph.node[1].input[0] = "c/biasopt"
    stage = stage_of(model, other)
    assert (stage.status, len(stage.outputs)) == (Verdict.PASS, 1)
    assert stage.outputs[0].detail["op"] == "InstanceNormalization"
    wrong = changed(other, "s", lambda s: s.__setitem__(1, s[1] * 1.01))
    assert failing(stage_of(model, wrong)).status is Verdict.FAIL


def test_an_output_that_is_not_finite_is_left_out() -> None:
    model = changed(plain(), "beta4", lambda b: b.__setitem__(0, np.inf))
    replay = replayed(model, fold(model))
    assert "batchnormalization4" in replay.missed
    assert all(np.isfinite(c.score) for c in replay.checks if c.score is not None)


def parsed(body: str, **shapes: tuple[int, ...]) -> ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[2,6,5,5] x) => (float y) {body}'
    )
    rng = np.random.default_rng(1)
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


CONV = {"w": (4, 3, 3, 3), "b": (4,)}


@pytest.mark.parametrize(
    ("body", "shapes", "n", "factor"),
    [
        ("{ y = Conv<group=2>(x, w, b) }", CONV, 27, 31),
        ("{ y = ConvTranspose<group=2>(x, v, b2) }", {"v": (6, 2, 3, 3), "b2": (4,)}, 27, 31),
        ("{ f = Flatten(x) y = Gemm<transB=1, alpha=-2.0>(f, g, c) }", {"g": (3, 150), "c": (3,)}, 150, 154),
        ("{ m = MatMul(x, k) y = Add(m, d) }", {"k": (5, 7), "d": (7,)}, 5, 10),
        ("{ c = Conv<group=2>(x, w, b) r = Relu(c) n = Neg(r) y = Sub(n, s) }", CONV | {"s": (1,)}, 27, None),
        ("{ c = Conv<group=2>(x, w, b) y = BatchNormalization(c, b, b, b, q) }", CONV | {"q": (4,)}, 27, None),
    ],
)
def test_the_bound_is_the_sum_of_absolute_values(
    body: str, shapes: dict[str, tuple[int, ...]], n: int, factor: float | None
) -> None:
    """With |w|, |b| and |x| put in by hand, the model itself gives it."""
    model = parsed(body, **shapes)
    for name in ("q",):
        if name in shapes:
            model = changed(model, name, lambda v: np.abs(v, out=v))
    found = add_bound(model)
    assert found is not None
    assert found.n == n
    assert factor is None or found.factor == pytest.approx(factor, rel=1e-4)
    x = np.random.default_rng(2).standard_normal((2, 6, 5, 5)).astype(np.float32)
    got = Reference(found.model).run({"x": x})
    assert (got[found.bound] >= np.abs(got["y"]) * (1 - 1e-5)).all()
    positive = model
    for name in shapes:
        positive = changed(positive, name, lambda v: np.abs(v, out=v))
    for node in positive.graph.node:
        for attribute in node.attribute:
            if attribute.name == "alpha":
                attribute.f = abs(attribute.f)
    if not {"Neg", "BatchNormalization"} & {n.op_type for n in model.graph.node}:
        assert np.allclose(got[found.bound], Reference(positive).run({"x": np.abs(x)})["y"], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("n", [3, 40, 700])
def test_no_order_of_a_sum_is_beyond_the_bound(n: int, dtype: Any) -> None:
    """Summed one by one in float32, each element stored in the model's type: no element is off by more."""
    elem = {np.float32: "float", np.float16: "float16"}[dtype]
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({elem}[8,{n}] x) => ({elem}[8,40] y) {{ y = MatMul(x, w) }}'
    )
    rng = np.random.default_rng(n)
    exact, x = rng.standard_normal((n, 40)), rng.standard_normal((8, n)).astype(dtype)
    exact -= exact.mean(axis=0)
    w = exact.astype(dtype)
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    found = add_bound(model)
    assert found is not None
    total = np.zeros((8, 40), np.float32)
    for k in range(n):
        total += x[:, k : k + 1].astype(np.float32) * w[k].astype(np.float32)
    error = np.abs(total.astype(dtype).astype(np.float64) - x.astype(np.float64) @ exact)
    bound = found.factor * find_unit(model) * (np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64))
    assert (error <= bound).all()
    assert (error > 1e-3 * bound).any()


@pytest.mark.parametrize("body", ["{ y = Sigmoid(x) }", "{ c = Conv(x, u) y = Softmax(c) }", "{ y = Mul(x, x) }"])
def test_no_bound_for_what_is_not_linear(body: str) -> None:
    assert add_bound(parsed(body, u=(4, 6, 3, 3))) is None


def test_half_precision() -> None:
    from tests.referee.verify.test_comparison import in_type

    model = plain()
    in_type(model, np.float16)
    folded = fold(model)
    in_type(folded, np.float16)
    stage = stage_of(model, folded, x=X.astype(np.float16))
    assert stage.status is Verdict.PASS
    assert all(c.score is not None and c.score > 1e-3 for c in stage.outputs)
    wrong = changed(folded, "conv3_node/biasopt/weight", _channel_tenth)
    assert failing(stage_of(model, wrong, x=X.astype(np.float16))).detail["layer"] == "conv3_node"


def _channel_tenth(value: np.ndarray) -> None:
    value[3] *= np.float16(4)
