"""Outcomes and verdicts: on either side of each bound."""

from __future__ import annotations

import math

import pytest

from converter.bench import design
from converter.bench.design import Gate, conclude_outcome, judge_gate, parse_gate, parse_share
from converter.commands.options import parse_pairs
from converter.records import Verdict

UP, DOWN = math.log(1.02), -math.log(1.02)
TINY = 1e-9
NOT_SLOWER, EQUIVALENT, NONE = Gate(), Gate("equivalent"), Gate("none")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.2, DOWN - TINY, "FASTER"),
        (-0.2, DOWN + TINY, "NOT-SLOWER"),  # faster, but not by more than the margin
        (-0.01, UP - TINY, "NOT-SLOWER"),
        (-0.01, UP + TINY, "INCONCLUSIVE"),
        (UP - TINY, 0.2, "INCONCLUSIVE"),
        (UP + TINY, 0.2, "SLOWER"),
        (-math.inf, math.inf, "INCONCLUSIVE"),
        (math.nan, math.nan, "INCONCLUSIVE"),
    ],
)
def test_outcomes(low: float, high: float, said: str) -> None:
    assert conclude_outcome(low, high, 0.02, NOT_SLOWER) == said


def test_equivalent_is_an_outcome_only_where_it_was_asked_for() -> None:
    assert conclude_outcome(DOWN + TINY, UP - TINY, 0.02, EQUIVALENT) == "EQUIVALENT"
    assert conclude_outcome(DOWN + TINY, UP - TINY, 0.02, NOT_SLOWER) == "NOT-SLOWER"
    assert conclude_outcome(DOWN - TINY, UP - TINY, 0.02, EQUIVALENT) == "NOT-SLOWER"


@pytest.mark.parametrize(
    ("gate", "low", "high", "verdict"),
    [
        ("not-slower", -1, UP - TINY, Verdict.PASS),
        ("not-slower", -1, UP + TINY, Verdict.INCONCLUSIVE),
        ("not-slower", UP + TINY, 1, Verdict.FAIL),
        ("faster:5%", -1, -math.log(1.05) - TINY, Verdict.PASS),
        ("faster:5%", -1, -math.log(1.05) + TINY, Verdict.INCONCLUSIVE),
        ("faster:5%", -math.log(1.05) + TINY, 0, Verdict.FAIL),
        ("equivalent", DOWN + TINY, UP - TINY, Verdict.PASS),
        ("equivalent", DOWN - TINY, 0, Verdict.INCONCLUSIVE),
        ("equivalent", 0, UP + TINY, Verdict.INCONCLUSIVE),
        ("equivalent", UP + TINY, 1, Verdict.FAIL),
        ("equivalent", -1, DOWN - TINY, Verdict.FAIL),  # faster is not equivalent
        ("none", UP + TINY, 1, Verdict.SKIPPED),
        ("not-slower", math.nan, math.nan, Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts(gate: str, low: float, high: float, verdict: Verdict) -> None:
    assert judge_gate(low, high, 0.02, parse_gate(gate)) is verdict


@pytest.mark.parametrize("text", ["not-slower", "faster:5%", "equivalent", "none"])
def test_a_gate_says_itself(text: str) -> None:
    assert str(parse_gate(text)) == text == design.normalize_gate(f" {text} ")


@pytest.mark.parametrize(
    "text", ["", "slower", "faster", "faster:", "faster:0%", "faster:200%", "none:1%", "not-slower:2%"]
)
def test_what_is_no_gate(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no"):
        parse_gate(text)


@pytest.mark.parametrize(("text", "value"), [("2%", 0.02), ("0.02", 0.02), ("0.5 %", 0.005), (".1", 0.1)])
def test_shares(text: str, value: float) -> None:
    assert parse_share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "0", "100%", "-2%", "nan", "inf", "2", "two"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match="is not a share"):
        parse_share(text)


def test_options_of_a_provider() -> None:
    assert parse_pairs(["device_id=1", "trt_profile=a=b"]) == {"device_id": "1", "trt_profile": "a=b"}
    for wrong in ("device_id", "=1"):
        with pytest.raises(ValueError, match="NAME=VALUE"):
            parse_pairs([wrong])
