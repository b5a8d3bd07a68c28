"""A stored document of any kind as a report: its records are read back, and told as those of a run are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converter.report.blocks import Report
from converter.report.content import Run
from converter.report.content.bench import bench_report
from converter.report.content.fold import fold_report
from converter.report.content.verify import verify_report
from converter.report.serialize import ablate_of, fold_of, latency_of, parity_of, study_of


def report_of(document: Mapping[str, Any]) -> Report:
    """The report of a document, by what it holds."""
    run = run_of(document)
    if document["schema"].startswith("biasopt.ablate/"):
        from converter.report.content.ablate import ablate_report  # with the limits of its classes, and what they need

        return ablate_report(ablate_of(document), run)
    if document["schema"].startswith("biasopt.study/"):
        from converter.report.content.study import study_report

        return study_report(study_of(document), run)
    parity, latency = parity_of(document), latency_of(document)
    if "counts" in document:
        removal = (document.get("removal") or {}).get("said", ())
        return fold_report(fold_of(document), document.get("reasons", {}), run, removal)
    if parity is not None:
        return verify_report(parity, run, latency)
    assert latency is not None  # a document that was read has one of the three
    return bench_report(latency, run)


def run_of(document: Mapping[str, Any]) -> Run:
    """What a document says of the run."""
    tool, repro = document.get("tool") or {}, document.get("repro") or {}
    version = tool.get("version") or document.get("version", "")
    return Run(version, document["schema"], repro.get("cmd") or "", document["exit_code"])
