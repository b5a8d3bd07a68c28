"""What the referee and the benchmark found: verdicts (and their exit codes 0, 1, 4) with their evidence, as records.

Every number that a verdict rests on is in its record, so that a report can be judged again without a run.
``detail`` dictionaries hold JSON values only, never arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from enum import StrEnum
from typing import Any, Final, Self

from converter.dataclass import dataclass
from converter.records.display import Displayed

# Metadata of a field that is not in the JSON under its own name; see `converter.report.serialize`.
HIDDEN: Final = {"json": ""}  # not in it: a document holds it once for all its parts, or it follows from another field
INLINE: Final = {"json": "*"}  # its own fields stand in its place
OPTIONAL: Final = {"optional": True}  # there only where it is known


class Verdict(StrEnum):
    """The result of a check. Only PASS passes."""

    PASS = "PASS"  # noqa: S105  (a verdict, not a password)
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    SKIPPED = "SKIPPED"


SEVERITY = (Verdict.SKIPPED, Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL)  # from the lightest to the gravest


def worst_verdict(verdicts: Iterable[Verdict], nothing: Verdict = Verdict.INCONCLUSIVE) -> Verdict:
    """The verdict of a whole from those of its parts: FAIL before INCONCLUSIVE before PASS.

    What was SKIPPED has no say: it neither lifts nor lowers what was looked at. Where nothing was looked at, the
    answer is ``nothing``: INCONCLUSIVE by default, since a claim that rests on no evidence is none.
    """
    worst = max(verdicts, key=SEVERITY.index, default=Verdict.SKIPPED)
    return nothing if worst is Verdict.SKIPPED else worst


def exit_code_of(verdict: Verdict, on_inconclusive: str = "fail") -> int:
    """The exit code that a verdict stands for; what is open is 0 where it is to ``pass``."""
    return 0 if verdict is Verdict.INCONCLUSIVE and on_inconclusive == "pass" else _CODES[verdict]


_CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 4, Verdict.SKIPPED: 0}


class WarningCode(StrEnum):
    """What a warning of the referee is about; what it means for a verdict hangs on this, never on the sentence."""

    UNKNOWN = ""  # read back from a report, which holds the sentence alone
    CONSTANT_OUTPUT = "constant-output"  # an output that does not depend on the inputs
    NOT_FINITE = "not-finite"  # outputs of the original
    INPUT_DOMAIN = "input-domain"  # the original has no answer to normal values
    OVERFLOW = "overflow"  # half precision, beside the float64 reference
    BRANCH_NOT_RUN = "branch-not-run"
    NOT_REPEATABLE = "not-repeatable"  # the original, run twice
    NOT_RUN_WHOLE = "not-run-whole"
    RANDOM_SEEDED = "random-seeded"
    TRAINING_MODE = "training-mode"
    CHECKER_OBJECTS = "checker-objects"
    OPSET_CHANGED = "opset-changed"
    QUANTISED = "quantised"
    HALF_PRECISION = "half-precision"
    NOT_OVERRIDABLE = "not-overridable"
    ONLY_EXACT = "only-exact"  # compared in float64, since onnxruntime does not run it
    SEVERAL_RUNTIMES = "several-runtimes"
    TF32 = "tf32"


class Warning(str):
    """A sentence for people with a code for programs. In JSON it is the sentence."""

    code: WarningCode
    __slots__ = ("code",)

    def __new__(cls, code: WarningCode, text: str) -> Self:
        self = super().__new__(cls, text)
        self.code = code
        return self

    def __getnewargs__(self) -> tuple[WarningCode, str]:  # type: ignore[override]  # copied with its code
        return self.code, str(self)


@dataclass(frozen=True)
class OutputCheck:
    """How one output (or one rewritten place, or one recomputed weight) compared."""

    name: str
    status: Verdict
    score: float | None = None  # the stage's own measure: e/e_pert (algebra), R (runtime), of the limit (local)
    limit: float | None = None
    max_abs: float | None = None
    why: str = ""
    detail: dict[str, Any] = field(default_factory=dict)  # JSON values only


@dataclass(frozen=True)
class Stage:
    """One stage of the referee."""

    id: str  # a `converter.records.choices.StageId`; another where a later version wrote the document
    status: Verdict
    why: str = ""
    outputs: tuple[OutputCheck, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)  # JSON values only
    seconds: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ModelFacts:
    """One of the two models as it came: what a reader needs to know it again."""

    path: str | None  # None for a model in memory
    sha256: str = ""
    size_bytes: int = 0  # with its data files
    ir_version: int = 0
    opset: int = 0
    nodes: dict[str, int] = field(default_factory=dict)  # operator -> nodes of it, most frequent first


@dataclass(frozen=True)
class Environment:
    """With what, and where, the models ran."""

    versions: dict[str, str]  # biasopt, python, onnx, onnxruntime, numpy
    ort_dists: tuple[str, ...] = ()  # every installed distribution of onnxruntime
    machine: dict[str, Any] = field(default_factory=dict)  # os, cpu, cores, memory_bytes
    provider_requested: str = "cpu"
    providers_active: tuple[str, ...] = ()  # that the session has
    provider_options: dict[str, str] = field(default_factory=dict)
    nodes_by_ep: dict[str, int] = field(default_factory=dict)  # provider -> nodes that ran there, by the profile
    arithmetic_by_ep: dict[str, int] = field(default_factory=dict)  # provider -> those that multiply, engines unfolded
    gpu: dict[str, Any] = field(default_factory=dict)  # name, uuid, driver, clocks; empty without one


@dataclass(frozen=True)
class InputSet:
    """What the models were run on."""

    kind: str  # random | npz | npy | ort-test-data | polygraphy | script | images
    n: int
    seed: int | None = None  # of random ones
    sha256: str = ""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    real: bool = False  # the user's own
    labelled: bool = False
    source: str = ""  # file, folder or script:function
    cast_from: dict[str, str] = field(default_factory=dict)  # the type that was given, where it was not the model's
    nonfinite: int = 0  # NaN and Inf in what was given


@dataclass(frozen=True, repr=False)
class Parity(Displayed):
    """The referee's verdict on a pair of models, with its evidence.

    ``level``: A real inputs enough for the margin, P proved (every number recomputed, the rounding of every place
    bounded), B random inputs with a trusted float64 reference, C no trusted reference or checked per rewrite, D
    structure only.
    """

    verdict: Verdict
    level: str
    scope: str = "whole-model"  # whole-model | per-rewrite | identical | removal | none
    why: str = ""  # one sentence for people
    warnings: tuple[Warning, ...] = ()
    stages: tuple[Stage, ...] = ()
    blame: str = ""  # the first rewrite or tensor that breaks parity, where it was looked for
    a: ModelFacts | None = field(default=None, metadata=HIDDEN)
    b: ModelFacts | None = field(default=None, metadata=HIDDEN)
    environment: Environment | None = field(default=None, metadata=HIDDEN)
    environment_b: Environment | None = field(default=None, metadata=HIDDEN)  # of B, where it ran elsewhere
    inputs: InputSet | None = field(default=None, metadata=HIDDEN)
    failing_inputs: str = field(default="", metadata=HIDDEN)  # a file that holds them


@dataclass(frozen=True)
class Timing:
    """How long one model takes, in milliseconds, and what it holds."""

    n: int  # runs
    p50_ms: float
    p90_ms: float
    p99_ms: float | None  # None where n does not allow it
    mean_ms: float
    min_ms: float
    iqr_ms: float
    load_ms: float  # median over sessions
    first_run_ms: float  # median over sessions
    peak_bytes: int | None = None  # of a process that loads and runs this model alone
    detail: dict[str, Any] = field(default_factory=dict)  # histogram, submit and total time on CUDA


@dataclass(frozen=True)
class Block:
    """One block of interleaved pairs: log of (median time of B / median time of A)."""

    session: int
    log_ratio: float
    a_ms: float
    b_ms: float
    sm_clock_mhz: tuple[float, ...] | None = field(default=None, metadata=OPTIONAL)  # early, late; on a GPU
    throttle: tuple[str, ...] | None = field(default=None, metadata=OPTIONAL)  # why the clock was held down
    unsteady: bool | None = field(default=None, metadata=OPTIONAL)  # the clock drifted, or was held down
    cycles_log_ratio: float | None = field(default=None, metadata=OPTIONAL)  # the same as log_ratio, in clock cycles
    discarded: bool | None = field(default=None, metadata=OPTIONAL)  # taken again, for want of a steady clock


@dataclass(frozen=True, repr=False)
class Latency(Displayed):
    """How long B takes beside A, with the interval that the verdict rests on.

    ``outcome``: FASTER | NOT-SLOWER | SLOWER | INCONCLUSIVE | EQUIVALENT; ``verdict`` is the gate's answer to it.
    """

    verdict: Verdict
    outcome: str
    ratio: float  # B over A
    low: float  # of the interval of the ratio
    high: float
    margin: float  # 0.02 for 2 %
    gate: str  # not-slower | faster:5% | equivalent | none
    why: str
    a: Timing
    b: Timing
    blocks: tuple[Block, ...] = ()
    aa: dict[str, Any] = field(default_factory=dict)  # the A/A control: ratio, low, high, half_width
    design: dict[str, Any] = field(default_factory=dict)  # sessions, blocks, pairs, seed, threads, opt_level, alpha …
    warnings: tuple[str, ...] = ()
    unoptimised: Latency | None = None  # the same pair without onnxruntime's graph optimisations, where asked for
    environment: Environment | None = field(default=None, metadata=HIDDEN)
    model_a: ModelFacts | None = field(default=None, metadata=HIDDEN)
    model_b: ModelFacts | None = field(default=None, metadata=HIDDEN)
    inputs: InputSet | None = field(default=None, metadata=HIDDEN)

    @property
    def numbers(self) -> str:
        """The ratio with its interval, with which ``why`` begins."""
        return f"{self.ratio:.3f}x [{self.low:.3f}, {self.high:.3f}]"
