"""Interleaved pairs: A and B next to each other in random order, so that what slows one slows the other."""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

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


def orders(rng: random.Random, pairs: int) -> list[int]:
    """Which model comes first in each pair: 0 for A, 1 for B."""
    return [rng.randrange(2) for _ in range(pairs)]


def take(runs: tuple[Run, Run], order: Sequence[int], repeat: int, clock: Clock, before: Run | None = None) -> Samples:
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


def repeats(run_ms: float) -> int:
    """How many runs make a sample that is long enough to be timed."""
    return max(1, math.ceil(_SHORT_NS / max(1.0, 1e6 * run_ms)))


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of what is timed."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
