"""What each tool leaves of a net: its batch norms and nodes, ``python -m tests.benchmarks.left [FILE...]``.

Every tool runs as a process of its own, within a time limit, and what it wrote is counted by `score`, without
biasopt's own reader. Without files: the corpus that BIASOPT_CORPUS names, and the nets of `nets`. ``--kept FILE`` keeps
the counts there, as they come; what it holds is not counted again, but for the tools that ``--again`` names. The table
goes to docs/fold.md between ``<!-- BEGIN:left -->`` and ``<!-- END:left -->``; with ``--print`` to stdout.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from converter.errors import BiasoptError
from converter.report.docs import fill
from converter.report.render.markdown import literal, table
from tests.benchmarks.peers import models
from tests.benchmarks.proc import ROOT

OURS = "biasopt"
TOOLS = (OURS, "onnxruntime", "onnxruntime extended", "onnxslim", "onnxsim", "onnxoptimizer", "onnxscript")
SECONDS = 300
Counts = dict[str, int]
Results = dict[str, dict[str, Counts | None]]
NOTE = """\
*before* are the batch norms and nodes of the file as it came, then what each tool leaves of both; `-` where it stopped
with an error, or ran for longer than five minutes. biasopt checks its result, and freezes weights that are listed as
inputs, as the others do without being asked. `onnxruntime` is its offline pass at the basic level, the next column the
extended one, whose fused operators run on onnxruntime alone. `make bench-left` counts again."""


def fold(tool: str, source: Path, target: Path) -> str:
    """Rewrite a file with a tool; returns the end of what it said where it failed."""
    worker = ROOT / "tests" / "benchmarks" / "worker.py"
    command = [sys.executable, "-P", str(worker), tool, str(source), str(target)]
    if tool == OURS:
        command = [sys.executable, "-m", "biasopt", "fold", str(source), "-o", str(target), "--freeze-overridable"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return "too long"
    said = done.stderr.strip().splitlines() or [""]
    return "" if not done.returncode and target.exists() else f"exit code {done.returncode}: {said[-1][:200]}"


def count(path: Path) -> Counts:
    """Count in a process of its own: a crash there is none here."""
    imports = "import json, sys; from pathlib import Path; from tests.benchmarks.score import counts"
    code = f"{imports}; print(json.dumps(counts(Path(sys.argv[1]))))"
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def measure(label: str, source: Path, tools: Sequence[str] = TOOLS) -> dict[str, Counts | None]:
    """What is there before, and after each tool; None where it failed."""
    found: dict[str, Counts | None] = {"before": count(source)}
    with tempfile.TemporaryDirectory() as folder:
        for tool in tools:
            target = Path(folder) / f"{tool}.onnx"
            problem = fold(tool, source, target)
            found[tool] = None if problem else count(target)
            if problem:
                sys.stderr.write(f"{label}: {tool}: {problem}\n")
    shown = (f"{tool} " + ("-" if c is None else f"{c['bn']}/{c['nodes']}") for tool, c in found.items())
    sys.stderr.write(f"{label}: {', '.join(shown)}\n")
    sys.stderr.flush()
    return found


def behind(found: dict[str, Counts | None]) -> list[str]:
    """The tools that leave fewer batch norms than biasopt does."""
    own = found[OURS]
    if own is None:
        return [tool for tool, c in found.items() if c is not None and tool != "before"]
    return [tool for tool, c in found.items() if c is not None and c["bn"] < own["bn"]]


def markdown(results: Results) -> str:
    """Return the table, a line a net, and what its columns mean."""
    rows = []
    for label, found in results.items():
        cells = [found[tool] for tool in ("before", *TOOLS)]
        rows.append((literal(label), *("-" if c is None else f"{c['bn']} / {c['nodes']:,}" for c in cells)))
    head = ("model", "before", *TOOLS)
    fewer = [label for label, found in results.items() if behind(found)]
    ahead = ", ".join(fewer) if fewer else "none"
    said = f"Batch norms / nodes, of {len(results)} nets. Nets of which another tool leaves fewer batch norms: {ahead}."
    return f"{said}\n\n{table(head, rows, right=tuple(range(1, len(head))))}\n\n{NOTE}"


def read(kept: Path | None) -> Results:
    """The counts of an earlier run."""
    return dict(json.loads(kept.read_text(encoding="utf-8"))) if kept is not None and kept.exists() else {}


def measure_all(named: Sequence[tuple[str, Path]], kept: Path | None, again: Sequence[str]) -> Results:
    """Count each net whose counts are not kept yet, and those tools of the others that are to be counted again."""
    results = read(kept)
    for label, file in named:
        tools = TOOLS if label not in results else tuple(again)
        if tools:
            results[label] = results.get(label, {}) | measure(label, file, tools)
            if kept is not None:
                kept.write_text(json.dumps(results), encoding="utf-8")
    return results


def main(argv: Sequence[str] | None = None, page: Path = ROOT / "docs" / "fold.md") -> int:
    """Count and write the table; 1 where another tool leaves fewer batch norms on some net."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--again", default="", help="comma-separated tools")
    parser.add_argument("--print", action="store_true")
    args = parser.parse_args(argv)
    named = [(file.stem, file) for file in args.files] or models([])
    results = measure_all(named, args.kept, [tool for tool in args.again.split(",") if tool])
    made = markdown(results)
    if args.print:
        sys.stdout.write(made + "\n")
    else:
        try:
            text = fill(page.read_text(encoding="utf-8"), "left", made)
        except BiasoptError as exc:
            sys.stderr.write(f"{exc}\n")
            return 3
        page.write_text(text, encoding="utf-8", newline="\n")
    return int(any(behind(found) for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
