"""A fold: what was done and what not, where the biases went, and whether that was checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from converter.dataclass import dataclass
from converter.records import Fate, FateKind, Finding, Latency, Parity, Rewrite, Safety, Status, Verdict
from converter.records.results import FoldResult, InspectResult
from converter.report import charts, wording
from converter.report.blocks import (
    Block,
    Chart,
    Column,
    Details,
    KeyValues,
    Lines,
    ListBlock,
    Medium,
    Only,
    Paragraph,
    Report,
    Row,
    Section,
    Span,
    Table,
    Tile,
    Tiles,
    Words,
    code,
    name,
    strong,
)
from converter.report.content import Run
from converter.report.content.bench import latency_cases, latency_claims, latency_head, latency_section, speed_sentence
from converter.report.content.bias_path import FateGroup, describe_one, group_fates, removed_share, summarize_fates
from converter.report.content.pair import again_section, change
from converter.report.content.verify import (
    answers,
    evidence_sections,
    fact_lines,
    parity_cases,
    parity_claims,
    parity_head,
    unless_passed,
    worst,
)

WIDTH = 110
REASONS = 10  # that are shown where a few lines are wanted; `inspect` shows them all
WHO = "the folded model"

Reasons = Mapping[str, str]  # code -> the clause that holds wherever the code is given

if TYPE_CHECKING:
    from converter.rewrite.passes import Pass


def fold_report(result: FoldResult, reasons: Reasons, run: Run, removal: Sequence[str] = ()) -> Report:
    """What ``fold`` did, what it left and why, and whether that was checked; ``removal`` tells what went by data."""
    parity, latency = result.parity, result.latency
    heads: list[Block] = [*parity_head(parity), *(latency_head(latency, WHO) if latency else ())]
    warnings = (*(parity.warnings if parity else ()), *(latency.warnings if latency else ()))
    return Report(
        command="fold",
        name=_name(result),
        status=Verdict.SKIPPED if parity is None else worst(parity, latency),
        headline=_headline(result, parity, latency),
        lede=_lede(result),
        claims=list(_claims(result)),
        warnings=tuple(dict.fromkeys(warnings)),
        version=run.version,
        schema=run.schema,
        exit_code=run.exit_code,
        cases=[*parity_cases(parity), *latency_cases(latency)],
        width=WIDTH,
        sections=(
            header_section(result),
            Section("", (*heads, *_describe_output(result)), media=Medium.COMMENT),
            *done_sections(result, "What was done", ("before", "after")),
            left_section(result, reasons),
            removal_section(removal, result.rewrites),
            fates_section(result.fates, media=Medium.FILES),
            *evidence_sections(parity, Medium.FILES),
            *([latency_section(latency, WHO)] if latency else []),
            Section("", tuple(_outcome(result)), media=Medium.SCREEN),
            overridable_section(result),
            again_section(
                run, parity=parity, latency=latency, certificate=str(result.certificate or ""), media=Medium.FILES
            ),
        ),
    )


# ---- the model and what was done to it ---------------------------------------------------------------


def header_section(result: InspectResult) -> Section:
    """The model as it came."""
    facts = [wording.size(result.size_bytes), f"opset {result.opset}", wording.count(result.before.nodes, "node")]
    blocks: list[Block] = [Paragraph((strong(_name(result)), "  ", ", ".join(facts)))]
    objections = [f"onnx's checker objects to it as it came: {result.problem}"] if result.problem else []
    objections += describe_repairs(result)
    blocks += [Paragraph(Span(line, wording.VERDICT[Verdict.SKIPPED].style)) for line in objections]
    return Section("", tuple(blocks), media=Medium.SCREEN)


def describe_repairs(result: InspectResult) -> Iterator[str]:
    """What was wrong in the file and is not in what is made of it, a line each."""
    if result.was_unsorted:
        yield "its nodes were not sorted; they are now, each after what it reads"
    if result.was_written_out:
        yield "its functions are written out where they are called; counted as that"
    if stale := result.stale_shapes:
        what = "a shape that it states is" if len(stale) == 1 else f"{len(stale):,} shapes that it states are"
        yield f"{what} not what follows from its inputs, and not used: {wording.list_names(stale)}"


def _name(result: InspectResult) -> str:
    return result.path.name if result.path else "model in memory"


def done_sections(result: InspectResult, title: str, heads: tuple[str, str]) -> Iterator[Section]:
    """Which passes acted, and what the model holds before and after."""
    rows: list[Row] = []
    for item in group_rewrites(result.rewrites):
        cells = (code(item.pass_name), f"{len(item.nodes):,}", wording.SAFETY[item.safety])
        rows += [
            Row((*cells, ""), ~Medium.VERBOSE),
            Row((*cells, Lines(item.nodes)), Medium.VERBOSE),
        ]
    each = [(code(r.pass_name), name(r.node), wording.list_names(_others(r), 200)) for r in result.rewrites]
    listed = Table(
        (Column("rewrite"), Column("node"), Column("into")),
        each,
        most={Medium.COMMENT: 20, Medium.PAGE: 1000},
        rest="The first {shown} of {total}; the JSON report has all of them.",
    )
    columns = (
        Column("rewrite"),
        Column("times", right=True),
        Column("outputs are"),
        Column(under=Medium.ALL),
    )
    table = Table(columns, rows, headless=Medium.SCREEN)
    nothing = Paragraph("Nothing to do: no pass applies here.")
    tiles = [] if result.before == result.after else list(_tiles(result))
    about = "A batch norm that is folded becomes part of the layer before or after it." if rows else ""
    yield Section(
        title if rows else "",
        (
            Only(Medium.PAGE, Tiles(tiles, *heads)),
            table if rows else nothing,
            Only(~Medium.PAGE, Tiles(tiles, *heads)),
            *([Only(Medium.FILES, Details("Which went where", (listed,)))] if each else []),
            Only(Medium.PAGE, *_describe_frozen(result)),
        ),
        about=about,
        id="changes",
    )


def _tiles(result: InspectResult) -> Iterator[Tile]:
    before, after = result.before, result.after
    yield _tile("BatchNormalization", before.batch_norms, after.batch_norms)
    yield _biases_tile(result)
    yield _tile("nodes", before.nodes, after.nodes)
    grown = after.parameter_bytes - before.parameter_bytes
    copied = min(grown, bytes_copied(result.rewrites)) if grown > 0 else 0
    note = f"copies of shared weights add {wording.size(copied)}; --no-growth makes none" if copied else ""
    sizes = wording.size(before.parameter_bytes), wording.size(after.parameter_bytes)
    yield Tile("parameters", *sizes, change(grown, wording.size(abs(grown))), note)


def _biases_tile(result: InspectResult) -> Tile:
    """Biases, by the one definition that there is: what a layer, or a batch norm that no layer takes in, adds."""
    if not result.fates:  # of a document of an earlier version
        shifts = result.after.biases > result.before.biases
        note = "what a BatchNormalization adds becomes a bias" if shifts else ""
        return _tile("biases", result.before.biases, result.after.biases, note)
    kept = Counter(fate.op for fate in result.fates if fate.kind is FateKind.KEPT)
    by_data = sum(rewrite.safety is Safety.ASSUMES for rewrite in result.rewrites)
    if any(fate.kind is FateKind.REMOVED for fate in result.fates):
        by_data = 0  # they are not among those kept, as in documents of earlier versions
    split = ", ".join(f"{op} {n:,}" for op, n in sorted(kept.items(), key=lambda item: (-item[1], item[0])))
    note = f"biases left: {split}" if len(kept) > 1 and not by_data else ""
    return _tile("biases", len(result.fates), sum(kept.values()) - by_data, note)


def _tile(label: str, before: int, after: int, note: str = "") -> Tile:
    return Tile(label, f"{before:,}", f"{after:,}", change(after - before), note)


def _describe_frozen(result: InspectResult) -> Iterator[Block]:
    if result.frozen:
        yield Paragraph(f"No longer inputs of the model: {', '.join(result.frozen)}", small=True)


def _describe_output(result: FoldResult) -> Iterator[Block]:
    yield Paragraph(("Written: ", name(result.output.name)) if result.output else "No model was written.")
    if result.frozen:
        title = f"No longer inputs of the model: {wording.count(len(result.frozen), 'initializer')}"
        yield Details(title, (Paragraph(_names(result.frozen, len(result.frozen))),))


@dataclass(frozen=True, slots=True)
class PassCount:
    """What one pass did (or would do)."""

    pass_name: str
    safety: Safety
    nodes: tuple[str, ...]  # each with those that it went into


def _others(rewrite: Rewrite) -> tuple[str, ...]:
    """The nodes that took over what a rewrite changed."""
    return tuple(node for node in rewrite.delta.changed_nodes if node != rewrite.node)


def group_rewrites(rewrites: Iterable[Rewrite]) -> list[PassCount]:
    """Rewrites by pass, in the order in which the passes first acted."""
    gathered: dict[tuple[str, Safety], list[str]] = {}
    for rewrite in rewrites:
        into = wording.list_names(_others(rewrite))
        said = f"{rewrite.node} \u2192 {into}" if into else rewrite.node
        gathered.setdefault((rewrite.pass_name, rewrite.safety), []).append(said)
    return [PassCount(pass_name, safety, tuple(nodes)) for (pass_name, safety), nodes in gathered.items()]


def bytes_copied(rewrites: Iterable[Rewrite]) -> int:
    """Bytes by which rewrites made the model larger: copies of weights that others still read."""
    return sum(max(0, rewrite.delta.bytes_added) for rewrite in rewrites)


# ---- what was left -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decline:
    """What was left alone for one reason: ``whys`` say it node by node, ``why`` for all of them."""

    code: str
    why: str
    nodes: tuple[str, ...]
    whys: tuple[str, ...]


def collect_reasons(passes: Iterable[Pass]) -> Reasons:
    """What each code means in general: the first pass's words for it."""
    said: dict[str, str] = {}
    for row in passes:
        for guard in row.guards:
            said.setdefault(guard.code, guard.why)
    return said


