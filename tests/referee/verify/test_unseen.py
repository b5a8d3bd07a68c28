"""What the inputs of a run do not show: other sizes, branches not taken, integers, names that moved on."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

from converter.records import Verdict
from converter.referee.verify import compare
from tests.referee.verify import nets
from tests.referee.verify.test_comparison import channel
from tests.referee.verify.test_foreign import foreign

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def parsed(text: str, **held: np.ndarray) -> ModelProto:
    model = parser.parse_model(HEAD + text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in held.items())
    return model


# -- sizes -------------------------------------------------------------------------------------------


def flat(shape: list[int]) -> ModelProto:
    text = "g (float[N,L,4] x) => (float[N,M] y) { r = Relu(x)\n y = Reshape(r, s) }"
    return parsed(text, s=np.array(shape))


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("written", [[-1, 256], [1, -1]])
def test_a_size_that_was_written_into_the_model_fails(written: list[int], quick: bool) -> None:
    """256 is what the size that is tried first amounts to, 1 the batch."""
    right, wrong = flat([0, -1]), flat(written)
    parity = compare(right, wrong, quick=quick)
    assert parity.verdict is Verdict.FAIL
    assert compare(right, parsed(str_of_sum(), s=np.array([0, -1])), quick=quick).verdict is Verdict.PASS
    if written[0] == -1:
        assert compare(right, wrong, quick=quick, shapes={"x": (2, 64, 4)}).verdict is Verdict.PASS


def str_of_sum() -> str:
    return "g (float[N,L,4] x) => (float[N,M] y) { q = Sum(x)\n r = Relu(q)\n y = Reshape(r, s) }"


def test_other_sizes_that_the_original_does_not_take_are_not_asked_for() -> None:
    text = "g (float[N,L,4] x) => (float[N,M] y) { r = %s(x)\n y = Reshape(r, s) }"
    before, after = (parsed(text % op, s=np.array([1, 256])) for op in ("Identity", "Sum"))
    assert compare(before, after).verdict is Verdict.PASS


# -- branches ----------------------------------------------------------------------------------------

RARE = """g (float[2,4] x) => (float[2,4] y) <float big = {1000.0}> { m = ReduceMax<keepdims = 0>(x)
 c = %s(m, big)
 y = If(c) <then_branch = t () => (z) { z = %s }, else_branch = e () => (w) { w = Neg(x) }> }"""


@pytest.mark.parametrize("quick", [False, True])
def test_a_branch_that_no_input_leads_into_is_compared_alone(quick: bool) -> None:
    before = parsed(RARE % ("Greater", "Relu(x)"))
    parity = compare(before, parsed(RARE % ("Greater", "Abs(x)")), quick=quick)
    assert parity.verdict is (Verdict.INCONCLUSIVE if quick else Verdict.FAIL), "unless inputs are driven there"
    assert "y.then_branch" in next(s for s in parity.stages if s.id == "segments").why
    other = RARE % ("Greater", "Max(x, k)")
    same = compare(before, parsed(other, k=np.zeros(1, np.float32)), quick=quick)
    assert same.verdict is Verdict.PASS
    assert any("ran on no input" in w and "y.then_branch" in w for w in same.warnings)


def test_a_branch_that_ran_is_judged_by_the_outputs() -> None:
    """A tensor inside that has another meaning is no doubt then."""
    bodies = "t = Neg(x)\n k = Neg(t)\n z = Relu(k)", "t = Identity(x)\n k = Identity(t)\n z = Relu(k)"
    first, second = (parsed(RARE.replace("z = %s", text) % "Less") for text in bodies)
    parity = compare(first, second)
    assert parity.verdict is Verdict.PASS
    assert all(s.id != "segments" for s in parity.stages)


# -- integers ----------------------------------------------------------------------------------------


def test_an_integer_that_no_rounding_decides_may_not_differ() -> None:
    text = "g (int64[1000] ids) => (int64[1000] y) { y = Gather(t, ids) }"
    table = np.arange(1000)
    wrong = table.copy()
    wrong[5] = 7
    ids = {"ids": np.arange(1000)}
    parity = compare(parsed(text, t=table), parsed(text, t=wrong), inputs=ids)
    assert parity.verdict is Verdict.FAIL
    assert "1 of 1000 integers" in parity.why
    right = "g (int64[1000] ids) => (int64[1000] y) { u = Identity(ids)\n y = Gather(t, u) }"
    assert compare(parsed(text, t=table), parsed(right, t=table), inputs=ids).verdict is Verdict.PASS


# -- names -------------------------------------------------------------------------------------------


def moved_on(model: ModelProto, folded: ModelProto) -> ModelProto:
    """A batch norm's output under the name of the convolution's, as other optimizers leave it."""
    names = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "BatchNormalization"}
    for node in folded.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return folded


@pytest.mark.parametrize("name", sorted(nets.ARCHITECTURES))
def test_a_name_that_was_given_to_what_follows_is_recognised(name: str) -> None:
    model = nets.ARCHITECTURES[name]()
    parity = compare(model, moved_on(model, foreign(nets.fold(model))))
    assert (parity.verdict, parity.level) == (Verdict.PASS, "B")
    checks = next(s for s in parity.stages if s.id == "local").outputs
    convs = [c for c in checks if c.detail.get("op") == "Conv"]
    assert convs
    assert all(c.name.startswith("batchnormalization") for c in convs), "what they are in the original"


def test_behind_a_moved_name_a_wrong_number_is_no_pass() -> None:
    model = nets.plain()
    wrong = moved_on(model, foreign(nets.fold(model, bug=channel)))
    parity = compare(model, wrong, stages=["local"])
    assert parity.verdict is Verdict.FAIL
    assert "driven inputs" in parity.why


def test_behind_a_moved_name_another_operator_is_no_pass() -> None:
    model = nets.plain()
    wrong = moved_on(model, foreign(nets.fold(model)))
    relu = next(n for n in wrong.graph.node if n.op_type == "Relu")
    relu.op_type = "Elu"
    parity = compare(model, wrong, stages=["local"])
    assert parity.verdict is Verdict.FAIL
    assert "driven inputs" in parity.why


def test_operators_without_a_reference_are_judged_on_onnxruntime() -> None:
    """A fused operator of onnxruntime's own: no float64, but errors that can be held against the original's."""
    model = nets.plain()
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    gemm = fused.graph.node[-1]
    gemm.op_type, gemm.domain = "FusedGemm", "com.microsoft"
    gemm.attribute.append(onnx.helper.make_attribute("activation", "Softplus"))
    fused.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    plain.graph.node[-1].output[0] = "before"
    plain.graph.node.append(onnx.helper.make_node("Softplus", ["before"], ["y"]))
    parity = compare(plain, fused)
    assert (parity.verdict, parity.level) == (Verdict.PASS, "C")
    (check,) = next(s for s in parity.stages if s.id == "runtime").outputs
    assert "error_before" in check.detail
    (alone,) = next(s for s in parity.stages if s.id == "segments").outputs
    assert (alone.name, alone.status, alone.max_abs) == ("y", Verdict.PASS, 0.0)
    assert compare(model, fused).verdict is Verdict.FAIL


def test_operator_sets_that_nothing_uses_are_no_news() -> None:
    """onnxruntime writes every domain that it knows into what it saves."""
    model = nets.plain()
    other = foreign(nets.fold(model))
    other.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    assert not any("operator set" in w for w in compare(model, other, stages=["structure"]).warnings)
    other.graph.node[1].domain = "com.microsoft"
    assert any("com.microsoft" in w for w in compare(model, other, stages=["structure"]).warnings)


# -- numbers that norms hide -------------------------------------------------------------------------


def test_one_element_of_many_that_is_off() -> None:
    """1e-4 in one of 294,912, where nothing else tells: other names, and operators without a normal form."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((32, 3, 3, 3)) * 0.2).astype(np.float32)
    right = rng.standard_normal((32, 96, 96)).astype(np.float32)
    wrong = right.copy()
    wrong[3, 5, 7] += np.float32(1e-4)
    text = """g (float[1,3,96,96] x) => (float[1,32,96,96] y) { h%s = Conv<pads = [1,1,1,1]>(x, w)
     s%s = Softplus(h%s)\n a%s = %s(s%s, m)\n y = Tanh(a%s) }"""
    names = ("", "", "", "", "Add", "", ""), ("1", "1", "1", "1", "Sum", "1", "1")
    before = parsed(text % names[0], w=weight, m=right)
    assert compare(before, parsed(text % names[1], w=weight, m=right), stages=["algebra"]).verdict is Verdict.PASS
    parity = compare(before, parsed(text % names[1], w=weight, m=wrong), stages=["algebra"])
    assert parity.verdict is Verdict.FAIL
    assert "one element" in parity.why


