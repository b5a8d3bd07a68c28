from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import cli
from converter.errors import BiasoptError
from converter.report import save
from converter.report.documents import fold_document
from converter.report.serialize import dumps
from tests.report import made_evidence as made
from tests.report.made import FATES, SAID, folded

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: object) -> tuple[int, str, str]:
        code = cli.run([str(arg) for arg in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    path = tmp_path / "in.json"
    path.write_text(dumps(made.verify_json(made.failing())), encoding="utf-8")
    return path


def test_it_prints_the_report_and_ends_with_0(run: Run, failing: Path) -> None:
    code, out, err = run("report", failing)
    assert (code, err) == (0, "")
    assert out.startswith("FAIL: the outputs differ")
    assert "/layer7/Conv " not in out
    assert "/layer7/Conv " in run("report", failing, "-v")[1]


@pytest.mark.parametrize(
    ("form", "begins"), [("md", "## biasopt verify"), ("html", "<!DOCTYPE html>"), ("junit", "<?xml"), ("json", "{")]
)
def test_one_format_is_printed(run: Run, failing: Path, form: str, begins: str) -> None:
    code, out, _ = run("report", failing, "--formats", form)
    assert code == 0
    assert out.startswith(begins)


def test_a_folder_gets_each_format_whole(run: Run, failing: Path, tmp_path: Path) -> None:
    code, out, err = run("report", failing, "-o", tmp_path / "new" / "out", "--formats", "json,md,html,junit,text")
    assert (code, out, err) == (0, "", "")
    written = {path.name for path in (tmp_path / "new" / "out").iterdir()}
    assert written == {"report.json", "report.md", "report.html", "report.xml", "report.txt"}
    again = (tmp_path / "new" / "out" / "report.json").read_text(encoding="utf-8")
    assert again == failing.read_text(encoding="utf-8")
    run("report", failing, "-o", tmp_path / "plain")
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {"report.json", "report.md", "report.html"}


def test_a_fold_reads_the_same_from_its_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "fold.json"
    document = fold_document(folded(fates=FATES, parity=made.parity()), "9.9", said=SAID, bench=made.latency())
    path.write_text(dumps(document), encoding="utf-8")
    for form in ("md", "html", "junit", "text"):
        assert run("report", path, "--formats", form)[1] == save.render_document(document, form)
    out = run("report", path)[1]
    assert "6: 1 zero, 2 absorbed downstream, 3 kept (blocked by Relu 1, " in out
    assert "not slower" in out


def test_a_new_threshold_gives_a_new_exit_code(run: Run, failing: Path) -> None:
    assert run("report", failing, "--rethreshold")[0] == 1
    code, out, _ = run("report", failing, "--rethreshold", "--max-local", "1000", "--max-ratio", "100")
    assert code == 0
    assert "judged again from the stored numbers, with max ratio 100, max local 1000" in " ".join(out.split())


def test_margin_is_that_of_what_there_is(run: Run, tmp_path: Path, failing: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(dumps(made.bench_json(made.latency(1.08))), encoding="utf-8")
    assert run("report", path, "--rethreshold", "--margin", "10%")[0] == 0
    assert run("report", path, "--rethreshold", "--margin", "5%")[0] == 1
    assert "holds neither" in run("report", failing, "--rethreshold", "--margin", "1%")[2]
    path.write_text(dumps(made.verify_json(made.undecided(), made.latency())), encoding="utf-8")
    assert "holds both" in run("report", path, "--rethreshold", "--margin", "1%")[2]
    assert run("report", path, "--rethreshold", "--latency-margin", "0.1%")[0] == 4


@pytest.mark.parametrize(
    "argv",
    [
        ("--formats", "json,md"),
        ("--formats", "pdf"),
        ("--rethreshold", "--max-ratio", "0"),
        ("--rethreshold", "--margin", "200%"),
        ("--rethreshold", "--alpha", "x"),
    ],
)
def test_wrong_usage_is_2(run: Run, failing: Path, argv: tuple[str, ...]) -> None:
    assert run("report", failing, *argv)[0] == 2


def test_a_limit_without_rethreshold_is_said(run: Run, failing: Path) -> None:
    code, _, err = run("report", failing, "--max-ratio", "2")
    assert code == 3
    assert "--rethreshold" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no report of biasopt: it names no schema"),
        ("3", "no report of biasopt"),
        ('{"schema": 1}', "it names no schema"),
        ('{"schema": "other/1"}', "no report of biasopt"),
        ('{"schema": "biasopt.verify/2"}', "its schema is 'biasopt.verify/2'; this version reads biasopt.verify/1"),
        ('{"schema": "biasopt.inspect/1"}', "its schema is 'biasopt.inspect/1'"),
        ('{"schema": "biasopt.bench/1"}', "no whole biasopt.bench/1: $: object missing required field `tool`"),
    ],
)
def test_what_is_no_document_is_one_line_and_3(run: Run, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    code, out, err = run("report", path)
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert said in err


def test_a_file_that_cannot_be_read_is_3(run: Run, tmp_path: Path) -> None:
    assert run("report", tmp_path / "none.json")[0] == 3
    assert run("report", tmp_path)[0] == 3
    (tmp_path / "latin.json").write_bytes(b'{"schema": "\xff"}')
    assert run("report", tmp_path / "latin.json")[0] == 3


# ---- the files -------------------------------------------------------------------------------------


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save.save_reports(made.verify_json(), tmp_path, ["json"])
    before = (tmp_path / "report.json").read_text(encoding="utf-8")

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BiasoptError, match="No space left"):
        save.save_reports(made.bench_json(), tmp_path, ["json"])
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == before


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert save.save_reports(made.verify_json(), None, save.NAMES) == []
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_every_format_that_can_be_asked_for_can_be_made() -> None:
    from converter.commands.options import parse_formats

    asked = ["json,md", "html,junit,text", "metrics,bmf,openmetrics,card"]
    assert parse_formats(asked) == ",".join(asked).split(",") == list(save.NAMES)
    assert set(save.FORMATS) < set(save.NAMES)
    for form in save.NAMES:
        assert save.render_document(json.loads(dumps(made.bench_json())), form).endswith("\n")
    with pytest.raises(ValueError, match="no kind of report"):
        save.render_document(made.bench_json(), "pdf")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    save.write_whole(path, "one\n")
    with pytest.raises(FileExistsError):
        save.write_whole(path, b"two", force=False)
    assert path.read_bytes() == b"one\n"
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        save.write_whole(path, "three")
    assert (path.read_bytes(), [p.name for p in tmp_path.iterdir()]) == (b"one\n", ["x"])


def test_measurements_that_are_none_are_one_line_and_nothing_is_written(
    run: Run, failing: Path, tmp_path: Path
) -> None:
    """What no schema holds may be anything in a document that somebody else wrote."""
    document = json.loads(failing.read_text(encoding="utf-8"))
    outputs = next(stage["outputs"] for stage in document["stages"] if stage.get("outputs"))
    wrong = 0
    for odd in (None, "x", [[None, 0, 1]], [[0]], [["a", "b", "c"]], [[0, 0, 10**400]], {"a": 1}, [[0, 0, "\x1b"]]):
        for output in outputs:
            drawn = {"low": 0, "step": 1, "counts": [1], "zeros": 0, "by_size": {"low": 0, "cells": odd}}
            output["detail"] = {**output["detail"], "hist_log10_abs": drawn}
        path = tmp_path / "odd.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        code, _, err = run("report", path, "-o", tmp_path / "out", "--formats", "json,html", "--force")
        assert code in (0, 3) and err.count("\n") == (code == 3)
        if code == 3:
            wrong += 1
            assert "no whole report" in err
    assert wrong >= 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_folder_is_not_waited_for(run: Run, failing: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "report.json")
    assert not save._holds_report(tmp_path / "out")
    assert run("report", failing, "-o", tmp_path / "out", "--formats", "md")[0] in (0, 3)


def test_the_folder_of_one_of_several_lies_in_the_folder(tmp_path: Path) -> None:
    for name in ("net", "..", ".", ""):
        inside = save.Ending(tmp_path / "out").of_one(name).folder
        assert inside is not None and inside.resolve().parent == (tmp_path / "out").resolve()


STUDY = Path(__file__).parents[2] / "docs" / "study" / "report.json"


def test_a_study_reads_the_same_from_its_file(run: Run, tmp_path: Path) -> None:
    code, out, err = run("report", STUDY, "-o", tmp_path / "r", "--formats", "json,md,html,text")
    assert (code, out, err) == (0, "", "")
    assert (tmp_path / "r" / "report.json").read_bytes() == STUDY.read_bytes()
    told = (tmp_path / "r" / "report.md").read_text(encoding="utf-8")
    figures = re.findall(r"\(figures/(.*?)\)", told)
    assert figures and {p.name for p in (tmp_path / "r" / "figures").iterdir()} >= set(figures)


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--formats", "junit"], "no junit of it"), (["--rethreshold"], "passes or fails nothing")],
)
def test_what_passes_or_fails_nothing_has_no_limits(run: Run, more: list[str], said: str) -> None:
    code, out, err = run("report", STUDY, *more)
    assert (code, out) == (3, "") and said in err