def group_declines(findings: Iterable[Finding], reasons: Reasons) -> list[Decline]:
    """Findings that decline, by code, most nodes first; a node that several passes decline for one reason counts once.

    The clause is the findings' own where they agree (a channel, a name in it is then worth showing), and
    otherwise the one of ``reasons``.
    """
    gathered: dict[str, dict[str, str]] = {}
    for finding in findings:
        if finding.status is Status.DECLINED:
            gathered.setdefault(finding.code, {}).setdefault(finding.node, finding.why)
    groups = []
    for key, clauses in gathered.items():
        whys = tuple(clauses.values())
        common = whys[0] if len(set(whys)) == 1 else reasons.get(key, whys[0])
        groups.append(Decline(key, common, tuple(clauses), whys))
    return sorted(groups, key=lambda group: (-len(group.nodes), group.code))


def left_section(result: InspectResult, reasons: Reasons, most: int | None = REASONS) -> Section:
    """What no pass could touch, and why; ``most`` reasons where a few lines are wanted."""
    items = group_declines(result.findings, reasons)
    rows: list[Row] = []
    for item in items:
        count = f"{len(item.nodes):,}"
        each = [node if why == item.why else f"{node}: {why}" for node, why in zip(item.nodes, item.whys, strict=True)]
        rows += [
            Row((code(item.code), count, item.why, names), media)
            for media, names in (
                (Medium.TERMINAL, wording.list_names(item.nodes)),
                (Medium.VERBOSE, Lines(tuple(each))),
                (Medium.COMMENT, _names(item.nodes)),
                (Medium.PAGE, wording.list_names(item.nodes, 90)),
            )
        ]
    columns = (
        Column("reason"),
        Column("nodes", right=True),
        Column("what it means"),
        Column("for example", under=~Medium.COMMENT),
    )
    table = Table(
        columns,
        rows,
        most={} if most is None else {Medium.TERMINAL: most},
        rest="... {rest} more reasons; `biasopt inspect` shows them all",
        headless=Medium.SCREEN,
    )
    return Section(
        "Not folded",
        (
            Only(Medium.SCREEN, table),
            Only(Medium.FILES, Details(wording.count(len(items), "reason"), (table,))),
        ),
        about="What no pass could touch, and why.",
        id="left",
    )


