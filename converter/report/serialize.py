"""Records as JSON documents and back: numbered schemas, strict JSON, and errors that name the place.

A record's JSON has the record's fields, by their names and in their order; what differs is said in the field's
metadata (`converter.records.evidence.as_json`). A field may be added within the number of a schema; one that changes
its meaning or goes away makes a new number. JSON has no NaN and no infinity, so these are the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``.

``biasopt.fold/1``, ``biasopt.verify/1`` and ``biasopt.bench/1`` are read again, also long after the run. Fields that
a document lacks keep the default of the record, so that a report of a document says what is there and is silent on
what is not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import msgspec

from converter.bounded_json import parse_json
from converter.errors import DataError
from converter.records import (
    Block,
    Counts,
    EffectKind,
    Environment,
    Fate,
    Finding,
    InputSet,
    Latency,
    ModelFacts,
    Parity,
    Rewrite,
    Step,
    Verb,
    Verdict,
    Warning,
    WarningCode,
)
from converter.records.ablate import AblateResult, BiasScore, EffectSummary
from converter.records.results import BatchResult, FoldResult, Inventory
from converter.records.study import StudyResult
from converter.report import wording

Json = Mapping[str, Any]
Value = TypeVar("Value")
MOST_BYTES = 1 << 30  # a report of 100,000 layers has 60 MB


# ---- one record ----------------------------------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """A record, or anything made of records, as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return _encode_fields(value)
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _encode_fields(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(record):
        name, value = json_name(field), getattr(record, field.name)
        if name == "*":
            found |= encode(value)
        elif name and not (value is None and "optional" in field.metadata):
            found[name] = encode(value)
    return found


def json_name(field: Field[Any]) -> str:
    """What a field is called in JSON: "*" where its own fields stand in its place, empty where it is not there."""
    return str(field.metadata.get("json", field.name))


def dumps(document: Json) -> str:
    """Strict JSON in ASCII, so that any terminal and any reader take it."""
    text = json.dumps(encode(document), indent=2, allow_nan=False)
    return text.replace("##[", "#\\u0023[") + "\n"  # only in strings, and the same there; else a command in a CI's log


def convert(value: Any, into: type[Value]) -> Value:
    """JSON values as a record, or as what a type says.

    Raises
    ------
    ValueError
        Something is missing or of another type; the message begins with its place, such as ``$.stages[0].id``.
    """
    try:
        return msgspec.convert(value, into, strict=False, dec_hook=_read_special)  # "NaN" is a number
    except msgspec.ValidationError as wrong:
        said, _, place = str(wrong).partition(" - at `")
        raise ValueError(f"{place.rstrip('`') or '$'}: {said[:1].lower()}{said[1:]}") from None


def _read_special(into: type, value: Any) -> Any:
    if into is Warning and isinstance(value, str):
        return Warning(WarningCode.UNKNOWN, value)
    raise TypeError(f"expected {into.__name__}")


# ---- the documents -------------------------------------------------------------------------------------------------


class Tool(msgspec.Struct):
    """What made the document; ``argv``: what stood on the command line after the program's name."""

    name: Literal["biasopt"]
    version: str
    argv: tuple[str, ...]


class Repro(msgspec.Struct):
    """How to see it again; ``failing_inputs``: a file that holds the inputs that failed."""

    cmd: str | None = None
    failing_inputs: str | None = None


class Models(msgspec.Struct):
    """The two models; null for one of which nothing is known."""

    a: ModelFacts | None = None
    b: ModelFacts | None = None


class Rejudged(msgspec.Struct):
    """The limits that were given when it was judged again, and the verdict before."""

    limits: dict[str, float]
    was: Verdict


class Totals(msgspec.Struct):
    """What the model holds before and after."""

    before: Counts
    after: Counts


class End(msgspec.Struct):
    """A node at which the path of a bias ends."""

    node: str
    op: str
    verb: Verb
    how: str = ""


def columns(record: type, **renamed: str) -> list[tuple[str, Any, Any]]:
    """The fields of a record's JSON: name, type and default."""
    found: list[tuple[str, Any, Any]] = []
    hints = get_type_hints(record)
    for field in fields(record):
        name = json_name(field)
        if name == "*":
            found += columns(hints[field.name])
        elif name:
            default: Any = msgspec.NODEFAULT if field.default is MISSING else field.default
            if field.default_factory is not MISSING:
                default = msgspec.field(default_factory=field.default_factory)
            found.append((renamed.get(name, name), hints[field.name], default))
    return found


VERIFY_SCHEMA, BENCH_SCHEMA, FOLD_SCHEMA = "biasopt.verify/1", "biasopt.bench/1", "biasopt.fold/1"
ABLATE_SCHEMA, STUDY_SCHEMA = "biasopt.ablate/1", "biasopt.study/1"
DOCTOR_SCHEMA, BATCH_SCHEMA = "biasopt.doctor/1", "biasopt.batch/1"


def _struct(name: str, doc: str, *parts: tuple[str, Any] | tuple[str, Any, Any]) -> Any:
    return msgspec.defstruct(name, parts, kw_only=True, namespace={"__doc__": doc})


# What a verdict is of, and the exit code of it, stand among what was found: JSON keeps its order.
_HEAD = (("tool", Tool),)
_TAIL = (("repro", Repro), ("rejudged", Rejudged | None, None))
_GROUND = (("models", Models), ("env", Environment | None), ("inputs", InputSet | None))
_CODE = ("exit_code", Literal[0, 1, 4])


def _with(columns: Iterable[tuple[Any, ...]], after: Mapping[str, Iterable[tuple[Any, ...]]]) -> list[Any]:
    return [part for column in columns for part in (column, *after.get(column[0], ()))]


def _set_types(columns: Iterable[tuple[str, Any, Any]], **types: Any) -> list[tuple[str, Any, Any]]:
    return [(name, types.get(name, type_), default) for name, type_, default in columns]


VerifyDocument: Any = _struct(
    "biasopt.verify",
    "What `biasopt verify --json` prints.",
    ("schema", Literal["biasopt.verify/1"]),
    *_HEAD,
    *_with(columns(Parity, level="claim_level"), {"scope": [_CODE], "warnings": _GROUND}),
    ("bench", Latency | None),
    ("env_b", Environment | None, None),
    *_TAIL,
)
BenchDocument: Any = _struct(
    "biasopt.bench",
    "What `biasopt bench --json` prints.",
    ("schema", Literal["biasopt.bench/1"]),
    *_HEAD,
    ("verdict", Verdict),
    ("outcome", str),
    _CODE,
    ("why", str),
    ("warnings", tuple[str, ...]),
    *_GROUND,
    ("bench", Latency),
    *_TAIL,
)
RewriteRow: Any = _struct("Rewrite", Rewrite.__doc__ or "", *columns(Rewrite))
FindingRow: Any = _struct("Finding", Finding.__doc__ or "", *columns(Finding))
FateRow: Any = _struct("Fate", Fate.__doc__ or "", *columns(Fate), ("ends", tuple[End, ...], ()))
FoldDocument: Any = _struct(
    "biasopt.fold",
    "What `biasopt fold --json` prints.",
    ("schema", Literal["biasopt.fold/1"]),
    ("version", str),
    ("tool", Tool | None, None),
    ("input", str | None),
    ("output", str | None),
    ("models", Models, msgspec.field(default_factory=Models)),
    ("counts", Totals),
    ("rewrites", tuple.__class_getitem__((RewriteRow, ...))),
    ("findings", tuple.__class_getitem__((FindingRow, ...))),
    ("reasons", dict[str, str], msgspec.field(default_factory=dict)),
    ("fates", tuple.__class_getitem__((FateRow, ...))),
    ("overridable_blocked", int, 0),
    ("overridable_names", int, 0),
    ("problem", str, ""),
    ("parity", Parity | None),
    ("bench", Latency | None, None),
    ("env", Environment | None, None),
    ("inputs", InputSet | None, None),
    ("certificate", str | None, None),
    ("repro", Repro, msgspec.field(default_factory=Repro)),
    _CODE,
    ("removal", dict[str, Any] | None, None),
    ("frozen", tuple[str, ...], ()),
    ("was_unsorted", bool, False),
    ("was_written_out", bool, False),
    ("stale_shapes", tuple[str, ...], ()),
    ("rejudged", Rejudged | None, None),
)
BiasRow: Any = _struct("BiasScore", BiasScore.__doc__ or "", *columns(BiasScore))
AblateDocument: Any = _struct(
    "biasopt.ablate",
    "What `biasopt ablate --json` prints.",
    ("schema", Literal["biasopt.ablate/1"]),
    *_HEAD,
    ("exit_code", Literal[0]),
    *_set_types(columns(AblateResult), biases=tuple.__class_getitem__((BiasRow, ...))),
    ("repro", Repro),
)
StudyDocument: Any = _struct(
    "biasopt.study",
    "What `biasopt study --json` prints.",
    ("schema", Literal["biasopt.study/1"]),
    *_HEAD,
    ("exit_code", Literal[0, 1]),
    *columns(StudyResult),
    ("repro", Repro),
)
DoctorDocument: Any = _struct(
    "biasopt.doctor",
    "What `biasopt doctor --json` prints.",
    ("schema", Literal["biasopt.doctor/1"]),
    *columns(Inventory),
    ("exit_code", Literal[0, 3]),
)
BatchDocument: Any = _struct(
    "biasopt.batch",
    "What `biasopt batch --json` prints.",
    ("schema", Literal["biasopt.batch/1"]),
    *_HEAD,
    *columns(BatchResult),
)
DOCUMENTS: dict[str, Any] = {  # that hold a verdict
    VERIFY_SCHEMA: VerifyDocument,
    BENCH_SCHEMA: BenchDocument,
    FOLD_SCHEMA: FoldDocument,
}
READABLE: dict[str, Any] = DOCUMENTS | {ABLATE_SCHEMA: AblateDocument, STUDY_SCHEMA: StudyDocument}
SCHEMAS: dict[str, Any] = READABLE | {
    DOCTOR_SCHEMA: DoctorDocument,
    BATCH_SCHEMA: BatchDocument,
}


def read(path: Path) -> dict[str, Any]:
    """The document in a file.

    Raises
    ------
    DataError
        The file cannot be read, or is no document of a known schema.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would wait, and a device never ends
            raise DataError(
                f"{path}: is not a regular file; give the report.json of fold, verify, bench, ablate or study"
            )
        if path.stat().st_size > MOST_BYTES:
            raise DataError(
                f"{path}: too large for a report; give the report.json of fold, verify, bench, ablate or study"
            )
        found = parse_json(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror})") from exc
    except ValueError as exc:
        raise DataError(f"{path}: not JSON; give the report.json of fold, verify, bench, ablate or study") from exc
    name = found.get("schema") if isinstance(found, dict) else None
    if name not in READABLE:
        raise DataError(f"{path}: {_describe_stranger(name)}; this version reads {', '.join(READABLE)}")
    try:
        check(found)
    except ValueError as exc:
        raise DataError(f"{path}: no whole {name}: {exc}; make it again") from None
    return dict(found)


def _describe_stranger(name: object) -> str:
    if not isinstance(name, str):
        return "no report of biasopt: it names no schema"
    return f"its schema is {name[:60]!r}" if name.startswith("biasopt.") else "no report of biasopt"


def check(document: Json) -> None:
    """Hold a document against its schema.

    Raises
    ------
    ValueError
        Something is missing or of another type; the message begins with its place.
    """
    convert(document, READABLE[document["schema"]])


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a document, such as ``biasopt.fold/1``: what is written, all of it."""
    found = msgspec.json.schema(SCHEMAS[name], schema_hook=_schema_of_special)
    parts: dict[str, Any] = found["$defs"]
    for kind in (Parity, Latency):
        for hidden in (field.name for field in fields(kind) if not json_name(field)):
            parts.get(kind.__name__, {"properties": {}})["properties"].pop(hidden, None)
    for record, part in parts.items():
        part.pop("required", None)
        if "properties" in part:
            part["required"] = [key for key in part["properties"] if key not in _NOT_ALWAYS.get(record, _SELDOM)]
    schema_file = name.removeprefix("biasopt.").partition("/")[0]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"docs/schema/{schema_file}.json"}
    whole: dict[str, Any] = _with_odd_numbers(found)
    return head | whole


