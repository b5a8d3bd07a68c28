"""The verdict of several verdicts, and the level of a claim: each is decided in one place."""

from __future__ import annotations

import itertools

import pytest

from converter.records import OutputCheck, Parity, Stage, Verdict
from converter.records.evidence import SEVERITY, Warning, WarningCode, worst_verdict
from converter.referee.verify.verdict import (
    Fact,
    claim_level,
    combine_stages,
    conclude,
    find_facts,
    has_trusted_reference,
    hold_to_level,
    merge_stages,
)

PASS, FAIL, OPEN, SKIPPED = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.SKIPPED
B = {Fact.NUMBERS, Fact.FLOAT64, Fact.REFERENCE, Fact.FLOAT32, Fact.RUNTIME, Fact.VARIES}
P = {Fact.PROVED, Fact.NUMBERS}


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ([PASS, FAIL, OPEN, SKIPPED], FAIL),
        ([PASS, OPEN, SKIPPED], OPEN),
        ([PASS, SKIPPED], PASS),  # what was not looked at neither lifts nor lowers what was
        ([SKIPPED], OPEN),
        ([], OPEN),  # nothing is no evidence
    ],
)
def test_the_worst_verdict(verdicts: list[Verdict], worst: Verdict) -> None:
    assert {worst_verdict(order) for order in itertools.permutations(verdicts)} == {worst}


@pytest.mark.parametrize("verdicts", [[], [SKIPPED]])
def test_a_caller_says_what_nothing_is(verdicts: list[Verdict]) -> None:
    assert worst_verdict(verdicts, nothing=SKIPPED) is SKIPPED


def test_every_verdict_has_its_severity() -> None:
    assert sorted(SEVERITY) == sorted(Verdict)


def test_a_structure_that_passes_is_no_evidence() -> None:
    environment, structure = Stage("environment", PASS), Stage("structure", PASS)
    assert combine_stages([environment, structure]) is OPEN
    assert combine_stages([environment, structure, Stage("algebra", PASS)]) is PASS
    assert combine_stages([Stage("structure", FAIL), Stage("algebra", PASS)]) is FAIL


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        (B | {Fact.DECISIONS}, "A"),
        (P, "P"),
        (P | {Fact.RUNTIME, Fact.DECISIONS}, "A"),
        (B, "B"),
        ({Fact.NUMBERS}, "C"),
        ((), "D"),
    ],
)
def test_the_level_of_a_claim(facts: set[Fact], level: str) -> None:
    assert claim_level(facts) == level


@pytest.mark.parametrize("missing", sorted(B - {Fact.NUMBERS}))
def test_one_missing_fact_is_level_c_whatever_is_decided(missing: Fact) -> None:
    assert claim_level(B - {missing}) == "C"
    assert claim_level(B - {missing} | {Fact.DECISIONS}) == "C"


def stages(note: bool = False) -> list[Stage]:
    check = OutputCheck("y", PASS, detail={"note": "no float64 reference"} if note else {})
    return [Stage("algebra", PASS, outputs=(check,)), Stage("runtime", PASS, outputs=(check,))]


def test_facts_are_read_from_the_stages() -> None:
    assert find_facts(stages(), runs=True, varies=True) == B - {Fact.NUMBERS} | {Fact.AGREES}
    assert Fact.REFERENCE not in find_facts(stages(note=True), runs=True, varies=True)
    decided = [*stages(), Stage("decision", PASS)]
    assert conclude(decided, (), find_facts(decided, runs=True, varies=True), "whole-model").level == "A"


@pytest.mark.parametrize("warnings", [(), (Warning(WarningCode.CONSTANT_OUTPUT, "y"),)])
def test_no_warning_moves_the_level(warnings: tuple[Warning, ...]) -> None:
    facts = find_facts(stages(), runs=True, varies=True)
    assert conclude(stages(), warnings, facts, "whole-model").level == "B"
    constant = find_facts(stages(), runs=True, varies=False)
    assert conclude(stages(), warnings, constant, "whole-model").level == "C"


def test_no_check_is_no_trusted_reference() -> None:
    assert not has_trusted_reference(())


def test_a_required_level_is_explained_by_the_stage_not_by_its_words() -> None:
    other = Stage("parameters", SKIPPED, "decision trees have no normal form")
    parity = Parity(PASS, "B", stages=(other, Stage("decision", SKIPPED, "needs real inputs")))
    held = hold_to_level(parity, "A")
    assert held.verdict is OPEN
    assert held.why.startswith(
        "the claim is of level B, and A is required: decision: needs real inputs; --accuracy-mar"
    )
    assert hold_to_level(parity, "B") is parity


def test_merged_stages_keep_the_later_word_on_a_place() -> None:
    first = Stage("segments", FAIL, outputs=(OutputCheck("x", FAIL), OutputCheck("y", PASS)))
    second = Stage("segments", PASS, outputs=(OutputCheck("x", PASS),))
    merged = merge_stages(first, second)
    assert merged is not None
    assert (merged.status, {c.name: c.status for c in merged.outputs}) == (PASS, {"x": PASS, "y": PASS})
