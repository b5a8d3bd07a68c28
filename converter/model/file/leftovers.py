"""Data files that nobody needs any more: those of a model that is replaced, and those of a run that was killed.

A run notes beside its target which data file it has begun, and which it is about to remove, with what the system knows
them by. The next run of that target believes the note alone, and of it only what still is that very file: whoever hands
a folder on can forge any name and any content in it, but not what a file of the user's is known by.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from converter.bounded_json import parse_json
from converter.model.file.reader import External, list_external
from converter.temporary import is_ours, name_beside

_MOST_NOTED = 1 << 20  # bytes of a note
_BINARY: int = getattr(os, "O_BINARY", 0)
_NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)
_HOW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | _NO_LINK | _BINARY


class Note:
    """What a run is about to do to the data files of its target; in a file beside it, while the target is locked."""

    def __init__(self, target: Path) -> None:
        self.path = name_beside(target, "note")
        self.begun = name_beside(target, "data")  # a data file, before it has its own name
        self._target = target
        self._file: os.stat_result | None = None

    def add(self, kind: str, path: Path, name: str = "") -> None:
        """Note a data file that is ``begun`` and gets that name, or is ``stale`` once the target is replaced.

        Raises
        ------
        OSError
            The note cannot be written.
        """
        at = path.lstat()
        known = [str(path.parent.resolve()), name or path.name, *_identify(kind, at)]
        fd = os.open(self.path, _HOW if self._file is None else _HOW & ~os.O_EXCL, 0o600)
        try:
            self._file = os.fstat(fd)
            os.write(fd, (json.dumps([kind, *known]) + "\n").encode("ascii"))
        finally:
            os.close(fd)

    def discard(self) -> None:
        """All is done: remove the note, if it is this run's."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                if os.path.samestat(self.path.lstat(), self._file):
                    self.path.unlink()
            self._file = None

    def clear_up(self, kinds: Collection[str] = ("begun", "stale")) -> None:
        """Remove what a killed run noted and left, and its note.

        Raises
        ------
        OSError
            What is left cannot be removed.
        """
        self.begun.unlink(missing_ok=True)
        for path in self._find_left(kinds):
            path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _find_left(self, kinds: Collection[str]) -> list[Path]:
        """The noted files that are there still, and that no model around them names."""
        own = re.compile(re.escape(self._target.name) + r"(\.[0-9a-f]{8})?\.data")
        found = []
        for line in self._read():
            with contextlib.suppress(ValueError, OSError):
                match parse_json(line):
                    case ["begun" | "stale" as kind, str() as folder, str() as name, *known] if kind in kinds:
                        path = (Path(folder) if kind == "stale" else self._target.parent) / name
                    case _:  # a stranger's
                        continue
                at = path.lstat()
                here = self._target.parent.resolve()  # where a model's data lies, and nowhere else
                is_own = path.name == name and (
                    path.is_relative_to(here) if kind == "stale" else own.fullmatch(name) is not None
                )
                is_same = stat.S_ISREG(at.st_mode) and known == _identify(kind, at)
                if is_own and is_same and not _is_named_elsewhere(path, name_beside(self._target, "tmp")):
                    found.append(path)
        return found

    def _read(self) -> list[str]:
        how = os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0) | _BINARY
        try:
            with os.fdopen(os.open(self.path, how), "rb") as file:
                content = file.read(_MOST_NOTED) if is_ours(file.fileno()) else b""
        except OSError:
            return []
        return content.decode("ascii", "replace").splitlines()


def _identify(kind: str, at: os.stat_result) -> list[int]:
    """What the system knows a file by: what is being written changes meanwhile, what is stale does not."""
    return [at.st_dev, at.st_ino, *([at.st_ctime_ns] if kind == "stale" else [])]


def find_stale_data(old: Path, keep: set[Path]) -> tuple[Path, ...]:
    """Data files that the model about to be replaced fills, and that nothing else around it may use."""
    retained = {k.resolve() for k in keep}
    own_data = {p for p, places in _list_places(old).items() if p.resolve() not in retained and _is_filled(p, places)}
    return tuple(sorted(p for p in own_data if not _is_named_elsewhere(p, old)))


def _is_filled(path: Path, places: Iterable[External]) -> bool:
    """Whether all of a file is tensors of the model, but for zeros between them: else it is not the model's alone.

    A model may name any file beside it as its data; one that somebody else made may name a letter of the user's.
    """
    end, gaps = 0, []
    for place in sorted(places, key=lambda each: each.offset):
        if place.offset > end:
            gaps.append((end, place.offset))
        end = max(end, place.offset + place.n_bytes)
    try:
        gaps.append((end, path.stat().st_size))
        if not end or sum(max(0, stop - start) for start, stop in gaps) > _ALIGNMENT * len(gaps):
            return False
        with path.open("rb") as file:
            for start, stop in gaps:
                file.seek(start)
                if any(file.read(max(0, stop - start))):
                    return False
    except OSError:
        return False
    return True


def _is_named_elsewhere(data: Path, old: Path) -> bool:
    """Whether another model here, or one folder up, may use the data file; also where that would take long to tell.

    A model names its data files in plain bytes, whatever its own name, version or state. What lies beside it may be
    anything, of any size: only what can be a model is opened, and of that what holds the names. Only the name that is
    replaced does not count: what `old` links to, or another name of the same file, stays and needs its data.
    """
    name, n_looked = os.fsencode(data.name), 0
    place = old.parent.resolve()
    for folder in dict.fromkeys((data.parent, old.parent, data.parent.parent)):
        try:
            for other in folder.iterdir():
                is_old = other.name == old.name and folder.resolve() == place
                if is_old or not other.is_file() or other.samefile(data) or not _may_be_model(other):
                    continue
                n_looked += 1
                if n_looked > _MOST_MODELS or _names_file(other, name):
                    return True
        except (OSError, ValueError):
            return True
    return False


_MOST_MODELS = 1000  # beside one that is replaced; among more of them its data file stays
_MOST_BYTES = 64 << 20  # of a model, above which only its tensors' locations are read
_ALIGNMENT = 1 << 16  # bytes: the largest that writers begin tensors on
_IR_VERSION = b"\x08"  # the tag of a ModelProto's first field, before a version below 128


def _may_be_model(path: Path) -> bool:
    if path.suffix.lower() in (".onnx", ".ort", ".pb", ".tmp"):
        return True
    with path.open("rb") as file:
        head = file.read(2)
    return len(head) == 2 and head[:1] == _IR_VERSION and head[1] < 128


def _names_file(path: Path, name: bytes) -> bool:
    if path.stat().st_size <= _MOST_BYTES:
        return name in path.read_bytes()
    return any(os.fsencode(p.name) == name for p in _list_places(path))


def _list_places(path: Path) -> dict[Path, list[External]]:
    """The data files of a model, and where in each its tensors lie."""
    found: dict[Path, list[External]] = {}
    for place in list_external(path):
        found.setdefault(place.path, []).append(place)
    return found
