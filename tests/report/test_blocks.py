"""Every block in every form: nothing is lost, and nothing from a model is markup."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest

from converter.records import Verdict
from converter.report import blocks as b
from converter.report import charts, wording
from converter.report.blocks import Medium, Report, Section
from converter.report.render import FORMS

HOSTILE = "<script>|`*x*\x1b[2J"
PLAIN = wording.plain(HOSTILE)  # as charts get it
TABLE = b.Table((b.Column("where"), b.Column("n", right=True)), [(b.name(HOSTILE), "1"), (Verdict.FAIL, "2")])
BLOCKS: tuple[Any, ...] = (
    b.Paragraph((HOSTILE, b.strong("strong"), b.quiet("quiet"), b.code("code"))),
    b.VerdictLine(Verdict.PASS, HOSTILE, "why", "Parity"),
    b.Warnings([HOSTILE]),
    TABLE,
    b.KeyValues([(HOSTILE, HOSTILE)]),
    b.ListBlock([HOSTILE]),
    b.Checks([b.Check("key", Verdict.FAIL, HOSTILE, HOSTILE, HOSTILE, "1 s", (TABLE,))]),
    b.Measures([b.Measure(HOSTILE, "1", "of 2", lambda: charts.draw_bullet(1.0, 2.0, Verdict.PASS, PLAIN))]),
    b.Tiles([b.Tile(HOSTILE, "1", "2", "+1")]),
    b.Ladder("How strong?", [("A", HOSTILE)], "A"),
    b.Chart(lambda: charts.chart(10, PLAIN), HOSTILE, HOSTILE),
    b.Picture("a.svg", HOSTILE),
    b.Details(HOSTILE, (TABLE,)),
    b.Heading(HOSTILE),
    b.Code(HOSTILE),
    b.Tree(b.TreeNode("root", HOSTILE, HOSTILE, [b.TreeNode("stops", HOSTILE, HOSTILE)])),
    b.Only(Medium.ALL, b.Paragraph(HOSTILE)),
)


def report(*blocks: Any) -> Report:
    return Report("test", HOSTILE, Verdict.FAIL, HOSTILE, HOSTILE, (Section(HOSTILE, blocks),), warnings=[HOSTILE])


def test_every_block_is_tried() -> None:
    assert {type(block) for block in BLOCKS} == set(get_args(b.Block))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
def test_every_form_takes_every_block_and_escapes_it(form: str, block: Any) -> None:
    said = FORMS[form].render(report(block))
    assert said.endswith("\n")
    assert "\x1b" not in said
    code = r"(?s:```.*?```)|(?<!\\)(`+)(?:(?!\1).)*\1"  # in Markdown, where nothing is markup
    assert form == "text" or "<script>" not in re.sub(code, "", said)


def test_a_medium_sees_its_own_blocks_alone() -> None:
    shown = report(b.Only(Medium.SCREEN, b.Paragraph("screen")), b.Only(Medium.FILES, b.Paragraph("files")))
    assert "screen" in FORMS["text"].render(shown)
    assert "files" not in FORMS["text"].render(shown)
    assert "screen" not in FORMS["html"].render(shown)


def test_what_is_left_out_is_counted() -> None:
    rows = [(f"{k}",) for k in range(7)]
    table = b.Table((b.Column("k"),), rows, most={Medium.TERMINAL: 5, Medium.COMMENT: 6}, rest="{rest} of {total} more")
    assert "2 of 7 more" in FORMS["text"].render(report(table))
    assert "1 of 7 more" in FORMS["md"].render(report(table))
    assert "more" not in FORMS["html"].render(report(table)).partition("<body>")[2]


def test_a_section_without_anything_to_show_is_not_there() -> None:
    assert "Title" not in FORMS["text"].render(Report("t", "", None, "", "", (Section("Title", (b.KeyValues([]),)),)))
