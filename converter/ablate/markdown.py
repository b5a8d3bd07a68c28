"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converter.ablate import tables
from converter.report.render.markdown import details, literal, prose, table


def markdown(document: Mapping[str, Any]) -> str:
    """The document as Markdown that ends in a newline."""
    name = (document["model"]["path"] or "model in memory").replace("\\", "/").rpartition("/")[2]
    legend = [(f"**{n}**", f"{c['biases']}", prose(c["means"])) for n, c in document["classes"].items()]
    parts = [
        f"## biasopt ablate: {literal(name)}",
        f"**{prose(tables.headline(document))}**",
        prose(tables.about(document)),
        "\n".join(f"> \u26a0\ufe0f {prose(w)}" + "\n" for w in document["warnings"]).strip(),
        _table(tables.biases(document), {1}),
        prose(tables.MEANING),
        details("What the classes mean", table(("class", "biases", "means"), legend, right=(1,))),
        _variants(document),
        _probes(document),
        _findings(document),
        _uncovered(document),
        f"<sub>biasopt {document['tool']['version']}, {document['schema']}</sub>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(found: tables.Table, names: set[int] = frozenset()) -> str:  # type: ignore[assignment]
    rows = [
        tuple(literal(cell) if place in names else prose(cell) for place, cell in enumerate(row)) for row in found.rows
    ]
    return table(tuple(prose(h) for h in found.header), rows, right=found.right)


def _variants(document: Mapping[str, Any]) -> str:
    if not document["variants"]:
        return ""
    return f"### All at once\n\n{_table(tables.variants(document))}\n\n{prose(tables.variants_mean(document))}"


def _probes(document: Mapping[str, Any]) -> str:
    found = tables.probes(document)
    return "" if found is None else f"### Off the data\n\n{_table(found)}\n\n{prose(tables.probes_mean(document))}"


def _findings(document: Mapping[str, Any]) -> str:
    if not document["findings"]:
        return ""
    listed = "\n".join(f"- {prose(said)}" for said in tables.findings(document))
    return f"### For a quantisation\n\n{listed}\n\n{prose(document['note'])}"


def _uncovered(document: Mapping[str, Any]) -> str:
    rows = [(literal(u["node"]), prose(u["op"]), prose(u["why"])) for u in document["uncovered"]]
    return "### Not covered\n\n" + table(("bias", "operator", "why"), rows) if rows else ""
