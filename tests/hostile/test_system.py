"""What the system gives to a command: pipes and devices instead of files, no room, files that may not be read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import cli
from converter.commands.export import _open_folder
from converter.records import Verdict
from converter.referee.verify.request import compare
from tests.files import within
from tests.hostile.test_models import net

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


def biasopt(*argv: str, cwd: Path, to: str = "") -> subprocess.CompletedProcess[str]:
    """Run it in a folder; what waits for ever fails the test."""
    command = [sys.executable, str(ROOT / "biasopt.py"), *argv]
    if to:
        command = ["/bin/sh", "-c", f'exec "$0" "$@" {to}', *command]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, the same with its data in a pipe and in a device, pipes, and folders that hold pipes."""
    onnx.save(net(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    for name in ("fifo", "fifo.npz", "fifo.npy", "fifo.json", "fifo.pt", "fifo.pt2", "fifo.py", "fifo.onnx", "data"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pictures/a.png", "sets/input_0.pb", "arrays/a.npz"):
        (tmp_path / name).parent.mkdir()
        os.mkfifo(tmp_path / name)
    model = net()
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="data")
    (tmp_path / "outside.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "net.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(2, 2)\n")
    return tmp_path


@pytest.mark.parametrize(
    "argv",
    [
        *("inspect fifo", "inspect zero", "fold fifo", "fold zero", "inspect fifo.onnx", "ablate fifo --data x.npz"),
        *("verify fifo m.onnx", "verify m.onnx fifo", "verify zero m.onnx", "verify m.onnx zero"),
        *("bench fifo m.onnx", "bench m.onnx fifo", "bench zero m.onnx"),
        *("replay fifo m.onnx", "replay m.onnx fifo", "replay m.onnx zero", "replay zero m.onnx"),
        *("report fifo", "report zero", "inspect outside.onnx", "fold outside.onnx"),
        *("verify outside.onnx m.onnx", "verify m.onnx outside.onnx", "bench outside.onnx m.onnx"),
        *(f"verify m.onnx m.onnx --inputs {name}" for name in ("fifo", "fifo.npz", "fifo.npy", "fifo.json")),
        *(f"verify m.onnx m.onnx --inputs {name}" for name in ("sets", "arrays", "fifo.py:f", "nothing.npz")),
        *("verify m.onnx m.onnx --images pictures", "verify m.onnx m.onnx --inputs x.npz --labels fifo"),
        *("fold m.onnx --inputs fifo.npz", "ablate m.onnx --data x.npz --labels zero", "ablate m.onnx --data fifo.npz"),
        *("export fifo.pt -o o.onnx", "export fifo.pt2 -o o.onnx", "export fifo.py:f -o o.onnx", "lint fifo.pt"),
        *("lint fifo.pt2", "export net.py:make -o o.onnx --input 1,2 --weights fifo"),
    ],
)
def test_nobody_waits_for_a_pipe_or_reads_a_device_to_its_end(
    argv: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.chdir(folder)
    with within(30):
        code = cli.run(argv.split())
    said = capfd.readouterr().err
    assert code == 3, said
    assert said.startswith("biasopt: error: ")
    assert len(said.splitlines()) == 1
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize("to", ["> /dev/full", "2> /dev/full", "> /dev/full 2> /dev/full"])
@pytest.mark.parametrize("argv", ["fold m.onnx --no-verify", "fold m.onnx --no-verify --json", "--help", "fold --x"])
def test_no_room_on_a_stream_is_no_bug_and_leaves_no_output(argv: str, to: str, folder: Path) -> None:
    ran = biasopt(*argv.split(), cwd=folder, to=to)
    expected = 2 if "--x" in argv else 3 if to.startswith(">") else 0
    assert ran.returncode == expected
    assert (folder / "m.folded.onnx").exists() == (expected == 0 and "fold" in argv)


@pytest.mark.parametrize("file", ["report.html", "report.json", "report.md"])
def test_a_report_that_cannot_be_written_leaves_no_output(file: str, folder: Path) -> None:
    (folder / "r" / file).mkdir(parents=True)
    given = ["--no-verify", "--report", "r", "--certificate", "c.json"]
    ran = biasopt("fold", "m.onnx", *given, cwd=folder)
    assert ran.returncode == 3
    assert not (folder / "m.folded.onnx").exists()
    assert not (folder / "c.json").exists()


def test_no_folder_of_reports_is_made_for_a_model_that_is_not_there(folder: Path) -> None:
    for argv in (["fold", "n.onnx"], ["verify", "n.onnx", "m.onnx"], ["bench", "n.onnx", "m.onnx"]):
        assert biasopt(*argv, "--report", "r", cwd=folder).returncode == 3
        assert not (folder / "r").exists()


def test_a_file_that_may_not_be_read_is_an_error_as_all_others(folder: Path) -> None:
    if os.geteuid() == 0:
        shutil.copy(folder / "m.onnx", folder / "closed.onnx")
        (folder / "closed.onnx").unlink()
        (folder / "closed.onnx").symlink_to("/proc/1/mem")  # that root may not read from its start either
    else:
        (folder / "closed.onnx").touch(mode=0)
    every = ["inspect closed.onnx", "fold closed.onnx", "verify closed.onnx m.onnx", "verify m.onnx closed.onnx"]
    every += ["bench closed.onnx m.onnx", "ablate closed.onnx --data x.npz", "replay closed.onnx m.onnx"]
    every += ["replay m.onnx closed.onnx", "report closed.onnx"]
    for argv in every:
        ran = biasopt(*argv.split(), cwd=folder)
        assert (ran.returncode, len(ran.stderr.splitlines())) == (3, 1), argv


def test_models_without_outputs_are_inconclusive() -> None:
    nothing = net()
    del nothing.graph.output[:]
    parity = compare(nothing, nothing)
    assert parity.verdict is Verdict.INCONCLUSIVE
    assert "no outputs" in parity.why
    assert compare(net(), nothing).verdict is Verdict.FAIL
    assert compare(nothing, net()).verdict is Verdict.FAIL


def test_inputs_of_one_model_twice_are_looked_at(folder: Path) -> None:
    np.savez(folder / "other.npz", z=np.zeros((1, 3, 8, 8), np.float32))
    (folder / "broken.npz").write_bytes(b"PK\x03\x04" + bytes(50))
    for name in ("other.npz", "broken.npz"):
        ran = biasopt("verify", "m.onnx", "m.onnx", "--inputs", name, cwd=folder)
        assert (ran.returncode, len(ran.stderr.splitlines())) == (3, 1), name
    assert biasopt("verify", "m.onnx", "m.onnx", "--inputs", "x.npz", cwd=folder).returncode == 0


def test_a_name_of_a_model_without_outputs_is_no_failure(folder: Path) -> None:
    nothing = helper.make_model(helper.make_graph([], "g", [], []))
    onnx.save(nothing, folder / "nothing.onnx")
    ran = biasopt("verify", "nothing.onnx", "nothing.onnx", cwd=folder)
    assert ran.returncode == 4
    assert "INCONCLUSIVE" in ran.stdout


def test_an_export_that_died_leaves_nothing_for_long(folder: Path) -> None:
    left, young, others = (
        folder / ".biasopt-export-abcdefgh",
        folder / ".biasopt-export-ijklmnop",
        folder / ".biasopt-x",
    )
    for place in (left, young, others):
        place.mkdir()
        (place / "o.onnx").write_bytes(b"1")
    for place in (left, others):
        os.utime(place, (1, 1))
    with _open_folder(folder / "o.onnx") as held:
        assert not left.exists()
        os.utime(held, (1, 1))
        with _open_folder(folder / "o.onnx") as another:  # as another run would
            assert held.exists()
            assert another != held
    assert not held.exists()
    assert young.exists()
    assert others.exists()


def test_a_module_that_ends_the_process_leaves_nothing_after_the_next_run(folder: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    (folder / "dies.py").write_text(
        "import os, torch\nclass Dies(torch.nn.Module):\n    def forward(self, x):\n        os.kill(os.getpid(), 11)\n"
    )
    argv = ("-o", "o.onnx", "--no-verify", "--input", "1,2")
    assert biasopt("export", "dies.py:Dies", *argv, cwd=folder).returncode == -11
    (left,) = folder.glob(".biasopt-*")
    os.utime(left, (1, 1))
    assert biasopt("export", "net.py:make", *argv, cwd=folder).returncode == 0
    assert not list(folder.glob(".biasopt-*"))


def test_a_removal_of_what_ends_onnxruntime_is_one_line(folder: Path) -> None:
    (folder / "kills.py").write_text("import os\ndef load():\n    os.abort()\n    yield {}\n")
    before = sorted(path.name for path in folder.iterdir())
    argv = ("fold", "m.onnx", "--no-verify", "--allow", "remove-biases", "--data", "kills.py:load")
    ran = biasopt(*argv, cwd=folder)
    assert ran.returncode == 3, ran.stderr
    assert "the removal was ended by SIGABRT" in ran.stderr.splitlines()[-1]
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == before


def test_an_ablation_of_what_ends_onnxruntime_is_one_line(folder: Path) -> None:
    """The function of the data ends the process that it runs in, as some models do."""
    (folder / "kills.py").write_text("import os\ndef load():\n    os.abort()\n    yield {}\n")
    ran = biasopt("ablate", "m.onnx", "--data", "kills.py:load", cwd=folder)
    assert ran.returncode == 3
    assert "SIGABRT" in ran.stderr.splitlines()[-1]
    assert biasopt("ablate", "m.onnx", "--data", "x.npz", "--only", "nobody", cwd=folder).returncode == 2
