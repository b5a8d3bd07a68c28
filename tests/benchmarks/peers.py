"""biasopt beside its neighbours, on the same files in the same minutes: ``make bench``.

Every tool runs as a process of its own. In each round each tool runs once, in an order that turns with the
round, so that a slow minute of the machine slows all of them; a ratio is taken within a round, and the median
of the rounds is shown. The first round warms the file cache and is not counted.

``python -m tests.benchmarks.peers [--models a,b] [--tools x,y] [--repeat N] [--out FILE]``
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from tests.benchmarks import nets
from tests.benchmarks.proc import ROOT, Cost, run
from tests.benchmarks.tables import Row, Tool, write

BASELINE = "onnxruntime"
UNCHECKED = "biasopt --no-verify"
TOOLS = ("biasopt", UNCHECKED, BASELINE, "onnxslim", "onnxsim", "onnxoptimizer", "onnxscript")
OUT = ROOT / "docs" / "bench-peers.md"


def installed(tool: str) -> str:
    """Return the version that is installed, or an empty text."""
    if tool in ("biasopt", UNCHECKED):
        return str(
            subprocess.check_output([sys.executable, "-m", "biasopt", "--version"], cwd=ROOT, text=True)
        ).split()[-1]
    for name in (tool, f"{tool}-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def command(tool: str, source: Path, target: Path, freeze: bool) -> list[str]:
    """Return the command that rewrites one file with one tool."""
    if tool not in ("biasopt", UNCHECKED):
        worker = ROOT / "tests" / "benchmarks" / "worker.py"
        return [sys.executable, "-P", str(worker), tool, str(source), str(target)]
    options = [*(["--no-verify"] if tool == UNCHECKED else []), *(["--freeze-overridable"] if freeze else [])]
    return [sys.executable, "-m", "biasopt", "fold", str(source), "-o", str(target), "--force", *options]


def score(before: Path, after: Path) -> dict[str, object]:
    """Count and compare in a process of its own."""
    text = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.score", str(before), str(after)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return dict(json.loads(text)) if text else {"error": None, "why": "the scoring process crashed"}


def models(names: Sequence[str]) -> list[tuple[str, Path]]:
    """Return label and file of every model: the corpus, then each net from each exporter."""
    corpus = os.environ.get("BIASOPT_CORPUS")
    files = sorted(Path(corpus).glob("*.onnx")) if corpus else []
    found = [(file.stem, file) for file in files if not names or file.stem in names]
    for name in nets.NAMES:
        for exporter in nets.EXPORTERS:
            label = f"{name} ({exporter})"
            if not names or name in names or label in names:
                found.append((label, nets.path(name, exporter)))
    return found


def rounds(source: Path, tools: Sequence[str], repeat: int, freeze: bool, folder: Path) -> dict[str, list[Cost]]:
    """Run each tool once a round; a tool that crashed once is not run again."""
    costs: dict[str, list[Cost]] = {tool: [] for tool in tools}
    for index in range(repeat + 1):
        turn = index % len(tools)
        for tool in [*tools[turn:], *tools[:turn]]:
            if not costs[tool] or not costs[tool][-1].exit_code:
                target = folder / f"{tool}.onnx"
                target.unlink(missing_ok=True)
                costs[tool].append(run(command(tool, source, target, freeze)))
    return costs


def row(tool: str, costs: dict[str, list[Cost]], before: Path, after: Path) -> Row:
    """Sum up one tool on one model."""
    own, base = costs[tool], costs[BASELINE]
    if own[-1].exit_code or not after.exists():
        said = own[-1].said.strip().splitlines() or [f"exit code {own[-1].exit_code}, nothing said"]
        return Row(tool, crashed=said[-1])
    pairs = list(zip(own[1:], base[1:], strict=False))
    result = score(before, after)
    return Row(
        tool,
        seconds=median(cost.seconds for cost in own[1:]),
        peak_bytes=median(cost.peak_bytes for cost in own[1:]),
        time_ratio=median(a.seconds / b.seconds for a, b in pairs) if pairs else None,
        peak_ratio=median(a.peak_bytes / b.peak_bytes for a, b in pairs) if pairs else None,
        result=result,
    )


def measure(label: str, source: Path, tools: Sequence[str], repeat: int) -> list[Row]:
    """Run all tools on one model."""
    freeze = bool(score(source, source).get("overridable"))
    with tempfile.TemporaryDirectory() as folder:
        costs = rounds(source, tools, repeat, freeze, Path(folder))
        rows = [row(tool, costs, source, Path(folder) / f"{tool}.onnx") for tool in tools]
    shown = (f"{row.tool} {'crashed' if row.crashed else f'{row.seconds:.2f} s'}" for row in rows)
    print(f"{label}:", ", ".join(shown), file=sys.stderr, flush=True)
    return rows


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="", help="comma-separated: resnet50, 'resnet50 (dynamo)', mesonet, ...")
    parser.add_argument("--tools", default=",".join(TOOLS), help="comma-separated; onnxruntime is always among them")
    parser.add_argument("--repeat", type=int, default=5, help="rounds that count")
    parser.add_argument("--out", type=Path, default=OUT, help="the Markdown file to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    asked = set(args.tools.split(",")) | {BASELINE}
    if unknown := asked - set(TOOLS):
        print(f"unknown tool: {', '.join(sorted(unknown))}; known: {', '.join(TOOLS)}", file=sys.stderr)
        return 2
    known = [Tool(name, installed(name)) for name in TOOLS if name in asked]
    present = [tool.name for tool in known if tool.version]
    table = {
        label: measure(label, file, present, args.repeat)
        for label, file in models(args.models.split(",") if args.models else [])
    }
    write(table, known, args.repeat, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
