"""The report as files in a folder: JSON, Markdown with its figures, HTML, text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from converter.errors import BiasoptError
from converter.report.files import NAMES, write_whole
from converter.report.serialize import dumps

FIGURES = "figures"
FORMS = ("json", "md", "html", "text")


def check(forms: Iterable[str]) -> None:
    """Refuse a form that there is not, before the work."""
    for form in forms:
        if form not in FORMS:
            raise BiasoptError(f"there is no {form} of a study; give {', '.join(FORMS)}")


def save(document: Mapping[str, Any], folder: Path | None, formats: Iterable[str]) -> list[Path]:
    """Write the document in each of ``formats``, each file whole or not at all; figures with Markdown.

    Raises
    ------
    BiasoptError
        The folder cannot be written to, or there is no such form of this report.
    """
    if folder is None:
        return []
    try:
        made = [write_whole(folder / NAMES[form], text(document, form)) for form in formats]
        return made + (drawn(document, folder / FIGURES) if "md" in formats else [])
    except OSError as exc:
        raise BiasoptError(f"{folder}: cannot write reports ({exc.strerror}); free space or choose another") from exc


def drawn(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every figure as an SVG."""
    from converter.study.figures import figures

    folder.mkdir(parents=True, exist_ok=True)
    return [write_whole(folder / f"{name}.svg", figure.file()) for name, figure in figures(document).items()]


def text(document: Mapping[str, Any], form: str) -> str:
    """The document in one form; what a form needs is loaded only for it."""
    match form:
        case "json":
            return dumps(document)
        case "md":
            from converter.study import markdown

            return markdown.markdown(document, FIGURES)
        case "html":
            from converter.study import page

            return page.html(document)
        case "text":
            from converter.study import text as summary

            return summary.rendered(document)
    check([form])
    raise AssertionError(form)
