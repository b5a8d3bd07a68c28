"""What ``biasopt lint`` shows on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from converter.records.lint import CODES, Kind, LintFinding, LintReport, Location
from converter.report import wording
from converter.report.render.text import Lines as Block

WIDTH = 80
_SHOWN = 3  # names of one group
_TITLE = {
    Kind.DEAD: "Dead: training cannot feel them",
    Kind.REDUNDANT: "Redundant: another parameter does the same",
    Kind.ADVICE: "Values that hurt training",
    Kind.SOURCE: "Rules in the source",
}
_WHY = {code.name: code.summary for code in CODES}


def lint_blocks(report: LintReport, root: Path, *, verbose: bool = False) -> list[Block]:
    """The findings by kind, those of one constructing call together, and what they add up to."""
    blocks = [_header(report)]
    for kind in Kind:
        found = [finding for finding in report.findings if finding.kind is kind]
        blocks.append(_section(kind, found, root, verbose=verbose))
    return [*blocks, _unconfirmed(report), _end(report)]


def _header(report: LintReport) -> Block:
    facts = f"{report.n_parameters:,} parameters, {report.n_bias_parameters:,} of them in {report.n_biases:,} vectors"
    return [Text.assemble((wording.plain(report.label), "bold"), "  ", facts)]


def _section(kind: Kind, found: Sequence[LintFinding], root: Path, *, verbose: bool) -> Block:
    if not found:
        return []
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for group in _groups(found, verbose=verbose):
        n = sum(finding.n_parameters for finding in group)
        table.add_row(f"{n:,}" if n else "", _told(group, root, verbose=verbose))
    total = sum(finding.n_parameters for finding in found)
    counted = f"  {total:,} parameters" if total and kind in (Kind.DEAD, Kind.REDUNDANT) else ""
    return [Text.assemble((_TITLE[kind], "bold"), counted), Padding(table, (0, 0, 0, 2))]


def _groups(found: Sequence[LintFinding], *, verbose: bool) -> list[list[LintFinding]]:
    """Findings of one code, constructed by one call."""
    groups: dict[object, list[LintFinding]] = {}
    for finding in found:
        key = (finding.code, finding.location, finding.fix) if finding.location and not verbose else id(finding)
        groups.setdefault(key, []).append(finding)
    return list(groups.values())


def _told(group: Sequence[LintFinding], root: Path, *, verbose: bool) -> Text:
    first = group[0]
    names = [_name(finding) for finding in group]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    said = Text.assemble((first.code, "yellow"))
    if any(names):
        said.append("  " + ", ".join(map(wording.plain, names[:_SHOWN])) + more)
    messages = dict.fromkeys(finding.message for finding in group)
    said.append("\n" + wording.plain(next(iter(messages))) + (" (and so on)" if len(messages) > 1 else ""), style="dim")
    where = [wording.plain(_place(p, root)) for p in (first.location, first.called_from) if p is not None]
    if where:
        said.append("\n" + ", called from ".join(where), style="cyan")
    said.append(f"\nfix: {first.fix}")
    if verbose:
        said.append(f"\ncost: {first.cost}", style="dim")
        said.append("".join(f"\n{k}: {_value(v)}" for k, v in first.evidence.items() if v is not None), style="dim")
    return said


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


def _unconfirmed(report: LintReport) -> Block:
    if not report.unconfirmed:
        return []
    said = [
        f"  {wording.plain(item.parameter)} ({item.code}): {wording.plain(item.why)}" for item in report.unconfirmed
    ]
    return [Text("Not confirmed: left alone", style="bold"), *(Text(line, style="yellow") for line in said)]


def _end(report: LintReport) -> Block:
    if not report.findings:
        done = "No bias was found that training cannot feel."
        return [Text(done), *[Text(wording.plain(note), style="dim") for note in report.notes]]
    share = 100 * (report.n_dead + report.n_redundant) / max(report.n_parameters, 1)
    lines = [Text(f"Together {report.n_dead + report.n_redundant:,} parameters, {share:.3g} % of the model.")]
    if any(finding.code.startswith("bias-before-") for finding in report.findings):
        saved = "Training gives the same without dead biases; a step is 0-6 % faster, often not at all."
        lines.append(Text(saved, style="dim"))
    return [*lines, *[Text(wording.plain(note), style="dim") for note in report.notes]]
