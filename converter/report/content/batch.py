"""What became of many models: how many of each kind and which did not go well, in blocks; and all, on an HTML page.

The page is the only one with a script, of a few lines that are written here; its hash is in the page's policy, so that
no other runs, whatever a model is called.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from converter.records import Verdict
from converter.records.results import BatchResult, BatchRow, Outcome
from converter.report import wording
from converter.report.blocks import Block, Case, Column, Medium, Paragraph, Report, Section, Table, Words, name
from converter.report.wording import break_commands, plain

SCHEMA = "biasopt.batch/1"
WIDTH = 110
_MOST = 40  # models on a screen
# What is said of an outcome, and what it is in a world of tests.
OUTCOMES: dict[Outcome, tuple[str, Verdict]] = {
    Outcome.FOLDED: ("folded", Verdict.PASS),
    Outcome.UNCHANGED: ("nothing to fold", Verdict.PASS),
    Outcome.FAILED: ("a check failed", Verdict.FAIL),
    Outcome.INCONCLUSIVE: ("inconclusive", Verdict.INCONCLUSIVE),
    Outcome.REFUSED: ("refused", Verdict.FAIL),
    Outcome.BUG: ("a bug in biasopt", Verdict.FAIL),
    Outcome.CRASHED: ("crashed", Verdict.FAIL),
    Outcome.TIMEOUT: ("took too long", Verdict.FAIL),
    Outcome.MEMORY: ("took too much memory", Verdict.FAIL),
    Outcome.LOST: ("lost by the executor", Verdict.FAIL),
}


def batch_report(found: BatchResult, records: Path) -> Report:
    """The summary."""
    bad = [row for row in found.rows if row.exit_code]
    head = f"{len(found.rows):,} models: {describe_counts(found)}."
    sections = [Section("", tuple(_begin(found, head)))]
    if bad:
        sections.append(Section("Not well", (_tabulate(bad),)))
    good = [row for row in found.rows if not row.exit_code]
    if good:
        sections.append(Section("Well", (_tabulate(good),)))
    sections.append(Section("Where", (Paragraph(("Journal, reports and summary: ", name(str(records)))),)))
    status = Verdict.PASS if not found.exit_code else Verdict.INCONCLUSIVE if found.exit_code == 4 else Verdict.FAIL
    return Report(
        "batch",
        "",
        status,
        head,
        "",
        tuple(sections),
        cases=tuple(map(_make_case, found.rows)),
        schema=SCHEMA,
        exit_code=found.exit_code,
        width=WIDTH,
    )


def describe_counts(found: BatchResult) -> str:
    """How many of each kind, in words."""
    return ", ".join(f"{count:,} {OUTCOMES[Outcome(kind)][0]}" for kind, count in found.counts.items())


def _begin(found: BatchResult, head: str) -> Iterator[Block]:
    yield Paragraph(head)
    where = f"on {found.scheduler}" if found.scheduler else "here"
    skipped = f"; {found.skipped:,} were done before" if found.skipped else ""
    sent = ", files sent" if found.uploaded else ""
    yield Paragraph(f"{found.jobs:,} at a time {where}{sent}, {wording.duration(1e3 * found.seconds)}{skipped}.")


def _tabulate(rows: list[BatchRow]) -> Table:
    columns = (Column("model"), Column("outcome"), Column("rewrites", right=True), Column("biases"), Column("why"))
    return Table(columns, [_make_row(row) for row in rows], most={Medium.SCREEN: _MOST})


def _make_row(row: BatchRow) -> tuple[Words, ...]:
    ran = row.exit_code == 0
    latency = f"latency {row.ratio:.3f}x" if row.ratio is not None else ""
    return (
        name(row.name),
        OUTCOMES[row.outcome][0],
        f"{row.rewrites:,}" if ran else "",
        f"{row.biases_before:,} → {row.biases_after:,}" if ran else "",
        wording.plain(row.why) or latency,
    )


def _make_case(row: BatchRow) -> Case:
    said, verdict = OUTCOMES[row.outcome]
    return Case("models", row.name, verdict, f"{said}: {row.why}" if row.why else said, seconds=row.seconds)


_TEMPLATES = Path(__file__).parents[1] / "templates"
SCRIPT = """
for (const head of document.querySelectorAll("th")) head.addEventListener("click", () => {
  const body = document.querySelector("tbody"), place = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  const value = row => { const text = row.cells[place].dataset.value; return isNaN(text) ? text : Number(text); };
  const rows = [...body.rows].sort((a, b) => { const x = value(a), y = value(b); return x < y ? -1 : x > y ? 1 : 0; });
  for (const other of document.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...(down ? rows.reverse() : rows));
});
"""


def render_page(found: BatchResult, records: Path) -> str:
    """The page; links are relative to ``records``, in which it lies."""
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template("batch.html").render(
        head=f"{len(found.rows):,} models: {describe_counts(found)}",
        tone="ok" if not found.exit_code else "skip" if found.exit_code == 4 else "bad",
        rows=[
            (row, OUTCOMES[row.outcome][0], plain(row.name), plain(row.why), _link(row, records)) for row in found.rows
        ],
        script=SCRIPT,
        policy="sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
    )
    return break_commands(page, in_markup=True)


def _link(row: BatchRow, records: Path) -> str:
    """Where the row's report lies, beside the page; empty where there is none."""
    if row.report is None:
        return ""
    return quote(os.fsencode(os.path.relpath(Path(row.report) / "report.html", records.resolve())))
