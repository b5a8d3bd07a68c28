"""A certificate against an original: every claim made again, and compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto

from converter.bounded_json import parse_json
from converter.dataclass import dataclass
from converter.errors import DataError, ModelError
from converter.model.file.disk import read_whole
from converter.referee.certificate.constants import (
    CertificateError,
    Constant,
    ScaledConstant,
    StoredConstant,
    encode_array,
    measure_rounding,
)
from converter.referee.certificate.graph import Change, Editor, Graph, Tensor, find_attribute_tensor
from converter.referee.certificate.recompute import LIMIT, Types, evaluate, recompute_places
from converter.referee.certificate.serialize import build_model, write_model
from converter.referee.normal_form.compare import ComparedArray
from converter.referee.normal_form.laws import Law, find_factor
from converter.referee.proto.source import LoadedModel, read_opsets
from converter.referee.proto.structural_hash import chain_hashes, describe_node, hash_file, hash_model

ASKED = ("id", "pass", "version", "safety", "node", "output", "guards", "edits")


class Replayer:
    """Carries out the steps of a certificate on an original.

    Parameters
    ----------
    source : LoadedModel
    frozen : set of str
        Inputs with a default value that became constants.
    """

    def __init__(self, source: LoadedModel, frozen: frozenset[str] = frozenset()) -> None:
        self.graph = Graph(source.proto, source.folder, frozen)
        self.editor = Editor(self.graph)
        self.editor.base_of = self._base
        self.n_steps = 0
        self._types = Types(self.graph)
        self._held = {(w.scope.path, w.name): w.constant for a in self.graph.scopes.values() for w in a.names.values()}
        self._computed: dict[tuple[str, str, int], Constant] = {}

    def step(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Carry out one step; returns the whole record of it, what was asked for included.

        Raises
        ------
        Refusal
            The step cannot be carried out, or does not leave the place's value as it was.
        """
        where = f"step {self.n_steps + 1} ({asked.get('id', 'without a name')})"
        change = self.editor.apply(asked.get("edits"), where)
        record = {key: asked[key] for key in ASKED if key in asked}
        record["before"] = [self._operand(w) for w in _list_constants(i for _, i in change.before.values())]
        alive = [i for i in map(self.graph.nodes.__getitem__, change.before) if i.alive]
        record["after"] = [self._operand(w) for w in _list_constants(i.inputs for i in alive)]
        record["removed"] = sorted(i.path for i in change.removed)
        record["changed"] = {i.path: _describe_outline(i.as_node()) for i in alive}
        record["rounding"] = {w.name: _describe_rounding(w, where) for w in change.added if w not in change.gone}
        record["check"] = self._check(change, where)
        self.n_steps += 1
        return record

    def _check(self, change: Change, where: str) -> dict[str, Any]:
        """The algebra of the step, in float64."""
        found: list[ComparedArray] = []
        names: list[str] = []
        laws: set[Law] = set()
        for place in recompute_places(self.graph, change, self._types):
            problem = place.problem or place.explain_moved(_is_within, ours=True)
            if problem:
                return {"recomputed": False, "why": problem}
            bad = [c for c in place.compared if not _is_within(c)]
            if bad:
                raise CertificateError(where, _explain(bad[0]))
            found += place.compared
            laws |= place.laws
            names.append(place.name)
        numbers = sum(c.count for c in found)
        bound = {"laws": sorted(laws), "rounding": find_factor(laws)}  # times the original's, for all inputs, or null
        return {"recomputed": True, "tensors": names, "numbers": numbers, "arrays": len(found), **bound}

    def _operand(self, tensor: Tensor) -> dict[str, Any]:
        constant = tensor.constant
        assert constant is not None
        kind = constant.dtype.name
        return {"name": tensor.name, "dtype": kind, "shape": list(constant.shape), "sha256": constant.digest()}

    def _base(self, record: Any) -> Constant:
        """What a recipe starts from: a tensor of the original, by name or in a Constant node, or one computed."""
        where = f"step {self.n_steps + 1}"
        try:
            found = self._find(record)
        except (KeyError, TypeError, ValueError) as exc:
            raise CertificateError(where, f"a base without {exc}") from exc
        if found is None:
            raise CertificateError(
                where, f"the original holds no constant {record.get('tensor', record.get('node'))!r}"
            )
        if found.digest() != record.get("sha256"):
            raise CertificateError(
                where, f"{record.get('tensor', record.get('node'))!r} is not what the certificate starts from"
            )
        return found

    def _find(self, record: dict[str, Any]) -> Constant | None:
        if record["kind"] == "node":
            node = self.graph.nodes.get(record["node"])
            stored: TensorProto | None = None if node is None else find_attribute_tensor(node)
            return None if stored is None else StoredConstant(stored, self.graph.folder)
        if record["kind"] == "stored":
            return self._held.get((record["scope"], record["tensor"]))
        key = (str(record["scope"]), str(record["tensor"]), int(record["step"]))
        if key not in self._computed and key[2] == self.n_steps + 1:
            tensor = self.graph.find_scope(key[0], "certificate").find(key[1])
            value = None if tensor is None else evaluate(tensor)
            if value is not None:
                self._computed[key] = value
        return self._computed.get(key)


