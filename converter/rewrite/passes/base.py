"""What a pass is: a row of data. What a match tells the checks that passes share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from converter.dataclass import dataclass
from converter.model.graph import Edit, Node, Tensor
from converter.records import Safety
from converter.rewrite.analysis.affine import Affine
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear
from converter.rewrite.bias_flow.fates import BiasChange
from converter.rewrite.passes.reasons import Reason, reason

Decline = tuple[str, str]  # a code, and a clause that says what is wrong here


@dataclass(frozen=True, slots=True)
class Match:
    """What a pass found; each property is what a shared check looks at, and empty where there is nothing."""

    @property
    def affines(self) -> Sequence[Affine]:
        """Batch norms and arithmetic whose constants are read."""
        return ()

    @property
    def nodes(self) -> Sequence[Node]:
        """Nodes whose attributes count."""
        return [a.node for a in self.affines]

    @property
    def path(self) -> Sequence[tuple[Tensor, Node]]:
        """Tensors whose value changes, each with its one rightful reader."""
        return ()

    @property
    def constants_read(self) -> Sequence[Tensor]:
        """Constants that are read."""
        return [t for a in self.affines for t in a.params]

    @property
    def constants_replaced(self) -> Sequence[Tensor]:
        """Constants that others take the place of."""
        return ()


@dataclass(frozen=True, slots=True)
class LinearMatch(Match):
    """A linear operator whose bias is read."""

    linear: Linear

    @property
    def constants_read(self) -> Sequence[Tensor]:
        """The bias, if there is one."""
        return [] if self.linear.bias is None else [self.linear.bias]


@dataclass(frozen=True, slots=True)
class Check:
    """One condition that must hold before a match may act.

    Attributes
    ----------
    code : str or tuple of str
        What it declines with; `reasons` says what each code means.
    check : callable
        (facts, match) -> a clause that says what is wrong here, or the code and the clause; None if nothing is.
    """

    code: str | tuple[str, ...]
    check: Callable[[Facts, Any], str | Decline | None]

    @property
    def codes(self) -> tuple[str, ...]:
        """Every code that it may decline with."""
        return (self.code,) if isinstance(self.code, str) else self.code

    def decline(self, facts: Facts, match: Any) -> Decline | None:
        """What is wrong with the match; None if nothing is."""
        found = self.check(facts, match)
        return (self.codes[0], found) if isinstance(found, str) else found


@dataclass(frozen=True)
class Pass:
    """A rewrite: what it looks for, when it is legal, and what it changes.

    Attributes
    ----------
    page : str
        A sentence that is the summary; then what is given, the result, and the source.
    ops : tuple of str
        Types of the node that a match hangs on.
    microsoft : tuple of str
        Types among onnxruntime's own operators (com.microsoft) that a match hangs on.
    beside : tuple of str
        Types of the other node: without one of these in the model no node is asked. Empty for any.
    find : callable
        (facts, node) -> match or None. Finds what has the *shape*; checks say whether it is *legal*.
    checks : tuple of Check
        Asked in this order; the first that does not hold declines.
    plan : callable
        (facts, match) -> edits. Pure; may assume the checks.
    output : callable
        (match) -> the tensor whose value is the same before and after.
    name : str
        By default that of the module that `find` is in.
    after : tuple of str
        Passes that must stand before this one in the table.
    changes_batch_norm : bool
        Left out when batch norms are to be kept.
    bias_change : callable, optional
        (match) -> what happens to which bias; for passes that take one away.
    domains : tuple of str
        Other operator sets that nodes of these types may be from.
    version : int
        Goes up when the same match gives other edits: certificates name it.
    upward : bool
        Nodes are asked from the outputs up: what folds into the layer below it makes room for what lies above it.
    """

    page: str
    safety: Safety
    ops: tuple[str, ...]
    find: Callable[[Facts, Node], Any]
    checks: tuple[Check, ...]
    plan: Callable[[Facts, Any], list[Edit]]
    output: Callable[[Any], Tensor | None]
    name: str = ""
    after: tuple[str, ...] = ()
    changes_batch_norm: bool = True
    bias_change: Callable[[Any], BiasChange] | None = None
    domains: tuple[str, ...] = ()
    version: int = 1
    upward: bool = False
    microsoft: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name = self.name or self.find.__module__.rpartition(".")[2].replace("_", "-")
        object.__setattr__(self, "name", name)
        # Python run without docstrings leaves the name
        object.__setattr__(self, "page", inspect.cleandoc(self.page or f"{name}."))

    def may_hang_on(self, node: Node) -> bool:
        """Whether the node is of a type that a match hangs on."""
        if node.op in self.ops and (node.is_standard or node.domain in self.domains):
            return True
        return bool(self.microsoft) and node.is_microsoft(*self.microsoft)

    @property
    def summary(self) -> str:
        """The page's first sentence."""
        return self.page.partition("\n")[0].removesuffix(".")

    @property
    def guards(self) -> tuple[Reason, ...]:
        """Every code that it may decline with and what the code means, in the order in which they are asked."""
        return tuple(reason(code) for code in dict.fromkeys(code for c in self.checks for code in c.codes))

    def decline(self, facts: Facts, match: Any) -> Decline | None:
        """The first thing that is wrong with the match; None where it may act."""
        return next((found for c in self.checks if (found := c.decline(facts, match)) is not None), None)
