"""What a pass is: a row of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from converter.model.graph import Edit, Node
from converter.records import FateKind, Safety
from converter.rewrite.analysis.facts import Facts


@dataclass(frozen=True, slots=True)
class Guard:
    """One condition that must hold before a match may act.

    Attributes
    ----------
    code : str
        Public, kebab-case, names what is wrong.
    broken : callable
        (facts, match) -> a clause that says what is wrong here, or None if nothing is.
    why : str
        What the condition is for, for the pass's page.
    """

    code: str
    broken: Callable[[Facts, Any], str | None]
    why: str


@dataclass(frozen=True, slots=True)
class Pass:
    """A rewrite: what it looks for, when it is legal, and what it changes.

    Attributes
    ----------
    ops : frozenset of str
        Types of the node that a match hangs on.
    find : callable
        (facts, node) -> match or None. Finds what has the *shape*; guards say whether it is *legal*.
    plan : callable
        (facts, match) -> edits. Pure; may assume the guards.
    output : callable
        (match) -> name of the tensor whose value is the same before and after.
    after : tuple of str
        Passes that must stand before this one in the table.
    version : int
        Goes up when the same match gives other edits: certificates name it.
    """

    name: str
    summary: str
    safety: Safety
    ops: frozenset[str]
    find: Callable[[Facts, Node], Any]
    guards: tuple[Guard, ...]
    plan: Callable[[Facts, Any], list[Edit]]
    output: Callable[[Any], str]
    module: str
    after: tuple[str, ...] = ()
    touches_bn: bool = True  # left out when batch norms are to be kept
    # (match) -> node, fate, where it went, elements removed; for passes that take a bias away
    fate: Callable[[Any], tuple[str, FateKind, str, int]] | None = None
    version: int = 1
