"""The same model beside itself, twenty times on noisy machines: never faster, never slower."""

from __future__ import annotations

import pytest

from converter.bench.design import Design
from converter.bench.duet import Duet
from converter.bench.judge import judge
from tests.latency.machine import Machine

RUNS = 20
NOISE = {
    "quiet": {"noise": 0.003},
    "shared": {"noise": 0.03, "phase": 0.1, "rho": 0.9},
    "drifting": {"noise": 0.03, "phase": 0.05, "rho": 0.99, "drift": 0.01},
    "layouts of memory": {"noise": 0.01, "phase": 0.03, "rho": 0.9, "layout": 0.01},
    "wild": {"noise": 0.2, "phase": 0.3, "rho": 0.99, "layout": 0.05},
}


def outcomes(kind: str, design: Design) -> list[str]:
    found = []
    for seed in range(RUNS):
        machine = Machine(seed=seed, **NOISE[kind])
        found.append(judge(Duet(machine.pair(), design, clock=machine.clock).measure()).outcome)
    return found


@pytest.mark.parametrize("kind", NOISE)
def test_a_model_is_neither_faster_nor_slower_than_itself(kind: str) -> None:
    found = outcomes(kind, Design.fast())
    assert set(found) <= {"NOT-SLOWER", "INCONCLUSIVE"}
    if kind == "quiet":
        assert found.count("NOT-SLOWER") == RUNS  # it is no use to decide nothing


def test_without_the_margin_it_would_often_be() -> None:
    """What is guarded against: an interval that leaves one out, which 10 % of honest ones do."""
    found = []
    for seed in range(3 * RUNS):
        machine = Machine(seed=seed, **NOISE["layouts of memory"])
        latency = judge(Duet(machine.pair(), Design.fast(), clock=machine.clock).measure())
        found.append(latency.high < 1 or latency.low > 1)
    assert sum(found) >= 3
