"""The report as files in a folder: ``report.json``, ``report.md``, ``report.html``, ``report.txt``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from converter.errors import BiasoptError
from converter.report import files, terminal
from converter.report.ending import Ending
from converter.report.to_json import dumps


def save(document: Mapping[str, Any], folder: Path | None, formats: Iterable[str]) -> list[Path]:
    """Write the document in each of ``formats``, each file whole or not at all.

    Raises
    ------
    BiasoptError
        The folder cannot be written to, or there is no such form of this report.
    """
    return files.save(document, folder, formats, made)


def end(document: Mapping[str, Any], ending: Ending, stream: TextIO, top: int | None = None) -> None:
    """Write the report, and print it."""
    save(document, ending.folder, ending.formats)
    if ending.as_json:
        terminal.say(made(document, "json"))
    elif not ending.quiet:
        from converter.ablate import text

        terminal.say(text.rendered(document, stream, top))


def made(document: Mapping[str, Any], form: str) -> str:
    """The document in one form; what a form needs is loaded only for it."""
    match form:
        case "json":
            return dumps(document)
        case "md":
            from converter.ablate import markdown

            return markdown.markdown(document)
        case "html":
            from converter.ablate import page

            return page.html(document)
        case "text":
            from converter.ablate import text

            return text.rendered(document)
    raise BiasoptError(f"an ablation passes or fails nothing, so there is no {form} of it; give json, md, html or text")
