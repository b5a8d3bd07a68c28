"""What ``fold`` would do and what not, every bias, what gates remember; and the table of passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from converter.records import Gate, Verdict
from converter.records.results import InspectResult, TensorPort
from converter.report import wording
from converter.report.blocks import Column, KeyValues, Medium, Paragraph, Report, Section, Table, Words, code
from converter.report.content.bias_path import describe_gate, name_gate
from converter.report.content.fold import (
    WIDTH,
    Reasons,
    done_sections,
    fates_section,
    header_section,
    left_section,
    overridable_section,
)

OPERATORS, PORTS = 12, 8  # that are shown

if TYPE_CHECKING:
    from converter.rewrite.passes import Pass


def inspect_report(result: InspectResult, reasons: Reasons, *, each: bool = False) -> Report:
    """What ``fold`` would do, and what it would leave: every reason of it; with ``each`` every bias by name."""
    return Report(
        command="inspect",
        name=result.path.name if result.path else "model in memory",
        status=Verdict.SKIPPED,
        headline="",
        lede="",
        width=WIDTH,
        sections=(
            header_section(result),
            _model_section(result),
            *done_sections(result, "Would do", ("now", "folded")),
            left_section(result, reasons, most=None),
            fates_section(result.fates, each=each),
            *([_gates_section(result.gates)] if each else []),
            overridable_section(result),
        ),
    )


def _model_section(result: InspectResult) -> Section:
    """What the model is: where it came from, what goes in and out, and the operators in it."""
    counted = list(result.operators.items())
    shown, rest = counted[:OPERATORS], sum(n for _, n in counted[OPERATORS:])
    ops = [f"{op} {n:,}" for op, n in shown] + [f"{wording.count(rest, 'other')}"] * bool(rest)
    rows: list[tuple[str, Words]] = []
    for title, ports in (("Inputs", result.inputs), ("Outputs", result.outputs)):
        rows += [("" if place else title, describe_port(port)) for place, port in enumerate(ports[:PORTS])]
        rows += [("", f"and {len(ports) - PORTS:,} more")] * (len(ports) > PORTS)
    rows.append(("Operators", ", ".join(ops)))
    if result.ir_version:
        made_by = f", made by {result.producer}" if result.producer else ""
        rows.append(("Format", f"IR {result.ir_version}, opset {result.opset}{made_by}"))
    return Section("", (KeyValues(rows),) if result.operators else ())


def describe_port(port: TensorPort) -> str:
    """``image float32 [N, 3, 224, 224]``."""
    return f"{port.name}  {port.dtype} [{', '.join(map(str, port.shape))}]"


def _gates_section(gates: Sequence[Gate]) -> Section:
    rows = [(f"{gate.op} {gate.node}", name_gate(gate), describe_gate(gate), gate.note) for gate in gates]
    columns = (Column("layer"), Column("gate"), Column("what it keeps"), Column(under=Medium.ALL))
    return Section("Memory", (Table(columns, rows, headless=Medium.SCREEN),))


def passes_report(passes: Sequence[Pass]) -> Report:
    """The table of passes, in the order in which they run, and what its last words promise."""
    rows = [(f"{place}", code(row.name), row.safety.value, row.summary) for place, row in enumerate(passes, 1)]
    columns = (Column("order", right=True), Column("pass"), Column("safety"), Column("what it does"))
    promises = [
        (safety.value, f"outputs are {wording.SAFETY[safety]}") for safety in sorted({r.safety for r in passes})
    ]
    return Report(
        command="passes",
        name="",
        status=Verdict.SKIPPED,
        headline="",
        lede="",
        width=WIDTH,
        sections=(
            Section("", (Table(columns, rows, headless=Medium.SCREEN),)),
            Section("", (Table((Column("safety"), Column("promise")), promises, headless=Medium.SCREEN),)),
            Section("", (Paragraph("`biasopt passes NAME` explains one of them.", small=True),)),
        ),
    )
