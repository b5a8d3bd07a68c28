"""``doctor``: what is installed, what of it works, and what to do about the rest."""

from __future__ import annotations

from converter.report.save import show


def run(provider: str, *, as_json: bool) -> int:
    """The command: print, and return 0 if the provider works, else 3."""
    from converter.report import documents
    from converter.report.content.doctor import doctor_report
    from converter.runtime.inventory import take_inventory

    found = take_inventory(provider)
    show(lambda: documents.doctor_document(found), lambda: doctor_report(found), as_json=as_json)
    return 0 if found.works else 3
