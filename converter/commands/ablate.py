"""What each bias of a model is worth on the user's data: ``ablate``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.ablate.ablate import AblationSettings, ablate, open_model
from converter.ablate.result import summarize_ablation
from converter.ablate.samples import Data, DataSource
from converter.ablate.session import Net, SessionOptions
from converter.ablate.sites import choose_sites
from converter.commands.inspect import Model, blaming_the_model, silence_graphsurgeon
from converter.commands.targets import check_reports
from converter.errors import RuntimeUnavailable
from converter.records import ablate as records
from converter.records.option import documented, merge_options
from converter.records.options import PROBES, AblateOptions
from converter.referee.proto.source import LoadedModel, describe_model, list_free_inputs
from converter.referee.verify.models import find_default_memory
from converter.report import terminal
from converter.report.documents import ablate_document
from converter.report.save import Ending
from converter.report.serialize import ablate_of

_HELD = 4  # of the memory, one part in so many holds the data


class AblateResult(records.AblateResult):
    """What was found out about the biases of one model: ``biases``, those that matter most first."""

    def document(self, argv: Sequence[str] = ()) -> dict[str, Any]:
        """``biasopt.ablate/1``, from which every report is made."""
        return ablate_document(self, __version__, argv=argv)


@documented(AblateOptions)
def score_biases(model: Model, options: AblateOptions | None = None, **keywords: Any) -> AblateResult:
    """Score every bias of Conv, ConvTranspose, Gemm and MatMul + Add: dead, redundant, small, compensable, essential.

    Parameters
    ----------
    model : path, bytes or ModelProto
    options : AblateOptions, optional
        Or as keywords.
    {options}

    Returns
    -------
    AblateResult

    Raises
    ------
    ModelError
        The model cannot be read or run.
    DataError
        There is no data, or it does not fit the model.
    ValueError
        A name is no bias's, or no probe's.
    """
    asked = merge_options(AblateOptions, options, keywords)
    unknown = [p for p in asked.probe if p not in PROBES]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no probe; there are {', '.join(PROBES)}")
    tell = asked.progress or (lambda text: None)
    tell("reading the model")
    with silence_graphsurgeon():
        made = open_model(model, asked.data_dir, folds=asked.fold_first)
        try:
            with blaming_the_model(made.graph):
                sites = choose_sites(made.found.sites, asked.only) if asked.only else list(made.found.sites)
                size = asked.max_memory or find_default_memory()
                given = DataSource(
                    asked.inputs, asked.images, asked.preprocess, asked.shapes, asked.labels, asked.samples
                )
                rows = read(given, made.source, size, tell)
                where = SessionOptions(asked.provider, None if asked.custom_ops is None else Path(asked.custom_ops))
                net = Net(made.source, made.found.sites, where)
                settings = AblationSettings(
                    asked.output, tuple(asked.probe), asked.seed, asked.max_time, size, asked.compensate, tell
                )
                result = ablate(net, sites, rows, settings)
        finally:
            made.graph.close()
    facts = describe_model(LoadedModel.open(model, None if asked.data_dir is None else Path(asked.data_dir)))
    return summarize_ablation(
        result,
        AblateResult,
        model=facts,
        inputs=rows.record,
        seed=asked.seed,
        folded_batch_norms=made.folded,
        uncovered=made.found.uncovered,
    )


def read(given: DataSource, source: LoadedModel, size: int, tell: Callable[[str], None]) -> Data:
    """The data, held where it takes at most a part of ``size`` bytes."""
    tell("reading the data")
    return Data(given, source.proto, list_free_inputs(source.proto), size // _HELD)


def _score_isolated(
    model: Path, argv: Sequence[str], progress: Callable[[str], None], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The document, made in a child process: what onnxruntime does with a stranger's model it does to that."""
    from converter.commands.verify import memory_limit
    from converter.isolation import Died, run_isolated

    def work(tell: Callable[[str], None]) -> dict[str, Any]:
        try:
            return score_biases(model, progress=tell, **given).document(argv)
        except ValueError as unknown:
            return {"unknown": str(unknown)}

    limit = memory_limit(given.get("max_memory"))
    try:
        return run_isolated(work, dict, seconds=math.inf, n_bytes=limit, progress=progress)
    except Died as died:
        raise RuntimeUnavailable(f"{model}: the ablation {died}; onnxruntime does not run it to an end") from died


def run(
    model: Path, ending: Ending, *, top: int | None = None, argv: Sequence[str], question: bool = False, **given: Any
) -> int:
    """The commands ``ablate`` and, with the ``question``, ``ask``: score, report, and return the exit code."""
    import click

    from converter.report import save
    from converter.report.blocks import Report

    if not given["inputs"] and given["images"] is None:
        raise click.UsageError("Give data with --inputs, or images with --images.")
    save.check_formats(ending.formats)
    read = (given.get(name) for name in ("inputs", "labels", "custom_ops"))
    check_reports(ending.list_files(), model, *read)
    ending.prepare()
    with terminal.progress(quiet=ending.quiet) as progress:
        document = _score_isolated(model, argv, progress, given) | {"question": question}
    if "unknown" in document:  # a name that no bias has
        raise click.BadParameter(terminal.one_line(document["unknown"]), param_hint="'--only'")

    def tell() -> Report:
        from converter.report.content.ablate import ablate_report
        from converter.report.documents import run_of

        return ablate_report(ablate_of(document), run_of(document), top)

    return ending.end(0, lambda: document, tell, lambda: "")
