"""``fold`` of several models, from stdin to stdout, and dry: what goes where, and what is said."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import cli
from converter.errors import ModelError
from converter.report import terminal
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]


def conv_bn(seed: int = 1) -> onnx.ModelProto:
    draw = tiny.Draw(seed=seed)
    text = f"{tiny.X} => {tiny.Y} {{ c = Conv(x, w) y = BatchNormalization(c, g, be, m, v) }}"
    return tiny.model(text, draw.conv(5, 3, 3, 3) | draw.bn(5))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(conv_bn(1), tmp_path / "a.onnx")
    onnx.save(conv_bn(2), tmp_path / "b.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_several_go_beside_themselves(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fold", "a.onnx", "b.onnx"]) == 0
    assert files(folder) == {"a.onnx", "b.onnx", "a.folded.onnx", "b.folded.onnx"}
    said = capsys.readouterr().out
    assert said.index("a.folded.onnx") < said.index("b.onnx ")


def test_or_into_a_folder_that_is_made_with_a_report_for_each(folder: Path) -> None:
    assert cli.run(["fold", "a.onnx", "b.onnx", "--out-dir", "out/small", "--report", "said", "--formats", "json"]) == 0
    assert files(folder) - {"a.onnx", "b.onnx"} == {
        "out/small/a.onnx",
        "out/small/b.onnx",
        "said/a/report.json",
        "said/b/report.json",
    }
    assert all(node.op_type != "BatchNormalization" for node in onnx.load("out/small/b.onnx").graph.node)


def test_none_is_folded_onto_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(conv_bn(3), folder / "a.folded.onnx")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert cli.run(["fold", "a.onnx", "a.folded.onnx", "--force"]) == 3
    assert "a.folded.onnx: is the input itself" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_worst_exit_code_counts(folder: Path) -> None:
    (folder / "b.folded.onnx").write_bytes(b"mine")
    assert cli.run(["fold", "a.onnx", "b.onnx"]) == 3
    assert (folder / "b.folded.onnx").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["a.onnx", "c.onnx"], 3, "to write there: -o c.onnx"),
        (["a.onnx", "b.onnx", "-o", "c.onnx"], 2, "--out-dir takes several"),
        (["a.onnx", "b.onnx", "--json"], 2, "take one MODEL"),
        (["a.onnx", "./a.onnx", "--out-dir", "o"], 2, "have one name"),
        (["a.onnx", "-o", "c.onnx", "--out-dir", "o"], 2, "exclude each other"),
        (["-"], 2, "-o -"),
        (["."], 3, ".: is a directory; give a model file"),
        (["/"], 3, "/: is a directory; give a model file"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, said: str
) -> None:
    assert cli.run(["fold", *argv]) == code
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert files(folder) == {"a.onnx", "b.onnx"}


def test_dry_is_inspect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fold", "a.onnx", "b.onnx", "--dry-run", "--skip", "drop-zero-bias"]) == 0
    dry = capsys.readouterr().out
    assert cli.run(["inspect", "a.onnx", "b.onnx", "--skip", "drop-zero-bias"]) == 0
    assert dry == capsys.readouterr().out
    assert "Would do" in dry
    assert files(folder) == {"a.onnx", "b.onnx"}


def test_from_stdin_to_stdout_the_model_is_all_that_stdout_holds(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "fold", "-", "-o", "-"],
        input=(folder / "a.onnx").read_bytes(),
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert cli.run(["fold", "a.onnx"]) == 0
    assert done.stdout == (folder / "a.folded.onnx").read_bytes()
    assert b"fold-bn-into-conv" in done.stderr
    assert b"PASS" in done.stderr


def test_what_fails_writes_nothing_to_stdout(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "fold", "-", "-o", "-"],
        input=b"no model",
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (3, b"")


def test_external_data_does_not_fit_on_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(conv_bn(3), "e.onnx", save_as_external_data=True, size_threshold=0, location="e.data")
    assert cli.run(["fold", "e.onnx", "-o", "-"]) == 3
    assert "do not fit on stdout" in capsys.readouterr().err


def test_a_keyboard_holds_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    keyboard = io.StringIO()
    monkeypatch.setattr(keyboard, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", keyboard)
    with pytest.raises(ModelError, match="holds no model"):
        terminal.read_stdin()


def test_removal_goes_by_inputs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(ROOT / "models" / "digits_cnn_plain_bn.onnx", "m.onnx")
    argv = ["fold", "m.onnx", "--allow", "remove-biases", "--no-verify", "--max-time", "5", "--force"]
    (folder / "d.py").write_text(
        "import numpy as np\ndef load():\n    draw = np.random.default_rng(1)\n"
        "    yield {'image': draw.uniform(0, 1, (600, 1, 8, 8)).astype('float32')}\n"
    )
    codes = {cli.run([*argv, *more]) for more in (["--inputs", "d.py:load", "--accuracy-margin", "20%"],)}
    new = capsys.readouterr().out
    assert codes == {cli.run([*argv, "--data", "d.py:load", "--budget", "20%"])}
    assert new == capsys.readouterr().out
