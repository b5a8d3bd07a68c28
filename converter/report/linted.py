"""What ``biasopt lint`` prints, in the form that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from converter.records.lint import LintReport, Location


class RefusedCall(Protocol):
    """A bias whose constructing call stays as it is."""

    @property
    def parameter(self) -> str: ...

    @property
    def location(self) -> Location | None: ...

    @property
    def why(self) -> str: ...


class EditedFile(Protocol):
    """A source file that changes."""

    @property
    def path(self) -> Path: ...

    @property
    def n_calls(self) -> int: ...

    @property
    def readers(self) -> tuple[int, ...]: ...


class Fix(Protocol):
    """All edits, and what was refused."""

    @property
    def edited(self) -> Sequence[EditedFile]: ...

    @property
    def refused(self) -> Sequence[RefusedCall]: ...


def rendered(
    report: LintReport,
    version: str,
    argv: Sequence[str],
    exit_code: int,
    *,
    stream: TextIO,
    as_json: bool = False,
    sarif: bool = False,
    github: bool = False,
    verbose: bool = False,
) -> str:
    """The report as text, JSON, SARIF or annotations."""
    from converter.report import lint_json, lint_sarif, to_json

    if as_json:
        return to_json.dumps(lint_json.lint_json(report, version, argv=argv, exit_code=exit_code))
    if sarif:
        return to_json.dumps(lint_sarif.sarif(report, version, Path.cwd()))
    if github:
        return lint_sarif.workflow_commands(report, Path.cwd())
    from converter.report import lint_text
    from converter.report.render import text

    return text.lay_out(lint_text.lint_blocks(report, Path.cwd(), verbose=verbose), stream, lint_text.WIDTH)


def fix_lines(fix: Fix, *, wrote: bool) -> Iterator[str]:
    """What to say of a source fix beside its diff."""
    for item in fix.edited:
        done = "written" if wrote else "would be written; --write does it"
        yield f"{item.path.name}: bias=False in {item.n_calls} calls, {done}"
        if item.readers:
            lines = ", ".join(map(str, item.readers[:5]))
            yield f"{item.path.name}: reads .bias on line {lines}: see that it may be None"
    for refused in fix.refused:
        where = f" ({Path(refused.location.path).name}:{refused.location.line})" if refused.location else ""
        yield f"left {refused.parameter}{where}: {refused.why}"
    if not fix.edited and not fix.refused:
        yield "nothing to fix: no bias before a norm was found dead"
    if fix.edited:
        yield "old checkpoints: biasopt lint SPEC --fix-checkpoint IN OUT, before the source is fixed"
