"""Writing: a file as a list of pieces, in order, into an open file.

A piece is bytes made here, a span of a file or buffer, or an array computed when its turn comes,
so that one tensor at a time is in memory.
"""

from __future__ import annotations

import errno
import os
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
from converter.model.file.disk import DiskBuffer, compute_checksum, read_at, read_bytes
from converter.model.file.wire import Buffer, tag

_CHUNK = 8 << 20
_KERNEL_CHUNK = 64 << 20  # copied by one call, in which nobody hears Ctrl-C
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
    """The pieces of one external data file, and where each tensor lies in it.

    Parameters
    ----------
    name : str
    linked_from : Path, optional
        The output's folder, where tensors that nothing changed stay in the files that they are in, and are referred to.
    """

    def __init__(self, name: str, linked_from: Path | None = None) -> None:
        self.name, self.linked_from = name, linked_from
        self.pieces = Pieces()
        self.used = False  # a tensor without elements points here too
        self._placed: dict[tuple[object, int, int], int] = {}

    def refer(self, path: Path) -> tuple[str, str]:
        """Location and checksum of a data file that stays where it is.

        Raises
        ------
        ModelError
            It lies outside of the output's folder, where no runtime reads it.
        """
        assert self.linked_from is not None
        try:
            location = path.resolve().relative_to(self.linked_from.resolve()).as_posix()
        except ValueError as exc:
            raise ModelError(
                f"{path}: is not in the folder of the output, so that it cannot be linked; write the output beside it"
            ) from exc
        return location, compute_checksum(path)

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


Told = Callable[[int], None]  # of bytes that have been written


def write_to(handle: int, pieces: Pieces, where: Path, tell: Told = lambda n_bytes: None) -> None:
    """Write `pieces` to an open file descriptor, in order, spans by the kernel."""
    opened: dict[Path, int] = {}
    try:
        for content in _compute_ahead(pieces.parts):
            if isinstance(content, Span) and isinstance(content.source, DiskBuffer):
                _copy(content.source.descriptor, handle, content.offset, content.n_bytes, tell)
            elif isinstance(content, Span) and isinstance(content.source, Path):
                if content.source not in opened:
                    opened[content.source] = os.open(content.source, os.O_RDONLY | _BINARY)
                _copy(opened[content.source], handle, content.offset, content.n_bytes, tell)
            else:
                _write_all(handle, content.read() if isinstance(content, Span | Computed) else content, tell)
    except OSError as exc:
        raise ModelError(f"{where}: cannot be written ({exc.strerror}); nothing was changed") from exc
    finally:
        for fd in opened.values():
            os.close(fd)


def _compute_ahead(parts: Iterable[Piece]) -> Iterator[Piece | memoryview]:
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


def _write_all(handle: int, data: bytes | memoryview, tell: Told) -> None:
    view = memoryview(data)
    while view:
        written = os.write(handle, view[:_CHUNK])
        tell(written)
        view = view[written:]


def _copy(source: int, target: int, offset: int, n_bytes: int, tell: Told) -> None:
    done = 0
    by_kernel = getattr(os, "copy_file_range", None)  # Linux; shares blocks on file systems that can
    try:
        while by_kernel is not None and done < n_bytes:
            got = by_kernel(source, target, min(n_bytes - done, _KERNEL_CHUNK), offset_src=offset + done)
            if got == 0:
                break
            done += got
            tell(got)
    except OSError as exc:
        if exc.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF):
            raise
    while done < n_bytes:
        data = read_at(source, offset + done, min(_CHUNK, n_bytes - done))
        if not data:
            raise OSError(errno.EIO, "the source ended early")
        _write_all(target, data, tell)
        done += len(data)
