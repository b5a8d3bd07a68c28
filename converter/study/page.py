"""The report as one HTML page: no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from converter import report
from converter.report import wording
from converter.study import claims
from converter.study.sections import sections, spent, where

_HERE = Path(__file__).parent / "templates"
TONES = {
    claims.CONFIRMED: "pass",
    claims.CONDITION: "pass",
    claims.UNSUPPORTED: "open",
    claims.FALSE: "fail",
    claims.OPEN: "skip",
}


def html(document: Mapping[str, Any]) -> str:
    """The document as a page."""
    templates = Environment(
        loader=FileSystemLoader([_HERE, Path(report.__file__).parent / "templates"]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made = sections(document)
    return (
        templates.get_template("study.html").render(
            document=document,
            sections=made,
            links={claim["id"]: where(claim, made) for claim in document["claims"]},
            tones=TONES,
            tone=_tone(document),
            spent=spent(document),
        )
        + "\n"
    )


def _tone(document: Mapping[str, Any]) -> str:
    """Red for a run that is invalid, green for an answer, else yellow."""
    if document["valid"] is False:
        return "fail"
    return "pass" if document["verdict"]["answered"] else "open"


def _shown(value: Any) -> Any:
    return wording.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
