"""``report``: a report made again, in other formats or by other limits."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from converter.dataclass import dataclass
from converter.errors import DataError
from converter.report import terminal, wording
from converter.report.save import FORMATS, prepare_folder, render_document, save_reports
from converter.report.serialize import read


def run(document: Path, folder: Path | None, formats: Sequence[str], **limits: Any) -> int:
    """The command: read the document, write or print it, and return the exit code."""
    import click

    if not folder and len(formats) > 1:
        raise click.UsageError("several --formats need a folder: give --output.")
    made = read_report(document, **limits)
    prepare_folder(folder)
    save_reports(made.document, folder, formats or FORMATS)
    if not folder:
        terminal.say(_render(made, formats[0] if formats else "text", sys.stdout))
    return int(made.exit_code)


@dataclass(frozen=True, slots=True)
class ReadReport:
    """A document, and with what the command ends."""

    document: dict[str, Any]
    exit_code: int  # 0, or that of the new verdict
    verbose: bool = False


def read_report(
    path: Path, *, rethreshold: bool, verbose: bool = False, margin: float | None = None, **limits: Any
) -> ReadReport:
    """Read the document, and judge it again if that is asked for.

    Raises
    ------
    DataError
        The file is no document of a known schema, or the limits do not fit it.
    """
    document = read(path)
    given = {name: value for name, value in limits.items() if value is not None}
    if margin is not None:
        given.setdefault(_margin(path, document), margin)
    if given and not rethreshold:
        raise DataError(f"{path}: a limit was given, but not --rethreshold; give both, or neither")
    if not rethreshold:
        return ReadReport(document, 0, verbose)
    from converter.report.rejudge import Limits, rejudge

    judged = rejudge(document, Limits(**given))
    return ReadReport(judged, judged["exit_code"], verbose)


def _margin(path: Path, document: Mapping[str, Any]) -> str:
    """Which margin ``--margin`` means: that of what the document holds."""
    latency = document.get("bench") is not None
    stages = (document.get("parity") or document).get("stages") or ()
    decision = any(stage["id"] in wording.DECIDES for stage in stages)
    if latency == decision:
        what = "both" if latency else "neither"
        raise DataError(f"{path}: holds {what} of decisions and latency; give --accuracy-margin or --latency-margin")
    return "latency_margin" if latency else "accuracy_margin"


def _render(report: ReadReport, form: str, stream: TextIO) -> str:
    """One report as text for a stream."""
    if form == "text":
        from converter.report.content.document import report_of
        from converter.report.render.text import render_text

        return render_text(report_of(report.document), stream, verbose=report.verbose)
    return render_document(report.document, form)
