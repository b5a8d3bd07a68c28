"""Figures: lines, forests, bars of the study, for the page and as files; and ablate's charts of what biases are worth.

Marks are those of `converter.report.charts`: x in per cent, y in pixels, so that they stretch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path

from markupsafe import Markup

from converter.dataclass import dataclass
from converter.records.ablate import BiasScore, EffectSummary, ProbeScore, VariantScore
from converter.report import charts, wording
from converter.report.charts import Scale

MINUS = "\u2212"
_FOOT = 22  # pixels for the labels of the x axis
_WIDE, _LEFT, _EDGE = 760, 96, 18  # of a file, in pixels
_LINE = 20


@dataclass(frozen=True, slots=True)
class Figure:
    """One picture.

    Attributes
    ----------
    name : str
        Of its file.
    title, caption : str
        What it shows, and how to read it.
    labels : mapping
        What stands at the left, and at which height.
    keys : sequence of (class, text)
        The legend.
    """

    name: str
    title: str
    caption: str
    height: float
    marks: tuple[Markup, ...]
    labels: Mapping[str, float] = field(default_factory=dict)
    keys: tuple[tuple[str, str], ...] = ()

    def draw(self) -> tuple[Markup, Markup]:
        """The axis and the chart, for the page, which has the styles."""
        axis = charts.tag(
            "svg",
            *(
                charts.tag("text", said, x=_LEFT - 10, y=round(y, 1), text_anchor="end")
                for said, y in self.labels.items()
            ),
            class_="yaxis",
            width=_LEFT,
            height=self.height,
            aria_hidden="true",
        )
        return axis, charts.chart(self.height, f"{self.title} {self.caption}", *self.marks)

    def render_file(self) -> str:
        """As an SVG of its own, readable on a light and on a dark page."""
        top = 30 + (_LINE if self.keys else 0)
        title = charts.tag("text", self.title, class_="title", x=_EDGE, y=20)
        labels = [
            charts.tag("text", said, x=_LEFT - 10, y=round(y + top, 1), text_anchor="end")
            for said, y in self.labels.items()
        ]
        plot = charts.tag(
            "svg", *self.marks, class_="chart", x=_LEFT, y=top, width=_WIDE - _LEFT - _EDGE - 12, height=self.height,
            overflow="visible",
        )  # fmt: skip
        whole = charts.tag(
            "svg",
            charts.tag("title", self.title),
            charts.tag("desc", self.caption),
            charts.tag("style", Markup(_style())),  # noqa: S704 - the package's own style sheet
            charts.tag("rect", class_="paper", width="100%", height="100%"),
            title,
            *self._legend(),
            *labels,
            plot,
            xmlns="http://www.w3.org/2000/svg",
            width=_WIDE,
            height=round(self.height + top + 8),
            viewBox=f"0 0 {_WIDE} {round(self.height + top + 8)}",
            class_="chart",
            role="img",
        )
        return f"{whole}\n"

    def _legend(self) -> list[Markup]:
        marks, x = [], float(_EDGE)
        for class_, said in self.keys:
            marks.append(charts.tag("rect", class_=class_, x=x, y=33, width=12, height=9))
            marks.append(charts.tag("text", said, x=x + 18, y=42))
            x += 34 + 6.6 * len(said)
        return marks


def _style() -> str:
    """The colours and the classes of charts, out of the page's style sheet."""
    css = (Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    head = css[: css.index("* {")]
    marks = css[css.index("/* charts */") : css.index(".plot {")]
    base = "svg { font-family: system-ui, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif; }"
    return f"{head}{base}\n{marks}.paper {{ fill: var(--paper); }} .title {{ font-weight: 620; }}"


def line(x1: float, y1: float, x2: float, y2: float, class_: str, title: str = "") -> Markup:
    """A line between two points."""
    inside = (charts.tag("title", title),) if title else ()
    return charts.tag(
        "line", *inside, class_=class_, x1=charts.percent(x1), x2=charts.percent(x2), y1=round(y1, 2), y2=round(y2, 2)
    )


@dataclass(frozen=True, slots=True)
class Series:
    """Points (x, y, low, high) under one name; x is a place from 0 to 1, what is unknown is NaN."""

    name: str
    tone: str
    points: tuple[tuple[float, float, float, float], ...]
    dashed: bool = False
    dots: bool = True


def lines(
    series: Sequence[Series],
    scale: Scale,
    ticks: Mapping[str, float],
    feet: Mapping[str, float],
    tall: float,
    unit: str,
) -> tuple[tuple[Markup, ...], dict[str, float]]:
    """Marks and left labels of a line chart: ``ticks`` of the y axis, ``feet`` those of the x axis as places."""

    def y(value: float) -> float:
        return tall * (1 - scale(value))

    marks = [charts.across(y(value), "grid") for value in ticks.values()]
    for one in series:
        marks += _polyline(one, y)
        for x, value, low, high in one.points if one.dots else ():
            said = f"{one.name}: {value:.4g}{unit}"
            if math.isfinite(low) and math.isfinite(high) and high > low:
                marks.append(charts.down(x, y(high), y(low), f"whisker {one.tone}"))
                said += f" [{low:.4g}, {high:.4g}]"
            marks.append(charts.dot(x, y(value), f"mark {one.tone}", said))
    marks += foot(feet, tall)
    return tuple(marks), {said: y(value) + 4 for said, value in ticks.items()}


def _polyline(one: Series, y: object) -> list[Markup]:
    assert callable(y)
    class_ = f"line {one.tone}{' dashed' if one.dashed else ''}"
    pairs = zip(one.points, one.points[1:], strict=False)
    return [line(a[0], y(a[1]), b[0], y(b[1]), class_) for a, b in pairs]


def foot(feet: Mapping[str, float], tall: float) -> list[Markup]:
    """Labels below a chart."""
    return [
        charts.text(x, tall + 18, said, "tick", "start" if x < 0.02 else "end" if x > 0.98 else "middle")
        for said, x in feet.items()
    ]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a forest: a value with its interval, or (without a value) a heading."""

    label: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    tone: str = "b"
    note: str = ""
    hollow: bool = False


def across(widths: Sequence[float]) -> dict[float, float]:
    """Places of widths on a logarithmic axis, with room at both ends."""
    low, high = math.log2(min(widths)), math.log2(max(widths))
    return {w: 0.04 + 0.92 * ((math.log2(w) - low) / (high - low) if high > low else 0.5) for w in widths}


ROW = 25.0


def forest(
    rows: Sequence[Entry], scale: Scale, ticks: Mapping[str, float], band: tuple[float, float] | None, zero: float
) -> tuple[tuple[Markup, ...], dict[str, float], float]:
    """Marks, left labels and height of a forest plot."""
    tall = ROW * len(rows)
    marks = []
    if band:
        marks.append(charts.rect(scale(band[0]), 0, scale(band[1]) - scale(band[0]), tall, "room"))
    marks += [charts.down(scale(value), 0, tall, "grid") for value in ticks.values()]
    marks.append(charts.down(scale(zero), 0, tall, "zero"))
    labels: dict[str, float] = {}
    for k, row in enumerate(rows):
        middle = ROW * (k + 0.5)
        labels[row.label + "\u200b" * k] = middle + 4  # equal labels are different keys
        if math.isfinite(row.value):
            marks += _entry(row, scale, middle)
    return (*marks, *foot({said: scale(v) for said, v in ticks.items()}, tall)), labels, tall + _FOOT


def _entry(row: Entry, scale: Scale, middle: float) -> list[Markup]:
    marks = []
    said = f"{row.label}: {row.value:.3g} [{row.low:.3g}, {row.high:.3g}] {row.note}"
    if math.isfinite(row.low) and math.isfinite(row.high):
        marks.append(line(scale(row.low), middle, scale(row.high), middle, f"whisker {row.tone}", said))
        for end, limit in ((row.low, scale.low), (row.high, scale.high)):
            if (end < limit) if limit == scale.low else (end > limit):
                marks.append(charts.dot(scale(end), middle, f"beyond-edge {row.tone}", "goes on beyond the chart", 2.5))
    marks.append(charts.dot(scale(row.value), middle, f"mark {row.tone}{' hollow' if row.hollow else ''}", said, 4.5))
    return marks


def bars(
    rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], limit: float | None, unit: str, top: float = 100.0
) -> tuple[tuple[Markup, ...], dict[str, float], float]:
    """Marks, left labels and height of groups of bars: label, then (tone, value) each; all up to ``top``."""
    marks, labels, at = [], {}, 0.0
    for k, (label, group) in enumerate(rows):
        labels[label + "\u200b" * k] = at + 5.5 * len(group) + 4
        for tone, value in group:
            said = f"{value:.3g}{unit}"
            marks.append(charts.rect(0, at, max(0.86 * value / top, 0.002), 9, f"bar {tone}", f"{label}: {said}"))
            marks.append(charts.text(0.86 * value / top + 0.008, at + 9, said, "tick"))
            at += 11
        at += 9
    if limit is not None:
        marks.append(charts.down(0.86 * limit / top, 0, at - 4, "limit", f"{limit:g}{unit}"))
    return tuple(marks), labels, at + 4


_ROW = 34.0  # pixels
_LOWEST = 1e-3  # relative error at the left edge


def draw_bias_errors(
    biases: Sequence[BiasScore],
    said: Callable[[float | None], str],
    limits: Mapping[str, float],
) -> Markup | None:
    """For each bias the error of leaving it out beside what is expected to be left when weights imitate it."""
    if not biases:
        return None
    scale = charts.Scale(_LOWEST, max([1.0, *(b.error for b in biases if b.error)]), log=True)
    height = _ROW * len(biases) + 24
    marks = [charts.down(scale(x), 0, height - 20, "grid") for x in (0.001, 0.01, 0.1, 1.0)]
    marks += [charts.down(scale(limit), 0, height - 20, "limit", title) for title, limit in limits.items()]
    for k, bias in enumerate(biases):
        top, node, error = k * _ROW, wording.plain(bias.node), bias.error
        marks.append(charts.text(0, top + 12, f"{node}, {bias.kind.lower()}"))
        if error is not None:
            title = f"{node}: error {said(error)} without it"
            marks.append(charts.rect(0, top + 16, max(scale(error), 0.002), 6, "fill-a", title))
        left = bias.imitation_error
        if left is not None:
            title = f"{node}: error {said(left)} when weights imitate it"
            marks.append(charts.rect(0, top + 23, max(scale(left), 0.002), 6, "fill-b", title))
    for x, label, anchor in ((0.001, "0.1 %", "start"), (0.01, "1 %", "middle"), (0.1, "10 %", "middle")):
        marks.append(charts.text(scale(x), height - 4, label, "tick", anchor))
    if scale.high <= 1.0:
        marks.append(charts.text(1.0, height - 4, "100 %", "tick", "end"))
    return charts.chart(height, "error of the outputs without each bias, and with weights that imitate it", *marks)


def draw_variants(
    variants: Sequence[VariantScore],
    names: Mapping[str, str],
    said: Callable[[float | None], str],
    interval: Callable[[EffectSummary], str],
) -> Markup | None:
    """Agreement (or accuracy) of each change of the whole model, with its interval where there is one."""
    rows = []
    for variant in variants:
        effect = variant.effect
        value = effect.agreement if effect.accuracy_after is None else effect.accuracy_after
        if value is not None:
            rows.append((names[variant.name], value, effect))
    if not rows:
        return None
    height = _ROW * len(rows) + 22
    marks = [charts.down(x, 0, height - 18, "grid") for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for k, (name, value, effect) in enumerate(rows):
        top = k * _ROW
        marks += [
            charts.text(0, top + 12, name),
            charts.rect(0, top + 17, max(value, 0.002), 10, "fill-b", said(value)),
        ]
        if effect.accuracy_before is not None and effect.low is not None and effect.high is not None:
            low, high = (min(1.0, max(0.0, effect.accuracy_before + end)) for end in (effect.low, effect.high))
            marks.append(charts.rect(low, top + 21, max(high - low, 0.002), 2, "fill-open", interval(effect)))
        marks.append(charts.text(1.0, top + 12, said(value), "strong", "end"))
    marks += _shares_foot(height)
    return charts.chart(height, "share of right answers, or of answers as before, of each changed model", *marks)


def draw_probes(probes: Sequence[ProbeScore], names: Mapping[str, str], said: Callable[[float | None], str]) -> Markup:
    """Accuracy of the original and of the changed models off the data, as bars side by side."""
    shown = [n for n in ("original", "compensate-inner", "compensate-all") if n in probes[0].effects]
    tones = {"original": "fill-a", "compensate-inner": "fill-b", "compensate-all": "fill-pass"}
    size = 9.0 * len(shown) + 26
    height = size * len(probes) + 20
    marks = [charts.down(x, 0, height - 18, "grid") for x in (0.0, 0.5, 1.0)]
    for k, probe in enumerate(probes):
        marks.append(charts.text(0, k * size + 12, probe.said))
        for place, name in enumerate(shown):
            value = probe.effects[name].accuracy_after or 0.0
            title = f"{names[name]}: {said(value)}"
            marks.append(charts.rect(0, k * size + 17 + 9 * place, max(value, 0.002), 8, tones[name], title))
    return charts.chart(
        height, "right answers on inputs that were moved away from the data", *marks, *_shares_foot(height)
    )


def _shares_foot(height: float) -> list[Markup]:
    ends = ((0.0, "0 %", "start"), (0.5, "50 %", "middle"), (1.0, "100 %", "end"))
    return [charts.text(x, height - 3, label, "tick", anchor) for x, label, anchor in ends]
