"""A comparison of two models: the verdict, the two models, each check with its evidence, how to see it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from converter.records import Latency, OutputCheck, Parity, Stage, Verdict
from converter.records.evidence import SEVERITY, worst_verdict
from converter.report import charts, wording
from converter.report.blocks import (
    Block,
    Case,
    Chart,
    Check,
    Checks,
    Column,
    Details,
    Heading,
    KeyValues,
    Ladder,
    Measure,
    Measures,
    Medium,
    Only,
    Paragraph,
    Report,
    Row,
    Section,
    Span,
    Table,
    VerdictLine,
    Warnings,
    Words,
    name,
    spans,
    strong,
)
from converter.report.content import Run
from converter.report.content.bench import latency_cases, latency_claims, latency_head, latency_section, speed_sentence
from converter.report.content.pair import again_section, model_name, models_section

BESIDE = 4  # outputs of a stage shown beside their limits; the rest is in the list that unfolds
MOST = {Medium.TERMINAL: 5, Medium.COMMENT: 20, Medium.PAGE: 100}  # comparisons of a stage that are listed
PLACES = ("local", "segments", "parameters")  # stages that look at places, not at outputs
NAMED = 5  # worst places named under the chart of layers


def verify_report(parity: Parity, run: Run, latency: Latency | None = None) -> Report:
    """What the referee found about a pair, and what the benchmark did, where both were asked for."""
    return Report(
        command="verify",
        name=model_name(parity.a),
        status=worst(parity, latency),
        headline=answers(parity) + (f" {speed_sentence(latency)}" if latency else ""),
        lede=_lede(parity),
        claims=[*parity_claims(parity), *(latency_claims(latency) if latency else ())],
        warnings=tuple(dict.fromkeys((*parity.warnings, *(latency.warnings if latency else ())))),
        version=run.version,
        schema=run.schema,
        exit_code=run.exit_code,
        cases=[*parity_cases(parity), *latency_cases(latency)],
        sections=(
            Section("", parity_head(parity), media=~Medium.PAGE),
            *([Section("", latency_head(latency, "B"), media=Medium.COMMENT)] if latency else []),
            models_section(parity.a, parity.b),
            *evidence_sections(parity),
            *([latency_section(latency, "B", head=Medium.SCREEN)] if latency else []),
            again_section(run, parity=parity, latency=latency),
        ),
    )


def worst(parity: Parity | None, latency: Latency | None) -> Verdict:
    """One verdict of two; a speed that nothing was asked of has no say."""
    return worst_verdict((part.verdict for part in (parity, latency) if part is not None), nothing=Verdict.SKIPPED)


# ---- the verdict -------------------------------------------------------------------------------------


def parity_head(parity: Parity | None) -> tuple[Block, ...]:
    """The verdict, why, where it begins, and the number that came closest to its limit."""
    if parity is None:
        return (Paragraph(("\u26a0\ufe0f ", strong("Parity was not checked."))),)
    blocks: list[Block] = [VerdictLine(parity.verdict, wording.verdict(parity), unless_passed(parity), "Parity")]
    blocks += map(Paragraph, fact_lines(parity))
    if check := wording.worst(parity):
        blocks.append(Only(Medium.COMMENT, Paragraph(wording.score(check))))
    return (*blocks, Warnings(parity.warnings))


def unless_passed(parity: Parity) -> str:
    """Why the verdict is what it is; what passes needs no reason."""
    return "" if parity.verdict is Verdict.PASS else parity.why


def answers(parity: Parity) -> str:
    """The verdict in a few words."""
    if only_decisions_open(parity):
        return "Same outputs. Decisions could not be bounded."
    if parity.scope == "removal" and parity.verdict is Verdict.PASS:
        return "Same decisions, within the budget."
    if parity.scope == "none" and parity.verdict is Verdict.PASS:
        return "Same inputs and outputs."
    if parity.scope == "per-rewrite" and parity.verdict is Verdict.PASS:
        return "The same in every rewritten place."
    if wording.only_numbers_differ(parity):
        return "Other weights; the answers agree."
    return {
        Verdict.PASS: "Same answers.",
        Verdict.FAIL: "Different answers.",
        Verdict.INCONCLUSIVE: "Could not be decided.",
        Verdict.SKIPPED: "Not checked.",
    }[parity.verdict]


def fact_lines(parity: Parity) -> Iterator[Words]:
    """Those of `parity_facts`, a line each, and in one line how far the outputs are apart."""
    for key, words in parity_facts(parity):
        yield f"{key} ", *spans(words)
    apart: list[Span] = []
    for key, words in _difference_facts(parity):
        said = f", {key[0].lower()}{key[1:]} " if apart else f"{key} "
        apart += spans((said, *spans(words)))
    if apart:
        yield tuple(apart)


def only_decisions_open(parity: Parity) -> bool:
    """Whether the outputs agree, and only what is decided from them is open."""
    open_ones = {stage.id for stage in parity.stages if stage.status is Verdict.INCONCLUSIVE}
    return parity.verdict is Verdict.INCONCLUSIVE and open_ones == {"decision"} and parity.level in "AB"


def parity_claims(parity: Parity) -> Iterator[tuple[str, Words]]:
    """What there is to say of outputs, of decisions, and of where they part."""
    yield "Outputs", _outputs(parity)
    if said := _decisions(parity):
        yield "Decisions", said
    yield from parity_facts(parity)
    yield from _difference_facts(parity)


def parity_facts(parity: Parity) -> Iterator[tuple[str, Words]]:
    """What stands beside the verdict, in every form: a field of the record is a line here."""
    if parity.blame:
        yield "First difference at", name(parity.blame)


def _difference_facts(parity: Parity) -> Iterator[tuple[str, Words]]:
    """How far the outputs are apart, by the measures that people know."""
    by_id = {stage.id: stage for stage in parity.stages}
    counted = [check.detail for key in wording.DECIDES if key in by_id for check in by_id[key].outputs]
    labelled = [detail for detail in counted if detail.get("metric") == "top1"]
    counted = [detail for detail in counted if detail.get("metric") == "top1_disagreement"]
    ran = [by_id[key] for key in ("runtime-deployed", "runtime", "algebra") if key in by_id]
    outputs = next((stage.outputs for stage in ran if any(c.max_abs is not None for c in stage.outputs)), ())
    measures = [check.detail.get("classic") or {} for check in outputs]
    if outputs and parity.scope != "removal":  # what was compared there is the model before biases went
        furthest = max(outputs, key=lambda check: _number(check.max_abs))
        where = ("", " of ", name(furthest.name)) if len(outputs) > 1 else ("",)
        yield "Largest difference", (wording.number(_number(furthest.max_abs)), *where)
        if cosines := [_number(found["cosine"]) for found in measures if "cosine" in found]:
            yield "Cosine", f"{min(cosines):.9f}"
    rows = [(detail.get("n", 0) - detail.get("k", 0), detail.get("n", 0)) for detail in counted]
    if not rows and not labelled and parity.scope != "removal":
        rows = [(found["top1_same"], found["top1_rows"]) for found in measures if found.get("top1_rows")]
    for detail in labelled:
        before, after = (wording.percent(_number(detail.get(key))) for key in ("accuracy_a", "accuracy_b"))
        yield "Top-1", f"right in {before} before and {after} after"
    if rows:
        same, every = (sum(counts) for counts in zip(*rows, strict=True))
        yield "Top-1", f"the same in {same:,.0f} of {every:,.0f}"


def _number(value: Any) -> float:
    """A number of a record, or of strict JSON; none is 0."""
    return float(value or 0.0)


def _outputs(parity: Parity) -> str:
    if parity.verdict is Verdict.PASS and parity.scope in ("none", "removal"):
        return "not compared" if parity.scope == "none" else "changed"
    if wording.only_numbers_differ(parity):
        return "the same, but not the weights"
    said = {Verdict.PASS: "the same", Verdict.FAIL: "differ", Verdict.INCONCLUSIVE: "inconclusive"}
    return "the same" if only_decisions_open(parity) else said.get(parity.verdict, "not checked")


def _decisions(parity: Parity) -> str:
    found = [stage.status for stage in parity.stages if stage.id in wording.DECIDES]
    said = {Verdict.PASS: "the same, within the margin", Verdict.FAIL: "differ", Verdict.INCONCLUSIVE: "not bounded"}
    return said.get(found[0], "") if found else ""


def _lede(parity: Parity) -> str:
    if parity.verdict is not Verdict.PASS:
        return wording.sentence(parity.why)
    same = "has the inputs and outputs of" if parity.scope == "none" else "gives the same outputs as"
    return f"Model B {same} model A, {wording.rests_on(parity) or wording.level(parity)}."


# ---- the evidence ------------------------------------------------------------------------------------


def evidence_sections(parity: Parity | None, media: Medium = Medium.ALL) -> tuple[Section, ...]:
    """Each check with its comparisons beside their limits, how strong that is, and the chart of layers."""
    if parity is None or not parity.stages:
        return ()
    steps = [(letter, words.step) for letter, words in reversed(wording.LEVEL.items())]
    blocks: list[Block] = [Checks([_check(stage) for stage in parity.stages])]
    if parity.verdict is not Verdict.FAIL:  # a difference needs no grade
        blocks.append(Ladder("How strong is this evidence?", steps, parity.level))
    return (
        Section(
            "How it was checked",
            tuple(blocks),
            about="Each check proves something that the others cannot. All of them must hold.",
            id="accuracy",
            media=media,
            titled=Medium.FILES,
        ),
        *_layers(parity),
    )


def _check(stage: Stage) -> Check:
    words = wording.stage(stage.id)
    return Check(
        key=stage.id,
        status=stage.status,
        title=words.line,
        about=words.proves,
        words=stage.why,
        aside="" if stage.seconds is None else wording.duration(1000 * stage.seconds),
        blocks=tuple(_evidence(stage)),
    )


def _evidence(stage: Stage) -> Iterator[Block]:
    ranked = sorted(stage.outputs, key=_badness)
    beside = ranked[:BESIDE]
    if stage.id in PLACES:  # the places that pass have a chart of their own
        beside = [check for check in beside if check.status is not Verdict.PASS]
    measures = [_compare_with_limit(stage, check) for check in beside if check.score is not None and check.limit]
    yield Only(Medium.PAGE, Measures(measures), KeyValues(list(_counts(stage)), inline=True))
    yield Only(Medium.PAGE, *_differences(stage, ranked))
    listed = Medium.ALL if len(ranked) > len(beside) else ~Medium.PAGE
    told = stage.status is not Verdict.SKIPPED  # what decides nothing is for those who ask
    rows = [comparison(check, brief=told and check.status is not Verdict.PASS) for check in ranked]
    number = wording.count(len(ranked), "comparison")
    table = replace(COMPARISONS, rows=rows, title=stage.id)
    yield Only(listed & ~Medium.COMMENT, Details(number, (table,)))
    yield Only(listed & Medium.COMMENT, Details(f"{stage.id}: {number}", (table,)))


COMPARISONS = Table(
    (
        Column("result"),
        Column("where"),
        Column("why", media=Medium.PAGE, under=Medium.PAGE),
        Column("score", right=True),
        Column("limit", right=True),
        Column("largest difference", right=True, media=Medium.FILES, wide=True),
        Column("why", media=~Medium.PAGE),
    ),
    (),
    most=MOST,
    rest="The worst {shown} of {total}; --verbose and the JSON report have all of them.",
)


def comparison(check: OutputCheck, *, brief: bool = True) -> Row:
    """A row of `COMPARISONS`; ``brief``: also where only a few lines are wanted."""
    numbers = ("" if x is None else wording.number(x) for x in (check.score, check.limit, check.max_abs))
    place = name(_place(check))
    return Row((check.status, place, check.why, *numbers, check.why), Medium.ALL if brief else ~Medium.TERMINAL)


def _place(check: OutputCheck) -> str:
    """The output, or of a place inside the model the node and, where it has another name, the tensor behind it."""
    node, tensor = check.detail.get("layer"), check.name
    if not isinstance(node, str) or not node or node == tensor or "_output_" in tensor:  # called after its node
        return tensor or "(whole model)"
    return f"{node} ({tensor})" if tensor else node


def _badness(check: OutputCheck) -> tuple[int, float]:
    """What fails first, then what is open, then what came closest to its limit."""
    part = check.score / check.limit if check.score is not None and check.limit else 0.0
    return -SEVERITY.index(check.status), -part if part == part else float("-inf")


def _measure(check: OutputCheck, unit: str, said: tuple[str, str] | None = None) -> Measure:
    """A score beside its limit."""
    assert check.score is not None
    assert check.limit is not None
    score, limit = said or (wording.number(check.score), wording.number(check.limit))
    label = _place(check)
    return Measure(label, score, f"{unit}, limit {limit}", partial(charts.draw_bullet, check.score, check.limit,
                                                                  check.status, wording.plain(label)))  # fmt: skip


def _compare_with_limit(stage: Stage, check: OutputCheck) -> Measure:
    """A comparison beside its limit; of decisions, what is possible beside the margin, as shares."""
    unit = wording.stage(stage.id).unit
    margin, disagree = check.detail.get("margin"), _counts_disagreement(check)
    bound = check.detail.get("upper" if disagree else "lower")
    if stage.id not in wording.DECIDES or not isinstance(margin, float) or not isinstance(bound, float):
        of_runs = stage.id in ("runtime", "runtime-deployed")
        return _measure(check, unit if not of_runs or "error_after" in check.detail else wording.WEIGHTS_MOVE)
    possible = bound if disagree else max(0.0, -bound)
    drawn = replace(check, score=possible, limit=margin)
    return _measure(drawn, unit, (wording.percent(possible), wording.percent(margin)))


def _counts_disagreement(check: OutputCheck) -> bool:
    """Whether the metric counts how often two models differ, and not how much better one is."""
    return check.detail.get("metric") in ("top1_disagreement", "pixel_disagreement")


_DECIDES = {"n": "inputs", "k": "decided differently", "needed_n": "inputs needed"}
_SCORES = {"accuracy_a": "accuracy of A", "accuracy_b": "accuracy of B"}


def _counts(stage: Stage) -> Iterator[tuple[str, str]]:
    """What decisions were counted, beyond what the chart shows."""
    found = dict(stage.detail) | (stage.outputs[0].detail if stage.outputs else {})
    for key, said in _DECIDES.items() if stage.id in wording.DECIDES else ():
        if isinstance(found.get(key), int | float):
            yield said, f"{found[key]:,.6g}"
    for key, said in _SCORES.items():
        if isinstance(found.get(key), int | float):
            yield said, wording.percent(found[key])


def _differences(stage: Stage, ranked: Sequence[OutputCheck]) -> Iterator[Block]:
    """How large the differences are: at once for what was run, for other stages where it unfolds."""
    usual = KeyValues(list(_usual(stage)), inline=True)
    found = [(check.name, check.detail.get("hist_log10_abs")) for check in ranked[:BESIDE]]
    histograms = [_histogram(output, held) for output, held in found if _has_counts(held)]
    heats = [_heat(output, held) for output, held in found if _has_cells(held)]
    at_once = stage.id == "runtime"
    if at_once:
        yield from histograms
    if usual.rows or heats or (histograms and not at_once):
        folded: tuple[Block, ...] = (usual, *([] if at_once else histograms), *heats)
        yield Details("The usual measures of the difference", folded)


def _usual(stage: Stage) -> Iterator[tuple[str, str]]:
    """The usual measures of a difference, of the first output."""
    found = (stage.outputs[0].detail if stage.outputs else {}).get("classic") or {}
    for key, said in wording.DIFFERENCE.items():
        value = wording.read_number(found.get(key))
        if isinstance(value, int | float):
            shown = {"snr_db": f"{value:.1f} dB", "cosine": f"{value:.9f}"}
            yield said, shown.get(key) or wording.number(value)


def _has_counts(found: Any) -> bool:
    return isinstance(found, Mapping) and any(found.get("counts") or ())


def _has_cells(found: Any) -> bool:
    return isinstance(found, Mapping) and bool((found.get("by_size") or {}).get("cells")) and bool(found.get("step"))


def _histogram(output: str, found: Any) -> Chart:
    label = f"sizes of the differences of {wording.plain(output)}"
    return Chart(
        partial(charts.draw_histogram, found, label),
        "How large the differences are",
        f"Of {output!r}: how many elements differ by how much.",
    )


def _heat(output: str, found: Any) -> Chart:
    return Chart(
        partial(charts.draw_heat, found, "differences by size of the value"),
        "Do large values differ by more?",
        f"Of {output!r}. From left to right the size of a value, upwards by how much it differs; a stronger colour "
        "is more elements. Rounding makes one cloud; squares far above it are values that something else has changed.",
    )


def _layers(parity: Parity) -> Iterator[Section]:
    """The chart of layers: of the stage that looked at every place, else at every weight."""
    found = {stage.id: stage for stage in parity.stages}
    for stage in (found[key] for key in PLACES if key in found):
        checks = [check for check in stage.outputs if check.score is not None and check.limit]
        if len(checks) > 1:
            limit, unit = checks[0].limit or 1.0, wording.stage(stage.id).unit
            largest = [_measure(check, unit) for check in sorted(checks, key=_badness)[:NAMED]]
            ends = ("first", f"{len(checks):,} places", "last")
            yield Section(
                "Layer by layer",
                (
                    Chart(partial(charts.draw_layers, checks, limit), ends=ends),
                    Heading("The largest"),
                    Measures(largest),
                ),
                about="The error of each rewritten place, in the order of the model. Each line is ten times the one "
                "below; whatever stays in the green is rounding.",
                id="layers",
                media=Medium.PAGE,
            )
            return


# ---- as tests ------------------------------------------------------------------------------------------


def parity_cases(parity: Parity | None) -> Iterator[Case]:
    """One test per stage and output."""
    if parity is None:
        yield Case("parity", "parity", Verdict.SKIPPED, "not checked (--no-verify)")
        return
    for stage in parity.stages:
        yield from _stage_cases(stage)
    if not parity.stages or _disagrees(parity):  # the verdict must show even where no stage carries it
        body = "\n".join((f"level {parity.level}", *parity.warnings))
        message = parity.why or wording.VERDICT[parity.verdict].clause
        yield Case("verdict", "parity", parity.verdict, message, body)


def _disagrees(parity: Parity) -> bool:
    """Whether a verdict that does not pass shows in no stage."""
    found = {stage.status for stage in parity.stages} | {c.status for s in parity.stages for c in s.outputs}
    return parity.verdict is not Verdict.PASS and parity.verdict not in found


def _stage_cases(stage: Stage) -> Iterator[Case]:
    """A case per output, and one of the stage's own where no output says what the stage does."""
    each = 0.0 if stage.seconds is None else stage.seconds / max(1, len(stage.outputs))
    statuses = {check.status for check in stage.outputs}
    if stage.status not in statuses:
        yield Case(stage.id, stage.id, stage.status, stage.why, seconds=each)
    for check in stage.outputs:
        message = f"{check.name}: {check.why or 'no reason given'}" if check.status is not Verdict.PASS else ""
        yield Case(stage.id, check.name or stage.id, check.status, message, _numbers(check), each)


def _numbers(check: OutputCheck) -> str:
    numbers = (("score", check.score), ("limit", check.limit), ("largest difference", check.max_abs))
    lines = [f"{key}: {value:.6g}" for key, value in numbers if value is not None]
    plain = {key: value for key, value in check.detail.items() if isinstance(value, int | float | str)}
    return "\n".join(lines + [f"{key}: {value}" for key, value in plain.items()])
