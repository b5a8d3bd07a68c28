"""``report``: a report made again, in other formats or by other limits."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from converter.dataclass import dataclass
from converter.errors import DataError
from converter.report import terminal, wording
from converter.report.save import FORMATS, NAMES, check_formats, prepare_folder, render_document, save_reports
from converter.report.serialize import DOCUMENTS, read


def run(document: Path, folder: Path | None, formats: Sequence[str], *, force: bool, **limits: Any) -> int:
    """The command: read the document, write or print it, and return the exit code."""
    import click

    if not folder and len(formats) > 1:
        raise click.UsageError("several --formats need a folder: give --output.")
    with _blamed_on(document):
        return _make_again(document, folder, formats, force=force, **limits)


@contextmanager
def _blamed_on(document: Path) -> Iterator[None]:
    """What a document's measurements, which no schema holds, make of their drawing is the document's own fault."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
        why = f"{type(exc).__name__}: {' '.join(str(exc).split())[:100]}"
        raise DataError(
            f"{document}: no whole report: what it measured cannot be shown ({why}); make it again"
        ) from exc


def _make_again(document: Path, folder: Path | None, formats: Sequence[str], *, force: bool, **limits: Any) -> int:
    made = read_report(document, formats, **limits)
    forms = formats or FORMATS
    same = _is_of_one_run(made.document, folder)
    prepare_folder(folder, [NAMES[form] for form in forms], force=force or same)
    kept = [document.name] if limits["rethreshold"] else NAMES.values()  # by other limits, the other forms are not so
    save_reports(made.document, folder, forms, kept if same else ())
    if not folder:
        terminal.say(_render(made, formats[0] if formats else "text", sys.stdout))
    return int(made.exit_code)


def _is_of_one_run(document: Mapping[str, Any], folder: Path | None) -> bool:
    """Whether the report that is in the folder tells of the same run, perhaps by other limits."""
    earlier = folder and folder / NAMES["json"]
    if earlier is None or not earlier.is_file():
        return False
    with suppress(DataError):
        found = read(earlier)
        return all(found.get(key) == document.get(key) for key in ("schema", "tool", "models", "inputs", "repro"))
    return False


@dataclass(frozen=True, slots=True)
class ReadReport:
    """A document, and with what the command ends."""

    document: dict[str, Any]
    exit_code: int  # 0, or that of the new verdict
    verbose: bool = False


def read_report(
    path: Path,
    formats: Sequence[str] = (),
    *,
    rethreshold: bool,
    verbose: bool = False,
    margin: float | None = None,
    **limits: Any,
) -> ReadReport:
    """Read the document, and judge it again if that is asked for.

    Raises
    ------
    DataError
        The file is no document of a known schema, or the limits do not fit it.
    """
    document = read(path)
    if document["schema"] not in DOCUMENTS:
        check_formats(formats)
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
