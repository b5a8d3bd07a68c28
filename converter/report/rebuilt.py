"""Documents in, records out: what every report but the JSON is made from, also long after the run.

Fields that a document lacks keep the default of the record, so that a report of a document says what is there
and is silent on what is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from converter.records import (
    Block,
    Counts,
    Delta,
    EffectKind,
    Environment,
    Fate,
    FateKind,
    Finding,
    Gate,
    InputSet,
    Latency,
    ModelFacts,
    OutputCheck,
    Parity,
    Rewrite,
    Safety,
    Stage,
    Status,
    Step,
    Timing,
    Verb,
    Verdict,
    Warning,
    WarningCode,
)

Json = Mapping[str, Any]
Record = TypeVar("Record")


@dataclass(frozen=True)
class FoldedAgain:
    """A fold, as its document tells of it: what `converter.report.result.Folded` asks for."""

    path: Path | None
    output: Path | None
    size_bytes: int
    opset: int
    before: Counts
    after: Counts
    rewrites: tuple[Rewrite, ...]
    findings: tuple[Finding, ...]
    fates: tuple[Fate, ...]
    parity: Parity | None
    exit_code: int
    frozen: tuple[str, ...] = ()
    overridable_blocked: int = 0
    overridable_names: int = 0
    problem: str = ""
    gates: tuple[Gate, ...] = ()
    latency: Latency | None = None
    certificate: Path | None = None


def fold_of(document: Json) -> FoldedAgain:
    """The fold that a ``biasopt.fold/1`` tells of."""
    given: Json = (document.get("models") or {}).get("a") or {}
    counts = document["counts"]
    return FoldedAgain(
        path=_path(document.get("input")),
        output=_path(document.get("output")),
        size_bytes=given.get("size_bytes", 0),
        opset=given.get("opset", 0),
        before=Counts(**_known(Counts, counts["before"])),
        after=Counts(**_known(Counts, counts["after"])),
        rewrites=tuple(map(_rewrite, document.get("rewrites", ()))),
        findings=tuple(map(_finding, document.get("findings", ()))),
        fates=tuple(map(_fate, document.get("fates", ()))),
        parity=parity_of(document),
        exit_code=document["exit_code"],
        frozen=tuple(document.get("frozen", ())),
        overridable_blocked=document.get("overridable_blocked", 0),
        overridable_names=document.get("overridable_names", 0),
        problem=document.get("problem", ""),
        latency=latency_of(document),
        certificate=_path(document.get("certificate")),
    )


def parity_of(document: Json) -> Parity | None:
    """The referee's verdict in a ``biasopt.verify/1`` or ``biasopt.fold/1``; None where there is none."""
    part = document.get("parity") if "counts" in document else document
    if part is None or "stages" not in part:
        return None
    models = document.get("models") or {}
    return Parity(
        Verdict(part["verdict"]),
        part.get("level") or part.get("claim_level") or "D",
        stages=tuple(map(stage_of, part["stages"])),
        warnings=tuple(Warning(WarningCode.UNKNOWN, text) for text in part.get("warnings", ())),
        scope=part.get("scope", "whole-model"),
        why=part.get("why", ""),
        a=_facts(models.get("a")),
        b=_facts(models.get("b")),
        environment=environment_of(document.get("env")),
        inputs=inputs_of(document.get("inputs")),
        failing_inputs=(document.get("repro") or {}).get("failing_inputs") or "",
        blame=part.get("blame") or "",
    )


def latency_of(document: Json) -> Latency | None:
    """The latency in a document of any kind; None where none was measured."""
    part = document.get("bench")
    if part is None:
        return None
    models = document.get("models") or {}
    return replace(
        _latency(part),
        environment=environment_of(document.get("env")),
        model_a=_facts(models.get("a")),
        model_b=_facts(models.get("b")),
        inputs=inputs_of(document.get("inputs")),
    )


def _latency(part: Json) -> Latency:
    beside = part.get("unoptimised")
    values = _known(Latency, numbers(part)) | {
        "verdict": Verdict(part["verdict"]),
        "a": Timing(**_known(Timing, numbers(part["a"]))),
        "b": Timing(**_known(Timing, numbers(part["b"]))),
        "blocks": tuple(map(_block, part.get("blocks", ()))),
        "aa": numbers(part.get("aa") or {}),
        "warnings": tuple(part.get("warnings", ())),
        "unoptimised": None if beside is None else _latency(beside),
    }
    return Latency(**{"why": ""} | values)


