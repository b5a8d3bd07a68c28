"""A report as Markdown, for a comment on a pull request; nothing from a model can break out of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from converter.records import Verdict
from converter.report import blocks as b
from converter.report.blocks import Medium, Report, Style
from converter.report.wording import VERDICT, plain

MOST = 60_000  # characters: GitHub takes 65,536 in a comment


def render_markdown(report: Report) -> str:
    """The report, ending in a newline; without the tables of single checks where a comment cannot hold them."""
    whole = _render(report, each=True)
    return whole if len(whole) <= MOST else _render(report, each=False)


def _render(report: Report, *, each: bool) -> str:
    parts = [f"## biasopt {report.command}" + (f": {literal(report.name)}" if report.name else "")]
    for section, held in report.sections_of(Medium.COMMENT):
        if section.title and section.titled & Medium.COMMENT:
            parts.append(f"### {prose(section.title)}")
        parts += [_block(block, each=each) for block in held]
    return "\n\n".join(part for part in [*parts, f"<sub>biasopt {report.version}</sub>"] if part) + "\n"


def _block(block: Any, *, each: bool) -> str:
    match block:
        case b.Paragraph(words=words):
            return _text(words)
        case b.VerdictLine():
            head = f"{VERDICT[block.status].sign} **{block.subject} {block.status.value}**: {_text(block.words)}."
            return "\n\n".join([head, *([_text(block.why)] if block.why else [])])
        case b.Warnings(lines=lines):
            return "\n\n".join(f"⚠️ {prose(line)}" for line in lines)
        case b.Table():
            return _table(block)
        case b.KeyValues(rows=rows):
            return "\n".join(f"* {prose(key)}: {_text(words)}" for key, words in rows)
        case b.ListBlock(items=items):
            return "\n".join(f"* {_text(item).strip()}" for item in items)
        case b.Checks(checks=checks):
            return _checks(checks, each=each)
        case b.Measures(rows=measures):
            return "\n".join(f"* {literal(row.label)}: {row.value} {row.of}" for row in measures)
        case b.Tiles():
            tiles = [(prose(tile.label), tile.before, tile.after) for tile in block.tiles]
            return table(("", block.before, block.after), tiles, right=(1, 2))
        case b.Picture():
            return f"![{prose(block.title)}]({block.path})\n\n<sub>{prose(block.caption)}</sub>"
        case b.Details(title=title, blocks=inner):
            return details(prose(title), "\n\n".join(_block(one, each=each) for one in inner))
        case b.Heading(text=said):
            return f"#### {prose(said)}"
        case b.Code(text=said):
            return fenced("\n".join(map(plain, said.splitlines())))
        case b.Tree(root=root):
            return "\n".join(_branch(root, 0))
    raise TypeError(f"Markdown knows no {type(block).__name__}")


def _text(words: b.Words) -> str:
    return "".join(_span(span) for span in b.spans(words))


def _span(span: b.Span) -> str:
    match span.style:
        case Style.NAME | Style.CODE:
            return literal(span.text)
        case Style.STRONG | Style.PASS | Style.FAIL | Style.OPEN | Style.SKIP:
            return f"**{prose(span.text)}**"
    return prose(span.text)


def _cell(cell: b.Cell) -> str:
    if isinstance(cell, b.Lines):
        return "<br>".join(map(prose, cell.lines))
    return cell.value if isinstance(cell, Verdict) else _text(cell)


def _table(found: b.Table) -> str:
    layout = found.layout(Medium.COMMENT)
    rows, rest = found.visible(Medium.COMMENT)
    right = tuple(k for k, (_, column, _) in enumerate(layout) if column.right)
    header = tuple(prose(column.title) for _, column, _ in layout)
    cells = [
        tuple("<br>".join(filter(None, (_cell(row[k]) for k in (place, *under)))) for place, _, under in layout)
        for row in rows
    ]
    return table(header, cells, right) + (f"\n\n{prose(rest)}" if rest else "")


def _checks(checks: Iterable[b.Check], *, each: bool) -> str:
    """One table of them all, and with ``each`` under it what there is to see of each."""
    checks = list(checks)
    rows = [(literal(c.key), c.status.value, prose(c.title), _text(c.words)) for c in checks]
    parts = [table(("stage", "result", "what it asks", "found"), rows)]
    for check in checks if each else ():
        parts += [_block(block, each=each) for block in b.visible(check.blocks, Medium.COMMENT)]
    return "\n\n".join(parts)


def _branch(node: b.TreeNode, depth: int) -> Iterable[str]:
    yield f"{'  ' * depth}* {literal(node.label)}: {prose(node.words)}"
    for child in node.children:
        yield from _branch(child, depth + 1)


# ---- the parts of Markdown -----------------------------------------------------------------------------


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """A Markdown table; ``right`` are the columns that are set flush right."""
    rule = ["---:" if column in right else "---" for column in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, tuple(rule), *rows))


def literal(text: str) -> str:
    """Text from a model, as code: nothing in it is Markdown, HTML or a table's border."""
    shown = plain(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def prose(text: str) -> str:
    """A sentence that may quote names from a model: no Markdown, HTML, mention or table border in it."""
    return re.sub(r"([\\`*_{}\[\]<>|#@~])", r"\\\1", plain(text))


def details(title: str, body: str) -> str:
    """What unfolds on a click; empty where there is nothing to show."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>" if body else ""


def fenced(text: str) -> str:
    """Lines of code, fenced by more backticks than they hold in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
