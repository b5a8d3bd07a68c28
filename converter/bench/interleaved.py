"""Both models in one process, block by block, and the first beside itself: the A/A control."""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from enum import StrEnum
from statistics import median
from typing import Any, Protocol

import numpy as np

from converter.bench.design import AA_BLOCKS, EXTENSION, FEWEST_PAIRS, MOST_BLOCKS, Design, fit_design
from converter.dataclass import dataclass
from converter.records import Block
from converter.runtime.gpu import POWER_CAP, Reading
from converter.stats import estimate_interval

Run = Callable[[], None]
Clock = Callable[[], int]  # nanoseconds

_SHORT_NS = 200_000  # a sample at least this long keeps timer and call below 1 %


@dataclass(frozen=True, slots=True)
class Samples:
    """Times of one block in ms per run, in the order in which they were taken."""

    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def log_ratio(self) -> float:
        """Of the medians, B over A."""
        return math.log(float(np.median(self.b)) / float(np.median(self.a)))

    def __add__(self, other: Samples) -> Samples:
        return Samples(self.a + other.a, self.b + other.b)

    def swapped(self) -> Samples:
        """The same with A and B exchanged."""
        return Samples(self.b, self.a)


def draw_orders(rng: random.Random, pairs: int) -> list[int]:
    """Which model comes first in each pair: 0 for A, 1 for B."""
    return [rng.randrange(2) for _ in range(pairs)]


def time_pairs(
    runs: tuple[Run, Run], order: Sequence[int], repeat: int, clock: Clock, before: Run | None = None
) -> Samples:
    """Time one pair per entry of ``order``; a sample is ``repeat`` runs in a row, ``before`` comes untimed."""
    times: tuple[list[float], list[float]] = ([], [])
    scale = 1e6 * repeat
    for first in order:
        for which in (first, 1 - first):
            if before is not None:
                before()
            run = runs[which]
            begun = clock()
            for _ in range(repeat):
                run()
            times[which].append((clock() - begun) / scale)
    return Samples(tuple(times[0]), tuple(times[1]))


def count_repeats(run_ms: float) -> int:
    """How many runs make a sample that is long enough to be timed."""
    return max(1, math.ceil(_SHORT_NS / max(1.0, 1e6 * run_ms)))


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of what is timed."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


Read = Callable[[], Reading]

_DRIFT = 0.03  # of the clock between the halves of a block


