"""Write docs/study.md and its figures from docs/study/report.json: ``python -m converter.study.docs [--check]``.

docs/study.md keeps what stands outside the markers ``<!-- BEGIN:result -->`` and ``<!-- END:result -->``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from converter.report.docs import ROOT, fill
from converter.study import markdown
from converter.study.figures import figures

PAGE, FOLDER = Path("docs/study.md"), Path("docs/study")
_INFINITE = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


def generated(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file and what it should hold."""
    document = read(root / FOLDER / "report.json")
    title, _, rest = markdown.markdown(document, FOLDER.name).partition("\n")
    body = f"#{title}\n{rest}"  # one level down: the page has a title of its own
    assert title.startswith("# ")
    page = fill((root / PAGE).read_text(encoding="utf-8"), "result", body)
    drawn = {root / FOLDER / f"{name}.svg": figure.file() for name, figure in figures(document).items()}
    return {root / PAGE: page} | drawn


def read(path: Path) -> dict[str, Any]:
    """A document, with its infinities as numbers again."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found["results"] = _numbers(found["results"])
    return found


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return _INFINITE.get(value, value) if isinstance(value, str) else value


def main(argv: list[str]) -> int:
    """Write them, or with ``--check`` say which are out of date."""
    old = 0
    for path, text in generated().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        old += 1
        if "--check" in argv:
            sys.stderr.write(f"{path} is out of date; run python -m converter.study.docs\n")
        else:
            path.write_text(text, encoding="utf-8", newline="\n")
    return 1 if old and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
