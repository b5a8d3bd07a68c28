"""A report as one HTML page, by the template ``report/templates/report.html``; nothing fetched, no script.

Every string goes through `_escape`: control characters and marks that turn the direction of text are shown as
escapes, and nothing from a model is ever markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from converter.records import Verdict
from converter.report import blocks as b
from converter.report.blocks import FATE_STYLES, Medium, Report, Style
from converter.report.wording import VERDICT, plain, sentence

_TEMPLATES = Path(__file__).parents[1] / "templates"
_MOST_COLUMNS = 8  # that a page has room for; a table with more is scrolled
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMGT]?B|us|ms|s|dB|x|\u00d7)(?![\w/]))")


def render_html(report: Report) -> str:
    """The report as a page."""
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_keep_units,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["sentence"] = sentence
    sections = [
        {"id": section.id, "title": section.title, "about": section.about, "body": _blocks(held)}
        for section, held in report.sections_of(Medium.PAGE)
    ]
    claims = [(key, _text(words)) for key, words in report.claims]
    words = None if report.status is None else VERDICT[report.status]
    template = templates.get_template("report.html")
    return template.render(report=report, words=words, claims=claims, sections=sections) + "\n"


def _keep_units(value: Any) -> Any:
    """A number and its unit stay on one line."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _UNIT.sub("\u00a0", plain(value))


def _escape(text: str) -> Markup:
    return escape(_keep_units(text))


def _element(name: str, inside: Markup, class_: str = "") -> Markup:
    look = Markup(' class="{}"').format(class_) if class_ else ""
    return Markup("<{0}{1}>{2}</{0}>").format(name, look, inside)


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def _lines(parts: Iterable[Markup]) -> Markup:
    return Markup("\n").join(parts)


def _blocks(held: Iterable[Any]) -> Markup:
    return _lines(map(_block, held))


def _block(block: Any) -> Markup:
    match block:
        case b.Paragraph(words=words, small=small):
            return _element("p", _text(words), "small soft" if small else "")
        case b.VerdictLine():
            why = Markup(" ") + _element("span", _text(block.why), "soft") if block.why else Markup("")
            return _element("p", _chip(block.status) + " " + _text(block.words) + "." + why)
        case b.Warnings(lines=lines):
            return _element("ul", _join(_element("li", _escape(sentence(line))) for line in lines), "warnings")
        case b.Table():
            return _table(block)
        case b.KeyValues(rows=rows, inline=inline):
            pairs = [_element("dt", _escape(key)) + _element("dd", _text(words)) for key, words in rows]
            inside = [_element("div", pair) for pair in pairs] if inline else pairs
            return _element("dl", _lines(inside), "facts" if inline else "pairs")
        case b.ListBlock(items=items):
            return _element("ul", _join(_element("li", _text(item)) for item in items), "list")
        case b.Checks(checks=checks):
            return _element("ol", _join(_check(k, check) for k, check in enumerate(checks, 1)), "stages")
        case b.Measures(rows=measures):
            return _element("div", _lines(map(_measure, measures)), "measures")
        case b.Tiles(tiles=tiles):
            notes = _join(_element("p", _escape(sentence(tile.note)), "small soft") for tile in tiles if tile.note)
            return _element("dl", _join(map(_tile, tiles)), "tiles") + notes
        case b.Ladder():
            return _ladder(block)
        case b.Chart():
            return _chart(block)
        case b.Details(title=title, blocks=inner):
            return _element("details", _element("summary", _escape(title)) + _blocks(inner))
        case b.Heading(text=said):
            return _element("h3", _escape(said))
        case b.Code(text=said):
            return _code(said)
        case b.Tree(root=root):
            return _element("ul", _branch(root), "tree")
    raise TypeError(f"HTML knows no {type(block).__name__}")


def _text(words: b.Words) -> Markup:
    return _join(map(_span, b.spans(words)))


def _span(span: b.Span) -> Markup:
    said = _escape(span.text)
    match span.style:
        case Style.PLAIN | Style.NAME:
            return said
        case Style.CODE:
            return _element("code", said)
        case Style.STRONG:
            return _element("b", said)
        case Style.QUIET:
            return _element("span", said, "soft small")
        case fate if fate in FATE_STYLES:
            return _element("i", Markup(""), f"swatch fate-{fate.value}") + said
    return _element("span", said, f"word tone-{span.style.value}")


