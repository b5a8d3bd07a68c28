"""Reports as JUnit XML, for the test pages of Jenkins, GitLab and others.

One test case per stage and output: what could not be decided or was not run is ``skipped``, never passed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from xml.etree import ElementTree

from converter.records import Verdict
from converter.report.blocks import Case, Report, spans
from converter.report.wording import escape

# What XML 1.0 cannot hold even as a reference: control characters but tab and line breaks, lone surrogates.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(report: Report) -> str:
    """The test cases of a report as JUnit XML that ends in a newline."""
    kind = report.schema.partition("/")[0]
    cases = list(_unique(report.cases))
    suites: dict[str, list[Case]] = {}
    for case in cases:
        suites.setdefault(case.suite, []).append(case)
    root = ElementTree.Element("testsuites", {"name": kind} | _counts(cases))
    claims = [(key.lower().replace(" ", "_"), "".join(s.text for s in spans(words))) for key, words in report.claims]
    for name, members in suites.items():  # what is to be seen at a glance stands in the first
        _suite(root, f"{kind}.{name}", members, report, [] if len(root) else claims)
    ElementTree.indent(root)
    text: str = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _suite(
    root: ElementTree.Element, name: str, cases: list[Case], report: Report, claims: Sequence[tuple[str, str]]
) -> None:
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": _xml(name), "skipped": _count_skipped(cases)} | _counts(cases)
    )
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in (("version", report.version), ("exit_code", report.exit_code), *claims):
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


def _count_skipped(cases: list[Case]) -> str:
    return str(sum(case.status in (Verdict.INCONCLUSIVE, Verdict.SKIPPED) for case in cases))


def _unique(cases: Iterable[Case]) -> Iterator[Case]:
    """Names that come twice in a suite get a number: readers tell cases apart by suite and name."""
    seen: Counter[tuple[str, str]] = Counter()
    for case in cases:
        seen[case.suite, case.name] += 1
        again = seen[case.suite, case.name]
        yield case if again == 1 else replace(case, name=f"{case.name} ({again})")


def _xml(text: str) -> str:
    """The text with what XML cannot hold, and what would drive a terminal, written as an escape."""
    held = _NOT_XML.sub(lambda c: f"\\u{ord(c[0]):04x}", text)
    return "\n".join(map(escape, held.split("\n")))
