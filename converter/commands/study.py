"""Does bias make a difference? ``study``: small nets trained with and without, and what that says of the claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.errors import RuntimeUnavailable
from converter.records import study as records
from converter.records.option import documented, merge_options
from converter.records.options import StudyOptions
from converter.report import terminal
from converter.report.documents import study_document
from converter.report.save import Ending
from converter.study.answer import summarize_study
from converter.study.data import load_dataset
from converter.study.plan import StudyScope, parse_blocks

QUICK, DEFAULT = 240.0, 1200.0  # seconds


class StudyResult(records.StudyResult):
    """What was measured and what it says: ``rows`` hold one model each; everything else follows from them."""

    def document(self, argv: Sequence[str] = ()) -> dict[str, Any]:
        """``biasopt.study/1``, from which every report is made."""
        return study_document(self, __version__, argv=argv)


@documented(StudyOptions)
def run_study(dataset: str = "digits", options: StudyOptions | None = None, **keywords: Any) -> StudyResult:
    """Train small convolutional nets with and without biases, and judge the difference.

    Parameters
    ----------
    dataset : str
        As in the options; those, or keywords, say all else.
    options : StudyOptions, optional
    {options}

    Raises
    ------
    DataError
        The data set cannot be read.
    RuntimeUnavailable
        torch or the device is not there.
    BiasoptError
        ``out`` holds another study.
    ValueError
        A block's name is unknown.
    """
    base = merge_options(StudyOptions, options, keywords)
    asked = base if options is not None else replace(base, dataset=dataset)
    chosen = tuple(parse_blocks(asked.blocks))
    try:
        from converter.study import run as training
    except ImportError as missing:
        if (missing.name or "").partition(".")[0] != "torch":
            raise
        raise RuntimeUnavailable("study trains with torch, which is not installed; install biasopt[torch]") from missing
    training.check_device(asked.device)
    how = training.RunOptions(
        key=asked.seed,
        device=asked.device,
        lanes=asked.jobs,
        budget=asked.max_time or (QUICK if asked.quick else DEFAULT),
        out=None if asked.out is None else Path(asked.out),
        tell=asked.progress or (lambda stage: None),
    )
    full = asked.full or asked.preset == "gpu"
    images = load_dataset(asked.dataset, None if asked.data_dir is None else Path(asked.data_dir), full)
    wanted = StudyScope(chosen, asked.seeds, asked.quick, asked.no_bias_anywhere, asked.preset)
    done = training.run_study(images, wanted, how)
    return summarize_study(done, asked.margin, StudyResult, quick=asked.quick, preset=asked.preset)


def run(ending: Ending, *, jobs: int | None, argv: Sequence[str], **given: Any) -> int:
    """The command: train, report, and return the exit code."""
    from converter.report import save
    from converter.report.blocks import Report
    from converter.runtime.session import count_cores

    save.check_formats(ending.formats)
    ending.prepare(
        goes_on=given["out"] is not None and ending.holds_report_of(argv)
    )  # both before the work that the reports tell of
    with terminal.progress(quiet=ending.quiet) as progress:
        side_by_side = jobs or (2 if given["device"] == "cuda" else count_cores())  # one GPU feeds few
        result = run_study(jobs=side_by_side, progress=progress, **given)
    document = result.document(argv)

    def tell() -> Report:
        from converter.report.content.study import study_report
        from converter.report.documents import run_of

        return study_report(result, run_of(document))

    return ending.end(result.exit_code, lambda: document, tell, lambda: result.verdict.sentence)
