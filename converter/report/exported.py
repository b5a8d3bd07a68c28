"""What ``biasopt export`` made, as ``biasopt.export/1``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from converter.records import Counts, Parity
from converter.records.results import FoldResult
from converter.report import wording
from converter.report.serialize import encode, fold_document, repro, tool

EXPORT_SCHEMA = "biasopt.export/1"


class Port(Protocol):
    """An input or an output."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int | str, ...]: ...


class Origin(Protocol):
    """Where the module came from."""

    @property
    def spec(self) -> str: ...

    @property
    def torch(self) -> str: ...

    @property
    def weights_sha256(self) -> str: ...

    @property
    def random_weights(self) -> bool: ...


class ExportedModel(Protocol):
    """An exported model, and whether it answers as torch does."""

    @property
    def spec(self) -> str: ...

    @property
    def output(self) -> Path | None: ...

    @property
    def exporter(self) -> str: ...

    @property
    def opset(self) -> int: ...

    @property
    def provenance(self) -> Origin: ...

    @property
    def inputs(self) -> Sequence[Port]: ...

    @property
    def outputs(self) -> Sequence[Port]: ...

    @property
    def counts(self) -> Counts: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def notes(self) -> Sequence[str]: ...

    @property
    def parity(self) -> Parity | None: ...

    @property
    def fold(self) -> FoldResult | None: ...

    @property
    def exit_code(self) -> int: ...


def export_document(
    made: ExportedModel, version: str, *, argv: Sequence[str] = (), said: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What ``export --json`` prints; parameters as in `converter.report.serialize.fold_document`."""
    came = made.provenance
    return {
        "schema": EXPORT_SCHEMA,
        "tool": tool(argv, version),
        "spec": made.spec,
        "output": None if made.output is None else str(made.output),
        "exporter": made.exporter,
        "opset": made.opset,
        "torch": came.torch,
        "weights_sha256": came.weights_sha256 or None,
        "random_weights": came.random_weights,
        "inputs": [_port(port) for port in made.inputs],
        "outputs": [_port(port) for port in made.outputs],
        "counts": {
            "nodes": made.counts.nodes,
            "batch_norms": made.counts.batch_norms,
            "biases": made.counts.biases,
            "parameter_bytes": made.counts.parameter_bytes,
        },
        "size_bytes": made.size_bytes,
        "notes": list(made.notes),
        "parity": None if made.parity is None else encode(made.parity),
        "fold": None if made.fold is None else fold_document(made.fold, version, said=said),
        "repro": repro(argv),
        "exit_code": made.exit_code,
    }


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)}


def failure(made: ExportedModel) -> str:
    """Why nothing was written, in one line."""
    if made.fold is not None:
        return wording.failure(made.fold.parity)
    parity = made.parity
    return "nothing was written" if parity is None else f"nothing was written: {parity.verdict.value}: {parity.why}"
