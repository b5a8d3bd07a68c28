"""Writing: a file as a list of pieces, under a temporary name that is renamed once all of it is there.

A piece is bytes made here, a span of a file or buffer, or an array computed when its turn comes,
so that one tensor at a time is in memory.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass
from converter.errors import ModelError
from converter.model.file.disk import DiskBuffer, read_bytes
from converter.model.file.wire import Buffer, tag

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing swept
    fcntl = None  # type: ignore[assignment]

_SETTLED = 5.0  # seconds after which a temporary file is locked if its run lives
_NAMES_WITHIN = 64 << 20  # bytes of a model that are searched for the names of its data files
_CHUNK = 8 << 20
_AHEAD = 32 << 20  # bytes of a piece, above which it is not computed before its turn
_BINARY: int = getattr(os, "O_BINARY", 0)  # Windows would translate line ends
# Tensors of this size start on a page, so that a runtime can map them (as onnx's own writer does).
_PAGE, _ALIGN_FROM = 4096, 1 << 20


@dataclass(frozen=True, slots=True)
class Span:
    """`n_bytes` of a file, or of a buffer in memory."""

    source: Path | Buffer
    offset: int
    n_bytes: int

    def read(self) -> bytes | memoryview:
        """The bytes."""
        if isinstance(self.source, Path):
            return read_bytes(self.source, self.offset, self.n_bytes)
        if isinstance(self.source, DiskBuffer):
            return self.source.read(self.offset, self.n_bytes)
        return self.source[self.offset : self.offset + self.n_bytes]


@dataclass(frozen=True, slots=True)
class Computed:
    """An array that is made when it is written."""

    n_bytes: int
    make: Callable[[], NDArray[Any]]

    def read(self) -> memoryview | bytes:
        """The array's bytes, little endian, row-major."""
        array = np.ascontiguousarray(self.make())
        if array.nbytes != self.n_bytes:
            raise AssertionError(f"computed {array.nbytes} bytes, promised {self.n_bytes}")
        return array.reshape(-1).view(np.uint8).data if array.size else b""


Piece = bytes | Span | Computed


@dataclass(slots=True)
class Pieces:
    """A message, or part of one, ready to be written."""

    parts: list[Piece] = field(default_factory=list)
    n_bytes: int = 0

    def add(self, piece: Piece) -> None:
        """Append one piece; neighbouring spans become one."""
        if isinstance(piece, bytes):
            if not piece:
                return
            self.n_bytes += len(piece)
        else:
            self.n_bytes += piece.n_bytes
            last = self.parts[-1] if self.parts else None
            if (
                isinstance(piece, Span)
                and isinstance(last, Span)
                and last.source is piece.source
                and last.offset + last.n_bytes == piece.offset
            ):
                self.parts[-1] = Span(last.source, last.offset, last.n_bytes + piece.n_bytes)
                return
        self.parts.append(piece)

    def extend(self, other: Pieces) -> None:
        """Append all pieces of `other`."""
        for part in other.parts:
            self.add(part)

    def message(self, number: int, body: Pieces) -> None:
        """Append `body` as the length-delimited field `number`."""
        self.add(tag(number, body.n_bytes))
        self.extend(body)

    def to_bytes(self) -> bytes:
        """Everything in one string."""
        return b"".join(p if isinstance(p, bytes) else p.read() for p in self.parts)


