"""How the page shows the evidence: each stage with its comparisons beside their limits, and the chart of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup

from converter.records import OutputCheck, Parity, Stage, Verdict
from converter.records.evidence import SEVERITY
from converter.report import html_said, rebuilt, svg_parity, wording
from converter.report.svg_parity import TONE

SHOWN = 4  # outputs of a stage shown beside their limits; the rest is in the list that unfolds
LISTED = 100  # rows of such a list; all of them are in the JSON
PLACES = ("local", "segments", "parameters")  # stages that look at places, not at outputs
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
    usual: list[tuple[str, str]] = field(default_factory=list)
    histograms: list[tuple[str, Markup]] = field(default_factory=list)
    heats: list[tuple[str, Markup, Markup]] = field(default_factory=list)


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
    beside = ranked[:SHOWN]
    if stage.id in PLACES:  # the places that pass have a chart of their own
        beside = [check for check in beside if check.status is not Verdict.PASS]
    return StageView(
        id=stage.id,
        title=title,
        proves=proves,
        tone=TONE[stage.status],
        word=html_said.WORD[stage.status],
        found=html_said.sentence(stage.why),
        unit=html_said.UNITS.get(stage.id, "of the limit"),
        seconds="" if stage.seconds is None else wording.duration(1000 * stage.seconds),
        rows=[_beside(stage.id, check) for check in beside if check.score is not None and check.limit],
        every=[row(check) for check in ranked[:LISTED]] if len(ranked) > len(beside) else [],
        total=len(ranked),
        notes=list(_counts(stage)),
        usual=list(_usual(stage)),
        histograms=list(_histograms(ranked)),
        heats=list(_heats(ranked)),
    )


def row(check: OutputCheck, *, chart: bool = False) -> Row:
    """One comparison, with its bullet chart where that is asked for."""
    drawn = None
    if chart and check.score is not None and check.limit:
        drawn = svg_parity.bullet(check.score, check.limit, check.status, wording.plain(check.name))
    score, limit, max_abs = ("" if x is None else wording.number(x) for x in (check.score, check.limit, check.max_abs))
    name, word = check.name or "(whole model)", html_said.WORD[check.status]
    return Row(name, TONE[check.status], word, score, limit, max_abs, check.why, drawn)


def _beside(stage: str, check: OutputCheck) -> Row:
    """A comparison beside its limit; of decisions, what is possible beside the margin, as shares."""
    margin, disagree = check.detail.get("margin"), "disagreement" in str(check.detail.get("metric"))
    bound = check.detail.get("upper" if disagree else "lower")
    if stage not in wording.DECIDES or not isinstance(margin, float) or not isinstance(bound, float):
        return row(check, chart=True)
    possible = bound if disagree else max(0.0, -bound)
    drawn = row(replace(check, score=possible, limit=margin), chart=True)
    return replace(drawn, score=wording.percent(possible), limit=wording.percent(margin))


def _badness(check: OutputCheck) -> tuple[int, float]:
    """What fails first, then what is open, then what came closest to its limit."""
    part = check.score / check.limit if check.score is not None and check.limit else 0.0
    return -SEVERITY.index(check.status), -part if part == part else float("-inf")


_DECIDES = {"n": "inputs", "k": "decided differently", "needed_n": "inputs needed"}
_SCORES = {"accuracy_a": "accuracy of A", "accuracy_b": "accuracy of B"}


def _counts(stage: Stage) -> Iterator[tuple[str, str]]:
    """What decisions were counted, beyond what the chart shows."""
    found = dict(stage.detail) | (stage.outputs[0].detail if stage.outputs else {})
    for key, name in _DECIDES.items() if stage.id in wording.DECIDES else ():
        if isinstance(found.get(key), int | float):
            yield name, f"{found[key]:,.6g}"
    for key, name in _SCORES.items():
        if isinstance(found.get(key), int | float):
            yield name, wording.percent(found[key])


def _usual(stage: Stage) -> Iterator[tuple[str, str]]:
    """The usual measures of a difference, of the first output."""
    found = (stage.outputs[0].detail if stage.outputs else {}).get("classic") or {}
    for key, name in html_said.CLASSIC.items():
        value = rebuilt.number(found.get(key))
        if isinstance(value, int | float):
            said = {"snr_db": f"{value:.1f} dB", "cosine": f"{value:.9f}"}
            yield name, said.get(key) or wording.number(value)


def _histograms(checks: Sequence[OutputCheck]) -> Iterator[tuple[str, Markup]]:
    for check in checks[:SHOWN]:
        found = check.detail.get("hist_log10_abs")
        if isinstance(found, Mapping):
            chart = svg_parity.histogram(found, f"sizes of the differences of {wording.plain(check.name)}")
            if chart is not None:
                yield check.name, chart


def _heats(checks: Sequence[OutputCheck]) -> Iterator[tuple[str, Markup, Markup]]:
    for check in checks[:SHOWN]:
        found = check.detail.get("hist_log10_abs")
        drawn = svg_parity.heat(found, "differences by size of the value") if isinstance(found, Mapping) else None
        if drawn is not None:
            yield check.name, *drawn


def places(parity: Parity) -> Places | None:
    """The chart of layers: of the stage that looked at every place, else at every weight."""
    found = {stage.id: stage for stage in parity.stages}
    for name in PLACES:
        stage = found.get(name)
        checks = [c for c in stage.outputs if c.score is not None and c.limit] if stage else []
        if len(checks) > 1:
            limit = checks[0].limit or 1.0
            drawn = svg_parity.layers(checks, limit)
            if drawn is not None:
                worst = [row(check, chart=True) for check in sorted(checks, key=_badness)[:NAMED]]
                return Places(*drawn, len(checks), html_said.UNITS[name], worst)
    return None
