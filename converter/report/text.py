"""Reports for the terminal: coloured where it is one, plain and the same every time where it is not."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from converter.records import Fate, FateKind, Gate, Rewrite, Verdict
from converter.report import fates, groups, wording
from converter.report.result import Folded, Inspected, PassLike

if TYPE_CHECKING:
    from converter.records import Latency, Parity

WIDTH = 110  # of a report that goes to a file or a pipe, whatever the window it was made in
WIDEST = 120  # a line that runs across a very wide window is hard to follow
_OPEN = "; --on-inconclusive pass writes what is undecided"
REASONS = 10  # reasons shown by `fold`; `inspect` shows them all
_COLOUR = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.SKIPPED: "yellow",
}

Block = list[RenderableType]


class _Buffer(io.StringIO):
    """Holds what goes to a stream later; what is drawn with depends on that stream's encoding."""

    def __init__(self, encoding: str | None) -> None:
        super().__init__()
        self._encoding = encoding or "utf-8"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


def render(blocks: Iterable[Block], stream: TextIO | None = None, width: int = WIDTH) -> str:
    """Lay blocks out for a stream, one empty line between them; no line ends in spaces.

    ``width`` is that of a report which goes to no terminal.
    """
    terminal = stream is not None and stream.isatty()
    buffer = _Buffer(getattr(stream, "encoding", None))
    console = Console(
        file=buffer,
        width=min(Console(file=stream).width, WIDEST) if terminal else width,
        force_terminal=terminal,
        no_color=None if terminal else True,
        color_system="auto" if terminal else None,
        _environ=dict(os.environ) if terminal else {},
        markup=False,
        emoji=False,
        highlight=False,
    )
    for index, block in enumerate(block for block in blocks if block):
        console.print(*([""] if index else []), *block, sep="\n")
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def fold_blocks(
    result: Folded, said: groups.Reasons, *, verbose: bool = False, removal: Sequence[str] = ()
) -> list[Block]:
    """What ``fold`` did, what it left and why, and whether that was checked; ``removal`` tells what went by data."""
    left = groups.left(result.findings, said)
    return [
        _header(result),
        _done("Done", result.rewrites, verbose=verbose),
        _left(left, most=None if verbose else REASONS, verbose=verbose),
        _removed(removal),
        _counts(result, "before", "after"),
        _outcome(result),
        _overridable(result),
    ]


def inspect_blocks(
    result: Inspected, said: groups.Reasons, *, verbose: bool = False, each: bool = False
) -> list[Block]:
    """What ``fold`` would do, and what it would leave: every reason of it; with ``each`` every bias."""
    return [
        _header(result),
        _done("Would do", result.rewrites, verbose=verbose),
        _left(groups.left(result.findings, said), most=None, verbose=verbose),
        _fates(result.fates, each=verbose or each),
        _gates(result.gates),
        _counts(result, "now", "folded"),
        _overridable(result),
    ]


def passes_blocks(passes: Sequence[PassLike]) -> list[Block]:
    """The table of passes, in the order in which they run, and what its last words promise."""
    table = _grid("right", "left", "left", "left")
    for place, row in enumerate(passes, 1):
        table.add_row(f"{place}", Text(row.name, style="cyan"), row.safety.value, row.summary)
    legend = _grid("left", "left")
    for safety in sorted({row.safety for row in passes}):
        legend.add_row(safety.value, f"outputs are {wording.SAFETY[safety]}")
    return [[table], [legend], [Text("`biasopt passes NAME` explains one of them.", style="dim")]]


def _header(result: Inspected) -> Block:
    facts = [wording.size(result.size_bytes), f"opset {result.opset}", wording.count(result.before.nodes, "node")]
    name = result.path.name if result.path else "model in memory"
    header: Block = [Text.assemble((wording.plain(name), "bold"), "  ", ", ".join(facts))]
    if result.problem:
        header.append(Text(f"onnx's checker objects to it as it came: {wording.plain(result.problem)}", style="yellow"))
    return header


def _done(title: str, rewrites: Sequence[Rewrite], *, verbose: bool) -> Block:
    if not rewrites:
        return [Text("Nothing to do: no pass applies here.")]
    table = _grid("right", "left", "left")
    for item in groups.done(rewrites):
        safety = Text(wording.SAFETY[item.safety])
        if verbose:
            safety.append("".join(f"\n{wording.plain(node)}" for node in item.nodes), style="dim")
        table.add_row(f"{len(item.nodes):,}", Text(item.pass_name, style="cyan"), safety)
    return [Text(title, style="bold"), _indent(table)]


def _removed(lines: Sequence[str]) -> Block:
    title: Block = [Text("Removed by data", style="bold")] if lines else []
    return title + [_indent(Text(wording.plain(line))) for line in lines]


def _left(items: list[groups.Left], *, most: int | None, verbose: bool) -> Block:
    if not items:
        return []
    table = _grid("right", "left", "left")
    for item in items[:most]:
        why = Text(wording.plain(item.why)).append("\n" + _nodes(item, verbose=verbose), style="dim")
        table.add_row(f"{len(item.nodes):,}", Text(item.code, style="yellow"), why)
    block: Block = [Text("Left as it was", style="bold"), _indent(table)]
    if most is not None and len(items) > most:
        more = wording.count(len(items) - most, "more reason")
        block.append(_indent(Text(f"... {more}; `biasopt inspect` shows them all", style="dim")))
    return block


