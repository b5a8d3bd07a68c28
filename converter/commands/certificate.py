"""The certificate of a fold: every rewrite as data, carried out again before the write; and `replay` by the user."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

import click

from converter import numerics
from converter._version import __version__
from converter.commands.targets import Target, check_data_place, check_targets, list_data_files
from converter.dataclass import dataclass
from converter.errors import InvariantViolation, ModelError
from converter.model.graph import Bypass, DropInput, Edit, Graph, Node, Rename, SetAttr, SetConst, SetInput, SetOp
from converter.model.graph.nodes import Const, Scope, StoredTensor
from converter.records import Rewrite, Weight
from converter.records.option import documented, merge_options
from converter.records.options import ReplayOptions
from converter.records.results import ReplayResult
from converter.referee import certificate as engine
from converter.referee.certificate import (
    SCHEMA,
    CertificateError,
    Replayer,
    build_model,
    compute_seal,
    describe_facts,
    encode_array,
    encode_integers,
)
from converter.referee.proto.source import LoadedModel
from converter.referee.proto.structural_hash import chain_hashes, hash_array, hash_file, hash_model
from converter.report import terminal
from converter.report.save import show, write_whole
from converter.rewrite.passes import Pass


@dataclass
class _Noted:
    """A step as it was seen: its record, and per new constant what to fill in once it has its name."""

    record: dict[str, Any]
    consts: list[tuple[dict[str, Any], Node, int]] = field(default_factory=list)
    renames: list[tuple[dict[str, Any], Any]] = field(default_factory=list)


class Recorder:
    """Watches a pipeline on one graph; made before the pipeline runs.

    Give it to `pipeline.run` as ``watch``, then to `build_certificate`.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.restart()

    def restart(self) -> None:
        """Begin again, with the graph as it was read."""
        graph = self.graph
        self.steps: list[dict[str, Any]] = []
        self._areas: dict[int, str] = {}
        self._paths: dict[int, str] = {}
        self._bases: dict[int, dict[str, Any]] = {}
        self._kept: list[Weight] = []  # so that no other weight takes over an identity
        self._spans: dict[tuple[int, int], dict[str, Any]] = {}
        functions = 0
        for scope in graph.scopes:
            if scope.kind == "function":
                self._walk(scope, f"functions/{functions}")
                functions += 1
            elif scope.parent is None:
                self._walk(scope, "")

    def _walk(self, scope: Scope, path: str) -> None:
        self._areas[id(scope)] = path
        for name, tensor in scope.values.items():
            if isinstance(tensor, Const) and isinstance(tensor.weight, StoredTensor):
                self._spans[tensor.weight.ref.span] = {"kind": "stored", "scope": path, "tensor": name}
        for k, node in enumerate(scope.nodes):
            here = self._paths[id(node)] = f"{path}/nodes/{k}".lstrip("/")
            stored = self.graph.constant_weight(node) if node.is_op("Constant") else None
            if stored is not None:
                self._spans[stored.ref.span] = {"kind": "node", "node": here}
            for n, body in enumerate(node.bodies):
                self._walk(body.scope, f"{here}/bodies/{n}")

    def __call__(self, p: Pass, edits: list[Edit]) -> Callable[[Rewrite], None]:
        """Note a rewrite before it is applied."""
        noted = _Noted({"guards": [g.code for g in p.guards], "version": p.version})
        noted.record["edits"] = [self._describe_edit(e, noted) for e in edits]

        def done(rewrite: Rewrite) -> None:
            for entry, node, slot in noted.consts:
                entry["name"] = node.inputs[slot].name
            for entry, tensor in noted.renames:
                entry["to"] = tensor.name
            noted.record |= {"id": rewrite.id, "pass": rewrite.pass_name, "safety": rewrite.safety.value}
            noted.record |= {"node": rewrite.node, "output": rewrite.output}
            self.steps.append(noted.record)

        return done

    def _describe_edit(self, edit: Edit, noted: _Noted) -> dict[str, Any]:
        match edit:
            case SetConst(node, slot, weight):
                entry = {"edit": "set-const", "node": self._paths[id(node)], "slot": slot}
                entry["value"] = self._describe_constant(weight, node, slot)
                noted.consts.append((entry, node, slot))
                return entry
            case SetInput(node, slot, tensor):
                where = {"scope": self._areas[id(tensor.scope)], "tensor": tensor.name}
                return {"edit": "set-input", "node": self._paths[id(node)], "slot": slot, **where}
            case DropInput(node, slot):
                return {"edit": "drop-input", "node": self._paths[id(node)], "slot": slot}
            case SetAttr(node, name, value):
                return {"edit": "set-attr", "node": self._paths[id(node)], "name": name, "value": value}
            case SetOp(node, op):
                return {"edit": "set-op", "node": self._paths[id(node)], "op": op}
            case Bypass(node, slot, keep):
                return {"edit": "bypass", "node": self._paths[id(node)], "slot": slot, "keep": keep}
            case Rename(tensor):
                entry = {"edit": "rename", "scope": self._areas[id(tensor.scope)], "tensor": tensor.name}
                noted.renames.append((entry, tensor))
                return entry

    def _describe_constant(self, weight: Weight, node: Node, slot: int) -> dict[str, Any]:
        """How a constant is made: never the whole of a weight where factors can say it."""
        dtype = weight.dtype.name
        if isinstance(weight, numerics.NewTensor) and not numerics.is_float(weight.dtype):
            return {"kind": "integers", "dtype": dtype, **encode_integers(weight.load())}
        if isinstance(weight, numerics.NewTensor):
            return {"kind": "fresh", "dtype": dtype, **encode_array(weight.value)}
        base, factors = (weight.base, weight.factors) if isinstance(weight, numerics.ScaledTensor) else (weight, ())
        if isinstance(base, numerics.NewTensor):
            return {"kind": "fresh", "dtype": dtype, **encode_array(weight.float64())}
        steps = [{"view": list(view), **encode_array(factor)} for view, factor in factors]
        return {
            "kind": "scaled",
            "dtype": dtype,
            "base": self._describe_base(base, node, slot),
            "factors": steps,
        }

    def _describe_base(self, base: Weight, node: Node, slot: int) -> dict[str, Any]:
        """What factors start from, by where it lies in the original, or by what computes it now."""
        if id(base) not in self._bases:
            record = self._spans.get(base.ref.span) if isinstance(base, StoredTensor) else None
            tensor = node.tensor_in(slot)
            if record is None and tensor is not None:
                record = {"kind": "computed", "scope": self._areas[id(tensor.scope)], "tensor": tensor.name}
                record["step"] = len(self.steps) + 1
            self._bases[id(base)] = {**(record or {}), "sha256": hash_array(base.load())}
            self._kept.append(base)
        return dict(self._bases[id(base)])

    @property
    def frozen(self) -> list[str]:
        """Names that were taken out of the graph's inputs."""
        return sorted(self.graph.scopes[0].frozen_inputs)


