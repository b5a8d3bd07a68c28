"""What commands find, whole: the results that reports are made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from converter.records.evidence import Latency, Parity
from converter.records.rewrites import Counts, Fate, Finding, Gate, Rewrite


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


@dataclass(frozen=True)
class FoldResult(InspectResult):
    """What `fold` did, with the proof; of a run, or as a document tells of it."""

    output: Path | None = None  # None where nothing was written
    parity: Parity | None = None
    latency: Latency | None = None  # of the original and the folded model, where it was measured
    certificate: Path | None = None  # the file that holds every rewrite as data
    exit_code: int = 0
