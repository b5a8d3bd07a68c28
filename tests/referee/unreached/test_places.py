"""What no usual input reaches is driven there; what still is not is named, and never a plain PASS."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

from converter.records import Parity, Stage, Verdict
from converter.referee.proto.source import LoadedModel
from converter.referee.unreached.driving import Pair
from converter.referee.unreached.thresholds import find_own_bounds, list_bounds
from converter.referee.verify import compare
from tests.benchmarks.verdict_traps import TRAPS

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def parsed(text: str, **held: np.ndarray) -> ModelProto:
    model = parser.parse_model(HEAD + text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in held.items())
    return model


def local(parity: Parity) -> Stage:
    return next(s for s in parity.stages if s.id == "local")


CLIP = "g (float[N,8] x) => (float[N,8] y) { t = Sigmoid(x)\n c = Clip(t, low, high)\n y = Neg(c) }"
PLAIN = CLIP.replace("Clip(t, low, high)", "Clip(t, low)")
LOW, SIX = np.float32(0), np.float32(6)


def test_a_bound_that_nothing_can_reach_is_named() -> None:
    parity = compare(parsed(CLIP, low=LOW, high=SIX), parsed(PLAIN, low=LOW))
    assert parity.verdict is Verdict.INCONCLUSIVE
    assert "Clip's upper bound changed from 6 to none; no input came near it (largest value" in parity.why
    assert "--inputs" in parity.why


def test_a_bound_that_both_have_need_not_be_reached() -> None:
    other = "g (float[N,8] x) => (float[N,8] y) { t = Sigmoid(x)\n a = Min(t, high)\n c = Relu(a)\n y = Neg(c) }"
    assert compare(parsed(CLIP, low=LOW, high=SIX), parsed(other, high=SIX)).verdict is Verdict.PASS


@pytest.mark.parametrize("kind", ["float", "int32"])
@pytest.mark.parametrize("moved", [1000.0, 9.0])
def test_inputs_are_driven_to_a_bound(kind: str, moved: float) -> None:
    text = f"g ({kind}[N,8] x) => ({kind}[N,8] y) {{ c = Clip(x, low, high)\n y = Add(c, c) }}"
    dtype = np.dtype("float32" if kind == "float" else kind)
    held = [{"low": dtype.type(-1000), "high": dtype.type(high)} for high in (8, moved)]
    parity = compare(*(parsed(text, **h) for h in held))
    assert parity.verdict is Verdict.FAIL
    assert "driven inputs" in parity.why


@pytest.mark.parametrize(("threshold", "verdict"), [(40.0, Verdict.PASS), (40.01, Verdict.FAIL), (1e4, Verdict.FAIL)])
def test_both_sides_of_an_if_and_what_lies_between(threshold: float, verdict: Verdict) -> None:
    text = """g (float[N,6] x) => (float[N,6] y) { m = ReduceMean<keepdims=0>(x)
     c = Greater(m, k)
     y = If(c) <then_branch = t () => (u) { u = Exp(x) }, else_branch = e () => (w) { w = Neg(x) }> }"""
    renamed = text.replace(" m =", " mean =").replace("(m, k)", "(mean, k)")
    assert compare(parsed(text, k=np.float32(40)), parsed(renamed, k=np.float32(threshold))).verdict is verdict


def test_a_unit_that_was_never_on_is_turned_on() -> None:
    rng = np.random.default_rng(0)
    text = "g (float[N,6] x) => (float[N,3] y) { a = Gemm(x, w, b)\n r = Relu(a)\n y = MatMul(r, v) }"
    w, v = rng.standard_normal((6, 9)).astype(np.float32), rng.standard_normal((9, 3)).astype(np.float32)
    b = np.zeros(9, np.float32)
    b[4] = -60
    wrong = v.copy()
    wrong[4] *= 2
    assert compare(parsed(text, w=w, b=b, v=v), parsed(text, w=w, b=b, v=wrong)).verdict is Verdict.FAIL


def test_ties_are_reached_or_named() -> None:
    text = "g (float[N,6] x) => (int64[N] y) { a = Neg(x)\n y = ArgMax<axis=1, keepdims=0%s>(a) }"
    parity = compare(parsed(text % ""), parsed(text % ", select_last_index=1"))
    assert parity.verdict is Verdict.FAIL
    assert compare(parsed(text % ""), parsed(text % ", select_last_index=0")).verdict is Verdict.PASS


def test_the_inputs_of_the_user_are_the_inputs_that_there_are() -> None:
    text = "g (float[N,8] x) => (float[N,8] y) { c = Clip(x, low, high)\n y = Neg(c) }"
    before, after = parsed(text, low=LOW, high=SIX), parsed(text, low=LOW, high=np.float32(7))
    usual = {"x": np.linspace(0.1, 0.8, 8, dtype=np.float32).reshape(1, 8)}
    parity = compare(before, after, inputs=usual)
    assert parity.verdict is Verdict.INCONCLUSIVE
    assert "changed from 6 to 7; no input came near it (largest value 0.8)" in parity.why
    above = {"x": np.linspace(5, 8, 8, dtype=np.float32).reshape(1, 8)}
    assert compare(before, after, inputs=above).verdict is Verdict.FAIL


def test_bounds_have_one_name_whatever_the_operators_are() -> None:
    texts = (
        "g (float[N,8] x) => (float[N,8] y) { y = Clip(x, low, high) }",
        "g (float[N,8] x) => (float[N,8] y) { r = Max(low, x)\n y = Min(r, high) }",
        "g (float[N,8] x) => (float[N,8] y) { r = Relu(x)\n y = Min(r, high) }",
    )
    sides = [list_bounds(LoadedModel.open(parsed(t, low=LOW, high=SIX))) for t in texts]
    for other in sides[1:]:
        assert find_own_bounds(sides[0], other) == ([], [])
    (lower,), rest = find_own_bounds(sides[0], sides[0][1:])
    assert (lower.key, rest) == (("lower", 0.0), [])


def test_what_a_step_or_a_cast_does_shows_off_its_bounds() -> None:
    """Where the other model has none of the kind; two of a kind may differ on their bounds alone."""
    texts = (
        "g (float[N,8] x) => (float[N,8] y) { y = Floor(x) }",
        "g (float[N,8] x) => (float[N,8] y) { y = Ceil(x) }",
        "g (float[N,8] x) => (float[N,8] y) { i = Cast<to = 6>(x)\n y = Cast<to = 1>(i) }",
        "g (float[N,8] x) => (float[N,8] y) { i = Cast<to = 3>(x)\n y = Cast<to = 1>(i) }",
        "g (float[N,8] x) => (float[N,8] y) { y = Neg(x) }",
    )
    floor, ceil, int32, int8, plain = (list_bounds(LoadedModel.open(parsed(t))) for t in texts)
    steps = [x.sides for x in find_own_bounds(floor, plain)[0]]
    assert steps == [{"above"}]
    assert [x.sides for x in find_own_bounds(floor, ceil)[0]] == [{"equal"}]
    assert not any(x.sides for x in find_own_bounds(int32, plain)[0] if "integer" in str(x.key[0]))
    assert any(x.sides for x in find_own_bounds(int32, int8)[0] if "integer" in str(x.key[0]))


def test_what_is_driven_is_the_same_each_time() -> None:
    text = "g (float[N,8] x) => (float[N,8] y) { c = Clip(x, low, high)\n y = Neg(c) }"
    left, right = (LoadedModel.open(parsed(text, low=LOW, high=np.float32(h))) for h in (6, 7))
    base = {"x": np.full((1, 8), 0.5, np.float32)}
    first, second = (Pair(left, right, 3).find_difference(base) for _ in range(2))
    assert first is not None and second is not None
    assert np.array_equal(first.feeds["x"], second.feeds["x"])


@pytest.mark.parametrize("seed", [1, 3])
def test_what_is_driven_does_not_hang_on_the_seed(seed: int) -> None:
    said = [compare(*TRAPS["masks: Or as Xor"].make(), seed=s) for s in (0, seed)]
    assert {p.verdict for p in said} == {Verdict.FAIL}
    assert said[0].why == said[1].why


def test_a_unit_that_is_never_on_is_turned_on_behind_a_softmax() -> None:
    rng = np.random.default_rng(5)
    text = "g (float[N,6] x) => (float[N,3] y) { a = Gemm(x, w, b)\n r = Relu(a)\n z = MatMul(r, v)\n y = Softmax(z) }"
    held = {"w": rng.standard_normal((6, 9)), "v": rng.standard_normal((9, 3)), "b": np.zeros(9)}
    held["b"][4] = -60
    first = {k: v.astype(np.float32) for k, v in held.items()}
    other = {**first, "b": np.where(first["b"] < -50, np.float32(-30), first["b"])}
    for seed in (0, 3):
        assert compare(parsed(text, **first), parsed(text, **other), seed=seed).verdict is not Verdict.PASS


@pytest.mark.parametrize("other", [-1e-10, 1e-12, 0.0])
def test_a_number_that_keeps_a_logarithm_from_zero_is_reached(other: float) -> None:
    """All that it does is seen where the input is zero: silence, a black picture."""
    text = "g (float[N,8] x) => (float[N,8] y) { q = Mul(x, x)\n p = Add(q, tiny)\n l = Log(p)\n y = Neg(l) }"
    a, same, b = (parsed(text, tiny=np.float32(value)) for value in (1e-10, 1e-10, other))
    same.graph.node[0].output[0] = same.graph.node[1].input[0] = "squared"
    assert compare(a, same).verdict is Verdict.PASS
    assert compare(a, b).verdict is not Verdict.PASS


@pytest.mark.parametrize(
    "trap",
    [
        "bound in a branch that often runs",
        "row of a table in a rare branch",
        "row of a table in a branch that often runs",
        "bound in a Loop",
        "slope in a Loop",
        "bound in a Scan",
        "rare side in a Scan",
    ],
)
def test_what_turns_in_a_body_is_driven_there(trap: str) -> None:
    assert compare(*TRAPS[trap].make()).verdict is Verdict.FAIL


def test_a_body_that_is_the_same_in_other_words_passes() -> None:
    text = TRAPS["bound in a Loop"].text.replace("N,", "2,")
    held = {"w": np.ones((7, 6)), "b": np.ones(6), "hi": np.float32(60), "low": np.float32(-60)}
    given = {k: np.asarray(v, np.float32) for k, v in held.items()} | {"trips": np.array(3), "go": np.array(True)}
    sides = "Clip(a, low, hi)", "Min(k, hi)"
    first, second = (parsed("g " + text.replace("@", side), **given) for side in sides)
    body = second.graph.node[-1].attribute[0].g
    body.node.insert(0, onnx.helper.make_node("Max", ["a", "low"], ["k"]))
    assert compare(first, second).verdict is Verdict.PASS


@pytest.mark.parametrize("trap", ["floor under a logarithm", "epsilon beside probabilities"])
def test_elements_that_are_small_beside_the_others_count(trap: str) -> None:
    """What reads them may be a logarithm."""
    assert compare(*TRAPS[trap].make()).verdict is not Verdict.PASS


@pytest.mark.parametrize(
    "trap", ["integer divisor", "integer product that wraps", "what a division leaves", "bits that are masked"]
)
def test_integers_are_driven_through_all_magnitudes(trap: str) -> None:
    assert compare(*TRAPS[trap].make()).verdict is Verdict.FAIL


def test_inputs_that_the_model_does_not_take_are_no_reason_to_drive_nothing() -> None:
    """The indices of the fixed inputs lie beyond the row."""
    parity = compare(*TRAPS["an element that is ignored"].make())
    assert parity.verdict is Verdict.INCONCLUSIVE
    assert "ignore_index changed from 10 to 9" in parity.why


def test_an_input_of_no_element_may_still_decide() -> None:
    assert compare(*TRAPS["no axes is all axes"].make()).verdict is Verdict.FAIL


def without_reference(high: float, op: str = "Clip") -> ModelProto:
    """A layer, an operator that nothing here runs in float64, and a bound."""
    text = """g (float[4,4] x) => (float[4,4] y) { m = MatMul(x, w)
     t = com.microsoft.Trilu(m)
     y = Clip(t, low, high) }""".replace(
        "Clip(t, low, high)", {"Clip": "Clip(t, low, high)", "Min": "Min(t, high)"}[op]
    )
    head = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'
    model = parser.parse_model(head + text)
    held = {"w": np.eye(4), "low": -np.inf, "high": high}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in held.items())
    return model


def test_a_bound_is_looked_at_without_a_float64_reference() -> None:
    parity = compare(without_reference(60), without_reference(90))
    assert parity.verdict is Verdict.INCONCLUSIVE
    assert "Clip's upper bound changed from 60 to 90" in parity.why
    assert compare(without_reference(60), without_reference(60, "Min")).verdict is Verdict.PASS


def fused(*params: float) -> ModelProto:
    """A convolution with a hard sigmoid in it, as onnxruntime writes it."""
    text = f"""g (float[1,2,5,5] x) => (float[1,3,5,5] y) {{
     y = com.microsoft.FusedConv<activation="HardSigmoid", activation_params={list(params)}>(x, w, b) }}"""
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n' + text)
    model.graph.initializer.extend(layer())
    return model


def layer() -> list[onnx.TensorProto]:
    """Weights that no value brings to the upper bound of the hard sigmoid."""
    held = {"w": np.zeros((3, 2, 1, 1)), "b": np.full(3, -1)}
    return [numpy_helper.from_array(v.astype(np.float32), n) for n, v in held.items()]


def test_an_activation_in_a_layer_has_the_bounds_of_one_beside_it() -> None:
    beside = parsed("g (float[1,2,5,5] x) => (float[1,3,5,5] y) { c = Conv(x, w, b)\n y = HardSigmoid(c) }")
    beside.graph.initializer.extend(layer())
    assert compare(beside, fused(0.2, 0.5)).verdict is Verdict.PASS
    assert compare(beside, fused(0.2, 0.6)).verdict is Verdict.FAIL
    own = find_own_bounds(*(list_bounds(LoadedModel.open(m)) for m in (beside, fused(0.25, 0.5))))
    assert [[b.limit for b in side] for side in own] == [[-2.5, 2.5], [-2.0, 2.0]]


def quantized(text: str) -> ModelProto:
    """A rectified average of quantized numbers, and what has no float64 reference."""
    head = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'
    model = parser.parse_model(head + f"g (uint8[1,2,4,4] x) => (uint8[1,2,1,1] y) {{ {text} }}")
    held = {"s": np.float32(0.1), "z": np.uint8(0)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in held.items())
    return model


def test_integers_saturate_without_a_bound() -> None:
    apart = "d = DequantizeLinear(x, s, z)\n p = GlobalAveragePool(d)\n r = Relu(p)\n y = QuantizeLinear(r, s, z)"
    whole = "y = com.microsoft.QLinearGlobalAveragePool<channels_last=0>(x, s, z, s, z)"
    assert compare(quantized(apart), quantized(whole)).verdict is Verdict.PASS
