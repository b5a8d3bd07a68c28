"""The documents: one JSON object per run, from which every other report is made.

``biasopt.verify/1``, ``biasopt.bench/1`` and, in `converter.report.to_json`, ``biasopt.fold/1``. They share the
parts below; docs/report-schema.md describes them, ``schema/*.json`` beside this file are their schemas.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from converter.records import (
    Block,
    Environment,
    InputSet,
    Latency,
    ModelFacts,
    OutputCheck,
    Parity,
    Stage,
    Timing,
    Verdict,
)

VERIFY_SCHEMA = "biasopt.verify/1"
BENCH_SCHEMA = "biasopt.bench/1"

_CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 4, Verdict.SKIPPED: 0}


def verify_document(
    parity: Parity,
    *,
    argv: Sequence[str],
    version: str,
    exit_code: int | None = None,
    bench: Latency | None = None,
) -> dict[str, Any]:
    """What ``verify --json`` prints.

    Parameters
    ----------
    argv : sequence of str
        What stood on the command line after the program's name.
    version : str
        Of biasopt.
    exit_code : int, optional
        With which the command ends; by default as the verdict says.
    bench : Latency, optional
        The latency of the same pair, where that was measured too.
    """
    return {
        "schema": VERIFY_SCHEMA,
        "tool": tool(argv, version),
        "verdict": parity.verdict.value,
        "claim_level": parity.level,
        "scope": parity.scope,
        "exit_code": code(parity.verdict) if exit_code is None else exit_code,
        "why": parity.why,
        "warnings": list(parity.warnings),
        "models": models(parity.a, parity.b),
        "env": environment(parity.environment),
        "inputs": inputs(parity.inputs),
        "stages": [stage_json(stage) for stage in parity.stages],
        "blame": parity.blame,
        "bench": None if bench is None else latency_json(bench),
        "repro": repro(argv, parity.failing_inputs),
    }


def bench_document(
    latency: Latency, *, argv: Sequence[str], version: str, exit_code: int | None = None
) -> dict[str, Any]:
    """What ``bench --json`` prints; parameters as in `verify_document`."""
    return {
        "schema": BENCH_SCHEMA,
        "tool": tool(argv, version),
        "verdict": latency.verdict.value,
        "outcome": latency.outcome,
        "exit_code": code(latency.verdict) if exit_code is None else exit_code,
        "why": latency.why,
        "warnings": list(latency.warnings),
        "models": models(latency.model_a, latency.model_b),
        "env": environment(latency.environment),
        "inputs": inputs(latency.inputs),
        "bench": latency_json(latency),
        "repro": repro(argv),
    }


def code(verdict: Verdict, on_inconclusive: str = "fail") -> int:
    """The exit code that a verdict stands for; what is open is 0 where it is to ``pass``."""
    return 0 if verdict is Verdict.INCONCLUSIVE and on_inconclusive == "pass" else _CODES[verdict]


def tool(argv: Sequence[str], version: str) -> dict[str, Any]:
    """What made the document."""
    return {"name": "biasopt", "version": version, "argv": list(argv)}


def repro(argv: Sequence[str], failing_inputs: str = "") -> dict[str, Any]:
    """How to see it again."""
    return {"cmd": shlex.join(["biasopt", *argv]) if argv else None, "failing_inputs": failing_inputs or None}


def models(a: ModelFacts | None, b: ModelFacts | None) -> dict[str, Any]:
    """The two models; null for one of which nothing is known."""
    return {"a": None if a is None else facts(a), "b": None if b is None else facts(b)}


def facts(model: ModelFacts) -> dict[str, Any]:
    """One model as it came."""
    return {
        "path": model.path or None,
        "sha256": model.sha256,
        "size_bytes": model.size_bytes,
        "ir_version": model.ir_version,
        "opset": model.opset,
        "nodes": dict(model.nodes),
    }


def environment(env: Environment | None) -> dict[str, Any] | None:
    """With what, and where, the models ran."""
    if env is None:
        return None
    return {
        "versions": dict(env.versions),
        "ort_dists": list(env.ort_dists),
        "machine": dict(env.machine),
        "provider_requested": env.provider_requested,
        "providers_active": list(env.providers_active),
        "provider_options": dict(env.provider_options),
        "nodes_by_ep": dict(env.nodes_by_ep),
        "gpu": dict(env.gpu),
    }


def inputs(given: InputSet | None) -> dict[str, Any] | None:
    """What the models were run on."""
    if given is None:
        return None
    return {
        "kind": given.kind,
        "n": given.n,
        "seed": given.seed,
        "sha256": given.sha256,
        "shapes": {name: list(shape) for name, shape in given.shapes.items()},
        "real": given.real,
        "labelled": given.labelled,
        "source": given.source,
    }


def parity_json(parity: Parity) -> dict[str, Any]:
    """The referee's verdict as a part of another document."""
    return {
        "verdict": parity.verdict.value,
        "level": parity.level,
        "scope": parity.scope,
        "why": parity.why,
        "warnings": list(parity.warnings),
        "stages": [stage_json(stage) for stage in parity.stages],
        "blame": parity.blame,
    }


def stage_json(stage: Stage) -> dict[str, Any]:
    """One stage of the referee."""
    return {
        "id": stage.id,
        "status": stage.status.value,
        "why": stage.why,
        "outputs": [_check(check) for check in stage.outputs],
        "detail": dict(stage.detail),
        "seconds": stage.seconds,
    }


def _check(check: OutputCheck) -> dict[str, Any]:
    return {
        "name": check.name,
        "status": check.status.value,
        "score": check.score,
        "limit": check.limit,
        "max_abs": check.max_abs,
        "why": check.why,
        "detail": dict(check.detail),
    }


def latency_json(latency: Latency) -> dict[str, Any]:
    """The latency of a pair as a part of a document."""
    return {
        "verdict": latency.verdict.value,
        "outcome": latency.outcome,
        "ratio": latency.ratio,
        "low": latency.low,
        "high": latency.high,
        "margin": latency.margin,
        "gate": latency.gate,
        "why": latency.why,
        "a": _timing(latency.a),
        "b": _timing(latency.b),
        "blocks": [_block(block) for block in latency.blocks],
        "aa": dict(latency.aa),
        "design": dict(latency.design),
        "warnings": list(latency.warnings),
        "unoptimised": None if latency.unoptimised is None else latency_json(latency.unoptimised),
    }


def _timing(timing: Timing) -> dict[str, Any]:
    return dataclasses.asdict(timing)


def _block(block: Block) -> dict[str, Any]:
    detail: Mapping[str, Any] = block.detail
    return {"session": block.session, "log_ratio": block.log_ratio, "a_ms": block.a_ms, "b_ms": block.b_ms, **detail}