def _names(nodes: tuple[str, ...], most: int = 3) -> Words:
    rest = f" and {len(nodes) - most:,} more" if len(nodes) > most else ""
    return (*[part for node in nodes[:most] for part in (", ", name(node))][1:], rest)


def removal_section(lines: Sequence[str], rewrites: Iterable[Rewrite]) -> Section:
    """What went by data, or what would have gone."""
    done = any(rewrite.safety is Safety.ASSUMES for rewrite in rewrites)
    changed = "The weights were changed so that decisions on data like yours stay the same, within the budget."
    left = "Nothing was removed: that decisions stay the same within the budget could not be shown."
    return Section(
        "Removed by data" if done else "Removal by data",
        (ListBlock(lines),),
        about=f"These biases matter. {changed if done else left}",
        id="removal",
    )


# ---- biases ------------------------------------------------------------------------------------------


def fates_section(fates: Sequence[Fate], *, media: Medium = Medium.ALL, each: bool = False) -> Section:
    """Biases and where they went; with ``each`` all of them by name."""
    if not fates:
        return Section("Biases", ())
    rows: list[Row] = []
    for group in group_fates(fates):
        cells = (Span(group.kind.value, wording.FATE[group.kind].style), f"{len(group.fates):,}", _why(group))
        nodes = tuple(fate.node for fate in group.fates)
        listed = Lines(tuple(f"{fate.node}{describe_one(fate)}" for fate in group.fates))
        rows += [
            Row((*cells, names), shown)
            for shown, names in (
                (Medium.TERMINAL, listed if each else wording.list_names(nodes)),
                (Medium.VERBOSE, listed),
                (Medium.COMMENT, _names(nodes)),
                (Medium.PAGE, wording.list_names(tuple(fate.node + _where(fate) for fate in group.fates), 90)),
            )
        ]
    columns = (
        Column("fate"),
        Column("biases", right=True),
        Column("why"),
        Column("for example", under=~Medium.COMMENT),
    )
    table = Table(columns, rows, headless=Medium.SCREEN)
    return Section(
        "Biases",
        (
            Paragraph(removed_share(fates)),
            *_legend(fates),
            Only(~Medium.PAGE, table),
            Only(Medium.PAGE, Details("By reason, with names", (table,))),
        ),
        about="A bias is a constant shift. One that nothing downstream depends on, or that something further down can "
        "take over, is not needed.",
        id="biases",
        media=media,
    )


