"""One machine, many processes: who measures latency has it alone, who folds shares it.

Two files in the system's folder for temporary ones, locked by flock, which a process that dies lets go of. Who wants
the machine alone holds the gate while it waits, so that those who share it cannot go on passing it by.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from converter.errors import BiasoptError
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
