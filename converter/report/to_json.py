"""Reports for programs: numbered schemas, strict JSON.

``biasopt.fold/1`` and ``biasopt.inspect/1`` hold the same findings. A field may be added within a
version; one that changes its meaning or goes away makes a new version. JSON has no NaN and no infinity,
so these are the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.records import Counts, Fate, Finding, Latency, Rewrite, Step, Verb
from converter.report.content.bias_path import describe_step, explain
from converter.report.document import environment, facts, inputs, latency_json, parity_json, repro, tool
from converter.report.result import Folded, Inspected, PassLike

FOLD_SCHEMA = "biasopt.fold/1"
INSPECT_SCHEMA = "biasopt.inspect/1"
PASSES_SCHEMA = "biasopt.passes/1"
EXPLAIN_SCHEMA = "biasopt.explain/1"


def fold_json(
    result: Folded,
    version: str,
    *,
    argv: Sequence[str] = (),
    said: Mapping[str, str] | None = None,
    bench: Latency | None = None,
    certificate: Path | None = None,
    removal: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What ``fold --json`` prints.

    ``argv`` is what stood on the command line, ``said`` what codes mean in general, ``bench`` the latency of
    the original and the folded model, ``certificate`` the file that holds the certificate, ``removal`` what went
    by data, in words under ``said``.
    """
    parity = result.parity
    codes = {finding.code for finding in result.findings if finding.code}
    document = {
        "schema": FOLD_SCHEMA,
        "version": version,
        "tool": tool(argv, version),
        "input": _path(result.path),
        "output": _path(result.output),
        "models": {"a": _given(result), "b": None if parity is None or parity.b is None else facts(parity.b)},
        "counts": {"before": _counts(result.before), "after": _counts(result.after)},
        "rewrites": [_rewrite(rewrite) for rewrite in result.rewrites],
        "findings": [_finding(finding) for finding in result.findings],
        "reasons": {code: why for code, why in (said or {}).items() if code in codes},
        "fates": [fate_json(fate) | {"ends": _ends(fate)} for fate in result.fates],
        "overridable_blocked": result.overridable_blocked,
        "overridable_names": result.overridable_names,
        "problem": result.problem,
        "parity": None if parity is None else parity_json(parity),
        "bench": None if bench is None else latency_json(bench),
        "env": environment(parity.environment if parity is not None else bench.environment if bench else None),
        "inputs": inputs(None if parity is None else parity.inputs),
        "certificate": _path(certificate),
        "repro": repro(argv, "" if parity is None else parity.failing_inputs),
        "exit_code": result.exit_code,
    }
    document |= {"removal": dict(removal)} if removal is not None else {}
    # the one change to a model's interface that can be asked for; there only when it was made
    return document | ({"frozen": list(result.frozen)} if result.frozen else {})


def _given(result: Folded) -> dict[str, Any]:
    """What is known of the model that came in, also where no referee looked at it."""
    known = result.parity.a if result.parity is not None else None
    shown = {"path": _path(result.path), "size_bytes": result.size_bytes, "opset": result.opset}
    return shown if known is None else facts(known) | shown


def _ends(fate: Fate) -> list[dict[str, Any]]:
    """Where the ways of a bias end, and last its very last node, which says what keeps it."""
    ends = [hop for hop in fate.path[:-1] if hop.verb is not Verb.PROPAGATES] + list(fate.path[-1:])
    return [{"node": hop.node, "op": hop.op, "verb": hop.verb, "how": hop.how} for hop in ends]


def inspect_json(result: Inspected, version: str, exit_code: int) -> dict[str, Any]:
    """What ``inspect --json`` prints."""
    return {
        "schema": INSPECT_SCHEMA,
        "version": version,
        "input": _path(result.path),
        "counts": {"before": _counts(result.before), "after": _counts(result.after)},
        "findings": [_finding(finding) for finding in result.findings],
        "fates": [fate_json(fate) for fate in result.fates],
        "gates": [dataclasses.asdict(gate) for gate in result.gates],
        "overridable_blocked": result.overridable_blocked,
        "exit_code": exit_code,
    }


def passes_json(chosen: Iterable[PassLike], passes: Sequence[PassLike], version: str) -> dict[str, Any]:
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


def dumps(document: Mapping[str, Any]) -> str:
    """Strict JSON in ASCII, so that any terminal and any reader take it."""
    return json.dumps(_strict(document), indent=2, allow_nan=False) + "\n"


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _counts(counts: Counts) -> dict[str, int]:
    return {
        "nodes": counts.nodes,
        "batch_norms": counts.batch_norms,
        "biases": counts.biases,
        "parameter_bytes": counts.parameter_bytes,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {"id": finding.id, "status": finding.status.value, "code": finding.code, "why": finding.why}


def fate_json(fate: Fate) -> dict[str, Any]:
    """What became of one bias."""
    return {
        "node": fate.node,
        "op": fate.op,
        "fate": fate.kind.value,
        "elements": fate.elements,
        "removed": fate.removed,
        "where": fate.where,
        "code": fate.code,
        "why": fate.why,
    }


def explain_json(fate: Fate, model: Path | None, version: str) -> dict[str, Any]:
    """What ``inspect --explain --json`` prints."""
    head, why = explain(fate)
    path = zip(fate.path, path_json(fate.path), strict=True)
    return {
        "schema": EXPLAIN_SCHEMA,
        "version": version,
        "input": _path(model),
        **fate_json(fate),
        "verdict": f"{head}: {why}",
        "path": [row | {"says": describe_step(hop)} for hop, row in path],
        "exit_code": 0,
    }


def path_json(path: Iterable[Step]) -> list[dict[str, Any]]:
    """The nodes that a bias's shift meets, each with those that hand it the shift."""
    return [
        {
            "node": hop.node,
            "op": hop.op,
            "verb": hop.verb,
            "how": hop.how,
            "from": list(hop.sources),
            "part": hop.part,
        }
        for hop in path
    ]


def _rewrite(rewrite: Rewrite) -> dict[str, Any]:
    delta = rewrite.delta
    return {
        "id": rewrite.id,
        "pass": rewrite.pass_name,
        "node": rewrite.node,
        "safety": rewrite.safety.value,
        "output": rewrite.output,
        "removed_nodes": list(delta.removed_nodes),
        "changed_nodes": list(delta.changed_nodes),
        "removed_tensors": list(delta.removed_tensors),
        "added_tensors": list(delta.added_tensors),
        "bytes_added": delta.bytes_added,
    }


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
