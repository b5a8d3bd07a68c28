"""Charts as SVG: the marks they are made of, charts of accuracy and of latency.

Charts stretch: x in per cent of the width, y in pixels, so that text keeps its size on a phone. Everything goes
through `tag`, which escapes: a name from a model is never markup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from converter.dataclass import dataclass
from converter.records import FateKind, Latency, OutputCheck, Timing, Verdict
from converter.records.evidence import worst_verdict
from converter.report import wording


def tag(name: str, *inside: str | Markup, **attributes: object) -> Markup:
    """One element; ``_`` in the name of an attribute is ``-``, and a trailing one goes (``class_``)."""
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _format_attribute(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, Markup("").join(map(escape, inside)))


def _format_attribute(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(value: float) -> str:
    """A place across the chart."""
    return f"{100 * value:.2f}%"


def chart(height: float, label: str, *marks: Markup, class_: str = "") -> Markup:
    """A chart as wide as there is room; ``label`` says in words what it shows."""
    return tag(
        "svg", *marks, class_=f"chart {class_}".strip(), height=height, width="100%", role="img", aria_label=label
    )


def axis(labels: Mapping[str, float], height: float) -> Markup:
    """Labels at the left of a chart: what they say, and at which height."""
    texts = [tag("text", said, x=50, y=round(y, 1), text_anchor="end") for said, y in labels.items()]
    return tag("svg", *texts, class_="yaxis", width=58, height=height + 6, aria_hidden="true")


def rect(x: float, y: float, width: float, height: float, class_: str, title: str = "") -> Markup:
    """A bar."""
    place = {"x": percent(x), "y": round(y, 2), "width": percent(width), "height": round(height, 2)}
    return tag("rect", *_title(title), class_=class_, **place)


def dot(x: float, y: float, class_: str, title: str = "", radius: float = 4) -> Markup:
    """A point."""
    return tag("circle", *_title(title), class_=class_, cx=percent(x), cy=round(y, 2), r=radius)


def across(y: float, class_: str) -> Markup:
    """A line over the whole width."""
    return tag("line", class_=class_, x1="0", x2="100%", y1=round(y, 2), y2=round(y, 2))


def down(x: float, top: float, bottom: float, class_: str, title: str = "") -> Markup:
    """A line from top to bottom."""
    return tag(
        "line", *_title(title), class_=class_, x1=percent(x), x2=percent(x), y1=round(top, 2), y2=round(bottom, 2)
    )


def text(x: float, y: float, said: str, class_: str = "", anchor: str = "start") -> Markup:
    """A label."""
    return tag("text", said, class_=class_ or None, x=percent(x), y=round(y, 2), text_anchor=anchor)


def _title(title: str) -> tuple[Markup, ...]:
    return (tag("title", title),) if title else ()


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers as parts of a length: ``low`` is 0 and ``high`` is 1; what lies beyond is at the edge."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if math.isnan(value):
            return 1.0
        if self.log:
            value = max(value, self.low)
            part = math.log(value / self.low) / math.log(self.high / self.low) if math.isfinite(value) else 1.0
        else:
            part = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, part))


def nice(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from ``low`` to ``high``, about so many of them."""
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        return []
    rough = (high - low) / about
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten within a range, not more than five."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, math.ceil((last - first + 1) / 5))
    return [10.0**k for k in range(first, last + 1, step)]


def thinned(values: Sequence[float], most: int) -> list[list[int]]:
    """The places of a sequence in at most ``most`` runs of neighbours."""
    size = max(1, math.ceil(len(values) / most))
    return [list(range(k, min(k + size, len(values)))) for k in range(0, len(values), size)]


# ---- accuracy: a score against its limit, differences by size, the error of each layer, fates of biases ----

COLUMNS = 240  # columns in a chart of layers; more layers share one, which shows the worst of them


def _tone(status: Verdict) -> str:
    return wording.VERDICT[status].style.value


