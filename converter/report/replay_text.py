"""``replay`` on the terminal: whether the certificate holds, then what that rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

if TYPE_CHECKING:
    from converter.commands.replay import ReplayResult

_MOST = 5  # open steps that are named


def blocks(result: ReplayResult, *, verbose: bool = False) -> list[list[RenderableType]]:
    """What came of a replay."""
    head = Text("The certificate holds.", style="bold green")
    if result.why:
        head = Text("The certificate does not hold.", style="bold red")
        return [[head], [Text(f"{result.where}: {result.why}")], [Text(_count(result))]]
    lines = [Text(_count(result))]
    shown = result.open_steps if verbose else result.open_steps[:_MOST]
    if result.open_steps:
        lines.append(Text("Carried out, but not recomputed (outputs have to be compared for these):"))
        lines += [Text(f"  {name}: {why}") for name, why in shown]
    if len(shown) < len(result.open_steps):
        lines.append(Text(f"  and {len(result.open_steps) - len(shown)} more (-v)"))
    lines.append(Text(f"digest {result.digest}"))
    if result.output is not None:
        same = "byte for byte the certified file" if result.same_bytes else "the certified nodes and tensors"
        lines.append(Text(f"{result.output}: {same}"))
    return [[head], [*lines]]


def _count(result: ReplayResult) -> str:
    if result.why:
        return f"{result.replayed} of {result.steps} steps were carried out before that; nothing was written."
    if not result.steps:
        return "The fold rewrote nothing: there is no step to carry out."
    steps = "1 step" if result.steps == 1 else f"{result.steps} steps"
    return f"{steps} carried out; the algebra of {result.recomputed} recomputed in float64."
