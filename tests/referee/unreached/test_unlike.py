"""Operators that turn in ways for which there is no bound: what they have in common, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from converter.records import Verdict
from converter.referee.proto.source import LoadedModel
from converter.referee.unreached.thresholds import Constants
from converter.referee.unreached.unlike import QUIET, describe_key, make_key
from converter.referee.verify import compare
from tests import tiny
from tests.benchmarks.verdict_traps import TRAPS


def _none() -> Constants:
    return Constants(LoadedModel.open(tiny.model("(float[2] x) => (float[2] y) { y = Neg(x) }"), None, "model"))


def test_defaults_that_are_written_out_are_none_of_the_operators_own() -> None:
    bare, full = (helper.make_node("Hardmax", ["x"], ["y"], **given) for given in ({}, {"axis": -1}))
    assert make_key(bare, _none()) == make_key(full, _none())
    other = helper.make_node("Hardmax", ["x"], ["y"], axis=0)
    assert describe_key(make_key(bare, _none()), make_key(other, _none())) == "axis changed from -1 to 0"
    assert describe_key(make_key(bare, _none()), None) == "was left out"


def test_a_recurrent_layer_turns_only_where_it_clips() -> None:
    read = ["x", "w", "r"]
    assert make_key(helper.make_node("LSTM", read, ["y"], hidden_size=3), _none()) is None
    clipped = [make_key(helper.make_node("LSTM", read, ["y"], hidden_size=3, clip=c), _none()) for c in (3.0, 5.0)]
    assert describe_key(*clipped) == "clip changed from 3.0 to 5.0"
    assert make_key(helper.make_node("Conv", read, ["y"]), _none()) is None
    assert make_key(helper.make_node("FusedConv", read, ["y"], domain="com.microsoft"), _none()) is None
    assert make_key(helper.make_node("Anything", read, ["y"], domain="somebody.else"), _none()) is not None


def test_an_operator_is_quiet_for_one_reason() -> None:
    assert {"Conv", "Gather", "Where"} <= QUIET
    assert not {"Loop", "Scan", "NonMaxSuppression", "IsNaN", "Clip", "Relu", "If"} & QUIET


@pytest.mark.parametrize(
    ("trap", "said"),
    [
        ("guard against NaN left out", "IsNaN was left out"),
        ("trips of a Loop", "Loop's input 1 changed from 200 to 60"),
        ("Equal to another number", "Equal's threshold changed from 5 to 7"),
    ],
)
def test_what_no_input_showed_is_named(trap: str, said: str) -> None:
    parity = compare(*TRAPS[trap].make())
    assert parity.verdict is Verdict.INCONCLUSIVE
    assert said in parity.why


def test_a_loop_whose_weights_were_folded_is_no_other_loop() -> None:
    text = """(float[N,6] h) => (float[N,6] r) { r = Loop(trips, go, h) <body = g (int64 i, bool on, float[N,6] a) =>
      (bool again, float[N,6] z) { @ again = Identity(on) }> }"""
    held = {"trips": np.array(4), "go": np.array(True), "p": np.float32(0.5), "q": np.float32(3), "s": np.float32(1.5)}
    made = [
        tiny.model(
            text.replace("@", body), {k: v for k, v in held.items() if k in ("trips", "go") or f", {k})" in body}
        )
        for body in ("m = Mul(a, p)\n z = Mul(m, q)\n", "z = Mul(a, s)\n")
    ]
    assert compare(*made).verdict is Verdict.PASS
