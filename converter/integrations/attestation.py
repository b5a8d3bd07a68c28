"""An in-toto statement of a fold: certificate and verdict on the model's digest, to be signed by `cosign` or GitHub.

``biasopt replay ORIGINAL CERT --statement S.json`` writes it once every claim of the certificate holds. The type of the
predicate is ours and has a version; docs/attestation.md describes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.errors import DataError
from converter.records.results import ReplayResult
from converter.report.save import write_whole

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:biasopt:equivalence:v1"


def build_statement(
    result: ReplayResult, certificate: Mapping[str, Any], content: bytes, evidence: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The statement that the model of the certificate says what the original says.

    Parameters
    ----------
    result : of a replay that holds
    certificate : its document, ``content`` the bytes of its file
    evidence : a report of `fold` or `verify` on the same two models, optional

    Raises
    ------
    DataError
        A claim does not hold, or the evidence is about other models.
    """
    if result.why:
        raise DataError(f"{result.certificate}: does not hold ({result.where}); nothing is stated of it")
    original, folded = certificate["input"], certificate["output"]
    predicate: dict[str, Any] = {
        "tool": {"name": "biasopt", "version": __version__},
        "original": {"name": Path(result.original).name, "sha256": original["sha256"], "digest": original["digest"]},
        "model": {"sha256": folded["sha256"], "digest": result.digest},
        "certificate": {"sha256": hashlib.sha256(content).hexdigest(), "seal": certificate["seal"]},
        "replay": {
            "steps": result.steps,
            "replayed": result.replayed,
            "recomputed": result.recomputed,
            "open": [{"id": name, "why": why} for name, why in result.open_steps],
        },
        "verdict": None if evidence is None else _read_verdict(evidence, original["sha256"], folded["sha256"]),
    }
    name = (
        Path(evidence["models"]["b"]["path"]).name if evidence and evidence["models"]["b"].get("path") else "model.onnx"
    )
    subject = {
        "name": result.output.name if result.output is not None else name,
        "digest": {"sha256": folded["sha256"]},
    }
    return {"_type": STATEMENT, "subject": [subject], "predicateType": PREDICATE, "predicate": predicate}


def _read_verdict(evidence: Mapping[str, Any], original: str | None, folded: str | None) -> dict[str, Any]:
    models = evidence.get("models") or {}
    seen = [(models.get(side) or {}).get("sha256") for side in ("a", "b")]
    if seen != [original, folded]:
        raise DataError("the report is about other models than the certificate; give that of the same fold")
    parity = evidence.get("parity") or evidence
    return {
        "verdict": parity["verdict"],
        "level": parity.get("level") or evidence.get("claim_level"),
        "why": parity.get("why", ""),
        "stages": {stage["id"]: stage["status"] for stage in parity.get("stages") or ()},
        "inputs": evidence.get("inputs"),
    }


def read_evidence(path: Path, certificate: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a fold, found to be about the models of its certificate, before anything is written.

    Raises
    ------
    DataError
        It is none, or about other models.
    """
    from converter.report.serialize import read

    document = read(path)
    models = [certificate.get(side) for side in ("input", "output")]
    original, folded = (model.get("sha256") if isinstance(model, dict) else None for model in models)
    _read_verdict(document, original, folded)
    return document


def write_statement(result: ReplayResult, target: Path, evidence: Mapping[str, Any] | None, *, force: bool) -> None:
    """Write the statement of a replay.

    Raises
    ------
    DataError
        The report is about other models; the file cannot be written.
    """
    content = Path(result.certificate).read_bytes()
    statement = build_statement(result, json.loads(content), content, evidence)
    try:
        write_whole(target, json.dumps(statement, indent=1, allow_nan=False) + "\n", force=force)
    except OSError as exc:
        raise DataError(f"{target}: cannot be written ({exc.strerror}); give another, or --force") from exc
