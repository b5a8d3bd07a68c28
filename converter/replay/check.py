"""A certificate against an original: every claim made again, and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from onnx import ModelProto

from converter.errors import DataError
from converter.protos.digest import chained, file_digest, model_digest
from converter.protos.source import Source, opsets
from converter.replay.engine import Engine
from converter.replay.output import built, write
from converter.replay.refusal import Refusal

SCHEMA = "biasopt.certificate/1"
# What a step says of itself, which nothing else can show; that it says it is checked.
_LABELS = {"id": str, "pass": str, "version": int, "safety": str, "node": str, "output": str, "guards": list}
_ALLOWED = {"biasopt.version", "biasopt.rewrites"}  # what a certificate may write into a model's metadata


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a replay. ``failure`` is empty if every claim holds; ``where`` names the step or field."""

    n_steps: int  # that the certificate has
    done: int  # that were replayed
    recomputed: int  # whose algebra was checked in float64
    failure: str = ""
    where: str = ""
    open_steps: tuple[tuple[str, str], ...] = ()  # id and reason of steps whose algebra the normal form cannot say
    digest: str = ""
    write: Callable[[Path], None] | None = field(default=None, repr=False, compare=False)

    @property
    def holds(self) -> bool:
        """Whether the certificate holds."""
        return not self.failure


