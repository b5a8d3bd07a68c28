"""The report for the terminal, 80 columns wide where it goes elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.padding import Padding
from rich.table import Table as Drawn
from rich.text import Text

from converter.ablate import tables
from converter.report import wording
from converter.report.render import text

WIDTH = 80
_COLOUR = {
    "DEAD": "green",
    "REDUNDANT": "green",
    "SMALL": "green",
    "COMPENSABLE": "cyan",
    "ESSENTIAL": "yellow",
    "UNKNOWN": "dim",
}


def rendered(document: Mapping[str, Any], stream: TextIO | None = None, top: int | None = None) -> str:
    """The whole report."""
    return text.lay_out(blocks(document, top), stream, width=WIDTH)


def blocks(document: Mapping[str, Any], top: int | None = None) -> list[text.Lines]:
    """Its parts."""
    name = (document["model"]["path"] or "model in memory").replace("\\", "/").rpartition("/")[2]
    return [
        [Text(wording.plain(name), style="bold"), Text(tables.about(document))],
        [Text(tables.headline(document), style="bold")],
        _ranking(document, top),
        _legend(document),
        _variants(document),
        _probes(document),
        _findings(document),
        _uncovered(document),
        [Text(f"warning: {wording.plain(w)}", style="yellow") for w in document["warnings"]],
        _next(document),
    ]


def _ranking(document: Mapping[str, Any], top: int | None) -> text.Lines:
    if not document["biases"]:
        return []
    block = _table("Biases, those that matter most first", tables.biases(document, top))
    rest = len(document["biases"]) - (top or len(document["biases"]))
    if rest > 0:
        block.append(Text(f"  ... and {rest} more; --top and --json show them", style="dim"))
    return block


def _table(title: str, table: tables.Table) -> text.Lines:
    drawn = Drawn(box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, name in enumerate(table.header):
        drawn.add_column(name, justify="right" if place in table.right else "left", overflow="fold", no_wrap=False)
    for row in table.rows:
        drawn.add_row(*(Text(cell, style=_COLOUR.get(cell, "")) for cell in row))
    return [Text(title, style="bold"), Padding(drawn, (0, 0, 0, 2))]


def _legend(document: Mapping[str, Any]) -> text.Lines:
    if not document["biases"]:
        return []
    grid = Drawn.grid(padding=(0, 2, 0, 0))
    for name, found in document["classes"].items():
        grid.add_row(Text(name, style=_COLOUR.get(name, "")), Text(found["means"], style="dim"))
    starred = any(b["p_holm"] is not None and b["p_holm"] < 0.05 for b in document["biases"])
    star = " *: McNemar's exact test, p < 0.05 after Holm's correction over all biases." if starred else ""
    return [Padding(grid, (0, 0, 0, 2)), Padding(Text(tables.MEANING + star, style="dim"), (1, 0, 0, 2))]


def _variants(document: Mapping[str, Any]) -> text.Lines:
    if not document["variants"]:
        return []
    said = Padding(Text(tables.variants_mean(document), style="dim"), (1, 0, 0, 2))
    return [*_table("All at once", tables.variants(document)), said]


def _probes(document: Mapping[str, Any]) -> text.Lines:
    table = tables.probes(document)
    if table is None:
        return []
    return [*_table("Off the data", table), Padding(Text(tables.probes_mean(document), style="dim"), (1, 0, 0, 2))]


def _findings(document: Mapping[str, Any]) -> text.Lines:
    if not document["findings"]:
        return []
    found = [Padding(Text(said), (0, 0, 0, 2)) for said in tables.findings(document)]
    return [
        Text("For a quantisation", style="bold"),
        *found,
        Padding(Text(document["note"], style="dim"), (0, 0, 0, 2)),
    ]


def _uncovered(document: Mapping[str, Any]) -> text.Lines:
    if not document["uncovered"]:
        return []
    grid = Drawn.grid(padding=(0, 2, 0, 0))
    for each in document["uncovered"]:
        grid.add_row(f"{each['op']}", Text(wording.plain(each["node"])), Text(wording.plain(each["why"]), style="dim"))
    return [Text("Not covered", style="bold"), Padding(grid, (0, 0, 0, 2))]


def _next(document: Mapping[str, Any]) -> text.Lines:
    exact = sum(b["class"] in ("DEAD", "REDUNDANT") for b in document["biases"])
    data = sum(b["class"] in ("SMALL", "COMPENSABLE") and b["role"] == "inner" for b in document["biases"])
    said = []
    if exact:
        said.append(f"`biasopt fold` removes or merges {exact} of them exactly.")
    if data:
        said.append("`biasopt fold --allow remove-biases --data D --budget 1%` removes what the data allows.")
    return [Text(" ".join(said), style="dim")] if said else []
