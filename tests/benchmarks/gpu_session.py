"""Everything that wants a GPU, in the order of its value, in one run under a time limit of its own.

    python -m tests.benchmarks.gpu_session --limit 780 --out $OUT          # on a machine that is lent
    python -m tests.benchmarks.gpu_session --provider cpu --small --limit 120 --out rehearsal

Each part is a process that is ended when its share of the time is over; what it said is in a file of its name, and
what it found is written as it goes, so that nothing is lost when the machine is taken back. The last line says which
parts ended well.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def list_parts(given: argparse.Namespace) -> dict[str, tuple[float, list[str]]]:
    """Name -> the share of what is left that it may take, and its command."""
    results = ["-m", "tests.benchmarks.cuda_results", "--provider", given.provider, "--out", str(given.out)]
    results += ["--max-time", f"{given.max_time:g}", "--limit", "{seconds}", *(["--small"] if given.small else [])]
    results += ["--nets", *given.nets] if given.nets else []
    tests = ["-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "tests"]
    return {
        "doctor": (0.2, ["cli.py", "doctor", "--provider", given.provider, "--json"]),
        "tests": (0.3, [*tests, "--require-cuda"] if given.provider == "cuda" else [*tests, "--collect-only"]),
        "results": (1.0, results),
    }


def run_part(command: list[str], log: Path, seconds: float) -> int:
    """The exit code; 124 where its time was over, whole process group and all."""
    with log.open("w", encoding="utf-8") as said:
        started = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
        )
        try:
            return started.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
            return 124


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--provider", choices=["cuda", "cpu"], default="cuda")
    asked.add_argument("--small", action="store_true", help="small nets, quick measurements: a rehearsal")
    asked.add_argument("--nets", nargs="+", help="only these")
    asked.add_argument("--limit", type=float, default=780.0, help="seconds for all of it")
    asked.add_argument("--max-time", type=float, default=8.0, help="seconds for one pair of models")
    asked.add_argument("--out", type=Path, required=True)
    given = asked.parse_args()
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    end, codes = time.monotonic() + given.limit, {}
    for name, (share, command) in list_parts(given).items():
        seconds = share * max(1.0, end - time.monotonic())
        # Its own limit comes first, so that it ends by itself, between two measurements.
        filled = [word.replace("{seconds}", f"{max(1.0, seconds - 3 * given.max_time - 10):.0f}") for word in command]
        codes[name] = run_part(filled, given.out / f"{name}.log", seconds)
        print(f"{name}: {codes[name]}, {max(0.0, end - time.monotonic()):.0f} s are left", flush=True)
    print("well: " + (", ".join(name for name, code in codes.items() if code == 0) or "none"))
    return 0 if not any(codes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
