"""Statements say what the certificate, the report and the files say, and none is made of what does not hold."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

import cli
from converter.integrations.attestation import PREDICATE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "models" / "digits_cnn_bn.onnx", "model.onnx")
    return tmp_path


def run_documented() -> None:
    """The two commands of the page, as they stand there."""
    text = (ROOT / "docs" / "attestation.md").read_text(encoding="utf-8")
    commands = re.findall(r"^biasopt (.*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert cli.run(command.split()) == 0


def read(name: str) -> Any:
    return json.loads(Path(name).read_text(encoding="utf-8"))


def sha256(name: str) -> str:
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()


def test_a_statement_is_of_the_files_that_are_there(folder: Path) -> None:
    run_documented()
    found = read("statement.json")
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == PREDICATE
    assert found["subject"] == [{"name": "again.onnx", "digest": {"sha256": sha256("folded.onnx")}}]
    predicate = found["predicate"]
    assert predicate["original"]["sha256"] == sha256("model.onnx")
    assert predicate["certificate"] == {"sha256": sha256("cert.json"), "seal": read("cert.json")["seal"]}
    assert predicate["replay"]["steps"] == predicate["replay"]["replayed"] > 0
    report = read("out/report.json")
    assert (predicate["verdict"]["verdict"], predicate["verdict"]["level"]) == ("PASS", report["parity"]["level"])
    text = (ROOT / "docs" / "attestation.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(predicate)


def test_without_a_report_there_is_no_verdict(folder: Path) -> None:
    assert cli.run(["fold", "model.onnx", "-o", "f.onnx", "--certificate", "c.json", "--no-verify"]) == 0
    assert cli.run(["replay", "model.onnx", "c.json", "--statement", "s.json"]) == 0
    assert read("s.json")["predicate"]["verdict"] is None
    assert cli.run(["replay", "model.onnx", "c.json", "--statement", "s.json"]) == 3  # it exists
    assert cli.run(["replay", "model.onnx", "c.json", "--statement", "s.json", "--force"]) == 0


def test_of_what_does_not_hold_nothing_is_stated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_documented()
    document = read("cert.json")
    document["steps"][0]["check"] = {"recomputed": 0, "why": "trust me"}
    Path("forged.json").write_text(json.dumps(document))
    assert cli.run(["replay", "model.onnx", "forged.json", "--statement", "s.json"]) == 1
    report = read("out/report.json")
    report["models"]["b"]["sha256"] = "0" * 64
    Path("other.json").write_text(json.dumps(report))
    assert cli.run(["replay", "model.onnx", "cert.json", "--statement", "s.json", "--evidence", "other.json"]) == 3
    assert "other models" in capsys.readouterr().err
    assert cli.run(["replay", "model.onnx", "cert.json", "--evidence", "other.json"]) == 2
    assert not Path("s.json").exists()


def test_a_statement_lies_where_nothing_is_lost(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither on the data of the original nor where those of the output may lie; what is refused leaves nothing."""
    model = onnx.load("model.onnx")
    onnx.save(model, "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)
    assert cli.run(["fold", "model.onnx", "-o", "f.onnx", "--certificate", "c.json", "--report", "out", "-q"]) == 0
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    capsys.readouterr()
    for argv, said in (
        (["--statement", "model.data", "--force"], "is the input itself"),
        (["-o", "r.onnx", "--statement", "r.onnx.data", "--force"], "is where the output's data may lie"),
        (["-o", "r.onnx", "--statement", "r.onnx"], "is to be the output and the statement"),
        (["-o", "r.onnx", "--statement", "s.json", "--evidence", "c.json"], "its schema is"),
        (["--statement", "out/report.json", "--evidence", "out/report.json", "--force"], "is the input itself"),
    ):
        assert cli.run(["replay", "model.onnx", "c.json", *argv]) == 3
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1
        assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
