"""The protocol on a machine whose time is told: control, sessions, extension, and what the GPU's clock throws out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from converter.bench.design import AA_BLOCKS, MOST_BLOCKS, Design, parse_gate
from converter.bench.interleaved import InterleavedBench, Measurement, Samples
from converter.bench.judge import judge
from converter.records import Latency, Verdict
from converter.runtime.gpu import Reading
from tests.bench.machine import Machine

SMALL = Design(sessions=3, blocks=2, pairs=6, max_time=60.0)


def measured(machine: Machine, design: Design = SMALL, ratio: float = 1.0, ms: float = 20.0, **more) -> Measurement:
    return InterleavedBench(machine.pair(ratio, ms), design, clock=machine.clock, **more).measure()


def judged(machine: Machine, design: Design = SMALL, ratio: float = 1.0, ms: float = 20.0) -> Latency:
    return judge(measured(machine, design, ratio, ms))


def test_a_quiet_machine_measures_the_ratio() -> None:
    found = judged(Machine(noise=0.002), ratio=0.9)
    assert found.ratio == pytest.approx(0.9, rel=0.01)
    assert (found.outcome, found.verdict) == ("FASTER", Verdict.PASS)
    assert found.low < found.ratio < found.high < 0.91


def test_slower_fails() -> None:
    found = judged(Machine(noise=0.002), ratio=1.1)
    assert (found.outcome, found.verdict) == ("SLOWER", Verdict.FAIL)


def test_what_slows_both_hurts_neither() -> None:
    """A machine that loses half its speed on the way: one after the other would see 1.2 or more."""
    found = judged(Machine(noise=0.003, phase=0.05, rho=0.999, drift=0.05), SMALL)
    assert found.b.p90_ms > 1.3 * found.b.min_ms
    assert found.outcome == "NOT-SLOWER"


def test_the_control_comes_first_with_a_model_loaded_anew_for_each_block() -> None:
    machine = Machine()
    found = measured(machine)
    assert machine.loaded[: 1 + AA_BLOCKS] == ["a"] * (1 + AA_BLOCKS)
    assert len(found.aa) == AA_BLOCKS
    assert machine.closed == len(machine.loaded)  # nothing is left loaded


def test_a_control_that_takes_long_to_load_is_loaded_once() -> None:
    machine = Machine()
    opens = machine.opener("a", 20, load_ms=4000), machine.opener("b", 20)
    found = InterleavedBench(opens, SMALL, clock=machine.clock).measure()
    assert machine.loaded.index("b") <= 3  # two of A for the control
    assert len(found.aa) == AA_BLOCKS
    assert machine.closed == len(machine.loaded)


def test_a_slow_model_keeps_to_its_time() -> None:
    assert measured(Machine(), replace(Design(), max_time=60.0), ms=500.0).seconds < 75


def test_the_control_takes_turns_in_which_of_the_two_is_the_first() -> None:
    """A later session that is always 1 % slower is no difference between the two."""
    machine = Machine()
    opens = machine.pair()

    def later():
        model = opens[0]()
        model.kept = 0.01 * (len(machine.loaded) > 1)
        return model

    found = InterleavedBench((later, opens[1]), SMALL, clock=machine.clock).measure()
    assert {round(x, 4) for x in found.aa} == {0.01, -0.01}


def test_sessions_take_turns_in_loading_first() -> None:
    machine = Machine()
    measured(machine, replace(SMALL, sessions=4))
    sessions = machine.loaded[-8:]
    firsts = [sessions[k] for k in range(0, 8, 2)]
    assert firsts in (["a", "b", "a", "b"], ["b", "a", "b", "a"])


def test_load_and_first_run_are_kept_apart_from_runs() -> None:
    machine = Machine()
    opens = machine.opener("a", 20, load_ms=5), machine.opener("b", 20, load_ms=8)
    found = judge(InterleavedBench(opens, SMALL, clock=machine.clock).measure())
    assert (found.a.load_ms, found.b.load_ms, found.a.first_run_ms) == (5, 8, 40)
    assert found.design["load"]["ratio"] == pytest.approx(1.6)
    assert found.outcome == "NOT-SLOWER"


def test_it_stops_as_planned_when_the_interval_is_narrow() -> None:
    found = measured(Machine(noise=0.002))
    assert (len(found.counted), found.stopped) == (SMALL.total, "narrow")


def test_it_goes_on_while_the_interval_is_wide_and_there_is_time() -> None:
    # layouts of memory that differ by 1 %: the control passes, one session more at a time narrows it
    found = measured(Machine(layout=0.006, seed=3), replace(SMALL, max_time=1000.0))
    assert found.stopped in ("narrow", "most blocks")
    assert SMALL.total < len(found.counted) <= MOST_BLOCKS


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.02, 2.0])
def test_where_the_interval_lies_does_not_decide_how_long_is_measured(ratio: float) -> None:
    def blocks(of: float) -> int:
        return len(measured(Machine(layout=0.006, seed=3), replace(SMALL, max_time=10_000.0), of).counted)

    assert blocks(ratio) == blocks(1.0)


def test_time_ends_it() -> None:
    found = measured(Machine(layout=0.02, noise=0.001, seed=1), replace(SMALL, max_time=20.0, margin=0.06))
    assert found.stopped == "time"
    assert found.seconds < 20.0


def test_a_slow_model_gets_a_smaller_plan_and_says_so() -> None:
    found = measured(Machine(), replace(SMALL, max_time=60.0), ms=1000.0)
    assert len(found.samples[0].a) < SMALL.pairs
    assert any("--max-time" in said for said in found.warnings)
    assert not any("--max-time" in said for said in measured(Machine()).warnings)


def test_a_short_model_gets_longer_samples_and_more_pairs() -> None:
    found = measured(Machine(), Design.fast(), ms=0.1)
    assert found.repeat == 2  # 200 us
    assert len(found.samples[0].a) * 2 * 0.2 >= 100  # ms of a block
    assert judge(found).a.p99_ms is None  # the mean of two runs has no tail to show


def test_quick_is_not_extended() -> None:
    found = measured(Machine(layout=0.006, seed=3), Design.fast(max_time=1000.0))
    assert (found.stopped, len(found.counted)) == ("quick", 9)


def test_a_noisy_machine_is_inconclusive_and_not_measured_longer() -> None:
    found = measured(Machine(noise=0.3, seed=1), replace(SMALL, max_time=1000.0), ratio=0.9)
    assert found.stopped == "noise"
    said = judge(found)
    assert (said.outcome, said.verdict) == ("INCONCLUSIVE", Verdict.INCONCLUSIVE)
    assert "machine too noisy (A/A ±" in said.why


@pytest.mark.parametrize(
    ("ratio", "outcome", "verdict"), [(2.0, "SLOWER", Verdict.FAIL), (0.4, "FASTER", Verdict.PASS)]
)
def test_noise_hides_no_difference_that_is_larger(ratio: float, outcome: str, verdict: Verdict) -> None:
    said = judge(measured(Machine(noise=0.15, seed=1), replace(SMALL, max_time=1000.0), ratio=ratio))
    assert (said.outcome, said.verdict, said.aa["steady"]) == (outcome, verdict, False)
    assert any("holds with that added" in warning for warning in said.warnings)


def test_what_the_control_shows_is_added_to_the_interval() -> None:
    """B is 12 % slower for certain, but A beside A is 10 % off: that is no reason to call B slower."""
    found = measured(Machine(noise=0.001), ratio=1.12)
    assert judge(found).outcome == "SLOWER"
    found.aa = [0.10 + 0.001 * k for k in range(5)]
    said = judge(found)
    assert (said.outcome, said.verdict) == ("INCONCLUSIVE", Verdict.INCONCLUSIVE)
    assert "machine too noisy (A/A +10" in said.why
    found.design = replace(found.design, gate=parse_gate("none"))
    assert (judge(found).outcome, judge(found).verdict) == ("INCONCLUSIVE", Verdict.SKIPPED)


@pytest.mark.parametrize("seed", range(20))
def test_a_beside_a_is_never_faster_or_slower(seed: int) -> None:
    noise = {"noise": 0.02 * (1 + seed % 5), "phase": 0.1 * (seed % 3), "layout": 0.005 * (seed % 4)}
    found = judged(Machine(seed=seed, drift=0.01, **noise), replace(Design(), max_time=60.0, seed=seed))
    assert found.outcome in ("NOT-SLOWER", "INCONCLUSIVE")


def clocked(readings: Iterator[Reading]) -> Measurement:
    return measured(Machine(noise=0.001), replace(SMALL, sessions=1, blocks=2), read=lambda: next(readings))


def test_a_throttled_block_is_discarded_and_made_again() -> None:
    def readings() -> Iterator[Reading]:
        yield from [Reading(1900), Reading(1900, 0x40)]
        while True:
            yield Reading(1900)

    found = clocked(readings())
    assert [bool(b.discarded) for b in found.blocks][:3] == [True, False, False]
    assert len(found.counted) == len(found.samples)
    assert found.blocks[0].throttle == ("hardware thermal slowdown",)
    assert judge(found).design["discarded"] == 1


def test_a_clock_that_drifts_by_three_percent_within_a_block_discards_it() -> None:
    def readings(late: float) -> Iterator[Reading]:
        yield from [Reading(1900), Reading(late)]
        while True:
            yield Reading(1900)

    assert len(clocked(readings(1900 * 0.965)).blocks) > len(clocked(readings(1900 * 0.975)).blocks)


def test_a_gpu_that_never_steadies_is_measured_all_the_same_and_said_to_be_so() -> None:
    def readings() -> Iterator[Reading]:
        while True:
            yield Reading(1900, 0x40)

    found = clocked(readings())
    assert len(found.counted) >= 2
    assert any("hardware thermal slowdown" in said for said in judge(found).warnings)


def test_a_power_cap_alone_is_no_reason_to_measure_a_block_again() -> None:
    def readings(late: float) -> Iterator[Reading]:
        while True:
            yield Reading(1900, 0x04)
            yield Reading(late, 0x04)

    found = clocked(readings(1900))
    assert not any(b.discarded for b in found.blocks)
    assert any("at its power cap, with a steady clock" in said for said in judge(found).warnings)
    assert any(b.discarded for b in clocked(readings(1700)).blocks)


def test_a_session_is_begun_before_its_models_are_loaded() -> None:
    told = Machine(noise=0.001)
    seen: list[object] = []
    real = told.pair(1.0)

    def opener(which: int) -> Callable[[], Any]:
        return lambda: seen.append("ab"[which]) or real[which]()

    opens = opener(0), opener(1)
    design = replace(SMALL, sessions=2, blocks=2)
    InterleavedBench(opens, design, clock=told.clock, begin=seen.append, begin_seconds=1.0).measure()
    assert [each for each in seen if each not in ("a", "b")][:2] == [1, 2]
    assert set(seen[seen.index(1) + 1 : seen.index(1) + 3]) == {"a", "b"}


def test_a_difference_of_clocks_is_no_difference_of_models() -> None:
    """B looks 10 % faster in seconds; in cycles, the two are the same."""
    found = measured(Machine(noise=0.001), ratio=0.9)
    blocks = [replace(b, cycles_log_ratio=0.0 + 1e-4 * k) for k, b in enumerate(found.blocks)]
    found.blocks[:] = blocks
    said = judge(found)
    assert said.outcome == "INCONCLUSIVE"
    assert "clock" in said.why
    found.blocks[:] = [replace(b, cycles_log_ratio=b.log_ratio) for b in blocks]
    assert judge(found).outcome == "FASTER"


def test_a_gpu_is_asked_how_long_queueing_takes() -> None:
    readings = iter(lambda: Reading(1900), None)
    found = judge(clocked(readings))
    assert (found.a.detail["submit_ms"], found.a.detail["total_ms"]) == (0.1, 20.0)
    assert "submit_ms" not in judged(Machine()).a.detail


def test_the_99th_percentile_needs_299_samples() -> None:
    few, many = judged(Machine(noise=0.01)), judged(Machine(noise=0.01), replace(SMALL, pairs=50))
    assert (few.a.n < 299, few.a.p99_ms, "p99_upper_ms" in few.a.detail) == (True, None, False)
    assert many.a.n == 300
    assert many.a.p99_ms is not None
    assert many.a.p99_ms <= many.a.detail["p99_upper_ms"]
    assert many.a.detail["p99_may_gate"] is False


def test_without_a_gate_nothing_passes_or_fails() -> None:
    from converter.bench.design import Gate

    found = judged(Machine(noise=0.002), replace(SMALL, gate=Gate("none")), ratio=1.5)
    assert (found.outcome, found.verdict) == ("SLOWER", Verdict.SKIPPED)


def test_samples_are_interleaved_so_medians_are_of_neighbours() -> None:
    found = measured(Machine(noise=0.002))
    for block, samples in zip(found.counted, found.samples, strict=True):
        assert isinstance(samples, Samples)
        assert block.log_ratio == pytest.approx(math.log(block.b_ms / block.a_ms))


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (0.97, "faster, but not by 5%"),
        (1.0, "not slower, but not faster by 5%"),
        (1.1, "slower, and faster by 5% was asked for"),
        (0.9, "faster"),
    ],
)
def test_a_gate_that_asks_for_more_says_what_is_missing(ratio: float, said: str) -> None:
    found = judged(Machine(noise=0.002), replace(SMALL, gate=parse_gate("faster:5%")), ratio=ratio)
    assert found.why.partition("]: ")[2].replace(" (by 2 % at most)", "") == said
