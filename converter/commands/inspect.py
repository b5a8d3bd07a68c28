"""Find what a fold would do, without doing it: ``inspect``, and ``explain`` for one bias."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from converter.errors import BiasoptError, ModelError
from converter.model.file import contradiction, problems
from converter.model.graph import Graph, load, stored_files
from converter.records import Counts, Fate, Finding, Gate, Rewrite, Status
from converter.rewrite import pipeline
from converter.rewrite.analysis import recurrent as rnn
from converter.rewrite.analysis.facts import Facts, PassOptions
from converter.rewrite.bias_flow.fates import find_bias

Model = str | Path | onnx.ModelProto | bytes


@dataclass(frozen=True)
class InspectResult:
    """What `fold` would do and what it would leave."""

    path: Path | None  # None for a model in memory
    size_bytes: int  # of the model and its data files
    opset: int
    rewrites: tuple[Rewrite, ...]
    findings: tuple[Finding, ...]
    before: Counts
    after: Counts
    frozen: tuple[str, ...] = ()  # names taken out of the graph's inputs
    overridable_blocked: int = 0  # folds that freeze_overridable would win
    overridable_names: int = 0
    problem: str = ""  # what onnx's checker says against the model as it came
    fates: tuple[Fate, ...] = ()  # of every bias: where it went, or why it is kept
    gates: tuple[Gate, ...] = ()  # how long LSTMs and GRUs remember on their bias alone


def inspect(
    model: Model,
    *,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    allow: Iterable[str] = (),
    data: str | Path | None = None,
    keep_bn: bool = False,
    no_growth: bool = False,
    freeze_overridable: bool = False,
    progress: Callable[[str], None] | None = None,
) -> InspectResult:
    """Find what `fold` would do, without writing. The same passes run on the same graph.

    Parameters
    ----------
    model : path, bytes or ModelProto
    only, skip, allow : names of passes
    data : path, optional
        Directory of the external data of a proto.
    keep_bn : bool
        Move biases into batch norms instead of folding them.
    no_growth : bool
        Copy no tensor that other nodes read as well.
    freeze_overridable : bool
        Take initializers that are also graph inputs as constants.

    Raises
    ------
    ModelError
        The model cannot be read.
    ValueError
        A name is no pass's.
    """
    options = chosen(only, skip, allow, None, keep_bn, no_growth)
    with quiet():
        graph = load(model, data=data, freeze_overridable=freeze_overridable)
        try:
            with blame(graph):
                outcome = pipeline.run(graph, options, progress)
                blocked = blocked_by_callers(model, data, options, outcome, freeze_overridable)
                return InspectResult(**facts_of(graph, outcome, blocked))
        finally:
            graph.close()


def explain(
    model: Model,
    node: str,
    *,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    allow: Iterable[str] = (),
    data: str | Path | None = None,
    keep_bn: bool = False,
    no_growth: bool = False,
    freeze_overridable: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Fate:
    """Say what becomes of one bias, with every node that its shift meets on the way.

    Parameters
    ----------
    model : path, bytes or ModelProto
    node : str
        A node that bears a bias (by its name or label), its output, or the bias tensor's name.
    only, skip, allow, data, keep_bn, no_growth, freeze_overridable
        As in `inspect`.

    Returns
    -------
    Fate
        The path of a bias that goes is that of the moment when it goes; of one that stays, the path in
        the folded model.

    Raises
    ------
    ModelError
        The model cannot be read.
    UnknownBias
        No bias is called that; the message names those that come near.
    ValueError
        A name is no pass's.
    """
    options = chosen(only, skip, allow, None, keep_bn, no_growth)
    with quiet():
        graph = load(model, data=data, freeze_overridable=freeze_overridable)
        try:
            ops = {n.label: str(n.op) for n in graph.nodes()}
            with blame(graph):
                outcome = pipeline.run(graph, options, progress)
            return find_bias(outcome.fates, node, ops)
        finally:
            graph.close()


def chosen(
    only: Iterable[str] | None,
    skip: Iterable[str],
    allow: Iterable[str],
    stop_after: int | None,
    keep_bn: bool,
    no_growth: bool,
) -> pipeline.Options:
    for name, given in (("only", only), ("skip", skip), ("allow", allow)):
        if isinstance(given, str):
            raise TypeError(f"{name} takes several names, not one string; write [{given!r}]")
    chosen = None if only is None else frozenset(only)
    left_out, allowed = frozenset(skip), frozenset(allow)
    unknown = pipeline.unknown_passes(sorted((chosen or frozenset()) | left_out | allowed))
    if unknown:
        raise ValueError(f"no pass is named {', '.join(unknown)}")
    return pipeline.Options(chosen, left_out, allowed, stop_after, PassOptions(keep_bn, no_growth))


def facts_of(graph: Graph, outcome: pipeline.Outcome, blocked: int) -> dict[str, Any]:
    main = graph.scopes[0]
    return {
        "path": graph.file.path,
        "size_bytes": len(graph.file.buffer) + sum(Path(p).stat().st_size for p in stored_files(graph)),
        "opset": main.opset,
        "rewrites": outcome.rewrites,
        "findings": outcome.findings,
        "before": outcome.before,
        "after": outcome.after,
        "frozen": tuple(sorted(main.frozen)),
        "overridable_blocked": blocked,
        "overridable_names": sum(getattr(t, "overridable", False) for t in main.values.values()),
        "problem": problems(graph.file.skeleton),
        "fates": outcome.fates,
        "gates": rnn.find_gates(Facts(graph)),
    }


def blocked_by_callers(
    model: Model, data: str | Path | None, options: pipeline.Options, outcome: pipeline.Outcome, frozen: bool
) -> int:
    """How many more folds there would be if overridable initializers were constants: by trying."""
    stuck = any(f.status is Status.DECLINED and f.code == "overridable" for f in outcome.findings)
    if frozen or not stuck or options.stop_after is not None:
        return 0
    graph = load(model, data=data, freeze_overridable=True)
    try:
        return max(0, len(pipeline.run(graph, options).rewrites) - len(outcome.rewrites))
    finally:
        graph.close()


@contextlib.contextmanager
def blame(graph: Graph) -> Iterator[None]:
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
def quiet() -> Iterator[None]:
    """Keep graphsurgeon's own remarks off the user's terminal."""
    from onnx_graphsurgeon.logger import G_LOGGER

    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.CRITICAL
    try:
        yield
    finally:
        G_LOGGER.severity = before