# Fields that are there only where there is something to say: of a document, and of records.
_SELDOM = frozenset({"rejudged", "removal", "frozen", "was_unsorted", "was_written_out", "stale_shapes"})
_NOT_ALWAYS = {
    record.__name__: frozenset(field.name for field in fields(record) if "optional" in field.metadata)
    for record in (Block, EffectSummary)
}


def _with_odd_numbers(rule: Any) -> Any:
    """The same rule, by which a number that JSON lacks may be a string."""
    if isinstance(rule, list):
        return [_with_odd_numbers(item) for item in rule]
    if not isinstance(rule, dict):
        return rule
    if rule.get("type") == "number":
        rest = {key: value for key, value in rule.items() if key != "type"}
        return rest | {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
    return {key: _with_odd_numbers(value) for key, value in rule.items()}


def _schema_of_special(special: type) -> dict[str, Any]:
    if special is Warning:
        return {"type": "string"}
    raise NotImplementedError(special)


# ---- documents to records ------------------------------------------------------------------------------------------


def parity_of(document: Json) -> Parity | None:
    """The referee's verdict in a ``biasopt.verify/1`` or ``biasopt.fold/1``; None where there is none."""
    part = document.get("parity") if "counts" in document else document
    if part is None or "stages" not in part:
        return None
    level = part.get("level") or part.get("claim_level") or "D"
    models = _models(document)
    return replace(
        convert({**part, "level": level, "blame": part.get("blame") or ""}, Parity),
        a=models.a,
        b=models.b,
        environment=_part(document, "env", Environment),
        environment_b=_part(document, "env_b", Environment),
        inputs=_part(document, "inputs", InputSet),
        failing_inputs=(document.get("repro") or {}).get("failing_inputs") or "",
    )


def latency_of(document: Json) -> Latency | None:
    """The latency in a document of any kind; None where none was measured."""
    found = _part(document, "bench", Latency)
    if found is None:
        return None
    models = _models(document)
    return replace(
        _with_numbers(found),
        environment=_part(document, "env", Environment),
        model_a=models.a,
        model_b=models.b,
        inputs=_part(document, "inputs", InputSet),
    )


def _with_numbers(latency: Latency) -> Latency:
    beside = None if latency.unoptimised is None else _with_numbers(latency.unoptimised)
    return replace(
        latency, aa={key: wording.read_number(value) for key, value in latency.aa.items()}, unoptimised=beside
    )


def _models(document: Json) -> Models:
    return convert(document.get("models") or {}, Models)


def _part(document: Json, name: str, record: type[Value]) -> Value | None:
    part = document.get(name)
    return None if part is None else convert(part, record)


def fold_of(document: Json) -> FoldResult:
    """The fold that a ``biasopt.fold/1`` tells of."""
    given: Json = (document.get("models") or {}).get("a") or {}
    rows = convert(document, FoldDocument)
    return FoldResult(
        path=_path(rows.input),
        size_bytes=given.get("size_bytes", 0),
        opset=given.get("opset", 0),
        rewrites=tuple(_record(Rewrite, row) for row in rows.rewrites),
        findings=tuple(_finding(row) for row in rows.findings),
        before=rows.counts.before,
        after=rows.counts.after,
        frozen=rows.frozen,
        was_unsorted=rows.was_unsorted,
        was_written_out=rows.was_written_out,
        stale_shapes=rows.stale_shapes,
        overridable_blocked=rows.overridable_blocked,
        overridable_names=rows.overridable_names,
        problem=rows.problem,
        fates=tuple(_record(Fate, row, path=tuple(map(_hop, row.ends))) for row in rows.fates),
        output=_path(rows.output),
        parity=parity_of(document),
        latency=latency_of(document),
        certificate=_path(rows.certificate),
        exit_code=rows.exit_code,
    )


def ablate_of(document: Json) -> AblateResult:
    """The scores that a ``biasopt.ablate/1`` tells of."""
    biases = [{**bias, "kind": bias["class"]} for bias in document["biases"]]
    return convert({**document, "biases": biases}, AblateResult)


def study_of(document: Json) -> StudyResult:
    """The study that a ``biasopt.study/1`` tells of; of an earlier one, without the blocks that held other things."""
    results = {
        block: found
        for block, found in _read_numbers(document["results"]).items()
        if block not in _STUDY_BLOCKS or _STUDY_BLOCKS[block] in found
    }
    return replace(convert(document, StudyResult), results=results)


# Blocks of a study that hold something else than before, and by what that is seen.
_STUDY_BLOCKS = {"depth": "nets", "capacity": "needed", "recall": "lags", "rates": "tested", "widths": "small"}


def _read_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _read_numbers(item) for key, item in value.items()}
    return [_read_numbers(item) for item in value] if isinstance(value, list) else wording.read_number(value)


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


def _record(record: type[Value], row: Any, **more: Any) -> Value:
    """The record that a row of a document tells of."""
    hints = get_type_hints(record)
    values: dict[str, Any] = {}
    for field in fields(record):  # type: ignore[arg-type]
        name = json_name(field)
        if name:
            values[field.name] = _record(hints[field.name], row) if name == "*" else getattr(row, name)
    return record(**values | more)


def _finding(row: Any) -> Finding:
    pass_name, _at, node = row.id.partition("@")
    return _record(Finding, row, pass_name=pass_name, node=node)


# Documents hold the sentence, not its tag; those of before say that it "feels" the shift.
_NONLINEAR = {"it is not linear, so it depends on the shift", "it is not linear, so it feels the shift"}


def _hop(end: End) -> Step:
    kind = EffectKind.NONLINEAR if end.how in _NONLINEAR else EffectKind.PLAIN
    return Step(end.node, end.op, end.verb, end.how, kind)
