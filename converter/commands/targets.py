"""Everything that a command will write, checked before any work: no two the same, none an input, only regular files."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from converter.dataclass import dataclass
from converter.errors import ModelError
from converter.model.file.reader import list_external
from converter.temporary import BESIDE, name_beside


@dataclass(frozen=True, slots=True)
class Target:
    """A file that a command will write. ``replaces``: one that is there may be replaced."""

    path: Path
    what: str = "output"
    replaces: bool = False
    with_folder: bool = False  # its folder is made where there is none


def check_targets(targets: Sequence[Target], inputs: Iterable[Path | str] = ()) -> None:
    """Refuse what would lose a file.

    Parameters
    ----------
    targets : sequence of Target
        All that will be written.
    inputs : paths
        All that is read, data files included; what does not exist does not count.

    Raises
    ------
    ModelError
        Two targets are one file, one is an input, a folder, a device or a pipe, exists and may not be replaced, or its
        folder is not there.
    """
    read = {identity: Path(path) for path in inputs if (identity := _identify(Path(path))) is not None}
    seen: dict[object, Target] = {}
    for target in targets:
        _check_one(target)
        path, what = target.path, target.what
        identity = _identify(path)
        if identity in read:
            raise ModelError(f"{path}: is the input itself ({read[identity]}); give the {what} another name")
        for key in (identity, _locate(path)):
            if key is not None and key in seen:
                raise ModelError(f"{path}: is to be the {seen[key].what} and the {what}; give one of them another name")
            seen[key] = target
    for target in targets:
        for path in (name_beside(target.path, ending) for ending in BESIDE):
            if (identity := _identify(path)) in read:
                told = f"is the input ({read[identity]}), and a name of this tool's own for a while"
                raise ModelError(f"{path}: {told}; give the {target.what} another name")
            if _locate(path) in seen:
                told = f"is to be the {seen[_locate(path)].what}, and is a name of this tool's own for a while"
                raise ModelError(f"{path}: {told}; give it another name")


def check_data_place(output: Path, others: Iterable[Path]) -> None:
    """Refuse what would be written where an output's data file lies; where that name is taken, it gets another.

    Raises
    ------
    ModelError
        One of them is to lie there.
    """
    data = output.with_name(f"{output.name}.data")
    if any(_locate(path) == _locate(data) for path in others):
        raise ModelError(f"{data}: is where the output's data may lie; give what goes there another name")


def _check_one(target: Target) -> None:
    path = target.path
    try:
        if len(os.fsencode(path.name)) > 200:  # 255 is the limit of most file systems, and a temporary name is longer
            raise ModelError(f"{path.name[:40]}...: the name is too long; give a shorter one")
        if path.is_dir():
            raise ModelError(f"{path}: is a directory; give a file name")
        if os.path.lexists(path) and not target.replaces:
            raise ModelError(f"{path}: exists already; give another output, or --force to replace it")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise ModelError(f"{path}: is not a regular file; give another output")
        if not path.parent.is_dir() and not target.with_folder:
            raise ModelError(f"{path}: its directory does not exist; create it first")
    except (OSError, RuntimeError, ValueError) as exc:  # a folder without access, a loop of links, a NUL in the name
        raise ModelError(f"{path}: cannot be written ({exc}); give another output") from exc


def _identify(path: Path) -> tuple[int, int] | None:
    """The file that is there, whatever it is called; None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _locate(path: Path) -> str:
    """Where the file will be, whether it is there or not.

    Names that only differ by case, or by how their letters are composed, are one file on some systems: here they are
    one on every system, since nobody needs two of them for one run.
    """
    return str(path.parent.resolve() / unicodedata.normalize("NFC", path.name).casefold())


def list_paths(*given: Any) -> list[Path]:
    """The paths among what options hold: a path, a text that names a file, or a sequence of these."""
    found: list[Path] = []
    for value in given:
        if isinstance(value, str | Path):
            found.append(Path(value))
            if isinstance(value, str) and (file := value.rpartition(":")[0]):  # file.py:function
                found.append(Path(file))
        elif isinstance(value, Sequence) and not isinstance(value, bytes):
            found.extend(list_paths(*value))
    return found


def check_reports(files: Sequence[Path], *inputs: Any) -> None:
    """What a command writes that only reports: none of it is a model that it reads, its data, or other inputs."""
    if files:
        read = list_paths(*inputs)
        targets = [Target(file, "report", replaces=True, with_folder=True) for file in files]
        check_targets(targets, [*read, *list_data_files(*read)])


def list_data_files(*models: Path) -> list[Path]:
    """Files of the external data of what is a model among these."""
    given = [m for m in models if m.suffix.lower() == ".onnx" and m.is_file()]
    return sorted({place.path for model in given for place in list_external(model)})


def make_folder(folder: Path) -> None:
    """A folder that is to hold results, made where there is none.

    Raises
    ------
    ModelError
        It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ModelError(f"{folder}: cannot be made ({exc.strerror}); give another folder") from exc
