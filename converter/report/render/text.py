"""A report for the terminal: coloured where it is one, plain and the same every time where it is not."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from converter.dataclass import dataclass
from converter.records import Verdict
from converter.report import blocks as b
from converter.report.blocks import Medium, Report, Style
from converter.report.wording import VERDICT, escape, plain

WIDEST = 120  # a line that runs across a very wide window is hard to follow
_STYLES = {
    Style.NAME: "bold",
    Style.CODE: "cyan",
    Style.STRONG: "bold",
    Style.QUIET: "dim",
    Style.PASS: "bold green",
    Style.FAIL: "bold red",
    Style.OPEN: "bold yellow",
    Style.SKIP: "yellow",
    Style.KEPT: "yellow",
    **dict.fromkeys((Style.DEAD, Style.ZERO, Style.ABSORBED, Style.MERGED), "green"),
}
_INDENT = 2
_TABULAR = (b.Table, b.Tiles, b.KeyValues, b.Checks)

Lines = list[RenderableType]  # what is printed without an empty line in between


def render_text(report: Report, stream: TextIO | None = None, *, verbose: bool = False) -> str:
    """The report for a stream or, without one, for a file; no line ends in spaces, the last in a newline."""
    medium = Medium.VERBOSE if verbose else Medium.TERMINAL
    parts = [
        lines for section, held in report.sections_of(medium) for lines in _section(section, held, medium) if lines
    ]
    buffer = _Buffer(getattr(stream, "encoding", None))
    console = _console(buffer, stream, report.width)
    for index, part in enumerate(parts):
        console.print(*([""] if index else []), *part, sep="\n")
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


class _Buffer(io.StringIO):
    """Holds what goes to a stream later; what is drawn with depends on that stream's encoding."""

    def __init__(self, encoding: str | None) -> None:
        super().__init__()
        self._encoding = encoding or "utf-8"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


