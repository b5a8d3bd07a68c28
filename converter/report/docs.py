"""The page of each pass, and what else can be generated: ``python -m converter.report.docs [--check]``.

docs/commands.md gets each command's help, docs/passes.md the table of passes and each pass's page, docs/schema/ the
JSON Schema of each document; CONTRIBUTING.md the plan of the tree between ``<!-- BEGIN:tree -->`` and its end: each
file with the first sentence of its docstring. With ``--check`` nothing is written, and the exit status is 1 where
something is out of date.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import BiasoptError
from converter.report import serialize, wording
from converter.report.content.fold import collect_reasons
from converter.report.render.markdown import prose, table

ROOT = Path(__file__).resolve().parents[2]

if TYPE_CHECKING:
    from converter.rewrite.passes import Pass


def generated(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file and what it should hold."""
    from converter.rewrite.passes import PASSES

    contributing = root / "CONTRIBUTING.md"
    try:
        text = contributing.read_text(encoding="utf-8")
    except OSError as exc:
        raise BiasoptError(f"{contributing}: {exc.strerror}; run this in a checkout of the project") from exc
    return {
        contributing: fill(text, "tree", tree_markdown(root)),
        root / "docs" / "commands.md": commands_markdown(root, _help(root)),
        root / "docs" / "passes.md": passes_markdown(PASSES),
        **{root / "docs" / "schema" / f"{name}.json": text for name, text in schemas().items()},
    }


def schemas() -> dict[str, str]:
    """The JSON Schema of each document that is made of records, by its name."""
    found = {name.removeprefix("biasopt.").partition("/")[0]: serialize.schema(name) for name in serialize.SCHEMAS}
    return {name: json.dumps(schema, indent=1, default=list) + "\n" for name, schema in found.items()}


def tree_markdown(root: Path) -> str:
    """The plan of the code: every folder and file of converter/, each with the first sentence of its docstring."""
    package = root / "converter"
    lines = []
    for folder in sorted({path.parent for path in package.rglob("*.py")}):
        files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        name = folder.relative_to(root).as_posix()
        lines += [f"\n**{name}/** {_sentence(folder / '__init__.py')}\n"]
        lines += [f"* `{path.name}` {_sentence(path)}" for path in files]
    return "\n".join(lines)


def _sentence(path: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(doc.partition("\n\n")[0].split())
    return re.split(r"(?<=[^.][.?]) (?=[A-Z])", paragraph)[0].removesuffix(":")


def fill(text: str, name: str, body: str) -> str:
    """Replace what stands between the two markers of ``name``."""
    begin, end = f"<!-- BEGIN:{name} -->", f"<!-- END:{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise BiasoptError(f"the document needs {begin} and {end}, once each and in this order")
    # a function, so that a backslash in a help text is not read as a group reference
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{body.strip()}\n{end}", text, flags=re.DOTALL)


def commands_markdown(root: Path, overview: str) -> str:
    """Each command's ``--help``, as a user with a terminal of 80 columns sees it."""
    # what stands under "Commands:", two spaces in
    names = re.findall(r"^  ([a-z][a-z-]*)  ", overview.partition("\nCommands:\n")[2], flags=re.MULTILINE)
    pages = [f"## biasopt {name}\n\n{_as_session(_help(root, name), name)}" for name in names]
    return "\n\n".join(["# Commands", "What each says to `--help`.", _as_session(overview), *pages]) + "\n"


def _as_session(text: str, name: str = "") -> str:
    return f"```text\n$ {' '.join(('biasopt', *name.split(), '--help'))}\n{text}\n```"


def _help(root: Path, *command: str) -> str:
    # through a process, because the report knows no command line; the words are those that a user gets
    env = os.environ | {"COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    argv = [sys.executable, str(root / "cli.py"), *command, "--help"]
    ran = subprocess.run(  # noqa: S603  (this Python and this project's own file)
        argv, env=env, capture_output=True, text=True, encoding="utf-8", check=True
    )
    return "\n".join(line.rstrip() for line in ran.stdout.splitlines()).strip()


REMOVAL_PAGE = """\
remove-biases
=============

No pass of the table: after the fold and its proof, biases that matter a little go by your data
(``fold --allow remove-biases --inputs DATA``), and weights are changed to make up for them. The data
are split: fitted on one part, selected on another, judged once on a third.

Declines: the biases of the first and the last layer and of depthwise ones, unless --also-remove
names them; those without which --accuracy-margin would not be kept.

Safety: assumes. The outputs change; decisions on data like yours stay within the margin (0.1 % unless
given). Off the data they may change more, which the report says. Runs last.
"""


def render_page(row: Pass, passes: Sequence[Pass]) -> str:
    """One pass's page as text: its docstring, its conditions, its promise and its place in the order."""
    parts = [f"{row.name}\n{'=' * len(row.name)}", row.page, _guards(row)]
    return "\n\n".join([*parts, "\n".join(_promise(row, passes))]) + "\n"


def _guards(row: Pass) -> str:
    """The conditions under which the pass declines, one per line."""
    if not row.guards:
        return "Declines: never; what has the shape is folded."
    said = collect_reasons([row])
    width = max(map(len, said))
    lines = [f"  {code:<{width}}  {why}" for code, why in said.items()]
    return "\n".join(["Declines, in this order:", *lines])


def passes_table(passes: Iterable[Pass]) -> str:
    """The table of passes, in the order in which they run."""
    rows = [
        (str(place), f"[`{row.name}`](#{row.name})", prose(row.summary), row.safety.value)
        for place, row in enumerate(passes, 1)
    ]
    return table(("", "pass", "what it does", "safety"), rows, right=(0,))


def passes_markdown(passes: Sequence[Pass]) -> str:
    """Every page, as one Markdown document."""
    head = "# Passes\n\nGenerated from the passes by `python -m converter.report.docs`; do not edit.\n"
    return f"{head}\n{passes_table(passes)}\n" + "".join(f"\n{_section(row, passes)}" for row in passes)


def _section(row: Pass, passes: Sequence[Pass]) -> str:
    guards = [(f"`{code}`", prose(why)) for code, why in collect_reasons([row]).items()]
    declines = table(("declines", "because"), guards) if guards else "Declines never."
    promise = "\n".join(f"- {line}" for line in _promise(row, passes))
    return f"## {row.name}\n\n```text\n{row.page}\n```\n\n{declines}\n\n{promise}\n"


def _promise(row: Pass, passes: Sequence[Pass]) -> list[str]:
    place = [other.name for other in passes].index(row.name) + 1
    order = f"Order: {place} of {len(passes)}" + (f", after {', '.join(row.after)}" if row.after else "")
    return [f"Outputs: {wording.SAFETY[row.safety]}", order]


def main(argv: list[str], root: Path = ROOT) -> int:
    """Write the files, or with ``--check`` say which are out of date."""
    check = "--check" in argv
    try:
        wanted = generated(root)
    except BiasoptError as exc:
        sys.stderr.write(f"biasopt: error: {exc}\n")
        return 3
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        sys.stdout.write(f"{path.relative_to(root)}: {'out of date; run `make docs`' if check else 'written'}\n")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8", newline="\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
