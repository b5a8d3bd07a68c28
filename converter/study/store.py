"""Rows on disk, one JSON object per line, written a job at a time: a run that was cut short loses one job at most."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.errors import BiasoptError

Row = dict[str, Any]
ROWS, SETTINGS, RUNS = "rows.jsonl", "settings.json", "runs.jsonl"


class Store:
    """Rows by job, kept in a folder if there is one.

    Parameters
    ----------
    settings : mapping
        What rows depend on besides their job; a folder with other settings is refused.

    Raises
    ------
    BiasoptError
        The folder holds another study, or cannot be used.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._rows: dict[str, list[Row]] = {}
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._settle(folder / SETTINGS, settings)
            self._rows = _read(folder / ROWS)
            self._rewrite(folder / ROWS)
        except OSError as exc:
            raise BiasoptError(f"{folder}: cannot keep rows there ({exc.strerror}); choose another --out") from exc

    def _settle(self, path: Path, settings: Mapping[str, Any]) -> None:
        if not path.exists():
            path.write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != dict(settings):
            before = found if isinstance(found, dict) else {}
            differ = [k for k in settings if before.get(k) != settings[k]]
            raise BiasoptError(
                f"{path.parent}: holds rows of another study ({', '.join(differ) or 'settings'} differ); "
                "choose another --out"
            )

    def _rewrite(self, path: Path) -> None:
        """Leave out what was cut short."""
        lines = [line for rows in self._rows.values() for line in _lines(rows)]
        temporary = path.with_suffix(".new")
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
        temporary.replace(path)

    def __contains__(self, job: str) -> bool:
        return job in self._rows

    def add(self, job: str, rows: Sequence[Row]) -> None:
        """Keep the rows of a job."""
        with self._lock:
            self._rows[job] = list(rows)
            if self._folder is not None:
                with (self._folder / ROWS).open("a", encoding="utf-8", newline="\n") as file:
                    file.write("".join(_lines(rows)))

    def spent(self, seconds: float, cpu_seconds: float) -> tuple[float, float]:
        """Note how long this run took; give back what all runs in this folder took, on the clock and on processors."""
        runs = [{"seconds": seconds, "cpu_seconds": cpu_seconds}]
        if self._folder is not None:
            path = self._folder / RUNS
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(runs[0]) + "\n")
            runs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return sum(run["seconds"] for run in runs), sum(run["cpu_seconds"] for run in runs)

    def rows(self, jobs: Sequence[str] | None = None) -> list[Row]:
        """All rows, or those of these jobs, in an order that does not depend on which job ended first."""
        return [row for job in sorted(self._rows) if jobs is None or job in jobs for row in self._rows[job]]


def _lines(rows: Sequence[Row]) -> list[str]:
    return [json.dumps(row) + "\n" for row in rows]


def _read(path: Path) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                found[row["job"]].append(row)
            except (ValueError, KeyError, TypeError):
                continue  # a line that was cut short
    return {job: rows for job, rows in found.items() if len(rows) == rows[0].get("of")}
