"""The summary of a batch as one HTML page: a table that a click on a title sorts, each row with a link to its report.

This page alone has a script, of a few lines that are written here; its hash is in the page's policy, so that no other
runs, whatever a model is called.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from converter.records.batch import BatchResult, BatchRow
from converter.report.content.batch import OUTCOMES, describe_counts
from converter.report.wording import break_commands, plain

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
