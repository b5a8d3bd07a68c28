"""The files of earlier attacks, through the commands: a documented exit code, one line, nothing left, nothing changed.

They are handed on beside the corpus and are not in the repository: see `tests.hostile.mutate.find_reproducers`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import is_installed
from tests.hostile.mutate import Worker, find_reproducers
from tests.hostile.torture import fold_reproducers

REPRODUCERS = find_reproducers()
ENDLESS = {"loop_forever", "loop_scan_output_grows"}
ABORTING = {"lstm_zero_batch", "prove-native-LSTM"}  # onnxruntime: so what is folded cannot be compared
# What is a model all the same, and is to be folded.
VALID = {
    *("certificate_dead_conv_bn", "certificate_model", "certify-certificate_certificate-InvariantViolation"),
    *("concat_doubling_bias", "false_alarm_reshape_scale", "input_2^40", "mul_outer_chain"),
    "rewrites_deep_json",
    "expand_data_dependent_16GB",  # no process of that size here: its parts are proved
}
TORCH = [
    ["lint", "FILE"],
    ["export", "FILE", "-o", "out.onnx", "--no-verify"],
    ["export", "net.py:make", "-o", "out.onnx", "--shape", "x=1,2", "--weights", "FILE"],
    ["lint", "net.py:make", "--shape", "x=1,2", "--weights", "FILE"],
]
NET = "import torch\ndef make():\n    return torch.nn.Linear(2, 2)\n"
# The commands, by the ending of the file; FILE is the reproducer, GOOD a model that is none.
COMMANDS = {
    ".onnx": [
        ["inspect", "FILE"],
        ["fold", "FILE", "-o", "out.onnx", "--quick", "--timeout", "2"],
        ["fold", "FILE", "-o", "out.onnx", "--no-verify", "--certificate", "out.json"],
        ["verify", "FILE", "FILE", "--timeout", "2"],
        ["fold", "FILE", "--in-place", "--no-verify"],
    ],
    ".json": [
        ["replay", "GOOD", "FILE", "-o", "out.onnx"],
        ["verify", "GOOD", "GOOD", "--inputs", "FILE"],
        ["report", "FILE"],
    ],
    ".pt2": TORCH,
    ".pt": TORCH,
}
# Scripts that change a model meanwhile; they call the folder of the API as it was called when they were written.
SCRIPT = """
import runpy, sys, types
from converter.commands import fold
sys.modules["converter.api"] = types.SimpleNamespace(folding=fold)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

pytestmark = [
    pytest.mark.skipif(not REPRODUCERS, reason="no reproducers: set BIASOPT_REPORTS, or BIASOPT_CORPUS beside them"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the child processes of Linux"),
]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def _list_cases() -> Iterator[object]:
    for path in REPRODUCERS:
        for command in COMMANDS.get(path.suffix, []):
            runs_torch = command[0] in ("lint", "export")
            marks = [pytest.mark.skipif(not is_installed("torch"), reason="torch is not installed")] * runs_torch
            marks += [pytest.mark.slow] * (command[0] == "inspect" or "--in-place" in command)  # fold reads as they do
            yield pytest.param(path, command, marks=marks, id=f"{path.name}-{command[0]}-{command[-1].lstrip('-')}")


@pytest.mark.parametrize(("path", "command"), list(_list_cases()))
def test_a_reproducer_ends_in_one_line_with_nothing_left(
    path: Path, command: list[str], tmp_path: Path, worker: Worker
) -> None:
    file, good = tmp_path / path.name, tmp_path / "good.onnx"
    shutil.copyfile(path, file)
    shutil.copyfile(Path(__file__).parents[2] / "models" / "digits_cnn_bn.onnx", good)
    (tmp_path / "net.py").write_text(NET)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    places = {"FILE": file, "GOOD": good, "out.onnx": tmp_path / "out.onnx", "out.json": tmp_path / "out.json"}
    places["net.py:make"] = f"{tmp_path / 'net.py'}:make"
    code, told = worker.run([str(places.get(word, word)) for word in command])
    assert code in (0, 1, 3, 4), told
    told = told.strip()
    assert "\n" not in told and "Traceback" not in told and (code != 3 or told.startswith("biasopt: error: "))
    made = {p.name for p in tmp_path.rglob("*") if p.is_file() and p not in before and p.suffix != ".pyc"}
    wanted = {word for word in command if word.startswith("out.")} if code == 0 else set()
    assert made == wanted
    assert "--in-place" in command or {p: p.read_bytes() for p in before} == before
    assert code == 0 or file.read_bytes() == before[file]
    if path.suffix == ".onnx":
        proves = command[0] == "fold" and "--no-verify" not in command
        if proves and path.stem in ENDLESS:
            assert code == 4
        elif path.stem in ABORTING:
            assert code == (4 if proves else 0), told
        else:
            assert (code == 0) == (path.stem in VALID | ENDLESS)
    else:
        assert code in (1, 3)
    assert not Path("PWNED").exists() and not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("path", [p for p in REPRODUCERS if p.suffix == ".py"], ids=lambda path: path.name)
@pytest.mark.parametrize("how", ["", "in-place"])
def test_a_model_that_changes_meanwhile_is_refused(path: Path, how: str) -> None:
    command = [sys.executable, "-c", SCRIPT, str(path), *how.split()]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("refused: ")


@pytest.mark.slow
def test_a_reproducer_folded_in_place_with_its_proof_is_as_it_was_or_folded(tmp_path: Path) -> None:
    models = [path for path in REPRODUCERS if path.suffix == ".onnx"]
    counts, bad = fold_reproducers(models, tmp_path / "place", 2)
    assert not bad
    assert counts["files"] == len(models) and counts["exit 4"] >= len(ENDLESS & {p.stem for p in models})


def test_every_kind_of_reproducer_is_run() -> None:
    assert {path.suffix for path in REPRODUCERS} <= {*COMMANDS, ".py"}
