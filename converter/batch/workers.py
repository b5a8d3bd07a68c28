"""Who does the tasks of a batch: child processes, whose crash or hang is a row; or a cluster of Dask's.

`run_task` is all that an executor has to run: a thread here, a worker of Dask's elsewhere, a rank of MPI's. Each
thread keeps one child and gives it one task after the other, since loading the libraries takes longer than most
models; a child that died, hung or is in doubt is replaced.

What is asked of it is `concurrent.futures.Executor` and no more, so that Ray (``ray.util.joblib``-like pools) or MPI
(``mpi4py.futures.MPIPoolExecutor``) fit the same place: they have to run `converter.batch.workers.run_task`.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from converter._version import __version__
from converter.dataclass import dataclass
from converter.errors import BiasoptError, ModelError, RuntimeUnavailable
from converter.model.file import claim
from converter.records.results import BatchRow, Outcome, Task

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


RESOURCE = "bench"  # workers that are started with --resources "bench=1" measure one model at a time
_RETRIES = 3  # of a task whose worker went away
_CONNECT = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connection to a scheduler, and what is known of its workers."""

    client: Any
    address: str
    workers: int
    threads: int

    def make_executor(self, *, benches: bool) -> Executor:
        """The cluster as an executor; each of its threads runs one model at a time."""
        wants: dict[str, Any] = {"retries": _RETRIES, "pure": False}
        if benches and self._has_resource():
            wants["resources"] = {RESOURCE: 1}
        return self.client.get_executor(**wants)  # type: ignore[no-any-return]

    def _has_resource(self) -> bool:
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return any(RESOURCE in worker.get("resources", {}) for worker in workers)

    def sees(self, folder: Path) -> bool:
        """Whether every worker reads what is written here and writes what is read here, tried with a file."""
        token = secrets.token_hex(8)
        probe = folder / f".biasopt-probe-{token}"
        try:
            probe.write_text(token, encoding="ascii")
            answers = self.client.run(answer_probe, str(probe), token)
            return all(
                isinstance(path, str) and Path(path).is_file() and Path(path).read_text(encoding="ascii") == token[::-1]
                for path in answers.values()
            )
        except OSError:
            return False
        finally:
            for path in folder.glob(f"{probe.name}*"):
                with suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        """Hang up; the cluster goes on."""
        self.client.close()


def answer_probe(path: str, token: str) -> str:
    """On a worker: the file that answers the probe; empty where the probe is not to be seen from there."""
    import os
    import socket

    try:
        if Path(path).read_text(encoding="ascii") != token:
            return ""
        answer = Path(f"{path}.{socket.gethostname()}.{os.getpid()}")
        answer.write_text(token[::-1], encoding="ascii")
        return str(answer)
    except OSError:
        return ""


def read_version() -> str:
    """On a worker: its biasopt's."""
    return __version__


def connect(address: str) -> Cluster:
    """Connect to a scheduler, ``tcp://host:8786``, and make sure that its workers can do the work.

    Raises
    ------
    RuntimeUnavailable
        Dask is not installed, nobody answers there, there is no worker, or one has no biasopt or another one.
    """
    try:
        distributed: Any = import_module("distributed")
    except ImportError as exc:
        raise RuntimeUnavailable("--scheduler needs Dask; run: pip install 'biasopt[cluster]'") from exc
    try:
        client: Any = distributed.Client(address, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError) as exc:
        said = " ".join(str(exc).split())[:200]
        raise RuntimeUnavailable(
            f"{address}: no scheduler of Dask's answers ({said}); start one: dask scheduler"
        ) from exc
    try:
        _check_workers(client, address)
    except BaseException:
        client.close()
        raise
    threads: Mapping[str, int] = client.nthreads()
    return Cluster(client, address, len(threads), sum(threads.values()))


def _check_workers(client: Any, address: str) -> None:
    if not client.nthreads():
        raise RuntimeUnavailable(f"{address}: has no worker; start some: dask worker {address} --nthreads 1")
    try:
        versions: dict[str, Any] = client.run(read_version)
    except Exception as exc:
        said = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
        raise RuntimeUnavailable(f"{address}: its workers have no biasopt ({said}); install biasopt on each") from exc
    for worker, version in sorted(versions.items()):
        if version != __version__:
            raise RuntimeUnavailable(f"{worker}: has biasopt {version}, not {__version__}; install the same on each")
