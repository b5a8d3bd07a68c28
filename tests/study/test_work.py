"""Jobs: what they yield, that they repeat, that the plan is paired, and that time is kept to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from converter.study import jobs, plan, recall_task
from converter.study.plan import Job, StudyScope
from converter.study.run import TimeBudget
from tests.study import made

pytestmark = pytest.mark.slow

SETTING = jobs.Setting(made.few_images())


@pytest.mark.parametrize("block", [b for b in plan.BLOCKS if b != "recall"])
def test_the_same_job_gives_the_same_rows(block: str) -> None:
    job = made.one_of(block, width=3)
    rows = jobs.run_job(job, SETTING)
    assert rows == jobs.run_job(job, SETTING)
    assert all(row["of"] == len(rows) and row["job"] == job.id for row in rows)
    assert block == "exact" or {row["seed"] for row in rows} == set(job.seeds)


def test_another_key_gives_other_rows() -> None:
    job = made.one_of("widths", width=3)
    other = replace(SETTING, key=1)
    assert [r["loss"] for r in jobs.run_job(job, SETTING)] != [r["loss"] for r in jobs.run_job(job, other)]


def test_rows_name_the_arm_that_they_are_of() -> None:
    job = made.one_of("widths", width=3)
    rows = jobs.run_job(job, SETTING)
    assert len(rows) == len(job.seeds) * len(job.variants)
    assert {(r["bias"], r["input"]) for r in rows} == {(v.bias, v.input) for v in job.variants}


def test_identity_sees_a_bias_that_matters() -> None:
    """The control can fail: with layer norm a random bias is not dead."""
    job = made.one_of("identity", width=3, steps=40)
    dead, live = (max(r["apart"] for r in jobs.run_job(replace(job, norm=n), SETTING)) for n in ("instance", "layer"))
    assert dead < 1e-9
    assert live > 1e-3


def test_no_bias_anywhere_is_exactly_chance_on_the_contrast_task() -> None:
    job = made.one_of("contrast", width=3, steps=20)
    none = [r["accuracy"] for r in jobs.run_job(job, SETTING) if r["bias"] == "none"]
    assert none == [50.0] * len(job.seeds)


def test_adam_moves_a_dead_bias_and_sgd_does_not() -> None:
    rows = jobs.run_job(made.one_of("drift", width=3, steps=30), SETTING)
    moved = {r["optimiser"]: r["largest"] for r in rows}
    assert moved["Adam"] > 1e-3
    assert moved["SGD with momentum"] < 1e-4
    assert all(r["gradient_bias"] < 1e-5 * r["gradient_weight"] for r in rows)


def test_recall_is_kept_apart_by_arm_and_repeats() -> None:
    how = {"key": 0, "lag": 6, "steps": 4, "check": 2}
    alone = recall_task.train_lstms([3], ["2"], **how)
    both = recall_task.train_lstms([1, 3], ["none", "2"], **how)
    assert alone.steps == (2, 4)
    assert both.accuracy[:, 1] == pytest.approx(alone.accuracy[:, 0])


def test_no_bias_in_a_cell_stays_none() -> None:
    cells = recall_task.LstmStack([(0,), (0,)], ["none", "1"], 6, "cpu")
    assert [float(m) for m in cells.mask.flatten()] == [0, 1]
    assert (cells.values[2][1][recall_task.HIDDEN : 2 * recall_task.HIDDEN] == 1).all()


def test_solved_means_solved_until_the_end() -> None:
    assert recall_task.find_solved([25, 50, 75], [100, 50, 99]) == 75
    assert recall_task.find_solved([25, 50, 75], [50, 100, 99]) == 50
    assert recall_task.find_solved([25, 50, 75], [100, 100, 95]) is None


@pytest.mark.parametrize("quick", [False, True])
def test_the_plan(quick: bool) -> None:
    jobs = plan.plan_jobs(StudyScope(quick=quick))
    assert len({job.id for job in jobs}) == len(jobs)
    assert jobs[0].block == "exact"
    assert [job.part for job in jobs] == sorted(job.part for job in jobs)
    for group in {job.group for job in jobs}:
        seeds = [s for job in jobs if job.group == group for s in job.seeds]
        assert sorted(seeds) == list(range(len(seeds)))
    for job in jobs:
        if job.kind == "train":
            assert {v.bias for v in job.variants} >= {"all", "head"}
    assert {job.block for job in jobs} == set(plan.BLOCKS if not quick else jobs and {j.block for j in jobs})


def test_seeds_and_arms_that_are_asked_for() -> None:
    jobs = plan.plan_jobs(StudyScope(("widths",), seeds=6, nowhere=True))
    assert {job.block for job in jobs} == {"widths"}
    assert {v.bias for v in jobs[0].variants} == {"all", "head", "none"}
    widest = [job for job in jobs if job.width == 64]
    assert [job.seeds for job in widest] == [(0, 1, 2, 3), (4, 5)]


def test_both_arms_of_every_job_have_the_same_rates() -> None:
    for job in plan.plan_jobs(StudyScope()):
        rates = {bias: [v.rate for v in job.variants if v.bias == bias] for bias in ("all", "head")}
        assert not rates["head"] or rates["all"] == rates["head"]


class Clock:
    """A clock that is told the time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


JOBS = [
    Job(name, "train", tuple(range(4 * part, 4 * part + 4)), part, width=8)
    for part in range(4)
    for name in ("widths", "norms")
]


def governor(budget: float, step: float = 0.01) -> tuple[TimeBudget, Clock]:
    """One that has timed the jobs: a step of a job takes so long, hence 420 steps of it 4.83 s."""
    clock = Clock()
    made_ = TimeBudget(budget, 2, clock)

    def take(steps: int) -> None:
        clock.now += steps * step

    for job in JOBS:
        made_.measure(job, take)
    return made_, clock


def test_a_job_is_timed_once_for_all_its_seeds() -> None:
    found, clock = governor(100)
    assert clock.now == pytest.approx(2 * 4 * 0.01)  # two groups, one step and three
    assert found.cost(JOBS[0]) == pytest.approx(0.01 * 420 * 1.15)


def test_everything_is_kept_if_there_is_time() -> None:
    found, _ = governor(100)
    assert found.choose(JOBS) == (JOBS, [])


def test_last_seeds_go_first_and_evenly_but_never_the_first_part() -> None:
    found, _ = governor(10)  # two lanes of 10 s hold 4 of the 8 jobs
    kept, left = found.choose(JOBS)
    assert sorted((job.block, job.part) for job in kept) == [("norms", 0), ("norms", 1), ("widths", 0), ("widths", 1)]
    assert len(left) == 4
    kept, _ = governor(0.5)[0].choose(JOBS)
    assert [job.part for job in kept] == [0, 0]


def test_nothing_starts_when_the_time_is_over() -> None:
    found, clock = governor(10)
    assert found.may_start(JOBS[2])
    clock.now = 6  # 4 s are left: too few for a second part, enough for a first to begin
    assert not found.may_start(JOBS[2])
    assert found.may_start(JOBS[0])
    clock.now = 8
    assert not found.may_start(JOBS[0])
    clock.now = 10
    found.record(JOBS[0], 0.001)
    assert not found.may_start(JOBS[0])


def test_what_a_job_took_is_what_its_like_will_take() -> None:
    found, _ = governor(100)
    found.record(JOBS[0], 40.0)
    assert found.cost(JOBS[2]) == pytest.approx(40.0)
