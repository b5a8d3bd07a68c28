"""The table of passes and each pass's own page, both read from the passes themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from converter.report import wording
from converter.report.groups import reasons
from converter.report.markdown import prose, table
from converter.report.result import PassLike


def page(row: PassLike, passes: Sequence[PassLike]) -> str:
    """One pass's page as text: its docstring, its conditions, its promise and its place in the order."""
    parts = [f"{row.name}\n{'=' * len(row.name)}", row.page, guard_text(row)]
    return "\n\n".join([*parts, "\n".join(_promise(row, passes))]) + "\n"


def guard_text(row: PassLike) -> str:
    """The conditions under which the pass declines, one per line."""
    if not row.guards:
        return "Declines: never; what has the shape is folded."
    said = reasons([row])
    width = max(map(len, said))
    lines = [f"  {code:<{width}}  {why}" for code, why in said.items()]
    return "\n".join(["Declines, in this order:", *lines])


def table_markdown(passes: Iterable[PassLike]) -> str:
    """The table of passes, in the order in which they run."""
    rows = [
        (str(place), f"[`{row.name}`](docs/passes.md#{row.name})", prose(row.summary), row.safety.value)
        for place, row in enumerate(passes, 1)
    ]
    return table(("", "pass", "what it does", "safety"), rows, right=(0,))


def pages_markdown(passes: Sequence[PassLike]) -> str:
    """Every page, as one Markdown document."""
    head = "# Passes\n\nGenerated from the passes by `python -m converter.report.docs`; do not edit.\n"
    return head + "".join(f"\n{_section(row, passes)}" for row in passes)


def _section(row: PassLike, passes: Sequence[PassLike]) -> str:
    guards = [(f"`{code}`", prose(why)) for code, why in reasons([row]).items()]
    declines = table(("declines", "because"), guards) if guards else "Declines never."
    promise = "\n".join(f"- {line}" for line in _promise(row, passes))
    return f"## {row.name}\n\n```text\n{row.page}\n```\n\n{declines}\n\n{promise}\n"


def _promise(row: PassLike, passes: Sequence[PassLike]) -> list[str]:
    place = [other.name for other in passes].index(row.name) + 1
    order = f"Order: {place} of {len(passes)}" + (f", after {', '.join(row.after)}" if row.after else "")
    return [f"Outputs: {wording.SAFETY[row.safety]}", order]