def draw_bullet(score: float, limit: float, status: Verdict, name: str = "") -> Markup:
    """A score beside its limit: a bar in the room that it has, and a line where that ends."""
    far = not score <= 1.25 * limit  # also where it is no number
    top = score if math.isfinite(score) else 1e6 * limit
    scale = Scale(limit / 100, 3 * top, log=True) if far else Scale(0, 1.3 * limit)
    said = f"{name}: {wording.number(score)}, limit {wording.number(limit)}" + (" (logarithmic)" if far else "")
    return chart(
        16,
        said,
        rect(0, 2, scale(limit), 12, "room"),
        rect(0, 5, max(scale(score), 0.004), 6, f"fill-{_tone(_status_of_score(score, limit, status))}", said),
        down(scale(limit), 0, 16, "limit", f"limit {wording.number(limit)}"),
        class_="bullet",
    )


def draw_histogram(found: Mapping[str, Any], label: str) -> Markup | None:
    """How many elements differ by how much, by powers of ten; None if there is nothing to show."""
    edges, counts = edges_of(found)
    if not counts:
        return None
    total = sum(counts) + (found.get("zeros") or 0)
    # whole powers of ten at both ends, so that there are at least two marks on the axis
    scale, height, tallest = Scale(math.floor(edges[0]), math.ceil(edges[-1])), 96, max(counts)
    marks = [across(height, "axis")]
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            tall = max(1.5, (height - 6) * count / tallest)
            said = f"{wording.percent(count / total)} of the elements differ by 1e{left:g} to 1e{right:g}"
            width = (scale(right) - scale(left)) * 0.94
            marks.append(rect(scale(left) + 0.03 * width, height - tall, width, tall, "fill-b", said))
    for k in _thin(range(math.floor(edges[0]), math.ceil(edges[-1]) + 1)):
        place = scale(k)
        marks.append(text(place, height + 15, f"1e{k}", "tick", _anchor(place)))
    return chart(height + 20, label, *marks)


def draw_heat(found: Mapping[str, Any], label: str, row: float = 13) -> tuple[Markup, Markup] | None:
    """The axis and a map of sizes and differences, darker where more elements are; None if there is nothing to show."""
    sizes = found.get("by_size") or {}
    cells, step = sizes.get("cells") or [], found.get("step")
    if not cells or not step:
        return None
    (left, right), (low, high) = (
        _bound_by_powers([cell[k] for cell in cells], step, b) for k, b in _lows(found, sizes)
    )
    columns, rows = (right - left) / step, (high - low) / step
    height, most = row * rows, max(cell[2] for cell in cells)
    marks = []
    for column, place, count in cells:
        x, y = sizes["low"] + column * step, found["low"] + place * step
        shade = 1 + min(4, int(5 * math.log1p(count) / math.log1p(most) - 1e-9))
        said = f"{wording.count(count, 'element')} of size 1e{x:g} to 1e{x + step:g}: 1e{y:g} to 1e{y + step:g} apart"
        top = height - (y - low) / step * row - row
        marks.append(rect((x - left) / step / columns, top, 0.97 / columns, row - 1, f"heat heat-{shade}", said))
    marks.append(across(height, "axis"))
    for k in _thin(range(left, right + 1)):
        place = (k - left) / (right - left)
        marks.append(text(place, height + 15, f"1e{k}", "tick", _anchor(place)))
    labels = {f"1e{k}": height - (k - low) / step * row + 4 for k in _thin(range(low, high + 1))}
    return axis(labels, height), chart(height + 20, label, *marks)


def _anchor(place: float) -> str:
    """Labels at the edges stay inside the chart."""
    return "start" if place < 0.03 else "end" if place > 0.97 else "middle"


def _lows(found: Mapping[str, Any], sizes: Mapping[str, Any]) -> tuple[tuple[int, float], tuple[int, float]]:
    return (0, sizes["low"]), (1, found["low"])


def _bound_by_powers(places: Sequence[int], step: float, low: float) -> tuple[int, int]:
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


