"""A document of any kind as the terminal shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from converter.report import text as shown
from converter.report import verify_text
from converter.report.rebuilt import fold_of, latency_of, parity_of


def blocks(document: Mapping[str, Any], *, verbose: bool = False) -> list[shown.Block]:
    """The report of a document, laid out in blocks."""
    parity, latency = parity_of(document), latency_of(document)
    told: list[shown.Block] = []
    if "counts" in document:
        told += shown.fold_blocks(fold_of(document), document.get("reasons", {}), verbose=verbose)
    elif parity is not None:
        told += verify_text.verify_blocks(parity, verbose=verbose)
    if latency is not None:
        told += verify_text.bench_blocks(latency, alone=not told)
    return told


def text(document: Mapping[str, Any], stream: TextIO | None = None, *, verbose: bool = False) -> str:
    """The report of a document, for a stream or, without one, for a file."""
    if "counts" not in document:
        from converter.report.content.document import report_of
        from converter.report.render.text import render_text

        return render_text(report_of(document), stream, verbose=verbose)
    width = shown.WIDTH if "counts" in document else verify_text.WIDTH
    return shown.render(_only(blocks(document, verbose=verbose)), stream, width=width)


def _only(told: Iterable[shown.Block]) -> list[shown.Block]:
    return [block for block in told if block]
