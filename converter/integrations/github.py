"""What the GitHub action says when a command is done: outputs, step summary, and an annotation where it failed.

``action.yml`` calls it with the report's folder and the exit code. What is not set (``GITHUB_OUTPUT`` and
``GITHUB_STEP_SUMMARY`` elsewhere than on a runner) is left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.bounded_json import parse_json


def main(argv: Sequence[str] | None = None) -> None:
    """Tell the runner what ``FOLDER/report.json`` holds; ``argv``: the folder, and the command's exit code."""
    folder, code = (sys.argv[1:] if argv is None else argv)[:2]
    document = _read(Path(folder) / "report.json")
    found = {"verdict": find_verdict(document, int(code)), "ratio": _find_ratio(document), "report": folder}
    _append("GITHUB_OUTPUT", "".join(f"{name}={_one_line(value)}\n" for name, value in found.items()))
    page = Path(folder) / "report.md"
    if page.is_file():
        _append("GITHUB_STEP_SUMMARY", page.read_text(encoding="utf-8") + "\n")
    if int(code):
        level = "warning" if found["verdict"] == "INCONCLUSIVE" else "error"
        title = f"biasopt {_find_command(document)}".strip()
        sys.stdout.write(f"::{level} title={_escape(title)}::{_escape(find_reason(document, int(code)))}\n")


def find_verdict(document: Mapping[str, Any], code: int) -> str:
    """The gravest verdict of a report; of a command without one, what its exit code says."""
    there = [document.get("verdict")] + [(document.get(part) or {}).get("verdict") for part in ("parity", "bench")]
    for verdict in ("FAIL", "INCONCLUSIVE", "PASS"):
        if verdict in there:
            return verdict
    return {0: "PASS", 1: "FAIL", 4: "INCONCLUSIVE"}.get(code, "ERROR")


def find_reason(document: Mapping[str, Any], code: int) -> str:
    """Why it failed, in a sentence."""
    parts = [document, document.get("parity") or {}, document.get("bench") or {}]
    said = [str(part["why"]) for part in parts if part.get("why") and part.get("verdict") != "PASS"]
    return said[0] if said else f"exit code {code}; see the log"


def _find_ratio(document: Mapping[str, Any]) -> str:
    ratio = (document.get("bench") or {}).get("ratio")
    return "" if ratio is None else f"{ratio:.4g}"


def _find_command(document: Mapping[str, Any]) -> str:
    return str(document.get("schema", "")).removeprefix("biasopt.").partition("/")[0]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the command ended before there was one
        return {}
    return found if isinstance(found, dict) else {}


def _append(variable: str, text: str) -> None:
    if path := os.environ.get(variable):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escape(text: str) -> str:
    """Text that stays one command of the runner, whatever it holds."""
    for sign, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C")):
        text = text.replace(sign, code)
    return text
