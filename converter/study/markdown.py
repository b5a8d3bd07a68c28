"""The report as Markdown; with the folder of its figures it shows these, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converter.report.render.markdown import details, prose, table
from converter.study.sections import Section, sections, spent
from converter.study.table import Table

_STATE = {True: "passed", False: "**failed**", None: "not run"}


def markdown(document: Mapping[str, Any], pictures: str = "") -> str:
    """The document as Markdown that ends in a newline.

    Parameters
    ----------
    pictures : str
        Folder of the figures, as the reader's links see it; empty for none.
    """
    claims = [(c["id"], prose(c["said"]), f"**{c['stamp']}**", prose(c["because"])) for c in document["claims"]]
    controls = [f"- {prose(c['name'])}: {_STATE[c['passed']]}; {prose(c['said'])}" for c in document["checks"]]
    parts = [
        "# Does bias in the convolutional layer make a difference?",
        f"**{prose(document['verdict']['sentence'])}** {prose(document['verdict']['more'])}",
        "\n".join(f"> {prose(w)}" for w in document["warnings"]),
        table(("", "claimed", "here", "because"), claims),
        "Controls, without which nothing else counts:\n\n" + "\n".join(controls),
        *(_section(section, pictures) for section in sections(document)),
        "## What this does not show\n\n" + "\n".join(f"- {prose(said)}" for said in document["limits"]),
        f"<sub>{prose(spent(document))}</sub>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section, pictures: str) -> str:
    drawn = [f"![{f.title}]({pictures}/{f.name}.svg)\n\n<sub>{prose(f.caption)}</sub>" for f in section.figures]
    first, *more = [_table(found) for found in section.tables] or [""]
    parts = [f"## {section.title}", prose(section.lead), *(drawn if pictures else []), first]
    parts += [details(found.title, body) for found, body in zip(section.tables[1:], more, strict=True)]
    return "\n\n".join(part for part in parts if part)


def _table(found: Table) -> str:
    rows = [tuple(prose(cell) for cell in row) for row in found.rows]
    laid = table(tuple(prose(head) for head in found.header), rows, right=found.right)
    return f"{laid}\n\n{prose(found.note)}" if found.note else laid
