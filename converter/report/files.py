"""Reports as files in a folder: ``report.json``, ``report.md``, ``report.html``, ``report.xml``, ``report.txt``.

All but the first are made from what the first holds, so that `biasopt report` can make them again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from converter.errors import BiasoptError

NAMES = {
    "json": "report.json",
    "md": "report.md",
    "html": "report.html",
    "junit": "report.xml",
    "text": "report.txt",
}
FORMATS = ("json", "md", "html")  # written where none is asked for


def prepare(folder: Path | None) -> None:
    """Make sure that reports can be written into the folder, if there is to be one."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".biasopt-probe"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        raise BiasoptError(f"{folder}: cannot write reports ({exc.strerror}); choose another --report folder") from exc


def save(
    document: Mapping[str, Any],
    folder: Path | None,
    formats: Iterable[str],
    form_of: Callable[[Mapping[str, Any], str], str] | None = None,
) -> list[Path]:
    """Write a document in each of ``formats`` (the keys of `NAMES`), each file whole or not at all.

    ``form_of`` makes the text of a document in one format; `made` by default.

    Raises
    ------
    BiasoptError
        The folder cannot be written to.
    """
    if folder is None:
        return []
    make = form_of or made
    try:
        return [_written(folder / NAMES[form], make(document, form)) for form in formats]
    except OSError as exc:
        raise BiasoptError(f"{folder}: cannot write reports ({exc.strerror}); free space or choose another") from exc


def made(document: Mapping[str, Any], form: str) -> str:
    """The document in one of the formats of `NAMES`. What a format needs is loaded only for it."""
    match form:
        case "json":
            from converter.report.to_json import dumps

            return dumps(document)
        case "md":
            from converter.report.content.document import report_of
            from converter.report.render.markdown import render_markdown

            return render_markdown(report_of(document))
        case "html":
            from converter.report.content.document import report_of
            from converter.report.render.html import render_html

            return render_html(report_of(document))
        case "junit":
            from converter.report import junit

            return junit.junit(document)
        case "text":
            from converter.report.content.document import report_of
            from converter.report.render.text import render_text

            return render_text(report_of(document))
    raise ValueError(f"{form!r} is no kind of report; there are {', '.join(NAMES)}")


def _written(path: Path, text: str) -> Path:
    """Write beside the file, then take its place: a reader never sees half a report."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # a name that no encoding has was escaped by the report; what is left is replaced, not a crash
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return path
