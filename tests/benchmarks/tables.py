"""The benchmark's result as tables: for each quantity one, a row a model, a column a tool; one of sums, a row a tool.

Its page is docs/bench-peers.md; docs/fold.md and README.md hold the sums and a sentence between markers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median, quantiles

from converter.report.docs import fill
from converter.report.render.markdown import table
from tests.benchmarks.run_log import Row, Run, Tool

DEFAULT = "(default)"  # the end of a label: as torch exports by default
SHARED = 1.5  # a load average that the benchmark, one process at a time, does not make alone


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
        "Nodes left",
        lambda row: row.count("after", "nodes"),
        _whole,
        ("before", lambda row: row.count("before", "nodes"), _whole),
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


def _mean(results: Results, tool: str, quantity: Quantity) -> float:
    """Sum one tool up over the models that every tool came through."""
    return quantity.total[1](
        [quantity.value(row) or 0.0 for rows in results.values() for row in rows if row.tool == tool]
    )


def results(run: Run) -> Results:
    return {one.label: one.rows for one in run.models}


def groups(run: Run) -> tuple[Results, Results]:
    """Return the models published or exported to keep batch norms, and those as torch exports by default."""
    present = [tool.name for tool in run.header.tools if tool.version]
    whole = {
        label: rows
        for label, rows in results(run).items()
        if all(_complete(rows, present, quantity) for quantity in QUANTITIES)
    }
    kept = {label: rows for label, rows in whole.items() if not label.endswith(DEFAULT)}
    return kept, {label: rows for label, rows in whole.items() if label.endswith(DEFAULT)}


def _before(results: Results, quantity: Quantity) -> str:
    value = quantity.first[1] if quantity.first else quantity.value
    return f"{sum(value(rows[0]) or 0 for rows in results.values()):,.0f}"


TIME, MEMORY, NORMS, NODES, BIASES, ERROR = QUANTITIES


def sums(run: Run) -> str:
    """Return the table of sums: a row a tool, a column a quantity, the last columns of torch's default exports."""
    kept, default = groups(run)
    head = [
        f"on {len(kept)} models",
        *(f"{name} left of {_before(kept, quantity)}" for name, quantity in COUNTS),
        "time",
        "memory",
        "largest error",
        *(f"by default: {name} of {_before(default, quantity)}" for name, quantity in COUNTS),
    ]
    rows = []
    for tool in run.header.tools:
        if not tool.version:
            rows.append([tool.name, *["not installed"] * (len(head) - 1)])
            continue
        counts = [[f"{_mean(group, tool.name, q):,.0f}" for _, q in COUNTS] for group in (kept, default)]
        costs = [q.show(_mean(kept, tool.name, q)) for q in (TIME, MEMORY, ERROR)]
        rows.append([tool.name, *counts[0], *costs, *counts[1]])
    return table(head, rows, right=tuple(range(1, len(head))))


COUNTS = (("BatchNorm", NORMS), ("nodes", NODES), ("biases", BIASES))


def where(run: Run) -> str:
    """Return date, machine, and whether other work ran beside the benchmark."""
    load = median(one.load for one in run.models)
    shared = ": it was shared with other work, so that times are rough; ratios are of the same minutes"
    return (
        f"One run of `make bench`, begun on {run.header.date}; {run.header.machine}. The machine's load average"
        f" was {load:.1f}{shared if load > SHARED else ''}."
    )


def spread(run: Run) -> str:
    """Return how the time of the checked fold is spread over the models."""
    ratios = {
        label: row.time_ratio or 0.0 for label, rows in groups(run)[0].items() for row in rows if row.tool == "biasopt"
    }
    low, _, high = quantiles(ratios.values(), n=4)
    least, most = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    return (
        f"With the check, half of the models take {low:.1f} to {high:.1f} times onnxruntime's time, the quickest"
        f" ({least}) {ratios[least]:.1f} times, the slowest ({most}) {ratios[most]:.0f} times."
    )


def sentence(run: Run) -> str:
    """Return the same for the README, in a few sentences."""
    kept, default = groups(run)
    others = [tool.name for tool in run.header.tools if tool.version and not tool.name.startswith("biasopt")]

    def of(tool: str, quantity: Quantity, group: Results = kept) -> str:
        return f"{_mean(group, tool, quantity):,.0f}"

    least = sorted(others, key=lambda tool: _mean(kept, tool, NORMS))
    left = ", ".join(f"{tool} {of(tool, NORMS)}" for tool in least)
    cost = [_mean(kept, tool, q) for tool in ("biasopt", "biasopt --no-verify") for q in (TIME, MEMORY)]
    return (
        f"Of {_before(kept, NORMS)} batch norms in {len(kept)} models, exported so as to keep them, biasopt leaves"
        f" {of('biasopt', NORMS)} ({left}). Of {_before(default, NORMS)} in torch's"
        f" default exports of {len(default)} nets it leaves {of('biasopt', NORMS, default)}, of"
        f" {_before(default, BIASES)} biases {of('biasopt', BIASES, default)}. It takes"
        f" {cost[0]:.1f} times the time and {cost[1]:.1f} times the memory of onnxruntime's offline pass, without the"
        f" check {cost[2]:.1f} and {cost[3]:.1f}. {where(run)}"
    )


def _wrapped(*sentences: str) -> str:
    return textwrap.fill(" ".join(sentences), 138, break_long_words=False, break_on_hyphens=False)


def documents(run: Run, root: Path) -> dict[Path, str]:
    """Return each document that holds something of a run, and its text."""
    fold, readme = root / "docs" / "fold.md", root / "README.md"
    parts = {fold: f"{sums(run)}\n\n{_wrapped(spread(run), where(run))}", readme: _wrapped(sentence(run))}
    return {
        root / "docs" / "bench-peers.md": markdown(run),
        **{file: fill(file.read_text(encoding="utf-8"), "peers", body) for file, body in parts.items()},
    }


TOLD = """\
biasopt checks its result before it writes it, which of the others only onnxsim does, on one input; with
`--no-verify` it does not. It runs with `--freeze-overridable` where weights are listed as graph inputs. onnxruntime
is its offline pass, `ORT_ENABLE_BASIC`; *extended* is `ORT_ENABLE_EXTENDED`, whose files only onnxruntime runs, and
whose quantized operators hold biases that are not counted. An error is onnxruntime's output of the rewritten file
against that of the original, all optimisations off, on one seeded input. Memory is that of the largest process. A
last line sums up the models that every installed tool came through.

Nets of torchvision are exported three times, with random statistics of their batch norms: *torchscript* and
*dynamo* are told to keep them (without constant folding, `optimize=False`), *default* is `torch.onnx.export(...,
dynamo=True)`."""


def markdown(run: Run) -> str:
    """Return the whole page."""
    tools = run.header.tools
    versions = ", ".join(f"{tool.name} {tool.version or '(not installed)'}" for tool in tools)
    lines = [
        "# biasopt beside its neighbours",
        "",
        _wrapped(
            where(run), f"{versions}.", f"Medians of {run.header.repeat} rounds, in each of which every tool ran once."
        ),
        "",
        TOLD,
        "",
        "## Sums",
        "",
        sums(run),
        "",
    ]
    for quantity in QUANTITIES:
        head, body = grid(results(run), tools, quantity)
        lines += [f"## {quantity.title}", "", table(head, body, right=tuple(range(1, len(head)))), ""]
    crashes = [
        f"* {one.label}, {row.tool}: `{row.crashed[:200]}`" for one in run.models for row in one.rows if row.crashed
    ]
    return "\n".join(lines + (["## Crashes", "", *crashes, ""] if crashes else []))
