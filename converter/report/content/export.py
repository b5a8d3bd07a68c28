"""An export of a torch model: what it takes and holds, whether it answers as torch does, what folding it did."""

from __future__ import annotations

from collections.abc import Iterator

from converter.records import OutputCheck, Parity, Verdict
from converter.records.results import ExportResult
from converter.report import wording
from converter.report.blocks import (
    Column,
    KeyValues,
    Paragraph,
    Report,
    Section,
    Span,
    Style,
    Table,
    Words,
    quiet,
    strong,
)
from converter.report.content import Run
from converter.report.content.fold import WIDTH, Reasons, fold_report

MOST = 5  # outputs that do not pass, shown one by one


def export_report(result: ExportResult, reasons: Reasons) -> Report:
    """What was exported, whether it answers as torch does, and, where that was asked for, what folding it did."""
    counts = result.counts
    facts = [wording.size(result.size_bytes), f"opset {result.opset}", wording.count(counts.nodes, "node")]
    rows = [
        (title if not index else "", port.name, f"{port.dtype} [{', '.join(map(str, port.shape))}]")
        for title, ports in (("Inputs", result.inputs), ("Outputs", result.outputs))
        for index, port in enumerate(ports)
    ]
    norms = wording.count(counts.batch_norms, "BatchNormalization", "BatchNormalizations")
    biases = wording.count(counts.biases, "bias vector")
    holds = f"Holds    {norms}, {biases}, {wording.size(counts.parameter_bytes)} of parameters"
    notes = tuple(Paragraph(Span(f"note: {note}", Style.SKIP)) for note in result.notes)
    return Report(
        command="export",
        name=result.spec,
        status=result.parity.verdict if result.parity else Verdict.SKIPPED,
        headline="",
        lede="",
        width=WIDTH,
        sections=(
            Section(
                "",
                (
                    Paragraph((strong(result.spec), "  ", ", ".join(facts))),
                    Table((Column(), Column(), Column()), rows),
                    Paragraph(holds),
                ),
            ),
            Section("", (KeyValues(list(_outcome(result))),)),
            Section("", notes),
            *(
                fold_report(result.fold, reasons, Run()).sections[1:] if result.fold else ()
            ),  # the model is told of above
        ),
    )


def _outcome(result: ExportResult) -> Iterator[tuple[str, Words]]:
    yield "Exporter", f"{result.exporter}, torch {result.provenance.torch}"
    for index, line in enumerate(_parity(result.parity)):
        yield "" if index else "Parity", line
    if result.fold is None:
        yield "Written", Span("nothing", Style.FAIL) if result.output is None else strong(str(result.output))


def _parity(parity: Parity | None) -> Iterator[Words]:
    if parity is None:
        yield Span("not checked (--no-verify)", Style.SKIP)
        return
    yield Span(parity.verdict.value, wording.VERDICT[parity.verdict].style), f": {parity.why}"
    bad = [check for stage in parity.stages for check in stage.outputs if check.status is not Verdict.PASS]
    yield from (quiet(_check(check)) for check in bad[: MOST * (len(bad) > 1)])
    yield from (Span(f"warning: {warning}", Style.SKIP) for warning in parity.warnings)


def _check(check: OutputCheck) -> str:
    apart = "" if check.max_abs is None else f", at most {check.max_abs:.3g} apart"
    return f"{check.name}: {check.status.value}{apart}, {check.why}"


def explain_failure(result: ExportResult) -> str:
    """Why nothing was written, in one line."""
    if result.fold is not None:
        return wording.failure(result.fold.parity)
    parity = result.parity
    return "nothing was written" if parity is None else f"nothing was written: {parity.verdict.value}: {parity.why}"
