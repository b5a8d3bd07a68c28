"""Which models a batch is of and where results go; and what was done, a line a model, so that a killed batch goes on.

A line that the kill cut short is left out when the journal is read. The key of a row is the hash of all that decides
it: the model's bytes with those of its data, the options, and the version.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from converter._version import __version__
from converter.bounded_json import parse_json
from converter.dataclass import dataclass
from converter.errors import BiasoptError, ModelError
from converter.records.results import BatchRow, Outcome, Task
from converter.report.serialize import convert, encode
from converter.temporary import find_closed, open_whole, read_umask

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


_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Found:
    """A model, and its path below the folder that all of them lie in."""

    path: Path
    name: str


def find_models(patterns: Sequence[str], output: Path) -> list[Found]:
    """The models that files, folders and patterns mean, each once, by name.

    ``**`` stands for any number of folders; a folder means every ``.onnx`` file below it. Names are relative to what
    comes before the first wildcard of a pattern. What lies below ``output`` is a result and no model.

    Raises
    ------
    ModelError
        A pattern means nothing, or two models would be written to one place.
    """
    found: dict[str, Found] = {}
    for pattern in patterns:
        base, paths = _expand(pattern)
        below = [path for path in paths if not path.resolve().is_relative_to(output.resolve())]
        if paths and not below:
            raise ModelError(f"{pattern}: every model there lies below the output {output}; give another output")
        if not paths:
            raise ModelError(f"{pattern}: no model is there; quote a pattern such as 'zoo/**/*.onnx'")
        for path in below:
            each = Found(path, path.relative_to(base).as_posix())
            other = found.setdefault(each.name, each)
            if other.path.resolve() != path.resolve():
                raise ModelError(
                    f"{path} and {other.path} would both be written to {output / each.name}; run two batches"
                )
    return sorted(found.values(), key=lambda each: each.name)


def _expand(pattern: str) -> tuple[Path, list[Path]]:
    path = Path(pattern)
    if path.is_dir():
        return path, sorted(each for each in path.rglob("*") if each.suffix.lower() == ".onnx" and _is_listed(each))
    if path.is_file() or not _WILD.search(pattern):
        return path.parent, [path] if path.is_file() else []
    before = pattern[: _WILD.search(pattern).start()]  # type: ignore[union-attr]
    base = Path(before[: before.rfind("/") + 1] or ".")
    rest = pattern[before.rfind("/") + 1 :]
    hidden = any(part.startswith(".") for part in Path(rest).parts)
    try:
        found = {path for path in base.glob(rest) if _is_listed(path)}  # ** follows no links: they may go in circles
    except (ValueError, NotImplementedError) as exc:
        raise ModelError(f"{pattern}: is no pattern ({exc}); write one such as 'zoo/**/*.onnx'") from exc
    return base, sorted(path for path in found if hidden or not _is_hidden(path.relative_to(base)))


def _is_listed(path: Path) -> bool:
    """A file, or a link that leads nowhere: a row that says so, since a model that is missed is missed by nobody."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


# -- Triton --------------------------------------------------------------------------------------------


def find_triton_models(repository: Path) -> list[Found]:
    """The ONNX models of a repository: ``NAME/VERSION/model.onnx``, a file or a folder with one of that name in it.

    Raises
    ------
    ModelError
        It is no such repository.
    """
    found = []
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()) if repository.is_dir() else []:
        name = _read_file_name(folder / "config.pbtxt")
        for version in sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()):
            path = version / name
            path = path / name if path.is_dir() else path
            if path.is_file() and path.suffix == ".onnx":
                found.append(Found(path, path.relative_to(repository).as_posix()))
    if not found:
        raise ModelError(f"{repository}: no model repository of Triton: there is no NAME/VERSION/model.onnx")
    return found


def _read_file_name(config: Path) -> str:
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    named = re.search(r'^\s*default_model_filename\s*:\s*"([^"/\\]+)"', text, re.MULTILINE)
    return named[1] if named else "model.onnx"


def list_other_files(repository: Path, models: Sequence[Found]) -> Iterator[Path]:
    """Everything else of a repository: configurations, labels, and models of other kinds, whose bytes are kept.

    Raises
    ------
    ModelError
        A link leads out of it: what is there may be no part of the model, and not meant to be passed on.
    """
    own = {each.path for each in models}
    own |= {path for each in models for path in list_files(each.path)}
    root = repository.resolve()
    for path in sorted(repository.rglob("*")):
        if path.is_file() and path not in own:
            if not path.resolve().is_relative_to(root):
                raise ModelError(f"{path}: is a link to {path.resolve()}, outside of the repository; copy it there")
            yield path


def copy_file(source: Path, target: Path) -> None:
    """Copy beside the target, then take its place.

    Raises
    ------
    BiasoptError
        It cannot be read or written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o666 & ~read_umask() & ~find_closed([source])
        with source.open("rb") as read, open_whole(target, mode=mode) as file:
            shutil.copyfileobj(read, file, 1 << 20)
    except OSError as exc:
        raise BiasoptError(f"{target}: cannot be written ({exc.strerror})") from exc


# An entry of TensorProto.external_data as protobuf writes it: key "location", then the length of the value.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x7f])", re.DOTALL)


def list_files(model: Path) -> list[Path]:
    """The model and the files of its external data inside its folder, found without parsing it.

    What only looks like such an entry names no file that is there.
    """
    with model.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return [model]
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            names = {_read_value(content, found.end(), found[1]) for found in _LOCATION.finditer(content)}
    folder = model.parent.resolve()
    files = set()
    for name in names:
        with suppress(ValueError, OSError):  # a NUL, a name that is too long
            path = (folder / name.decode()).resolve()
            if path.is_file() and path.is_relative_to(folder):
                files.add(path)
    return [model, *sorted(files - {model.resolve()})]


def _read_value(content: mmap.mmap, start: int, length: bytes) -> bytes:
    size = length[0] if len(length) == 1 else (length[0] & 0x7F) | length[1] << 7
    return bytes(content[start : start + size])
