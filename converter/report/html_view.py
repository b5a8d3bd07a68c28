"""What the page shows, section by section: records in, strings and charts out. The template only lays them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from converter.records import (
    FateKind,
    Latency,
    ModelFacts,
    OutputCheck,
    Parity,
    Stage,
    Verdict,
)
from converter.report import fates, groups, html_said, svg_latency, svg_parity, verify_text, words
from converter.report.result import Folded
from converter.report.svg_parity import TONE

SHOWN = 4  # outputs of a stage shown beside their limits; the rest is in the list that unfolds
LISTED = 100  # rows of such a list; all of them are in the JSON
NAMED = 5  # worst places named under the chart of layers


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison."""

    name: str
    tone: str
    word: str
    score: str
    limit: str
    max_abs: str
    why: str
    chart: Markup | None = None


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage."""

    id: str
    title: str
    proves: str
    tone: str
    word: str
    found: str
    unit: str
    seconds: str
    rows: list[Row] = field(default_factory=list)  # beside their limits
    every: list[Row] = field(default_factory=list)  # in the list that unfolds
    total: int = 0
    notes: list[tuple[str, str]] = field(default_factory=list)
    histograms: list[tuple[str, Markup]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Places:
    """The chart of layers."""

    axis: Markup
    chart: Markup
    total: int
    unit: str
    worst: list[Row]


def stages(parity: Parity) -> list[StageView]:
    """The stages, in their order."""
    return [_stage(stage) for stage in parity.stages]


def _stage(stage: Stage) -> StageView:
    title, proves = html_said.STAGES.get(stage.id, (stage.id, ""))
    ranked = sorted(stage.outputs, key=_badness)
    beside = [] if stage.id in ("local", "segments", "parameters") else ranked[:SHOWN]
    return StageView(
        id=stage.id,
        title=title,
        proves=proves,
        tone=TONE[stage.status],
        word=html_said.WORD[stage.status],
        found=stage.why,
        unit=html_said.UNITS.get(stage.id, "of the limit"),
        seconds="" if stage.seconds is None else words.duration(1000 * stage.seconds),
        rows=[row(check, chart=True) for check in beside if check.score is not None and check.limit],
        every=[row(check) for check in ranked[:LISTED]] if len(ranked) > len(beside) or _telling(ranked) else [],
        total=len(ranked),
        notes=list(_notes(stage)),
        histograms=list(_histograms(ranked)),
    )


def row(check: OutputCheck, *, chart: bool = False) -> Row:
    """One comparison, with its bullet chart where that is asked for."""
    drawn = None
    if chart and check.score is not None and check.limit:
        drawn = svg_parity.bullet(check.score, check.limit, check.status, words.plain(check.name))
    score, limit, max_abs = ("" if x is None else words.number(x) for x in (check.score, check.limit, check.max_abs))
    name, word = check.name or "(whole model)", html_said.WORD[check.status]
    return Row(name, TONE[check.status], word, score, limit, max_abs, check.why, drawn)


def _telling(checks: Sequence[OutputCheck]) -> bool:
    return any(check.why or check.detail for check in checks)


def _badness(check: OutputCheck) -> tuple[int, float]:
    """What fails first, then what is open, then what came closest to its limit."""
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.SKIPPED, Verdict.PASS)
    part = check.score / check.limit if check.score is not None and check.limit else 0.0
    return order.index(check.status), -part if part == part else float("-inf")


_DECIDES = {
    "metric": "measured as",
    "n": "inputs",
    "k": "differ",
    "margin": "allowed",
    "upper95": "at most, with 95 % confidence",
    "upper": "at most, with confidence",
    "lower": "at least, with confidence",
    "needed_n": "inputs needed",
    "accuracy_a": "accuracy of A",
    "accuracy_b": "accuracy of B",
}
_SHARES = {"margin", "upper95", "upper", "lower", "accuracy_a", "accuracy_b"}


def _notes(stage: Stage) -> Iterator[tuple[str, str]]:
    """Numbers of a stage that no output has, in words."""
    for key, name in _DECIDES.items():
        value = stage.detail.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, words.percent(value) if key in _SHARES else f"{value:,.6g}"
        elif isinstance(value, str) and value:
            yield name, value.replace("_", " ")


def _histograms(checks: Sequence[OutputCheck]) -> Iterator[tuple[str, Markup]]:
    for check in checks[:SHOWN]:
        found = check.detail.get("hist_log10_abs")
        if isinstance(found, Mapping):
            chart = svg_parity.histogram(found, f"sizes of the differences of {words.plain(check.name)}")
            if chart is not None:
                yield check.name, chart


def places(parity: Parity) -> Places | None:
    """The chart of layers: of the stage that looked at every place, else at every weight."""
    found = {stage.id: stage for stage in parity.stages}
    for name in ("local", "segments", "parameters"):
        stage = found.get(name)
        checks = [c for c in stage.outputs if c.score is not None and c.limit] if stage else []
        if len(checks) > 1:
            limit = checks[0].limit or 1.0
            drawn = svg_parity.layers(checks, limit)
            if drawn is not None:
                worst = [row(check, chart=True) for check in sorted(checks, key=_badness)[:NAMED]]
                return Places(*drawn, len(checks), html_said.UNITS[name], worst)
    return None


@dataclass(frozen=True, slots=True)
class Tile:
    """A count before and after."""

    name: str
    before: str
    after: str
    change: str


def tiles(result: Folded) -> list[Tile]:
    """What the model held before and after."""
    before, after = result.before, result.after
    counts = (("nodes", "nodes"), ("batch norms", "batch_norms"), ("bias vectors", "biases"))
    shown = [_tile(name, getattr(before, key), getattr(after, key)) for name, key in counts]
    change = after.parameter_bytes - before.parameter_bytes
    size_before, size_after = words.size(before.parameter_bytes), words.size(after.parameter_bytes)
    return [*shown, Tile("parameters", size_before, size_after, _signed(change, words.size(abs(change))))]


def _tile(name: str, before: int, after: int) -> Tile:
    return Tile(name, f"{before:,}", f"{after:,}", _signed(after - before, f"{abs(after - before):,}"))


def _signed(change: int, said: str) -> str:
    return "unchanged" if not change else f"{'+' if change > 0 else chr(0x2212)}{said}"


def passes(result: Folded) -> list[tuple[str, str, str]]:
    """Which pass acted how often, and what it promises."""
    return [
        (item.pass_name, f"{len(item.nodes):,}", words.SAFETY[item.safety]) for item in groups.done(result.rewrites)
    ]


@dataclass(frozen=True, slots=True)
class FateRow:
    """Biases with one fate for one reason."""

    kind: str
    count: str
    why: str
    nodes: str


@dataclass(frozen=True, slots=True)
class Biases:
    """Biases and where they went."""

    heading: str
    chart: Markup | None
    legend: list[tuple[str, str, str]]
    rows: list[FateRow]


def biases(result: Folded) -> Biases | None:
    """Biases and where they went; None where there are none."""
    if not result.fates:
        return None
    count = {kind: sum(fate.kind is kind for fate in result.fates) for kind in fates.ORDER}
    there: list[tuple[FateKind, int]] = [(kind, n) for kind, n in count.items() if n]
    legend = [(kind.value, f"{n:,}", html_said.FATES[kind.value]) for kind, n in there]
    rows = [
        FateRow(g.kind.value, f"{len(g.fates):,}", g.what + (f": {g.why}" if g.why else ""), _nodes(g))
        for g in fates.gathered(result.fates)
    ]
    return Biases(fates.heading(result.fates), svg_parity.shares(there), legend, rows)


def _nodes(group: fates.Group) -> str:
    return words.listing(tuple(fate.node + _where(fate) for fate in group.fates), 90)


def _where(fate: Any) -> str:
    return f" \u2192 {fate.where}" if fate.where and len(fate.where) < 80 else ""


def left(result: Folded, said: groups.Reasons) -> list[tuple[str, str, str, str]]:
    """What no pass could touch, and why."""
    items = groups.left(result.findings, said)
    return [(item.code, f"{len(item.nodes):,}", item.why, words.listing(item.nodes, 90)) for item in items]


@dataclass(frozen=True, slots=True)
class Speed:
    """The latency section."""

    said: str
    tone: str
    word: str
    why: str
    figures: list[tuple[str, str, str, str]]
    axis: Markup | None
    ratios: Markup | None
    spread: Markup | None
    control: str
    facts: list[tuple[str, str]]


def speed(latency: Latency, who: str) -> Speed:
    """What the benchmark found."""
    axis, ratios = svg_latency.ratios(latency) or (None, None)
    figures = [
        (name, a[0], b[0], words.ratio(b[1] / a[1]) if a[1] else "")
        for name, a, b in verify_text.figures(latency.a, latency.b)
    ]
    return Speed(
        words.speed(latency, who),
        TONE[latency.verdict],
        html_said.WORD[latency.verdict],
        latency.why,
        figures,
        axis,
        ratios,
        svg_latency.spread(latency),
        verify_text.control(latency) if latency.aa.get("ratio") is not None else "",
        [(key.replace("_", " "), f"{value}") for key, value in latency.design.items() if _plain(value)],
    )


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str) and value != ""


def model(facts: ModelFacts | None) -> dict[str, str]:
    """One model in words."""
    if facts is None:
        return {}
    counted = {"size": words.size(facts.size_bytes) if facts.size_bytes else ""}
    counted |= {"opset": f"{facts.opset or ''}", "nodes": f"{sum(facts.ops.values()):,}" if facts.ops else ""}
    name = facts.path.replace("\\", "/").rpartition("/")[2] or "model in memory"
    return counted | {"name": name, "path": facts.path, "sha256": facts.sha256}


def operators(a: ModelFacts | None, b: ModelFacts | None) -> list[tuple[str, str, str, str]]:
    """Operators whose count differs between two models."""
    if a is None or b is None or not (a.ops and b.ops):
        return []
    names = [name for name in dict.fromkeys([*a.ops, *b.ops]) if a.ops.get(name, 0) != b.ops.get(name, 0)]
    pairs = [(name, a.ops.get(name, 0), b.ops.get(name, 0)) for name in names]
    return [(name, f"{x:,}", f"{y:,}", _signed(y - x, f"{abs(y - x):,}")) for name, x, y in pairs]
