"""Read a document from a file, and say in one line what is wrong with one that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from converter.errors import DataError
from converter.report import schema

MOST_BYTES = 1 << 30  # a report of 100,000 layers has 60 MB


def read(path: Path) -> dict[str, Any]:
    """The document in a file.

    Raises
    ------
    DataError
        The file cannot be read, or is no document of a known schema.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path}: too large for a report; give the report.json of fold, verify or bench")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror})") from exc
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{path}: not JSON; give the report.json of fold, verify or bench") from exc
    name = found.get("schema") if isinstance(found, dict) else None
    if name not in schema.KINDS:
        raise DataError(f"{path}: {_stranger(name)}; this version reads {', '.join(schema.KINDS)}")
    if wrong := schema.problems(found):
        raise DataError(f"{path}: no whole {name}: {wrong[0]}; make it again")
    assert isinstance(found, dict)
    return found


def _stranger(name: object) -> str:
    if not isinstance(name, str):
        return "no report of biasopt: it names no schema"
    return f"its schema is {name[:60]!r}" if name.startswith("biasopt.") else "no report of biasopt"
