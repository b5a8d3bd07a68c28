"""The settings of a project: which option has which value in which command, and where that is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converter.records import Verdict
from converter.report.blocks import Column, Paragraph, Report, Section, Table, code


def config_report(path: str, settings: Sequence[tuple[str, str, Any, str]]) -> Report:
    """The table of settings: command, option, value, and the section of the file at ``path``."""
    rows = [
        (name, code(f"--{key}"), _show(value), f"[{place}]" if place else "top") for name, key, value, place in settings
    ]
    if rows:
        columns = (Column("command"), Column("option"), Column("value"), Column("section"))
        blocks: tuple[Any, ...] = (Paragraph(f"From {path}:"), Table(columns, rows))
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
