"""``doctor``: what is installed, what works, and what to do; ``passes``: the list of passes, or the pages of some."""

from __future__ import annotations

from collections.abc import Sequence

from converter._version import __version__
from converter.commands.options import REMOVE
from converter.report import terminal
from converter.report.save import show


def run(provider: str, *, as_json: bool) -> int:
    """The command: print, and return 0 if the provider works, else 3."""
    from converter.report import documents
    from converter.report.content.doctor import doctor_report
    from converter.runtime.machine import take_inventory

    found = take_inventory(provider)
    show(lambda: documents.doctor_document(found), lambda: doctor_report(found), as_json=as_json)
    return 0 if found.works else 3


def run_passes(names: Sequence[str], *, as_json: bool) -> int:
    """The command: print, and return the exit code."""
    from converter.report import docs, documents
    from converter.report.content.inspect import passes_report
    from converter.rewrite.passes import PASSES

    chosen = [row for row in PASSES if row.name in names or not names]
    if names and not as_json:
        pages = [docs.render_page(row, PASSES) for row in chosen]
        terminal.say("\n\n".join(pages + [docs.REMOVAL_PAGE] * (REMOVE in names)))
    else:
        document = documents.passes_document(chosen, PASSES, __version__)
        show(lambda: document, lambda: passes_report(PASSES), as_json=as_json)
    return 0
