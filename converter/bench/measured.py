"""What one measurement yields, before anything is concluded from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from converter.bench.design import Design
from converter.bench.pairs import Run, Samples
from converter.bench.warmup import WarmUp
from converter.records import Block


class Loaded(Protocol):
    """A model that is loaded, and has been run once."""

    load_ms: float
    first_run_ms: float
    run: Run

    def submit_ms(self) -> tuple[float, float]:
        """Time of one run until it is queued, and until it is done."""

    def close(self) -> None:
        """Let go of it."""


Open = Callable[[], Loaded]


@dataclass(slots=True)
class Side:
    """What was seen of one model: an entry per session."""

    loads: list[float] = field(default_factory=list)  # ms
    firsts: list[float] = field(default_factory=list)  # ms
    warm_ups: list[WarmUp] = field(default_factory=list)
    submits: list[tuple[float, float]] = field(default_factory=list)  # ms, queued and done; on a GPU only
    peak_bytes: int | None = None


@dataclass(slots=True)
class Measured:
    """Times of a pair, and how they were come by."""

    design: Design  # as it was carried out
    sides: tuple[Side, Side] = field(default_factory=lambda: (Side(), Side()))
    blocks: list[Block] = field(default_factory=list)  # discarded ones too
    samples: list[Samples] = field(default_factory=list)  # of the blocks that count
    aa: list[float] = field(default_factory=list)  # log-ratios of the same model beside itself
    repeat: int = 1  # runs of a sample
    mode: str = "one process"  # two processes: where memory does not hold both models
    stopped: str = ""  # why no more was measured
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    @property
    def counted(self) -> list[Block]:
        """The blocks that the interval rests on."""
        return [block for block in self.blocks if not block.detail.get("discarded")]
