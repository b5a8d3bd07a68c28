"""What ``biasopt doctor`` shows: one screen of versions, providers, libraries and GPUs, and the commands that help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from converter.records import Verdict
from converter.report.blocks import Block, Column, Medium, Paragraph, Report, Section, Table, name

SCHEMA = "biasopt.doctor/1"
WIDTH = 110


def doctor_document(found: Mapping[str, Any]) -> dict[str, Any]:
    """What ``doctor --json`` prints."""
    return {"schema": SCHEMA, **found, "exit_code": 0 if found["works"] else 3}


def doctor_report(found: Mapping[str, Any]) -> Report:
    """The same for people."""
    head = f"{found['asked']} works." if found["works"] else f"{found['asked']} does not work."
    sections = (
        Section("", (Paragraph(head),)),
        Section("Installed", tuple(_tell_versions(found))),
        Section("Providers", (_tabulate_providers(found),)),
        Section("Libraries", tuple(_tell_libraries(found))),
        Section("What to do", tuple(Paragraph(each) for each in found["advice"])),
    )
    status = Verdict.PASS if found["works"] else Verdict.FAIL
    return Report("doctor", "", status, head, "", tuple(each for each in sections if each.blocks), width=WIDTH)


def _tell_versions(found: Mapping[str, Any]) -> Iterator[Block]:
    rows = [
        *found["versions"].items(),
        ("biasopt lies in", name(found["place"])),
        ("python lies in", name(found["python"])),
        ("platform", name(found["platform"])),
        ("onnxruntime is of", ", ".join(found["distributions"]) or "no distribution"),
        *(
            ("GPU", name(", ".join(str(value) for value in gpu.values())))
            for gpu in found["gpus"] or [{"": "none found"}]
        ),
    ]
    yield Table((Column("what"), Column("value")), rows, headless=Medium.SCREEN)


def _tabulate_providers(found: Mapping[str, Any]) -> Table:
    rows = [
        (each["name"], "listed" if each["listed"] else "not listed", "works" if each["works"] else each["reason"])
        for each in found["providers"]
    ]
    return Table(
        (Column("provider"), Column("by onnxruntime"), Column("runs a convolution")), rows, headless=Medium.SCREEN
    )


def _tell_libraries(found: Mapping[str, Any]) -> Iterator[Block]:
    rows = [
        (each["name"], each["version"], name(each["path"]) if each["path"] else "not found")
        for each in found["libraries"]
    ]
    if rows:
        yield Table((Column("library"), Column("version"), Column("from")), rows, headless=Medium.SCREEN)
