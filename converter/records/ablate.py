"""What ablation found out about each bias of a model, and what a removal by data did.

Measured numbers have 8 digits: onnxruntime's own results repeat no further from one processor to the next. What was
not measured is None.
"""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import Any

from converter.dataclass import dataclass
from converter.records.display import Displayed
from converter.records.evidence import OPTIONAL, InputSet, ModelFacts, Stage, Verdict
from converter.records.rewrites import FateKind, Safety


class Role(StrEnum):
    """Where a layer stands."""

    FIRST = "first"  # no layer with weights before it: how well its bias can be imitated is the data's doing
    HEAD = "head"  # none after it: its bias holds how frequent each class is
    DEPTHWISE = "depthwise"  # few inputs an output: nothing to average over
    INNER = "inner"


class BiasClass(StrEnum):
    """What a bias is worth."""

    DEAD = "DEAD"
    REDUNDANT = "REDUNDANT"
    SMALL = "SMALL"
    COMPENSABLE = "COMPENSABLE"
    ESSENTIAL = "ESSENTIAL"
    UNKNOWN = "UNKNOWN"  # not measured


@dataclass(frozen=True, slots=True)
class EffectSummary:
    """What a change did to the answers. Shares of rows, of maps of points; accuracies where there are labels."""

    rows: int
    relative_error: float  # ||z' - z|| / ||z - mean z|| over all rows
    agreement: float | None = field(default=None, metadata=OPTIONAL)
    kl: float | None = field(default=None, metadata=OPTIONAL)  # mean of KL(p || p') in nats
    accuracy_before: float | None = field(default=None, metadata=OPTIONAL)
    accuracy_after: float | None = field(default=None, metadata=OPTIONAL)
    gained: int | None = field(default=None, metadata=OPTIONAL)  # rows that only the changed model gets right
    lost: int | None = field(default=None, metadata=OPTIONAL)
    difference: float | None = field(default=None, metadata=OPTIONAL)  # of the accuracies, with Newcombe's interval
    low: float | None = field(default=None, metadata=OPTIONAL)
    high: float | None = field(default=None, metadata=OPTIONAL)
    mcnemar_p: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True)
class BiasScore:
    """What was found out about one bias, and its class; `converter.ablate.scoring.Score` says what is what."""

    node: str
    op: str
    role: Role
    kind: BiasClass = field(metadata={"json": "class"})
    why: str
    fate: FateKind | None  # what exact analysis says of it
    channels: int
    inputs_per_output: int
    groups: int
    ratio: float | None  # mean of |b| / sd(y)
    ratio_largest: float | None
    constant_channels: int
    r: float | None
    r_held_out: float | None
    r_fitted: float | None
    r_is_bound: bool
    r_method: str | None
    rows: int
    positions: int
    predicted_error: float | None
    predicted_error_compensated: float | None
    effect: EffectSummary | None
    imitated: EffectSummary | None
    p_holm: float | None
    problem: str | None
    per_channel: dict[str, list[float]] | None

    @property
    def error(self) -> float | None:
        """Relative error of the outputs without the bias, measured, else foretold."""
        return self.predicted_error if self.effect is None else self.effect.relative_error

    @property
    def imitation_error(self) -> float | None:
        """The same with weights in place of the bias; none of a bias that is dead, unless it was measured."""
        if self.imitated is not None:
            return self.imitated.relative_error
        return None if self.kind is BiasClass.DEAD else self.predicted_error_compensated


@dataclass(frozen=True, slots=True)
class MovedBias:
    """One layer whose weights took its bias over."""

    node: str
    op: str
    method: str  # dense | cg | centre
    left: float | None  # share of the squared error, of leaving the bias out, that the new weights leave
    weight_growth: float | None  # largest weight of the new over that of the old
    rows: int
    positions: int
    steps: int


@dataclass(frozen=True, slots=True)
class VariantScore:
    """One change of the whole model, and what it did on rows that nothing was fitted on."""

    name: str
    said: str
    biases: int
    effect: EffectSummary


@dataclass(frozen=True, slots=True)
class ProbeScore:
    """The same changes on inputs that were moved. Accuracy is against labels, else the original's own answers."""

    kind: str
    amount: float
    said: str
    effects: dict[str, EffectSummary]
    changes: tuple[str, ...]  # variants that change off the data more than on it


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A bias that ablation leaves alone, and why."""

    node: str
    op: str
    why: str


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How many biases are in a class, and what the class means."""

    biases: int
    means: str


@dataclass(frozen=True, slots=True)
class LookedAt:
    """The output whose changes are measured, and whether it decides between classes."""

    name: str
    decides: bool


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Rows of data; of ``measured`` each bias was left out, on ``fitted_on`` weights were fitted."""

    all: int
    measured: int
    fitted_on: int


@dataclass(frozen=True, repr=False)
class AblateResult(Displayed):
    """All that was found out about the biases of one model: ``biases``, those that matter most first."""

    warnings: tuple[str, ...]
    model: ModelFacts
    inputs: InputSet
    seed: int
    folded_batch_norms: int  # that became biases first
    output: LookedAt
    rows: RowCounts
    labelled: bool
    classes: dict[BiasClass, ClassCount]
    biases: tuple[BiasScore, ...]
    variants: tuple[VariantScore, ...]
    fits: tuple[MovedBias, ...]
    probes: tuple[ProbeScore, ...]
    findings: tuple[dict[str, Any], ...]  # for a quantisation; JSON values
    note: str | None
    uncovered: tuple[Uncovered, ...]
    question: bool = False  # `ask`: told as an answer, beside what the study of small nets says


# ---- a removal -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeptBias:
    """A bias that stays, and why."""

    node: str
    op: str
    code: str
    why: str


@dataclass(frozen=True, slots=True)
class OffDataChange:
    """How far the changed model is from the original on inputs that were moved."""

    said: str
    differ: float  # share of rows decided differently
    changes: bool


@dataclass(frozen=True, slots=True)
class SplitRows:
    """Rows that were fitted on, that decided which biases go, and that the verdict comes from."""

    calibrate: int
    select: int
    confirm: int


@dataclass(frozen=True, slots=True)
class Removal:
    """What a removal did, and the verdict on it: the part of ``biasopt.fold/1`` that tells of it."""

    verdict: Verdict
    why: str
    safety: Safety
    assumption: str
    budget: float
    rows: SplitRows
    rows_needed: int | None  # in all, with which the budget can be shown, where there were too few
    select_loss: float | None
    selections_tried: int
    removed: tuple[MovedBias, ...]
    kept: tuple[KeptBias, ...]
    off_the_data: tuple[OffDataChange, ...]
    warnings: tuple[str, ...]
    decision: Stage
    inputs: InputSet
