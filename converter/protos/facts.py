"""What a reader needs to know a model again: its hash, data files included, versions and operators."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from converter.errors import ModelError
from converter.protos.reference_weights import is_external
from converter.protos.source import Source, all_nodes, opsets, serialized
from converter.records import ModelFacts

_CHUNK = 1 << 22


def model_facts(source: Source) -> ModelFacts:
    """The facts of one model.

    ``sha256`` is that of the file; where the model has data files, that of the file followed by them, in the order
    of their names.

    Raises
    ------
    ModelError
        A data file is missing.
    """
    digest = hashlib.sha256()
    size = 0
    if source.path is not None:
        size += _update(digest, source.path)
    else:
        content = serialized(source.proto, source.label)
        digest.update(content)
        size += len(content)
    for path in data_files(source):
        size += _update(digest, path)
    counts = Counter(n.op_type for n in all_nodes(source.proto))
    return ModelFacts(
        path=str(source.path or ""),
        sha256=digest.hexdigest(),
        size_bytes=size,
        ir_version=int(source.proto.ir_version),
        opset=opsets(source.proto).get("", 0),
        ops=dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))),
    )


def data_files(source: Source) -> list[Path]:
    """The files that hold the model's external data, in the order of their names."""
    held = [t for t in source.proto.graph.initializer if is_external(t)]
    held += [a.t for n in all_nodes(source.proto) for a in n.attribute if a.HasField("t") and is_external(a.t)]
    names = {e.value for t in held for e in t.external_data if e.key == "location"}
    return [(source.folder or Path()) / name for name in sorted(names)]


def _update(digest: hashlib._Hash, path: Path) -> int:
    size = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    return size
