"""How a command ends: where its finding goes, what stderr says, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest

from converter.records import Verdict
from converter.report.blocks import Paragraph, Report, Section
from converter.report.save import Ending

DOCUMENT = {"schema": "biasopt.test/1", "exit_code": 1}


def document() -> dict[str, object]:
    return DOCUMENT


def never() -> NoReturn:
    raise AssertionError("nobody asked for this")


def test_people_read_text_which_says_why_itself(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("test", "", Verdict.PASS, "", "", (Section("", (Paragraph("it is so"),)),))
    assert Ending().end(1, never, lambda: report, never) == 1
    assert capsys.readouterr() == ("it is so\n", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_programs_read_json_and_people_the_reason_on_stderr(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    assert Ending(as_json=True, quiet=quiet).end(4, document, never, lambda: "too few inputs") == 4
    out, err = capsys.readouterr()
    assert json.loads(out) == DOCUMENT
    assert err == "biasopt: too few inputs\n"


def test_quiet_says_nothing_but_why_it_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert Ending(quiet=True).end(0, never, never, never) == 0
    assert Ending(quiet=True).end(1, never, never, lambda: "they differ") == 1
    assert capsys.readouterr() == ("", "biasopt: they differ\n")


def test_reports_go_into_the_folder_that_was_prepared(tmp_path: Path) -> None:
    ending = Ending(tmp_path / "new", ["json"], quiet=True)
    ending.prepare()
    assert ending.end(0, document, never, never) == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.json"]
