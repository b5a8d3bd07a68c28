"""The rules of the common JUnit schema (Jenkins' and GitLab's readers), checked on made and on hostile documents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from converter.records import OutputCheck, Stage, Verdict
from converter.report.documents import fold_document
from tests.report import made_evidence as made
from tests.report.made import folded, junit

HOSTILE = "a<b>&\"'\x00\x1b[2J\ud800]]>" + "x" * 3000


def hostile() -> dict[str, Any]:
    checks = (OutputCheck(HOSTILE, Verdict.FAIL, 9.0, 4.0, why=HOSTILE), OutputCheck("", Verdict.PASS))
    stage = Stage(HOSTILE, Verdict.FAIL, HOSTILE, (*checks, *checks))
    return made.verify_json(made.parity(verdict=Verdict.FAIL, stages=(stage,), warnings=(HOSTILE,)))


DOCUMENTS = {
    "pass": lambda: made.verify_json(bench=made.latency()),
    "fail": lambda: made.verify_json(made.failing()),
    "open": lambda: made.verify_json(made.undecided()),
    "bench": lambda: made.bench_json(made.latency(1.08)),
    "fold": lambda: fold_document(folded(), "9.9"),
    "unverified": lambda: fold_document(folded(parity=None), "9.9"),
    "no stages": lambda: made.verify_json(made.parity(stages=())),
    "hostile": hostile,
}
ORDER = ["skipped", "error", "failure", "system-out", "system-err"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_it_is_what_readers_of_junit_take(name: str) -> None:
    root = ElementTree.fromstring(junit(DOCUMENTS[name]()).encode())
    assert root.tag == "testsuites"
    assert set(root.attrib) <= {"name", "time", "tests", "failures", "errors"}
    seen = []
    for suite in root:
        assert suite.tag == "testsuite"
        assert [child.tag for child in suite][:1] == ["properties"]
        cases = suite.findall("testcase")
        counted = {tag: sum(case.find(tag) is not None for case in cases) for tag in ("failure", "skipped", "error")}
        assert suite.attrib["tests"] == str(len(cases))
        assert suite.attrib["failures"] == str(counted["failure"])
        assert suite.attrib["skipped"] == str(counted["skipped"])
        assert suite.attrib["errors"] == str(counted["error"]) == "0"
        for case in cases:
            assert {"name", "classname", "time"} == set(case.attrib)
            assert case.attrib["name"]
            assert float(case.attrib["time"]) >= 0
            tags = [child.tag for child in case]
            assert tags == sorted(tags, key=ORDER.index)
            assert len({"failure", "skipped"} & set(tags)) <= 1
            seen.append((case.attrib["classname"], case.attrib["name"]))
    assert len(seen) == len(set(seen)) == int(root.attrib["tests"]) > 0


def cases(document: dict[str, Any]) -> dict[str, ElementTree.Element]:
    found = ElementTree.fromstring(junit(document).encode()).iter("testcase")
    return {f"{case.attrib['classname']} {case.attrib['name']}": case for case in found}


def test_there_is_a_case_per_stage_and_output() -> None:
    found = cases(made.verify_json(bench=made.latency()))
    assert len(found) == 2 + 1 + 53 + 53 + 1 + 1  # environment, structure; algebra; places twice; runtime; latency
    assert "biasopt.verify.runtime logits" in found
    assert "biasopt.verify.structure structure" in found
    assert "biasopt.verify.latency gate not-slower" in found


def test_a_failure_names_the_layer_and_says_why() -> None:
    failure = cases(made.verify_json(made.failing()))["biasopt.verify.local /layer2/Conv"].find("failure")
    assert failure is not None
    assert failure.attrib["type"] == "local"
    assert failure.attrib["message"].startswith("/layer2/Conv: its error is 811 times")
    assert failure.text is not None
    assert "score: 811" in failure.text
    assert "limit: 1" in failure.text


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.SKIPPED])
def test_what_did_not_pass_is_skipped_never_passed(verdict: Verdict) -> None:
    found = cases(made.verify_json(replace(made.undecided(), stages=(made.decision(verdict),))))
    skipped = found["biasopt.verify.decision decision"].find("skipped")
    assert skipped is not None
    assert skipped.attrib["message"].startswith(f"{verdict.value}: ")


def test_the_latency_gate_fails_on_its_own() -> None:
    found = cases(made.bench_json(made.latency(1.08)))
    failure = found["biasopt.bench.latency gate not-slower"].find("failure")
    assert failure is not None
    assert "the interval is" in failure.attrib["message"]


def test_a_verdict_that_no_stage_shows_has_a_case_of_its_own() -> None:
    passed = made.parity(verdict=Verdict.INCONCLUSIVE, why="level A was required")
    skipped = cases(made.verify_json(passed))["biasopt.verify.verdict parity"].find("skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "INCONCLUSIVE: level A was required"
    assert "biasopt.verify.verdict parity" not in cases(made.verify_json())


def test_a_stage_that_says_more_than_its_outputs_is_a_case() -> None:
    passing = OutputCheck("y", Verdict.PASS, 1.0, 3.0)
    stage = Stage("runtime", Verdict.FAIL, "the rewritten model does not run", (passing,))
    found = cases(made.verify_json(made.parity(verdict=Verdict.FAIL, stages=(stage,))))
    assert found["biasopt.verify.runtime runtime"].find("failure") is not None
    assert found["biasopt.verify.runtime y"].find("failure") is None


def test_a_fold_that_was_not_checked_is_skipped() -> None:
    (case,) = cases(fold_document(folded(parity=None), "9.9")).values()
    assert case.find("skipped") is not None


def test_what_xml_cannot_hold_is_escaped() -> None:
    said = junit(hostile())
    assert "\\u0000" in said
    assert "\\u001b" in said
    assert "\\ud800" in said
