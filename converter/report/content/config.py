"""The settings of a project: which option has which value in which command, and where that is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converter.records import Verdict
from converter.report.blocks import Column, Paragraph, Report, Section, Table, code


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