def _legend(fates: Sequence[Fate]) -> Iterator[Block]:
    """How many of each fate, and what that means."""
    count = [(kind, sum(fate.kind is kind for fate in fates)) for kind in wording.FATE]
    there = [(kind, n) for kind, n in count if n]
    rows = [(Span(kind.value, wording.FATE[kind].style), f"{n:,}", wording.FATE[kind].means) for kind, n in there]
    columns = (Column("fate"), Column("biases", right=True), Column("meaning"))
    yield Only(Medium.PAGE, Chart(partial(charts.draw_shares, there)), Table(columns, rows))


def _why(group: FateGroup) -> str:
    return group.what + (f": {group.why}" if group.why else "")


def _where(fate: Fate) -> str:
    return f" \u2192 {fate.where}" if fate.where and len(fate.where) < 80 else ""


# ---- the outcome -------------------------------------------------------------------------------------


def _headline(result: FoldResult, parity: Parity | None, latency: Latency | None) -> str:
    if parity is None:
        return "Folded, but not checked."
    if parity.scope == "identical" and not result.rewrites:
        return "Nothing to fold."
    passed = parity.verdict is Verdict.PASS and latency is not None
    return answers(parity) + (f" {speed_sentence(latency)}" if passed and latency else "")


def _lede(result: FoldResult) -> str:
    """What was done, what that means for the outputs, and what was written."""
    parity, gone = result.parity, result.before.batch_norms - result.after.batch_norms
    removed = sum(fate.kind is not FateKind.KEPT for fate in result.fates)
    norms = f"{gone:,} of {wording.count(result.before.batch_norms, 'batch norm')}" if gone else ""
    biases = f"{removed:,} of {wording.count(len(result.fates), 'bias', 'biases')}" if removed else ""
    parts = [part for part in (norms, biases) if part]
    went = wording.count(len(result.rewrites), "rewrite") + (f" took out {' and '.join(parts)}" if parts else "")
    if not result.rewrites:
        went = "No rewrite applies to this model"
    if parity is None:
        return f"{went}. The outputs of the two models were not compared."
    if parity.verdict is Verdict.PASS:
        agree = {
            "identical": "the result is a copy",
            "removal": "the outputs change, the decisions on data like yours hardly",
        }.get(parity.scope, "the outputs stay the same")
        return f"{went}; {agree}." + (" No model was written." if result.exit_code else "")
    why = wording.sentence(parity.why)
    return f"{why} No model was written.".strip() if result.output is None else why


