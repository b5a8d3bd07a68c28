"""Markdown that nothing from a model can break out of."""

from __future__ import annotations

import re
from collections.abc import Sequence

from converter.records import Verdict
from converter.report import wording

MARK = {
    Verdict.PASS: "✅",
    Verdict.FAIL: "❌",
    Verdict.INCONCLUSIVE: "⚠️",
    Verdict.SKIPPED: "⚠️",
}


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """A Markdown table; ``right`` are the columns that are set flush right."""
    rule = ["---:" if column in right else "---" for column in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, tuple(rule), *rows))


def literal(text: str) -> str:
    """Text from a model, as code: nothing in it is Markdown, HTML or a table's border."""
    shown = wording.plain(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def prose(text: str) -> str:
    """A sentence that may quote names from a model: no Markdown, HTML, mention or table border in it."""
    return re.sub(r"([\\`*_{}\[\]<>|#@~])", r"\\\1", wording.plain(text))


def details(title: str, body: str) -> str:
    """What unfolds on a click; empty where there is nothing to show."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>" if body else ""


def block(text: str) -> str:
    """Lines of code, fenced by more backticks than they hold in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
