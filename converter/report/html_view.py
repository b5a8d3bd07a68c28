"""What the page shows of a pair, section by section: records in, strings and charts out. The template lays them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from converter.records import FateKind, Latency, ModelFacts
from converter.report import fates, groups, html_said, measured, svg_latency, svg_parity, verify_text, wording
from converter.report.result import Folded
from converter.report.svg_parity import TONE


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
    size_before, size_after = wording.size(before.parameter_bytes), wording.size(after.parameter_bytes)
    return [*shown, Tile("parameters", size_before, size_after, _signed(change, wording.size(abs(change))))]


def _tile(name: str, before: int, after: int) -> Tile:
    return Tile(name, f"{before:,}", f"{after:,}", _signed(after - before, f"{abs(after - before):,}"))


def _signed(change: int, said: str) -> str:
    return "unchanged" if not change else f"{'+' if change > 0 else chr(0x2212)}{said}"


def passes(result: Folded) -> list[tuple[str, str, str]]:
    """Which pass acted how often, and what it promises."""
    return [
        (item.pass_name, f"{len(item.nodes):,}", wording.SAFETY[item.safety]) for item in groups.done(result.rewrites)
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
    return wording.listing(tuple(fate.node + _where(fate) for fate in group.fates), 90)


def _where(fate: Any) -> str:
    return f" \u2192 {fate.where}" if fate.where and len(fate.where) < 80 else ""


def left(result: Folded, said: groups.Reasons) -> list[tuple[str, str, str, str]]:
    """What no pass could touch, and why."""
    items = groups.left(result.findings, said)
    return [(item.code, f"{len(item.nodes):,}", item.why, wording.listing(item.nodes, 90)) for item in items]


@dataclass(frozen=True, slots=True)
class Speed:
    """The latency section."""

    said: str
    tone: str
    word: str
    why: str
    beside: str
    figures: list[tuple[str, str, str, str]]
    axis: Markup | None
    ratios: Markup | None
    spread: Markup | None
    of_runs: bool
    hollow: bool
    discarded: bool
    control: str
    told: list[tuple[str, str]]
    facts: list[tuple[str, str]]


_SHOWN = ("Unoptimised", "Control")  # by the page, in sentences of their own


def speed(latency: Latency, who: str) -> Speed:
    """What the benchmark found."""
    axis, ratios = svg_latency.ratios(latency) or (None, None)
    figures = [
        (name, a[0], b[0], wording.ratio(b[1] / a[1]) if a[1] else "")
        for name, a, b in verify_text.figures(latency.a, latency.b)
    ]
    return Speed(
        wording.speed(latency, who),
        TONE[latency.verdict],
        html_said.WORD[latency.verdict],
        html_said.sentence(wording.reason(latency)),
        "" if latency.unoptimised is None else wording.speed(latency.unoptimised, who),
        figures,
        axis,
        ratios,
        svg_latency.spread(latency),
        svg_latency.of_runs(latency),
        svg_latency.hollow(latency),
        svg_latency.discarded(latency),
        measured.control(latency) if latency.aa.get("ratio") is not None else "",
        [(name, said) for name, said in measured.told(latency) if name not in _SHOWN],
        [(key.replace("_", " "), f"{value}") for key, value in latency.design.items() if _plain(value)],
    )


def time(latency: Latency) -> str:
    """The time of the new model, with its interval."""
    low, high = wording.ratio(latency.low), wording.ratio(latency.high)
    return f"{wording.ratio(latency.ratio)} \u00d7 the original ({low} to {high})"


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str) and value != ""


def model(facts: ModelFacts | None) -> dict[str, str]:
    """One model in words."""
    if facts is None:
        return {}
    counted = {"size": wording.size(facts.size_bytes) if facts.size_bytes else ""}
    counted |= {"opset": f"{facts.opset or ''}", "nodes": f"{sum(facts.nodes.values()):,}" if facts.nodes else ""}
    name = facts.path.replace("\\", "/").rpartition("/")[2] or "model in memory"
    return counted | {"name": name, "path": facts.path, "sha256": facts.sha256}


def operators(a: ModelFacts | None, b: ModelFacts | None) -> list[tuple[str, str, str, str]]:
    """Operators whose count differs between two models."""
    if a is None or b is None or not (a.nodes and b.nodes):
        return []
    names = [name for name in dict.fromkeys([*a.nodes, *b.nodes]) if a.nodes.get(name, 0) != b.nodes.get(name, 0)]
    pairs = [(name, a.nodes.get(name, 0), b.nodes.get(name, 0)) for name in names]
    return [(name, f"{x:,}", f"{y:,}", _signed(y - x, f"{abs(y - x):,}")) for name, x, y in pairs]
