"""Where a fold writes, and what: checked before the work, whole or absent after it."""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.bounded_json import parse_texts
from converter.errors import ModelError
from converter.model.file import DataFile, Pieces, Span, Staged, claim, data_name, find_stale_data, stage
from converter.model.graph import Graph, emit, has_external, stored_files
from converter.records import Rewrite
from converter.records.results import InspectResult
from converter.temporary import find_closed

PROTO_LIMIT = (1 << 31) - 1  # bytes that protobuf takes in one message

_MARK = "biasopt"  # the key that says of a file which has no room for more that it is a fold, and of which model
_SHORT = 8  # characters of the original's digest, where there is no room for more


def build_pieces(graph: Graph, result: InspectResult, data: DataFile | None) -> Pieces:
    """The result as pieces; of what it says of itself only the mark is left where the rest alone makes it too large."""
    if not (result.rewrites or result.frozen) and data is None:  # as it came, or with its nodes sorted
        out = Pieces()
        out.add(Span(graph.file.buffer, 0, len(graph.file.buffer)))
        return out
    whole = emit(graph, _build_metadata(graph, result.rewrites), data)
    if data is None and whole.n_bytes > graph.most_bytes:
        for least in ({_MARK: graph.file.digest[:_SHORT]}, {_MARK: ""}, {}):
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
        **({_MARK: ""} if _MARK in known else {}),  # of an earlier fold, and no longer the latest
    }


def _append(earlier: str | None, *entries: str) -> str:
    """A list in JSON with more entries at its end; what a stranger wrote there stops nothing."""
    return json.dumps([*parse_texts(earlier or "[]"), *entries], separators=(",", ":"))


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
        stale = find_stale_data(target, own) if target.exists() else ()
        how: dict[str, Any] = {
            "mode": mode,
            "closed": find_closed(list_sources(graph)),
            "like": like,
            "stale_data": stale,
            "replaces": replaces or in_place,
        }
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


def _serialize_skeleton(graph: Graph) -> bytes:
    return bytes(graph.file.skeleton.SerializeToString(deterministic=True))


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


def check_unchanged(known: Mapping[Path, Identity], done: str = "folded") -> None:
    """Refuse to go on with a file that somebody wrote anew while it was being ``done``.

    Raises
    ------
    ModelError
        A file is another one than it was when it was read, or is gone.
    """
    now = identify(known)
    for path, identity in known.items():
        if now.get(path) != identity:
            raise ModelError(f"{path}: changed while it was being {done}; nothing was written, run it again")
