"""What each command found as a document (JSON); and a stored document of any kind as a report again.

``biasopt.fold/1``, ``biasopt.verify/1`` and ``biasopt.bench/1`` share their parts, and `converter.report.serialize`
reads them again; docs/report-schema.md describes them. ``biasopt.inspect/1`` holds the same findings as a fold.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.records import Fate, Latency, ModelFacts, Parity, Step, Verb, exit_code_of
from converter.records.ablate import AblateResult
from converter.records.lint import CODES, LintReport
from converter.records.results import BatchResult, ExportResult, FoldResult, InspectResult, Inventory, ReplayResult
from converter.records.study import StudyResult
from converter.report.blocks import Report
from converter.report.content import Run
from converter.report.content.bias_path import describe_step, explain
from converter.report.serialize import (
    ABLATE_SCHEMA,
    BATCH_SCHEMA,
    BENCH_SCHEMA,
    DOCTOR_SCHEMA,
    FOLD_SCHEMA,
    STUDY_SCHEMA,
    VERIFY_SCHEMA,
    BenchDocument,
    Json,
    VerifyDocument,
    ablate_of,
    encode,
    fold_of,
    latency_of,
    parity_of,
    study_of,
)

if TYPE_CHECKING:
    from converter.rewrite.passes import Pass

INSPECT_SCHEMA, EXPLAIN_SCHEMA, PASSES_SCHEMA = "biasopt.inspect/1", "biasopt.explain/1", "biasopt.passes/1"
LINT_SCHEMA, EXPORT_SCHEMA, REPLAY_SCHEMA = "biasopt.lint/1", "biasopt.export/1", "biasopt.replay/1"


def tool(argv: Sequence[str], version: str) -> dict[str, Any]:
    """What made the document."""
    return {"name": "biasopt", "version": version, "argv": list(argv)}


def repro(argv: Sequence[str], failing_inputs: str = "") -> dict[str, Any]:
    """How to see it again."""
    return {"cmd": shlex.join(["biasopt", *argv]) if argv else None, "failing_inputs": failing_inputs or None}


def model_json(model: ModelFacts | None) -> dict[str, Any] | None:
    """One model as it came; null for one of which nothing is known."""
    return None if model is None else encode(model) | {"path": model.path or None}


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
    values = encode(parity) | {
        "schema": VERIFY_SCHEMA,
        "tool": tool(argv, version),
        "claim_level": parity.level,
        "exit_code": exit_code_of(parity.verdict) if exit_code is None else exit_code,
        "models": {"a": model_json(parity.a), "b": model_json(parity.b)},
        "env": encode(parity.environment),
        **({"env_b": encode(parity.environment_b)} if parity.environment_b else {}),
        "inputs": encode(parity.inputs),
        "bench": encode(bench),
        "repro": repro(argv, parity.failing_inputs),
    }
    return {name: values[name] for name in VerifyDocument.__struct_fields__ if name in values}


def bench_document(
    latency: Latency, *, argv: Sequence[str], version: str, exit_code: int | None = None
) -> dict[str, Any]:
    """What ``bench --json`` prints; parameters as in `verify_document`."""
    values = encode(latency) | {
        "schema": BENCH_SCHEMA,
        "tool": tool(argv, version),
        "exit_code": exit_code_of(latency.verdict) if exit_code is None else exit_code,
        "models": {"a": model_json(latency.model_a), "b": model_json(latency.model_b)},
        "env": encode(latency.environment),
        "inputs": encode(latency.inputs),
        "bench": encode(latency),
        "repro": repro(argv),
    }
    return {name: values[name] for name in BenchDocument.__struct_fields__ if name in values}


def batch_document(found: BatchResult, *, argv: Sequence[str], version: str) -> dict[str, Any]:
    """What ``batch --json`` prints."""
    return {"schema": BATCH_SCHEMA, "tool": tool(argv, version), **encode(found)}


def doctor_document(found: Inventory) -> dict[str, Any]:
    """What ``doctor --json`` prints."""
    return {"schema": DOCTOR_SCHEMA, **encode(found), "exit_code": 0 if found.works else 3}


def fold_document(
    result: FoldResult,
    version: str,
    *,
    argv: Sequence[str] = (),
    said: Mapping[str, str] | None = None,
    bench: Latency | None = None,
    certificate: Path | None = None,
    removal: Json | None = None,
) -> dict[str, Any]:
    """What ``fold --json`` prints.

    ``argv`` is what stood on the command line, ``said`` what codes mean in general, ``bench`` the latency of
    the original and the folded model, ``certificate`` the file that holds the certificate, ``removal`` what went
    by data, in words under ``said``.
    """
    parity = result.parity
    codes = {finding.code for finding in result.findings if finding.code}
    ran_on = parity.environment if parity is not None else bench.environment if bench else None
    document = {
        "schema": FOLD_SCHEMA,
        "version": version,
        "tool": tool(argv, version),
        "input": encode(result.path),
        "output": encode(result.output),
        "models": {"a": _original(result), "b": None if parity is None else model_json(parity.b)},
        "counts": {"before": encode(result.before), "after": encode(result.after)},
        "rewrites": encode(result.rewrites),
        "findings": encode(result.findings),
        "reasons": {code: why for code, why in (said or {}).items() if code in codes},
        "fates": [encode(fate) | {"ends": _ends(fate)} for fate in result.fates],
        "overridable_blocked": result.overridable_blocked,
        "overridable_names": result.overridable_names,
        "problem": result.problem,
        "parity": encode(parity),
        "bench": encode(bench),
        "env": encode(ran_on),
        "inputs": None if parity is None else encode(parity.inputs),
        "certificate": encode(certificate),
        "repro": repro(argv, "" if parity is None else parity.failing_inputs),
        "exit_code": result.exit_code,
    }
    document |= {"removal": dict(removal)} if removal is not None else {}
    document |= {"was_unsorted": True} if result.was_unsorted else {}
    document |= {"was_written_out": True} if result.was_written_out else {}
    document |= {"stale_shapes": list(result.stale_shapes)} if result.stale_shapes else {}
    # the one change to a model's interface that can be asked for; there only when it was made
    return document | ({"frozen": list(result.frozen)} if result.frozen else {})


def _original(result: FoldResult) -> dict[str, Any]:
    """What is known of the model that came in, also where no referee looked at it."""
    known = model_json(result.parity.a if result.parity is not None else None) or {}
    return known | {"path": encode(result.path), "size_bytes": result.size_bytes, "opset": result.opset}


def _ends(fate: Fate) -> list[dict[str, Any]]:
    """Where the paths of a bias end, and last its very last node, which says what keeps it."""
    ends = [hop for hop in fate.path[:-1] if hop.verb is not Verb.PROPAGATES] + list(fate.path[-1:])
    return [{"node": hop.node, "op": hop.op, "verb": hop.verb.value, "how": hop.how} for hop in ends]


def inspect_document(result: InspectResult, version: str, exit_code: int) -> dict[str, Any]:
    """What ``inspect --json`` prints: the same findings as in ``biasopt.fold/1``."""
    return {
        "schema": INSPECT_SCHEMA,
        "version": version,
        "input": encode(result.path),
        "counts": {"before": encode(result.before), "after": encode(result.after)},
        "findings": encode(result.findings),
        "fates": encode(result.fates),
        "gates": encode(result.gates),
        "ir_version": result.ir_version,
        "opset": result.opset,
        "producer": result.producer,
        "inputs": encode(result.inputs),
        "outputs": encode(result.outputs),
        "operators": result.operators,
        "overridable_blocked": result.overridable_blocked,
        "exit_code": exit_code,
    }


def explain_document(fate: Fate, model: Path | None, version: str) -> dict[str, Any]:
    """What ``inspect --explain --json`` prints."""
    head, why = explain(fate)
    path = zip(fate.path, path_json(fate.path), strict=True)
    return {
        "schema": EXPLAIN_SCHEMA,
        "version": version,
        "input": encode(model),
        **encode(fate),
        "verdict": f"{head}: {why}",
        "path": [row | {"says": describe_step(step)} for step, row in path],
        "exit_code": 0,
    }


def path_json(path: Iterable[Step]) -> list[dict[str, Any]]:
    """The nodes that a bias's shift meets, each with those that hand it the shift."""
    return [
        {
            "node": hop.node,
            "op": hop.op,
            "verb": hop.verb.value,
            "how": hop.how,
            "from": list(hop.sources),
            "part": hop.part,
        }
        for hop in path
    ]


