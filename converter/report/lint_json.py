"""What ``biasopt lint --json`` prints: ``biasopt.lint/1``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from converter.records.lint import CODES, LintFinding, LintReport, Location
from converter.report.document import repro, tool

LINT_SCHEMA = "biasopt.lint/1"


def lint_json(report: LintReport, version: str, *, argv: Sequence[str] = (), exit_code: int = 0) -> dict[str, Any]:
    """The document of one linted module. A finding's ``code`` is public API; fields may be added within a version."""
    used = {finding.code for finding in report.findings} | {item.code for item in report.unconfirmed}
    return {
        "schema": LINT_SCHEMA,
        "tool": tool(argv, version),
        "spec": report.label,
        "tracer": report.tracer,
        "counts": {
            "parameters": report.n_parameters,
            "biases": report.n_biases,
            "bias_parameters": report.n_bias_parameters,
            "dead": report.n_dead,
            "redundant": report.n_redundant,
        },
        "findings": [_finding(finding) for finding in report.findings],
        "unconfirmed": [dataclasses.asdict(item) for item in report.unconfirmed],
        "codes": {code.name: code.summary for code in CODES if code.name in used},
        "notes": list(report.notes),
        "exit_code": exit_code,
        "repro": repro(argv),
    }


def _finding(finding: LintFinding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "kind": finding.kind.value,
        "module": finding.module,
        "parameter": finding.parameter,
        "part": None if finding.part is None else list(finding.part),
        "n_parameters": finding.n_parameters,
        "message": finding.message,
        "fix": finding.fix,
        "cost": finding.cost,
        "location": _location(finding.location),
        "called_from": _location(finding.called_from),
        "evidence": finding.evidence,
    }


def _location(location: Location | None) -> dict[str, Any] | None:
    return None if location is None else dataclasses.asdict(location)