def _is_within(c: ComparedArray) -> bool:
    return c.score <= LIMIT


def _list_constants(inputs: Any) -> list[Tensor]:
    tensors = {id(w): w for row in inputs for w in row if w.constant is not None}
    return sorted(tensors.values(), key=lambda w: (w.scope.path, w.name))


def _describe_outline(node: Any) -> list[Any]:
    """A node without the tensors in its attributes, which no edit changes, and its bodies, which are their own."""
    bare = type(node)()
    bare.CopyFrom(node)
    del bare.attribute[:]
    bare.attribute.extend(a for a in node.attribute if not (a.HasField("t") or a.HasField("g") or a.graphs))
    return describe_node(bare, None)


def _describe_rounding(tensor: Tensor, where: str) -> dict[str, Any]:
    constant = tensor.constant
    if not isinstance(constant, ScaledConstant):
        raise CertificateError(where, f"{tensor.name!r} was not made by a recipe")
    off, bound = measure_rounding(constant)
    if not bool((off <= bound).all()):
        raise CertificateError(where, f"{tensor.name!r} is rounded further than its type explains")
    ratio = max((float(o / b) for o, b in zip(off, bound, strict=True) if b > 0), default=0.0)
    return {"residual": encode_array(off), "bound": encode_array(bound), "worst": round(ratio, 6)}


def _explain(c: ComparedArray) -> str:
    where = f"{c.what} of {c.op} {c.layer!r}, channel {c.channel}"
    return f"{where}: {c.found!r} where {c.expected!r} follows from the operands"


