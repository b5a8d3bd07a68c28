"""What was found, outside of the command line: as a page in a notebook, and as lines for a failed assertion."""

from __future__ import annotations

import html
from typing import Any

from converter._version import __version__
from converter.records import Latency, Parity
from converter.records.ablate import AblateResult
from converter.records.results import FoldResult, InspectResult
from converter.records.study import StudyResult
from converter.report.blocks import Report
from converter.report.content import Run

_RUN = Run(__version__)


def display(result: Any) -> str:
    """What a notebook shows of a result: its page in a frame, so that neither's style touches the other.

    `inspect` has no page; its lines are shown as they are.
    """
    report = make_report(result)
    if report.command == "inspect":
        return f"<pre>{html.escape(render_lines(report))}</pre>"
    from converter.report.render.html import render_html

    page = html.escape(render_html(report), quote=True)
    return f'<iframe srcdoc="{page}" style="width:100%;height:36em;border:0" sandbox></iframe>'


def render_lines(report: Report, most: int | None = None) -> str:
    """The report as plain text, or its first lines."""
    from converter.report.render.text import render_text

    lines = render_text(report).rstrip().splitlines()
    return "\n".join(lines[:most])


def make_report(result: Any) -> Report:
    """The report of what a function of the API returned.

    Raises
    ------
    TypeError
        There is no report of such a thing.
    """
    match result:
        case FoldResult() | InspectResult():
            return _report_of_passes(result)
        case Parity():
            from converter.report.content.verify import verify_report

            return verify_report(result, _RUN)
        case Latency():
            from converter.report.content.bench import bench_report

            return bench_report(result, _RUN)
        case AblateResult():
            from converter.report.content.ablate import ablate_report

            return ablate_report(result, _RUN)
        case StudyResult():
            from converter.report.content.study import study_report

            return study_report(result, _RUN)
    raise TypeError(f"there is no report of a {type(result).__name__}")


def _report_of_passes(result: InspectResult) -> Report:
    from converter.report.content.fold import collect_reasons, fold_report
    from converter.report.content.inspect import inspect_report
    from converter.rewrite.passes import PASSES

    reasons = collect_reasons(PASSES)
    if not isinstance(result, FoldResult):
        return inspect_report(result, reasons)
    removal = getattr(result, "removal", None) or {}
    return fold_report(result, reasons, _RUN, removal.get("said", ()))
