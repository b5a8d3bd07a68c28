"""The zip archives of torch: read once, within a budget, and written anew from what was looked at.

torch has its own zip reader, and what it and Python make of one file may differ (two entries of one name, a directory
that names another place). So torch is never given the user's file, but an archive made here from the bytes that were
looked at; that the file changes in between makes no difference either.
"""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from converter.dataclass import dataclass
from converter.errors import ModelError

FACTORY = "give the code that makes the model as SPEC and this file as --weights"
TRUST = (
    "if you know who made the file, --trust loads it as it is: then what it holds may run as code, with all you may do"
)
MAX_ENTRIES = 100_000
EXPANSION = 4  # torch stores without compression; a file that grows more than this is a bomb
FLOOR = 256 << 20  # bytes that any archive may grow to


class NotValidated(Exception):
    """Something in an archive is not among what is known to be harmless; the message says what and where."""


def shorten(value: object) -> str:
    """What is said of a stranger's value: in ASCII, and not all of a long one."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Archive:
    """The entries of one archive by name, without the folder that all of them lie in."""

    root: str
    entries: Mapping[str, bytes]


def names_in(path: Path) -> list[str]:
    """List the entries of the archive at `path`; ModelError if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as exc:
        raise _no_archive(path) from exc


def read(path: Path) -> Archive:
    """Read the whole archive at `path`.

    Raises
    ------
    ModelError
        It is no zip file, is damaged, or unpacks to far more than it is long.
    NotValidated
        Its names are not what torch writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _check_budget(path, infos)
            raw = {info.filename: archive.read(info) for info in infos}
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, RuntimeError) as exc:
        raise _no_archive(path) from exc
    except (zlib.error, lzma.LZMAError) as exc:
        raise ModelError(f"{path}: the archive is damaged ({exc}); save it again") from exc
    if len(raw) != len(infos):
        raise NotValidated("two entries of one name")
    return _without_root(raw)


def check_budget(path: Path) -> None:
    """Refuse a zip file that unpacks to far more than it is long; what is none is for others to say.

    Raises
    ------
    ModelError
        It does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return
    _check_budget(path, infos)


def _check_budget(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    limit = max(FLOOR, EXPANSION * path.stat().st_size)
    total = sum(info.file_size for info in infos)
    if total > limit or len(infos) > MAX_ENTRIES:
        raise ModelError(
            f"{path}: unpacks to {total} bytes in {len(infos)} entries; torch writes no such archive, so it is not read"
        )


def _without_root(raw: Mapping[str, bytes]) -> Archive:
    roots = {name.partition("/")[0] for name in raw if "/" in name}
    flat = [name for name in raw if "/" not in name]
    if len(roots) == 1 and not flat:
        (root,) = roots
        return Archive(root, {name.partition("/")[2]: data for name, data in raw.items()})
    if "version" in flat and "serialized_exported_program.json" in flat:
        return Archive("", raw)  # torch 2.7 and before
    raise NotValidated("entries that lie in more than one folder")


def rebuild(archive: Archive, entries: Mapping[str, bytes]) -> io.BytesIO:
    """Write `entries` as an archive of the same root; torch reads it from memory."""
    buffer = io.BytesIO()
    prefix = f"{archive.root}/" if archive.root else ""
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as made:
        for name, data in entries.items():
            made.writestr(zipfile.ZipInfo(prefix + name), data)
    buffer.seek(0)
    return buffer


def _no_archive(path: Path) -> ModelError:
    return ModelError(f"{path}: is neither TorchScript nor a program of torch.export (.pt2); {FACTORY}")
