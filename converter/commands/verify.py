"""Do two models give the same answers?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter._version import __version__
from converter.commands.targets import check_reports
from converter.records import Parity, Verdict, exit_code_of
from converter.records.option import documented, merge_options
from converter.records.options import STAGES, VerifyOptions
from converter.report import terminal
from converter.report.save import Ending

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
    asked = merge_options(VerifyOptions, options, keywords)
    return judge(a, b, replace(asked, stages=STAGES if asked.stages is None else asked.stages, timed=True))


def judge(a: Path | str | bytes | ModelProto, b: Path | str | bytes | ModelProto, asked: VerifyOptions) -> Parity:
    """The referee's verdict, in a child process where that is asked for; inconclusive where the child dies."""
    from converter.referee import verify  # its libraries load slowly

    if not asked.isolated:
        return verify.compare(a, b, asked)
    from converter.isolation import Died, run_isolated

    try:
        return run_isolated(
            lambda tell: verify.compare(a, b, replace(asked, progress=tell)),
            Parity,
            seconds=asked.timeout,
            n_bytes=memory_limit(asked.max_memory),
            progress=asked.progress,
        )
    except Died as died:
        why = f"the comparison {died}"
        return Parity(Verdict.INCONCLUSIVE, "D", scope="none", why=why)


def memory_limit(asked: int | None) -> int | None:
    """Resident bytes at which the child that runs the models is ended; None where the system does not say.

    What is asked for bounds a float64 run alone: onnxruntime holds its own copies of both models beside it, and the
    libraries a few hundred megabytes.
    """
    from converter.runtime.machine import find_free_bytes

    if asked is not None:
        return 2 * asked + (1 << 30)
    free = find_free_bytes()
    return None if free is None else free * 9 // 10


def run(
    a: Path,
    b: Path | None,
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

    from converter.report import documents
    from converter.report.content import Run
    from converter.report.content.verify import verify_report

    if not given["decide"] and (given["decision"] or given["labels"] or given["metric"] != "top1"):
        raise click.UsageError("--no-decision excludes --decision, --labels and --metric.")
    if b is None:
        if (given["provider_a"] or given["provider"]) == (given["provider_b"] or given["provider"]):
            raise click.UsageError(
                "Missing B: give it, or --provider-a and --provider-b to compare A on two providers."
            )
        b = a
    read = (given.get(name) for name in ("inputs", "labels", "custom_ops"))
    check_reports(ending.list_files("failing_inputs.npz"), a, b, *read)
    ending.prepare("failing_inputs.npz")
    with terminal.progress(quiet=ending.quiet) as progress:
        options = VerifyOptions(failing=ending.folder, progress=progress, isolated=True, **given)
        parity = compare(a, b, options)
        if bisects:
            from converter.commands.bisect import with_blame

            parity = with_blame(parity, a, b, options)
    exit_code = exit_code_of(parity.verdict, on_inconclusive)
    return ending.end(
        exit_code,
        lambda: documents.verify_document(parity, argv=argv, version=__version__, exit_code=exit_code),
        lambda: verify_report(parity, Run()),
        lambda: parity.why,
        verbose=verbose,
    )
