"""What is set up: of the machine, with what helps (``doctor``); of a project, by its settings (``config``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from converter.records import Verdict
from converter.records.results import Inventory
from converter.report.blocks import Block, Column, Medium, Paragraph, Report, Section, Table, Words, code, name

WIDTH = 110


def doctor_report(found: Inventory) -> Report:
    """One screen of versions, providers, libraries and GPUs."""
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


def config_report(path: str, settings: Sequence[tuple[str, str, Any, str, str]]) -> Report:
    """The table of settings: command, option, value, the section of the file at ``path``, and why it is refused."""
    any_refused = any(why for *_, why in settings)
    rows: list[tuple[Any, ...]] = [
        (name, code(f"--{key}"), _show(value), f"[{place}]" if place else "top", *([why] if any_refused else []))
        for name, key, value, place, why in settings
    ]
    if rows:
        names = ["command", "option", "value", "section", *(["refused, as it"] if any_refused else [])]
        blocks: tuple[Any, ...] = (Paragraph(f"From {path}:"), Table(tuple(map(Column, names)), rows))
    elif path:
        blocks = (Paragraph(f"{path} sets nothing that any command takes."),)
    else:
        blocks = (Paragraph("No biasopt.toml, and no [tool.biasopt] in a pyproject.toml, counts here."),)
    return Report(
        command="config", name=path, status=Verdict.SKIPPED, headline="", lede="", sections=(Section("", blocks),)
    )


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
