"""How the time of a fold and of its check grows with the nodes: ``python -m tests.benchmarks.node_scale``.

A trunk of matrix products, each with a batch norm in four operators, 5,000, 10,000 and 20,000 nodes long, goes through
the commands in processes of their own. Their seconds of the processor are counted, the children's among them: each
command as often as ``ROUNDS``, of which the least counts, since other work on the machine only adds. ``--write`` puts
the table into docs/scale.md between ``<!-- BEGIN:nodes -->`` and ``<!-- END:nodes -->``.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

from converter.report.docs import fill
from tests.benchmarks.costs import deep

SIZES = (5_000, 10_000, 20_000)
ROUNDS = 3
PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"


def time_command(*args: str) -> float:
    """Seconds of the processor, user's and system's, that one command took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "biasopt", *args], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(n_nodes: int, rounds: int = ROUNDS) -> tuple[float, float, float]:
    """Seconds of a fold without its check, of one with it, and of ``verify`` on the two files."""
    with tempfile.TemporaryDirectory() as folder:
        model, out = f"{folder}/m.onnx", f"{folder}/o.onnx"
        onnx.save(deep(n_nodes), model)
        fold = ["fold", model, "-o", out, "-q", "--force"]
        tried = [
            (time_command(*fold, "--no-verify"), time_command(*fold), time_command("verify", model, out))
            for _ in range(rounds)
        ]
    bare, checked, verified = (min(column) for column in zip(*tried, strict=True))
    return bare, checked, verified


def make_table(rows: dict[int, tuple[float, float, float]]) -> str:
    """The table in Markdown, with the longest's time by the node, in microseconds."""
    lines = [
        "| nodes | `fold --no-verify` | `fold` with its proof | `verify` |",
        "|---:|---:|---:|---:|",
        *(f"| {n:,} | {' | '.join(f'{seconds:.1f} s' for seconds in row)} |" for n, row in rows.items()),
    ]
    first, last = min(rows), max(rows)
    if first < last:
        more = [(b - a) / (last - first) * 1e6 for a, b in zip(rows[first], rows[last], strict=True)]
        lines.append(f"| each node more | {' | '.join(f'{each:.0f} us' for each in more)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, and print or write."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.node_scale")
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    table = make_table({n: measure(n, asked.rounds) for n in SIZES})
    if asked.write:
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), "nodes", table), encoding="utf-8")
    else:
        sys.stdout.write(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
