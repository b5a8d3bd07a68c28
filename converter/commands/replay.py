"""Replay a certificate on the original model, and rebuild the folded model from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from converter._version import __version__
from converter.commands.targets import Target, check_data_place, check_targets, list_data_files
from converter.records.option import documented, merged
from converter.records.options import ReplayOptions
from converter.records.results import ReplayResult
from converter.referee import certificate as engine
from converter.referee.proto.source import LoadedModel
from converter.referee.proto.structural_hash import hash_file
from converter.report import terminal
from converter.report.save import show


@documented(ReplayOptions)
def replay_certificate(
    original: str | Path,
    certificate: str | Path,
    out: str | Path | None = None,
    options: ReplayOptions | None = None,
    **keywords: Any,
) -> ReplayResult:
    """Check a certificate against the original that it names, step by step; write the folded model it leads to.

    Parameters
    ----------
    original, certificate : path
    out : path, optional
        Where to write the rebuilt model; only checked without it. Whole or absent, and absent where a claim fails.
    options : ReplayOptions, optional
        Or as keywords.
    {options}

    Returns
    -------
    ReplayResult

    Raises
    ------
    ModelError, DataError
        The original or the certificate cannot be read, or the output cannot be written.
    """
    asked = merged(ReplayOptions, options, keywords)
    source_path, said_path = Path(original), Path(certificate)
    document = engine.read_certificate(said_path)
    source = LoadedModel.open(source_path, None if asked.data_dir is None else Path(asked.data_dir))
    target = None if out is None else Path(out)
    if target is not None:
        read = [source_path, said_path, *list_data_files(source_path)]
        check_targets([Target(target, replaces=asked.force)], read)
    found = engine.check_certificate(source, document, asked.progress)
    same = None
    if found.holds and target is not None and found.write is not None:
        found.write(target, replaces=asked.force)
        same = hash_file(target) == document["output"].get("sha256")
    return ReplayResult(
        str(source_path),
        str(said_path),
        found.n_steps,
        found.done,
        found.recomputed,
        found.open_steps,
        found.where,
        found.failure,
        found.digest,
        target if found.holds else None,
        same,
    )


def run(
    original: Path,
    certificate: Path,
    output: Path | None,
    *,
    statement: Path | None,
    evidence: Path | None,
    as_json: bool,
    verbose: bool,
    **given: Any,
) -> int:
    """The command: check, print, and return the exit code."""
    from converter.commands.output import check_unchanged, identify
    from converter.integrations.attestation import read_evidence, write_statement
    from converter.report import documents
    from converter.report.content.replay import replay_report

    if evidence is not None and statement is None:
        raise click.UsageError("--evidence goes with --statement.")
    proof = None
    if statement is not None:
        read = [path for path in (original, certificate, evidence) if path is not None]
        written = [] if output is None else [Target(output, replaces=given["force"])]
        check_targets([*written, Target(statement, "statement", given["force"])], [*read, *list_data_files(original)])
        if output is not None:
            check_data_place(output, [statement])
        proof = None if evidence is None else read_evidence(evidence, engine.read_certificate(certificate))
    known = identify([original, certificate])
    with terminal.progress() as progress:
        result = replay_certificate(original, certificate, output, progress=progress, **given)
    if statement is not None and not result.why:
        check_unchanged(known, "replayed")
        write_statement(result, statement, proof, force=given["force"])
    show(
        lambda: documents.replay_document(result, __version__),
        lambda: replay_report(result, None if result.why else statement),
        as_json=as_json,
        verbose=verbose,
    )
    return result.exit_code