class DataFile:
    """The pieces of one external data file, and where each tensor lies in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pieces = Pieces()
        self.used = False  # a tensor without elements points here too
        self._placed: dict[tuple[object, int, int], int] = {}

    def place(self, piece: Span | Computed) -> int:
        """Offset at which `piece` will lie; the same span twice lies once, as in the source."""
        self.used = True
        key = (piece.source, piece.offset, piece.n_bytes) if isinstance(piece, Span) else None
        if key in self._placed:
            return self._placed[key]
        if piece.n_bytes >= _ALIGN_FROM:
            self.pieces.add(bytes(-self.pieces.n_bytes % _PAGE))
        offset = self.pieces.n_bytes
        self.pieces.add(piece)
        if key is not None:
            self._placed[key] = offset
        return offset


def write_to(handle: int, pieces: Pieces, where: Path) -> None:
    """Write `pieces` to an open file descriptor, in order, spans by the kernel."""
    opened: dict[Path, int] = {}
    try:
        for content in _ahead(pieces.parts):
            if isinstance(content, Span) and isinstance(content.source, DiskBuffer):
                _copy(content.source.descriptor, handle, content.offset, content.n_bytes)
            elif isinstance(content, Span) and isinstance(content.source, Path):
                if content.source not in opened:
                    opened[content.source] = os.open(content.source, os.O_RDONLY | _BINARY)
                _copy(opened[content.source], handle, content.offset, content.n_bytes)
            else:
                _write_all(handle, content.read() if isinstance(content, Span | Computed) else content)
    except OSError as exc:
        raise ModelError(f"{where}: cannot be written ({exc.strerror}); nothing was changed") from exc
    finally:
        for fd in opened.values():
            os.close(fd)


def _ahead(parts: Iterable[Piece]) -> Iterator[Piece | memoryview]:
    """The parts, those to be computed computed: by a second thread, while the one before is being written.

    One that is large is left to the reader, so that memory stays bounded by the largest.
    """
    parts = list(parts)
    todo = iter([p for p in parts if isinstance(p, Computed) and p.n_bytes <= _AHEAD])
    asked: SimpleQueue[Computed | None] = SimpleQueue()
    made: SimpleQueue[bytes | memoryview | BaseException] = SimpleQueue()
    worker = Thread(target=_make, args=(asked, made), daemon=True)
    worker.start()
    try:
        for piece in islice(todo, 2):
            asked.put(piece)
        for part in parts:
            if not isinstance(part, Computed) or part.n_bytes > _AHEAD:
                yield part
                continue
            got = made.get()
            if (following := next(todo, None)) is not None:
                asked.put(following)
            if isinstance(got, BaseException):
                raise got
            yield got
    finally:
        asked.put(None)
        worker.join()


def _make(asked: SimpleQueue[Computed | None], made: SimpleQueue[bytes | memoryview | BaseException]) -> None:
    while (piece := asked.get()) is not None:
        try:
            made.put(piece.read())
        except BaseException as exc:  # (raised again by the thread that asked)
            made.put(exc)


def _write_all(handle: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view[:_CHUNK]) :]


def _copy(source: int, target: int, offset: int, n_bytes: int) -> None:
    done = 0
    by_kernel = getattr(os, "copy_file_range", None)  # Linux; shares blocks on file systems that can
    try:
        while by_kernel is not None and done < n_bytes:
            got = by_kernel(source, target, min(n_bytes - done, 1 << 30), offset_src=offset + done)
            if got == 0:
                break
            done += got
    except OSError as exc:
        if exc.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF):
            raise
    while done < n_bytes:
        os.lseek(source, offset + done, os.SEEK_SET)
        data = os.read(source, min(_CHUNK, n_bytes - done))
        if not data:
            raise OSError(errno.EIO, "the source ended early")
        _write_all(target, data)
        done += len(data)


@dataclass
class Staged:
    """A whole output beside its target, flushed, under a temporary name: renamed or thrown away.

    ``lock`` is the temporary file, open and locked, so that another run can tell it from what a killed run left.
    """

    target: Path
    temporary: Path
    data: Path | None
    stale_data: tuple[Path, ...] = ()
    replaces: bool = True
    lock: int | None = None

    def commit(self) -> None:
        """Rename into place: the one commit point. Then delete data files that only the old output used.

        Raises
        ------
        ModelError
            It cannot be renamed, or somebody else wrote the target meanwhile and it may not be replaced.
        """
        self._unlock()  # Windows does not rename a file that is open
        try:
            if self.replaces:
                self.temporary.replace(self.target)
            else:
                _rename_to_free(self.temporary, self.target)
        except FileExistsError as exc:
            self.discard()
            raise ModelError(
                f"{self.target}: exists already, another run made it meanwhile; give another output, or --force"
            ) from exc
        except OSError as exc:
            self.discard()
            raise ModelError(f"{self.target}: cannot be written ({exc.strerror}); nothing was changed") from exc
        _sync_directory(self.target.parent)
        for path in self.stale_data:
            with contextlib.suppress(OSError):
                path.unlink()

    def discard(self) -> None:
        """Remove what was staged."""
        self._unlock()
        for path in (self.temporary, self.data):
            if path is not None:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _unlock(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def _rename_to_free(temporary: Path, target: Path) -> None:
    """Rename to a name that nobody else has taken. FileExistsError where somebody has."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: what is left of the race is a few microseconds
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
        temporary.rename(target)
        return
    temporary.unlink()