def read(path: Path) -> dict[str, Any]:
    """The certificate in a file.

    Raises
    ------
    DataError
        It cannot be read, or is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{path}: is not JSON ({exc}); give the file that `fold --certificate` wrote") from exc
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise DataError(f"{path}: is no certificate that this version reads ({found!r}, not {SCHEMA!r})")
    return document


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def sealed(document: dict[str, Any]) -> str:
    """The seal over everything in a certificate but the seal and the steps, which their chain covers."""
    rest = {k: v for k, v in document.items() if k not in ("seal", "steps")}
    steps = document.get("steps") or [{}]
    return chained(str(steps[-1].get("state", "")), rest)


def check(source: Source, document: dict[str, Any], progress: Callable[[str], None] | None = None) -> Replayed:
    """Replay a certificate on an original."""
    steps = document.get("steps")
    steps = steps if isinstance(steps, list) else []
    done = recomputed = 0
    open_steps: list[tuple[str, str]] = []
    try:
        engine = _start(source, document)
        state = document["input"]["digest"]
        for k, claimed in enumerate(steps):
            where = f"step {k + 1} ({claimed.get('id', '') if isinstance(claimed, dict) else 'no record'})"
            if progress is not None:
                progress(f"replay {k + 1} of {len(steps)}: {where}")
            state = _compare(engine, claimed, state, where)
            done += 1
            if claimed["check"].get("recomputed"):
                recomputed += 1
            else:
                open_steps.append((str(claimed.get("id")), str(claimed["check"].get("why", ""))))
        metadata, digest = _finish(engine, document, source)
    except Refusal as refusal:
        return Replayed(len(steps), done, recomputed, refusal.why, refusal.where, tuple(open_steps))
    written = partial(write, engine.sheet, source, metadata)
    return Replayed(len(steps), done, recomputed, "", "", tuple(open_steps), digest, written)


def _start(source: Source, document: dict[str, Any]) -> Engine:
    """The original must be the one that the certificate is about, and the certificate whole."""
    steps = document.get("steps")
    if not isinstance(steps, list) or not isinstance(document.get("input"), dict):
        raise Refusal("certificate", "has no steps or no input")
    for k, step in enumerate(steps):
        if not isinstance(step, dict) or not isinstance(step.get("check"), dict):
            raise Refusal(f"step {k + 1}", "is not a record of a step")
    if not isinstance(document.get("output"), dict) or not isinstance(document.get("frozen", []), list):
        raise Refusal("certificate", "has no output")
    found = None if source.path is None else file_digest(source.path)
    if found is not None and found != document["input"].get("sha256"):
        if found == document["output"].get("sha256"):
            raise Refusal("input.sha256", "this is the folded model; give the original that it was made from")
        raise Refusal("input.sha256", "the original is another file than the one that was certified")
    if model_digest(source) != document["input"].get("digest"):
        raise Refusal("input.digest", "the original's nodes or tensors are not those that were certified")
    if sealed(document) != document.get("seal"):
        raise Refusal("seal", "the certificate was changed after it was made")
    return Engine(source, frozenset(map(str, document.get("frozen", []))))


def _compare(engine: Engine, claimed: Any, state: str, where: str) -> str:
    """One step, carried out and compared with what is said of it; returns the state that follows."""
    for key, kind in _LABELS.items():
        if not isinstance(claimed.get(key), kind):
            raise Refusal(f"{where}, {key}", "is not there, or not of the kind that it should be")
    found = engine.step(claimed)
    for key in sorted({*found, *claimed} - {"state", "check"}):
        if found.get(key) != claimed.get(key):
            raise Refusal(f"{where}, {key}", _difference(found.get(key), claimed.get(key)))
    if claimed["check"].get("recomputed") is not False:  # a later version may recompute what an earlier one could not
        if not found["check"]["recomputed"]:
            raise Refusal(f"{where}, check", f"cannot be recomputed here ({found['check']['why']})")
        if found["check"] != claimed["check"]:
            raise Refusal(f"{where}, check", _difference(found["check"], claimed["check"]))
    following = chained(state, {k: v for k, v in claimed.items() if k != "state"})
    if following != claimed.get("state"):
        raise Refusal(f"{where}, state", "the record was changed after it was made")
    return following


def _difference(found: Any, claimed: Any) -> str:
    """The first entry in which two records differ, in a few words."""
    if isinstance(found, dict) and isinstance(claimed, dict):
        for key in sorted({*found, *claimed}):
            if found.get(key) != claimed.get(key):
                return f"{key}: {_difference(found.get(key), claimed.get(key))}"
    if isinstance(found, list) and isinstance(claimed, list) and len(found) == len(claimed):
        for x, y in zip(found, claimed, strict=True):
            if x != y:
                return _difference(x, y)
    return f"is {_short(found)}, the certificate says {_short(claimed)}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _finish(engine: Engine, document: dict[str, Any], source: Source) -> tuple[dict[str, str], str]:
    said = document["output"].get("metadata", {})
    if not isinstance(said, dict) or not said.keys() <= _ALLOWED:
        raise Refusal("output.metadata", "holds other entries than those of the tool")
    if not all(isinstance(v, str) for v in said.values()):
        raise Refusal("output.metadata", "holds something else than text")
    metadata = dict(said)
    model = built(engine.sheet, source, metadata)
    digest = model_digest(Source(model, "replayed", None, source.folder))
    if digest != document["output"].get("digest"):
        raise Refusal("output.digest", "the replayed model is not the one that was certified")
    for side, proto in (("input", source.proto), ("output", model)):
        _agree(side, facts(proto), document[side])
    if source.path is not None:
        _agree("input", {"size_bytes": source.path.stat().st_size}, document["input"])
    steps = document["steps"]
    counts = {"steps": len(steps), "recomputed": sum(s["check"].get("recomputed") is True for s in steps)}
    _agree("summary", counts, document.get("summary"))
    return metadata, digest


def facts(model: ModelProto) -> dict[str, int]:
    """What a certificate says of a model beside its hashes."""
    graph = model.graph
    return {"opset": opsets(model).get("", 0), "ir_version": int(model.ir_version), "nodes": len(graph.node)}


def _agree(where: str, found: dict[str, int], claimed: Any) -> None:
    for key, value in found.items():
        said = claimed.get(key) if isinstance(claimed, dict) else None
        if said != value or isinstance(said, bool):
            raise Refusal(f"{where}.{key}", f"is {value}, the certificate says {_short(said)}")
