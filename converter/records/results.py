"""What commands find, whole: the results that reports are made of; the rows of ``batch``; and what ``doctor`` finds."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from pathlib import Path
from typing import Any

from converter.dataclass import dataclass
from converter.records.display import Displayed
from converter.records.evidence import HIDDEN, Latency, Parity
from converter.records.rewrites import Counts, Fate, Finding, Gate, Rewrite


@dataclass(frozen=True)
class TensorPort:
    """An input or output of a model; an open size is a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, repr=False)
class InspectResult(Displayed):
    """What `fold` would do and what it would leave."""

    path: Path | None  # None for a model in memory
    size_bytes: int  # of the model and its data files
    opset: int
    rewrites: tuple[Rewrite, ...]
    findings: tuple[Finding, ...]
    before: Counts
    after: Counts
    frozen: tuple[str, ...] = ()  # names taken out of the graph's inputs
    was_unsorted: bool = False  # nodes stood before what they read; the output's are sorted
    was_written_out: bool = False  # functions of its own, written out at their calls to be folded
    stale_shapes: tuple[str, ...] = ()  # tensors of which the file states another shape than they have
    overridable_blocked: int = 0  # folds that freeze_overridable would win
    overridable_names: int = 0
    problem: str = ""  # what onnx's checker says against the model as it came
    fates: tuple[Fate, ...] = ()  # of every bias: where it went, or why it is kept
    gates: tuple[Gate, ...] = ()  # how long LSTMs and GRUs remember on their bias alone
    ir_version: int = 0
    producer: str = ""  # with its version
    inputs: tuple[TensorPort, ...] = ()
    outputs: tuple[TensorPort, ...] = ()
    operators: dict[str, int] = field(default_factory=dict)  # operator -> nodes of it as it came, most frequent first


@dataclass(frozen=True, repr=False)
class FoldResult(InspectResult):
    """What `fold` did, with the proof; of a run, or as a document tells of it."""

    output: Path | None = None  # None where nothing was written
    parity: Parity | None = None
    latency: Latency | None = None  # of the original and the folded model, where it was measured
    certificate: Path | None = None  # the file that holds every rewrite as data
    exit_code: int = 0


@dataclass(frozen=True)
class Provenance:
    """Where a module came from. Names of folders on this machine are no part of it."""

    spec: str
    torch: str  # its version
    weights_sha256: str = ""  # empty: no file of weights was given
    random_weights: bool = False  # nothing gave the parameters but a random generator


@dataclass(frozen=True)
class ExportResult:
    """What was exported, with the proof; `output` is None where nothing was written."""

    spec: str
    output: Path | None
    exporter: str
    opset: int
    provenance: Provenance
    inputs: tuple[TensorPort, ...]
    outputs: tuple[TensorPort, ...]
    counts: Counts  # of the exported model, before any fold
    size_bytes: int
    notes: tuple[str, ...]
    parity: Parity | None
    fold: FoldResult | None = None  # where folding was asked for, too
    exit_code: int = 0


@dataclass(frozen=True)
class ReplayResult:
    """What a third party can say of a certificate, and where the model was rebuilt.

    ``exit_code``: 0 if every claim holds, 1 if one does not (``where`` names the step or field, ``why`` says what is
    wrong).
    """

    original: str
    certificate: str
    steps: int
    replayed: int
    recomputed: int
    open_steps: tuple[tuple[str, str], ...]
    where: str = ""
    why: str = ""
    digest: str = ""
    output: Path | None = None
    same_bytes: bool | None = None  # as the file that was certified; the layout of a file is no part of the digest

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return 1 if self.why else 0


@dataclass(frozen=True)
class ProviderState:
    """An execution provider: whether onnxruntime was built with it, and whether it computes a convolution here."""

    name: str  # cpu | cuda | tensorrt
    listed: bool
    works: bool
    reason: str = ""  # why it does not work, and a command


