"""The command line as a process: what it loads, and what happens when a pipe closes or Ctrl-C comes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "torch", "scipy", "rich", "ml_dtypes")


def python(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("argv", ["--help", "--version", "fold --help", "inspect --help", "passes --help", "fold", ""])
def test_help_version_and_usage_load_nothing_heavy(argv: str) -> None:
    code = f"import cli, sys; cli.run({argv.split()!r}); print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


def test_the_launcher_runs_it() -> None:
    ran = python("biasopt.py", "fold", "--frobnicate")
    assert ran.returncode == 2
    assert "No such option" in ran.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")
@pytest.mark.parametrize("argv", [["--help"], ["passes"], ["passes", "--json"]])
def test_a_pipe_that_nobody_reads_is_no_failure(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        [sys.executable, "cli.py", *argv], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX file descriptors")
def test_a_closed_stdout_is_no_failure() -> None:
    ran = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" cli.py passes >&-', sys.executable],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
