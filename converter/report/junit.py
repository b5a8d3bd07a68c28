"""Reports as JUnit XML, for the test pages of Jenkins, GitLab and others.

One test case per stage and output: what could not be decided or was not run is ``skipped``, never passed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

from converter.records import Latency, OutputCheck, Parity, Stage, Verdict
from converter.report import wording
from converter.report.serialize import latency_of, parity_of

# What XML 1.0 cannot hold even as a reference: control characters but tab and line breaks, lone surrogates.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Case:
    """One test case."""

    suite: str
    name: str
    status: Verdict
    message: str
    body: str = ""
    seconds: float | None = None


def junit(document: Mapping[str, Any]) -> str:
    """A document of any kind as JUnit XML that ends in a newline."""
    kind = document["schema"].partition("/")[0]
    cases = list(_unique(_cases(document)))
    suites: dict[str, list[Case]] = {}
    for case in cases:
        suites.setdefault(case.suite, []).append(case)
    root = ElementTree.Element("testsuites", {"name": kind} | _counts(cases))
    for name, members in suites.items():
        _suite(root, f"{kind}.{name}", members, document)
    ElementTree.indent(root)
    text: str = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _cases(document: Mapping[str, Any]) -> Iterator[Case]:
    parity, latency = parity_of(document), latency_of(document)
    if parity is not None:
        yield from _parity(parity)
    elif "counts" in document:
        yield Case("parity", "parity", Verdict.SKIPPED, "not checked (--no-verify)")
    if latency is not None:
        yield _latency(latency)


def _parity(parity: Parity) -> Iterator[Case]:
    for stage in parity.stages:
        yield from _stage(stage)
    if not parity.stages or _disagrees(parity):  # the verdict must show even where no stage carries it
        body = "\n".join((f"level {parity.level}", *parity.warnings))
        yield Case("verdict", "parity", parity.verdict, parity.why or wording.VERDICT[parity.verdict].clause, body)


def _disagrees(parity: Parity) -> bool:
    """Whether a verdict that does not pass shows in no stage."""
    found = {stage.status for stage in parity.stages} | {c.status for s in parity.stages for c in s.outputs}
    return parity.verdict is not Verdict.PASS and parity.verdict not in found


def _stage(stage: Stage) -> Iterator[Case]:
    """A case per output, and one of the stage's own where no output says what the stage does."""
    each = 0.0 if stage.seconds is None else stage.seconds / max(1, len(stage.outputs))
    statuses = {check.status for check in stage.outputs}
    if stage.status not in statuses:
        yield Case(stage.id, stage.id, stage.status, stage.why, seconds=each)
    for check in stage.outputs:
        yield Case(stage.id, check.name or stage.id, check.status, _message(check), _evidence(check), each)


def _message(check: OutputCheck) -> str:
    return f"{check.name}: {check.why or 'no reason given'}" if check.status is not Verdict.PASS else ""


def _evidence(check: OutputCheck) -> str:
    numbers = (("score", check.score), ("limit", check.limit), ("largest difference", check.max_abs))
    lines = [f"{name}: {value:.6g}" for name, value in numbers if value is not None]
    plain = {key: value for key, value in check.detail.items() if isinstance(value, int | float | str)}
    return "\n".join(lines + [f"{key}: {value}" for key, value in plain.items()])


def _latency(latency: Latency) -> Case:
    body = "\n".join((wording.speed(latency), *latency.warnings))
    return Case("latency", f"gate {latency.gate}", latency.verdict, latency.why or wording.speed(latency), body)


def _suite(root: ElementTree.Element, name: str, cases: list[Case], document: Mapping[str, Any]) -> None:
    suite = ElementTree.SubElement(root, "testsuite", {"name": _xml(name), "skipped": _skipped(cases)} | _counts(cases))
    properties = ElementTree.SubElement(suite, "properties")
    tool = document.get("tool") or {}
    for key, value in (("version", tool.get("version", "")), ("exit_code", document["exit_code"])):
        ElementTree.SubElement(properties, "property", name=f"biasopt.{key}", value=_xml(f"{value}"))
    for case in cases:
        _case(suite, name, case)


def _case(suite: ElementTree.Element, classname: str, case: Case) -> None:
    element = ElementTree.SubElement(
        suite, "testcase", name=_xml(case.name), classname=_xml(classname), time=f"{case.seconds or 0:.3f}"
    )
    match case.status:
        case Verdict.FAIL:
            told = ElementTree.SubElement(element, "failure", message=_xml(case.message), type=_xml(case.suite))
            told.text = _xml(f"{case.message}\n{case.body}".strip())
        case Verdict.INCONCLUSIVE | Verdict.SKIPPED:
            ElementTree.SubElement(element, "skipped", message=_xml(f"{case.status.value}: {case.message}"))
    if case.body and case.status is not Verdict.FAIL:
        ElementTree.SubElement(element, "system-out").text = _xml(case.body)


def _counts(cases: list[Case]) -> dict[str, str]:
    failed = sum(case.status is Verdict.FAIL for case in cases)
    seconds = sum(case.seconds or 0.0 for case in cases)
    return {
        "tests": str(len(cases)),
        "failures": str(failed),
        "errors": "0",
        "time": f"{seconds:.3f}",
    }


def _skipped(cases: list[Case]) -> str:
    return str(sum(case.status in (Verdict.INCONCLUSIVE, Verdict.SKIPPED) for case in cases))


def _unique(cases: Iterator[Case]) -> Iterator[Case]:
    """Names that come twice in a suite get a number: readers tell cases apart by suite and name."""
    seen: Counter[tuple[str, str]] = Counter()
    for case in cases:
        seen[case.suite, case.name] += 1
        again = seen[case.suite, case.name]
        yield case if again == 1 else replace(case, name=f"{case.name} ({again})")


def _xml(text: str) -> str:
    """The text with what XML cannot hold written as an escape."""
    return _NOT_XML.sub(lambda c: f"\\u{ord(c[0]):04x}", text)