def _nodes(item: groups.Left, *, verbose: bool) -> str:
    if not verbose:
        return wording.listing(item.nodes)
    told = [node if why == item.why else f"{node}: {why}" for node, why in zip(item.nodes, item.whys, strict=True)]
    return "\n".join(map(wording.plain, told))


def _fates(found: Sequence[Fate], *, each: bool) -> Block:
    if not found:
        return []
    table = _grid("right", "left", "left")
    for group in fates.gathered(found):
        said = Text(group.what + (f": {wording.plain(group.why)}" if group.why else ""))
        names = _each(group) if each else wording.listing(tuple(fate.node for fate in group.fates))
        colour = "yellow" if group.kind is FateKind.KEPT else "green"
        row = said.append(f"\n{names}", style="dim")
        table.add_row(f"{len(group.fates):,}", Text(group.kind.value, style=colour), row)
    return [Text.assemble(("Biases", "bold"), "  ", fates.heading(found)), _indent(table)]


def _each(group: fates.Group) -> str:
    return "\n".join(wording.plain(f"{fate.node}{fates.tail(fate)}") for fate in group.fates)


def _gates(found: Sequence[Gate]) -> Block:
    if not found:
        return []
    table = _grid("left", "left", "left")
    for gate in found:
        said = Text(fates.gate(gate))
        if gate.note:
            said.append(f"\n{wording.plain(gate.note)}", style="dim")
        table.add_row(f"{gate.op} {wording.plain(gate.node)}", fates.gate_name(gate), said)
    return [Text("Memory", style="bold"), _indent(table)]


def _counts(result: Inspected, before_is: str, after_is: str) -> Block:
    before, after = result.before, result.after
    if before == after:
        return []
    shifts = "what a BatchNormalization adds becomes a bias" if after.biases > before.biases else ""
    table = _grid("left", "right", "right", "left")
    table.add_row("", before_is, after_is, "")
    table.add_row("BatchNormalization", f"{before.batch_norms:,}", f"{after.batch_norms:,}", "")
    table.add_row("bias vectors", f"{before.biases:,}", f"{after.biases:,}", Text(shifts, style="dim"))
    table.add_row("nodes", f"{before.nodes:,}", f"{after.nodes:,}", "")
    grown = after.parameter_bytes > before.parameter_bytes and groups.bytes_copied(result.rewrites)
    note = f"copies of shared weights add {wording.size(grown)}; --no-growth makes none" if grown else ""
    table.add_row(
        "parameters", wording.size(before.parameter_bytes), wording.size(after.parameter_bytes), Text(note, style="dim")
    )
    return [_indent(table)]


def _outcome(result: Folded) -> Block:
    table = _grid("left", "left")
    if result.fates:
        table.add_row("Biases", wording.plain(fates.line(result.fates)))
    for index, line in enumerate(_parity_lines(result.parity)):
        table.add_row("" if index else "Parity", line)
    for index, line in enumerate(_latency_lines(result.latency)):
        table.add_row("" if index else "Latency", line)
    if result.frozen:
        table.add_row("Inputs", f"no longer inputs of the model: {wording.listing(result.frozen)}")
    if result.output is not None:
        table.add_row("Written", Text(wording.plain(str(result.output)), style="bold"))
    elif result.exit_code:
        table.add_row("Written", Text.assemble(("nothing", "bold red"), _OPEN if result.exit_code == 4 else ""))
    if result.certificate is not None:
        table.add_row("Certified", Text(wording.plain(str(result.certificate))))
    return [table]


def _parity_lines(parity: Parity | None) -> list[Text]:
    if parity is None:
        return [Text("not checked (--no-verify)", style="yellow")]
    verdict = Text(parity.verdict.value, style=_COLOUR[parity.verdict])
    lines = [Text.assemble(verdict, f": {wording.verdict(parity)}")]
    if parity.verdict is not Verdict.PASS and parity.why:
        lines.append(Text(wording.plain(parity.why)))
    if found := wording.worst(parity):
        lines.append(Text(wording.score(found)))
    return lines + [Text(f"warning: {wording.plain(warning)}", style="yellow") for warning in parity.warnings]


def _latency_lines(latency: Latency | None) -> list[Text]:
    if latency is None:
        return []
    verdict = Text(latency.verdict.value, style=_COLOUR[latency.verdict])
    lines = [Text.assemble(verdict, f": {wording.speed(latency, 'the folded model')}")]
    if latency.verdict is not Verdict.PASS and latency.why:
        lines.append(Text(wording.plain(wording.reason(latency))))
    return lines + [Text(f"warning: {wording.plain(warning)}", style="yellow") for warning in latency.warnings]


def _overridable(result: Inspected) -> Block:
    if not result.overridable_blocked:
        return []
    waiting = wording.count(result.overridable_blocked, "fold waits", "folds wait")
    also = wording.count(
        result.overridable_names, "initializer that is also a graph input", "initializers that are also graph inputs"
    )
    them = "it" if result.overridable_blocked == 1 else "them"
    return [Text(f"{waiting} behind {also}; `--freeze-overridable` would take {them}.")]


def _grid(*justify: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for side in justify:
        table.add_column(justify="right" if side == "right" else "left", overflow="fold")
    return table


def _indent(renderable: RenderableType) -> Padding:
    return Padding(renderable, (0, 0, 0, 2))
