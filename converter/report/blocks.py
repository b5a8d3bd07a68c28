"""A report as data: sections of blocks. ``content`` makes it of records, each file of ``render`` one form of it.

A block says *what* is shown, never how: a renderer decides what a table or a verdict looks like. Text in a block is
unescaped, as it came from a model or a record; escaping is each renderer's own, and no block holds markup.

Where forms show different amounts of one report, the block says so by its `Medium`::

    Section("Biases", Table(...), Only(Medium.PAGE, Chart(...)), about="Shown on a page, beside the title.")

A new form is one file in ``render`` that walks `Report.sections` for the medium that it is nearest to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from enum import Flag, StrEnum, auto
from typing import TYPE_CHECKING, Any

from converter.dataclass import dataclass
from converter.records import Verdict

if TYPE_CHECKING:
    from markupsafe import Markup


class Medium(Flag):
    """Where a report is read, and so how much of it is shown."""

    TERMINAL = auto()  # a few lines: what was found, and what is wrong
    VERBOSE = auto()  # the same with everything that --verbose asks for
    COMMENT = auto()  # Markdown on a pull request: no charts, bounded length
    PAGE = auto()  # HTML: charts and explanations
    NONE = 0
    SCREEN = TERMINAL | VERBOSE
    FILES = COMMENT | PAGE
    ALL = SCREEN | FILES


class Style(StrEnum):
    """What a piece of text is."""

    PLAIN = "plain"
    NAME = "name"  # from a model: code in Markdown
    CODE = "code"  # of ours: a pass, a reason's code
    STRONG = "strong"
    QUIET = "quiet"  # of less weight than what it stands by
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    OPEN = "open"
    SKIP = "skip"
    DEAD = "dead"  # fates of biases, which charts colour alike
    ZERO = "zero"
    ABSORBED = "absorbed"
    MERGED = "merged"
    KEPT = "kept"


FATE_STYLES = frozenset((Style.DEAD, Style.ZERO, Style.ABSORBED, Style.MERGED, Style.KEPT))


@dataclass(frozen=True)
class Span:
    """A piece of text in one style."""

    text: str
    style: Style = Style.PLAIN


Words = str | Span | tuple[str | Span, ...]  # prose, which may quote names


@dataclass(frozen=True)
class Lines:
    """Lines of one cell."""

    lines: tuple[str, ...]


Cell = Words | Lines | Verdict  # a verdict is shown as a mark, a word or a chip


def spans(words: Words) -> tuple[Span, ...]:
    """The pieces of a text."""
    parts = words if isinstance(words, tuple) else (words,)
    return tuple(part if isinstance(part, Span) else Span(part) for part in parts if part)


def is_styled(cell: Cell) -> bool:
    """Whether a part of a cell has a style of its own."""
    return not isinstance(cell, Lines | Verdict) and any(span.style is not Style.PLAIN for span in spans(cell))


def name(text: str) -> Span:
    """A name from a model."""
    return Span(text, Style.NAME)


def code(text: str) -> Span:
    """A name of ours: a pass, a code."""
    return Span(text, Style.CODE)


def strong(text: str) -> Span:
    """What matters most in its line."""
    return Span(text, Style.STRONG)


def quiet(text: str) -> Span:
    """What is said beside the matter."""
    return Span(text, Style.QUIET)


# ---- blocks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paragraph:
    """Prose; ``small`` where it explains another block."""

    words: Words
    small: bool = False


@dataclass(frozen=True)
class VerdictLine:
    """A verdict and what it says, with its reason: ``PASS: same outputs``. Markdown names the ``subject`` too."""

    status: Verdict
    words: Words
    why: Words = ""
    subject: str = ""  # "Parity", "Latency"


@dataclass(frozen=True)
class Warnings:
    """What a reader has to know before trusting the rest."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    ``under``: media in which its cells stand under those of the column before, and its title nowhere.
    """

    title: str = ""
    right: bool = False  # numbers, flush right
    media: Medium = Medium.ALL
    under: Medium = Medium.NONE
    wide: bool = False  # left out where the page is narrow


@dataclass(frozen=True)
class Row:
    """Cells, and the media in which the row is shown."""

    cells: tuple[Cell, ...]
    media: Medium = Medium.ALL


@dataclass(frozen=True)
class Table:
    """Columns and rows. ``most``: the rows shown in a medium, where they are bounded; ``rest`` says where others are.

    ``headless``: media in which the titles of the columns say nothing that the cells do not. ``scrolls``: a narrow page
    keeps all columns, and moves them sideways.
    """

    columns: tuple[Column, ...]
    rows: Sequence[Row | tuple[Cell, ...]]
    title: str = ""
    most: Mapping[Medium, int] = field(default_factory=dict)
    rest: str = "{rest} more"  # formatted with ``shown``, ``rest`` and ``total``
    headless: Medium = Medium.NONE
    scrolls: bool = False

    def visible(self, medium: Medium) -> tuple[list[tuple[Cell, ...]], str]:
        """The rows that a medium shows, and what is said of those that are left out."""
        rows = [row if isinstance(row, Row) else Row(row) for row in self.rows]
        there = [row.cells for row in rows if row.media & medium]
        shown = there[: self.most.get(medium, len(there))]
        rest = len(there) - len(shown)
        said = self.rest.format(shown=f"{len(shown):,}", rest=f"{rest:,}", total=f"{len(there):,}") if rest else ""
        return shown, said

    def layout(self, medium: Medium) -> list[tuple[int, Column, list[int]]]:
        """The columns that a medium shows: place, column, and the places of those whose cells stand under it."""
        found: list[tuple[int, Column, list[int]]] = []
        for place, column in enumerate(self.columns):
            if not column.media & medium:
                continue
            if column.under & medium and found:
                found[-1][2].append(place)
            else:
                found.append((place, column, []))
        return found


@dataclass(frozen=True)
class KeyValues:
    """Facts by name."""

    rows: Sequence[tuple[str, Words]]
    inline: bool = False  # a few short numbers, side by side where there is room


@dataclass(frozen=True)
class ListBlock:
    """Sentences of equal weight."""

    items: Sequence[Words]


@dataclass(frozen=True)
class Check:
    """One thing that was checked, and the evidence."""

    key: str  # its name, as the command line calls it
    status: Verdict
    title: str  # what it asks
    about: str  # what it proves
    words: Words  # what was found
    aside: str = ""  # how long it took
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Checks:
    """A list of checks."""

    checks: Sequence[Check]


@dataclass(frozen=True)
class Measure:
    """A number beside its limit."""

    label: str
    value: str
    of: str  # unit and limit
    draw: Callable[[], Markup] | None = None


@dataclass(frozen=True)
class Measures:
    """Numbers beside their limits, as bars where there are charts."""

    rows: Sequence[Measure]


@dataclass(frozen=True)
class Tile:
    """A count before and after."""

    label: str
    before: str
    after: str
    change: str  # "+3", or empty where it is unchanged
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    """Counts before and after."""

    tiles: Sequence[Tile]
    before: str = "before"
    after: str = "after"


@dataclass(frozen=True)
class Ladder:
    """Steps from weak to strong, and the one that was reached."""

    title: str
    steps: Sequence[tuple[str, str]]  # letter, meaning
    here: str


@dataclass(frozen=True)
class Chart:
    """A drawing. ``draw`` gives the SVG, or an axis and the SVG beside it; None where there is nothing to draw.

    It is called only by a form that shows charts. ``key``: colour (a variable of the style sheet) and meaning.
    """

    draw: Callable[[], Markup | tuple[Markup, Markup] | None]
    title: str = ""
    caption: str = ""
    key: Sequence[tuple[str, str]] = ()
    ends: tuple[str, ...] = ()  # what stands under its left end, its middle, its right end


@dataclass(frozen=True)
class Picture:
    """A drawing that stands in a file beside the report, for a form that can only name it: a path and what it shows."""

    path: str
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Details:
    """What unfolds on a click; on a screen, which has no clicks, it is simply there."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Heading:
    """A title inside a section."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    text: str


@dataclass(frozen=True)
class TreeNode:
    """A node of a tree."""

    glyph: str  # root | carries | absorbs | annihilates | stops
    label: str
    words: str
    children: list[TreeNode] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many nodes there are from here on."""
        return 1 + sum(child.size for child in self.children)


