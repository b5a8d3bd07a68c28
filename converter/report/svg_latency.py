"""Charts of latency: the ratio block by block, and how the times of both models are spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from converter.records import Latency, Timing
from converter.report import svg, wording

HEIGHT = 200


def signed(share: float) -> str:
    """``+2 %``, ``-0.5 %``, ``0 %``."""
    return f"{100 * share:+.3g} %".replace("-", "\u2212") if abs(share) > 1e-9 else "0 %"


def ratios(latency: Latency) -> tuple[Markup, Markup] | None:
    """The axis and the plot: one dot per block, the interval as a band, and what is allowed as a line."""
    shares = [math.expm1(block.log_ratio) for block in latency.blocks]
    if not shares:
        return None
    reach = _reach(latency, shares)
    scale = svg.Scale(-reach, reach)

    def y(share: float) -> float:
        return HEIGHT * (1 - scale(share))

    low, high = y(latency.low - 1), y(latency.high - 1)
    ticks = svg.nice(-reach, reach, 6)
    marks = [*_sessions(latency), svg.rect(0, high, 1, max(1.0, low - high), "band", _interval(latency))]
    marks += [svg.across(y(tick), "zero" if abs(tick) < 1e-9 else "grid") for tick in ticks]
    marks += _limits(latency, y)
    marks.append(svg.across(y(latency.ratio - 1), "mean"))
    for k, (block, share) in enumerate(zip(latency.blocks, shares, strict=True)):
        out = bool(block.detail.get("discarded"))
        said = f"block {k + 1}, session {block.session + 1}: {signed(share)}{', left out' * out}"
        kind = "point out" if out else "point beyond" if abs(share) > reach else "point"
        marks.append(svg.dot((k + 0.5) / len(shares), y(share), kind, said))
    said = f"{wording.count(len(shares), 'block')} of interleaved runs: {wording.speed(latency, 'B')}"
    return svg.axis({signed(tick): y(tick) + 4 for tick in ticks}, HEIGHT), svg.chart(HEIGHT + 6, said, *marks)


def _reach(latency: Latency, shares: Sequence[float]) -> float:
    """How far the axis goes: over the interval, the limit and nine of ten blocks; few lie far out, at the edge."""
    ranked = sorted(abs(share) for share in shares)
    most = ranked[max(0, math.ceil(0.9 * len(ranked)) - 1)]
    return 1.25 * max(most, 1.2 * latency.margin, abs(latency.low - 1), abs(latency.high - 1), 1e-3)


def hollow(latency: Latency) -> bool:
    """Whether some blocks are drawn as rings: further off than the chart goes."""
    shares = [math.expm1(block.log_ratio) for block in latency.blocks]
    reach = _reach(latency, shares) if shares else 0.0
    counted = (x for x, b in zip(shares, latency.blocks, strict=True) if not b.detail.get("discarded"))
    return any(abs(x) > reach for x in counted)


def discarded(latency: Latency) -> bool:
    """Whether some blocks were left out."""
    return any(block.detail.get("discarded") for block in latency.blocks)


def _sessions(latency: Latency) -> list[Markup]:
    """Every other session is shaded: each loads both models anew."""
    sessions = [block.session for block in latency.blocks]
    marks = []
    for session in sorted(set(sessions))[1::2]:
        places = [k for k, found in enumerate(sessions) if found == session]
        left, right = places[0] / len(sessions), (places[-1] + 1) / len(sessions)
        marks.append(svg.rect(left, 0, right - left, HEIGHT, "shade"))
    return marks


def _limits(latency: Latency, y: Any) -> list[Markup]:
    """The margin as a line, on the side or sides that the gate looks at."""
    gate, margin = latency.gate, latency.margin
    sides = [margin, -margin] if gate == "equivalent" else [margin] if gate == "not-slower" else []
    if gate.startswith("faster"):
        sides = [1 / (1 + _needed(gate)) - 1]
    lines = []
    for side in sides:
        label = f"limit {signed(side)}"
        lines += [svg.across(y(side), "limit"), svg.text(0.995, y(side) - 6, label, "tick strong", "end")]
    return lines


def _needed(gate: str) -> float:
    try:
        return float(gate.partition(":")[2].rstrip("% ") or 0) / 100
    except ValueError:
        return 0.0


def _interval(latency: Latency) -> str:
    return f"interval: {signed(latency.low - 1)} to {signed(latency.high - 1)}"


def spread(latency: Latency) -> Markup | None:
    """The times of A above those of B on one axis: a histogram of the runs, or where that says little of the blocks."""
    rows = _runs(latency) or _medians(latency)
    edges = [edge for found, _ in rows for edge in (found[0], found[-1])] if all(counts for _, counts in rows) else []
    if not edges or max(edges) <= min(edges):
        return None
    medians = [timing.p50_ms for timing in (latency.a, latency.b)]
    scale, row = svg.Scale(min(*edges, *medians), max(*edges, *medians)), 58
    marks = []
    for k, (found, counts) in enumerate(rows):
        name, base, tallest = "AB"[k], 52 + k * row, max(counts)
        for left, right, count in zip(found, found[1:], counts, strict=False):
            if count:
                tall, width = max(1.5, 40 * count / tallest), scale(right) - scale(left)
                said = f"{name}: {count:,} between {wording.duration(left)} and {wording.duration(right)}"
                marks.append(svg.rect(scale(left), base - tall, width * 0.94, tall, f"fill-{name.lower()}", said))
        middle = svg.down(scale(medians[k]), base - 46, base, "median", f"median {wording.duration(medians[k])}")
        marks += [svg.across(base, "axis"), middle, svg.text(0.995, base - 32, name, "tick strong", "end")]
    return svg.chart(row * 2 + 18, "how the times of both models are spread", *marks, *_ticks(scale, row * 2 + 12))


def _ticks(scale: svg.Scale, y: float) -> list[Markup]:
    return [
        svg.text(
            place, y, wording.duration(tick), "tick", "start" if place < 0.06 else "end" if place > 0.9 else "middle"
        )
        for tick in svg.nice(scale.low, scale.high, 4)
        for place in [scale(tick)]
    ]


def of_runs(latency: Latency) -> bool:
    """Whether the spread is that of the runs, not of the medians of blocks."""
    return bool(_runs(latency))


Histogram = tuple[list[float], list[int]]
_SHOWN = 0.95  # of the runs of both models; the rest is a long tail that would leave no room for them
_MOST = 0.8  # of the runs in one column: then the columns show no shape


def _runs(latency: Latency) -> list[Histogram]:
    """Histograms of the runs with the same edges, without the tail; nothing if they are missing or show no shape."""
    found = [_stored(timing) for timing in (latency.a, latency.b)]
    if not all(counts for _, counts in found) or found[0][0] != found[1][0]:
        return []
    edges = found[0][0]
    last = max(_enough(counts) for _, counts in found)
    rows = [(edges[: last + 2], counts[: last + 1]) for _, counts in found]
    return rows if all(max(counts) <= _MOST * sum(counts) for _, counts in rows) else []


def _stored(timing: Timing) -> Histogram:
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
