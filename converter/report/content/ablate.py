"""What each bias is worth: the ranking, all biases at once, off the data, and what a quantisation should know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import resources
from typing import Any

from converter.ablate.scoring import COMPENSABLE_ERROR, SMALL_ERROR
from converter.records.ablate import (
    AblateResult,
    BiasClass,
    BiasScore,
    EffectSummary,
    KeptBias,
    MovedBias,
    ProbeScore,
    Removal,
    Role,
    VariantScore,
)
from converter.report import figures, wording
from converter.report.blocks import (
    Block,
    Chart,
    Code,
    Column,
    Details,
    KeyValues,
    ListBlock,
    Medium,
    Paragraph,
    Report,
    Section,
    Span,
    Style,
    Table,
    Warnings,
    Words,
    name,
    quiet,
    strong,
)
from converter.report.content import Run

MINUS = "\u2212"
SHOWN = 6  # findings in a report for people
CHARTED = 40  # biases in the chart
_NOTHING = 1e-9  # what is less is rounding
_NOISE = 5e-6  # of a float32 model without any change
_ALPHA = 0.05
NAMES = {
    "original": "original",
    "zero-all": "all left out",
    "zero-inner": "inner left out",
    "head-corrected": "head corrected",
    "compensate-inner": "inner imitated",
    "compensate-all": "all imitated",
}
CHANGES = {
    "zero-all": "all left out: every bias is zero",
    "zero-inner": "inner left out: those of layers that are neither first nor head nor depthwise",
    "head-corrected": "head corrected: all but the head's left out, and the mean of the outputs put right there",
    "compensate-inner": "inner imitated: left out, and weights fitted to make up for them, layer after layer",
    "compensate-all": "all imitated: the same for all but the head's",
}
MEANING = (
    "|b|/sd: size of the bias beside the deviation of its layer's result, mean over channels. r: what the best "
    "imitation of it by its layer's other weights leaves, in mean square (0: superfluous, 1: irreplaceable), on rows "
    "that it was not fitted on. error: change of the outputs without it, relative. imitated: the same where weights "
    "W + b v imitate it, on rows that v was not fitted on."
)
_STYLES = {
    **dict.fromkeys((BiasClass.DEAD, BiasClass.REDUNDANT, BiasClass.SMALL), Style.PASS),
    BiasClass.ESSENTIAL: Style.OPEN,
    BiasClass.UNKNOWN: Style.QUIET,
}
_NEEDLESS = (BiasClass.DEAD, BiasClass.REDUNDANT, BiasClass.SMALL, BiasClass.COMPENSABLE)
_ANSWERS = {  # what the biases of a class can do or not; the words fit one and many
    BiasClass.DEAD: "cannot matter at all (exactly)",
    BiasClass.REDUNDANT: "can be merged exactly",
    BiasClass.SMALL: "would change little if left out",
    BiasClass.COMPENSABLE: "could be imitated by weights",
    BiasClass.ESSENTIAL: "cannot be done without",
    BiasClass.UNKNOWN: "could not be measured",
}
_LIMITS = {"SMALL up to here": SMALL_ERROR, "COMPENSABLE where the imitation is up to here": COMPENSABLE_ERROR}


def ablate_report(result: AblateResult, run: Run, top: int | None = None) -> Report:
    """What was found out about the biases of a model; screens show the first ``top`` of them."""
    if result.question:
        return ask_report(result, run, read_study_answer())
    path = result.model.path or "model in memory"
    file = wording.plain(path).replace("\\", "/").rpartition("/")[2]
    return Report(
        command="ablate",
        name=file,
        status=None,
        headline=headline(result),
        lede=f"{_describe_analysis(result)}.",
        warnings=result.warnings,
        version=run.version,
        schema=run.schema,
        sections=(
            Section("", (Paragraph((strong(file),)), Paragraph(_describe_analysis(result))), media=Medium.SCREEN),
            Section("", (Paragraph((strong(headline(result)),)),), media=~Medium.PAGE),
            Section("", (Paragraph(_describe_analysis(result)),), media=Medium.COMMENT),
            Section("", (Warnings(result.warnings),), media=~Medium.PAGE),
            _build_ranking_section(result, top, "... and {rest} more; --top and --json show them"),
            _variants(result),
            _probes(result),
            _findings(result),
            _build_uncovered_section(result),
            Section("", tuple(_advice(result)), media=Medium.SCREEN),
            _build_again_section(result, run),
        ),
    )


# ---- the question on one net ---------------------------------------------------------------------------


def read_study_answer() -> dict[str, Any]:
    """What the committed study says: ``sentence``, ``more``, and ``advice``."""
    text = (resources.files("converter.report") / "templates" / "study-answer.json").read_text(encoding="utf-8")
    answer: dict[str, Any] = json.loads(text)
    return answer


def ask_report(result: AblateResult, run: Run, study: Mapping[str, Any]) -> Report:
    """Does bias make a difference in this net? What ablation found, beside what the study of small nets says."""
    path = result.model.path or "model in memory"
    file = wording.plain(path).replace("\\", "/").rpartition("/")[2]
    answer = answer_question(result)
    says = (Paragraph((strong(study["sentence"]), f" {study['more']}")), ListBlock(study["advice"]))
    return Report(
        command="ask",
        name=file,
        status=None,
        headline=answer[0],
        lede=" ".join(answer[1:]),
        warnings=result.warnings,
        version=run.version,
        schema=run.schema,
        sections=(
            Section("", (Paragraph((strong(f"Does bias make a difference in {file}?"),)),), media=Medium.SCREEN),
            Section(
                "", (ListBlock(answer), Paragraph(f"{_describe_analysis(result)}.", small=True)), media=~Medium.PAGE
            ),
            Section("", (Warnings(result.warnings),), media=~Medium.PAGE),
            _variants(result),
            _probes(result),
            _build_ranking_section(result, SHOWN, "... and {rest} more; --json shows them, or `biasopt ablate`"),
            Section(
                "What the study of small nets says",
                says,
                about="Trained for the question, with biases and without; see docs/study.md.",
                id="study",
            ),
            _build_uncovered_section(result),
            Section("", tuple(_advice(result)), media=Medium.SCREEN),
            _build_again_section(result, run),
        ),
    )


def answer_question(result: AblateResult) -> list[str]:
    """The answer in at most four sentences: without all of them, how many are what, what it would cost, and where."""
    total, counts = len(result.biases), {name: c.biases for name, c in result.classes.items()}
    if not total:
        return ["No: there is no bias in it that could be looked at."]
    effects = {variant.name: variant.effect for variant in result.variants}
    said = [_answer(effects.get("zero-all"))]
    each = [f"{counts[kind]} {words}" for kind, words in _ANSWERS.items() if counts.get(kind)]
    said.append(f"Of {wording.count(total, 'bias', 'biases')}, {', '.join(each)}.")
    best = effects.get("compensate-inner") or effects.get("compensate-all")
    if best is not None:
        said.append(f"With weights that imitate them in the inner layers it would be {_change(best)}.")
    changes = [probe.said for probe in result.probes if probe.changes]
    if changes:
        said.append(f"Beside the data the changed net answers otherwise: {', '.join(changes)}.")
    return said


def _answer(effect: EffectSummary | None) -> str:
    if effect is None:
        return "There was no time to say what leaving all of them out would cost."
    differs = effect.relative_error > SMALL_ERROR
    return f"{'Yes' if differs else 'Hardly'}: without any of its biases it would be {_change(effect)}."


def _change(effect: EffectSummary) -> str:
    """What a change did, by the best measure that there is."""
    if effect.accuracy_after is not None:
        return f"right in {share(effect.accuracy_after)} in place of {share(effect.accuracy_before)}"
    if effect.agreement is not None:
        return f"of the same answer in {share(effect.agreement)} of the rows"
    return f"off by {share(effect.relative_error)} of its outputs"


def headline(result: AblateResult) -> str:
    """One sentence: how many biases matter."""
    counts = {name: c.biases for name, c in result.classes.items()}
    total = len(result.biases)
    if not total:
        return "There is no bias to look at."
    needless = sum(counts.get(n, 0) for n in _NEEDLESS)
    listed = ", ".join(f"{n} {name.lower()}" for name, n in counts.items())
    if needless == total:
        return f"None of {wording.count(total, 'bias', 'biases')} is essential on this data: {listed}."
    return f"{needless} of {wording.count(total, 'bias', 'biases')} can be done without on this data: {listed}."


def _describe_analysis(result: AblateResult) -> str:
    """What was looked at."""
    rows, folded = result.rows, result.folded_batch_norms
    first = f"opset {result.model.opset}, {wording.count(len(result.biases), 'bias', 'biases')}"
    if folded:
        first += f"; {wording.count(folded, 'batch norm')} folded first, in memory"
    labelled = "with labels" if result.labelled else "no labels"
    return f"{first}; {wording.count(rows.all, 'row')} of data, {labelled}; output {result.output.name}"


def _build_ranking_section(result: AblateResult, top: int | None, rest: str) -> Section:
    biases = result.biases
    if not biases:
        return Section("", ())
    starred = any(b.p_holm is not None and b.p_holm < _ALPHA for b in biases)
    star = " *: McNemar's exact test, p < 0.05 after Holm's correction over all biases." if starred else ""
    classes = [(Span(n, _STYLES.get(n, Style.STRONG)), str(c.biases), c.means) for n, c in result.classes.items()]
    columns = (Column("class"), Column("biases", right=True, media=Medium.FILES), Column("means"))
    return Section(
        "Biases, those that matter most first",
        (
            Chart(
                partial(figures.draw_bias_errors, biases[:CHARTED], share, _LIMITS),
                "Error of the outputs.",
                f"Logarithmic. The dashed lines are the limits of SMALL ({100 * SMALL_ERROR:g} %) and COMPENSABLE "
                f"({100 * COMPENSABLE_ERROR:g} %).{_count_uncharted(len(biases) - CHARTED)}",
                key=(("a", "without the bias, measured"), ("b", "with weights that imitate it")),
            ),
            _bias_table(result, top, rest),
            Details("What the classes mean", (Table(columns, classes, headless=Medium.SCREEN),)),
            Paragraph(MEANING + star, small=True),
        ),
        about="Leaving a bias out is one thing; letting its layer's weights imitate it another.",
        id="biases",
    )


def _count_uncharted(more: int) -> str:
    return f" {more} more are in the table." if more > 0 else ""


def _bias_table(result: AblateResult, top: int | None, rest: str) -> Table:
    decides = result.output.decides
    tested = any(b.effect is not None and b.effect.accuracy_after is not None for b in result.biases)
    columns = [Column("class"), Column("layer"), Column("|b|/sd", right=True), Column("r", right=True)]
    if decides:
        columns.append(Column("accuracy" if tested else "agree", right=True))
    columns += [Column("error", right=True), Column("imitated", right=True)]
    rows = [tuple(_bias_row(b, decides=decides, tested=tested)) for b in result.biases]
    most = {} if top is None else dict.fromkeys((Medium.TERMINAL, Medium.VERBOSE), top)
    return Table(tuple(columns), rows, most=most, rest=rest, scrolls=True)


def _bias_row(bias: BiasScore, *, decides: bool, tested: bool) -> Iterator[Words]:
    effect = bias.effect
    bound = "\u2264" if bias.r_is_bound else ""
    yield Span(bias.kind, _STYLES.get(bias.kind, Style.PLAIN))
    yield (name(bias.node), *([] if bias.role is Role.INNER else [f" ({bias.role.value})"]))
    yield number(bias.ratio)
    yield bound + number(bias.r_held_out if bias.r_held_out is not None else bias.r)
    if decides and tested:
        star = "*" if bias.p_holm is not None and bias.p_holm < _ALPHA else ""
        yield points(None if effect is None else _accuracy_change(effect)) + star
    elif decides:
        yield share(None if effect is None else effect.agreement)
    yield share(bias.error)
    yield share(bias.imitation_error)


def _variants(result: AblateResult) -> Section:
    """All biases at once."""
    variants, decides, rows = result.variants, result.output.decides, result.rows
    tested = any(v.effect.accuracy_after is not None for v in variants)
    bounded = any(v.effect.difference is not None for v in variants)
    columns = [Column(), Column("biases", right=True)]
    columns += [Column("agree", right=True), Column("KL", right=True)] if decides else []
    columns.append(Column("error", right=True))
    columns += [Column("accuracy", right=True)] if tested else []
    columns += [Column("change, 95 %" if bounded else "change", right=True)] if tested else []
    said = "; ".join(CHANGES[v.name] for v in variants)
    on = min((v.effect.rows for v in variants), default=0)
    measured = f"On {wording.count(on, 'row')}; what is fitted is fitted on {rows.fitted_on:,} others."
    if not variants:
        return Section("", ())
    return Section(
        "All at once",
        (
            Chart(
                partial(figures.draw_variants, variants, NAMES, share, interval),
                "Right answers." if result.labelled else "Answers as before.",
            ),
            Table(
                tuple(columns),
                [tuple(_variant_row(v, decides=decides, tested=tested)) for v in variants],
                scrolls=True,
            ),
            Paragraph(f"{measured} {said}.", small=True),
        ),
        about="Without biases, and with weights that imitate them.",
        id="whole",
    )


def _variant_row(variant: VariantScore, *, decides: bool, tested: bool) -> Iterator[Words]:
    effect = variant.effect
    yield NAMES[variant.name]
    yield str(variant.biases)
    if decides:
        yield share(effect.agreement)
        yield number(effect.kl)
    yield share(effect.relative_error)
    if tested:
        yield share(effect.accuracy_after)
        yield interval(effect) if effect.difference is not None else points(_accuracy_change(effect))


def _accuracy_change(effect: EffectSummary) -> float | None:
    """By how much the accuracy changed, of maps that of their points; None without labels."""
    if effect.accuracy_after is None or effect.accuracy_before is None:
        return None
    return effect.accuracy_after - effect.accuracy_before


def _probes(result: AblateResult) -> Section:
    """Off the data, where that was asked for."""
    probes, decides = result.probes, result.output.decides
    if not probes:
        return Section("", ())
    names = [n for n in probes[0].effects if decides or n != "original"]
    rows = [(probe.said, *(_probe_cell(probe, n, decides=decides) for n in names)) for probe in probes]
    columns = (Column("inputs"), *(Column(NAMES[n], right=True) for n in names))
    keys = (("a", "original"), ("b", "inner biases imitated"), ("pass", "all but the head's"))
    title = "Right answers on inputs that were moved."
    chart = Chart(partial(figures.draw_probes, probes, NAMES, share), title, key=keys)
    return Section(
        "Off the data",
        (
            *([chart] if decides else []),
            Table(columns, rows, scrolls=True),
            Paragraph(_probes_mean(result), small=True),
        ),
        about="A net without biases cannot tell a bright image from a dark one. Whether that is a gain or a loss "
        "depends on what the level of the inputs means.",
        id="probes",
    )


def _probe_cell(probe: ProbeScore, variant: str, *, decides: bool) -> str:
    effect = probe.effects[variant]
    mark = "!" if variant in probe.changes else ""
    return share(effect.accuracy_after if decides else effect.relative_error) + mark


def _probes_mean(result: AblateResult) -> str:
    """What the figures off the data are."""
    if not result.output.decides:
        return "relative error against the original on the same inputs; ! where it grows off the data"
    right = "labels" if result.labelled else "the original's answers to the inputs as they were"
    return f"accuracy against {right}; ! where a changed model decides otherwise than the original there, and not here"


def _findings(result: AblateResult) -> Section:
    """For a quantisation: absorptions first, then the largest shifts; and how many more there are."""
    found = result.findings
    if not found:
        return Section("", ())
    order = sorted(found, key=lambda f: (f["code"] != "high-bias", -f.get("largest_in_deviations", 0.0)))
    rest = len(order) - SHOWN
    more = [f"... and {wording.count(rest, 'more finding')}, in the JSON report"] if rest > 0 else []
    return Section(
        "For a quantisation",
        (ListBlock([*map(_describe_finding, order[:SHOWN]), *more]), Paragraph(result.note or "", small=True)),
        about="Findings; nothing was changed.",
        id="findings",
    )


def _describe_finding(found: Mapping[str, Any]) -> Words:
    """A finding in words."""
    channels = f"{found['channels']} of {found['of']} channels"
    if found["code"] == "high-bias":
        span = f"from {number(found['range_before'])} to {number(found['range_after'])}"
        what = "absorbing that into the next layer would shrink the range"
        return name(found["node"]), f": {channels} before the ReLU never fall to 0; {what} {span}"
    most = number(found["largest_in_deviations"])
    said = f": 8-bit weights would shift the mean of {channels} by up to {most} of their deviation"
    return name(found["node"]), said


def _build_uncovered_section(result: AblateResult) -> Section:
    rows = [(name(each.node), each.op, quiet(each.why)) for each in result.uncovered]
    columns = (Column("bias"), Column("operator"), Column("why"))
    table = Table(columns, rows, headless=Medium.SCREEN)
    return Section("Not covered", (table,), about="Biases that were not looked at.", id="uncovered")


def _advice(result: AblateResult) -> Iterator[Block]:
    """What to do about it."""
    exact = sum(b.kind in (BiasClass.DEAD, BiasClass.REDUNDANT) for b in result.biases)
    data = sum(b.kind in (BiasClass.SMALL, BiasClass.COMPENSABLE) and b.role is Role.INNER for b in result.biases)
    lines = []
    if exact:
        lines.append(f"`biasopt fold` removes or merges {exact} of them exactly.")
    if data:
        lines.append(
            "`biasopt fold --allow remove-biases --inputs D --accuracy-margin 1%` removes what the data allows."
        )
    if lines:
        yield Paragraph(" ".join(lines), small=True)


def _build_again_section(result: AblateResult, run: Run) -> Section:
    inputs, model = result.inputs, result.model
    facts: list[tuple[str, Words]] = [
        ("model", (model.path or "in memory", quiet(f" sha256 {model.sha256}"))),
        ("data", (inputs.source, quiet(f" sha256 {inputs.sha256}"))),
        ("seed", str(result.seed)),
    ]
    command = (Code(run.command_line),) if run.command_line else ()
    about = "What is needed to repeat this."
    return Section("See it again", (*command, KeyValues(facts)), about=about, id="again", media=Medium.PAGE)


# ---- what a removal did ---------------------------------------------------------------------------------


def describe_removal(removal: Removal, *, gone: bool) -> list[str]:
    """What a removal did, a line each: what the part of ``biasopt.fold/1`` that tells of it has under ``said``.

    ``gone`` says whether it was done: what is undecided is, where that is to pass.
    """
    rows, removed = removal.rows, removal.removed
    lines = [f"{removal.verdict}: {wording.plain(removal.why)}"]
    if removed:
        did = "removed" if gone else "would have been removed"
        lines.append(f"{wording.count(len(removed), 'bias', 'biases')} {did} within {wording.percent(removal.budget)}:")
        lines += [f"  {_describe_fit(fit)}" for fit in removed]
        parts_of = (rows.calibrate, rows.select, rows.confirm)
        lines.append("fitted on {:,} rows, selected on {:,}, judged on {:,} others".format(*parts_of))
        lines.append(removal.assumption)
    lines += [
        f"{len(nodes)} kept ({code}): {wording.list_names(tuple(nodes))}"
        for code, nodes in _group_by_code(removal.kept)
    ]
    return lines + [f"warning: {wording.plain(w)}" for w in removal.warnings]


def _describe_fit(fit: MovedBias) -> str:
    steps = f", {fit.steps} steps" if fit.steps else ""
    left = share(fit.left)
    return f"{wording.plain(fit.node)}: {left} of the squared error left ({fit.method}{steps})"


def _group_by_code(kept: Sequence[KeptBias]) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for each in kept:
        found.setdefault(each.code, []).append(each.node)
    return list(found.items())


# ---- numbers -------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Two digits; a dash where there is none."""
    if value is None:
        return "\u2014"
    if abs(value) < _NOTHING:
        return "0"
    if abs(value) >= 99.5:
        return wording.number(value)
    if abs(value) < 0.00095:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.2g}" if abs(value) >= 0.1 else f"{value:.3f}"


def share(value: float | None) -> str:
    """In per cent; a dash where there is none."""
    if value is None:
        return "\u2014"
    if value < _NOISE:
        return "0 %"
    return f"{100 * value:.1f} %" if value >= 0.0095 or not value else f"{100 * value:.2g} %"


def points(value: float | None) -> str:
    """A difference in percentage points, signed."""
    return "\u2014" if value is None else f"{100 * value:+.1f}".replace("-", MINUS)


def interval(effect: EffectSummary) -> str:
    """A difference of accuracies with Newcombe's interval, in points."""
    if effect.difference is None:
        return "\u2014"
    return f"{points(effect.difference)} [{points(effect.low)}, {points(effect.high)}]"
