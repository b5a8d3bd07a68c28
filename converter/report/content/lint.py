"""Biases of a torch module that cannot matter in training, by kind, those of one constructing call together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converter.records import Verdict
from converter.records.lint import CODES, Kind, LintFinding, LintReport, Location
from converter.report.blocks import (
    Block,
    Column,
    Lines,
    ListBlock,
    Medium,
    Paragraph,
    Report,
    Row,
    Section,
    Span,
    Style,
    Table,
    Words,
    name,
    strong,
)

if TYPE_CHECKING:
    from converter.torch_models.lint.codemod import SourceFix

SHOWN = 3  # names of one group
TITLE = {
    Kind.DEAD: "Dead: they change nothing in training",
    Kind.REDUNDANT: "Redundant: another parameter does the same",
    Kind.ADVICE: "Values that hurt training",
    Kind.SOURCE: "Rules in the source",
}


def lint_report(report: LintReport, root: Path) -> Report:
    """The findings by kind, and what they add up to; places are told from ``root`` on."""
    facts = f"{report.n_parameters:,} parameters, {report.n_bias_parameters:,} of them in {report.n_biases:,} vectors"
    return Report(
        command="lint",
        name=report.label,
        status=Verdict.SKIPPED,
        headline="",
        lede=facts,
        sections=(
            Section("", (Paragraph((strong(report.label), "  ", facts)),)),
            *(_kind_section(kind, [f for f in report.findings if f.kind is kind], root) for kind in Kind),
            _build_unconfirmed_section(report),
            Section("", tuple(_sum(report))),
        ),
    )


def _kind_section(kind: Kind, found: Sequence[LintFinding], root: Path) -> Section:
    total = sum(finding.n_parameters for finding in found)
    counted = f"  {total:,} parameters" if total and kind in (Kind.DEAD, Kind.REDUNDANT) else ""
    rows = [Row(_cells(group, root), ~Medium.VERBOSE) for group in _groups(found)]
    rows += [Row(_cells([finding], root), Medium.VERBOSE) for finding in found]
    columns = (
        Column("parameters", right=True),
        Column("finding"),
        Column("why", under=Medium.ALL),
        Column("where", under=Medium.ALL),
        Column("fix", under=Medium.ALL),
        Column("cost", under=Medium.ALL, media=Medium.VERBOSE),
        Column("evidence", under=Medium.ALL, media=Medium.VERBOSE),
    )
    return Section(TITLE[kind] + counted, (Table(columns, rows, headless=Medium.SCREEN),))


def _groups(found: Sequence[LintFinding]) -> list[list[LintFinding]]:
    """Findings of one code, constructed by one call."""
    groups: dict[object, list[LintFinding]] = {}
    for finding in found:
        key = (finding.code, finding.location, finding.fix) if finding.location else id(finding)
        groups.setdefault(key, []).append(finding)
    return list(groups.values())


def _cells(group: Sequence[LintFinding], root: Path) -> tuple[Words | Lines, ...]:
    first, n = group[0], sum(finding.n_parameters for finding in group)
    names = [_name(finding) for finding in group]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    listed = f"  {', '.join(names[:SHOWN])}{more}" if any(names) else ""
    messages = dict.fromkeys(finding.message for finding in group)
    where = [_place(place, root) for place in (first.location, first.called_from) if place is not None]
    return (
        f"{n:,}" if n else "",
        (Span(first.code, Style.OPEN), listed),
        next(iter(messages)) + (" (and so on)" if len(messages) > 1 else ""),
        Span(", called from ".join(where), Style.CODE),
        name(f"fix: {first.fix}"),
        *_details(first),
    )


def _details(finding: LintFinding) -> tuple[Words | Lines, ...]:
    evidence = tuple(f"{key}: {_value(value)}" for key, value in finding.evidence.items() if value is not None)
    return f"cost: {finding.cost}", Lines(evidence)


def _name(finding: LintFinding) -> str:
    part = f"[{finding.part[0]}:{finding.part[1]}]" if finding.part else ""
    return finding.parameter + part


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _place(place: Location, root: Path) -> str:
    path = Path(place.path)
    if path.is_relative_to(root):
        return f"{path.relative_to(root)}:{place.line}"
    parts = path.parts
    if "site-packages" in parts:
        return f"{Path(*parts[parts.index('site-packages') + 1 :])}:{place.line}"
    return f"{path}:{place.line}"


def _build_unconfirmed_section(report: LintReport) -> Section:
    lines = [Span(f"{item.parameter} ({item.code}): {item.why}", Style.SKIP) for item in report.unconfirmed]
    return Section("Not confirmed: left alone", (ListBlock(lines),))


def _sum(report: LintReport) -> Iterator[Block]:
    if not report.findings:
        yield Paragraph("No bias was found that changes nothing in training.")
    else:
        n = report.n_dead + report.n_redundant
        yield Paragraph(f"Together {n:,} parameters, {100 * n / max(report.n_parameters, 1):.3g} % of the model.")
        if any(finding.code in _NORMS for finding in report.findings):
            saved = "Training gives the same without dead biases; a step is 0-6 % faster, often not at all."
            yield Paragraph(saved, small=True)
    yield from (Paragraph(note, small=True) for note in report.notes)


_NORMS = {code.name for code in CODES if code.name.startswith("bias-before-")}

CHECKPOINTS = "old checkpoints: biasopt lint SPEC --fix-checkpoint IN OUT, before the source is fixed"
TOO_LATE = (
    "old checkpoints no longer fit: take the fix back (`git apply -R` of the diff above), then "
    "`biasopt lint SPEC --fix --write --fix-checkpoint IN OUT` does both"
)


def fix_lines(fix: SourceFix, *, wrote: bool, checkpoint: bool) -> Iterator[str]:
    """What to say of a source fix beside its diff; ``checkpoint``: one is migrated as well."""
    for item in fix.edited:
        done = "written" if wrote else "would be written; --write does it"
        yield f"{item.path.name}: bias=False in {item.n_calls} calls, {done}"
        if item.readers:
            lines = ", ".join(map(str, item.readers[:5]))
            yield f"{item.path.name}: reads .bias on line {lines}: see that it may be None"
    for refused in fix.refused:
        where = f" ({Path(refused.location.path).name}:{refused.location.line})" if refused.location else ""
        yield f"left {refused.parameter}{where}: {refused.why}"
    if not fix.edited and not fix.refused:
        yield "nothing to fix: no bias before a norm was found dead"
    if fix.edited and not checkpoint:
        yield TOO_LATE if wrote else CHECKPOINTS