def draw_layers(checks: Sequence[OutputCheck], limit: float, height: float = 160) -> tuple[Markup, Markup] | None:
    """The axis and the error of each place, in the order of the model, on a logarithmic scale with the limit."""
    scores = [_finite(check.score, limit) for check in checks]
    if not scores:
        return None
    scale = Scale(1e-3 * limit, 3 * max(limit, *scores), log=True)
    groups = thinned(scores, COLUMNS)
    pitch, edge = 1 / len(groups), height * (1 - scale(limit))
    wide = min(0.8 * pitch, 0.05)  # few places are no broad columns
    marks = [rect(0, edge, 1, height - edge, "room")]
    ticks = decades(scale.low / limit, scale.high / limit)
    marks += [across(height * (1 - scale(tick * limit)), "grid") for tick in ticks if tick != 1]
    for k, places in enumerate(groups):
        found = [checks[place] for place in places]
        value = max(scores[place] for place in places)
        tall = max(2.0, height * scale(value))
        tone = _tone(worst_verdict(_status_of_score(c.score, c.limit or limit, c.status) for c in found))
        said = _column(found, value / limit, scores[places[0]] if len(places) == 1 else None)
        marks.append(rect((k + 0.5) * pitch - wide / 2, height - tall, wide, tall, f"fill-{tone}", said))
    marks += [across(edge, "limit"), across(height, "axis")]
    label = f"{len(scores)} places; the largest error is {wording.number(max(scores) / limit)} of the limit"
    names = {tick: height * (1 - scale(tick * limit)) + 4 for tick in ticks}
    return axis({_of_limit(tick): y for tick, y in names.items()}, height), chart(height + 6, label, *marks)


def _status_of_score(score: float | None, limit: float, status: Verdict) -> Verdict:
    """What a bar has the colour of: what stays below its limit is good, though something else may have failed there."""
    return Verdict.PASS if score is not None and score <= limit else status


def _of_limit(tick: float) -> str:
    return "limit" if tick == 1 else f"{tick:,.0f} \u00d7" if tick > 1 else f"{tick:g} \u00d7"


def _column(checks: Sequence[OutputCheck], part: float, alone: float | None) -> str:
    worst = max(checks, key=lambda check: _finite(check.score, check.limit or 1.0))
    more = "" if alone is not None else f" (the worst of {len(checks)})"
    return f"{wording.plain(worst.name)}: {wording.number(part)} of the limit{more}"


def _finite(score: float | None, limit: float) -> float:
    """A score as something to draw: what is no number is the largest."""
    return 0.0 if score is None else score if math.isfinite(score) else 1e6 * limit


def draw_shares(parts: Sequence[tuple[FateKind, int]]) -> Markup | None:
    """One bar, divided by what became of the biases."""
    total = sum(count for _, count in parts)
    if not total:
        return None
    marks, x = [], 0.0
    for kind, count in parts:
        width = count / total
        said = f"{kind.value}: {wording.count(count, 'bias', 'biases')} ({wording.percent(width)})"
        marks.append(rect(x, 0, width, 28, f"fate-{kind.value}", said))
        if width > 0.07:
            marks.append(text(x + width / 2, 19, f"{count:,}", f"on-fate on-{kind.value}", "middle"))
        x += width
        if x < 0.999:
            marks.append(down(x, 0, 28, "gap"))
    said = ", ".join(f"{count:,} {kind.value}" for kind, count in parts if count)
    return chart(28, f"biases: {said}", *marks, class_="shares")


# ---- latency: the ratio block by block, how the times of both models are spread ----------------------------

HEIGHT = 200


def signed(share: float) -> str:
    """``+2 %``, ``-0.5 %``, ``0 %``."""
    return f"{100 * share:+.3g} %".replace("-", "\u2212") if abs(share) > 1e-9 else "0 %"


