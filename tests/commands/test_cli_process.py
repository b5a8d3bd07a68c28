"""The command line as a process: what it loads, and what happens when a pipe closes or Ctrl-C comes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import onnx
import pytest

import cli
from tests.tiny import model

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "torch", "scipy", "rich", "ml_dtypes")


def python(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("argv", ["--help", "--version", *(f"{name} --help" for name in cli.cli.commands), "fold", ""])
def test_help_version_and_usage_load_nothing_heavy(argv: str) -> None:
    code = f"import cli, sys; cli.run({argv.split()!r}); print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


def test_a_fold_that_is_not_checked_loads_no_referee(tmp_path: Path) -> None:
    spared = ("onnxruntime", "scipy", "jinja2", "torch", "converter.referee.verify", "converter.records.lint")
    argv = ["fold", str(ROOT / "models" / "digits_cnn_bn.onnx"), "-o", str(tmp_path / "o.onnx"), "--no-verify"]
    code = f"import cli, sys; cli.run({argv!r}); print(sorted(set({spared!r}) & set(sys.modules)))"
    assert python("-c", code).stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "o.onnx").exists()


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


def _opened(pipe: Path, reader: subprocess.Popen[str]) -> BinaryIO:
    """The pipe's other end, once somebody reads; a reader that ends before it reads would leave us waiting."""
    while reader.poll() is None:
        with contextlib.suppress(OSError):  # nobody reads yet
            return os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb")
        time.sleep(0.01)
    raise AssertionError(reader.communicate(timeout=60))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_ctrl_c_is_130_and_leaves_nothing(tmp_path: Path) -> None:
    shutil.copy(ROOT / "models" / "digits_cnn_bn.onnx", tmp_path / "m.onnx")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "data.py").write_text(f"def load():\n    yield open({str(tmp_path / 'pipe')!r}).read()\n")
    argv = [sys.executable, "cli.py", "fold", str(tmp_path / "m.onnx"), "--inputs", f"{tmp_path / 'data.py'}:load"]
    with subprocess.Popen(  # noqa: SIM117  (the pipe opens only once the process reads it)
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        with _opened(tmp_path / "pipe", process):  # once the process reads, and then the process waits
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "biasopt: interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.py", "m.onnx", "pipe"]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("name", ["fold", "verify", "inspect"])
def test_ctrl_c_while_it_loads_is_130_and_one_line(name: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "models" / "digits_cnn_bn.onnx", tmp_path / "m.onnx")
    given = [str(tmp_path / "m.onnx")] * (2 if name == "verify" else 1)
    code = f"import sys, biasopt; sys.argv[1:] = {[name, *given]!r}; print('go', flush=True); biasopt.main()"
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4):
        # A native library that is hit while it starts may end the process by itself, which is rare.
        ends = [_interrupted_after(delay, code) for _ in range(3)]
        right = {(130, "biasopt: interrupted\n")} | ({(0, "")} if delay > 0.1 else set())  # it may be done by then
        assert sum(end in right for end in ends) >= 2, ends


def _interrupted_after(delay: float, code: str) -> tuple[int, str]:
    """The exit code and stderr of a command that hears Ctrl-C after ``delay`` seconds; 0 where it was done before."""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, err = process.communicate(timeout=60)
    took = time.monotonic() - begun
    return process.returncode, err if took < 2.5 else f"{err}(after {took:.1f} s)"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM")])
def test_a_library_that_does_not_hear_a_signal_is_left_behind(number: int, said: str) -> None:
    """One call below Python, as a run of a model is: the handlers of Python never come."""
    code = (
        "import cli, hashlib, sys\n"
        "def run(**given):\n"
        "    print('go', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'a' * 100, b'b', 10**9)\n"
        "import converter.commands.doctor as passes\n"
        "passes.run_passes, sys.argv = run, ['biasopt', 'passes']\n"
        "cli.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        begun = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, f"biasopt: {said}\n")
    assert time.monotonic() - begun < 2.5


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")
def test_a_fold_whose_words_nobody_reads_is_still_done(tmp_path: Path) -> None:
    onnx.save(model("(float[2,3] x) => (float[2,3] y) { y = Relu(x) }"), tmp_path / "m.onnx")
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "cli.py", "fold", str(tmp_path / "m.onnx")]
    ran = subprocess.run(argv, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "m.folded.onnx").exists()


def test_names_in_any_script_reach_a_terminal_of_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "größe.onnx"
    onnx.save(model("(float[2,3] x) => (float[2,3] y) { y = Relu(x) }"), path)
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    ran = python("cli.py", "fold", str(path), env=env)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("gr\\xf6\\xdfe.onnx  ")
