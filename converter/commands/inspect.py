"""Find what a fold would do, without doing it: ``inspect``, and ``explain`` for one bias."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
import onnx

from converter._version import __version__
from converter.errors import BiasoptError, ModelError
from converter.model.file import contradiction, problems
from converter.model.graph import Graph, load, stored_files
from converter.records import Fate, Status, count_biases
from converter.records.option import documented, merge_options
from converter.records.options import InspectOptions
from converter.records.results import InspectResult, TensorPort
from converter.report import terminal
from converter.report.save import show
from converter.rewrite import pipeline
from converter.rewrite.analysis import recurrent as rnn
from converter.rewrite.analysis.facts import Facts, PassOptions
from converter.rewrite.bias_flow.fates import NoSuchBias, find_bias
from converter.rewrite.pipeline import run_passes

Model = str | Path | onnx.ModelProto | bytes
Result = TypeVar("Result", bound=InspectResult)


@documented(InspectOptions)
def inspect(model: Model, options: InspectOptions | None = None, **keywords: Any) -> InspectResult:
    """Find what `fold` would do, without writing. The same passes run on the same graph.

    Parameters
    ----------
    model : path, bytes or ModelProto
    options : InspectOptions, optional
    {options}

    Raises
    ------
    ModelError
        The model cannot be read.
    ValueError
        A name is no pass's.
    """
    asked = merge_options(InspectOptions, options, keywords)
    passes = pipeline_options(asked)
    with _run_passes(model, asked, passes) as (graph, outcome), blaming_the_model(graph):
        blocked = count_blocked_folds(model, asked, passes, outcome)
        return describe(graph, outcome, blocked, InspectResult, **_describe_file(graph))


@documented(InspectOptions)
def explain(model: Model, node: str, options: InspectOptions | None = None, **keywords: Any) -> Fate:
    """Say what becomes of one bias, with every node that its shift meets on the way.

    Parameters
    ----------
    model : path, bytes or ModelProto
    node : str
        A node that bears a bias (by its name or label), its output, or the bias tensor's name.
    options : InspectOptions, optional
    {options}

    Returns
    -------
    Fate
        The path of a bias that goes is that of the moment when it goes; of one that stays, the path in
        the folded model.

    Raises
    ------
    ModelError
        The model cannot be read.
    NoSuchBias
        No bias is called that; the message names those that come near.
    ValueError
        A name is no pass's.
    """
    asked = merge_options(InspectOptions, options, keywords)
    ops: dict[str, str] = {}

    def note_ops(graph: Graph) -> None:
        ops.update({n.label: str(n.op) for n in graph.nodes()})

    with _run_passes(model, asked, pipeline_options(asked), note_ops) as (_, outcome):
        return find_bias(outcome.fates, node, ops)


@contextlib.contextmanager
def _run_passes(
    model: Model,
    asked: InspectOptions,
    passes: pipeline.Options,
    before: Callable[[Graph], None] = lambda graph: None,
) -> Iterator[tuple[Graph, pipeline.Outcome]]:
    """The graph of a model after the passes, told to ``before`` as it came; closed in the end."""
    with silence_graphsurgeon():
        graph = load(model, data=asked.data_dir, freeze_overridable=asked.freeze_overridable)
        try:
            before(graph)
            with blaming_the_model(graph):
                graph, outcome = run_passes(graph, reopener(model, asked), passes, asked.progress)
            if graph.file.was_written_out:
                before(graph)
            yield graph, outcome
        finally:
            graph.close()


def reopener(model: Model, asked: InspectOptions) -> Callable[[], Graph]:
    """The same model once more, with its functions written out."""
    how: dict[str, Any] = {"data": asked.data_dir, "freeze_overridable": asked.freeze_overridable}
    return lambda: load(model, written_out=True, **how)


def pipeline_options(asked: InspectOptions, stop_after: int | None = None) -> pipeline.Options:
    """What the passes are to do.

    Raises
    ------
    ValueError
        A name is no pass's.
    """
    for name, given in (("only", asked.only), ("skip", asked.skip), ("allow", asked.allow)):
        if isinstance(given, str):
            raise TypeError(f"{name} takes several names, not one string; write [{given!r}]")
    only = None if asked.only is None else frozenset(asked.only)
    skipped, allowed = frozenset(asked.skip), frozenset(asked.allow)
    unknown = pipeline.unknown_passes(sorted((only or frozenset()) | skipped | allowed))
    if unknown:
        raise ValueError(f"no pass is named {', '.join(unknown)}")
    how = PassOptions(asked.keep_bn, asked.no_growth)
    return pipeline.Options(only, skipped, allowed, stop_after, how, asked.allow_growth)


def _measure_data(graph: Graph) -> int:
    """Bytes of the files of its external data."""
    try:
        return sum(Path(p).stat().st_size for p in stored_files(graph))
    except OSError as exc:
        raise ModelError(
            f"{exc.filename}: is gone ({exc.strerror}); put it beside the model, and run this again"
        ) from exc


def read_ports(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorPort, ...]:
    """Inputs or outputs of a graph; an open size is its name, or ``?``."""
    from converter.referee.proto.source import get_dtype

    found = []
    for value in values:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            found.append(TensorPort(value.name, (kind or "unknown").removesuffix("_type"), ()))
            continue
        tensor = value.type.tensor_type
        dtype = get_dtype(tensor.elem_type)
        dims = (d.dim_param or (int(d.dim_value) if d.HasField("dim_value") else "?") for d in tensor.shape.dim)
        shape = tuple(dims) if tensor.HasField("shape") else ("...",)
        found.append(TensorPort(value.name, "string" if dtype is None else str(dtype), shape))
    return tuple(found)


def _describe_file(graph: Graph) -> dict[str, Any]:
    """What the file says of itself, as it came: what somebody wants to know first who never saw the model."""
    from converter.referee.proto.source import walk_nodes

    proto = graph.file.skeleton
    constants = {tensor.name for tensor in proto.graph.initializer}
    # protobuf hands bytes back for a text that is no UTF-8
    made_by = [
        p.decode(errors="replace") if isinstance(p, bytes) else p for p in (proto.producer_name, proto.producer_version)
    ]
    counted = Counter(node.op_type for node in walk_nodes(proto))
    return {
        "ir_version": int(proto.ir_version),
        "producer": " ".join(part for part in made_by if part),
        "inputs": read_ports(value for value in proto.graph.input if value.name not in constants),
        "outputs": read_ports(proto.graph.output),
        "operators": dict(sorted(counted.items(), key=lambda item: (-item[1], item[0]))),
    }


def describe(graph: Graph, outcome: pipeline.Outcome, blocked: int, record: type[Result], /, **more: Any) -> Result:
    """What the passes did to a graph; ``blocked`` folds wait for overridable initializers to be constants.

    ``record`` is what holds it, ``more`` what that holds besides.
    """
    main = graph.scopes[0]
    seen, left = count_biases(outcome.fates)  # as the pages count them
    return record(
        path=graph.file.path,
        size_bytes=len(graph.file.buffer) + _measure_data(graph),
        opset=main.opset,
        rewrites=outcome.rewrites,
        findings=outcome.findings,
        before=replace(outcome.before, biases=seen),
        after=replace(outcome.after, biases=left),
        frozen=tuple(sorted(main.frozen_inputs)),
        was_unsorted=graph.file.was_unsorted,
        was_written_out=graph.file.was_written_out,
        stale_shapes=graph.stale_shapes(),
        overridable_blocked=blocked,
        overridable_names=sum(getattr(t, "overridable", False) for t in main.values.values()),
        problem=problems(graph.file.skeleton),
        fates=outcome.fates,
        gates=rnn.find_gates(Facts(graph)),
        **more,
    )


def count_blocked_folds(
    model: Model, asked: InspectOptions, passes: pipeline.Options, outcome: pipeline.Outcome
) -> int:
    """How many more folds there would be if overridable initializers were constants: by trying."""
    stuck = any(f.status is Status.DECLINED and f.code == "overridable" for f in outcome.findings)
    if asked.freeze_overridable or not stuck or passes.stop_after is not None:
        return 0
    graph = load(model, data=asked.data_dir, freeze_overridable=True)
    try:
        return max(0, len(pipeline.run(graph, passes).rewrites) - len(outcome.rewrites))
    finally:
        graph.close()


@contextlib.contextmanager
def blaming_the_model(graph: Graph) -> Iterator[None]:
    """An error of ours on a model whose shapes or names contradict each other is the model's; else it is a bug."""
    try:
        yield
    except BiasoptError:
        raise
    except Exception as exc:
        problem = contradiction(graph.file.skeleton)
        if not problem:
            raise
        first = problem.splitlines()[0]
        raise ModelError(f"{graph.file.label}: is not valid ONNX ({first}); export it again") from exc