@dataclass(frozen=True)
class Tree:
    """A tree, drawn as a trunk with branches."""

    root: TreeNode


@dataclass(frozen=True)
class Only:
    """Blocks that only some media show."""

    media: Medium
    blocks: tuple[Block, ...]

    def __init__(self, media: Medium, *blocks: Block) -> None:
        object.__setattr__(self, "media", media)
        object.__setattr__(self, "blocks", blocks)


Block = (
    Paragraph
    | VerdictLine
    | Warnings
    | Table
    | KeyValues
    | ListBlock
    | Checks
    | Measures
    | Tiles
    | Ladder
    | Chart
    | Picture
    | Details
    | Heading
    | Code
    | Tree
    | Only
)


# ---- the report --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """Blocks on one subject; without any that its medium shows, it is left out.

    ``titled``: media in which the title is shown; elsewhere the blocks speak for themselves.
    """

    title: str
    blocks: tuple[Block, ...]
    about: str = ""  # what the reader is looking at; on pages
    id: str = ""
    media: Medium = Medium.ALL
    titled: Medium = Medium.ALL


@dataclass(frozen=True)
class Case:
    """One thing that was tested, for forms that know tests only: what is open or was not run is never passed."""

    suite: str
    name: str
    status: Verdict
    message: str
    body: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class Report:
    """What a command found. The head is shown by forms that have room for one; screens begin with the sections."""

    command: str  # "fold"
    name: str  # of what it is about; empty where the sections say it
    status: Verdict | None  # None of a report that passes or fails nothing
    headline: str  # a sentence of a few words
    lede: str  # and one that says more
    sections: tuple[Section, ...]
    claims: Sequence[tuple[str, Words]] = ()  # what is to be seen at a glance
    warnings: Sequence[str] = ()
    cases: Sequence[Case] = ()
    version: str = ""
    schema: str = ""
    exit_code: int = 0
    width: int = 80  # columns, where a screen does not say

    def sections_of(self, medium: Medium) -> Iterator[tuple[Section, list[Any]]]:
        """The sections that a medium shows, each with its blocks, those of `Only` unpacked."""
        for section in self.sections:
            if section.media & medium and (blocks := visible(section.blocks, medium)):
                yield section, blocks


def visible(blocks: Sequence[Block], medium: Medium) -> list[Any]:
    """The blocks that a medium shows, those of `Only` unpacked, without those that have nothing to show."""
    found: list[Any] = []
    for block in blocks:
        if isinstance(block, Only):
            found += visible(block.blocks, medium) if block.media & medium else []
        elif isinstance(block, Details):
            inner = visible(block.blocks, medium)
            found += [Details(block.title, tuple(inner))] if inner else []
        elif not _is_empty(block, medium):
            found.append(block)
    return found


def _is_empty(block: Block, medium: Medium) -> bool:
    match block:
        case Table():
            return not block.visible(medium)[0]
        case KeyValues(rows=held) | Warnings(lines=held) | ListBlock(items=held) | Checks(checks=held):
            return not held
        case Measures(rows=measures):
            return not measures
        case Tiles(tiles=tiles):
            return not tiles
        case Chart():
            return not medium & Medium.PAGE
        case Picture():
            return not medium & Medium.COMMENT
        case Ladder():
            return not medium & Medium.PAGE
    return False
