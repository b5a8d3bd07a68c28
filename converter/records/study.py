"""What a study found, of which its document is made: the answer, claims with what became of them, controls, results."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from converter.dataclass import dataclass
from converter.records.display import Displayed


class Stamp(StrEnum):
    """What became of a claim."""

    CONFIRMED = "CONFIRMED"
    CONDITION = "CONFIRMED WITH CONDITION"
    UNSUPPORTED = "NOT SUPPORTED HERE"  # the evidence is against it, on this data
    FALSE = "FALSE AS STATED"
    UNDECIDED = "UNDECIDED"  # the evidence is for neither; the reason says how many seeds would tell
    NOT_RUN = "NOT RUN"

    @classmethod
    def _missing_(cls, value: object) -> Stamp | None:
        return _EARLIER.get(value)


_EARLIER: dict[object, Stamp] = {"NOT LOOKED AT": Stamp.NOT_RUN}  # names in earlier reports


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer in a sentence, its conditions under ``more``, and whether it is an answer."""

    answered: bool
    sentence: str
    more: str


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must come out in a certain way. ``passed`` is None where it was not looked at."""

    name: str
    passed: bool | None
    said: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What was claimed, what became of it, why, and which blocks say so.

    Attributes
    ----------
    said : str
        The claim as it is tested here.
    quoted : str
        In the words of those who gave the answer; empty in earlier reports.
    """

    id: str
    said: str
    stamp: Stamp
    because: str
    blocks: tuple[str, ...]
    quoted: str = ""


@dataclass(frozen=True, slots=True)
class StudyCost:
    """How many jobs were planned and models trained, in which time."""

    jobs: int
    left_out: tuple[str, ...]  # jobs that there was no time for
    resumed: int  # jobs that an earlier run had done
    seconds: float
    cpu_seconds: float
    models: int
    quick: bool
    preset: str = "laptop"
    not_run: tuple[str, ...] = ()  # blocks that did not get all of their seeds


@dataclass(frozen=True, repr=False)
class StudyResult(Displayed):
    """What was measured and what it says: ``rows`` hold one model each; everything else follows from them."""

    verdict: Answer
    valid: bool | None  # whether all controls passed; None if some were not run and none failed
    checks: tuple[Check, ...]  # the controls
    warnings: tuple[str, ...]
    claims: tuple[Claim, ...]
    margin: float  # percentage points that count as no difference
    results: dict[str, Any]  # by block; JSON values
    limits: tuple[str, ...]  # what this does not show
    facts: dict[str, Any]  # data set, splits, seed, device, versions, machine
    run: StudyCost
    rows: tuple[dict[str, Any], ...]

    @property
    def exit_code(self) -> int:
        """Of the command: 1 if a control failed, 4 if the question is open since the time did not do for its blocks."""
        if self.valid is False:
            return 1
        return 4 if self.run.not_run and not self.verdict.answered else 0
