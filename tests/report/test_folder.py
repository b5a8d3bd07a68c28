"""The folder of reports: an earlier run leaves nothing in it that looks like this one, and what was written is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import cli

MODEL = Path(__file__).resolve().parents[2] / "models" / "digits_cnn_bn.onnx"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_forms_of_an_earlier_run_go_and_other_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODEL, "m.onnx")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "notes.txt").write_text("mine")
    verify = ["verify", "m.onnx", "m.onnx", "--stages", "structure", "--report", "r", "--on-inconclusive", "pass"]
    assert cli.run([*verify, "--formats", "json,html,junit"]) == 0
    assert f"\nReport  {Path('r', 'report.html')}" in capsys.readouterr().out
    assert names(tmp_path / "r") == {"notes.txt", "report.json", "report.html", "report.xml"}
    assert cli.run([*verify, "--formats", "json,md", "-q"]) == 3
    said = f"{Path('r', 'report.json')}: is the report of another run; give another --report folder, or --force"
    assert said in capsys.readouterr().err
    assert names(tmp_path / "r") == {"notes.txt", "report.json", "report.html", "report.xml"}
    assert cli.run([*verify, "--formats", "json,md", "-q", "--force"]) == 0
    assert capsys.readouterr().out == ""
    assert names(tmp_path / "r") == {"notes.txt", "report.json", "report.md"}


def test_a_strangers_page_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODEL, "m.onnx")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "report.md").write_text("mine")
    argv = ["verify", "m.onnx", "m.onnx", "--stages", "structure", "--report", "r", "--on-inconclusive", "pass", "-q"]
    assert cli.run([*argv, "--formats", "json"]) == 0
    assert (tmp_path / "r" / "report.md").read_text() == "mine"


@pytest.mark.parametrize("name", ["report.html", "failing_inputs.npz"])
def test_what_is_there_is_not_written_over_unasked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODEL, "m.onnx")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / name).write_text("mine")
    assert cli.run(["verify", "m.onnx", "m.onnx", "--report", "r", "-q"]) == 3
    assert f"{Path('r', name)}: exists already" in capsys.readouterr().err
    assert names(tmp_path / "r") == {name}
    assert (tmp_path / "r" / name).read_text() == "mine"


def test_inputs_that_failed_in_an_earlier_run_go_with_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODEL, "a.onnx")
    proto = onnx.load("a.onnx")
    weight = next(t for t in proto.graph.initializer if len(t.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), weight.name))
    onnx.save(proto, "b.onnx")
    assert cli.run(["verify", "a.onnx", "b.onnx", "--quick", "--report", "r", "-q"]) == 1
    assert "failing_inputs.npz" in names(tmp_path / "r")
    assert cli.run(["verify", "a.onnx", "a.onnx", "--quick", "--report", "r", "-q", "--force"]) == 0
    assert names(tmp_path / "r") == {"report.json", "report.md", "report.html"}


def test_a_report_made_again_keeps_what_it_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODEL, "m.onnx")
    verify = ["verify", "m.onnx", "m.onnx", "--quick", "--formats", "json,md", "-q", "--report"]
    for folder in ("r", "other"):
        assert cli.run([*verify, folder, "--seed", str(len(folder))]) == 0
    document = (tmp_path / "r" / "report.json").read_bytes()
    assert cli.run(["report", "r/report.json", "-o", "r", "--formats", "junit"]) == 0
    assert names(tmp_path / "r") == {"report.json", "report.md", "report.xml"}
    again = ["report", "r/report.json", "--formats", "html", "--rethreshold", "--max-ratio", "2"]
    assert cli.run([*again, "-o", "r"]) == 0
    assert names(tmp_path / "r") == {"report.json", "report.html"}  # the others tell of the earlier limits
    assert (tmp_path / "r" / "report.json").read_bytes() == document
    assert cli.run([*again, "-o", "other"]) == 3
    assert names(tmp_path / "other") == {"report.json", "report.md"}
    assert cli.run([*again, "-o", "other", "--force"]) == 0
    assert names(tmp_path / "other") == {"report.html"}
