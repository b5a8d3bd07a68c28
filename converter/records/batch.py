"""What ``biasopt batch`` is given for one model, what became of it, and all of them together."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import Any

from converter.dataclass import dataclass
from converter.records.evidence import HIDDEN


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
