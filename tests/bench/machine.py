"""A machine whose time is told, not measured: models that take what a noise process says, and a clock that follows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from converter.bench.interleaved import Open


@dataclass
class Machine:
    """Slow and quick phases (AR(1)), drift, and a different layout of memory each time a model is loaded."""

    noise: float = 0.0  # sd of the log of one run's time that is its own
    phase: float = 0.0  # sd of the log of what neighbouring runs share
    rho: float = 0.99
    drift: float = 0.0  # of the log, per second
    layout: float = 0.0  # sd of the log of what a loaded model keeps
    seed: int = 0
    now: int = 0  # ns
    state: float = 0.0
    loaded: list[str] = field(default_factory=list)
    closed: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def clock(self) -> int:
        return self.now

    def sleep(self, ms: float) -> None:
        self.now += max(1, round(1e6 * ms))

    def slowness(self) -> float:
        self.state = self.rho * self.state + math.sqrt(1 - self.rho**2) * self.rng.gauss(0, self.phase)
        return self.state + self.rng.gauss(0, self.noise) + self.drift * self.now / 1e9

    def opener(self, name: str, ms: float, load_ms: float = 5.0) -> Open:
        return lambda: Model(self, name, ms, load_ms)

    def pair(self, ratio: float = 1.0, ms: float = 20.0) -> tuple[Open, Open]:
        return self.opener("a", ms), self.opener("b", ms * ratio)


class Model:
    def __init__(self, machine: Machine, name: str, ms: float, load_ms: float) -> None:
        self.machine, self.ms, self.load_ms, self.first_run_ms = machine, ms, load_ms, 2 * ms
        machine.loaded.append(name)
        # of its own source, so that how often anything runs does not change it
        self.kept = random.Random(f"{machine.seed} {len(machine.loaded)}").gauss(0, machine.layout)
        machine.sleep(load_ms)
        self.run: Callable[[], None] = self._run
        self.n_runs = 0

    def _run(self) -> None:
        self.n_runs += 1
        self.machine.sleep(self.ms * math.exp(self.machine.slowness() + self.kept))

    def submit_ms(self) -> tuple[float, float]:
        return 0.1, self.ms

    def close(self) -> None:
        self.machine.closed += 1
