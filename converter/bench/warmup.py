"""Warm-up by agreement: until windows of runs no longer differ."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from converter.bench.pairs import Clock, Run

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
        first = _timed(run, clock)
    # A slow model gets smaller windows, so that three of them fit.
    window = max(_SMALLEST, min(_WINDOW, int(1e9 * most / (_WINDOWS * max(first, 1)))))
    times: list[int] = []
    while True:
        times.extend(_timed(run, clock) for _ in range(window))
        medians = [median(times[k : k + window]) for k in range(0, len(times), window)][-_WINDOWS:]
        seconds = (clock() - begun) / 1e9
        settled = len(medians) == _WINDOWS and max(medians) <= _AGREEMENT * min(medians)
        if (settled and seconds >= least) or seconds >= most:
            return WarmUp(len(times) + extra + 1, seconds, settled, medians[-1] / 1e6)


def _timed(run: Run, clock: Clock) -> int:
    begun = clock()
    run()
    return clock() - begun
