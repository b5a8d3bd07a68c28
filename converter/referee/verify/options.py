"""How to compare two models: what a caller may choose, and what follows from it for two models at hand."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import numpy as np

from converter.dataclass import dataclass
from converter.records.choices import StageId
from converter.records.options import STAGES as CHOICES  # structure and environment always run
from converter.records.options import Progress, VerifyOptions
from converter.referee.inputs.stream import Stream
from converter.referee.proto.diff import count_folds
from converter.referee.proto.source import LoadedModel
from converter.referee.verify.metrics import Tolerance
from converter.runtime.providers import select_options

STAGES = tuple(StageId)
_REAL_INPUTS = 16  # of the user's that are held against float64; all of them take part in the decision stage


def find_folds(a: LoadedModel, b: LoadedModel, options: VerifyOptions) -> int:
    """How many folds of this tool's own made ``b`` of ``a``; 0 of what others made."""
    return 1 if options.made_here else count_folds(a, b)


MARGIN = 1e-3  # of decisions, where none was given


@dataclass(frozen=True)
class DecisionRequest:
    """The decision stage: by which outputs, which metric, which margin."""

    outputs: tuple[str, ...] = ()  # empty: every float output [N, C] with C of 2 or more
    labels: np.ndarray[Any, Any] | None = None
    metric: str = "top1"  # or script.py:function
    margin: float = MARGIN
    judges: bool = True  # else what was counted is told, and neither fails nor leaves anything open
    alpha: float = 0.05
    max_time: float | None = None  # seconds after which no further input is read


@dataclass(frozen=True, kw_only=True)
class Options(VerifyOptions):
    """What a caller asks, checked against the model, with what follows from it; see `request.resolve`."""

    stream: Stream | None = None  # the user's inputs; random ones without
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    custom_ops: Path | None = None
    provider_options: Mapping[str, str] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    deadline: float = float("inf")
    max_memory: int = 1 << 33
    runs_large: bool = True  # whole, whatever it weighs: memory for it was given, or is there
    tolerances: tuple[Tolerance, ...] = ()
    stages: frozenset[str] = frozenset(CHOICES) - {"decision"}
    by_proof: bool = True  # where there is one, it will do: no stage that it leaves out was asked for by name
    prove: bool = True  # where the models ran; not for cut-out places, which hold shape arithmetic alone at times
    deciding: DecisionRequest = field(default_factory=DecisionRequest)
    progress: Progress = field(default=lambda text: None)

    @property
    def is_crossed(self) -> bool:
        """Whether the two models run on different providers."""
        return (self.provider_a or self.provider) != (self.provider_b or self.provider)

    def for_side(self, which: int) -> Options:
        """The options of one of the two models, 0 or 1: its provider, with those of the provider's options it knows."""
        provider = (self.provider_a, self.provider_b)[which] or self.provider
        taken = select_options(provider, self.provider_options) if self.is_crossed else self.provider_options
        return replace(self, provider=provider, provider_options=taken, provider_a=None, provider_b=None)

    @property
    def n_inputs(self) -> int:
        """Inputs that every stage starts with."""
        return 1 if self.quick else 2

    @property
    def wanted(self) -> int:
        """Inputs that the runtime stage takes if there is time."""
        if self.samples is not None:
            return max(1, min(self.samples, _REAL_INPUTS) if self.stream is not None else self.samples)
        return self.n_inputs if self.quick or self.stream is None else _REAL_INPUTS

    def time_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def spent(self) -> float:
        """The share of the time that is gone, 0 without a deadline."""
        whole = self.deadline - self.begun
        return (time.monotonic() - self.begun) / whole if whole < float("inf") else 0.0
