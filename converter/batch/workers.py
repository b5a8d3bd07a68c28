"""A task done in a child process of its own; a crash, a hang or a blow-up of memory is its row, never the batch's end.

`run_task` is all that an executor has to run: a thread here, a worker of Dask's elsewhere, a rank of MPI's. Each
thread keeps one child and gives it one task after the other, since loading the libraries takes longer than most
models; a child that died, hung or is in doubt is replaced.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from converter.errors import BiasoptError, ModelError
from converter.model.file import claim
from converter.records.batch import BatchRow, Outcome, Task

_ROOT = Path(__file__).resolve().parents[2]
START = "import sys; sys.path.insert(0, sys.argv[1]); from converter.batch.child import main; main()"
_GRACE = 10.0  # seconds that a child has for its own ending
_TAIL = 2000  # bytes of what a child that died said


IN_DOUBT = (Outcome.MEMORY, Outcome.BUG)  # what a child holds after these is not known: the next task gets a fresh one


class ChildDied(Exception):
    """The child gave no row; the text says why."""

    def __init__(self, outcome: Outcome, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


class Child:
    """A process that folds models."""

    def __init__(self) -> None:
        # -P: what lies in the working directory is not imported. Few arenas: each takes 64 MB of address space.
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the child)
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-c", START, str(_ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,
            env={"MALLOC_ARENA_MAX": "2", **os.environ},
        )

    @property
    def is_alive(self) -> bool:
        """Whether it can be given another task."""
        return self._process.poll() is None

    def ask(self, task: Task) -> BatchRow:
        """The row of a task.

        Raises
        ------
        ChildDied
            It did not end in time, or died.
        """
        from converter.report.serialize import convert, encode

        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        place = self._said.seek(0, os.SEEK_END)
        try:
            stdin.write(json.dumps(encode(replace(task, files=None))).encode() + b"\n")
            stdin.flush()
        except OSError:
            raise self._explain_death(place) from None
        ready, _, _ = select.select([stdout], [], [], task.timeout)
        if not ready:
            self.end()
            raise ChildDied(Outcome.TIMEOUT, f"it did not end within {task.timeout:g} s; give more with --timeout")
        line = stdout.readline()
        if not line.endswith(b"\n"):
            raise self._explain_death(place)
        return convert(json.loads(line), BatchRow)

    def _explain_death(self, place: int) -> ChildDied:
        self._end_group()
        code = self._process.wait()
        self._said.seek(max(place, self._said.seek(0, os.SEEK_END) - _TAIL))
        said = self._said.read().decode("utf-8", "replace")
        if "bad_alloc" in said or "MemoryError" in said:
            return ChildDied(Outcome.MEMORY, "it takes more memory than its limit; give more with --max-memory")
        if code == -signal.SIGKILL:
            return ChildDied(Outcome.CRASHED, "its process was killed, perhaps for want of memory")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        lines = said.strip().splitlines()
        return ChildDied(Outcome.CRASHED, f"its process died ({name})" + (f": {lines[-1][:200]}" if lines else ""))

    def _end_group(self) -> None:
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Let it go: at once, with all that it started."""
        self._end_group()
        self._process.wait(_GRACE)
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


class _Mine(threading.local):
    child: Child | None = None


_mine = _Mine()
_all: list[Child] = []  # of every thread, to be ended with the batch


def run_task(task: Task) -> BatchRow:
    """The row of one task, done in this thread's child. Never raises but for a machine that starts no process."""
    begun = time.monotonic()
    try:
        row = _run_uploaded(task) if task.files is not None else _ask(task)
    except ChildDied as died:
        row = BatchRow(task.name, died.outcome, str(died), n_bytes=task.n_bytes, key=task.key)
    except (OSError, BiasoptError) as exc:
        row = BatchRow(task.name, Outcome.REFUSED, str(exc), n_bytes=task.n_bytes, key=task.key)
    return replace(row, seconds=round(time.monotonic() - begun, 3), host=socket.gethostname())


def _ask(task: Task) -> BatchRow:
    if _mine.child is None or not _mine.child.is_alive:
        if _mine.child is not None:
            _mine.child.end()
            _all.remove(_mine.child)
        _mine.child = Child()
        _all.append(_mine.child)
    try:
        row = _mine.child.ask(task)
    except ChildDied:
        _remove_rest(task)
        raise
    if row.outcome in IN_DOUBT:
        _mine.child.end()
    return row


def _remove_rest(task: Task) -> None:
    """What a child that was ended amid its work left beside the output: never the output itself, which is whole."""
    with suppress(ModelError):  # another run writes it
        claim(Path(task.output)).discard()


def _run_uploaded(task: Task) -> BatchRow:
    """The same where the worker cannot see the files: they come with the task, and go back with the row."""
    with tempfile.TemporaryDirectory(prefix="biasopt-batch-") as folder:
        given, made = Path(folder) / "in", Path(folder) / "out"
        for name, content in (task.files or {}).items():
            path = _join(given, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        moved = replace(
            task,
            files=None,
            model=str(given / Path(task.model).name),
            output=str(made / "output" / Path(task.output).name),
            reports=str(made / "reports"),
        )
        row = _ask(moved)
        files = {p.relative_to(made).as_posix(): p.read_bytes() for p in sorted(made.rglob("*")) if p.is_file()}
        return replace(
            row,
            files=files,
            output=task.output if row.output is not None else None,
            report=task.reports if row.report is not None else None,
            why=row.why.replace(moved.model, task.model).replace(moved.output, task.output),
        )


def _join(folder: Path, name: str) -> Path:
    """A path inside the folder, and nowhere else."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BiasoptError(f"{name}: lies outside the model's folder; it cannot be sent to a worker")
    return path


def make_local_executor(jobs: int) -> Executor:
    """Threads, each with a child process of its own."""
    return ThreadPoolExecutor(jobs, thread_name_prefix="biasopt-batch")


def end_children() -> None:
    """End every child of this process; a batch does so at its end, whichever that is."""
    while _all:
        _all.pop().end()
