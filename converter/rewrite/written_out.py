"""The passes on a model with functions: as it is, or with these written out at their calls where that goes further.

A function's weights may be arguments, which differ from call to call, and its attributes as well. Written out, each
call has weights of its own; but the file holds the function's nodes once for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from converter.model.file.preparation import has_calls
from converter.model.graph import Graph, emit, load
from converter.records import Finding, Status
from converter.rewrite import pipeline
from converter.rewrite.growth import external_bytes

_FREE = ("Constant", "Identity")
_WORD = "write-out-functions"  # no pass's name: what its one finding goes by


def run_passes(
    graph: Graph,
    reopen: Callable[[], Graph],
    options: pipeline.Options,
    progress: pipeline.Progress | None = None,
    watch: pipeline.Watch | None = None,
) -> tuple[Graph, pipeline.Outcome]:
    """The graph after the passes, and what they did; another graph than was given (closed then) if functions went.

    Parameters
    ----------
    reopen : callable
        The same model once more, with its functions written out where that can be.
    watch : callable, optional
        Sees every edit of the model as it is: its functions stay.
    """
    stored_before = external_bytes(graph)
    outcome = pipeline.run(graph, options, progress, watch)
    if watch is not None or not has_calls(graph.file.skeleton):
        return graph, outcome
    flat = reopen()
    if not flat.file.was_written_out:
        flat.close()
        return graph, outcome
    whole = replace(options, stop_after=None)  # what is worth it is not to hang on where they stop
    if options.stop_after is not None:
        graph.reset()
        pipeline.run(graph, whole, progress)
    further = pipeline.run(flat, whole, progress)
    flat.most_bytes = graph.most_bytes
    grown = emit(flat).n_bytes + external_bytes(flat) - stored_before - flat.most_bytes
    better = bool(further.rewrites) and _is_less(_measure(flat), _measure_written_out(graph))
    chosen, other = (flat, graph) if better and grown <= 0 else (graph, flat)
    name = str(graph.file.skeleton.functions[0].name)
    other.close()
    if options.stop_after is not None:
        most = chosen.most_bytes
        chosen.reset()
        outcome = pipeline.run(chosen, options, progress)
        chosen.most_bytes = most
    elif chosen is flat:
        outcome = further
    if better and grown > 0:
        why = f"written out at their calls, the functions would grow the file by {grown:,.0f} bytes; --allow-growth"
        left = Finding(f"{_WORD}@{name}", _WORD, name, Status.DECLINED, "model-grows", why)
        outcome = replace(outcome, findings=(*outcome.findings, left))
    return chosen, outcome


def _measure_written_out(graph: Graph) -> tuple[int, int]:
    """What a model with functions runs."""
    flat = load(emit(graph).to_bytes(), data=graph.file.base, written_out=True)
    try:
        return _measure(flat)
    finally:
        flat.close()


def _measure(graph: Graph) -> tuple[int, int]:
    """Nodes that compute something, and how many tensors they read."""
    nodes = [n for n in graph.nodes() if not n.is_op(*_FREE)]
    return len(nodes), sum(bool(tensor.name) for n in nodes for tensor in n.inputs)


def _is_less(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
