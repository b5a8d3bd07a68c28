"""Pairs, warm-up and the plan: what is timed, in which order, and for how long."""

from __future__ import annotations

import gc
import random

import pytest

from converter.bench.design import Design, fit_design
from converter.bench.interleaved import (
    Samples,
    count_repeats,
    draw_orders,
    pause_garbage_collection,
    time_pairs,
    warm_up,
)
from tests.bench.machine import Machine


class Recorder:
    """Two models of 3 and 5 ms, and a note of who ran when."""

    def __init__(self) -> None:
        self.machine, self.said = Machine(), ""

    def run(self, name: str, ms: float) -> None:
        self.said += name
        self.machine.sleep(ms)

    def pair(self):
        return (lambda: self.run("a", 3)), (lambda: self.run("b", 5))


def test_each_pair_holds_both_in_the_order_that_was_drawn() -> None:
    told = Recorder()
    found = time_pairs(told.pair(), [0, 1, 1], 1, told.machine.clock)
    assert told.said == "abbaba"
    assert found == Samples((3.0, 3.0, 3.0), (5.0, 5.0, 5.0))


def test_a_sample_is_the_mean_of_runs_in_a_row() -> None:
    told = Recorder()
    found = time_pairs(told.pair(), [0], 4, told.machine.clock)
    assert told.said == "aaaabbbb"
    assert found == Samples((3.0,), (5.0,))


def test_what_comes_before_a_sample_is_not_timed() -> None:
    told = Recorder()
    found = time_pairs(told.pair(), [0], 2, told.machine.clock, before=lambda: told.run("f", 100))
    assert told.said == "faafbb"
    assert found == Samples((3.0,), (5.0,))


def test_orders_are_random_and_seeded() -> None:
    first = draw_orders(random.Random(1), 400)
    assert first == draw_orders(random.Random(1), 400) != draw_orders(random.Random(2), 400)
    assert 150 < sum(first) < 250


@pytest.mark.parametrize(("ms", "count"), [(10, 1), (0.2, 1), (0.199, 2), (0.02, 10), (0.0, 200_000)])
def test_short_models_run_several_times_a_sample(ms: float, count: int) -> None:
    assert count_repeats(ms) == count


def test_the_collector_rests_and_comes_back() -> None:
    assert gc.isenabled()
    seen = []

    def fail() -> None:
        with pause_garbage_collection():
            seen.append(gc.isenabled())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (seen, gc.isenabled()) == ([False], True)


def test_log_ratio_is_of_medians() -> None:
    assert Samples((1, 1, 100), (1, 1, 1)).log_ratio == 0
    assert Samples((1, 1, 1), (2, 2, 2)).log_ratio == pytest.approx(0.6931472)
    assert Samples((1,), (2,)).swapped() == Samples((2,), (1,))
    assert Samples((1,), (2,)) + Samples((3,), (4,)) == Samples((1, 3), (2, 4))


def warmed(machine: Machine, times: list[float], least: float = 0.0, most: float = 100.0, extra: int = 0):
    left = iter(times)
    return warm_up(lambda: machine.sleep(next(left)), machine.clock, least, most, extra)


def test_warm_up_ends_when_three_windows_agree() -> None:
    """Ten slow runs, then steady: the first window that counts is the second one."""
    found = warmed(Machine(), [50.0] * 11 + [20.0] * 100)
    assert (found.runs, found.settled, found.run_ms) == (41, True, 20.0)


def test_warm_up_goes_on_while_windows_differ_by_more_than_three_percent() -> None:
    def falling(step: float) -> list[float]:
        return [20.0] + [20 * step**k for k in range(30) for _ in range(10)]

    assert warmed(Machine(), falling(1.014)).runs == 31  # two steps are 2.8 %
    assert warmed(Machine(), falling(1.016), most=2.0).settled is False


def test_warm_up_lasts_as_long_as_it_must_and_no_longer_than_it_may() -> None:
    assert warmed(Machine(), [1.0] * 2000, least=1.0).seconds >= 1.0
    noisy = [1.0, 2.0] * 40_000
    wavy = [x * (1 + k // 10 % 2) for k, x in enumerate(noisy)]
    found = warmed(Machine(), wavy, most=3.0)
    assert not found.settled
    assert 3.0 <= found.seconds < 3.1


def test_a_slow_model_has_smaller_windows() -> None:
    assert warmed(Machine(), [1000.0] * 100, most=10.0).runs == 10  # three windows of three, and the first


def test_a_graph_is_recorded_before_the_first_window() -> None:
    assert warmed(Machine(), [20.0] * 200, extra=3).runs == warmed(Machine(), [20.0] * 200).runs + 3


def test_a_plan_that_fits_is_kept() -> None:
    design = Design()
    assert fit_design(design, 0.1, 5.0, 100.0) == design


def test_a_plan_gives_up_pairs_then_blocks_and_sessions() -> None:
    design = Design()
    sizes = [
        (f.sessions, f.blocks, f.pairs) for f in (fit_design(design, t, 2.0, 100.0) for t in (0.3, 1.5, 4.0, 100.0))
    ]
    assert sizes == [(5, 4, 15), (5, 4, 3), (3, 2, 3), (2, 2, 3)]


def test_a_plan_that_is_small_to_begin_with_stays_so() -> None:
    small = Design(sessions=1, blocks=1, pairs=2)
    assert fit_design(small, 10.0, 1.0, 1.0) == small


def test_the_quick_plan() -> None:
    quick = Design.fast(pairs=7, seed=3)
    assert (quick.sessions, quick.blocks, quick.pairs, quick.seed, quick.quick) == (3, 3, 7, 3, True)
    assert quick.warm_up[0] < Design().warm_up[0]
    assert quick.warm_up[1] < Design().warm_up[1] <= 30