def _cell(cell: b.Cell) -> Markup:
    if isinstance(cell, b.Lines):
        return Markup("<br>").join(map(_escape, cell.lines))
    return _chip(cell) if isinstance(cell, Verdict) else _text(cell)


def _chip(status: Verdict) -> Markup:
    words = VERDICT[status]
    return _element("span", _escape(words.word), f"chip tone-{words.style.value}")


def _table(table: b.Table) -> Markup:
    rows, rest = table.visible(Medium.PAGE)
    layout = table.layout(Medium.PAGE)
    looks = [("n" * column.right + " wide" * column.wide).strip() for _, column, _ in layout]
    columns = list(zip(layout, looks, strict=True))
    heads = _join(_element("th", _escape(column.title), look) for (_, column, _), look in columns)
    body = _lines(
        _element(
            "tr", _join(_element("td", _stack_cells(row, place, under), look) for (place, _, under), look in columns)
        )
        for row in rows
    )
    drawn = _element("table", _element("thead", _element("tr", heads)) + _element("tbody", body))
    if table.scrolls or len(layout) > _MOST_COLUMNS:
        drawn = _element("div", drawn, "scroll")
    return drawn + (_element("p", _escape(rest), "soft small") if rest else "")


def _stack_cells(row: tuple[b.Cell, ...], place: int, under: list[int]) -> Markup:
    cell = _cell(row[place])
    for more in filter(None, (_cell(row[below]) for below in under)):
        cell += (Markup("<br>") if cell else Markup("")) + _element("span", more, "soft small")
    return cell


def _check(place: int, check: b.Check) -> Markup:
    aside = _element("span", _escape(check.aside), "soft small nowrap") if check.aside else Markup("")
    head = _escape(check.key) + " " + _element("span", _escape(check.title), "soft")
    parts = [_element("div", _element("h3", head) + aside, "head")]
    parts += [_element("p", _escape(check.about), "proves")] if check.about else []
    found = sentence(check.words) if isinstance(check.words, str) else check.words
    parts += [_element("p", _text(found))] if found else []
    body = _element("div", _join(parts) + _blocks(b.visible(check.blocks, Medium.PAGE)), "body")
    return Markup('<li id="stage-{}"><div>{}</div>{}</li>\n').format(place, _chip(check.status), body)


def _measure(row: b.Measure) -> Markup:
    value = _element("b", _escape(row.value)) + " " + _element("span", _escape(row.of), "soft")
    line = _element("div", _element("span", _escape(row.label)) + _element("span", value, "nowrap"), "line")
    return _element("div", line + (row.draw() if row.draw else Markup("")), "measure")


def _tile(tile: b.Tile) -> Markup:
    was = f"was {tile.before}" + (f" ({tile.change})" if tile.change else "")
    now = _element("div", _escape(tile.after), "now") + _element("div", _escape(was), "was")
    return _element("div", _element("dt", _escape(tile.label)) + _element("dd", now), "tile")


def _ladder(ladder: b.Ladder) -> Markup:
    steps = (
        _element("li", _element("b", _escape(step)) + _element("span", _escape(means)), "here" * (step == ladder.here))
        for step, means in ladder.steps
    )
    return _element("div", _element("h3", _escape(ladder.title)) + _element("ol", _join(steps), "ladder"))


def _chart(chart: b.Chart) -> Markup:
    drawn = chart.draw()
    if drawn is None:
        return Markup("")
    if isinstance(drawn, tuple):
        drawn = _element("div", _join(drawn), "plot")
    key = _join(
        _element("span", Markup('<i style="background:var(--{})"></i>').format(colour) + _escape(said), "key")
        for colour, said in chart.key
    )
    title = _element("b", _escape(chart.title)) if chart.title else Markup("")
    said = Markup(" ").join(part for part in (title, key, _escape(chart.caption)) if part)
    ends = _element("div", _join(_element("span", _escape(end)) for end in chart.ends), "ends in")
    return _element(
        "figure", (_element("figcaption", said) if said else Markup("")) + drawn + (ends if chart.ends else Markup(""))
    )


def _code(said: str) -> Markup:
    parts = (_element("span", _escape(part), "part") for part in said.split(" "))
    return _element("pre", _element("code", Markup(" ").join(parts)))


def _branch(node: b.TreeNode) -> Markup:
    inner = _element("ul", _join(map(_branch, node.children))) if node.children else Markup("")
    return _element("li", _element("b", _escape(node.label)) + " " + _escape(node.words) + inner)
