"""Runs: rows kept, runs gone on with, interrupted, out of time."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from converter.errors import BiasoptError, RuntimeUnavailable
from converter.study import jobs, plan, run
from converter.study.plan import StudyScope
from converter.study.run import ROWS, RUNS, RowLog
from tests.study import made

pytestmark = pytest.mark.slow

IMAGES = made.few_images()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of the same shape with small nets and few steps."""
    jobs = plan.plan_jobs

    def few(asked: StudyScope) -> list[plan.Job]:
        return [replace(job, width=min(job.width, 3), steps=3, depth=2) for job in jobs(asked) if job.width <= 4]

    monkeypatch.setattr(plan, "plan_jobs", few)


def ran(out: Path | None = None, asked: StudyScope | None = None, **how: object) -> run.StudyRun:
    return run.run_study(IMAGES, asked or StudyScope(("widths", "identity"), seeds=6), run.RunOptions(out=out, **how))


def test_rows_do_not_depend_on_how_many_run_side_by_side() -> None:
    rows = ran().rows
    assert {row["block"] for row in rows} == {"widths", "identity"}
    assert rows == ran(lanes=3).rows


def test_a_second_run_goes_on_and_gives_the_same_rows(tmp_path: Path) -> None:
    whole = ran(tmp_path / "whole")
    ran(tmp_path / "parts", StudyScope(("identity",), seeds=6))
    second = ran(tmp_path / "parts")
    assert second.resumed > 0
    assert second.rows == whole.rows
    third = ran(tmp_path / "parts")
    assert third.resumed == third.planned
    assert third.rows == whole.rows


def test_what_was_cut_short_is_done_again(tmp_path: Path) -> None:
    whole = ran(tmp_path)
    path = tmp_path / ROWS
    text = path.read_text()
    path.write_text(text[: len(text) * 2 // 3])  # in the middle of a row
    again = ran(tmp_path)
    assert again.rows == whole.rows
    assert 0 < again.resumed < again.planned
    for line in path.read_text().splitlines():
        json.loads(line)


def test_another_study_is_refused(tmp_path: Path) -> None:
    ran(tmp_path)
    with pytest.raises(BiasoptError, match=r"another study \(seed differ\); choose another --out"):
        ran(tmp_path, key=1)
    other = replace(IMAGES, x=IMAGES.x + 1)
    with pytest.raises(BiasoptError, match="digest differ"):
        run.run_study(other, StudyScope(("identity",), seeds=6), run.RunOptions(out=tmp_path))


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BiasoptError, match="cannot keep rows there"):
        RowLog(tmp_path / "file", {})


def test_out_of_time_leaves_jobs_out_and_says_which() -> None:
    ticks = itertools.count(0, 10.0)
    done = ran(clock=lambda: next(ticks), budget=100.0)
    assert done.left_out
    assert len(done.left_out) < done.planned
    assert done.not_run
    assert not {row["block"] for row in done.rows} & set(done.not_run)  # a block says all or nothing


def test_a_folder_is_for_one_number_of_seeds(tmp_path: Path) -> None:
    """Or somebody might add seeds until a verdict pleases."""
    ran(tmp_path)
    with pytest.raises(BiasoptError, match=r"another study \(seeds differ\)"):
        ran(tmp_path, StudyScope(("widths", "identity"), seeds=8))


def test_later_runs_do_what_was_left_out(tmp_path: Path) -> None:
    ticks = itertools.count(0, 10.0)
    first = ran(tmp_path, clock=lambda: next(ticks), budget=100.0)
    second = ran(tmp_path)
    assert first.left_out
    assert not second.left_out
    assert second.rows == ran().rows


def test_an_error_in_one_job_ends_the_run_and_keeps_the_rows_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do, calls = jobs.run_job, itertools.count()

    def sometimes(job: plan.Job, setting: jobs.Setting, only: int | None = None) -> list[dict]:
        if only is None and next(calls) == 2:
            raise KeyboardInterrupt
        return do(job, setting, only)

    with monkeypatch.context() as broken:
        broken.setattr(run, "run_job", sometimes)
        with pytest.raises(KeyboardInterrupt):
            ran(tmp_path)
    assert len({json.loads(line)["job"] for line in (tmp_path / ROWS).read_text().splitlines()} - {None}) == 2
    assert len((tmp_path / RUNS).read_text().splitlines()) == 1  # what it took counts, too
    assert ran(tmp_path).resumed == 2


def test_a_stop_ends_training_at_the_next_step() -> None:
    from converter.study.training import Stopped

    setting = jobs.Setting(IMAGES)
    setting.stop.set()
    for block in ("widths", "recall"):
        with pytest.raises(Stopped):
            jobs.run_job(made.one_of(block), setting)


def test_a_stop_ends_what_is_taken_out_of_trained_nets() -> None:
    from converter.study.training import Stopped

    setting = jobs.Setting(made.few_images())
    job = made.one_of("ablation", width=2)

    names = jobs._until_stopped(setting.stop, ("original", "zero"))
    assert next(names) == "original"
    setting.stop.set()
    with pytest.raises(Stopped):
        next(names)
    with pytest.raises(Stopped):
        jobs.run_job(job, setting)


def test_threads_of_torch_are_as_before() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)  # neither of the numbers that a run sets
        ran(asked=StudyScope(("identity",), seeds=2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_cuda_that_is_not_there_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeUnavailable, match=r"--device cuda: .*; install a CUDA build of torch, or use") as found:
        ran(device="cuda")
    assert "\n" not in str(found.value)


@pytest.mark.cuda
def test_cuda_gives_what_the_cpu_gives() -> None:
    job = made.one_of("widths", width=3)
    rows = [jobs.run_job(job, jobs.Setting(IMAGES, device=device)) for device in ("cpu", "cuda")]
    for cpu, cuda in zip(*rows, strict=True):
        assert cuda["loss"] == pytest.approx(cpu["loss"], rel=1e-2)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["rows.jsonl", "settings.json", "runs.jsonl", "rows.new"])
def test_files_of_a_study_are_its_own(name: str, tmp_path: Path) -> None:
    """A folder that somebody else made may hold links to files of the user's."""
    kept, out = tmp_path / "kept", tmp_path / "out"
    kept.write_text("mine")
    out.mkdir()
    (out / name).symlink_to(kept)
    with pytest.raises(BiasoptError, match="is no file of a study"):
        RowLog(out, {"a": 1})
    (out / name).unlink()
    os.mkfifo(out / name)
    with pytest.raises(BiasoptError, match="is no file of a study"):
        RowLog(out, {"a": 1})
    assert kept.read_text() == "mine"


def test_a_note_of_a_run_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    log = RowLog(tmp_path, {"a": 1})
    (tmp_path / "runs.jsonl").write_text('{"seconds": 2, "cpu_seconds": 3}\n{"seconds": "x"}\n[1]\n{"seco\n')
    assert log.add_run(1, 1) == (3, 4)
