"""Run a command to its end and say what it cost.

Imports nothing large: a child's peak counts from what its parent held when it was started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Cost:
    """One whole process, from start to exit."""

    seconds: float
    peak_bytes: int
    exit_code: int
    said: str  # the end of its standard error


def run(command: Sequence[str], limit: float | None = None) -> Cost:
    """Run one command from the repository's root, its output thrown away; after ``limit`` s it is ended."""
    # An installed package comes with its bytecode; a checkout gets it in the round that is not counted.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        alarm = threading.Timer(limit or 0, os.killpg, (process.pid, signal.SIGKILL))
        if limit is not None:
            alarm.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            alarm.cancel()
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()[-2000:]
    if limit is not None and seconds >= limit and process.returncode == -signal.SIGKILL:
        text = f"ended after {limit:g} s"
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, usage.ru_maxrss * unit, process.returncode, text)
