"""How a command ends: reports into a folder, the finding on stdout, on stderr why it failed, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.report import files, terminal

if TYPE_CHECKING:
    from converter.report.blocks import Report
    from converter.report.render.text import Lines

Document = Callable[[], Mapping[str, Any]]
Blocks = Callable[[], "Report | list[Lines]"]


@dataclass(frozen=True, slots=True)
class Ending:
    """What is to become of what a command finds."""

    folder: Path | None = None
    formats: Sequence[str] = files.FORMATS
    as_json: bool = False
    quiet: bool = False

    def prepare(self) -> None:
        """Make sure of the folder before the work that the reports tell of."""
        files.prepare(self.folder)

    def end(
        self, exit_code: int, document: Document, blocks: Blocks, why: Callable[[], str], *, verbose: bool = False
    ) -> int:
        """Write the reports and print; where that does not show why the command fails, say it on stderr.

        Parameters
        ----------
        document, blocks, why : callables
            Called only where they are needed: some of what they load is slow.

        Returns
        -------
        int
            The exit code.
        """
        if self.folder is not None:
            files.save(document(), self.folder, self.formats)
        if not self.quiet or self.as_json:
            show(document, blocks, as_json=self.as_json, verbose=verbose)
        if (self.as_json or self.quiet) and exit_code:
            terminal.note(why())
        return exit_code


def show(document: Document, blocks: Blocks, *, as_json: bool, width: int | None = None, verbose: bool = False) -> None:
    """Print the document, or for people what the blocks hold; ``width`` where that goes to no terminal."""
    if as_json:
        from converter.report import serialize

        terminal.say(serialize.dumps(document()))
    else:
        from converter.report.blocks import Report
        from converter.report.render import text  # rich loads only where it is shown

        found = blocks()
        if isinstance(found, Report):
            terminal.say(text.render_text(found, sys.stdout, verbose=verbose))
        else:
            terminal.say(text.lay_out(found, sys.stdout, 110 if width is None else width))
