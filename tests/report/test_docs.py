from __future__ import annotations

from pathlib import Path

import pytest

import converter.rewrite.passes
from converter.errors import BiasoptError
from converter.report import docs
from tests.report.made import Pass

PLAN = """\
# Title
<!-- BEGIN:tree -->
old
<!-- END:tree -->
end
"""

CLI = r"""
import sys
print(r"Usage: 1\1  ", *sys.argv[1:])
if len(sys.argv) == 2:
    print("\nCommands:\n  fold     Fold\n           it.\n  two-words  Another.\n\n  Exit codes: 0 done")
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(converter.rewrite.passes, "PASSES", (Pass("fold-a-into-b"),), raising=False)
    (tmp_path / "cli.py").write_text(CLI, encoding="utf-8")
    (tmp_path / "CONTRIBUTING.md").write_text(PLAN, encoding="utf-8")
    (tmp_path / "converter" / "room").mkdir(parents=True)
    (tmp_path / "converter" / "__init__.py").write_text('"""All of it."""\n', encoding="utf-8")
    (tmp_path / "converter" / "room" / "__init__.py").write_text('"""A room.\n\nMore."""\n', encoding="utf-8")
    (tmp_path / "converter" / "room" / "door.py").write_text(
        '"""Opens and\ncloses. Often, e.g. at night."""\n', encoding="utf-8"
    )
    return tmp_path


def test_writes_what_stands_between_the_markers_and_nothing_else(root: Path) -> None:
    assert docs.main([], root) == 0
    commands = (root / "docs" / "commands.md").read_text(encoding="utf-8")
    assert "## biasopt fold\n\n```text\n$ biasopt fold --help\nUsage: 1\\1   fold --help\n```" in commands
    assert "$ biasopt two-words --help" in commands
    assert commands.count("\n## ") == 2
    assert (root / "CONTRIBUTING.md").read_text(encoding="utf-8") == (
        "# Title\n<!-- BEGIN:tree -->\n**converter/** All of it.\n\n\n**converter/room/** A room.\n\n"
        "* `door.py` Opens and closes.\n<!-- END:tree -->\nend\n"
    )
    passes = (root / "docs" / "passes.md").read_text(encoding="utf-8")
    assert "## fold-a-into-b" in passes
    assert "[`fold-a-into-b`](#fold-a-into-b)" in passes


def test_check_writes_nothing_and_fails_until_all_is_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.main(["--check"], root) == 1
    assert "CONTRIBUTING.md: out of date" in capsys.readouterr().out
    assert (root / "CONTRIBUTING.md").read_text(encoding="utf-8") == PLAN
    assert not (root / "docs").exists()
    docs.main([], root)
    assert docs.main(["--check"], root) == 0
    (root / "docs" / "passes.md").write_text("edited", encoding="utf-8")
    assert docs.main(["--check"], root) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- BEGIN:x -->",
        "<!-- END:x --><!-- BEGIN:x -->",
        "<!-- BEGIN:x --><!-- BEGIN:x --><!-- END:x -->",
    ],
)
def test_markers_must_be_there_once_and_in_order(text: str) -> None:
    with pytest.raises(BiasoptError, match="BEGIN:x"):
        docs.fill(text, "x", "body")


def test_outside_of_a_checkout_it_says_where_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.main([], tmp_path) == 3
    assert "run this in a checkout" in capsys.readouterr().err


def test_a_command_that_crashes_is_not_documented(root: Path) -> None:
    (root / "cli.py").write_text("raise SystemExit(70)", encoding="utf-8")
    with pytest.raises(docs.subprocess.CalledProcessError):
        docs.main([], root)


def test_every_command_is_documented() -> None:
    import cli

    text = (docs.ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert {line[11:] for line in text.splitlines() if line.startswith("## ")} == set(cli.cli.commands)
