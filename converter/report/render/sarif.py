"""Findings for code scanning: SARIF 2.1.0, and the annotations of GitHub's workflow commands.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0 (2020); GitHub, "SARIF support for code scanning".
GitHub shows a result at its first location, which must lie in the repository: where a library constructs the
module, that is the user's nearest call, and the library's line is a related location.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from converter.records.lint import CODES, Code, Kind, LintFinding, LintReport, Location
from converter.report.wording import plain

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVEL = {Kind.DEAD: "warning", Kind.REDUNDANT: "note", Kind.ADVICE: "warning", Kind.SOURCE: "warning"}


def sarif(report: LintReport, version: str, root: Path) -> dict[str, Any]:
    """One run with a result for each finding whose place is known; the others are notifications of the run.

    Parameters
    ----------
    root : Path
        The checkout: what lies in it is named relative to it.
    """
    used = [code for code in CODES if any(f.code == code.name for f in report.findings)]
    index = {code.name: place for place, code in enumerate(used)}
    placed = [f for f in report.findings if _find_location(f, root) is not None]
    rest = [f for f in report.findings if _find_location(f, root) is None]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "biasopt", "semanticVersion": version, "rules": [_rule(c) for c in used]}},
                "automationDetails": {"id": f"biasopt-lint/{report.label}/"},
                "originalUriBaseIds": {"%SRCROOT%": {"uri": root.as_uri() + "/"}},
                "columnKind": "unicodeCodePoints",
                "invocations": [
                    {"executionSuccessful": True, "toolExecutionNotifications": _notifications(report, rest)}
                ],
                "results": [_result(f, index[f.code], root) for f in placed],
            }
        ],
    }


def _rule(code: Code) -> dict[str, Any]:
    name = "".join(part.capitalize() for part in code.name.split("-"))
    return {
        "id": code.name,
        "name": name,
        "shortDescription": {"text": code.summary},
        "fullDescription": {"text": code.why},
        "help": {"text": f"{code.why} Fix: {code.fix}.", "markdown": f"{code.why}\n\n**Fix:** {code.fix}."},
        "defaultConfiguration": {"level": _LEVEL[code.kind]},
        "properties": {
            "tags": ["bias", code.kind.value],
            "precision": "very-high",
            "problem.severity": "recommendation",
        },
    }


def _result(finding: LintFinding, index: int, root: Path) -> dict[str, Any]:
    shown = _find_location(finding, root)
    assert shown is not None
    related = [place for place in (finding.location,) if place is not None and place != shown]
    key = f"{finding.code}:{finding.parameter}:{finding.part}:{_uri(shown, root)['uri']}"
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": _LEVEL[finding.kind],
        "message": {"text": text_of(finding)},
        "locations": [_physical(shown, root)],
        "relatedLocations": [_physical(p, root) | {"id": 1, "message": {"text": "constructed here"}} for p in related],
        "partialFingerprints": {"biasoptParameter/v1": hashlib.sha256(key.encode()).hexdigest()},
        "properties": {"parameters": finding.n_parameters, "module": finding.module},
    }


def _notifications(report: LintReport, rest: list[LintFinding]) -> list[dict[str, Any]]:
    texts = [f"{f.code}: {text_of(f)}" for f in rest]
    texts += [f"not confirmed: {item.code} {item.parameter}: {item.why}" for item in report.unconfirmed]
    return [{"level": "note", "message": {"text": text}} for text in (*texts, *report.notes)]


def text_of(finding: LintFinding) -> str:
    """What an annotation says of a finding."""
    count = f" ({finding.n_parameters:,} parameters)" if finding.n_parameters else ""
    return f"{finding.parameter}{count}: {finding.message}. Fix: {finding.fix}.".removeprefix(": ")


def _find_location(finding: LintFinding, root: Path) -> Location | None:
    """The place in the checkout, or the next best."""
    places = [place for place in (finding.location, finding.called_from) if place is not None]
    inside = [place for place in places if Path(place.path).is_relative_to(root)]
    return next(iter(inside or places), None)


def _uri(place: Location, root: Path) -> dict[str, str]:
    path = Path(place.path)
    if path.is_relative_to(root):
        return {"uri": _quote_path(path.relative_to(root).as_posix()), "uriBaseId": "%SRCROOT%"}
    return {"uri": path.as_uri() if path.is_absolute() else _quote_path(path.as_posix())}


def _quote_path(path: str) -> str:
    from urllib.parse import quote

    return quote(path)


def _physical(place: Location, root: Path) -> dict[str, Any]:
    region = {"startLine": max(place.line, 1)}
    if place.column and place.end_line and place.end_column:
        region |= {"startColumn": place.column, "endLine": place.end_line, "endColumn": place.end_column}
    return {"physicalLocation": {"artifactLocation": _uri(place, root), "region": region}}


def workflow_commands(report: LintReport, root: Path) -> str:
    """A line per finding that GitHub shows beside the source: ``::warning file=...,line=...::...``."""
    return "".join(f"{_annotation(finding, root)}\n" for finding in report.findings)


def _annotation(finding: LintFinding, root: Path) -> str:
    command = "notice" if _LEVEL[finding.kind] == "note" else "warning"
    place = _find_location(finding, root)
    given = {}
    if place is not None:
        path = Path(place.path)
        given["file"] = path.relative_to(root).as_posix() if path.is_relative_to(root) else place.path
        given |= (
            {"line": str(max(place.line, 1)), "endLine": str(place.end_line)}
            if place.end_line
            else {"line": str(max(place.line, 1))}
        )
        if place.column and place.line == place.end_line:  # GitHub takes columns within one line only
            given |= {"col": str(place.column), "endColumn": str(place.end_column)}
    given["title"] = f"biasopt {finding.code}"
    properties = ",".join(f"{name}={_escape(value, ':,')}" for name, value in given.items())
    return f"::{command} {properties}::{_escape(text_of(finding))}"


def _escape(text: str, more: str = "") -> str:
    text = "\n".join(plain(line) for line in text.splitlines())
    for sign in "%\r\n" + more:
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text
