"""The folder of reports: an earlier run leaves nothing in it that looks like this one, and what was written is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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
    assert f"Report   {Path('r', 'report.html')}" in capsys.readouterr().out
    assert names(tmp_path / "r") == {"notes.txt", "report.json", "report.html", "report.xml"}
    assert cli.run([*verify, "--formats", "json,md", "-q"]) == 0
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
