"""``report``: a report made again, in other formats or by other limits."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from converter.report import terminal


def run(document: Path, folder: Path | None, formats: Sequence[str], **limits: Any) -> int:
    """The command: read the document, write or print it, and return the exit code."""
    import click

    from converter.report import again, files

    if not folder and len(formats) > 1:
        raise click.UsageError("several --formats need a folder: give --output.")
    made = again.made(document, **limits)
    files.prepare(folder)
    files.save(made.document, folder, formats or files.FORMATS)
    if not folder:
        terminal.say(again.shown(made, formats[0] if formats else "text", sys.stdout))
    return int(made.exit_code)