def build_certificate(
    recorder: Recorder,
    original: LoadedModel,
    folded: LoadedModel,
    *,
    argv: list[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The certificate of a fold; the replay carries its steps out, and must arrive where the fold did.

    Parameters
    ----------
    recorder : Recorder
        Saw the fold.
    original, folded : Source
        The models, as files where they are.

    Returns
    -------
    dict
        Schema ``biasopt.certificate/1``; write it with `write_certificate`.

    Raises
    ------
    InvariantViolation
        The replay gives another model than the fold: one of the two is wrong.
    """
    digest = hash_model(original)
    engine, steps, state = Replayer(original, frozenset(recorder.frozen)), [], digest
    for k, asked in enumerate(recorder.steps):
        if progress is not None:
            progress(f"certificate: step {k + 1} of {len(recorder.steps)}")
        try:
            record = engine.step(asked)
        except CertificateError as refusal:
            raise InvariantViolation(f"the replay does not follow the fold: {refusal}") from refusal
        state = record["state"] = chain_hashes(state, record)
        steps.append(record)
    entries = ("biasopt", "biasopt.version", "biasopt.rewrites", "biasopt.originals") if steps else ()
    metadata = {p.key: p.value for p in folded.proto.metadata_props if p.key in entries}
    got = hash_model(folded)
    if hash_model(LoadedModel(build_model(engine.graph, original, metadata), "replayed", None, original.folder)) != got:
        raise InvariantViolation("the replay of the fold's steps gives another model than the fold")
    document = {
        "schema": SCHEMA,
        "tool": {"name": "biasopt", "version": __version__, "argv": argv or []},
        "input": {**_describe_file(original), "digest": digest},
        "frozen": recorder.frozen,
        "steps": steps,
        "output": {**_describe_file(folded), "digest": got, "metadata": metadata},
        "summary": {"steps": len(steps), "recomputed": sum(s["check"]["recomputed"] for s in steps)},
    }
    return {**document, "seal": compute_seal(document)}


def _describe_file(source: LoadedModel) -> dict[str, Any]:
    known = describe_facts(source.proto)
    if source.path is None:
        return {**known, "sha256": None, "size_bytes": None}
    return {**known, "sha256": hash_file(source.path), "size_bytes": source.path.stat().st_size}


def write_certificate(document: dict[str, Any], path: Path, *, force: bool = True) -> None:
    """Write a certificate, whole or not at all.

    Raises
    ------
    ModelError
        It cannot be written, or is there already and not to be replaced by ``force``.
    """
    try:
        write_whole(
            path, json.dumps(document, indent=1, allow_nan=False).replace("##[", "#\\u0023[") + "\n", force=force
        )
    except FileExistsError as exc:
        raise ModelError(
            f"{path}: exists already, another run made it meanwhile; give another place, or --force"
        ) from exc
    except OSError as exc:
        raise ModelError(f"{path}: cannot be written ({exc.strerror}); choose another place") from exc


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
    asked = merge_options(ReplayOptions, options, keywords)
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
