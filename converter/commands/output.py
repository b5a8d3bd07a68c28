"""Where a fold writes, and what: checked before the work, whole or absent after it."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.errors import ModelError
from converter.model.file import DataFile, External, Pieces, Span, Staged, claim, data_name, name_replaced, stage
from converter.model.file.reader import list_external
from converter.model.graph import Graph, emit, has_external, stored_files
from converter.records import Rewrite
from converter.records.results import InspectResult

PROTO_LIMIT = (1 << 31) - 1  # bytes that protobuf takes in one message


_MARK = "biasopt"  # the key that says of a file which has no room for more that it is a fold


def build_pieces(graph: Graph, result: InspectResult, data: DataFile | None) -> Pieces:
    """The result as pieces; of what it says of itself only the mark is left where the rest alone makes it too large."""
    if not (result.rewrites or result.frozen) and data is None:  # as it came, or with its nodes sorted
        out = Pieces()
        out.add(Span(graph.file.buffer, 0, len(graph.file.buffer)))
        return out
    whole = emit(graph, _build_metadata(graph, result.rewrites), data)
    if data is None and whole.n_bytes > graph.most_bytes:
        for least in ({_MARK: ""}, {}):
            if (bare := emit(graph, least)).n_bytes <= graph.most_bytes:
                return bare
    return whole


def _build_metadata(graph: Graph, rewrites: tuple[Rewrite, ...]) -> dict[str, str]:
    """What the output says of itself: the version, the id of every rewrite, and of which models it is a fold."""
    if not rewrites:
        return {}
    known = {e.key: e.value for e in graph.file.skeleton.metadata_props}
    return {
        "biasopt.version": __version__,
        "biasopt.rewrites": _append(known.get("biasopt.rewrites"), *(r.id for r in rewrites)),
        "biasopt.originals": _append(known.get("biasopt.originals"), graph.file.digest),
    }


def _append(earlier: str | None, *entries: str) -> str:
    """A list in JSON with more entries at its end; what a stranger wrote there stops nothing."""
    found: object = []
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(earlier or "[]")
    return json.dumps([*map(str, found if isinstance(found, list) else ()), *entries], separators=(",", ":"))


def stage_model(
    graph: Graph,
    result: InspectResult,
    target: Path,
    *,
    in_place: bool,
    replaces: bool,
    link: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Staged:
    """Write the result beside its place, after what a killed run of that target left is removed.

    Raises
    ------
    ModelError
        Another run is writing the same target, or it cannot be written; nothing is left behind.
    """
    staged = claim(target)
    try:
        _finish_replacing(target)
        data: DataFile | None = None
        linked_from = target.parent if link else None
        if has_external(graph):
            data = DataFile(data_name(target, _serialize_skeleton(graph)), linked_from)
        elif link:
            raise ModelError(f"{graph.file.label}: holds its weights itself, so that there is nothing to link")
        pieces = build_pieces(graph, result, data)
        if data is None and pieces.n_bytes > PROTO_LIMIT:
            data = DataFile(data_name(target, _serialize_skeleton(graph)))
            pieces = build_pieces(graph, result, data)
        try:
            like = target.stat() if in_place else None
        except OSError as exc:
            raise ModelError(f"{target}: is gone ({exc.strerror}); nothing was written") from exc
        mode = stat.S_IMODE(like.st_mode) if like is not None else None
        own = set() if in_place and not link else {Path(p) for p in stored_files(graph)}
        stale = _find_stale_data(target, own) if target.exists() else ()
        how: dict[str, Any] = {"mode": mode, "like": like, "stale_data": stale, "replaces": replaces or in_place}
        stage(staged, pieces, data, progress=None if progress is None else _count_bytes(progress), **how)
    except BaseException:
        staged.discard()
        raise
    return staged


def _count_bytes(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    """Progress in bytes, where there is something to wait for."""
    told = 0

    def count(done: int, total: int) -> None:
        nonlocal told
        if total >= _WORTH_TELLING and done - told >= total // 100:
            told = done
            tell(f"writing: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    return count


_WORTH_TELLING = 64 << 20  # bytes to write


def _finish_replacing(target: Path) -> None:
    """Remove data files that only the model uses which a run replaced, before it was killed."""
    replaced = name_replaced(target)
    if replaced.is_file():
        with contextlib.suppress(OSError):
            for path in _find_stale_data(replaced, set()):
                path.unlink()
            replaced.unlink()


def _serialize_skeleton(graph: Graph) -> bytes:
    return bytes(graph.file.skeleton.SerializeToString(deterministic=True))


def _find_stale_data(old: Path, keep: set[Path]) -> tuple[Path, ...]:
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


def list_sources(graph: Graph) -> list[Path]:
    """The files that a model is read from: its own, and those of its data."""
    return [Path(p) for p in stored_files(graph)] + ([graph.file.path] if graph.file.path else [])


def find_target(graph: Graph, out: str | Path | None, *, in_place: bool) -> Path | None:
    if in_place:
        if out is not None:
            raise ModelError(f"{out}: in place means no other output; give one of the two")
        if graph.file.path is None:
            raise ModelError("<model>: is not a file, so it cannot be replaced in place; give out=PATH")
        return graph.file.path.resolve()
    return None if out is None else Path(out)


Identity = tuple[int, int, int, int]


def identify(paths: Iterable[Path]) -> dict[Path, Identity]:
    """What tells a file from another one that took its place: device, inode, size, time of change."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            at = path.stat()
            found[path] = (at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns)
    return found


def check_unchanged(known: Mapping[Path, Identity]) -> None:
    """Refuse to go on with a model that somebody wrote anew in the meantime.

    Raises
    ------
    ModelError
        A file is another one than it was when it was read, or is gone.
    """
    now = identify(known)
    for path, identity in known.items():
        if now.get(path) != identity:
            raise ModelError(f"{path}: changed while it was being folded; nothing was written, run it again")
