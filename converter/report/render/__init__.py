"""One file a form: a `converter.report.blocks.Report` in, text out; `DATA_FORMS` are made of the document itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True, slots=True)
class DataForm:
    """A form that is made of the document's own fields: of numbers, not of sentences."""

    file: str
    function: str

    def render(self, document: Mapping[str, Any]) -> str:
        """The document in this form."""
        make: Callable[[Mapping[str, Any]], str] = getattr(import_module(f"{__name__}.pipeline"), self.function)
        return make(document)


DATA_FORMS = {
    "metrics": DataForm("metrics.json", "render_metrics"),
    "bmf": DataForm("bmf.json", "render_bmf"),
    "openmetrics": DataForm("metrics.txt", "render_openmetrics"),
    "card": DataForm("card.md", "render_card"),
}