def draw_ratios(latency: Latency) -> tuple[Markup, Markup] | None:
    """The axis and the plot: one dot per block, the interval as a band, and what is allowed as a line."""
    shares = [math.expm1(block.log_ratio) for block in latency.blocks]
    if not shares:
        return None
    reach = _reach(latency, shares)
    scale = Scale(-reach, reach)

    def y(share: float) -> float:
        return HEIGHT * (1 - scale(share))

    low, high = y(latency.low - 1), y(latency.high - 1)
    ticks = nice(-reach, reach, 6)
    marks = [*_sessions(latency), rect(0, high, 1, max(1.0, low - high), "band", _interval(latency))]
    marks += [across(y(tick), "zero" if abs(tick) < 1e-9 else "grid") for tick in ticks]
    marks += _limits(latency, y)
    marks.append(across(y(latency.ratio - 1), "mean"))
    for k, (block, share) in enumerate(zip(latency.blocks, shares, strict=True)):
        out = bool(block.discarded)
        said = f"block {k + 1}, session {block.session + 1}: {signed(share)}{', left out' * out}"
        kind = "point out" if out else "point beyond" if abs(share) > reach else "point"
        marks.append(dot((k + 0.5) / len(shares), y(share), kind, said))
    said = f"{wording.count(len(shares), 'block')} of interleaved runs: {wording.speed(latency, 'B')}"
    return axis({signed(tick): y(tick) + 4 for tick in ticks}, HEIGHT), chart(HEIGHT + 6, said, *marks)


def _reach(latency: Latency, shares: Sequence[float]) -> float:
    """How far the axis goes: over the interval, the limit and nine of ten blocks; few lie far out, at the edge."""
    ranked = sorted(abs(share) for share in shares)
    most = ranked[max(0, math.ceil(0.9 * len(ranked)) - 1)]
    return 1.25 * max(most, 1.2 * latency.margin, abs(latency.low - 1), abs(latency.high - 1), 1e-3)


def has_far_blocks(latency: Latency) -> bool:
    """Whether some blocks are drawn as rings: further off than the chart goes."""
    shares = [math.expm1(block.log_ratio) for block in latency.blocks]
    reach = _reach(latency, shares) if shares else 0.0
    counted = (x for x, b in zip(shares, latency.blocks, strict=True) if not b.discarded)
    return any(abs(x) > reach for x in counted)


def has_discarded(latency: Latency) -> bool:
    """Whether some blocks were left out."""
    return any(block.discarded for block in latency.blocks)


def _sessions(latency: Latency) -> list[Markup]:
    """Every other session is shaded: each loads both models anew."""
    sessions = [block.session for block in latency.blocks]
    marks = []
    for session in sorted(set(sessions))[1::2]:
        places = [k for k, found in enumerate(sessions) if found == session]
        left, right = places[0] / len(sessions), (places[-1] + 1) / len(sessions)
        marks.append(rect(left, 0, right - left, HEIGHT, "shade"))
    return marks


def _limits(latency: Latency, y: Any) -> list[Markup]:
    """The margin as a line, on the side or sides that the gate looks at."""
    gate, _, amount = latency.gate.partition(":")
    margin = latency.margin
    sides = [margin, -margin] if gate == "equivalent" else [margin] if gate == "not-slower" else []
    if gate == "faster":
        sides = [1 / (1 + _read_share(amount)) - 1]
    lines = []
    for side in sides:
        label = f"limit {signed(side)}"
        lines += [across(y(side), "limit"), text(0.995, y(side) - 6, label, "tick strong", "end")]
    return lines


def _read_share(amount: str) -> float:
    try:
        return float(amount.rstrip("% ") or 0) / 100
    except ValueError:
        return 0.0


def _interval(latency: Latency) -> str:
    return f"interval: {signed(latency.low - 1)} to {signed(latency.high - 1)}"


