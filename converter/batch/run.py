"""The batch: which models are still to be done, who does them, and what became of each."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.batch.journal import NAME as JOURNAL
from converter.batch.journal import (
    Found,
    Journal,
    copy_file,
    find_models,
    find_triton_models,
    list_files,
    list_other_files,
    make_key,
)
from converter.batch.workers import end_children, make_local_executor, run_task
from converter.dataclass import dataclass
from converter.errors import BiasoptError, ModelError
from converter.records.results import BatchResult, BatchRow, Outcome, Task, worst_code
from converter.report.save import write_whole
from converter.runtime.session import count_cores

_AHEAD = 4  # tasks that wait for each that is done, so that neither a worker nor the memory runs out of them


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a batch is asked."""

    patterns: Sequence[str]
    output: Path
    jobs: int | None = None
    scheduler: str | None = None
    upload: bool = False
    triton: bool = False
    options: Mapping[str, Any]  # of each fold, as keywords
    verify: Mapping[str, Any] | None
    bench: Mapping[str, Any] | None = None
    certificate: bool = False
    timeout: float = 1200.0
    max_memory: int | None = None
    again: bool = False  # also what an earlier run has done
    progress: Callable[[str], None] = lambda text: None

    @property
    def records(self) -> Path:
        """Where journal, summary and reports go: not into a repository of Triton's, which has models alone."""
        return Path(f"{self.output}.batch") if self.triton else self.output / "batch"


def run_batch(asked: Request, executor: Executor | None = None) -> BatchResult:
    """Fold every model; each has a row, whatever becomes of it.

    ``executor``: any of `concurrent.futures`, which takes the place of this machine's processes and of a cluster.

    Raises
    ------
    BiasoptError
        There are no models, the output cannot be written, or the scheduler is not there.
    """
    begun = time.monotonic()
    models = _find(asked)
    if not asked.again and not (asked.records / JOURNAL).exists():
        _check_outputs(asked, models)
    if asked.triton:
        list(list_other_files(Path(asked.patterns[0]), models))  # what is refused is refused before the work
    journal = Journal(asked.records)
    try:
        with _open_executor(asked, executor) as (pool, jobs, uploads):
            rows, skipped = _work(asked, models, journal, pool, jobs, uploads=uploads)
    finally:
        journal.close()
    if asked.triton:
        _complete_repository(asked, models, rows)
    counts = Counter(row.outcome.value for row in rows)
    return BatchResult(
        rows=tuple(rows),
        output=str(asked.output),
        counts={each.value: counts[each.value] for each in Outcome if counts[each.value]},
        skipped=skipped,
        jobs=jobs,
        scheduler=asked.scheduler or "",
        uploaded=uploads,
        seconds=round(time.monotonic() - begun, 3),
        exit_code=worst_code(row.exit_code for row in rows),
    )


def _check_outputs(asked: Request, models: Sequence[Found]) -> None:
    """Where no batch has written yet, what is there is the user's."""
    for model in models:
        if os.path.lexists(path := asked.output / model.name):
            raise ModelError(
                f"{path}: exists already, and no batch wrote it; choose another --output, or --again to replace it"
            )


def _find(asked: Request) -> list[Found]:
    if not asked.triton:
        return find_models(asked.patterns, asked.output)
    if len(asked.patterns) != 1:
        raise ModelError("--triton takes one folder: the model repository")
    return find_triton_models(Path(asked.patterns[0]))


@contextmanager
def _open_executor(asked: Request, executor: Executor | None) -> Iterator[tuple[Executor, int, bool]]:
    """The executor, how many models it does at once, and whether files travel with the tasks."""
    if executor is not None:
        yield executor, asked.jobs or 1, asked.upload
        return
    if asked.scheduler is not None:
        from converter.batch.workers import connect

        cluster = connect(asked.scheduler)
        try:
            uploads = asked.upload or not (cluster.sees(asked.records) and cluster.sees(_find_root(asked)))
            yield cluster.make_executor(benches=asked.bench is not None), cluster.threads, uploads
        finally:
            cluster.close()
        return
    jobs = asked.jobs or count_cores()
    pool = make_local_executor(jobs)
    try:
        yield pool, jobs, asked.upload
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        end_children()


def _find_root(asked: Request) -> Path:
    """A folder that models lie in, to be tried from the workers."""
    return _find(asked)[0].path.parent


def _make_task(asked: Request, model: Found, memory: int | None) -> Task:
    files = list_files(model.path)
    decides: dict[str, Any] = {
        "options": dict(asked.options),
        "verify": None if asked.verify is None else dict(asked.verify),
        "bench": None if asked.bench is None else dict(asked.bench),
        "certificate": asked.certificate,
    }
    return Task(
        name=model.name,
        model=str(model.path.resolve()),
        output=str((asked.output / model.name).resolve()),
        reports=str((asked.records / "reports" / model.name).resolve()),
        key=make_key(files, decides),
        timeout=asked.timeout,
        max_memory=memory,
        n_bytes=sum(path.stat().st_size for path in files),
        **decides,
    )


