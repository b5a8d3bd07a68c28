"""An output: whole under a temporary name, then committed, its data file with it; and data files nobody needs.

A run that is killed at any moment leaves the whole old or the whole new output, and beside it at most its temporary
file, its data file, or the data file of the output that it replaced, and its note of them: all of which the next run
of that target removes.

A run notes beside its target which data file it has begun, and which it is about to remove, with what the system knows
them by. The next run of that target believes the note alone, and of it only what still is that very file: whoever hands
a folder on can forge any name and any content in it, but not what a file of the user's is known by.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from converter.bounded_json import parse_json
from converter.dataclass import dataclass
from converter.errors import ModelError
from converter.model.file.reader import External, list_external
from converter.model.file.writer import DataFile, Pieces, write_to
from converter.temporary import HeldError, Temporary, is_ours, name_beside, open_temporary, read_umask, rename_to_free

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