@dataclass(frozen=True)
class LibraryState:
    """A library that a provider needs: where the loader found it, and the version of the package that brings it."""

    name: str
    path: str = ""  # empty where it does not load
    version: str = ""
    reason: str = ""  # the loader's words where it does not


@dataclass(frozen=True)
class Inventory:
    """All of it, and whether the provider that was asked for works."""

    versions: dict[str, str]
    place: str  # where biasopt lies
    python: str  # the interpreter
    platform: str
    distributions: tuple[str, ...]  # of onnxruntime, by the files that they install
    providers: tuple[ProviderState, ...]
    libraries: tuple[LibraryState, ...]
    gpus: tuple[dict[str, Any], ...] = field(default_factory=tuple)
    asked: str = "cpu"
    works: bool = False
    advice: tuple[str, ...] = ()  # what to do, commands to copy


class Outcome(StrEnum):
    """What became of a model; the code is that with which the command would have ended for it alone."""

    FOLDED = "folded"
    UNCHANGED = "unchanged"  # nothing folds; the output is the input
    FAILED = "failed"  # a check said no; nothing was written
    INCONCLUSIVE = "inconclusive"
    REFUSED = "refused"  # an error that the user can act on
    BUG = "bug"
    CRASHED = "crashed"  # its process died
    TIMEOUT = "timeout"
    MEMORY = "memory"
    LOST = "lost"  # the executor gave it up: a worker that went away too often

    @property
    def exit_code(self) -> int:
        """That of one model."""
        return _CODES.get(self, 3)


_CODES = {
    Outcome.FOLDED: 0,
    Outcome.UNCHANGED: 0,
    Outcome.FAILED: 1,
    Outcome.INCONCLUSIVE: 4,
    Outcome.BUG: 70,
}
_GRAVITY = (0, 4, 1, 3, 70)  # from the lightest to the gravest


def worst_code(codes: Any) -> int:
    """One exit code for many: the gravest."""
    return max(codes, key=_GRAVITY.index, default=0)


@dataclass(frozen=True)
class Task:
    """One model to be folded, as it travels to where that is done."""

    name: str  # relative to the folder that all models lie in
    model: str  # path
    output: str
    reports: str  # folder
    key: str  # of what decides the result: the model's bytes, the options and the version
    options: dict[str, Any] = field(default_factory=dict)  # of the fold, as keywords
    verify: dict[str, Any] | None = None  # of the proof; None without one
    bench: dict[str, Any] | None = None
    certificate: bool = False
    formats: tuple[str, ...] = ("json", "html")
    timeout: float = 1200.0  # seconds
    max_memory: int | None = None  # bytes beyond what the process holds when it begins
    n_bytes: int = 0  # of the model with its data
    files: dict[str, bytes] | None = None  # name -> content, where the worker cannot read the path


@dataclass(frozen=True)
class BatchRow:
    """What became of one model."""

    name: str
    outcome: Outcome
    why: str = ""
    output: str | None = None  # where the folded model lies
    sha256: str = ""  # of that file
    report: str | None = None  # folder
    rewrites: int = 0
    biases_before: int = 0
    biases_after: int = 0
    level: str = ""  # of the proof
    ratio: float | None = None  # latency, folded over original
    n_bytes: int = 0
    key: str = ""
    seconds: float = field(default=0.0, compare=False)
    host: str = field(default="", compare=False)
    attempts: int = field(default=1, compare=False)
    files: dict[str, bytes] | None = field(default=None, metadata=HIDDEN)  # outputs on their way back

    @property
    def exit_code(self) -> int:
        """That of this model alone."""
        return self.outcome.exit_code


@dataclass(frozen=True)
class BatchResult:
    """All rows, by name."""

    rows: tuple[BatchRow, ...]
    output: str
    counts: dict[str, int]  # outcome -> models
    skipped: int = 0  # done by an earlier run, and unchanged since
    jobs: int = 1
    scheduler: str = ""
    uploaded: bool = False
    seconds: float = 0.0
    exit_code: int = 0