def _work(
    asked: Request, models: Sequence[Found], journal: Journal, pool: Executor, jobs: int, *, uploads: bool
) -> tuple[list[BatchRow], int]:
    rows: dict[str, BatchRow] = {}
    tell = _Progress(asked.progress, models)
    running: dict[Future[BatchRow], Task] = {}
    skipped = 0

    def settle(done: Future[BatchRow]) -> None:
        task = running.pop(done)
        row = _take(done, task)
        if row.files is not None:
            _unpack(row, task)
            row = replace(row, files=None)
        journal.add(row)
        rows[row.name] = row
        tell.count(row)

    memory = asked.max_memory
    try:
        for model in models:
            try:
                task = _make_task(asked, model, memory)
            except OSError as exc:
                rows[model.name] = BatchRow(model.name, Outcome.REFUSED, f"{model.path}: {exc.strerror or exc}")
                continue
            if not asked.again and (known := journal.find(task)) is not None:
                rows[task.name], skipped = known, skipped + 1
                tell.count(known, skipped=True)
                continue
            if uploads:
                task = replace(task, files=_pack(model.path))
            running[pool.submit(run_task, task)] = replace(task, files=None)
            while len(running) >= _AHEAD * jobs:
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    settle(done)
        while running:
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                settle(done)
    except BaseException:
        for future in running:
            future.cancel()
        raise
    return [rows[model.name] for model in models], skipped


def _take(done: Future[BatchRow], task: Task) -> BatchRow:
    try:
        return done.result()
    except Exception as exc:  # what an executor raises where it lost the worker
        said = " ".join(f"{type(exc).__name__}: {exc}".split())[:300]
        why = f"the executor gave it up ({said}); run the batch again"
        return BatchRow(task.name, Outcome.LOST, why, n_bytes=task.n_bytes, key=task.key)


def _pack(model: Path) -> dict[str, bytes]:
    folder = model.parent.resolve()
    return {path.resolve().relative_to(folder).as_posix(): path.read_bytes() for path in list_files(model)}


def _unpack(row: BatchRow, task: Task) -> None:
    """Write what came back with a row; the model itself last, so that it never lies there without its data."""
    places = {"output": Path(task.output).parent, "reports": Path(task.reports)}
    files = sorted((row.files or {}).items(), key=lambda each: each[0] == f"output/{Path(task.output).name}")
    for name, content in files:
        kind, _, rest = name.partition("/")
        target = places[kind] / rest
        if not target.resolve().is_relative_to(places[kind].resolve()):
            raise BiasoptError(f"{name}: a worker sent a file for a place outside of the output")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, content)


def _complete_repository(asked: Request, models: Sequence[Found], rows: Sequence[BatchRow]) -> None:
    """What makes a repository whole: everything that is no ONNX model, and the originals of what was not folded."""
    repository = Path(asked.patterns[0])
    for path in list_other_files(repository, models):
        copy_file(path, asked.output / path.relative_to(repository))
    for model, row in zip(models, rows, strict=True):
        if row.output is None:
            for path in list_files(model.path):
                copy_file(
                    path, (asked.output / model.name).parent / path.resolve().relative_to(model.path.parent.resolve())
                )


class _Progress:
    """How far it is, in models and bytes, and how long it may still take."""

    def __init__(self, tell: Callable[[str], None], models: Sequence[Found]) -> None:
        self._tell, self._begun = tell, time.monotonic()
        self._sizes = {model.name: _find_size(model.path) for model in models}
        self._left = sum(self._sizes.values())
        self._whole = self._left
        self._done = self._bad = self._skipped = 0
        self._worked = 0  # bytes that this run did itself

    def count(self, row: BatchRow, *, skipped: bool = False) -> None:
        """One more is done."""
        size = self._sizes.get(row.name, 0)
        self._left -= size
        self._done += 1
        self._bad += row.exit_code != 0
        self._skipped += skipped
        self._worked += 0 if skipped else size
        spent = time.monotonic() - self._begun
        left = f", {spent * self._left / self._worked:,.0f} s left" if self._worked else ""
        bad = f", {self._bad} not well" if self._bad else ""
        told = f"{self._done:,} of {len(self._sizes):,} models, {(self._whole - self._left) / 1e6:,.1f} of "
        self._tell(f"{told}{self._whole / 1e6:,.1f} MB{bad}{left}")


def _find_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
