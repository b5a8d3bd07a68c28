"""The report as one HTML page, in the style of the others: one file, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from converter import report
from converter.ablate import tables
from converter.ablate.scoring import COMPENSABLE_ERROR, SMALL_ERROR
from converter.report import charts as svg
from converter.report import wording

_HERE = Path(__file__).parent / "templates"
_SHOWN = 40  # biases in the chart
_ROW = 34.0  # pixels
_LOWEST = 1e-3  # relative error at the left edge


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
    return templates.get_template("ablate.html").render(**_page(document)) + "\n"


def _shown(value: Any) -> Any:
    return wording.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _page(document: Mapping[str, Any]) -> dict[str, Any]:
    name = (document["model"]["path"] or "model in memory").replace("\\", "/").rpartition("/")[2]
    return {
        "document": document,
        "name": name,
        "headline": tables.headline(document),
        "about": tables.about(document),
        "meaning": tables.MEANING,
        "ranking": tables.biases(document),
        "effects": effects(document["biases"][:_SHOWN]),
        "more": max(0, len(document["biases"]) - _SHOWN),
        "variants": tables.variants(document) if document["variants"] else None,
        "variants_mean": tables.variants_mean(document),
        "widths": wholes(document),
        "probes": tables.probes(document),
        "contrast": contrast(document),
        "probes_mean": tables.probes_mean(document) if document["probes"] else "",
        "findings": tables.findings(document),
        "command": document["repro"]["cmd"] or "",
        "sha256": (document["inputs"] or {}).get("sha256", ""),
        "source": (document["inputs"] or {}).get("source", ""),
    }


def effects(biases: list[Mapping[str, Any]]) -> Markup | None:
    """For each bias the error of leaving it out beside what is expected to be left when weights imitate it."""
    if not biases:
        return None
    errors = [(b["effect"] or {}).get("relative_error", b["predicted_error"]) for b in biases]
    scale = svg.Scale(_LOWEST, max([1.0, *(e for e in errors if e)]), log=True)
    height = _ROW * len(biases) + 24
    marks = [svg.down(scale(x), 0, height - 20, "grid") for x in (0.001, 0.01, 0.1, 1.0)]
    marks += [
        svg.down(scale(SMALL_ERROR), 0, height - 20, "limit", "SMALL up to here"),
        svg.down(scale(COMPENSABLE_ERROR), 0, height - 20, "limit", "COMPENSABLE where the imitation is up to here"),
    ]
    for k, (bias, error) in enumerate(zip(biases, errors, strict=True)):
        marks += list(_row(k * _ROW, bias, error, scale))
    for x, said, anchor in ((0.001, "0.1 %", "start"), (0.01, "1 %", "middle"), (0.1, "10 %", "middle")):
        marks.append(svg.text(scale(x), height - 4, said, "tick", anchor))
    if scale.high <= 1.0:
        marks.append(svg.text(1.0, height - 4, "100 %", "tick", "end"))
    return svg.chart(height, "error of the outputs without each bias, and with weights that imitate it", *marks)


def _row(top: float, bias: Mapping[str, Any], error: float | None, scale: svg.Scale) -> list[Markup]:
    label = f"{wording.plain(bias['node'])}, {bias['class'].lower()}"
    row = [svg.text(0, top + 12, label)]
    if error is not None:
        said = f"{wording.plain(bias['node'])}: error {tables.share(error)} without it"
        row.append(svg.rect(0, top + 16, max(scale(error), 0.002), 6, "fill-a", said))
    left = tables.imitated(bias)
    if left is not None:
        said = f"{wording.plain(bias['node'])}: error {tables.share(left)} when weights imitate it"
        row.append(svg.rect(0, top + 23, max(scale(left), 0.002), 6, "fill-b", said))
    return row


def wholes(document: Mapping[str, Any]) -> Markup | None:
    """Agreement (or accuracy) of each change of the whole model, with its interval where there is one."""
    rows = []
    for variant in document["variants"]:
        effect = variant["effect"]
        value = effect.get("accuracy_after", effect.get("agreement"))
        if value is not None:
            rows.append((tables.NAMES[variant["name"]], value, effect))
    if not rows:
        return None
    height = _ROW * len(rows) + 22
    marks = [svg.down(x, 0, height - 18, "grid") for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for k, (name, value, effect) in enumerate(rows):
        top = k * _ROW
        marks += [
            svg.text(0, top + 12, name),
            svg.rect(0, top + 17, max(value, 0.002), 10, "fill-b", tables.share(value)),
        ]
        if "low" in effect:
            before = effect["accuracy_before"]
            low, high = (min(1.0, max(0.0, before + effect[k])) for k in ("low", "high"))
            marks.append(svg.rect(low, top + 21, max(high - low, 0.002), 2, "fill-open", tables.interval(effect)))
        marks.append(svg.text(1.0, top + 12, tables.share(value), "strong", "end"))
    for x, said, anchor in ((0.0, "0 %", "start"), (0.5, "50 %", "middle"), (1.0, "100 %", "end")):
        marks.append(svg.text(x, height - 3, said, "tick", anchor))
    return svg.chart(height, "share of right answers, or of answers as before, of each changed model", *marks)


def contrast(document: Mapping[str, Any]) -> Markup | None:
    """Accuracy of the original and of the changed models off the data, as bars side by side."""
    if not document["probes"] or not document["output"]["decides"]:
        return None
    names = [n for n in ("original", "compensate-inner", "compensate-all") if n in document["probes"][0]["effects"]]
    tones = {"original": "fill-a", "compensate-inner": "fill-b", "compensate-all": "fill-pass"}
    size = 9.0 * len(names) + 26
    height = size * len(document["probes"]) + 20
    marks = [svg.down(x, 0, height - 18, "grid") for x in (0.0, 0.5, 1.0)]
    for k, probe in enumerate(document["probes"]):
        marks.append(svg.text(0, k * size + 12, probe["said"]))
        for place, name in enumerate(names):
            value = probe["effects"][name].get("accuracy_after") or 0.0
            said = f"{tables.NAMES[name]}: {tables.share(value)}"
            marks.append(svg.rect(0, k * size + 17 + 9 * place, max(value, 0.002), 8, tones[name], said))
    for x, said, anchor in ((0.0, "0 %", "start"), (0.5, "50 %", "middle"), (1.0, "100 %", "end")):
        marks.append(svg.text(x, height - 3, said, "tick", anchor))
    return svg.chart(height, "right answers on inputs that were moved away from the data", *marks)
