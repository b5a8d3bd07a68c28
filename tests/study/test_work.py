"""Jobs: what they yield, that they repeat, that the plan is paired, and that time is kept to."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from converter import stats
from converter.study import data, jobs, nets, plan, tasks
from converter.study.plan import Job, StudyScope
from converter.study.run import TimeBudget
from converter.study.training import Arm
from tests.study import made

pytestmark = pytest.mark.slow

SETTING = jobs.Setting(made.few_images())


@pytest.mark.parametrize("block", [b for b in plan.BLOCKS if b != "recall"])
def test_the_same_job_gives_the_same_rows(block: str) -> None:
    job = made.one_of(block, width=3)
    rows = jobs.run_job(job, SETTING)
    assert rows
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
    assert all(0 <= r["gradient_bias"] < 1e-5 * r["gradient_weight"] for r in rows)


def test_recall_is_kept_apart_by_arm_and_repeats() -> None:
    how = {"key": 0, "lag": 6, "steps": 4, "check": 2}
    alone = tasks.train_lstms([3], ["2"], **how)
    both = tasks.train_lstms([1, 3], ["torch", "2"], **how)
    assert alone.steps == (2, 4)
    assert both.accuracy[:, 1] == pytest.approx(alone.accuracy[:, 0])


def test_where_the_forget_gate_starts() -> None:
    cells = tasks.LstmStack([(0,)] * 3, ["torch", "2", "ln(T-1)"], 6, "cpu")
    gate = slice(tasks.HIDDEN, 2 * tasks.HIDDEN)
    drawn, two, by_lag = cells.values[2].detach()
    assert (two[gate] == 2).all()
    assert two[: tasks.HIDDEN].abs().max() == 0
    assert by_lag[gate].numpy() == pytest.approx(math.log(5))
    assert 0 < drawn.abs().max() <= 2 / math.sqrt(tasks.HIDDEN)


def test_solved_means_solved_until_the_end() -> None:
    assert tasks.find_solved([25, 50, 75], [100, 50, 99]) == 75
    assert tasks.find_solved([25, 50, 75], [50, 100, 99]) == 50
    assert tasks.find_solved([25, 50, 75], [100, 100, 95]) is None


@pytest.mark.parametrize("quick", [False, True])
def test_the_plan(quick: bool) -> None:
    jobs = plan.plan_jobs(StudyScope(quick=quick))
    assert len({job.id for job in jobs}) == len(jobs)
    assert jobs[0].block == "exact"
    order = [list(plan.BLOCKS).index(job.block) for job in jobs]
    assert order == sorted(order)
    for group in {job.group for job in jobs}:
        seeds = [s for job in jobs if job.group == group for s in job.seeds]
        assert sorted(seeds) == list(range(len(seeds)))
    for job in jobs:
        if job.kind == "train" and job.block != "capacity":
            assert {v.bias for v in job.variants} >= {"all", "head"}
    assert {job.block for job in jobs} == set(plan.QUICK if quick else plan.BLOCKS)


def test_quick_has_seeds_enough_for_what_it_judges() -> None:
    """Fisher's test of 6 of 6 against 0 of 6 survives Holm's correction over its four tests; of 4 it does not."""
    quick = plan.plan_jobs(StudyScope(quick=True))
    seeds = max(len({s for job in quick if job.kind == "recall" for s in job.seeds}), 0)
    assert 4 * stats.fisher(seeds, seeds, 0, seeds) < 0.05 < 4 * stats.fisher(4, 4, 0, 4)


@pytest.mark.parametrize("preset", ["cifar", "gpu"])
def test_larger_presets_train(preset: str) -> None:
    images = data.draw_synthetic(count=80)
    jobs_ = [job for job in plan.plan_jobs(StudyScope(preset=preset, seeds=1)) if job.kind != "exact"]
    assert {job.block for job in jobs_} == set(plan.PRESETS[preset]) - {"exact"}
    few = {(job.block, job.norm, job.depth, job.residual): job for job in jobs_}
    for job in few.values():
        rows = jobs.run_job(replace(job, width=3, steps=2, seeds=(0,)), jobs.Setting(images))
        assert rows
        assert all(np.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
        assert job.kind != "train" or all(0 <= row["accuracy"] <= 100 for row in rows)


def test_a_residual_net_by_itself_says_what_it_says_in_the_stack() -> None:
    images = data.draw_synthetic(count=160)
    job = replace(made.one_of("norms", norm="batch", width=3, depth=8, residual=True), steps=3, seeds=(0,))
    stack = jobs._train_stack(job, jobs.Setting(images), None, dtype=torch.float64)
    net = nets.unstack(stack.nets, 0)
    x = jobs._images_of(stack, 0, "test", 20)
    wanted = jobs.compute_logits(stack.nets, stack.feed, stack.tested[:, :20])[0]
    assert net.logits(x).numpy() == pytest.approx(wanted.numpy(), rel=1e-4, abs=1e-5)  # images in float32


def test_filters_that_are_centred_see_no_constant() -> None:
    arms = [Arm(0, "head", filters=f) for f in ("free", "centred")]
    stack, _ = made.stack(arms, width=3, filters=True)
    for layer in range(3):
        free, centred = stack.conv_weight(layer).detach().sum((2, 3, 4))
        assert centred.abs().max() < 1e-12 < free.abs().max()


def test_all_of_the_mean_comes_through_the_best_constant() -> None:
    """The identity that the table on imitation rests on, on a trained net."""
    stack, _ = made.stack([Arm(0, "head")], width=3)
    net = nets.unstack(stack, 0)
    x = torch.as_tensor(made.few_images().x[:60], dtype=torch.float64) / 16
    for layer, found in enumerate(nets.measure_imitation(net, x)):
        rows = nets.extract_patches(net.before(layer, x))
        second, mean = rows.T @ rows / len(rows), rows.mean(0)
        constant = torch.linalg.pinv(second, rtol=1e-9) @ mean
        w = net.convs[layer][0].flatten(1)
        part = (w @ second @ constant) / (constant @ second @ constant)
        assert (part * (constant @ mean)).numpy() == pytest.approx((w @ mean).numpy(), rel=1e-5, abs=1e-9)
        steady = rows @ constant
        assert found["noise"] == pytest.approx(float(steady.std(correction=0) / steady.mean()), rel=1e-3)


def test_points_are_as_their_tasks_say() -> None:
    for task in tasks.TASKS:
        x, y = tasks.draw_points(task, 400, np.random.default_rng(0))
        assert x.shape == (400, 1 if task == "threshold" else 2)
        assert 0.35 < y.mean() < 0.65


def test_no_net_without_biases_finds_a_threshold() -> None:
    job = next(j for j in plan.plan_jobs(StudyScope(("points",), seeds=2)) if j.task == "threshold" and j.width == 4)
    rows = jobs.run_job(replace(job, steps=200), SETTING)
    right = {bias: [r["accuracy"] for r in rows if r["bias"] == bias] for bias in ("all", "none")}
    assert right["none"] == [50.0, 50.0]
    assert max(right["all"]) > 90


def test_seeds_and_arms_that_are_asked_for() -> None:
    jobs = plan.plan_jobs(StudyScope(("widths",), seeds=6, nowhere=True))
    assert {job.block for job in jobs} == {"widths"}
    assert {v.bias for v in jobs[0].variants} == {"all", "head", "none"}
    widest = [job for job in jobs if job.width == 64]
    assert [job.seeds for job in widest] == [(0, 1, 2, 3), (4, 5)]


def test_both_arms_of_every_job_have_the_same_rates() -> None:
    both = 0
    for job in plan.plan_jobs(StudyScope()):
        rates = {bias: [v.rate for v in job.variants if v.bias == bias] for bias in ("all", "head")}
        assert not rates["head"] or rates["all"] == rates["head"]
        both += bool(rates["head"])
    assert both > 50


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
    kept, left = found.choose(JOBS)
    assert not left
    assert {job.id for job in kept} == {job.id for job in JOBS}


def test_blocks_go_as_a_whole_the_last_ones_first() -> None:
    found, _ = governor(10)  # two lanes of 10 s hold 4 of the 8 jobs
    kept, left = found.choose(JOBS)
    assert kept == [job for job in JOBS if job.block == "widths"]
    assert left == [job for job in JOBS if job.block == "norms"]
    assert governor(0.5)[0].choose(JOBS)[0] == []


def test_nothing_starts_when_the_time_is_over() -> None:
    found, clock = governor(10)
    assert not found.is_over()
    clock.now = 10
    assert found.is_over()
