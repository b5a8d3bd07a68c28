"""biasopt beside its neighbours, on the same files in the same minutes: ``make bench``.

Every tool runs as a process of its own. In each round each tool runs once, in an order that turns with the
round, so that a slow minute of the machine slows all of them; a ratio is taken within a round, and the median
of the rounds is shown. The first round warms the file cache and is not counted.

Each model is kept as soon as it is measured (`.bench/peers.jsonl`): a run that was stopped, or that came to the end
of its ``--max-time``, goes on with the model that is next when it is called again. Once no model is left, the page, the
numbers behind it, and the tables of docs/fold.md and README.md are written, all of one run.

``python -m tests.benchmarks.peers [--models a,b] [--tools x,y] [--repeat N] [--max-time SECONDS] [--out FILE]``
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from tests.benchmarks import nets, tables
from tests.benchmarks.proc import ROOT, Cost, run
from tests.benchmarks.run_log import Header, Measured, Row, RunLog, Tool

BASELINE = "onnxruntime"
UNCHECKED = "biasopt --no-verify"
EXTENDED = "onnxruntime extended"
TOOLS = ("biasopt", UNCHECKED, BASELINE, EXTENDED, "onnxslim", "onnxsim", "onnxoptimizer", "onnxscript")
PACKAGES = {EXTENDED: BASELINE}  # a tool of another name than its package
OUT = ROOT / "docs" / "bench-peers.md"
LOG = ROOT / ".bench" / "peers.jsonl"
TOOL_SECONDS = 120.0  # one tool on one model; what takes longer is ended, and said
UNFINISHED = 4  # exit code: the time is up, and models are left


def installed(tool: str) -> str:
    """Return the version that is installed and can be imported, or an empty text."""
    if tool in ("biasopt", UNCHECKED):
        return str(
            subprocess.check_output([sys.executable, "-m", "biasopt", "--version"], cwd=ROOT, text=True)
        ).split()[-1]
    package = PACKAGES.get(tool, tool)
    tried = subprocess.run([sys.executable, "-P", "-c", f"import {package}"], capture_output=True, check=False)
    for name in (package, f"{package}-gpu") if not tried.returncode else ():
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


def models(names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield label and file of each model: the corpus, then each net from each exporter, exported in its turn."""
    corpus = os.environ.get("BIASOPT_CORPUS")
    for file in sorted(Path(corpus).glob("*.onnx")) if corpus else []:
        if not names or file.stem in names:
            yield file.stem, file
    for name in nets.NAMES:
        for exporter in nets.EXPORTERS:
            label = f"{name} ({exporter})"
            if not names or name in names or label in names:
                yield label, nets.path(name, exporter)


def rounds(source: Path, tools: Sequence[str], repeat: int, freeze: bool, folder: Path) -> dict[str, list[Cost]]:
    """Run each tool once a round; a tool that crashed once is not run again."""
    costs: dict[str, list[Cost]] = {tool: [] for tool in tools}
    for index in range(repeat + 1):
        turn = index % len(tools)
        for tool in [*tools[turn:], *tools[:turn]]:
            if not costs[tool] or not costs[tool][-1].exit_code:
                target = folder / f"{tool}.onnx"
                target.unlink(missing_ok=True)
                costs[tool].append(run(command(tool, source, target, freeze), TOOL_SECONDS))
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


def measure(label: str, source: Path, tools: Sequence[str], repeat: int) -> Measured:
    """Run all tools on one model."""
    load = os.getloadavg()[0]
    freeze = bool(score(source, source).get("overridable"))
    with tempfile.TemporaryDirectory() as folder:
        costs = rounds(source, tools, repeat, freeze, Path(folder))
        rows = [row(tool, costs, source, Path(folder) / f"{tool}.onnx") for tool in tools]
    shown = (f"{row.tool} {'crashed' if row.crashed else f'{row.seconds:.2f} s'}" for row in rows)
    say(f"{label}: {', '.join(shown)}")
    return Measured(label, rows, load)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def code() -> str:
    """Return a digest of biasopt's sources: what was measured of others is not gone on with."""
    files = sorted([*ROOT.glob("*.py"), *(ROOT / "converter").rglob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="", help="comma-separated: resnet50, 'resnet50 (dynamo)', mesonet, ...")
    parser.add_argument("--tools", default=",".join(TOOLS), help="comma-separated; onnxruntime is always among them")
    parser.add_argument("--repeat", type=int, default=3, help="rounds that count")
    parser.add_argument("--max-time", type=float, default=3600, help="begin no further model after so many seconds")
    parser.add_argument("--fresh", action="store_true", help="begin anew, whatever an earlier run has left")
    parser.add_argument("--log", type=Path, default=LOG, help="where each model is kept until the run is whole")
    parser.add_argument("--out", type=Path, default=OUT, help="the Markdown file to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    start = time.monotonic()
    args = arguments(argv)
    asked = set(args.tools.split(",")) | {BASELINE}
    if unknown := asked - set(TOOLS):
        say(f"unknown tool: {', '.join(sorted(unknown))}; known: {', '.join(TOOLS)}")
        return 2
    tools = [Tool(name, installed(name)) for name in TOOLS if name in asked]
    for tool in tools:
        if not tool.version:
            package = PACKAGES.get(tool.name, tool.name)
            say(f"left out: {tool.name}, which cannot be imported; {sys.executable} -m pip install {package}")
    present = [tool.name for tool in tools if tool.version]
    log = RunLog.open(args.log, Header(tools, args.repeat, code(), args.models), fresh=args.fresh)
    for label, file in models(args.models.split(",") if args.models else []):
        if label in log.found:
            continue
        if time.monotonic() - start > args.max_time:
            say(f"--max-time is over: {len(log.found)} models are done, {label} is next; the same command goes on")
            return UNFINISHED
        log.add(measure(label, file, present, args.repeat))
    if not log.found:
        say("no model; BIASOPT_CORPUS names a folder of models, and --models names some of them or of the nets")
        return 2
    publish(log, args.out)
    log.close()
    return 0


def publish(log: RunLog, out: Path) -> None:
    """Write the page and, of a run of all models for the repository's own page, the tables of the other documents."""
    sys.stdout.write(tables.sums(log.run) + "\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out == OUT and not log.run.header.models:
        out.with_suffix(".json").write_text(log.run.to_json(), encoding="utf-8")
        for file, text in tables.documents(log.run, ROOT).items():
            file.write_text(text, encoding="utf-8", newline="\n")
    else:
        out.write_text(tables.markdown(log.run), encoding="utf-8")
    say(f"written to {out}")


if __name__ == "__main__":
    sys.exit(main())
