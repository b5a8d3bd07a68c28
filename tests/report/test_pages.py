from __future__ import annotations

from converter.records import Safety
from converter.report import docs
from tests.report.made import Guard, Pass

FOLD = Pass(
    "fold-this-into-that",
    guards=(Guard("this-shared", "another node reads this"), Guard("odd", "that is |odd|")),
    after=("tidy-up",),
    page="This becomes that.\n\nGiven  x\nResult y",
)
ROWS = [Pass("tidy-up", safety=Safety.EXACT), FOLD]

PAGE = """\
fold-this-into-that
===================

This becomes that.

Given  x
Result y

Declines, in this order:
  this-shared  another node reads this
  odd          that is |odd|

Outputs: equal up to float rounding
Order: 2 of 2, after tidy-up
"""


def test_a_page_is_the_text_the_guards_the_promise_and_the_place() -> None:
    assert docs.render_page(FOLD, ROWS) == PAGE


def test_a_pass_without_guards_says_so() -> None:
    assert "Declines: never" in docs.render_page(ROWS[0], ROWS)


def test_the_table_links_to_the_pages() -> None:
    table = docs.passes_table(ROWS).splitlines()
    assert table[2] == "| 1 | [`tidy-up`](#tidy-up) | one becomes the other | exact |"
    assert len(table) == 4


def test_all_pages_in_one_document() -> None:
    document = docs.passes_markdown(ROWS)
    assert "\n## tidy-up\n" in document
    assert "\n## fold-this-into-that\n\n```text\nThis becomes that.\n\nGiven  x\nResult y\n```\n" in document
    assert "| `odd` | that is \\|odd\\| |" in document
    assert "- Order: 2 of 2, after tidy-up\n" in document
