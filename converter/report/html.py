"""Reports as one HTML page: everything in the file, nothing fetched, no script.

The page is made from a document alone. Every string in it is escaped by the template; control characters are
shown as escapes first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from converter.records import Latency, Parity
from converter.report import html_evidence, html_said, html_view, verify_text, wording
from converter.report.rebuilt import FoldedAgain, fold_of, latency_of, parity_of
from converter.report.svg_parity import TONE

_TEMPLATES = Path(__file__).parent / "templates"


def html(document: Mapping[str, Any]) -> str:
    """A document of any kind as a page."""
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template("fold.html").render(**_page(document)) + "\n"


_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMGT]?B|us|ms|s|dB|x|\u00d7)(?![\w/]))")


def _shown(value: Any) -> Any:
    """Names from a model may hold control characters, and marks that turn the direction of text.

    A number and its unit stay on one line.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _UNIT.sub("\u00a0", wording.plain(value))


def _page(document: Mapping[str, Any]) -> dict[str, Any]:
    """All that the template lays out; what is missing is empty."""
    parity, latency = parity_of(document), latency_of(document)
    fold = fold_of(document) if "counts" in document else None
    headline = _headline(fold, parity, latency)
    tool, repro = document.get("tool") or {}, document.get("repro") or {}
    return {
        "kind": document["schema"].partition("/")[0].removeprefix("biasopt."),
        "schema": document["schema"],
        "version": tool.get("version") or document.get("version", ""),
        "headline": headline,
        "tone": TONE[headline.verdict],
        "word": html_said.WORD[headline.verdict],
        "exit_code": document["exit_code"],
        "parity": parity,
        "levels": html_said.LEVELS,
        "outputs": html_said.outputs(parity) if parity else "",
        "decisions": html_said.decisions(parity) if parity else "",
        "time": html_view.time(latency) if latency else "",
        "stages": html_evidence.stages(parity) if parity else [],
        "places": html_evidence.places(parity) if parity else None,
        "speed": html_view.speed(latency, "the folded model" if fold else "B") if latency else None,
        "latency": latency,
        "output": str(fold.output) if fold and fold.output else "",
        "certificate": document.get("certificate") or "",
        "removal": (document.get("removal") or {}).get("said", []),
        "command": repro.get("cmd") or "",
        "failing": repro.get("failing_inputs") or "",
        **_changes(fold, document),
        **_models(document, fold, parity, latency),
        **_ground(parity, latency),
    }


def _headline(fold: FoldedAgain | None, parity: Parity | None, latency: Latency | None) -> html_said.Headline:
    if fold is not None:
        return html_said.fold(fold, latency)
    if parity is not None:
        return html_said.verify(parity, latency)
    assert latency is not None  # a document that was read has one of the three
    return html_said.bench(latency)


def _changes(fold: FoldedAgain | None, document: Mapping[str, Any]) -> dict[str, Any]:
    """What was done to the model."""
    empty: dict[str, Any] = {"fold": None, "tiles": [], "passes": [], "biases": None, "left": [], "frozen": ()}
    if fold is None:
        return empty
    return {
        "fold": fold,
        "tiles": html_view.tiles(fold),
        "passes": html_view.passes(fold),
        "biases": html_view.biases(fold),
        "left": html_view.left(fold, document.get("reasons", {})),
        "frozen": fold.frozen,
    }


def _models(
    document: Mapping[str, Any], fold: FoldedAgain | None, parity: Parity | None, latency: Latency | None
) -> dict[str, Any]:
    """What the two models are."""
    a, b = (parity.a, parity.b) if parity else (latency.model_a, latency.model_b) if latency else (None, None)
    path = str(document.get("input") or "")
    name = path.replace("\\", "/").rpartition("/")[2] or (
        html_view.model(a).get("name", "") if a else "model in memory"
    )
    shown = [(letter, html_view.model(m)) for letter, m in (("A", a), ("B", b)) if m is not None]
    if len({model["name"] for _, model in shown}) < len(shown):  # told apart by their folders
        shown = [(letter, model | {"name": model["path"] or model["name"]}) for letter, model in shown]
    return {"name": name, "models": shown, "operators": [] if fold else html_view.operators(a, b)}


def _ground(parity: Parity | None, latency: Latency | None) -> dict[str, Any]:
    """On what and where it ran."""
    inputs = parity.inputs if parity else latency.inputs if latency else None
    found = parity.environment if parity else latency.environment if latency else None
    machine, gpu = (found.machine, found.gpu) if found else ({}, {})
    warnings = (*(parity.warnings if parity else ()), *(latency.warnings if latency else ()))
    return {
        "inputs": verify_text.given(inputs) if inputs else "",
        "inputs_sha256": inputs.sha256 if inputs else "",
        "where": verify_text.where(found) if found else "",
        "environment": found,
        "machine": [(key.replace("_", " "), _said(key, value)) for key, value in machine.items()],
        "gpu": [(key.replace("_", " "), f"{value}") for key, value in gpu.items()],
        "warnings": tuple(dict.fromkeys(warnings)),
    }


def _said(key: str, value: Any) -> str:
    return wording.size(value) if key.endswith("bytes") and isinstance(value, int) else f"{value}"
