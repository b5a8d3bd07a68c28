"""The study run: block after block as far as the time goes, jobs side by side, rows kept."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converter._version import __version__
from converter.bounded_json import parse_json
from converter.dataclass import dataclass
from converter.errors import BiasoptError, RuntimeUnavailable
from converter.study import plan
from converter.study.data import Images
from converter.study.jobs import Setting, run_job
from converter.study.plan import Job

PROBE = 3  # steps that are timed, after one that is not
_SLACK = 1.15  # evaluation, and what is slower beside other work


class TimeBudget:
    """Keeps to ``budget`` seconds; ``lanes`` jobs run side by side. Nothing starts after the time is over."""

    def __init__(self, budget: float, lanes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget, self.lanes, self._clock = budget, lanes, clock
        self._start = clock()
        self._costs: dict[str, float] = {}

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
        """The jobs of the blocks that fit into the time that is left as a whole, and all others."""
        kept: list[Job] = []
        spare = (self.budget - self.elapsed()) * self.lanes
        for block in dict.fromkeys(job.block for job in jobs):
            mine = [job for job in jobs if job.block == block]
            cost = sum(map(self.cost, mine))
            if cost <= spare:
                spare -= cost
                kept += mine
        return kept, [job for job in jobs if job not in kept]

    def is_over(self) -> bool:
        """Whether nothing may start any more."""
        return self.elapsed() >= self.budget


Row = dict[str, Any]
ROWS, SETTINGS, RUNS, _NEW = "rows.jsonl", "settings.json", "runs.jsonl", "rows.new"


class RowLog:
    """Rows by job, kept in a folder if there is one.

    Parameters
    ----------
    settings : mapping
        What rows depend on besides their job; a folder with other settings is refused.

    Raises
    ------
    BiasoptError
        The folder holds another study, or cannot be used.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._rows: dict[str, list[Row]] = {}
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (SETTINGS, ROWS, RUNS, _NEW):
                _check_own(folder / name)
            self._check_settings(folder / SETTINGS, settings)
            self._rows = _read_rows(folder / ROWS)
            self._rewrite(folder / ROWS)
        except OSError as exc:
            raise BiasoptError(f"{folder}: cannot keep rows there ({exc.strerror}); choose another --out") from exc

    def _check_settings(self, path: Path, settings: Mapping[str, Any]) -> None:
        if not path.exists():
            path.write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")
            return
        try:
            found = parse_json(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != dict(settings):
            before = found if isinstance(found, dict) else {}
            differ = [k for k in settings if before.get(k) != settings[k]]
            raise BiasoptError(
                f"{path.parent}: holds rows of another study ({', '.join(differ) or 'settings'} differ); "
                "choose another --out"
            )

    def _rewrite(self, path: Path) -> None:
        """Leave out what was cut short."""
        lines = [line for rows in self._rows.values() for line in _format_rows(rows)]
        temporary = path.with_name(_NEW)
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
        temporary.replace(path)

    def __contains__(self, job: str) -> bool:
        return job in self._rows

    def add(self, job: str, rows: Sequence[Row]) -> None:
        """Keep the rows of a job."""
        with self._lock:
            self._rows[job] = list(rows)
            if self._folder is not None:
                with (self._folder / ROWS).open("a", encoding="utf-8", newline="\n") as file:
                    file.write("".join(_format_rows(rows)))

    def add_run(self, seconds: float, cpu_seconds: float) -> tuple[float, float]:
        """Note how long this run took; give back what all runs in this folder took, on the clock and on processors."""
        runs = [{"seconds": seconds, "cpu_seconds": cpu_seconds}]
        if self._folder is not None:
            path = self._folder / RUNS
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(runs[0]) + "\n")
            runs = [run for run in _read_lines(path) if {type(run.get(key)) for key in runs[0]} <= {int, float}]
        return sum(run["seconds"] for run in runs), sum(run["cpu_seconds"] for run in runs)

    def rows(self, jobs: Sequence[str] | None = None) -> list[Row]:
        """All rows, or those of these jobs, in an order that does not depend on which job ended first."""
        return [row for job in sorted(self._rows) if jobs is None or job in jobs for row in self._rows[job]]


def _format_rows(rows: Sequence[Row]) -> list[str]:
    return [json.dumps(row) + "\n" for row in rows]


def _check_own(path: Path) -> None:
    """Refuse a link, a pipe or a folder by the name of a file of ours: what is written there would go elsewhere."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise BiasoptError(f"{path}: is no file of a study; move it away, or choose another --out")


def _read_lines(path: Path) -> Iterator[Row]:
    """The records of a file, without a line that was cut short."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            if isinstance(row := parse_json(line), dict):
                yield row


def _read_rows(path: Path) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in _read_lines(path) if path.exists() else ():
        if isinstance(job := row.get("job"), str):
            found[job].append(row)
    return {job: rows for job, rows in found.items() if len(rows) == rows[0].get("of")}