@pytest.mark.parametrize("both", [False, True])
def test_rows_that_no_index_reached(both: bool) -> None:
    """Two tables, and one row of each is another one: no random index shows it, and those are looked up then."""
    text = """g (int64[N,8] a, int64[N,8] b) => (float[N,8,16] y) { p = Gather(u, a)
     q = Gather(v, b)\n y = Add(p, q) }"""
    rng = np.random.default_rng(0)
    u, v = (rng.standard_normal((3000, 16)).astype(np.float32) for _ in range(2))
    before = parsed(text, u=u, v=v)
    wrong_u, wrong_v = u.copy(), v.copy()
    wrong_u[1234] += 1
    wrong_v[77] += 1
    parity = compare(before, parsed(text, u=wrong_u, v=wrong_v if both else v))
    assert parity.verdict is Verdict.FAIL
    assert "driven inputs" in parity.why


def test_a_copy_in_half_precision_is_pointed_to_the_decisions() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    before = parsed("g (float[N,16] x) => (float[N,4] y) { y = MatMul(x, w) }", w=weight)
    text = "g (float[N,16] x) => (float[N,4] y) { c = Cast<to = 10>(x)\n h = MatMul(c, w)\n y = Cast<to = 1>(h) }"
    parity = compare(before, parsed(text, w=weight.astype(np.float16)))
    assert parity.verdict is Verdict.FAIL
    assert any("half precision" in w and "--stages decision" in w for w in parity.warnings)
    assert not any("half precision" in w for w in compare(before, before).warnings)


def test_another_way_to_quantise_is_pointed_to_the_decisions() -> None:
    text = """g (float[N,4] x) => (float[N,4] y) <float s = {0.1}, uint8 z = {128}> { q = QuantizeLinear(x, s, z)
     y = DequantizeLinear(q, s, z) }"""
    other = text.replace("QuantizeLinear(x, s, z)", "DynamicQuantizeLinear(x)", 1).replace("q =", "q, t, v =")
    parity = compare(parsed(text), parsed(other), stages=["structure"])
    assert any("other operators (DynamicQuantizeLinear)" in w for w in parity.warnings)
