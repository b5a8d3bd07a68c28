"""What ``biasopt doctor`` shows: one screen of versions, providers, libraries and GPUs, and the commands that help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from converter.records import Verdict
from converter.records.inventory import Inventory
from converter.report.blocks import Block, Column, Medium, Paragraph, Report, Section, Table, Words, name

WIDTH = 110


def doctor_report(found: Inventory) -> Report:
    """The same for people."""
    head = f"{found.asked} works." if found.works else f"{found.asked} does not work."
    sections = (
        Section("", (Paragraph(head),)),
        Section("Installed", tuple(_tell_versions(found))),
        Section("Providers", (_tabulate_providers(found),)),
        Section("Libraries", tuple(_tell_libraries(found))),
        Section("What to do", tuple(Paragraph(each) for each in found.advice)),
    )
    status = Verdict.PASS if found.works else Verdict.FAIL
    return Report("doctor", "", status, head, "", tuple(each for each in sections if each.blocks), width=WIDTH)


def _tell_versions(found: Inventory) -> Iterator[Block]:
    rows: list[tuple[Words, Words]] = [
        *found.versions.items(),
        ("biasopt lies in", name(found.place)),
        ("python lies in", name(found.python)),
        ("platform", name(found.platform)),
        ("onnxruntime is of", ", ".join(found.distributions) or "no distribution"),
        *(
            (f"GPU {k}" if len(found.gpus) > 1 else "GPU", name(_describe_gpu(gpu)))
            for k, gpu in enumerate(found.gpus or ({"name": "none found"},))
        ),
    ]
    yield Table((Column("what"), Column("value")), rows, headless=Medium.SCREEN)


def _describe_gpu(gpu: Mapping[str, Any]) -> str:
    """Name, uuid and driver; settings by their names."""
    named = {key: value for key, value in gpu.items() if key not in ("name", "uuid", "driver")}
    driver = f"driver {gpu['driver']}" if "driver" in gpu else ""
    settings = (f"{key.replace('_', ' ')} {value}" for key, value in named.items())
    return ", ".join(part for part in (gpu.get("name", ""), gpu.get("uuid", ""), driver, *settings) if part)


def _tabulate_providers(found: Inventory) -> Table:
    rows = [
        (each.name, "listed" if each.listed else "not listed", "works" if each.works else each.reason)
        for each in found.providers
    ]
    return Table(
        (Column("provider"), Column("by onnxruntime"), Column("runs a convolution")), rows, headless=Medium.SCREEN
    )


def _tell_libraries(found: Inventory) -> Iterator[Block]:
    rows = [(each.name, each.version, name(each.path) if each.path else "not found") for each in found.libraries]
    if rows:
        yield Table((Column("library"), Column("version"), Column("from")), rows, headless=Medium.SCREEN)