@dataclass(frozen=True, slots=True)
class StudyRun:
    """What a run left behind.

    Attributes
    ----------
    rows : tuple of dict
        Of the blocks that got all of their seeds.
    planned, left_out : int
        Jobs of the plan, and which of them there was no time for.
    not_run : tuple of str
        The blocks that they belong to.
    seconds, cpu_seconds : float
        On the clock and on processors, with the runs before that this one went on with.
    """

    rows: tuple[Row, ...]
    planned: int
    left_out: tuple[str, ...]
    not_run: tuple[str, ...]
    resumed: int
    seconds: float
    cpu_seconds: float
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a study is run."""

    key: int = 0
    device: str = "cpu"
    lanes: int = 1
    budget: float = 1200.0
    out: Path | None = None
    clock: Callable[[], float] = time.monotonic
    tell: Callable[[str], None] = lambda text: None


def check_device(device: str) -> None:
    """Refuse a device that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        why = "this build of torch has no CUDA" if torch.version.cuda is None else "no CUDA device was found"
        raise RuntimeUnavailable(f"--device cuda: {why}; install a CUDA build of torch, or use --device cpu")


def run_study(images: Images, asked: plan.StudyScope, how: RunOptions) -> StudyRun:
    """Run what is asked, in the time given; jobs that an earlier run in the same folder finished are not run again.

    A block says something only when all of its seeds are there, from one run or from several.
    """
    check_device(how.device)
    cpu = time.process_time()
    settings = {
        "schema": "biasopt.study-rows/2",
        "dataset": images.name,
        "digest": digest_images(images),
        "seed": how.key,
        "preset": "quick" if asked.quick else asked.preset,
        "seeds": asked.seeds,  # fixed before the first row: nobody adds some until the verdict pleases
    }
    log = RowLog(how.out, settings)
    jobs = plan.plan_jobs(asked)
    todo = [job for job in jobs if job.id not in log]
    budget = TimeBudget(how.budget, how.lanes, how.clock)
    setting = Setting(images, how.key, how.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # jobs run side by side, each on one core
    if how.device == "cpu":
        _keep_freed_memory()
    try:
        kept, left = _choose_jobs(todo, setting, budget, how)
        left += _run_jobs(kept, setting, budget, log, how)
    finally:
        torch.set_num_threads(threads)
        seconds, cpu_seconds = log.add_run(budget.elapsed(), time.process_time() - cpu)  # of one that is stopped, too
    missing = tuple(dict.fromkeys(job.block for job in jobs if job.id not in log))
    rows = log.rows([job.id for job in jobs if job.block not in missing])
    names = tuple(job.id for job in jobs if job in left)
    done = len(jobs) - len(todo)
    facts = _describe_run(how, images) | ({"seeds": asked.seeds} if asked.seeds else {})
    return StudyRun(tuple(rows), len(jobs), names, missing, done, seconds, cpu_seconds, facts)


def _keep_freed_memory() -> None:
    """Let glibc keep the memory of large tensors that are freed.

    Else each step asks the system for it anew, page by page: a third of the time of nets on images of 16 pixels.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # as malloc.h has them
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        adjust = ctypes.CDLL(None).mallopt
        adjust(m_mmap_threshold, 1 << 30)
        adjust(m_trim_threshold, (1 << 31) - 1)


def _choose_jobs(todo: list[Job], setting: Setting, budget: TimeBudget, how: RunOptions) -> tuple[list[Job], list[Job]]:
    for job in todo:
        if budget.elapsed() > how.budget / 4:
            break  # what was not timed is simply tried
        how.tell(f"timing {job.group}")
        budget.measure(job, partial(run_job, job, setting))
    return budget.choose(todo)


def _run_jobs(jobs: list[Job], setting: Setting, budget: TimeBudget, log: RowLog, how: RunOptions) -> list[Job]:
    """Run the jobs; give back those that there was no time for."""
    left: list[Job] = []
    lock, count, begun = threading.Lock(), 0, time.monotonic()

    def one(job: Job) -> None:
        nonlocal count
        if setting.stop.is_set():
            return
        torch.set_num_threads(1)
        if budget.is_over():
            with lock:
                left.append(job)
            return
        log.add(job.id, run_job(job, setting))
        with lock:
            count += 1
            rest = (time.monotonic() - begun) * (len(jobs) - count) / count
            how.tell(f"{count} of {len(jobs)}, about {rest:.0f} s left: {job.group}")

    with ThreadPoolExecutor(how.lanes) as pool:
        waiting: set[Future[None]] = {pool.submit(one, job) for job in jobs}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        except BaseException:
            setting.stop.set()  # the others end at their next step
            raise
    return left


def digest_images(images: Images) -> str:
    """SHA-256 of images and labels."""
    return hashlib.sha256(np.ascontiguousarray(images.x).tobytes() + images.y.tobytes()).hexdigest()


def _describe_run(how: RunOptions, images: Images) -> dict[str, Any]:
    split = images.split(0, how.key)
    return {
        "dataset": images.name,
        "images": len(images.y),
        "shape": list(images.x.shape[1:]),
        "classes": images.classes,
        "majority": 100 * float(np.bincount(images.y).max()) / len(images.y),
        "train": len(split.train),
        "test": len(split.test),
        "digest": digest_images(images),
        "seed": how.key,
        "device": how.device,
        "lanes": how.lanes,
        "max_time": how.budget,
        "versions": {
            "biasopt": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        "machine": {"os": platform.platform(terse=True), "processor": platform.machine()},
    }
