"""The summary for the terminal, 80 columns wide where it goes elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.padding import Padding
from rich.table import Table as Drawn
from rich.text import Text

from converter.report.render import text
from converter.study import claims
from converter.study.document import format_points
from converter.study.sections import spent
from converter.study.table import span

WIDTH = 80
_COLOUR = {
    claims.CONFIRMED: "green",
    claims.CONDITION: "green",
    claims.UNSUPPORTED: "yellow",
    claims.FALSE: "red",
    claims.OPEN: "dim",
}


def rendered(document: Mapping[str, Any], stream: TextIO | None = None) -> str:
    """The summary."""
    return text.lay_out(blocks(document), stream, width=WIDTH)


def blocks(document: Mapping[str, Any]) -> list[text.Lines]:
    """Its parts."""
    return [
        [Text(document["verdict"]["sentence"], style="bold"), Text(document["verdict"]["more"])],
        [Text(f"! {warning}", style="yellow") for warning in document["warnings"]],
        _compared(document),
        _claims(document),
        _controls(document),
        [Text(spent(document), style="dim")],
    ]


def _compared(document: Mapping[str, Any]) -> text.Lines:
    found = document["results"].get("widths")
    if not found:
        return []
    drawn = _grid("input", ">channels", ">n", ">with", ">without", ">\u0394", ">90 % interval", "")
    for c in found["comparisons"]:
        drawn.add_row(
            c["input"],
            f"{c['width']}",
            f"{c['n']}",
            f"{c['with']['mean']:.2f}",
            f"{c['without']['mean']:.2f}",
            format_points(c["mean"]),
            span(c["low90"], c["high90"], format_points),
            c["verdict"].lower(),
        )
    return [Text("Accuracy in per cent, with and without biases in the convolutions", style="bold"), _in(drawn)]


def _claims(document: Mapping[str, Any]) -> text.Lines:
    drawn = _grid("", "")
    drawn.show_header = False
    for claim in document["claims"]:
        stamp = Text.assemble((claim["stamp"], _COLOUR[claim["stamp"]]), ": ", claim["because"])
        drawn.add_row(Text(claim["id"], style="bold"), Text(claim["said"], style="bold"))
        drawn.add_row("", stamp)
    return [Text("What was claimed", style="bold"), _in(drawn)]


def _controls(document: Mapping[str, Any]) -> text.Lines:
    drawn = _grid("", "", "")
    drawn.show_header = False
    for check in document["checks"]:
        word, style = {True: ("passed", "green"), False: ("FAILED", "bold red"), None: ("not run", "yellow")}[
            check["passed"]
        ]
        drawn.add_row(Text(word, style=style), check["name"], check["said"])
    return [Text("Controls", style="bold"), _in(drawn)]


def _grid(*heads: str) -> Drawn:
    drawn = Drawn(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in heads:
        drawn.add_column(head.lstrip(">"), justify="right" if head.startswith(">") else "left", no_wrap=bool(head))
    return drawn


def _in(drawn: Drawn) -> Padding:
    return Padding(drawn, (0, 0, 0, 2))
