"""What was done, a line a model, kept as it goes: a batch that was killed goes on where it was.

A line that the kill cut short is left out when the journal is read. The key of a row is the hash of all that decides
it: the model's bytes with those of its data, the options, and the version.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from converter._version import __version__
from converter.bounded_json import parse_json
from converter.errors import BiasoptError
from converter.records.results import BatchRow, Outcome, Task
from converter.report.serialize import convert, encode

NAME = "journal.jsonl"
MOST_BYTES = 1 << 30  # a million rows
# Of another's folder it may be a link to a file of the user's, or a pipe.
_HOW = os.O_RDWR | os.O_CREAT | os.O_APPEND | sum(getattr(os, f"O_{n}", 0) for n in ("NOFOLLOW", "NONBLOCK", "BINARY"))


class Journal:
    """The rows of earlier runs into one folder, and a place for those of this one.

    Raises
    ------
    BiasoptError
        The folder cannot be written, or another batch writes into it now.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = os.fdopen(os.open(self.path, _HOW, 0o666), "rb+")
        except OSError as exc:
            raise BiasoptError(f"{self.path}: cannot be written ({exc.strerror}); choose another --output") from exc
        found = os.fstat(self._file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            self._file.close()
            raise BiasoptError(f"{self.path}: is no journal of a batch; move it away, or choose another --output")
        if not _lock(self._file):
            self._file.close()
            raise BiasoptError(f"{folder}: another batch writes into it; wait for it, or choose another --output")
        self.rows = self._read()

    def _read(self) -> dict[str, BatchRow]:
        """The last row of each model."""
        self._file.seek(0)
        found: dict[str, BatchRow] = {}
        content = self._file.read()
        for line in content.splitlines():
            try:
                row = convert(parse_json(line), BatchRow)
            except ValueError:  # it was cut short, or is none of ours
                continue
            found[row.name] = row
        if content and not content.endswith(b"\n"):  # the next line begins on one of its own
            self._file.write(b"\n")
        return found

    def find(self, task: Task) -> BatchRow | None:
        """The row of a model that is unchanged since, and whose output is there as it was written."""
        row = self.rows.get(task.name)
        if row is None or row.key != task.key or row.outcome is Outcome.LOST:
            return None
        if row.output is not None and not (row.output == task.output and _is_there(Path(row.output), row.sha256)):
            return None
        return row

    def add(self, row: BatchRow) -> None:
        """Keep a row, on the disk before this returns."""
        self.rows[row.name] = row
        self._file.write(json.dumps(encode(row)).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let another batch write."""
        self._file.close()


def _lock(file: IO[bytes]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_there(path: Path, sha256: str) -> bool:
    return path.is_file() and hash_files([path]) == sha256


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 of files, one after the other, read in pieces."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def make_key(files: Iterable[Path], options: Mapping[str, Any]) -> str:
    """The hash of all that decides what becomes of a model."""
    asked = json.dumps([__version__, options], sort_keys=True, default=str)
    return hashlib.sha256(f"{hash_files(files)} {asked}".encode()).hexdigest()
