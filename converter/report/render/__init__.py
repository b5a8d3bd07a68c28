"""One file a form: a `converter.report.blocks.Report` in, text out. A new form is its file and its row in `FORMS`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from converter.dataclass import dataclass

if TYPE_CHECKING:
    from converter.report.blocks import Report


@dataclass(frozen=True, slots=True)
class Form:
    """The file that a form is written to, and the function that makes it; its module loads when it is called."""

    file: str
    module: str
    function: str
    is_markup: bool = False

    def render(self, report: Report) -> str:
        """The report in this form; a job that prints the file gives no orders to the CI's runner."""
        from converter.report.wording import break_commands

        make: Callable[[Report], str] = getattr(import_module(f"{__name__}.{self.module}"), self.function)
        return break_commands(make(report), in_markup=self.is_markup)


FORMS = {
    "md": Form("report.md", "markdown", "render_markdown"),
    "html": Form("report.html", "html", "render_html", is_markup=True),
    "junit": Form("report.xml", "junit", "render_junit", is_markup=True),
    "text": Form("report.txt", "text", "render_text"),
}
