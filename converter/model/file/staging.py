"""An output: whole under a temporary name beside its place, then renamed; its data file with it, and stale ones gone.

A run that is killed at any moment leaves the whole old or the whole new output, and beside it at most its temporary
file, its data file, or the data file of the output that it replaced, and its note of them: all of which the next run
of that target removes.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from converter.dataclass import dataclass
from converter.errors import ModelError
from converter.model.file.leftovers import Note
from converter.model.file.writer import DataFile, Pieces, write_to
from converter.temporary import HeldError, Temporary, open_temporary, read_umask, rename_to_free

_BINARY: int = getattr(os, "O_BINARY", 0)


@dataclass
class Staged:
    """An output on its way.

    Attributes
    ----------
    temporary : Temporary
        Locked: no other run writes the same target meanwhile.
    data : Path, optional
        Its data file, under its final name.
    stale_data : paths
        Data files that only the output that it replaces uses.
    note : Note, optional
        For the next run, should this one be killed; none where nothing can be locked.
    """

    target: Path
    temporary: Temporary
    data: Path | None = None
    stale_data: tuple[Path, ...] = ()
    replaces: bool = True
    note: Note | None = None

    @property
    def path(self) -> Path:
        """Where it can be read until it is committed."""
        return self.temporary.path

    def commit(self) -> None:
        """Rename into place: the one commit point. Then delete data files that only the old output used.

        Raises
        ------
        ModelError
            It cannot be renamed, or somebody else wrote the target meanwhile and it may not be replaced.
        """
        data, self.data = self.data, None  # once it is renamed, nothing may take its data for a leaving
        try:
            if self.note is not None:
                for path in self.stale_data:
                    self.note.add("stale", path)
            self.temporary.become(self.target, replaces=self.replaces)
        except BaseException as exc:
            if self.temporary.has_become(self.target):  # and a signal came right after it
                self.temporary.release()
                self._clear_up()
                raise
            self.data = data
            self.discard()
            if isinstance(exc, FileExistsError):
                told = "exists already, another run made it meanwhile; give another output, or --force"
                raise ModelError(f"{self.target}: {told}") from exc
            if isinstance(exc, OSError):
                raise ModelError(f"{self.target}: cannot be written ({exc.strerror}); nothing was changed") from exc
            raise
        try:
            self._clear_up()
        except BaseException:  # a signal: what is stale goes before it is heard
            self._clear_up()
            raise

    def _clear_up(self) -> None:
        _unfinished.pop(id(self), None)
        _sync_directory(self.target.parent)
        for path in self.stale_data:
            with contextlib.suppress(OSError):
                path.unlink()
        if self.note is not None:
            self.note.discard()

    def discard(self) -> None:
        """Remove what was staged; what has become the target stays."""
        if self.temporary.is_there and self.temporary.has_become(self.target):
            self.temporary.release()
            self._clear_up()
            return
        if self.data is not None and self.temporary.is_there:
            with contextlib.suppress(OSError):
                self.data.unlink()
        if self.note is not None and self.temporary.is_there:
            with contextlib.suppress(OSError):  # a signal may have come between any two steps: the note knows them
                self.note.clear_up(("begun",))
        self.temporary.discard()
        _unfinished.pop(id(self), None)


def claim(target: Path) -> Staged:
    """Begin an output: take its temporary file, and remove what a killed run left of an earlier one.

    Raises
    ------
    ModelError
        Another run is writing the same target; the directory is missing or not writable.
    """
    try:
        temporary = open_temporary(target)
    except HeldError as exc:
        raise ModelError(f"{target}: another run is writing it; wait for its end, or give another output") from exc
    except OSError as exc:
        raise ModelError(f"{target}: cannot be written ({exc.strerror}); choose another output") from exc
    try:
        note = Note(target) if temporary.is_locked else None
        if temporary.is_left:
            os.ftruncate(temporary.descriptor, 0)
        if note is not None:
            note.clear_up()
    except OSError as exc:
        temporary.discard()
        raise ModelError(f"{target}: cannot be written ({exc.strerror}); choose another output") from exc
    staged = Staged(target, temporary, note=note)
    _unfinished[id(staged)] = staged
    return staged


_unfinished: dict[int, Staged] = {}  # outputs that nobody has committed or discarded


@atexit.register
def _discard_unfinished() -> None:
    """Remove what a signal left that came between two steps, when nobody held it yet. (A child leaves another way.)"""
    for staged in [*_unfinished.values()]:
        staged.discard()


def stage(
    staged: Staged,
    pieces: Pieces,
    data: DataFile | None,
    *,
    mode: int | None = None,
    closed: int = 0,
    like: os.stat_result | None = None,
    stale_data: Sequence[Path] = (),
    replaces: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `pieces` (and the data file) beside the target, flushed to the disk.

    Parameters
    ----------
    mode : int, optional
        Permissions of the files; what the process's mask leaves by default.
    closed : int
        Permissions that the files do not get; the model keeps ``mode``, where it has one.
    like : stat_result, optional
        Whose owner and group the files get, where this process may give them away.
    replaces : bool
        Whether `commit` may replace a file of that name.
    progress : callable, optional
        Told the bytes that are written, and those that are to be.

    Raises
    ------
    ModelError
        The disk is full, or its data file cannot be made; nothing is left behind.
    """
    target = staged.target
    data_path = target.parent / data.name if data is not None and data.used else None
    staged.stale_data, staged.replaces = tuple(stale_data), replaces
    permissions = mode if mode is not None else 0o666 & ~read_umask() & ~closed
    total = pieces.n_bytes + (data.pieces.n_bytes if data is not None else 0)
    done = 0

    def tell(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if progress is not None:
            progress(done, total)

    try:
        fd = staged.temporary.descriptor
        write_to(fd, pieces, target, tell)
        os.fsync(fd)
        staged.temporary.permit(permissions)
        _give_to(fd, like)
        if data_path is not None and data is not None:
            data_fd = _begin_data(staged, data_path, permissions & ~closed)
            try:
                write_to(data_fd, data.pieces, data_path, tell)
                os.fsync(data_fd)
                if os.chmod in os.supports_fd:
                    os.chmod(data_fd, permissions & ~closed)  # noqa: PTH101  (its name may be another's by now)
                _give_to(data_fd, like)
            finally:
                os.close(data_fd)
        staged.temporary.settle()
    except FileExistsError as exc:
        staged.discard()
        raise ModelError(f"{data_path}: was made by somebody else meanwhile; nothing was changed") from exc
    except OSError as exc:
        staged.discard()
        raise ModelError(f"{target}: cannot be written ({exc.strerror}); nothing was changed") from exc
    except BaseException:
        staged.discard()
        raise


def _begin_data(staged: Staged, path: Path, permissions: int) -> int:
    """The data file, empty, open and noted, so that it is no stray however soon this run is killed.

    Raises
    ------
    FileExistsError
        Somebody else has made one of that name meanwhile.
    """
    how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY
    if (note := staged.note) is None:
        fd = os.open(path, how, permissions)
        staged.data = path
        return fd
    fd = os.open(note.begun, how, permissions)
    try:
        note.add("begun", note.begun, path.name)
        rename_to_free(note.begun, path)
        staged.data = path
    except BaseException:
        os.close(fd)
        raise
    return fd


def _give_to(descriptor: int, like: os.stat_result | None) -> None:
    """Let a file keep its owner where somebody else writes it; who may not give files away keeps it.

    By its descriptor: by its name, whoever may rename things in the folder could have any other file given to them.
    """
    if like is not None and hasattr(os, "fchown"):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, like.st_uid, like.st_gid)


def data_name(target: Path, seed: bytes) -> str:
    """A free name for the data file: ``OUT.data``, or ``OUT.<8 hex>.data`` if that is taken."""
    name, n = f"{target.name}.data", 0
    while os.path.lexists(target.parent / name):
        digest = hashlib.sha256(seed + n.to_bytes(4, "little")).hexdigest()[:8]
        name, n = f"{target.name}.{digest}.data", n + 1
    return name


def _sync_directory(path: Path) -> None:
    with contextlib.suppress(OSError):  # Windows cannot open a directory
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
