"""Inputs that the original has an answer to; and errors that are small by luck are no yardstick."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from converter.records import Verdict
from converter.records.evidence import WarningCode
from converter.referee.proto.random_inputs import DOMAINS, confine
from converter.referee.verify import compare

WEIGHT = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


def parsed(text: str, **held: np.ndarray) -> ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in held.items())
    return model


def behind(front: str, end: str = "Relu(b)", weight: np.ndarray = WEIGHT) -> ModelProto:
    text = f"g (float[N,8] x) => (float[N,4] y) {{ a = {front}\n b = MatMul(a, w)\n y = {end} }}"
    return parsed(text, w=weight, third=np.float32(0.3), zero=np.float32(0), lot=np.float32(80))


@pytest.mark.parametrize("front", ["Log(x)", "Sqrt(x)", "Pow(x, third)"])
def test_an_operator_in_front_that_takes_no_negative_numbers(front: str) -> None:
    parity = compare(behind(front), behind(front, "Max(b, zero)"))
    assert (parity.verdict, parity.level) == (Verdict.PASS, "B")
    (warning,) = [w for w in parity.warnings if w.code is WarningCode.INPUT_DOMAIN]
    assert "positive" in warning
    assert not any("does not depend" in w for w in parity.warnings)
    assert compare(behind(front), behind(front, weight=WEIGHT * np.float32(1.001))).verdict is Verdict.FAIL


def test_where_nothing_is_an_answer_the_way_out_is_named() -> None:
    text = "g (float[N,3] x) => (float[N,3] y) { a = Abs(x)\n b = %s\n y = Log(b) }"
    parity = compare(parsed(text % "Neg(a)"), parsed(text % "Sub(zero, a)", zero=np.float32(0)))
    assert parity.verdict is Verdict.INCONCLUSIVE
    assert any(w.code is WarningCode.INPUT_DOMAIN and "--inputs" in w for w in parity.warnings)
    assert not any("does not depend" in w for w in parity.warnings)


def test_outputs_that_explode_are_kept_small() -> None:
    text = "g (float[N,16] x) => (float[N,16] y) { b = Mul(x, lot)\n c = Exp(b)\n y = %s }"
    held = {"lot": np.float32(80), "zero": np.float32(0)}
    parity = compare(parsed(text % "Relu(c)", **held), parsed(text % "Max(c, zero)", **held))
    assert parity.verdict is Verdict.PASS
    assert any("explode" in w for w in parity.warnings if w.code is WarningCode.INPUT_DOMAIN)


def test_a_range_that_was_given_stays() -> None:
    feeds = {"x": np.float32([-1, 2]), "n": np.array([3]), "y": np.float32([-5])}
    for domain in DOMAINS:
        made = confine(feeds, domain, {"y"})
        assert made["x"].dtype == np.float32
        assert made["y"] is feeds["y"]
        assert made["n"] is feeds["n"]
    assert (confine(feeds, "positive", ())["x"] > 0).all()


def test_an_error_of_nought_is_no_yardstick() -> None:
    """Numbers that float32 holds exactly: the original makes no error, a correct fold rounds once."""
    scale, weight = np.float32([3, 5, 7, 9]), np.float32(np.eye(8)[:, :4])
    text = "g (float[N,8] x) => (float[N,4] y) { b = MatMul(x, w)\n y = %s }"
    before = parsed(text % "Div(b, s)", w=weight, s=scale)
    after = parsed("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, v) }", v=weight / scale)
    assert compare(before, after).verdict is Verdict.PASS
    wrong = weight / scale * np.float32([1, 1, 1, 1.0001])
    assert compare(before, parsed("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, v) }", v=wrong)).verdict is not (
        Verdict.PASS
    )


def test_a_sigmoid_comes_in_parts_of_one() -> None:
    text = "g (float[N,8] x) => (float[N,4] y) { b = MatMul(x, w)\n c = Add(b, t)\n y = %s }"
    held = {"w": WEIGHT, "t": np.float32([-12, -14, -13, -15]), "one": np.float32(1)}
    before = parsed(text % "Sigmoid(c)", **held)
    other = "n = Neg(c)\n e = Exp(n)\n s = Add(e, one)\n y = Reciprocal(s)"
    after = parsed(text.replace("y = %s", other), **held)
    assert compare(before, after).verdict is Verdict.PASS
    off = held | {"t": held["t"] + np.float32(np.log(1.07))}
    assert compare(before, parsed(text.replace("y = %s", other), **off)).verdict is Verdict.FAIL
