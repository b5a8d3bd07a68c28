"""``biasopt report``: a document from a file, judged again if that is asked for, as any kind of report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from converter.errors import DataError
from converter.report import files, wording
from converter.report.serialize import read


@dataclass(frozen=True, slots=True)
class Again:
    """A document, and with what the command ends."""

    document: dict[str, Any]
    exit_code: int  # 0, or that of the new verdict
    verbose: bool = False


def made(path: Path, *, rethreshold: bool, verbose: bool = False, margin: float | None = None, **limits: Any) -> Again:
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
        return Again(document, 0, verbose)
    from converter.report.rejudge import Limits, rejudge

    judged = rejudge(document, Limits(**given))
    return Again(judged, judged["exit_code"], verbose)


def _margin(path: Path, document: Mapping[str, Any]) -> str:
    """Which margin ``--margin`` means: that of what the document holds."""
    latency = document.get("bench") is not None
    stages = (document.get("parity") or document).get("stages") or ()
    decision = any(stage["id"] in wording.DECIDES for stage in stages)
    if latency == decision:
        what = "both" if latency else "neither"
        raise DataError(f"{path}: holds {what} of decisions and latency; give --accuracy-margin or --latency-margin")
    return "latency_margin" if latency else "accuracy_margin"


def shown(again: Again, form: str, stream: TextIO) -> str:
    """One report as text for a stream."""
    if form == "text":
        from converter.report.content.document import report_of
        from converter.report.render.text import render_text

        return render_text(report_of(again.document), stream, verbose=again.verbose)
    return files.made(again.document, form)