def _console(buffer: _Buffer, stream: TextIO | None, width: int) -> Console:
    """What draws for a stream; ``width`` is that of a report which goes to no terminal."""
    terminal = stream is not None and stream.isatty()
    return Console(
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


def _section(section: b.Section, held: list[Any], medium: Medium) -> list[Lines]:
    """Its blocks; there is an empty line between two that have columns, and before a note below columns."""
    titled = bool(section.title) and bool(section.titled & medium)
    found: list[Lines] = [[Text(plain(section.title), style="bold")]] if titled else [[]]
    last: Any = None
    for block in _unfold(held):
        for k, lines in enumerate(_block(block, medium)):
            part: Lines = [Padding(line, (0, 0, 0, _INDENT)) for line in lines] if titled else lines
            if k or (isinstance(last, _TABULAR) and (isinstance(block, _TABULAR) or _is_note(block))):
                found.append(part)
            else:
                found[-1] += part
        last = block
    return found


def _is_note(block: Any) -> bool:
    return isinstance(block, b.Paragraph) and block.small


def _unfold(held: Iterable[Any]) -> Iterator[Any]:
    """The blocks, those of details among them."""
    for block in held:
        if isinstance(block, b.Details):
            yield from _unfold(block.blocks)
        else:
            yield block


def _block(block: Any, medium: Medium) -> list[Lines]:
    match block:
        case b.Paragraph(words=words, small=small):
            return [[_text(words, "dim" if small else "")]]
        case b.VerdictLine():
            mark = Text(block.status.value, style=_STYLES[VERDICT[block.status].style])
            why = [_text(block.why)] if block.why else []
            return [[Text.assemble(mark, ": ", _text(block.words)), *why]]
        case b.Warnings(lines=lines):
            return [[Text(f"warning: {plain(line)}", style="yellow") for line in lines]]
        case b.Table():
            return [_table(block, medium)]
        case b.KeyValues(rows=rows):
            grid = _grid("left", "left")
            for key, words in rows:
                grid.add_row(plain(key), _text(words))
            return [[grid]]
        case b.ListBlock(items=items):
            return [[_text(item) for item in items]]
        case b.Checks(checks=checks):
            return _checks(checks, medium)
        case b.Measures(rows=measures):
            return [[Text(f"{plain(row.label)}: {row.value} {row.of}") for row in measures]]
        case b.Tiles():
            return [[_tiles(block)]]
        case b.Heading(text=said):
            return [[Text(plain(said), style="bold")]]
        case b.Code(text=said):
            return [[Text(escape(line)) for line in said.splitlines()]]
        case b.Tree(root=root):
            return [[_DrawnTree(root)]]
    raise TypeError(f"text knows no {type(block).__name__}")


def _text(words: b.Words, style: str = "", *, bold_names: bool = True) -> Text:
    text = Text(style=style)
    for span in b.spans(words):
        look = "" if span.style is Style.NAME and not bold_names else _STYLES.get(span.style, "")
        text.append(plain(span.text), style=look)
    return text


def _cell(cell: b.Cell) -> Text:
    if isinstance(cell, Verdict):
        return Text(VERDICT[cell].mark, style=_STYLES[VERDICT[cell].style])
    if isinstance(cell, b.Lines):
        return Text("\n".join(map(plain, cell.lines)))
    return _text(cell, bold_names=False)


def _grid(*justify: str) -> Grid:
    """A table without lines; a long name is folded, not cut."""
    grid = Grid.grid(padding=(0, 2, 0, 0))
    for side in justify:
        grid.add_column(justify="right" if side == "right" else "left", overflow="fold")
    return grid


def _table(table: b.Table, medium: Medium) -> Lines:
    rows, rest = table.visible(medium)
    layout = table.layout(medium)
    grid = _grid(*("right" if column.right else "left" for _, column, _ in layout))
    heads = [Text(column.title) for _, column, _ in layout]
    if table.title:
        heads[0] = Text(table.title, style="bold")
    if any(map(len, heads)) and not table.headless & medium:
        grid.add_row(*heads)
    for cells in rows:
        grid.add_row(*(_stack_cells(cells, place, under) for place, _, under in layout))
    return [grid, Text(rest, style="dim")] if rest else [grid]


def _stack_cells(cells: tuple[b.Cell, ...], place: int, under: list[int]) -> Text:
    cell = _cell(cells[place])
    for below in under:
        more = _cell(cells[below])
        if len(more):
            if not b.is_styled(cells[below]):
                more.stylize("dim")
            cell = cell.append("\n").append_text(more) if len(cell) else more
    return cell


def _checks(checks: Iterable[b.Check], medium: Medium) -> list[Lines]:
    """A line each, then what there is to see of each."""
    timed = medium is Medium.VERBOSE  # else the words have the room
    grid = _grid("left", "left", "left", *["right"] * timed)
    evidence: list[Lines] = []
    for check in checks:
        found = _text(check.words) if check.words else Text(check.title)
        grid.add_row(_cell(check.status), plain(check.key), found, *([Text(check.aside, style="dim")] if timed else []))
        inner = _unfold(b.visible(check.blocks, medium))
        evidence += [lines for block in inner for lines in _block(block, medium)]
    return [[grid], *evidence]


def _tiles(tiles: b.Tiles) -> Grid:
    grid = _grid("left", "right", "right", "left")
    grid.add_row("", tiles.before, tiles.after, "")
    for tile in tiles.tiles:
        grid.add_row(plain(tile.label), tile.before, tile.after, Text(tile.note, style="dim"))
    return grid


# ---- trees -------------------------------------------------------------------------------------------
# A tree is a trunk with branches: of a node's children the one with most behind it goes on in the same column.


@dataclass(frozen=True, slots=True)
class _Glyphs:
    """What a tree is drawn with."""

    bar: str
    fork: str
    gap: str
    ends: dict[str, str]


_UNICODE = _Glyphs(
    "│ ",
    "├─",
    "  ",
    {"root": "◆", "carries": "○", "absorbs": "●", "annihilates": "∅", "stops": "■"},
)
_ASCII = _Glyphs("| ", "|-", "  ", {"root": "*", "carries": "o", "absorbs": "+", "annihilates": "x", "stops": "!"})
_GLYPH_STYLE = {"root": "bold", "carries": "dim", "absorbs": "green", "annihilates": "green", "stops": "yellow"}


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a tree: what is drawn before it, and before its own continuation."""

    node: b.TreeNode
    lead: str
    below: str


def _walk(tree: b.TreeNode, margin: str, glyphs: _Glyphs, lead: str | None = None) -> Iterator[_Line]:
    node: b.TreeNode | None = tree
    while node is not None:
        children = sorted(node.children, key=lambda child: child.size)
        branches, trunk = children[:-1], children[-1] if children else None
        yield _Line(node, margin if lead is None else lead, margin + (glyphs.bar if trunk else glyphs.gap))
        for branch in branches:
            yield from _walk(branch, margin + glyphs.bar, glyphs, margin + glyphs.fork)
        node, lead = trunk, None


@dataclass(frozen=True, slots=True)
class _DrawnTree:
    """A tree as something to print, as wide as there is room."""

    root: b.TreeNode

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = _ASCII if options.ascii_only else _UNICODE
        lines = list(_walk(self.root, "", glyphs))
        width = options.max_width
        column = max(len(line.lead) + len(plain(line.node.label)) + 4 for line in lines)
        for line in lines:
            yield from _drawn(line, glyphs, width, column if column + 30 <= width else 0)


def _drawn(line: _Line, glyphs: _Glyphs, width: int, column: int) -> Iterator[Text]:
    """One node: in one line if there is room, else what it does below its name."""
    node, said = line.node, plain(line.node.words)
    style = _GLYPH_STYLE.get(node.glyph, "")
    head = Text.assemble((line.lead, "dim"), (glyphs.ends.get(node.glyph, "?"), style), f" {plain(node.label)}")
    if column:
        first, *more = textwrap.wrap(said, width - column, break_long_words=True) or [""]
        yield head.append(" " * (column - len(head))).append(first, style)
        indent = column
    else:
        yield from _wrap_name(head, line.below, width)
        more, indent = textwrap.wrap(said, max(20, width - len(line.below) - 4)), len(line.below) + 2
    for text in more:
        yield Text.assemble((line.below.ljust(indent), "dim"), (text, style))


def _wrap_name(head: Text, below: str, width: int) -> Iterator[Text]:
    """A name too long for the line goes on in the next one; nothing is cut off."""
    indent = f"{below}  "
    while len(head) > width:
        yield head[:width]
        head = Text.assemble((indent, "dim"), head[width:])
    yield head
