"""The process that folds models: a task a line on stdin, a row a line on stdout; and who has the machine alone.

It ends when stdin does, or with its parent.

Who has the machine is told by two files in the system's folder for temporary ones, locked by flock, which a process
that dies lets go of. Who wants the machine alone holds the gate while it waits, so that those who share it cannot go
on passing it by.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from converter._version import __version__
from converter.batch.journal import hash_files
from converter.errors import BiasoptError
from converter.records import count_biases
from converter.records.results import BatchRow, Outcome, Task
from converter.report.serialize import convert, encode
from converter.temporary import is_ours


def _open(name: str) -> int:
    user = os.getuid() if hasattr(os, "getuid") else 0
    path = Path(tempfile.gettempdir()) / f"biasopt-{user}-{name}.lock"
    how = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, how, 0o600)
    except OSError as exc:
        raise BiasoptError(f"{path}: cannot be opened ({exc.strerror}); remove it, or set TMPDIR") from exc
    if not is_ours(descriptor):  # whoever holds it could let this wait for ever
        os.close(descriptor)
        raise BiasoptError(f"{path}: belongs to another user; have it removed, or set TMPDIR")
    return descriptor


@contextmanager
def _hold(*, alone: bool) -> Iterator[None]:
    if sys.platform == "win32":  # no flock; the batch runs there without measuring side by side
        yield
        return
    import fcntl

    gate, machine = _open("gate"), _open("machine")
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
    finally:
        os.close(machine)
        os.close(gate)


def share_machine() -> AbstractContextManager[None]:
    """Do what others may do beside it; waits while one has the machine alone."""
    return _hold(alone=False)


def own_machine() -> AbstractContextManager[None]:
    """Have the machine alone, for times; waits for those who share it, and lets no further one begin."""
    return _hold(alone=True)


_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl


def main() -> None:
    """Do what stdin asks for, line by line."""
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        row = run_guarded(convert(json.loads(line), Task))
        answers.write(json.dumps(encode(row)) + "\n")
        answers.flush()


def _die_with_parent() -> None:
    with suppress(Exception):  # Linux alone
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


def run_guarded(task: Task) -> BatchRow:
    """The row of a task, whatever it raises."""
    begun = time.monotonic()
    row = BatchRow(task.name, Outcome.BUG, n_bytes=task.n_bytes, key=task.key, host=socket.gethostname())
    try:
        with _limit_memory(task.max_memory):
            row = fold_task(task, row)
    except MemoryError:
        row = replace(row, outcome=Outcome.MEMORY, why=_tell_limit(task))
    except BiasoptError as exc:
        short = "bad_alloc" in str(exc) or "allocate" in str(exc)
        row = replace(row, outcome=Outcome.MEMORY if short else Outcome.REFUSED, why=str(exc))
    except Exception as exc:
        if "bad_alloc" in str(exc):
            row = replace(row, outcome=Outcome.MEMORY, why=_tell_limit(task))
        else:
            traceback.print_exc()
            last = traceback.extract_tb(exc.__traceback__)[-1]
            why = f"{type(exc).__name__}: {exc} ({Path(last.filename).name}:{last.lineno})"
            row = replace(row, why=" ".join(why.split())[:500])
    return replace(row, seconds=round(time.monotonic() - begun, 3))


def _tell_limit(task: Task) -> str:
    given = "" if task.max_memory is None else f" of {task.max_memory / 2**20:,.0f} MiB"
    return f"it takes more memory than its limit{given}; give more with --max-memory"


@contextmanager
def _limit_memory(n_bytes: int | None) -> Iterator[None]:
    """Address space: what is mapped now and so much more."""
    if n_bytes is None or sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * os.sysconf("SC_PAGE_SIZE") + n_bytes
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def fold_task(task: Task, row: BatchRow) -> BatchRow:
    """Fold, prove, measure if that is asked for, and write the reports: what ``biasopt fold`` does for one model."""
    from converter.commands.fold import exit_code, fold
    from converter.records.options import VerifyOptions
    from converter.report.content.fold import collect_reasons
    from converter.report.documents import fold_document
    from converter.report.save import save_reports
    from converter.rewrite.passes import PASSES

    output, folder = Path(task.output), Path(task.reports)
    output.parent.mkdir(parents=True, exist_ok=True)
    certificate = folder / "certificate.json" if task.certificate else None
    if certificate is not None:
        folder.mkdir(parents=True, exist_ok=True)
    within = {} if task.max_memory is None else {"max_memory": task.max_memory // 2}  # onnxruntime has its copies, too
    proof = None if task.verify is None else VerifyOptions(**(within | task.verify))
    with share_machine():
        result = fold(task.model, output, force=True, verify=proof, certificate=certificate, **task.options)
    code, latency = int(result.exit_code), None
    if task.bench is not None and code == 0 and result.rewrites:
        from converter.commands.bench import measure_latency

        with own_machine():
            latency = measure_latency(task.model, output, **task.bench)
        code = exit_code(latency)
        if code:  # as `fold --bench`: what is slower is not written
            for path in filter(None, (output, certificate)):
                path.unlink(missing_ok=True)
            result = replace(result, output=None, latency=latency, exit_code=code)
    document = fold_document(
        result,
        __version__,
        argv=["fold", task.model, "-o", task.output],
        said=collect_reasons(PASSES),
        bench=latency,
        certificate=result.certificate,
    )
    save_reports(document, folder, task.formats)
    outcome = {1: Outcome.FAILED, 4: Outcome.INCONCLUSIVE}.get(code)
    blamed = latency if latency is not None and code else result.parity
    biases = count_biases(result.fates)
    return replace(
        row,
        outcome=outcome or (Outcome.FOLDED if result.rewrites else Outcome.UNCHANGED),
        why=blamed.why if outcome and blamed is not None else "",
        output=task.output if result.output is not None else None,
        sha256=hash_files([output]) if result.output is not None else "",
        report=task.reports,
        rewrites=len(result.rewrites),
        biases_before=biases[0],
        biases_after=biases[1],
        level=result.parity.level if result.parity is not None else "",
        ratio=None if latency is None else latency.ratio,
    )
