"""A replay: whether the certificate holds, then what that rests on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from converter.records import Verdict
from converter.records.results import ReplayResult
from converter.report import wording
from converter.report.blocks import Block, Column, Medium, Paragraph, Report, Section, Span, Table, name

MOST = 5  # open steps that are named


def replay_report(result: ReplayResult, statement: Path | None = None) -> Report:
    """What came of a replay; ``statement`` is the file that was written to be signed."""
    head = "The certificate does not hold." if result.why else "The certificate holds."
    status = Verdict.FAIL if result.why else Verdict.PASS
    first = Paragraph(Span(head, wording.VERDICT[status].style))
    blocks = tuple(_describe_broken(result) if result.why else _tell_success(result, statement))
    sections = (Section("", (first,), media=~Medium.PAGE), Section("Steps", blocks, id="steps", titled=Medium.FILES))
    return Report("replay", "", status, head, _count(result), sections)


def _describe_broken(result: ReplayResult) -> Iterator[Block]:
    yield Paragraph(f"{result.where}: {result.why}")
    yield Paragraph(_count(result))


def _tell_success(result: ReplayResult, statement: Path | None) -> Iterator[Block]:
    yield Paragraph(_count(result))
    if result.open_steps:
        yield Paragraph("Carried out, but not recomputed (outputs have to be compared for these):")
    rows = [(name(step), why) for step, why in result.open_steps]
    yield Table(
        (Column("step"), Column("why")),
        rows,
        most={Medium.TERMINAL: MOST},
        rest="and {rest} more (-v)",
        headless=Medium.SCREEN,
    )
    yield Paragraph(f"digest {result.digest}")
    if result.output is not None:
        same = "byte for byte the certified file" if result.same_bytes else "the certified nodes and tensors"
        yield Paragraph(f"{result.output}: {same}")
    if statement is not None:
        yield Paragraph(f"{statement}: the statement, to be signed")


def _count(result: ReplayResult) -> str:
    if result.why:
        return f"{result.replayed} of {result.steps} steps were carried out before that; nothing was written."
    if not result.steps:
        return "The fold rewrote nothing: there is no step to carry out."
    return (
        f"{wording.count(result.steps, 'step')} carried out; the algebra of {result.recomputed} recomputed in float64."
    )
