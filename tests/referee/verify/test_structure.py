"""Sizes and interfaces that two models may state differently, and those that they may not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from converter.records import Verdict
from converter.referee.verify import compare

BODY = "{ c = Conv<strides=[2,2]>(x, w)\n y = Relu(c) }"
OTHER = "{ c = Conv<strides=[2,2]>(x, w)\n y = Max(c, zero) }"


def made(head: str, body: str = BODY, *, ir: int = 8) -> ModelProto:
    model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : 17]> g {head} {body}')
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    held = {"w": weight} | ({"zero": np.zeros((), np.float32)} if body == OTHER else {})
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in held.items())
    return model


A = "(float[N,3,9,9] x) => (float[N,4,H,W] y)"


@pytest.mark.parametrize("body", [BODY, OTHER])
@pytest.mark.parametrize(
    ("head", "verdict"),
    [
        ("(float[batch,3,9,9] x) => (float[batch,4,H,W] y)", Verdict.PASS),
        ("(float[N,3,9,9] x) => (float[unk__0,4,unk__1,unk__1] y)", Verdict.PASS),
        ("(float[N,3,9,9] x) => (float[N,4,4,4] y)", Verdict.PASS),
        ("(float[N,3,9,9] x) => (float[N,4,4,5] y)", Verdict.FAIL),
        ("(float[N,3,9,9] x) => (float[1,4,4,4] y)", Verdict.FAIL),
        ("(float[1,3,9,9] x) => (float[1,4,4,4] y)", Verdict.FAIL),
        ("(float[N,3,9,9] x) => (float[N,4,H] y)", Verdict.FAIL),
    ],
)
def test_what_the_sizes_of_an_output_are_called_is_no_claim(head: str, verdict: Verdict, body: str) -> None:
    assert compare(made(A), made(head, body)).verdict is verdict


@pytest.mark.parametrize("body", [BODY, OTHER])
def test_an_output_without_a_shape_claims_none(body: str) -> None:
    other = made(A, body)
    other.graph.output[0].type.tensor_type.ClearField("shape")
    assert compare(made(A), other).verdict is Verdict.PASS


def test_what_nothing_was_run_for_is_held_to_the_claim() -> None:
    parity = compare(made(A), made("(float[N,3,9,9] x) => (float[N,4,4,4] y)", OTHER), stages=["structure"])
    assert parity.verdict is Verdict.FAIL
    assert "[N, 4, H, W] became [N, 4, 4, 4]" in parity.why


def test_before_ir_4_an_initializer_that_is_no_input_is_one_still() -> None:
    """onnxruntime's offline files of old models are such."""
    assert compare(made(A), made(A, OTHER, ir=3)).verdict is Verdict.PASS
