"""Temporary files and their rename into place: one a target, locked while its run lives, else taken over.

The name is always the same, so that the lock on the file is that of the target: a second run finds it held, and what a
killed run left is found unlocked, at once, however young it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from converter.dataclass import dataclass

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing taken over
    fcntl = None  # type: ignore[assignment]

_MARK = "biasopt"
BESIDE = ("tmp", "data", "note")  # endings of the files that a run makes beside its target, while it lasts
_BINARY: int = getattr(os, "O_BINARY", 0)  # Windows would translate line ends
_TRIES = 100  # to open the file that the last holder renames meanwhile
_TICK = 0.02  # seconds between two looks at a lock that is waited for


class HeldError(OSError):
    """Another run that lives is writing the same target."""


@dataclass
class Temporary:
    """An open file of this run's alone.

    Attributes
    ----------
    path : Path
        Its name, beside the target.
    descriptor : int
        -1 once it is closed.
    is_left : bool
        Whether it holds what a killed run wrote.
    is_locked : bool
        Whether no other run writes the target: not where the system knows no locks.
    """

    path: Path
    descriptor: int
    is_left: bool = False
    is_locked: bool = False
    is_there: bool = True  # until it has become the target, or was removed

    def permit(self, mode: int) -> None:
        """Its permissions: by the descriptor, since another file may have its name by now."""
        os.chmod(self.descriptor if os.chmod in os.supports_fd else self.path, mode)  # noqa: PTH101

    def settle(self) -> None:
        """All is written: close it where others could not read it while it is open, as on Windows."""
        if fcntl is None:
            self._close()

    def become(self, target: Path, *, replaces: bool) -> None:
        """Take the target's name, and let go.

        Raises
        ------
        FileExistsError
            It has been made meanwhile, and may not be replaced.
        OSError
            It cannot be renamed.
        """
        if fcntl is None:
            self._close()  # Windows does not rename a file that is open
        if replaces:
            self.path.replace(target)
        else:
            rename_to_free(self.path, target)
        self.is_there = False
        self._close()

    def has_become(self, target: Path) -> bool:
        """Whether the target is this file by now."""
        if not self.is_there:
            return True
        if self.descriptor < 0:
            return not os.path.lexists(self.path)
        with contextlib.suppress(OSError):
            return os.path.samestat(target.lstat(), os.fstat(self.descriptor))
        return False

    def release(self) -> None:
        """It has become the target: let go of it, and of its own name, should a signal have come between the two."""
        if self.is_there and self.descriptor >= 0:
            with contextlib.suppress(OSError):
                if os.path.samestat(self.path.lstat(), os.fstat(self.descriptor)):
                    self.path.unlink()
        self.is_there = False
        self._close()

    def discard(self) -> None:
        """Remove it; what has become the target stays."""
        if not self.is_there:
            return
        self.is_there = False
        if fcntl is None:
            self._close()
        with contextlib.suppress(OSError):
            self.path.unlink()  # while it is held: another run that waits for it looks at its name again
        self._close()

    def _close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def name_beside(target: Path, ending: str) -> Path:
    """One of the files `BESIDE` a target: its name is a run's own, and whatever has it is written over or removed."""
    return target.with_name(f".{target.name}.{_MARK}.{ending}")


def open_temporary(target: Path, *, wait: float = 0.0) -> Temporary:
    """The temporary file of `target`, to be written from its start.

    Parameters
    ----------
    wait : float
        Seconds to wait for another run that is writing the same target.

    Raises
    ------
    HeldError
        Another run is.
    OSError
        There is no room, no right to write there, or something else has the name.
    """
    path, until = name_beside(target, "tmp"), time.monotonic() + wait
    if fcntl is None:
        return _open_unlocked(target)
    for _ in range(_TRIES):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | _BINARY, 0o600)
        try:
            if not is_ours(fd):
                raise OSError(errno.EPERM, f"{path.name} is there, and is not this tool's; remove it", str(path))
            while not _lock(fd):
                if time.monotonic() >= until:
                    raise HeldError(errno.EBUSY, "another run is writing it", str(target))
                time.sleep(_TICK)
            status = os.fstat(fd)
            if not _is_named(path, status):  # its holder renamed or removed it before it let go
                os.close(fd)
                continue
            if status.st_nlink > 1:  # it has become the target already, and that run was killed before it took the name
                path.unlink()
                os.close(fd)
                continue
            return Temporary(path, fd, is_left=status.st_size > 0, is_locked=True)
        except _NoLocksError:
            os.close(fd)
            path.unlink(missing_ok=True)
            return _open_unlocked(target)
        except OSError:
            os.close(fd)
            raise
        except BaseException:  # a signal; another run's file is locked, and stays
            with contextlib.suppress(OSError, _NoLocksError):
                if _lock(fd) and os.fstat(fd).st_size == 0:
                    path.unlink()
            os.close(fd)
            raise
    raise HeldError(errno.EBUSY, "other runs are writing it", str(target))


class _NoLocksError(Exception):
    """The file system knows no locks."""


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        raise _NoLocksError from exc
    return True


def is_ours(fd: int) -> bool:
    """Whether it is a regular file of this user's: what another one put there, who may write here too, is not."""
    status = os.fstat(fd)
    return stat.S_ISREG(status.st_mode) and (not hasattr(os, "geteuid") or status.st_uid == os.geteuid())


def _is_named(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), status)
    except FileNotFoundError:
        return False


def _open_unlocked(target: Path) -> Temporary:
    fd, name = tempfile.mkstemp(prefix=f".{target.name}.{_MARK}.", suffix=".tmp", dir=target.parent)
    return Temporary(Path(name), fd)


def rename_to_free(temporary: Path, target: Path) -> None:
    """Rename to a name that nobody else has taken.

    Raises
    ------
    FileExistsError
        Somebody has.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: what is left of the race is a few microseconds
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
        temporary.rename(target)
        return
    with contextlib.suppress(OSError):  # it has become the target; of a second name the next run lets go
        temporary.unlink()


@contextlib.contextmanager
def open_whole(path: Path, *, replaces: bool = True, wait: float = 0.0, mode: int | None = None) -> Iterator[IO[bytes]]:
    """A file to write to, under a temporary name: it takes its own at the end, or is not there at all.

    What has the name is replaced and never written into: it may be a link to, or another name of, a file elsewhere.

    Parameters
    ----------
    mode : int, optional
        Its permissions; what the process's mask leaves by default.

    Raises
    ------
    OSError
        It cannot be written; FileExistsError where it is there and not to be replaced.
    """
    temporary = open_temporary(path, wait=wait)
    try:
        os.ftruncate(temporary.descriptor, 0)
        with os.fdopen(temporary.descriptor, "wb", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.permit(0o666 & ~read_umask() if mode is None else mode)
        temporary.become(path, replaces=replaces)
    finally:
        temporary.discard()


def find_closed(sources: Iterable[Path]) -> int:
    """Permissions that what is made of these files must not have: who may not read one of them may not read it."""
    closed = 0
    for path in sources:
        with contextlib.suppress(OSError):
            mode = path.stat().st_mode
            closed |= (0 if mode & stat.S_IRGRP else stat.S_IRWXG) | (0 if mode & stat.S_IROTH else stat.S_IRWXO)
    return closed


def read_umask() -> int:
    """The process's mask of permissions."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
