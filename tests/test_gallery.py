"""Each bug of the gallery is found by the command that its page shows, and our own fold does not make it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import biasopt
import cli
from converter.records import Verdict
from tests import gallery
from tests.gallery import Bug

PAGE = Path(__file__).resolve().parents[1] / "docs" / "gallery.md"


def test_the_page_is_what_the_gallery_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == gallery.page()
    assert len(gallery.MAKERS) >= 12


@pytest.mark.parametrize("make", gallery.MAKERS, ids=lambda make: make.__name__)
def test_a_bug_is_found_and_not_made(make: Callable[[], Bug]) -> None:
    bug = make()
    parity = biasopt.compare(bug.before, bug.after)
    if bug.exit_code:
        assert parity.verdict is Verdict.FAIL
    else:
        assert parity.warnings
    result = biasopt.fold(bug.before)
    assert (result.exit_code, bool(result.rewrites)) == (0, bug.folds)
    declined = any(finding.code for finding in result.findings)
    assert bug.folds or declined or any(fate.kind == "kept" and fate.code for fate in result.fates)


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gallery.main(tmp_path / "gallery")
    commands = re.findall(r"^biasopt (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == len(gallery.MAKERS)
    for command, make in list(zip(commands, gallery.MAKERS, strict=True))[::5]:
        assert cli.run([*shlex.split(command), "-q"]) == make().exit_code
