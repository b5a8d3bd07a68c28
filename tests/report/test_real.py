"""Reports of real runs: their documents keep the schema, and `biasopt report` makes the same reports from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cli
from converter.report import save, serialize

MODELS = Path(__file__).resolve().parents[2] / "models"


def same_again(folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    serialize.check(document)
    assert cli.run(["report", str(folder / "report.json"), "-o", str(tmp_path / "again"), "--formats", FORMATS]) == 0
    for form in FORMATS.split(","):
        name = save.NAMES[form]
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


FORMATS = "json,md,html,junit,text"


@pytest.fixture
def folded(tmp_path: Path) -> Path:
    out, report = tmp_path / "out.onnx", tmp_path / "fold"
    argv = ["fold", str(MODELS / "digits_unet_in.onnx"), "-o", str(out), "--report", str(report), "-q", "--quick"]
    assert cli.run([*argv, "--formats", FORMATS]) == 0
    return out


def test_a_fold(folded: Path, tmp_path: Path) -> None:
    same_again(folded.parent / "fold", tmp_path)
    page = (folded.parent / "fold" / "report.html").read_text(encoding="utf-8")
    assert "<h1>Same answers.</h1>" in page
    assert "5 of 8 biases; the outputs stay the same." in page.replace("\u00a0", " ")
    assert 'id="layers"' in page
    assert "How large the differences are" in page


def test_a_pair_that_differs(folded: Path, tmp_path: Path) -> None:
    report = tmp_path / "verify"
    pair = [str(folded), str(MODELS / "digits_autoencoder.onnx")]
    assert cli.run(["verify", *pair, "--quick", "-q", "--report", str(report), "--formats", FORMATS]) == 1
    same_again(report, tmp_path)
    assert "<failure" in (report / "report.xml").read_text(encoding="utf-8")
    assert '<div class="hero fail">' in (report / "report.html").read_text(encoding="utf-8")


def test_a_benchmark(folded: Path, tmp_path: Path) -> None:
    report = tmp_path / "bench"
    argv = ["bench", str(MODELS / "digits_unet_in.onnx"), str(folded), "--max-time", "3", "--quick", "--gate", "none"]
    assert cli.run([*argv, "-q", "--report", str(report), "--formats", FORMATS]) == 0
    same_again(report, tmp_path)
    assert 'class="point' in (report / "report.html").read_text(encoding="utf-8")