@contextlib.contextmanager
def silence_graphsurgeon() -> Iterator[None]:
    """Keep graphsurgeon's own remarks off the user's terminal."""
    from onnx_graphsurgeon.logger import G_LOGGER

    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.CRITICAL
    try:
        yield
    finally:
        G_LOGGER.severity = before


def run(models: tuple[Path, ...], explained: str | None, *, as_json: bool, **given: Any) -> int:
    """The command: print what was found of each model, and return the worst exit code."""
    if len(models) > 1 and (as_json or explained is not None):
        raise click.UsageError("--json and --explain take one MODEL.")
    if explained is not None:
        return _explain(models[0], explained, as_json=as_json, **given)
    return max([_inspect(model, next_to=place > 0, as_json=as_json, **given) for place, model in enumerate(models)])


def _inspect(
    model: Path, *, next_to: bool, gate: str | None, fates: bool, as_json: bool, verbose: bool, **given: Any
) -> int:
    from converter.report import documents
    from converter.report.content.fold import collect_reasons
    from converter.report.content.inspect import inspect_report
    from converter.rewrite.passes import PASSES

    with terminal.progress() as progress:
        result = inspect(model, progress=progress, **given)
    exit_code = 1 if gate == "unchanged" and (result.rewrites or result.frozen) else 0
    terminal.say("\n" * next_to)
    show(
        lambda: documents.inspect_document(result, __version__, exit_code),
        lambda: inspect_report(result, collect_reasons(PASSES), each=fates),
        as_json=as_json,
        verbose=verbose,
    )
    return exit_code


def _explain(
    model: Path, node: str, *, gate: str | None, as_json: bool, fates: bool, verbose: bool, **given: Any
) -> int:
    from converter.report.content.bias_path import explain_report
    from converter.report.documents import explain_document

    if gate is not None:
        raise click.UsageError("--explain and --gate exclude each other.")
    try:
        with terminal.progress() as progress:
            fate = explain(model, node, progress=progress, **given)
    except NoSuchBias as unknown:
        raise click.BadParameter(terminal.one_line(str(unknown)), param_hint="'--explain'") from None
    show(
        lambda: explain_document(fate, model, __version__),
        lambda: explain_report(fate),
        as_json=as_json,
    )
    return 0