def stage_of(part: Json) -> Stage:
    """One stage."""
    outputs = tuple(map(_check, part.get("outputs", ())))
    detail, seconds = part.get("detail") or {}, part.get("seconds")
    return Stage(part["id"], Verdict(part["status"]), part.get("why", ""), outputs, dict(detail), seconds)


def environment_of(part: Json | None) -> Environment | None:
    """With what the models ran."""
    if part is None:
        return None
    return Environment(
        dict(part.get("versions", {})),
        tuple(part.get("ort_dists", ())),
        dict(part.get("machine", {})),
        part.get("provider_requested", "cpu"),
        tuple(part.get("providers_active", ())),
        dict(part.get("provider_options", {})),
        dict(part.get("nodes_by_ep", {})),
        dict(part.get("gpu", {})),
    )


def inputs_of(part: Json | None) -> InputSet | None:
    """What the models were run on."""
    if part is None:
        return None
    return InputSet(
        part.get("kind", ""),
        n=part.get("n", 0),
        sha256=part.get("sha256", ""),
        shapes={name: tuple(shape) for name, shape in part.get("shapes", {}).items()},
        seed=part.get("seed"),
        real=bool(part.get("real")),
        labelled=bool(part.get("labelled")),
        source=part.get("source", ""),
    )


def number(value: Any) -> Any:
    """A number that strict JSON lacks is a string there."""
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def numbers(part: Json, but: Iterable[str] = ()) -> dict[str, Any]:
    """The object with such strings as numbers; those in ``but`` stay as they are."""
    return {key: value if key in but or not isinstance(value, str) else number(value) for key, value in part.items()}


def _known(record: type[Record], part: Json) -> dict[str, Any]:
    names = {field.name for field in fields(record)}  # type: ignore[arg-type]
    return {key: value for key, value in part.items() if key in names}


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


def _facts(part: Json | None) -> ModelFacts | None:
    if part is None:
        return None
    known = {"path": part.get("path") or "", "sha256": part.get("sha256", ""), "nodes": dict(part.get("nodes") or {})}
    counted = {key: part.get(key, 0) for key in ("size_bytes", "ir_version", "opset")}
    return ModelFacts(**known, **counted)


def _check(part: Json) -> OutputCheck:
    values = _known(OutputCheck, numbers(part, but=("name", "why"))) | {"status": Verdict(part["status"])}
    return OutputCheck(**values)


def _block(part: Json) -> Block:
    values = _known(Block, numbers(part))
    return Block(**values | {"detail": {key: value for key, value in part.items() if key not in values}})


def _rewrite(part: Json) -> Rewrite:
    delta = {name: tuple(part.get(name, ())) for name in ("removed_nodes", "changed_nodes")}
    delta |= {name: tuple(part.get(name, ())) for name in ("removed_tensors", "added_tensors")}
    changed = Delta(**delta, bytes_added=part.get("bytes_added", 0))
    return Rewrite(part["id"], part["pass"], part["node"], Safety(part["safety"]), part.get("output", ""), changed)


def _finding(part: Json) -> Finding:
    name, _at, node = part["id"].partition("@")
    return Finding(part["id"], name, node, Status(part["status"]), part.get("code", ""), part.get("why", ""))


_NONLINEAR = "it is not linear, so it feels the shift"  # documents hold the sentence, not its tag


def _hop(end: Json) -> Step:
    how = end.get("how", "")
    kind = EffectKind.NONLINEAR if how == _NONLINEAR else EffectKind.PLAIN
    return Step(end["node"], end["op"], Verb(end["verb"]), how, kind)


def _fate(part: Json) -> Fate:
    path = tuple(_hop(end) for end in part.get("ends", ()))
    plain = {key: part[key] for key in ("node", "op", "elements", "removed", "where", "code", "why") if key in part}
    return Fate(kind=FateKind(part["fate"]), path=path, **plain)
