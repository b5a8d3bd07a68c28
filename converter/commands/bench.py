"""Is B slower than A on this machine?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter._version import __version__
from converter.commands.targets import check_reports
from converter.errors import RuntimeUnavailable
from converter.records import Latency, exit_code_of
from converter.records.option import documented, merge_options
from converter.records.options import BenchOptions
from converter.report import terminal
from converter.report.save import Ending

if TYPE_CHECKING:
    from onnx import ModelProto


@documented(BenchOptions)
def measure_latency(
    a: Path | str | bytes | ModelProto,
    b: Path | str | bytes | ModelProto,
    options: BenchOptions | None = None,
    **keywords: Any,
) -> Latency:
    """How long ``b`` takes beside ``a``, and whether that is what was asked for.

    Parameters
    ----------
    a, b : path, bytes or ModelProto
        The models; both must take the same inputs.
    options : BenchOptions, optional
        Or as keywords.
    {options}

    Raises
    ------
    ModelError, DataError, RuntimeUnavailable
        A model cannot be loaded or run as was asked.
    ValueError
        An option is none of those above.
    """
    from converter.bench.compare import Request, compare
    from converter.bench.design import Design, parse_gate
    from converter.referee.proto.source import LoadedModel, check_data_files
    from converter.runtime.timing import Deployment

    asked = merge_options(BenchOptions, options, keywords)
    plan = {name: getattr(asked, name) for name in ("sessions", "blocks", "pairs", "max_time")}
    chosen: dict[str, Any] = {name: value for name, value in plan.items() if value is not None}
    chosen |= {"gate": parse_gate(asked.gate), "margin": asked.margin, "alpha": asked.alpha, "seed": asked.seed}
    chosen["advice"] = asked.advice
    how = Deployment(
        provider=asked.provider,
        options=dict(asked.provider_options or {}),
        level=asked.opt_level,
        threads=asked.threads,
        custom_ops=None if asked.custom_ops is None else Path(asked.custom_ops),
        cuda_graph=asked.cuda_graph,
        include_h2d=asked.include_h2d,
    )
    request = Request(
        design=Design.fast(**chosen) if asked.quick else Design(**chosen),
        how=how,
        feeds=asked.inputs,
        shapes=asked.shapes,
        batch=asked.batch,
        flush=asked.flush_l2,
        unoptimised=asked.show_unoptimised,
        samples=asked.samples,
    )

    def measure(tell: Callable[[str], None]) -> Latency:
        left = LoadedModel.open(a, asked.data_dirs[0], label="A")
        right = LoadedModel.open(b, asked.data_dirs[1], label="B")
        for model in (left, right):
            check_data_files(model)
        return compare(left, right, replace(request, say=tell))

    tell = asked.progress or (lambda stage: None)
    if not asked.isolated:
        return measure(tell)
    from converter.commands.verify import memory_limit
    from converter.isolation import Died, run_isolated

    try:
        return run_isolated(measure, Latency, seconds=asked.timeout, n_bytes=memory_limit(None), progress=tell)
    except Died as died:
        raise RuntimeUnavailable(f"the benchmark {died}; onnxruntime does not run these models to an end") from died


def run(a: Path, b: Path, ending: Ending, *, on_inconclusive: str, argv: Sequence[str], **given: Any) -> int:
    """The command: measure, report, and return the exit code."""
    import click

    from converter.report import documents
    from converter.report.content import Run
    from converter.report.content.bench import bench_report

    inputs = given.pop("inputs")
    if inputs and len(inputs) > 1:
        raise click.UsageError("bench runs on one set of inputs: give --inputs once.")
    check_reports(ending.list_files("samples.npz"), a, b, inputs, given.get("custom_ops"))
    ending.prepare("samples.npz")
    given |= {"inputs": inputs and inputs[0], "samples": ending.folder and ending.folder / "samples.npz"}
    with terminal.progress(quiet=ending.quiet, still=True) as progress:
        latency = measure_latency(a, b, progress=progress, isolated=True, **given)
    exit_code = exit_code_of(latency.verdict, on_inconclusive)
    return ending.end(
        exit_code,
        lambda: documents.bench_document(latency, argv=argv, version=__version__, exit_code=exit_code),
        lambda: bench_report(latency, Run()),
        lambda: latency.why,
    )