def passes_document(chosen: Iterable[Pass], passes: Sequence[Pass], version: str) -> dict[str, Any]:
    """What ``passes --json`` prints: the ``chosen`` of all ``passes``."""
    order = {row.name: place for place, row in enumerate(passes, 1)}
    rows = [
        {
            "name": row.name,
            "summary": row.summary,
            "safety": row.safety.value,
            "order": order[row.name],
            "after": list(row.after),
            "guards": [{"code": guard.code, "why": guard.why} for guard in row.guards],
            "docstring": row.page,
        }
        for row in chosen
    ]
    return {"schema": PASSES_SCHEMA, "version": version, "passes": rows}


def lint_document(report: LintReport, version: str, *, argv: Sequence[str] = (), exit_code: int = 0) -> dict[str, Any]:
    """What ``lint --json`` prints. A finding's ``code`` is public API."""
    used = {finding.code for finding in report.findings} | {item.code for item in report.unconfirmed}
    return {
        "schema": LINT_SCHEMA,
        "tool": tool(argv, version),
        "spec": report.label,
        "tracer": report.tracer,
        "counts": {
            "parameters": report.n_parameters,
            "biases": report.n_biases,
            "bias_parameters": report.n_bias_parameters,
            "dead": report.n_dead,
            "redundant": report.n_redundant,
        },
        "findings": encode(report.findings),
        "unconfirmed": encode(report.unconfirmed),
        "codes": {code.name: code.summary for code in CODES if code.name in used},
        "notes": list(report.notes),
        "exit_code": exit_code,
        "repro": repro(argv),
    }


