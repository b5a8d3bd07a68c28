"""A benchmark run as it goes: what was asked, then each model as soon as it is measured, a line of JSON each."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool and its version; empty where it is not installed."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Row:
    """One tool on one model; medians over the rounds."""

    tool: str
    seconds: float = 0.0
    peak_bytes: float = 0.0
    time_ratio: float | None = None  # to onnxruntime in the same round
    peak_ratio: float | None = None
    crashed: str = ""  # the last line that it said
    result: Mapping[str, Any] = field(default_factory=dict)  # what score.py printed

    def count(self, when: str, what: str) -> float | None:
        """Return a count of ``before`` or ``after``."""
        return self.result[when][what] if when in self.result else None


@dataclass(frozen=True, slots=True)
class Measured:
    """One model; ``load``: the machine's load average as it began."""

    label: str
    rows: Sequence[Row]
    load: float = 0.0


@dataclass(frozen=True, slots=True)
class Header:
    """What one run has in common; ``code`` is a digest of biasopt's sources, ``models`` those asked for, or empty."""

    tools: Sequence[Tool]
    repeat: int
    code: str = ""
    models: str = ""
    machine: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A whole run: its header, and the models in the order in which they were measured."""

    header: Header
    models: Sequence[Measured]

    def to_json(self) -> str:
        """Return it as a document of a line a model."""
        header, *models = (msgspec.json.encode(part).decode() for part in (self.header, *self.models))
        return f'{{"header":{header},"models":[\n' + ",\n".join(models) + "\n]}\n"

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what `to_json` made."""
        return cls.read_text(file.read_text(encoding="utf-8"))

    @classmethod
    def read_text(cls, text: str) -> Self:
        return msgspec.json.decode(text, type=cls)


class RunLog:
    """The file of a run that may not be whole yet."""

    def __init__(self, file: Path, header: Header, found: dict[str, Measured]) -> None:
        self.file, self.header, self.found = file, header, found

    @classmethod
    def open(cls, file: Path, header: Header, *, fresh: bool = False) -> Self:
        """Go on with the run in ``file`` if it asked for the same; else begin one there."""
        lines = [] if fresh or not file.exists() else file.read_bytes().splitlines()
        if lines:
            begun = msgspec.json.decode(lines[0], type=Header)
            if _asked(begun) == _asked(header):
                kept = cls(file, begun, {one.label: one for one in _whole(lines[1:])})
                file.write_bytes(b"".join(msgspec.json.encode(part) + b"\n" for part in (begun, *kept.found.values())))
                return kept
        file.parent.mkdir(parents=True, exist_ok=True)
        dated = Header(header.tools, header.repeat, header.code, header.models, machine(), _today())
        file.write_bytes(msgspec.json.encode(dated) + b"\n")
        return cls(file, dated, {})

    def add(self, measured: Measured) -> None:
        """Keep one model."""
        with self.file.open("ab") as out:
            out.write(msgspec.json.encode(measured) + b"\n")
        self.found[measured.label] = measured

    @property
    def run(self) -> Run:
        return Run(self.header, list(self.found.values()))

    def close(self) -> None:
        """Let the next call begin anew: all is written."""
        self.file.unlink()


def _asked(header: Header) -> tuple[object, ...]:
    return [(tool.name, tool.version) for tool in header.tools], header.repeat, header.code, header.models


def _whole(lines: Sequence[bytes]) -> list[Measured]:
    """The models that were written whole: a line that a kill has cut is measured again."""
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=Measured))
        except msgspec.DecodeError:
            break
    return found


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def machine() -> str:
    """Return processor, cores and system in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
