"""Write docs/study.md and its figures from docs/study/report.json: ``python -m converter.study.docs [--check]``.

docs/study.md keeps what stands outside the markers ``<!-- BEGIN:result -->`` and ``<!-- END:result -->``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from converter.report.content.document import run_of
from converter.report.content.study import QUESTION, study_report
from converter.report.content.study_figures import draw_figures
from converter.report.docs import ROOT, fill
from converter.report.render.markdown import render_markdown
from converter.report.serialize import study_of

PAGE, FOLDER = Path("docs/study.md"), Path("docs/study")


def generated(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file and what it should hold."""
    document = json.loads((root / FOLDER / "report.json").read_text(encoding="utf-8"))
    result = study_of(document)
    whole = render_markdown(study_report(result, run_of(document), FOLDER.name))
    body = f"## {QUESTION}\n{whole.partition(chr(10))[2]}"
    page = fill((root / PAGE).read_text(encoding="utf-8"), "result", body)
    drawn = {root / FOLDER / f"{name}.svg": figure.render_file() for name, figure in draw_figures(result).items()}
    return {root / PAGE: page} | drawn


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