def time_with_clock(take: Callable[[int], Samples], count: int, read: Read | None) -> tuple[Samples, dict[str, Any]]:
    """Time ``count`` pairs in two halves and read the clock after each; without a clock, in one go."""
    if read is None or count < 2:
        return take(count), {}
    first = take(count // 2)
    early = read()
    second = take(count - count // 2)
    late = read()
    return first + second, _describe_clock((first, second), (early, late))


def _describe_clock(halves: tuple[Samples, Samples], clocks: tuple[Reading, Reading]) -> dict[str, Any]:
    throttled = sorted({why for clock in clocks for why in clock.throttled})
    early, late = (clock.sm_mhz for clock in clocks)
    drift = abs(late - early) / max(early, late, 1.0)
    # Time times clock is work: a difference that is gone in cycles was a difference of clocks.
    both = tuple(zip(halves, clocks, strict=True))
    cycles = [
        np.concatenate([np.multiply(getattr(half, side), clock.sm_mhz) for half, clock in both]) for side in ("a", "b")
    ]
    return {
        "sm_clock_mhz": (early, late),
        "throttle": tuple(throttled),
        # A GPU at its power cap runs as it always does under load: only where that moves the clock is it unsteady.
        "unsteady": bool(set(throttled) - {POWER_CAP}) or drift > _DRIFT,
        "cycles_log_ratio": math.log(float(np.median(cycles[1]) / np.median(cycles[0]))) if early and late else None,
    }


_WINDOW = 10  # runs
_WINDOWS = 3
_AGREEMENT = 1.03  # largest over smallest median
_SMALLEST = 3  # runs of a window of a slow model


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How a model was warmed up, and how long a run took at the end of it."""

    runs: int
    seconds: float
    settled: bool
    run_ms: float


def warm_up(run: Run, clock: Clock, least: float, most: float, extra: int = 0) -> WarmUp:
    """Run until the medians of the last three windows agree within 3 %.

    Parameters
    ----------
    least, most : float
        Seconds; with ``most`` over, it ends without agreement (after ten runs, or fewer of a slow model).
    extra : int
        Runs before the first window: a CUDA graph allocates in the first ones, and is recorded.
    """
    begun = clock()
    for _ in range(extra + 1):
        first = _time_run(run, clock)
    # A slow model gets smaller windows, so that three of them fit.
    window = max(_SMALLEST, min(_WINDOW, int(1e9 * most / (_WINDOWS * max(first, 1)))))
    times: list[int] = []
    while True:
        times.extend(_time_run(run, clock) for _ in range(window))
        medians = [median(times[k : k + window]) for k in range(0, len(times), window)][-_WINDOWS:]
        seconds = (clock() - begun) / 1e9
        settled = len(medians) == _WINDOWS and max(medians) <= _AGREEMENT * min(medians)
        if (settled and seconds >= least) or seconds >= most:
            return WarmUp(len(times) + extra + 1, seconds, settled, medians[-1] / 1e6)


def _time_run(run: Run, clock: Clock) -> int:
    begun = clock()
    run()
    return clock() - begun


class LoadedSession(Protocol):
    """A model that is loaded, and has been run once."""

    load_ms: float
    first_run_ms: float
    run: Run

    def submit_ms(self) -> tuple[float, float]:
        """Time of one run until it is queued, and until it is done."""

    def close(self) -> None:
        """Let go of it."""


Open = Callable[[], LoadedSession]


@dataclass(slots=True)
class ModelTimes:
    """What was seen of one model: an entry per session."""

    loads: list[float] = field(default_factory=list)  # ms
    firsts: list[float] = field(default_factory=list)  # ms
    warm_ups: list[WarmUp] = field(default_factory=list)
    builds: list[float] = field(default_factory=list)  # ms, of engines; by TensorRT only
    submits: list[tuple[float, float]] = field(default_factory=list)  # ms, queued and done; on a GPU only
    peak_bytes: int | None = None


class Mode(StrEnum):
    """Where the models ran."""

    ONE_PROCESS = "one process"
    TWO_PROCESSES = "two processes"  # where memory does not hold both models


@dataclass(slots=True)
class Measurement:
    """Times of a pair, and how they were come by."""

    design: Design  # as it was carried out
    sides: tuple[ModelTimes, ModelTimes] = field(default_factory=lambda: (ModelTimes(), ModelTimes()))
    blocks: list[Block] = field(default_factory=list)  # discarded ones too
    samples: list[Samples] = field(default_factory=list)  # of the blocks that count
    aa: list[float] = field(default_factory=list)  # log-ratios of the same model beside itself
    repeat: int = 1  # runs of a sample
    mode: Mode = Mode.ONE_PROCESS
    stopped: str = ""  # why no more was measured
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    @property
    def counted(self) -> list[Block]:
        """The blocks that the interval rests on."""
        return [block for block in self.blocks if not block.discarded]


Say = Callable[[str], None]

_CONTROL_SHARE = 0.15  # of the time there is
_RELOAD_SHARE = 0.05  # of it: what loading two models may take to be done for every block of the control
_BLOCK_SECONDS = 0.1  # of a block, at least
_LOADS, _LOADS_SHARE = 10, 0.05  # of each model; of the time there is
_RETRIES = 2  # of a block during which the GPU was slowed down
_SUBMITS = 20
_FIRST, _SECOND = 0, 1


class InterleavedBench:
    """One measurement of a pair.

    Parameters
    ----------
    opens : pair of callables
        Each loads one of the models, and runs it once.
    clock : callable
        Nanoseconds; what decides how long everything takes, so that tests can tell the time themselves.
    say : callable
        Told the present stage.
    extra : int
        Runs of warm-up that a CUDA graph needs.
    before : callable, optional
        Done before every sample, untimed.
    read : callable, optional
        Reads the GPU's clock.
    begin : callable, optional
        Told the number of a session, from 1 on, before it loads its models; takes ``begin_seconds``.
    """

    def __init__(
        self,
        opens: tuple[Open, Open],
        design: Design,
        *,
        clock: Clock,
        say: Say = lambda stage: None,
        extra: int = 0,
        before: Run | None = None,
        read: Read | None = None,
        begin: Callable[[int], None] = lambda number: None,
        begin_seconds: float = 0.0,
    ) -> None:
        self.opens, self.design, self.clock, self._tell = opens, design, clock, say
        self.extra, self.before, self.read = extra, before, read
        self.begin, self.begin_seconds = begin, begin_seconds
        self.rng = random.Random(design.seed)  # noqa: S311  (an order of runs, no secret)
        self.first = self.rng.randrange(2)
        self.begun = clock()
        self.found = Measurement(design)
        self.session_seconds = 0.0  # the longest that loading and warming both up took

    def measure(self) -> Measurement:
        """The control, the sessions that were planned, and more until the interval is narrow enough."""
        with pause_garbage_collection():
            self._control()
            self._loads()
            self._plan()
            for k in range(self.design.sessions):
                self._session(k, self.design.blocks)
            self._extend()
        self.found.design = self.design
        self.found.seconds = self._elapsed()
        return self.found

    def _elapsed(self) -> float:
        return (self.clock() - self.begun) / 1e9

    def say(self, stage: str) -> None:
        """Tell the stage, and how much of the time is gone."""
        self._tell(f"{stage} ({self._elapsed():.0f} of at most {self.design.max_time:.0f} s)")

    def _find_time_left(self) -> float:
        return self.design.max_time - self._elapsed()

    def _open(self, which: int, side: ModelTimes | None, stage: str) -> tuple[LoadedSession, float]:
        """Load and warm up one model; the time of a run at the end of it in ms."""
        self.say(f"{stage}, load {'AB'[which]}")
        model = self.opens[which]()
        self.say(f"{stage}, warm-up of {'AB'[which]}")
        warm = warm_up(model.run, self.clock, *self.design.warm_up, extra=self.extra)
        if side is not None:
            self._note(side, model)
            side.warm_ups.append(warm)
        return model, warm.run_ms

    def _control(self) -> None:
        """A beside A: what the machine shows where there is nothing to see.

        The second one is loaded anew for each block, unless that takes too long.
        """
        begun = self._elapsed()
        model, run_ms = self._open(_FIRST, None, "A/A control")
        self.found.repeat = count_repeats(run_ms)
        self.pair_seconds = 2e-3 * run_ms * self.found.repeat
        # A disturbance of a few milliseconds must not fill a block.
        self.design = replace(self.design, pairs=max(self.design.pairs, math.ceil(_BLOCK_SECONDS / self.pair_seconds)))
        room = _CONTROL_SHARE * self.design.max_time / (AA_BLOCKS * self.pair_seconds)
        count = max(min(self.design.pairs, FEWEST_PAIRS), min(self.design.pairs, int(room)))
        other = None
        for k in range(AA_BLOCKS):
            if other is None:
                other, _ = self._open(_FIRST, None, f"A/A control, block {k + 1} of {AA_BLOCKS}")
            if k == 0:
                self.session_seconds = self._elapsed() - begun + self.begin_seconds
            samples = self._take((model.run, other.run), count)
            # The later one of two sessions tends to differ from the earlier one: take turns.
            self.found.aa.append((samples if k % 2 == self.first else samples.swapped()).log_ratio)
            if self.session_seconds - self.begin_seconds < _RELOAD_SHARE * self.design.max_time:
                other.close()
                other = None
        if other is not None:
            other.close()
        model.close()

    def _loads(self) -> None:
        """Load times of both in turn, as often as a small share of the time allows: sessions are too few for them."""
        begun = self._elapsed()
        for k in range(_LOADS):
            self.say(f"load times, {k + 1} of {_LOADS}")
            for which in self.rng.sample((_FIRST, _SECOND), 2):
                model = self.opens[which]()
                self._note(self.found.sides[which], model)
                model.close()
            if self._elapsed() - begun > _LOADS_SHARE * self.design.max_time:
                break

    @staticmethod
    def _note(side: ModelTimes, model: LoadedSession) -> None:
        side.loads.append(model.load_ms)
        side.firsts.append(model.first_run_ms)

    def _plan(self) -> None:
        fitted = fit_design(self.design, self.pair_seconds, self.session_seconds, self._find_time_left())
        asked = self.found.design
        if (fitted.sessions, fitted.blocks) != (asked.sessions, asked.blocks) or fitted.pairs < asked.pairs:
            self.found.warnings.append(
                f"{self.design.max_time:g} s are enough for {fitted.sessions} sessions of {fitted.blocks} blocks of "
                f"{fitted.pairs} pairs, not {asked.sessions} of {asked.blocks} of {asked.pairs}; "
                f"give more with {asked.advice.time}"
            )
        self.design = fitted

    def _session(self, session: int, blocks: int) -> None:
        """Both models loaded, warmed up and timed; they take turns in being loaded first."""
        begun, stage = self._elapsed(), f"session {session + 1} of {max(session + 1, self.design.sessions)}"
        self.begin(session + 1)
        order = (_FIRST, _SECOND) if (session + self.first) % 2 else (_SECOND, _FIRST)
        opened = {which: self._open(which, self.found.sides[which], stage)[0] for which in order}
        self.session_seconds = max(self.session_seconds, self._elapsed() - begun)
        runs = opened[_FIRST].run, opened[_SECOND].run
        if session == 0:
            fastest = min(side.warm_ups[0].run_ms for side in self.found.sides)
            self.found.repeat = count_repeats(fastest)
        for k in range(blocks):
            self.say(f"{stage}, block {k + 1} of {blocks}")
            self._block(session, runs)
        if self.read is not None:
            for which, side in enumerate(self.found.sides):
                side.submits.extend(opened[which].submit_ms() for _ in range(_SUBMITS))
        for model in opened.values():
            model.close()

    def _block(self, session: int, runs: tuple[Run, Run]) -> None:
        for attempt in range(_RETRIES + 1):
            samples, detail = time_with_clock(lambda count: self._take(runs, count), self.design.pairs, self.read)
            if detail.get("unsteady") and attempt < _RETRIES:
                detail["discarded"] = True
            block = Block(session, samples.log_ratio, median(samples.a), median(samples.b), **detail)
            self.found.blocks.append(block)
            if not detail.get("discarded"):
                self.found.samples.append(samples)
                return

    def _take(self, runs: tuple[Run, Run], count: int) -> Samples:
        return time_pairs(runs, draw_orders(self.rng, count), self.found.repeat, self.clock, self.before)

    def _extend(self) -> None:
        """More sessions for as long as the interval is too wide: its width decides, never where it lies."""
        session = self.design.sessions
        while not self._enough():
            self._session(session, EXTENSION)
            session += 1

    def _enough(self) -> bool:
        """Whether to stop, and why; nothing here looks at which model is the faster one."""
        counted = self.found.counted
        needed = self.session_seconds + EXTENSION * self.design.pairs * self.pair_seconds
        reasons = {
            "quick": self.design.quick,
            "narrow": is_narrow([b.log_ratio for b in counted], [b.session for b in counted], self.design),
            "most blocks": len(counted) + EXTENSION > MOST_BLOCKS,
            "noise": not is_steady(self.found.aa, self.design),  # what could still be measured would decide nothing
            "time": self._find_time_left() < needed,
        }
        self.found.stopped = next((why for why, holds in reasons.items() if holds), "")
        return bool(self.found.stopped)


def is_narrow(log_ratios: Sequence[float], sessions: Sequence[int], design: Design) -> bool:
    """Whether the interval is narrow enough to stop, wherever it lies."""
    return estimate_interval(log_ratios, sessions, design.alpha).half_width <= design.enough


def is_steady(aa: Sequence[float], design: Design) -> bool:
    """Whether the same model beside itself shows no difference, narrowly enough to see the margin."""
    control, limit = estimate_interval(aa, range(len(aa)), design.alpha), math.log1p(design.margin)
    return abs(control.theta) <= limit / 2 and control.half_width <= limit
