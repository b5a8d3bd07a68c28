"""Do two models give the same answers?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter._version import __version__
from converter.records import Parity
from converter.records.options import STAGES, VerifyOptions, documented, merged
from converter.report import terminal
from converter.report.ending import Ending

if TYPE_CHECKING:
    from onnx import ModelProto


@documented(VerifyOptions)
def compare(
    a: Path | str | bytes | ModelProto,
    b: Path | str | bytes | ModelProto,
    options: VerifyOptions | None = None,
    **keywords: Any,
) -> Parity:
    """Judge whether ``b`` computes what ``a`` computes, up to rounding, by every stage that there is.

    Parameters
    ----------
    a, b : path, bytes or ModelProto
        The original and the rewritten model; any two models with the same inputs and outputs.
    options : VerifyOptions, optional
        Or as keywords; all stages by default.
    {options}

    Returns
    -------
    Parity
        ``verdict`` PASS, FAIL or INCONCLUSIVE, with the evidence in ``stages``.

    Raises
    ------
    ModelError, DataError, RuntimeUnavailable
        A model, its inputs or the provider is not what was asked for.

    Examples
    --------
    >>> import converter
    >>> parity = converter.compare("a.onnx", "b.onnx", inputs="data.npz")  # doctest: +SKIP
    >>> parity.verdict  # doctest: +SKIP
    <Verdict.PASS: 'PASS'>
    """
    from converter.referee import verify  # its libraries load slowly

    asked = merged(VerifyOptions, options, keywords)
    return verify.compare(a, b, replace(asked, stages=STAGES if asked.stages is None else asked.stages, timed=True))


def run(
    a: Path,
    b: Path,
    ending: Ending,
    *,
    on_inconclusive: str,
    bisects: bool,
    verbose: bool,
    argv: Sequence[str],
    **given: Any,
) -> int:
    """The command: compare, report, and return the exit code."""
    import click

    from converter.report import document
    from converter.report.content import Run
    from converter.report.content.verify import verify_report

    if not given["decide"] and (given["decision"] or given["labels"] or given["metric"] != "top1"):
        raise click.UsageError("--no-decision excludes --decision, --labels and --metric.")
    ending.prepare()
    with terminal.progress(quiet=ending.quiet) as progress:
        options = VerifyOptions(failing=ending.folder, progress=progress, **given)
        parity = compare(a, b, options)
        if bisects:
            from converter.commands.bisect import with_blame

            parity = with_blame(parity, a, b, options)
    exit_code = document.code(parity.verdict, on_inconclusive)
    return ending.end(
        exit_code,
        lambda: document.verify_document(parity, argv=argv, version=__version__, exit_code=exit_code),
        lambda: verify_report(parity, Run()),
        lambda: parity.why,
        verbose=verbose,
    )
