"""The way of one bias: what each node on it does with the shift, in plain words, drawn as a tree.

The tree is a trunk with branches: of a node's readers the one with most behind it goes on in the same column.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from converter.records import Fate, Step, Verb
from converter.report import wording
from converter.report.hops import does


@dataclass(slots=True)
class _Knot:
    """A node of the tree."""

    hop: Step
    children: list[_Knot] = field(default_factory=list)

    @property
    def size(self) -> int:
        return 1 + sum(child.size for child in self.children)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a tree: what is drawn before it, and before its own continuation."""

    hop: Step
    lead: str
    below: str


def lines(root: Step, path: Sequence[Step], glyphs: Glyphs) -> list[Line]:
    """The tree, from its root on."""
    tree = _Knot(root)
    knots = {root.node: tree}
    for hop in path:
        knot = _Knot(hop)
        givers = [knots[name] for name in hop.sources if name in knots]
        (givers or [tree])[-1].children.append(knot)
        knots[hop.node] = knot
    return list(_walk(tree, "", glyphs))


def _walk(tree: _Knot, margin: str, glyphs: Glyphs, lead: str | None = None) -> Iterator[Line]:
    knot: _Knot | None = tree
    while knot is not None:
        children = sorted(knot.children, key=lambda k: k.size)
        branches, trunk = children[:-1], children[-1] if children else None
        yield Line(knot.hop, margin if lead is None else lead, margin + (glyphs.bar if trunk else glyphs.gap))
        for branch in branches:
            yield from _walk(branch, margin + glyphs.bar, glyphs, margin + glyphs.fork)
        knot, lead = trunk, None


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What the tree is drawn with."""

    bar: str
    fork: str
    gap: str
    ends: dict[str, str]


UNICODE = Glyphs(
    "│ ",
    "├─",
    "  ",
    {"root": "◆", "carries": "○", "absorbs": "●", "annihilates": "∅", "stops": "■"},
)
ASCII = Glyphs("| ", "|-", "  ", {"root": "*", "carries": "o", "absorbs": "+", "annihilates": "x", "stops": "!"})
_STYLE = {"root": "bold", "carries": "dim", "absorbs": "green", "annihilates": "green", "stops": "yellow"}


@dataclass(frozen=True, slots=True)
class Way:
    """The tree as something to print, as wide as there is room."""

    fate: Fate
    path: tuple[Step, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = ASCII if options.ascii_only else UNICODE
        part = next((p for hop in self.path if (p := hop.part)), "")
        adds = f"its bias: {part or wording.count(self.fate.elements, 'element')}"
        root = Step(self.fate.node, self.fate.op, Verb.STARTS, adds)
        tree = lines(root, self.path, glyphs)
        width = options.max_width
        column = max(len(line.lead) + len(_name(line.hop)) + 4 for line in tree)
        for line in tree:
            yield from _drawn(line, glyphs, width, column if column + 30 <= width else 0)


def _name(hop: Step) -> str:
    return f"{hop.op} {wording.plain(hop.node)}"


def _drawn(line: Line, glyphs: Glyphs, width: int, column: int) -> Iterator[Text]:
    """One node: in one line if there is room, else what it does below its name."""
    hop = line.hop
    said = hop.how if hop.verb is Verb.STARTS else does(hop)
    style = _STYLE.get(hop.verb, "")
    head = Text.assemble((line.lead, "dim"), (glyphs.ends.get(hop.verb, "?"), style), f" {_name(hop)}")
    if column:
        first, *more = textwrap.wrap(said, width - column, break_long_words=True) or [""]
        yield head.append(" " * (column - len(head))).append(first, style)
        indent = column
    else:
        yield from _folded(head, line.below, width)
        more, indent = textwrap.wrap(said, max(20, width - len(line.below) - 4)), len(line.below) + 2
    for text in more:
        yield Text.assemble((line.below.ljust(indent), "dim"), (text, style))


def _folded(head: Text, below: str, width: int) -> Iterator[Text]:
    """A name too long for the line goes on in the next one; nothing is cut off."""
    indent = f"{below}  "
    while len(head) > width:
        yield head[:width]
        head = Text.assemble((indent, "dim"), head[width:])
    yield head
