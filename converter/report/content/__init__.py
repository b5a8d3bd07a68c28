"""What each command found, as blocks: records in, a `converter.report.blocks.Report` out.

A field of a record that is to be seen is one line here, and in every form.
"""

from __future__ import annotations

from converter.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """What a report says of the run beside what the run found."""

    version: str = ""
    schema: str = ""
    command_line: str = ""
    exit_code: int = 0