SCHEMA = "biasopt.certificate/1"
# What a step says of itself, which nothing else can show; that it says it is checked.
_LABELS = {"id": str, "pass": str, "version": int, "safety": str, "node": str, "output": str, "guards": list}
_ALLOWED = {
    "biasopt",
    "biasopt.version",
    "biasopt.rewrites",
    "biasopt.originals",
}  # what a certificate may write into a model's metadata


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What came of a replay. ``failure`` is empty if every claim holds; ``where`` names the step or field."""

    n_steps: int  # that the certificate has
    done: int  # that were replayed
    recomputed: int  # whose algebra was checked in float64
    failure: str = ""
    where: str = ""
    open_steps: tuple[tuple[str, str], ...] = ()  # id and reason of steps whose algebra the normal form cannot say
    digest: str = ""
    write: Callable[..., None] | None = field(default=None, repr=False, compare=False)

    @property
    def holds(self) -> bool:
        """Whether the certificate holds."""
        return not self.failure


_LARGEST = 1 << 32  # bytes of a certificate
_DEEPEST = 200  # of its records and lists; those of a fold have nine


def read_certificate(path: Path) -> dict[str, Any]:
    """The certificate in a file.

    Raises
    ------
    DataError
        It cannot be read, or is none.
    """
    try:
        text = read_whole(path, _LARGEST).decode("utf-8")
        document = parse_json(text, parse_constant=_refuse_number, parse_float=_parse_finite)
        _check_values(document)
    except ModelError as exc:
        raise DataError(str(exc)) from exc
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{path}: is not JSON ({exc}); give the file that `fold --certificate` wrote") from exc
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise DataError(f"{path}: is no certificate that this version reads ({found!r}, not {SCHEMA!r})")
    return document


def _refuse_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _parse_finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is no number")
    return value


def _check_values(document: Any) -> None:
    """Refuse what parses and cannot be hashed: lists in lists without end, and text that is no Unicode."""
    pending = [(document, 0)]
    while pending:
        value, depth = pending.pop()
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        if isinstance(value, dict):
            pending += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list):
            pending += [(each, depth + 1) for each in value if isinstance(each, dict | list | str)]
        elif isinstance(value, str) and not value.isascii():
            value.encode("utf-8")


def compute_seal(document: dict[str, Any]) -> str:
    """The seal over everything in a certificate but the seal and the steps, which their chain covers."""
    rest = {k: v for k, v in document.items() if k not in ("seal", "steps")}
    steps = document.get("steps") or [{}]
    return chain_hashes(str(steps[-1].get("state", "")), rest)


def check_certificate(
    source: LoadedModel, document: dict[str, Any], progress: Callable[[str], None] | None = None
) -> ReplayResult:
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
    except CertificateError as refusal:
        return ReplayResult(len(steps), done, recomputed, refusal.why, refusal.where, tuple(open_steps))
    written = partial(write_model, engine.graph, source, metadata)
    return ReplayResult(len(steps), done, recomputed, "", "", tuple(open_steps), digest, written)


def _start(source: LoadedModel, document: dict[str, Any]) -> Replayer:
    """The original must be the one that the certificate is about, and the certificate whole."""
    steps = document.get("steps")
    if not isinstance(steps, list) or not isinstance(document.get("input"), dict):
        raise CertificateError("certificate", "has no steps or no input")
    for k, step in enumerate(steps):
        if not isinstance(step, dict) or not isinstance(step.get("check"), dict):
            raise CertificateError(f"step {k + 1}", "is not a record of a step")
    if not isinstance(document.get("output"), dict) or not isinstance(document.get("frozen", []), list):
        raise CertificateError("certificate", "has no output")
    found = None if source.path is None else hash_file(source.path)
    if found is not None and found != document["input"].get("sha256"):
        if found == document["output"].get("sha256"):
            raise CertificateError("input.sha256", "this is the folded model; give the original that it was made from")
        raise CertificateError("input.sha256", "the original is another file than the one that was certified")
    if hash_model(source) != document["input"].get("digest"):
        raise CertificateError("input.digest", "the original's nodes or tensors are not those that were certified")
    if compute_seal(document) != document.get("seal"):
        raise CertificateError("seal", "the certificate was changed after it was made")
    return Replayer(source, frozenset(map(str, document.get("frozen", []))))


def _compare(engine: Replayer, claimed: Any, state: str, where: str) -> str:
    """One step, carried out and compared with what is said of it; returns the state that follows."""
    for key, kind in _LABELS.items():
        if not isinstance(claimed.get(key), kind):
            raise CertificateError(f"{where}, {key}", "is not there, or not of the kind that it should be")
    found = engine.step(claimed)
    for key in sorted({*found, *claimed} - {"state", "check"}):
        if found.get(key) != claimed.get(key):
            raise CertificateError(f"{where}, {key}", _describe_difference(found.get(key), claimed.get(key)))
    if claimed["check"].get("recomputed") is not False:  # a later version may recompute what an earlier one could not
        if not found["check"]["recomputed"]:
            raise CertificateError(f"{where}, check", f"cannot be recomputed here ({found['check']['why']})")
        if found["check"] != claimed["check"]:
            raise CertificateError(f"{where}, check", _describe_difference(found["check"], claimed["check"]))
    following = chain_hashes(state, {k: v for k, v in claimed.items() if k != "state"})
    if following != claimed.get("state"):
        raise CertificateError(f"{where}, state", "the record was changed after it was made")
    return following


def _describe_difference(found: Any, claimed: Any) -> str:
    """The first entry in which two records differ, in a few words."""
    if isinstance(found, dict) and isinstance(claimed, dict):
        for key in sorted({*found, *claimed}):
            if found.get(key) != claimed.get(key):
                return f"{key}: {_describe_difference(found.get(key), claimed.get(key))}"
    if isinstance(found, list) and isinstance(claimed, list) and len(found) == len(claimed):
        for x, y in zip(found, claimed, strict=True):
            if x != y:
                return _describe_difference(x, y)
    return f"is {_shorten(found)}, the certificate says {_shorten(claimed)}"


def _shorten(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _finish(engine: Replayer, document: dict[str, Any], source: LoadedModel) -> tuple[dict[str, str], str]:
    said = document["output"].get("metadata", {})
    if not isinstance(said, dict) or not said.keys() <= _ALLOWED:
        raise CertificateError("output.metadata", "holds other entries than those of the tool")
    if not all(isinstance(v, str) for v in said.values()):
        raise CertificateError("output.metadata", "holds something else than text")
    metadata = dict(said)
    model = build_model(engine.graph, source, metadata)
    digest = hash_model(LoadedModel(model, "replayed", None, source.folder))
    if digest != document["output"].get("digest"):
        raise CertificateError("output.digest", "the replayed model is not the one that was certified")
    for side, proto in (("input", source.proto), ("output", model)):
        _require_same(side, describe_facts(proto), document[side])
    if source.path is not None:
        _require_same("input", {"size_bytes": source.path.stat().st_size}, document["input"])
    steps = document["steps"]
    counts = {"steps": len(steps), "recomputed": sum(s["check"].get("recomputed") is True for s in steps)}
    _require_same("summary", counts, document.get("summary"))
    return metadata, digest


def describe_facts(model: ModelProto) -> dict[str, int]:
    """What a certificate says of a model beside its hashes."""
    proto = model.graph
    return {"opset": read_opsets(model).get("", 0), "ir_version": int(model.ir_version), "nodes": len(proto.node)}


def _require_same(where: str, found: dict[str, int], claimed: Any) -> None:
    for key, value in found.items():
        said = claimed.get(key) if isinstance(claimed, dict) else None
        if said != value or isinstance(said, bool):
            raise CertificateError(f"{where}.{key}", f"is {value}, the certificate says {_shorten(said)}")
