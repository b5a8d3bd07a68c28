"""A benchmark: what its verdict says, the charts, the times, and how they were measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from converter.records import Latency, Timing, Verdict
from converter.report import charts, wording
from converter.report.blocks import (
    Block,
    Case,
    Chart,
    Column,
    Details,
    KeyValues,
    Medium,
    Only,
    Paragraph,
    Report,
    Section,
    Table,
    VerdictLine,
    Warnings,
    Words,
)
from converter.report.content import Run
from converter.report.content.pair import again_section, model_name, models_section

FIGURES = {
    "median": "p50_ms",
    "p90": "p90_ms",
    "p99": "p99_ms",
    "p99, upper bound": "p99_upper_ms",  # in the detail
    "engine build": "build_ms",  # in the detail, by TensorRT only
    "load": "load_ms",
    "first run": "first_run_ms",
    "memory, peak": "peak_bytes",
}
PAIRED = ("p50_ms", "peak_bytes")  # of the others a hiccup of the machine in one of the two would make a ratio
SETTINGS = {"threads": "threads", "opt_level": "optimisations", "sessions": "sessions", "seed": "seed"}
ENDED = {
    "narrow": "when the interval was narrow enough",
    "time": "when the time was over",
    "most blocks": "after as many blocks as there may be",
    "noise": "early, because A beside itself was too uneven to go on",
    "quick": "as planned for --quick",
    "as planned": "as planned",
}


def bench_report(latency: Latency, run: Run) -> Report:
    """What the benchmark found about a pair."""
    band = f"between {wording.ratio(latency.low)} and {wording.ratio(latency.high)}"
    sure = latency.design.get("confidence")
    with_confidence = f"with {wording.percent(sure)} confidence" if isinstance(sure, float) else "with confidence"
    lede = f"Model B takes {wording.ratio(latency.ratio)} times as long as model A, {with_confidence} {band}."
    return Report(
        command="bench",
        name=model_name(latency.model_a),
        status=latency.verdict,
        headline=speed_sentence(latency),
        lede=f"{lede} {wording.sentence(wording.reason(latency))}".strip(),
        claims=list(latency_claims(latency)),
        warnings=latency.warnings,
        version=run.version,
        schema=run.schema,
        exit_code=run.exit_code,
        cases=list(latency_cases(latency)),
        sections=(
            Section("", latency_head(latency, "B"), media=~Medium.PAGE),
            models_section(latency.model_a, latency.model_b),
            latency_section(latency, "B"),
            again_section(run, latency=latency),
        ),
    )


def speed_sentence(latency: Latency) -> str:
    """The outcome in a few words."""
    if latency.outcome == "INCONCLUSIVE":
        return "Speed could not be decided."
    return wording.sentence(wording.OUTCOME.get(latency.outcome, latency.outcome))


def latency_claims(latency: Latency) -> Iterator[tuple[str, Words]]:
    """The time of the new model, with its interval."""
    low, high = wording.ratio(latency.low), wording.ratio(latency.high)
    yield "Time", f"{wording.ratio(latency.ratio)} \u00d7 the original ({low} to {high})"


def latency_head(latency: Latency, who: str) -> tuple[Block, ...]:
    """The verdict, and why it is no pass."""
    why = "" if latency.verdict is Verdict.PASS else wording.reason(latency)
    return VerdictLine(latency.verdict, wording.speed(latency, who), why, "Latency"), Warnings(latency.warnings)


def latency_section(latency: Latency, who: str, head: Medium = Medium.NONE) -> Section:
    """The charts, the times, and how they were measured; the verdict again on a page, and in the media of ``head``."""
    said = wording.speed(latency, who)
    verdict = VerdictLine(latency.verdict, f"{said[:1].upper()}{said[1:]}", wording.sentence(wording.reason(latency)))
    facts = list(_facts(latency))
    settings = [(key, said) for key, said in facts if key not in _ON_PAGE] + list(_settings(latency))
    about = "Both models ran in turn, in random order, so that whatever slows the machine slows both."
    return Section(
        "Is it as fast?",
        (
            Only(head, *latency_head(latency, who)),
            Only(Medium.PAGE, verdict, *_tell_unoptimised(latency, who), *_charts(latency)),
            _figures(latency.a, latency.b),
            Only(Medium.PAGE, *_control(latency), Details("How it was measured", (KeyValues(settings),))),
            Only(Medium.SCREEN, KeyValues([("Measured", _runs(latency)), *facts, *_brief_settings(latency)])),
            Only(Medium.COMMENT, KeyValues(facts)),
        ),
        about=about if who == "B" else f"{about} A is the original, B {who}.",
        id="latency",
        titled=Medium.FILES,
    )


def _tell_unoptimised(latency: Latency, who: str) -> Iterator[Block]:
    if latency.unoptimised is not None:
        said = wording.speed(latency.unoptimised, who)
        yield Paragraph(f"Without onnxruntime's own graph optimisations {said}.", small=True)


def _charts(latency: Latency) -> Iterator[Block]:
    told = [
        "Each dot is one block of interleaved runs; the line is their mean, the band what the verdict rests on.",
        "Above zero B is slower, below it is faster.",
        *["Shaded columns are sessions: the models were loaded anew."] * bool(latency.design.get("sessions")),
        *["Rings lie further off than the chart goes."] * charts.has_far_blocks(latency),
        *["Grey ones were left out and made again: the GPU was slowed down."] * charts.has_discarded(latency),
    ]
    yield Chart(partial(charts.draw_ratios, latency), "Time of B beside A, block by block.", " ".join(told))
    runs = charts.spreads_runs(latency)
    yield Chart(
        partial(charts.draw_spread, latency),
        "How long each run took." if runs else "How long a run took: the median of each block.",
        "The upright lines are medians.",
        key=(("a", "A, the original"), ("b", "B")),
    )


def _figures(a: Timing, b: Timing) -> Table:
    """Each figure of both, and their ratio."""
    rows = []
    for name, key in FIGURES.items():
        left, right = (getattr(timing, key, None) or timing.detail.get(key) for timing in (a, b))
        if left is not None and right is not None:
            said = wording.size if key.endswith("bytes") else wording.duration
            rows.append((name, said(left), said(right), wording.ratio(right / left) if left and key in PAIRED else ""))
    return Table((Column(), *(Column(title, right=True) for title in ("A", "B", "B / A"))), rows)


def _control(latency: Latency) -> Iterator[Block]:
    if latency.aa.get("ratio") is not None:
        took = _describe_control(latency)
        said = f"Control: A beside itself takes {took}. This is how far the machine alone can be off."
        yield Paragraph(said, small=True)


def _describe_control(latency: Latency) -> str:
    return f"{wording.ratio(latency.aa['ratio'])} x the time{_band(latency.aa)}"


# ---- how it was measured -----------------------------------------------------------------------------

_ON_PAGE = ("Unoptimised", "Control")  # in sentences of their own


def _runs(latency: Latency) -> str:
    return f"{wording.count(latency.a.n, 'run')} of each, interleaved in {wording.count(len(latency.blocks), 'block')}"


def _facts(latency: Latency) -> Iterator[tuple[str, Words]]:
    """On what the interval rests, when measuring ended, what beside it was seen; what a document lacks is left out."""
    design = latency.design
    if latency.unoptimised is not None:
        yield "Unoptimised", f"{wording.speed(latency.unoptimised, 'B')}, with onnxruntime's optimisations off"
    if rests := _describe_data(latency, design):
        yield "Rests on", rests
    if said := _describe_robust_ratios(_numbers(design.get("robustness"))):
        yield "Extremes", said
    if said := _load(_numbers(design.get("load"))):
        yield "Loading", said
    if latency.aa.get("ratio") is not None:
        yield "Control", f"A beside A: {_describe_control(latency)}"
    if design.get("stopped"):
        took = f", after {wording.duration(1000 * design['seconds'])}" if design.get("seconds") else ""
        yield "Ended", ENDED.get(design["stopped"], str(design["stopped"])) + took


def _settings(latency: Latency) -> Iterator[tuple[str, Words]]:
    for key, value in latency.design.items():
        if isinstance(value, int | float | str) and value != "":
            yield key.replace("_", " "), f"{value}"


def _brief_settings(latency: Latency) -> Iterator[tuple[str, Words]]:
    found = {key: value for key, value in latency.design.items() if key in SETTINGS and value not in (None, "")}
    if found:
        yield "Settings", ", ".join(f"{SETTINGS[key]} {wording.plain(str(value))}" for key, value in found.items())


def _numbers(found: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The object with numbers that strict JSON lacks, which are strings there."""
    odd = ("NaN", "Infinity", "-Infinity")
    return {key: float(value) if value in odd else value for key, value in found.items()} if found else None


