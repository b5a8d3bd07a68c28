"""What ``biasopt export`` made: on the terminal, and as ``biasopt.export/1``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.text import Text

from converter.records import Counts, OutputCheck, Parity, Verdict
from converter.report import groups, text, wording
from converter.report.document import parity_json, repro, tool
from converter.report.result import Folded
from converter.report.to_json import fold_json
from converter.report.verify_text import COLOUR, grid

EXPORT_SCHEMA = "biasopt.export/1"
_MOST = 5  # outputs that do not pass, shown one by one


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
    def fold(self) -> Folded | None: ...

    @property
    def exit_code(self) -> int: ...


def export_json(
    made: ExportedModel, version: str, *, argv: Sequence[str] = (), said: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What ``export --json`` prints; parameters as in `converter.report.to_json.fold_json`."""
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
        "parity": None if made.parity is None else parity_json(made.parity),
        "fold": None if made.fold is None else fold_json(made.fold, version, said=said),
        "repro": repro(argv),
        "exit_code": made.exit_code,
    }


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)}


def export_blocks(made: ExportedModel, said: groups.Reasons, *, verbose: bool = False) -> list[text.Block]:
    """What was exported, whether it answers as torch does, and, where that was asked for, what folding it did."""
    blocks = [_header(made), _outcome(made), _notes(made)]
    if made.fold is not None:
        blocks += text.fold_blocks(made.fold, said, verbose=verbose)[1:]  # the model was told of above
    return blocks


def _header(made: ExportedModel) -> text.Block:
    counts = made.counts
    facts = [wording.size(made.size_bytes), f"opset {made.opset}", wording.count(counts.nodes, "node")]
    name = Text.assemble((wording.plain(made.spec), "bold"), "  ", ", ".join(facts))
    table = grid("left", "left", "left")
    for title, ports in (("Inputs", made.inputs), ("Outputs", made.outputs)):
        for index, port in enumerate(ports):
            shape = ", ".join(map(str, port.shape))
            table.add_row("" if index else title, wording.plain(port.name), wording.plain(f"{port.dtype} [{shape}]"))
    norms = wording.count(counts.batch_norms, "BatchNormalization", "BatchNormalizations")
    biases = wording.count(counts.biases, "bias vector")
    holds = grid("left", "left")
    holds.add_row("Holds  ", f"{norms}, {biases}, {wording.size(counts.parameter_bytes)} of parameters")
    return [name, table, holds]


def _outcome(made: ExportedModel) -> text.Block:
    table = grid("left", "left")
    table.add_row("Exporter", f"{made.exporter}, torch {made.provenance.torch}")
    for index, line in enumerate(_parity(made.parity)):
        table.add_row("" if index else "Parity", line)
    if made.fold is None:
        nothing = Text("nothing", style="bold red")
        output = nothing if made.output is None else Text(wording.plain(str(made.output)), style="bold")
        table.add_row("Written", output)
    return [table]


def _parity(parity: Parity | None) -> list[Text]:
    if parity is None:
        return [Text("not checked (--no-verify)", style="yellow")]
    lines = [Text.assemble((parity.verdict.value, COLOUR[parity.verdict]), f": {wording.plain(parity.why)}")]
    bad = [c for stage in parity.stages for c in stage.outputs if c.status is not Verdict.PASS]
    lines += [Text(_check(check), style="dim") for check in bad[: _MOST * (len(bad) > 1)]]
    return lines + [Text(f"warning: {wording.plain(warning)}", style="yellow") for warning in parity.warnings]


def _check(check: OutputCheck) -> str:
    apart = "" if check.max_abs is None else f", at most {check.max_abs:.3g} apart"
    return wording.plain(f"{check.name}: {check.status.value}{apart}, {check.why}")


def _notes(made: ExportedModel) -> text.Block:
    return [Text(f"note: {wording.plain(note)}", style="yellow") for note in made.notes]


def failure(made: ExportedModel) -> str:
    """Why nothing was written, in one line."""
    if made.fold is not None:
        return wording.failure(made.fold.parity)
    parity = made.parity
    return "nothing was written" if parity is None else f"nothing was written: {parity.verdict.value}: {parity.why}"