def draw_spread(latency: Latency) -> Markup | None:
    """The times of A above those of B on one axis: a histogram of the runs, or where that says little of the blocks."""
    rows = _runs(latency) or _medians(latency)
    edges = [edge for found, _ in rows for edge in (found[0], found[-1])] if all(counts for _, counts in rows) else []
    if not edges or max(edges) <= min(edges):
        return None
    medians = [timing.p50_ms for timing in (latency.a, latency.b)]
    scale, row = Scale(min(*edges, *medians), max(*edges, *medians)), 58
    marks = []
    for k, (found, counts) in enumerate(rows):
        name, base, tallest = "AB"[k], 52 + k * row, max(counts)
        for left, right, count in zip(found, found[1:], counts, strict=False):
            if count:
                tall, width = max(1.5, 40 * count / tallest), scale(right) - scale(left)
                said = f"{name}: {count:,} between {wording.duration(left)} and {wording.duration(right)}"
                marks.append(rect(scale(left), base - tall, width * 0.94, tall, f"fill-{name.lower()}", said))
        middle = down(scale(medians[k]), base - 46, base, "median", f"median {wording.duration(medians[k])}")
        marks += [across(base, "axis"), middle, text(0.995, base - 32, name, "tick strong", "end")]
    return chart(row * 2 + 18, "how the times of both models are spread", *marks, *_ticks(scale, row * 2 + 12))


def _ticks(scale: Scale, y: float) -> list[Markup]:
    ticks = list(nice(scale.low, scale.high, 4))
    several = ([wording.duration(tick, digits) for tick in ticks] for digits in range(3, 9))
    labels = next((some for some in several if len(set(some)) == len(ticks)), [])  # no two places with one number
    return [
        text(place, y, label, "tick", "start" if place < 0.06 else "end" if place > 0.9 else "middle")
        for tick, label in zip(ticks, labels, strict=False)
        for place in [scale(tick)]
    ]


def spreads_runs(latency: Latency) -> bool:
    """Whether the spread is that of the runs, not of the medians of blocks."""
    return bool(_runs(latency))


Histogram = tuple[list[float], list[int]]
_SHOWN = 0.95  # of the runs of both models; the rest is a long tail that would leave no room for them
_MOST = 0.8  # of the runs in one column: then the columns show no shape


def _runs(latency: Latency) -> list[Histogram]:
    """Histograms of the runs with the same edges, without the tail; nothing if they are missing or show no shape."""
    found = [_read_histogram(timing) for timing in (latency.a, latency.b)]
    if not all(counts for _, counts in found) or found[0][0] != found[1][0]:
        return []
    edges = found[0][0]
    last = max(_enough(counts) for _, counts in found)
    rows = [(edges[: last + 2], counts[: last + 1]) for _, counts in found]
    return rows if all(max(counts) <= _MOST * sum(counts) for _, counts in rows) else []


def _read_histogram(timing: Timing) -> Histogram:
    found: Mapping[str, Any] = timing.detail.get("histogram") or {}
    edges, counts = list(found.get("edges_ms") or ()), list(found.get("counts") or ())
    return (edges, counts) if len(edges) == len(counts) + 1 and sum(counts) else ([], [])


def _enough(counts: Sequence[int]) -> int:
    """The column up to which most of the runs lie."""
    seen = 0
    for k, count in enumerate(counts):
        seen += count
        if seen >= _SHOWN * sum(counts):
            return k
    return len(counts) - 1


def _medians(latency: Latency) -> list[Histogram]:
    """The medians of the blocks, where the runs are not stored."""
    times = [[block.a_ms for block in latency.blocks], [block.b_ms for block in latency.blocks]]
    every = [value for row in times for value in row]
    if not every or max(every) <= min(every):
        return []
    low, step = min(every), (max(every) - min(every)) / _BINS
    edges = [low + k * step for k in range(_BINS + 1)]
    return [(edges, [sum(_bin(v, low, step) == k for v in row) for k in range(_BINS)]) for row in times]


_BINS = 24


def _bin(value: float, low: float, step: float) -> int:
    return min(_BINS - 1, int((value - low) / step))
