"""The study run: jobs side by side, in the time that there is, rows kept."""

from __future__ import annotations

import hashlib
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converter._version import __version__
from converter.errors import RuntimeUnavailable
from converter.study import plan, work
from converter.study.data import Images
from converter.study.governor import Governor
from converter.study.store import Row, Store


@dataclass(frozen=True, slots=True)
class Done:
    """What a run left behind.

    Attributes
    ----------
    planned, left_out : int
        Jobs of the plan, and how many of them there was no time for.
    seconds, cpu_seconds : float
        On the clock and on processors, with the runs before that this one went on with.
    """

    rows: tuple[Row, ...]
    planned: int
    left_out: tuple[str, ...]
    resumed: int
    seconds: float
    cpu_seconds: float
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class How:
    """How a study is run."""

    key: int = 0
    device: str = "cpu"
    lanes: int = 1
    budget: float = 300.0
    out: Path | None = None
    clock: Callable[[], float] = time.monotonic
    tell: Callable[[str], None] = lambda text: None


def check_device(device: str) -> None:
    """Refuse a device that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        why = "this build of torch has no CUDA" if torch.version.cuda is None else "no CUDA device was found"
        raise RuntimeUnavailable(f"--device cuda: {why}; install a CUDA build of torch, or use --device cpu")


def study(images: Images, asked: plan.Asked, how: How) -> Done:
    """Run what is asked, in the time given; jobs that an earlier run in the same folder finished are not run again."""
    check_device(how.device)
    cpu = time.process_time()
    settings = {"schema": "biasopt.study-rows/1", "dataset": images.name, "digest": digest(images), "seed": how.key}
    store = Store(how.out, settings)
    jobs = plan.jobs(asked)
    todo = [job for job in jobs if job.id not in store]
    governor = Governor(how.budget, how.lanes, how.clock)
    setting = work.Setting(images, how.key, how.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # jobs run side by side, each on one core
    try:
        kept, left = _fitting(todo, setting, governor, how)
        left += _all(kept, setting, governor, store, how)
    finally:
        torch.set_num_threads(threads)
    rows = store.rows([job.id for job in jobs])
    names = tuple(job.id for job in jobs if job in left)
    seconds, cpu_seconds = store.spent(governor.elapsed(), time.process_time() - cpu)
    done = len(jobs) - len(todo)
    return Done(tuple(rows), len(jobs), names, done, seconds, cpu_seconds, _facts(how, images))


def _fitting(
    todo: list[plan.Job], setting: work.Setting, governor: Governor, how: How
) -> tuple[list[plan.Job], list[plan.Job]]:
    for job in todo:
        if governor.elapsed() > how.budget / 4:
            break  # what was not timed is simply tried
        how.tell(f"timing {job.group}")
        governor.measure(job, partial(work.run, job, setting))
    return governor.choose(todo)


def _all(jobs: list[plan.Job], setting: work.Setting, governor: Governor, store: Store, how: How) -> list[plan.Job]:
    """Run the jobs; give back those that there was no time for."""
    left: list[plan.Job] = []
    lock, count = threading.Lock(), 0

    def one(job: plan.Job) -> None:
        nonlocal count
        if setting.stop.is_set():
            return
        torch.set_num_threads(1)
        if not governor.may_start(job):
            with lock:
                left.append(job)
            return
        begun = how.clock()
        store.add(job.id, work.run(job, setting))
        governor.took(job, how.clock() - begun)
        with lock:
            count += 1
            how.tell(f"{count} of {len(jobs)}, {governor.elapsed():.0f} s: {job.group}")

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


def digest(images: Images) -> str:
    """SHA-256 of images and labels."""
    return hashlib.sha256(np.ascontiguousarray(images.x).tobytes() + images.y.tobytes()).hexdigest()


def _facts(how: How, images: Images) -> dict[str, Any]:
    split = images.split(0, how.key)
    return {
        "dataset": images.name,
        "images": len(images.y),
        "shape": list(images.x.shape[1:]),
        "classes": images.classes,
        "train": len(split.train),
        "test": len(split.test),
        "digest": digest(images),
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
