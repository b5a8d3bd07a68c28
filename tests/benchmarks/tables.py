"""The benchmark's result as tables: one for each quantity, a row a model, a column a tool."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean
from typing import Any


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
class Quantity:
    """One table: what a cell shows, what it starts from, and how a column is summed up."""

    title: str
    value: Callable[[Row], float | None]
    show: Callable[[float], str]
    first: tuple[str, Callable[[Row], float | None], Callable[[float], str]] | None = None
    total: tuple[str, Callable[[Sequence[float]], float]] = ("sum", sum)


Results = Mapping[str, Sequence[Row]]


def _times(value: float) -> str:
    return f"{value:.2f}x"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _error(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"


QUANTITIES = (
    Quantity(
        "Time of the whole process, relative to onnxruntime's",
        lambda row: row.time_ratio,
        _times,
        ("onnxruntime's", lambda row: row.seconds, lambda value: f"{value:.2f} s"),
        ("geometric mean", geometric_mean),
    ),
    Quantity(
        "Peak memory of the whole process, relative to onnxruntime's",
        lambda row: row.peak_ratio,
        _times,
        ("onnxruntime's", lambda row: row.peak_bytes, lambda value: f"{value / 1e6:.0f} MB"),
        ("geometric mean", geometric_mean),
    ),
    Quantity(
        "BatchNormalization nodes left",
        lambda row: row.count("after", "bn"),
        _whole,
        ("before", lambda row: row.count("before", "bn"), _whole),
    ),
    Quantity(
        "Biases left on Conv, ConvTranspose and Gemm",
        lambda row: row.count("after", "bias"),
        _whole,
        ("before", lambda row: row.count("before", "bias"), _whole),
    ),
    Quantity(
        "Largest error of any output, relative to that output's largest value",
        lambda row: row.result.get("error"),
        _error,
        total=("largest", max),
    ),
)


def _cell(row: Row | None, quantity: Quantity) -> str:
    if row is None:
        return "not installed"
    if row.crashed:
        return "crashed"
    value = quantity.value(row)
    return "not run" if value is None else quantity.show(value)


def _first(rows: Sequence[Row], quantity: Quantity) -> list[str]:
    """Return what one model's numbers start from: onnxruntime's own cost, or the count before."""
    if quantity.first is None:
        return []
    _, value, show = quantity.first
    base = next((row for row in rows if row.tool == "onnxruntime" and not row.crashed), None)
    found = value(base) if base else None
    return ["-" if found is None else show(found)]


def _total(results: Results, tools: Sequence[Tool], quantity: Quantity) -> list[str]:
    """Sum up each tool over the models that every installed tool came through."""
    name, reduce = quantity.total
    present = [tool.name for tool in tools if tool.version]
    common = [rows for rows in results.values() if _complete(rows, present, quantity)]

    def column(tool: str, value: Callable[[Row], float | None]) -> list[float]:
        return [value(row) or 0.0 for rows in common for row in rows if row.tool == tool]

    cells = [
        quantity.show(reduce(column(tool.name, quantity.value))) if common and tool.version else "-" for tool in tools
    ]
    first = []
    if quantity.first is not None:  # costs of different models have no sum that means something
        _, value, show = quantity.first
        first = [show(reduce(column(present[0], value))) if common and name == "sum" else ""]
    return [f"{name} of {len(common)}", *first, *cells]


def _complete(rows: Sequence[Row], tools: Sequence[str], quantity: Quantity) -> bool:
    found = {row.tool: quantity.value(row) for row in rows if not row.crashed}
    return all(found.get(tool) is not None for tool in tools)


def grid(results: Results, tools: Sequence[Tool], quantity: Quantity) -> tuple[list[str], list[list[str]]]:
    """Return heading and lines of one table, the last line summing up."""
    head = ["model", *([quantity.first[0]] if quantity.first else []), *(tool.name for tool in tools)]
    lines = []
    for label, rows in results.items():
        found = {row.tool: row for row in rows}
        lines.append([label, *_first(rows, quantity), *(_cell(found.get(tool.name), quantity) for tool in tools)])
    return head, [*lines, _total(results, tools, quantity)]


def machine() -> str:
    """Return processor, cores and system in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def markdown(results: Results, tools: Sequence[Tool], repeat: int) -> str:
    """Return the whole page."""
    versions = ", ".join(f"{tool.name} {tool.version or '(not installed)'}" for tool in tools)
    lines = [
        "# biasopt beside its neighbours",
        "",
        f"Written by `make bench` on {datetime.now(UTC).date().isoformat()}. {machine()}.",
        f"{versions}. Medians of {repeat} rounds in which every tool ran once.",
        "",
        "biasopt checks its result before it writes it, which of the others only onnxsim does, on one input; with",
        "`--no-verify` it does not. It runs with `--freeze-overridable` where weights are listed as graph inputs.",
        "onnxruntime is its offline pass, `ORT_ENABLE_BASIC`. An error is onnxruntime's output of the rewritten file",
        "against that of the original, all optimisations off, on one seeded input. A last line sums up the models that",
        "every installed tool came through.",
        "",
    ]
    for quantity in QUANTITIES:
        head, body = grid(results, tools, quantity)
        lines += [f"## {quantity.title}", "", "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        lines += ["| " + " | ".join(line) + " |" for line in body]
        lines.append("")
    crashes = [
        f"* {label}, {row.tool}: `{row.crashed[:200]}`"
        for label, rows in results.items()
        for row in rows
        if row.crashed
    ]
    return "\n".join(lines + (["## Crashes", "", *crashes, ""] if crashes else []))


def write(results: Results, tools: Sequence[Tool], repeat: int, target: Path) -> None:
    """Print the tables and write the page."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for quantity in QUANTITIES:
        head, body = grid(results, tools, quantity)
        view = Table(title=quantity.title, title_justify="left")
        for index, name in enumerate(head):
            view.add_column(name, justify="right" if index else "left", overflow="fold")
        for line in body[:-1]:
            view.add_row(*line)
        view.add_section()
        view.add_row(*body[-1])
        console.print(view)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(markdown(results, tools, repeat), encoding="utf-8")
    console.print(f"written to {target}")