def sweep(target: Path) -> None:
    """Remove what killed runs left beside `target`: temporary files that nobody holds, and the data files they name.

    A run that lives holds a lock on its temporary file.
    """
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(target.parent)):
            left = Path(entry.path)
            named = entry.name.startswith(f".{target.name}.") and entry.name.endswith(".tmp")
            if named and entry.is_file(follow_symlinks=False) and time.time() - entry.stat().st_mtime > _SETTLED:
                with contextlib.suppress(OSError), left.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for data in _named_data(file.read(_NAMES_WITHIN), target):
                        data.unlink(missing_ok=True)
                    left.unlink()


def _named_data(content: bytes, target: Path) -> list[Path]:
    """Data files of outputs of that name that a model left behind names, and that the output that is there does not."""
    there = b""
    with contextlib.suppress(OSError), target.open("rb") as file:
        there = file.read(_NAMES_WITHIN)
    found = []
    for entry in os.scandir(target.parent):
        ours = entry.name.startswith(f"{target.name}.") and entry.name.endswith(".data")
        name = os.fsencode(entry.name)
        if ours and name in content and name not in there:
            found.append(Path(entry.path))
    return found


def stage(
    target: Path,
    pieces: Pieces,
    data: DataFile | None,
    *,
    mode: int | None = None,
    like: os.stat_result | None = None,
    stale_data: Iterable[Path] = (),
    replaces: bool = True,
) -> Staged:
    """Write `pieces` (and the data file) beside `target`, flushed to the disk.

    Parameters
    ----------
    mode : int, optional
        Permissions of the files; what the process's mask leaves by default.
    like : stat_result, optional
        Whose owner and group the files get, where this process may give them away.
    replaces : bool
        Whether `commit` may replace a file of that name.

    Raises
    ------
    ModelError
        The directory is missing or not writable, or the disk is full; nothing is left behind.
    """
    data_path = target.parent / data.name if data is not None and data.used else None
    try:
        fd, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    except OSError as exc:
        raise ModelError(f"{target}: cannot be written ({exc.strerror}); choose another output") from exc
    staged = Staged(target, Path(name), None, tuple(stale_data), replaces, fd)
    permissions = mode if mode is not None else 0o666 & ~_umask()
    try:
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_to(fd, pieces, target)
        os.fsync(fd)
        staged.temporary.chmod(permissions)
        _give_to(staged.temporary, like)
        if fcntl is None:
            os.close(fd)
            staged.lock = None
        if data_path is not None and data is not None:
            data_fd = os.open(data_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, permissions)
            staged.data = data_path
            try:
                write_to(data_fd, data.pieces, data_path)
                os.fsync(data_fd)
            finally:
                os.close(data_fd)
            data_path.chmod(permissions)
            _give_to(data_path, like)
    except OSError as exc:
        staged.discard()
        raise ModelError(f"{target}: cannot be written ({exc.strerror}); nothing was changed") from exc
    except BaseException:
        staged.discard()
        raise
    return staged


def _give_to(path: Path, like: os.stat_result | None) -> None:
    """Let a file keep its owner where somebody else writes it; who may not give files away keeps it."""
    if like is not None and hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            os.chown(path, like.st_uid, like.st_gid)


def data_name(target: Path, seed: bytes) -> str:
    """A free name for the data file: ``OUT.data``, or ``OUT.<8 hex>.data`` if that is taken."""
    name, n = f"{target.name}.data", 0
    while os.path.lexists(target.parent / name):
        digest = hashlib.sha256(seed + n.to_bytes(4, "little")).hexdigest()[:8]
        name, n = f"{target.name}.{digest}.data", n + 1
    return name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(path: Path) -> None:
    with contextlib.suppress(OSError):  # Windows cannot open a directory
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
