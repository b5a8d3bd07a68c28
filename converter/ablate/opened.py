"""A model made ready: batch norms folded exactly where that is possible, every bias found, and its fate known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter import pipeline
from converter.ablate.sites import Found, find_sites
from converter.graph import Graph, emit, load
from converter.passes import PASSES
from converter.protos.source import Source

FOLDS = frozenset(p.name for p in PASSES if p.name.startswith("fold-bn-into-"))


@dataclass(frozen=True, slots=True)
class Opened:
    """The model that is looked at. ``folded`` batch norms became part of the layers around them, exactly."""

    graph: Graph
    source: Source
    found: Found
    folded: int


def opened(model: Any, data: str | Path | None = None, *, folds: bool = True) -> Opened:
    """Read a model for ablation.

    Without its batch norms folded the shift of each would be a bias that no layer owns; ``folds`` does that first,
    in memory, by the passes that `fold` uses.

    Raises
    ------
    ModelError
        It cannot be read, or is over 2 GB without external data.
    """
    graph = load(model, data=data)
    folded = 0
    if folds:
        before = _batch_norms(graph)
        pipeline.run(graph, pipeline.Options(only=FOLDS))
        folded = before - _batch_norms(graph)
    label, folder = graph.file.label, graph.file.base
    content = emit(graph, {}, None).to_bytes()
    asked = load(content, data=folder)
    try:
        fates = pipeline.run(asked, pipeline.Options()).fates
    finally:
        asked.close()
    return Opened(graph, Source.open(content, folder, label), find_sites(graph, fates), folded)


def _batch_norms(graph: Graph) -> int:
    return sum(node.is_op("BatchNormalization") for node in graph.nodes())
