"""Where a fold writes, and what: checked before the work, whole or absent after it."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import stat
from pathlib import Path

from converter._version import __version__
from converter.errors import BiasoptError, ModelError
from converter.model.file import DataFile, Pieces, Staged, data_name, span_of, stage
from converter.model.graph import Graph, emit, has_external, load, stored_files
from converter.records import Rewrite
from converter.records.results import InspectResult

_PROTO_LIMIT = (1 << 31) - 1  # bytes that protobuf takes in one message


def build_pieces(graph: Graph, result: InspectResult, data: DataFile | None) -> Pieces:
    if not (result.rewrites or result.frozen) and data is None:
        out = Pieces()
        out.add(span_of(graph.file.buffer, graph.file.path, *graph.file.root))
        return out
    return emit(graph, _build_metadata(graph, result.rewrites), data)


def _build_metadata(graph: Graph, rewrites: tuple[Rewrite, ...]) -> dict[str, str]:
    """What the output says of itself: the version, and the id of every rewrite, earlier ones first."""
    if not rewrites:
        return {}
    known = {e.key: e.value for e in graph.file.skeleton.metadata_props}
    earlier: list[str] = []
    with contextlib.suppress(ValueError, RecursionError):  # what a stranger wrote there stops nothing
        found = json.loads(known.get("biasopt.rewrites", "[]"))
        earlier = [str(i) for i in found] if isinstance(found, list) else []
    ids = [*earlier, *(r.id for r in rewrites)]
    return {"biasopt.version": __version__, "biasopt.rewrites": json.dumps(ids, separators=(",", ":"))}


def stage_model(graph: Graph, result: InspectResult, target: Path, in_place: bool) -> Staged:
    data: DataFile | None = None
    if has_external(graph):
        data = DataFile(data_name(target, _serialize_skeleton(graph)))
    pieces = build_pieces(graph, result, data)
    if data is None and pieces.n_bytes > _PROTO_LIMIT:
        data = DataFile(data_name(target, _serialize_skeleton(graph)))
        pieces = build_pieces(graph, result, data)
    mode = stat.S_IMODE(target.stat().st_mode) if in_place else None
    own = set() if in_place else {Path(p) for p in stored_files(graph)}
    stale = _find_stale_data(target, own) if target.exists() else ()
    return stage(target, pieces, data, mode=mode, stale_data=stale)


def _serialize_skeleton(graph: Graph) -> bytes:
    return bytes(graph.file.skeleton.SerializeToString(deterministic=True))


def _find_stale_data(old: Path, keep: set[Path]) -> tuple[Path, ...]:
    """Data files that the model about to be replaced uses, and that nothing else around it may use."""
    retained = {k.resolve() for k in keep}
    own_data = {p for p in _list_data_files(old) if p.resolve() not in retained}
    return tuple(sorted(p for p in own_data if not _is_named_elsewhere(p, old)))


def _is_named_elsewhere(data: Path, old: Path) -> bool:
    """Whether another file here, or one folder up, has the data file's name in it, or cannot be read.

    A model names its data files in plain bytes, whatever its own name, version or state.
    """
    name = data.name.encode()
    for folder in dict.fromkeys((data.parent, old.parent, data.parent.parent)):
        try:
            for other in folder.iterdir():
                if not other.is_file() or other.samefile(old) or other.samefile(data) or not other.stat().st_size:
                    continue
                with other.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    if content.find(name) >= 0:
                        return True
        except (OSError, ValueError):
            return True
    return False


def _list_data_files(path: Path) -> set[Path]:
    try:
        graph = load(path)
    except BiasoptError:
        return set()  # not a model, or a broken one: nothing of its is ours to delete
    try:
        return {Path(p) for p in stored_files(graph)}
    finally:
        graph.close()


def find_target(graph: Graph, out: str | Path | None, *, force: bool, in_place: bool) -> Path | None:
    if in_place:
        if out is not None:
            raise ModelError(f"{out}: in place means no other output; give one of the two")
        if graph.file.path is None:
            raise ModelError("<model>: is not a file, so it cannot be replaced in place; give out=PATH")
        return graph.file.path.resolve()
    return None if out is None else check_target(graph, Path(out), force=force)


def check_target(graph: Graph, target: Path, *, force: bool) -> Path:
    sources = [Path(p) for p in stored_files(graph)] + ([graph.file.path] if graph.file.path else [])
    try:
        if target.is_dir():
            raise ModelError(f"{target}: is a directory; give a file name")
        for source in sources:
            if target.exists() and target.samefile(source):
                raise ModelError(f"{target}: is the input itself; give another output, or ask for --in-place")
        if os.path.lexists(target) and not force:
            raise ModelError(f"{target}: exists already; give another output, or --force to replace it")
        if target.exists() and not target.is_file():
            raise ModelError(f"{target}: is not a regular file; give another output")
        if not target.parent.is_dir():
            raise ModelError(f"{target}: its directory does not exist; create it first")
    except (OSError, RuntimeError) as exc:  # a name too long, a directory without access, a loop of links
        raise ModelError(f"{target}: cannot be written ({exc}); give another output") from exc
    return target
