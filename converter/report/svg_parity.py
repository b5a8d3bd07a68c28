"""Charts of accuracy: a score against its limit, differences by size, the error of each layer, fates of biases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from converter.records import FateKind, OutputCheck, Verdict
from converter.records.evidence import worst_verdict
from converter.report import svg, wording

TONE = {Verdict.PASS: "pass", Verdict.FAIL: "fail", Verdict.INCONCLUSIVE: "open", Verdict.SKIPPED: "skip"}
COLUMNS = 240  # columns in a chart of layers; more layers share one, which shows the worst of them


def bullet(score: float, limit: float, status: Verdict, name: str = "") -> Markup:
    """A score beside its limit: a bar in the room that it has, and a line where that ends."""
    far = not score <= 1.25 * limit  # also where it is no number
    top = score if math.isfinite(score) else 1e6 * limit
    scale = svg.Scale(limit / 100, 3 * top, log=True) if far else svg.Scale(0, 1.3 * limit)
    said = f"{name}: {wording.number(score)}, limit {wording.number(limit)}" + (" (logarithmic)" if far else "")
    return svg.chart(
        16,
        said,
        svg.rect(0, 2, scale(limit), 12, "room"),
        svg.rect(0, 5, max(scale(score), 0.004), 6, f"fill-{TONE[status]}", said),
        svg.down(scale(limit), 0, 16, "limit", f"limit {wording.number(limit)}"),
        class_="bullet",
    )


def histogram(found: Mapping[str, Any], label: str) -> Markup | None:
    """How many elements differ by how much, by powers of ten; None if there is nothing to show."""
    edges, counts = edges_of(found)
    if not counts:
        return None
    total = sum(counts) + (found.get("zeros") or 0)
    # whole powers of ten at both ends, so that there are at least two marks on the axis
    scale, height, tallest = svg.Scale(math.floor(edges[0]), math.ceil(edges[-1])), 96, max(counts)
    marks = [svg.across(height, "axis")]
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            tall = max(1.5, (height - 6) * count / tallest)
            said = f"{wording.percent(count / total)} of the elements differ by 1e{left:g} to 1e{right:g}"
            width = (scale(right) - scale(left)) * 0.94
            marks.append(svg.rect(scale(left) + 0.03 * width, height - tall, width, tall, "fill-b", said))
    for k in _thin(range(math.floor(edges[0]), math.ceil(edges[-1]) + 1)):
        place = scale(k)
        marks.append(svg.text(place, height + 15, f"1e{k}", "tick", _anchor(place)))
    return svg.chart(height + 20, label, *marks)


def heat(found: Mapping[str, Any], label: str, row: float = 13) -> tuple[Markup, Markup] | None:
    """The axis and a map of sizes and differences, darker where more elements are; None if there is nothing to show."""
    sizes = found.get("by_size") or {}
    cells, step = sizes.get("cells") or [], found.get("step")
    if not cells or not step:
        return None
    (left, right), (low, high) = (_whole([cell[k] for cell in cells], step, b) for k, b in _lows(found, sizes))
    columns, rows = (right - left) / step, (high - low) / step
    height, most = row * rows, max(cell[2] for cell in cells)
    marks = []
    for column, place, count in cells:
        x, y = sizes["low"] + column * step, found["low"] + place * step
        shade = 1 + min(4, int(5 * math.log1p(count) / math.log1p(most) - 1e-9))
        said = f"{wording.count(count, 'element')} of size 1e{x:g} to 1e{x + step:g}: 1e{y:g} to 1e{y + step:g} apart"
        top = height - (y - low) / step * row - row
        marks.append(svg.rect((x - left) / step / columns, top, 0.97 / columns, row - 1, f"heat heat-{shade}", said))
    marks.append(svg.across(height, "axis"))
    for k in _thin(range(left, right + 1)):
        place = (k - left) / (right - left)
        marks.append(svg.text(place, height + 15, f"1e{k}", "tick", _anchor(place)))
    axis = {f"1e{k}": height - (k - low) / step * row + 4 for k in _thin(range(low, high + 1))}
    return svg.axis(axis, height), svg.chart(height + 20, label, *marks)


def _anchor(place: float) -> str:
    """Labels at the edges stay inside the chart."""
    return "start" if place < 0.03 else "end" if place > 0.97 else "middle"


def _lows(found: Mapping[str, Any], sizes: Mapping[str, Any]) -> tuple[tuple[int, float], tuple[int, float]]:
    return (0, sizes["low"]), (1, found["low"])


def _whole(places: Sequence[int], step: float, low: float) -> tuple[int, int]:
    """Whole powers of ten around the columns that are filled."""
    return math.floor(low + min(places) * step), math.ceil(low + (max(places) + 1) * step)


def _thin(ticks: Sequence[int], most: int = 6) -> Sequence[int]:
    return ticks[:: max(1, math.ceil(len(ticks) / most))]


def edges_of(found: Mapping[str, Any]) -> tuple[list[float], list[int]]:
    """Edges and counts of a histogram, which is stored with its edges, or with its low end and a step or its high end.

    Empty columns at both ends are left out.
    """
    counts = list(found.get("counts") or ())
    edges, low, high, step = (found.get(key) for key in ("edges", "low", "high", "step"))
    if edges is None and low is not None and counts:
        step = step if step is not None else (high - low) / len(counts) if high is not None else 0
        edges = [low + k * step for k in range(len(counts) + 1)]
    filled = [k for k, count in enumerate(counts) if count]
    if not filled or edges is None or len(edges) != len(counts) + 1 or edges[-1] <= edges[0]:
        return [], []
    return list(edges[filled[0] : filled[-1] + 2]), counts[filled[0] : filled[-1] + 1]


def layers(checks: Sequence[OutputCheck], limit: float, height: float = 160) -> tuple[Markup, Markup] | None:
    """The axis and the error of each place, in the order of the model, on a logarithmic scale with the limit."""
    scores = [_finite(check.score, limit) for check in checks]
    if not scores:
        return None
    scale = svg.Scale(1e-3 * limit, 3 * max(limit, *scores), log=True)
    groups = svg.thinned(scores, COLUMNS)
    pitch, edge = 1 / len(groups), height * (1 - scale(limit))
    wide = min(0.8 * pitch, 0.05)  # few places are no broad columns
    marks = [svg.rect(0, edge, 1, height - edge, "room")]
    ticks = svg.decades(scale.low / limit, scale.high / limit)
    marks += [svg.across(height * (1 - scale(tick * limit)), "grid") for tick in ticks if tick != 1]
    for k, places in enumerate(groups):
        found = [checks[place] for place in places]
        value = max(scores[place] for place in places)
        tall = max(2.0, height * scale(value))
        tone = TONE[worst_verdict(check.status for check in found)]
        said = _column(found, value / limit, scores[places[0]] if len(places) == 1 else None)
        marks.append(svg.rect((k + 0.5) * pitch - wide / 2, height - tall, wide, tall, f"fill-{tone}", said))
    marks += [svg.across(edge, "limit"), svg.across(height, "axis")]
    label = f"{len(scores)} places; the largest error is {wording.number(max(scores) / limit)} of the limit"
    names = {tick: height * (1 - scale(tick * limit)) + 4 for tick in ticks}
    return svg.axis({_of_limit(tick): y for tick, y in names.items()}, height), svg.chart(height + 6, label, *marks)


def _of_limit(tick: float) -> str:
    return "limit" if tick == 1 else f"{tick:,.0f} \u00d7" if tick > 1 else f"{tick:g} \u00d7"


def _column(checks: Sequence[OutputCheck], part: float, alone: float | None) -> str:
    worst = max(checks, key=lambda check: _finite(check.score, check.limit or 1.0))
    more = "" if alone is not None else f" (the worst of {len(checks)})"
    return f"{wording.plain(worst.name)}: {wording.number(part)} of the limit{more}"


def _finite(score: float | None, limit: float) -> float:
    """A score as something to draw: what is no number is the largest."""
    return 0.0 if score is None else score if math.isfinite(score) else 1e6 * limit


def shares(parts: Sequence[tuple[FateKind, int]]) -> Markup | None:
    """One bar, divided by what became of the biases."""
    total = sum(count for _, count in parts)
    if not total:
        return None
    marks, x = [], 0.0
    for kind, count in parts:
        width = count / total
        said = f"{kind.value}: {wording.count(count, 'bias', 'biases')} ({wording.percent(width)})"
        marks.append(svg.rect(x, 0, width, 28, f"fate-{kind.value}", said))
        if width > 0.07:
            marks.append(svg.text(x + width / 2, 19, f"{count:,}", f"on-fate on-{kind.value}", "middle"))
        x += width
        if x < 0.999:
            marks.append(svg.down(x, 0, 28, "gap"))
    said = ", ".join(f"{count:,} {kind.value}" for kind, count in parts if count)
    return svg.chart(28, f"biases: {said}", *marks, class_="shares")
