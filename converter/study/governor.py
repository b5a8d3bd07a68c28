"""Which jobs fit into the time: each kind is timed for a few steps, then seeds are left out, never the first part."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from converter.study.plan import Job

PROBE = 3  # steps that are timed, after one that is not
_OVER = 2.0  # times over the time left that a first part may take: without it its question stays unanswered
_SLACK = 1.15  # evaluation, and what is slower beside other work


class Governor:
    """Keeps to ``budget`` seconds; ``lanes`` jobs run side by side.

    Nothing starts after the time is over or that is expected to take far longer than is left.
    """

    def __init__(self, budget: float, lanes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget, self.lanes, self._clock = budget, lanes, clock
        self._start = clock()
        self._costs: dict[str, float] = {}
        self._lock = threading.Lock()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def measure(self, job: Job, do: Callable[[int], Any]) -> None:
        """Time a few steps of a job, once for all that differ in their seeds alone."""
        if job.group in self._costs:
            return
        if job.kind == "exact":
            self._costs[job.group] = 0.0
            return
        do(1)
        begun = self._clock()
        do(PROBE)
        self._costs[job.group] = (self._clock() - begun) / PROBE / len(job.seeds) * job.steps * _SLACK

    def cost(self, job: Job) -> float:
        """Seconds that a job is expected to take; 0 if its like was never timed."""
        return self._costs.get(job.group, 0.0) * len(job.seeds)

    def choose(self, jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
        """Those that fit into the time that is left, and those that do not: the last seeds of the widest sampled."""
        kept = list(jobs)
        spare = (self.budget - self.elapsed()) * self.lanes
        parts = Counter(job.group for job in kept)
        while sum(map(self.cost, kept)) > spare:
            extra = [job for job in kept if job.part > 0]
            if not extra:
                break
            goes = max(extra, key=lambda job: (parts[job.group], self.cost(job), job.part))
            parts[goes.group] -= 1
            kept.remove(goes)
        return kept, [job for job in jobs if job not in kept]

    def may_start(self, job: Job) -> bool:
        """Whether there is time for a job: as much as it is expected to take, for a first part half of that."""
        with self._lock:
            left = self.budget - self.elapsed()
            return left > 0 and self.cost(job) <= left * (_OVER if job.part == 0 else 1)

    def took(self, job: Job, seconds: float) -> None:
        """Learn from a job that was done."""
        with self._lock:
            if seconds > 0:
                self._costs[job.group] = seconds / len(job.seeds)