def _claims(result: FoldResult) -> Iterator[tuple[str, Words]]:
    if result.parity:
        yield from parity_claims(result.parity)
    if result.latency:
        yield from latency_claims(result.latency)
    if result.output:
        yield "Written", name(str(result.output))
    if result.certificate:
        yield "Certificate", name(str(result.certificate))


def _outcome(result: FoldResult) -> Iterator[Block]:
    """The last lines on a screen: what came of it all."""
    rows: list[tuple[str, Words]] = []
    if result.fates:
        rows.append(("Biases", summarize_fates(result.fates)))
    rows += _put_under("Parity", _parity_lines(result.parity))
    rows += _put_under("Latency", _latency_lines(result.latency))
    if result.frozen:
        rows.append(("Inputs", f"no longer inputs of the model: {wording.list_names(result.frozen)}"))
    if result.output is not None:
        rows.append(("Written", strong(str(result.output))))
    elif result.exit_code:
        override = "; --on-inconclusive pass writes what is undecided" if result.exit_code == 4 else ""
        rows.append(("Written", (Span("nothing", wording.VERDICT[Verdict.FAIL].style), override)))
    if result.certificate is not None:
        rows.append(("Certified", str(result.certificate)))
    yield KeyValues(rows)


def _put_under(key: str, lines: Iterable[Words]) -> list[tuple[str, Words]]:
    return [("" if index else key, line) for index, line in enumerate(lines)]


def _parity_lines(parity: Parity | None) -> Iterator[Words]:
    if parity is None:
        yield Span("not checked (--no-verify)", wording.VERDICT[Verdict.SKIPPED].style)
        return
    yield Span(parity.verdict.value, wording.VERDICT[parity.verdict].style), f": {wording.verdict(parity)}"
    if why := unless_passed(parity):
        yield why
    yield from fact_lines(parity)
    if found := wording.worst(parity):
        yield wording.score(found)
    yield from _warning_lines(parity.warnings)


def _latency_lines(latency: Latency | None) -> Iterator[Words]:
    if latency is None:
        return
    yield Span(latency.verdict.value, wording.VERDICT[latency.verdict].style), f": {wording.speed(latency, WHO)}"
    if latency.verdict is not Verdict.PASS and latency.why:
        yield wording.reason(latency)
    yield from _warning_lines(latency.warnings)


def _warning_lines(warnings: Iterable[str]) -> Iterator[Words]:
    return (Span(f"warning: {warning}", wording.VERDICT[Verdict.SKIPPED].style) for warning in warnings)


def overridable_section(result: InspectResult) -> Section:
    """How much waits for constants that are graph inputs too."""
    if not result.overridable_blocked:
        return Section("", ())
    waiting = wording.count(result.overridable_blocked, "fold waits", "folds wait")
    also = wording.count(
        result.overridable_names, "initializer that is also a graph input", "initializers that are also graph inputs"
    )
    them = "it" if result.overridable_blocked == 1 else "them"
    said = f"{waiting} behind {also}; `--freeze-overridable` would take {them}."
    return Section("", (Paragraph(said),), media=Medium.SCREEN)