def _describe_data(latency: Latency, design: Mapping[str, Any]) -> str:
    """The data of the interval: blocks, or sessions where these differ more than their blocks do."""
    discarded = sum(bool(block.discarded) for block in latency.blocks)
    counted = wording.count(len(latency.blocks) - discarded, "block")
    if latency.blocks and design.get("unit") == "session":
        counted += f" in {wording.count(design['units'], 'session')}, which differ more than their blocks do"
    again = f"; {wording.count(discarded, 'block')} left out and made again, the GPU was unsteady" if discarded else ""
    return counted + again if latency.blocks else ""


def _describe_robust_ratios(found: Mapping[str, Any] | None) -> str:
    """What the ratio would be by estimates that extremes do not move."""
    if not found:
        return ""
    far = wording.count(found["outliers"], "block") if found["outliers"] else "no block"
    trimmed, middle = wording.ratio(found["trimmed_ratio"]), wording.ratio(found["median_ratio"])
    return f"{far} far from the rest; without the extremes {trimmed} x the time, the middle block {middle} x"


def _load(found: Mapping[str, Any] | None) -> str:
    return f"B takes {wording.ratio(found['ratio'])} x the time of A{_band(found)}" if found else ""


def _band(found: Mapping[str, Any]) -> str:
    if not {"low", "high"} <= found.keys():
        return ""
    return f" ({wording.ratio(found['low'])} to {wording.ratio(found['high'])})"


def latency_cases(latency: Latency | None) -> Iterator[Case]:
    """The benchmark as a test."""
    if latency is not None:
        said = wording.speed(latency)
        body = "\n".join((said, *latency.warnings))
        yield Case("latency", f"gate {latency.gate}", latency.verdict, latency.why or said, body)