def export_document(
    result: ExportResult, version: str, *, argv: Sequence[str] = (), said: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What ``export --json`` prints; parameters as in `fold_document`."""
    came = result.provenance
    return {
        "schema": EXPORT_SCHEMA,
        "tool": tool(argv, version),
        "spec": result.spec,
        "output": encode(result.output),
        "exporter": result.exporter,
        "opset": result.opset,
        "torch": came.torch,
        "weights_sha256": came.weights_sha256 or None,
        "random_weights": came.random_weights,
        "inputs": encode(result.inputs),
        "outputs": encode(result.outputs),
        "counts": encode(result.counts),
        "size_bytes": result.size_bytes,
        "notes": list(result.notes),
        "parity": encode(result.parity),
        "fold": None if result.fold is None else fold_document(result.fold, version, said=said),
        "repro": repro(argv),
        "exit_code": result.exit_code,
    }


def ablate_document(result: AblateResult, version: str, *, argv: Sequence[str] = ()) -> dict[str, Any]:
    """What ``ablate --json`` prints."""
    return {
        "schema": ABLATE_SCHEMA,
        "tool": tool(argv, version),
        "exit_code": 0,
        **encode(result),
        "model": model_json(result.model),
        "repro": repro(argv),
    }


def study_document(result: StudyResult, version: str, *, argv: Sequence[str] = ()) -> dict[str, Any]:
    """What ``study --json`` prints."""
    return {
        "schema": STUDY_SCHEMA,
        "tool": tool(argv, version),
        "exit_code": result.exit_code,
        **encode(result),
        "repro": repro(argv),
    }


def replay_document(result: ReplayResult, version: str) -> dict[str, Any]:
    """What ``replay --json`` prints."""
    return {
        "schema": REPLAY_SCHEMA,
        "version": version,
        "original": result.original,
        "certificate": result.certificate,
        "holds": not result.why,
        "steps": result.steps,
        "replayed": result.replayed,
        "recomputed": result.recomputed,
        "open": [{"id": name, "why": why} for name, why in result.open_steps],
        "failure": {"where": result.where, "why": result.why} if result.why else None,
        "digest": result.digest or None,
        "output": encode(result.output),
        "same_bytes": result.same_bytes,
        "exit_code": result.exit_code,
    }


def report_of(document: Mapping[str, Any]) -> Report:
    """The report of a document, by what it holds."""
    run = run_of(document)
    if document["schema"].startswith("biasopt.ablate/"):
        from converter.report.content.ablate import ablate_report  # with the limits of its classes, and what they need

        return ablate_report(ablate_of(document), run)
    if document["schema"].startswith("biasopt.study/"):
        from converter.report.content.study import study_report

        return study_report(study_of(document), run)
    parity, latency = parity_of(document), latency_of(document)
    if "counts" in document:
        from converter.report.content.fold import fold_report

        removal = (document.get("removal") or {}).get("said", ())
        return fold_report(fold_of(document), document.get("reasons", {}), run, removal)
    if parity is not None:
        from converter.report.content.verify import verify_report

        return verify_report(parity, run, latency)
    assert latency is not None  # a document that was read has one of the three
    from converter.report.content.bench import bench_report

    return bench_report(latency, run)


def run_of(document: Mapping[str, Any]) -> Run:
    """What a document says of the run."""
    tool, repro = document.get("tool") or {}, document.get("repro") or {}
    version = tool.get("version") or document.get("version", "")
    return Run(version, document["schema"], repro.get("cmd") or "", document["exit_code"])
