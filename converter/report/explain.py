"""One bias explained: the verdict, and the way of its shift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from converter.records import Fate, FateKind, Step, Verb
from converter.report import wording
from converter.report.hops import does
from converter.report.to_json import fate_json, path_json
from converter.report.ways import Way

EXPLAIN_SCHEMA = "biasopt.explain/1"
_COLOUR = {FateKind.KEPT: "bold yellow"}


def explain_blocks(fate: Fate) -> list[list[RenderableType]]:
    """The verdict first, then a tree for each part of the bias that goes its own way."""
    head, why = verdict(fate)
    blocks: list[list[RenderableType]] = [[Text.assemble((head, _COLOUR.get(fate.kind, "bold green")), ": ", why)]]
    ways = _by_part(fate)
    if not ways:
        return [*blocks, [Text(f"{fate.op} {wording.plain(fate.node)}: {wording.count(fate.elements, 'element')}")]]
    if fate.kind is FateKind.KEPT and all(hop.verb is not Verb.BLOCKS for hop in fate.path):
        blocks.append([Text("The way that it could have gone:", style="dim")])
    return blocks + [[Way(fate, way)] for way in ways]


def verdict(fate: Fate) -> tuple[str, str]:
    """One word, and one sentence."""
    where = wording.plain(fate.where)
    match fate.kind:
        case FateKind.DEAD:
            return "Dead", "nothing can feel this bias, so it goes."
        case FateKind.ZERO:
            return "Zero", "all elements of this bias are zero, so it goes."
        case FateKind.ABSORBED:
            n = where.count(", ") + 1
            by = f"{n} nodes take" if n > 1 else f"{where or 'another node'} takes"
            return "Absorbed", f"this bias goes, and {by} it over."
        case FateKind.MERGED:
            return "Merged", f"this bias becomes one with that of {where}."
    why = wording.plain(fate.why)
    if fate.removed:
        return "Kept in part", f"{fate.removed:,} of {wording.count(fate.elements, 'element')} go. {why}."
    hint = " `--freeze-overridable` would take it as a constant." if fate.code == "overridable" else ""
    return "Kept", f"{why}.{hint}"


def explain_json(fate: Fate, model: Path | None, version: str) -> dict[str, Any]:
    """What ``inspect --explain --json`` prints."""
    head, why = verdict(fate)
    return {
        "schema": EXPLAIN_SCHEMA,
        "version": version,
        "input": None if model is None else str(model),
        **fate_json(fate),
        "verdict": f"{head}: {why}",
        "path": [row | {"says": does(hop)} for hop, row in zip(fate.path, path_json(fate.path), strict=True)],
        "exit_code": 0,
    }


def _by_part(fate: Fate) -> list[tuple[Step, ...]]:
    """The path of each part of a fused bias, in the order in which they went."""
    found: dict[str, list[Step]] = {}
    for hop in fate.path if [hop.node for hop in fate.path] != [fate.node] else ():  # an LSTM's way ends in itself
        found.setdefault(hop.part, []).append(hop)
    return [tuple(way) for way in found.values()]
