"""Files on disk, each opened once: where a data file lies (never outside the folder), only regular ones, a budget.

A page of a map that the file no longer has ends the process (SIGBUS); a read that comes short is an error like others.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

import numpy as np

from converter.errors import ModelError
from converter.model.file.validate import first_line

_BINARY: int = getattr(os, "O_BINARY", 0)  # Windows would translate line ends
_WINDOW = 1 << 16  # bytes that are read at once where less is asked for
_PART = 1 << 24  # bytes of one read that makes its own memory
_HASHED = 1 << 20  # bytes that are hashed at once: they stay in the processor's cache


class DiskBuffer:
    """The bytes of a regular file, read when they are asked for, from the file that had the name when it was opened.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ModelError
        It is missing, empty, no regular file (a pipe would wait for a writer), or cannot be read; when it is read, also
        where it was cut short in the meantime.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.descriptor = path, -1
        self._window = (0, b"")  # offset and bytes of what was read last: one value, since two threads read
        try:
            _check_kind(path, "an .onnx file")
            self.descriptor = os.open(path, os.O_RDONLY | _BINARY)
            self._size = os.fstat(self.descriptor).st_size
        except FileNotFoundError as exc:
            raise ModelError(f"{path}: no such file; check the path") from exc
        except (OSError, ValueError) as exc:
            raise ModelError(f"{path}: cannot be read ({first_line(exc)})") from exc
        if self._size == 0:
            raise ModelError(f"{path}: is empty; give an .onnx file")

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: slice) -> bytes:
        start, stop, _ = key.indices(self._size)
        first, window = self._window
        if first <= start and stop <= first + len(window):
            return window[start - first : stop - first]
        if stop - start >= _WINDOW:
            return bytes(self.read(start, stop - start))
        window = bytes(self.read(start, min(_WINDOW, self._size - start)))
        self._window = start, window
        return window[: stop - start]

    def read(self, offset: int, n_bytes: int) -> memoryview:
        """Bytes into memory of their own."""
        return _fill(self.descriptor, self.path, offset, n_bytes)

    def digest(self) -> str:
        """SHA-256 of all of it, in hex."""
        digest, part = hashlib.sha256(), np.empty(min(_HASHED, self._size), np.uint8).data
        for start in range(0, self._size, _HASHED):
            digest.update(_fill_view(self.descriptor, self.path, start, part[: self._size - start]))
        return digest.hexdigest()

    def close(self) -> None:
        """Let go of the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor, self._window = -1, (0, b"")

    def __del__(self) -> None:
        self.close()


def read_bytes(path: Path, offset: int, n_bytes: int) -> memoryview:
    """`n_bytes` of a file from `offset`, into memory of their own."""
    try:
        fd = os.open(path, os.O_RDONLY | _BINARY)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror})") from exc
    try:
        return _fill(fd, path, offset, n_bytes)
    finally:
        os.close(fd)


_seeking = Lock()  # where a read cannot say from where, as on Windows


def read_at(fd: int, offset: int, n_bytes: int) -> bytes:
    """At most `n_bytes` of an open file from `offset`; nothing beyond its end."""
    if hasattr(os, "pread"):
        return os.pread(fd, n_bytes, offset)
    with _seeking:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, n_bytes)


def _fill(fd: int, path: Path, offset: int, n_bytes: int) -> memoryview:
    return _fill_view(fd, path, offset, np.empty(n_bytes, np.uint8).data)  # a bytearray would be zeroed first


def _fill_view(fd: int, path: Path, offset: int, view: memoryview) -> memoryview:
    done, n_bytes = 0, len(view)
    try:
        while done < n_bytes:
            if hasattr(os, "preadv"):
                got = os.preadv(fd, [view[done:]], offset + done)
            else:
                part = read_at(fd, offset + done, min(n_bytes - done, _PART))
                view[done : done + len(part)] = part
                got = len(part)
            if not got:
                raise ModelError(f"{path}: ends before byte {offset + n_bytes}; the file changed or is cut short")
            done += got
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror})") from exc
    return view


def read_whole(path: Path, limit: int) -> bytes:
    """All of a regular file of at most `limit` bytes.

    Raises
    ------
    ModelError
        It is missing, no regular file (a pipe would wait, a device never ends), longer, or cannot be read.
    """
    try:
        status = _check_kind(path, "a file")
        if status.st_size > limit:
            raise ModelError(f"{path}: has {status.st_size} bytes, and such a file has {limit} at most")
        return path.read_bytes()
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path}: cannot be read ({getattr(exc, 'strerror', None) or exc})") from exc


def _check_kind(path: Path, wanted: str) -> os.stat_result:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ModelError(f"{path}: is a directory; give {wanted}")
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for a writer
        raise ModelError(f"{path}: is not a regular file; give {wanted}")
    return status


def resolve_location(location: str, folders: Iterable[Path | None], where: str) -> tuple[Path, int]:
    """Find a data file in the first of `folders` that has it; returns it, and its size in bytes.

    Raises
    ------
    ModelError
        It is in none of them, leads out of them, or is no regular file (a pipe would wait for a writer).
    """
    known = [folder for folder in folders if folder is not None]
    try:
        folder = next((each for each in known if (each / location).exists()), None)
        if folder is None:
            raise ModelError(f"{where}: its data file {known[0] / location} is missing; put it beside the model")
        path = folder / location
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{where}: external data at {location!r} leads outside the model's directory; refused")
        status = path.stat()
    except (OSError, RuntimeError, ValueError) as exc:  # RuntimeError: a loop of links
        why = getattr(exc, "strerror", None) or first_line(exc)
        raise ModelError(f"{where}: its data file {location!r:.200} cannot be read ({why})") from exc
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{where}: its data file {path} is not a file")
    return path, status.st_size


_SUMS: dict[tuple[int, int, int, int], str] = {}  # of files as they were when they were read
_CHECKSUM = re.compile("[0-9a-fA-F]{40}")


def compute_checksum(path: Path) -> str:
    """The SHA-1 of a file, as ONNX's ``checksum`` of external data; read once as long as the file stays as it is."""
    try:
        status = path.stat()
        key = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if key not in _SUMS:
            with path.open("rb") as file:
                _SUMS[key] = hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror})") from exc
    return _SUMS[key]


def check_checksum(path: Path, said: str, where: str) -> None:
    """Refuse a data file that is another than the one the model was written with, where the model says which.

    Raises
    ------
    ModelError
        The file has another checksum.
    """
    if _CHECKSUM.fullmatch(said) and compute_checksum(path) != said.lower():
        raise ModelError(
            f"{where}: its data file {path} is another than the one it was written with, by its checksum;"
            " put that one back, or export the model again"
        )
