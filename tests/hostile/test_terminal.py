"""What a file holds must not drive the terminal, fill it, or speak to GitHub's runner, in any command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import cli
from converter.records.lint import CODES, Kind, LintFinding, LintReport
from converter.records.results import ReplayResult
from converter.report import terminal, wording
from converter.report.content.lint import lint_report
from converter.report.content.replay import replay_report
from converter.report.render.sarif import workflow_commands
from converter.report.render.text import render_text
from converter.report.serialize import dumps
from tests.hostile.test_models import net

NAMES = ("::stop-commands::x", "::add-mask::a", "::error file=a.py,line=1::no", "##[error]no", "\x1b[31m\n::x::y\u202e")
LONG = "n" * 3_000_000


def obeyed(log: str) -> list[str]:
    """The lines that the runner takes for a command (actions/runner, ActionCommand.cs), or that drive a terminal."""
    lines = re.split(r"\r\n|\r|\n", log)
    return [s for s in lines if s.lstrip().startswith("::") or "##[" in s or "\x1b" in s or "\u202e" in s]


def save(path: Path, name: str, *, epsilon: float = 1e-5) -> Path:
    """A model in which everything that can have a name has this one."""
    model = net()
    conv, norm = model.graph.node
    conv.name, norm.name = name, f"{name}2"
    norm.attribute[0].f = epsilon
    conv.output[0] = norm.input[0] = f"{name}3"
    model.graph.output[0].name = norm.output[0] = name
    model.graph.input[0].name = conv.input[0] = f"{name}4"
    path.write_bytes(model.SerializeToString())
    return path


COMMANDS: dict[str, list[str]] = {
    "inspect": ["inspect", "A"],
    "inspect -v": ["inspect", "A", "-v", "--fates"],
    "inspect --json": ["inspect", "A", "--json"],
    "fold": ["fold", "A", "-o", "OUT", "--quick"],
    "fold -v": ["fold", "A", "-o", "OUT", "--quick", "-v"],
    "fold --json": ["fold", "A", "-o", "OUT", "--no-verify", "--json"],
    "fold --quiet": ["fold", "A", "-o", "OUT", "--no-verify", "-q"],
    "verify": ["verify", "A", "B", "--quick"],
    "verify -v": ["verify", "A", "B", "--quick", "-v"],
    "verify --json": ["verify", "A", "B", "--quick", "--json"],
    "verify --quiet": ["verify", "A", "B", "--quick", "-q"],
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", COMMANDS)
def test_no_name_is_a_command(which: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a.onnx", name)
    save(tmp_path / "b.onnx", name, epsilon=0.5)
    places = {"A": tmp_path / "a.onnx", "B": tmp_path / "b.onnx", "OUT": tmp_path / "o.onnx"}
    code = cli.run([str(places.get(part, part)) for part in COMMANDS[which]])
    found = capsys.readouterr()
    assert code in (0, 1, 4)
    assert not obeyed(found.out)
    assert not obeyed(found.err)
    if "--json" in which:
        assert json.loads(found.out)


@pytest.mark.parametrize("form", ["text", "md", "html", "junit", "json"])
@pytest.mark.parametrize("name", NAMES)
def test_no_printed_report_is_a_command(
    form: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a.onnx", name)
    save(tmp_path / "b.onnx", name, epsilon=0.5)
    cli.run(["verify", f"{tmp_path}/a.onnx", f"{tmp_path}/b.onnx", "--quick", "-q", "--report", str(tmp_path / "r")])
    capsys.readouterr()
    assert cli.run(["report", str(tmp_path / "r" / "report.json"), "--formats", form]) == 0
    assert not obeyed(capsys.readouterr().out)


@pytest.mark.parametrize("name", NAMES)
def test_no_file_of_a_report_is_a_command(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job may print them: ``cat report.md``."""
    model, reports = tmp_path / "a.onnx", tmp_path / "r"
    save(model, name)
    given = ["--report", str(reports), "--formats", "json,md,html,junit,text", "--certificate", str(reports / "c.json")]
    reports.mkdir()
    assert cli.run(["fold", str(model), "-o", str(tmp_path / "o.onnx"), "--no-verify", *given]) == 0
    written = sorted(reports.iterdir())
    assert len(written) == 6
    for file in written:
        assert not obeyed(file.read_text(encoding="utf-8")), file.name
    ElementTree.fromstring((reports / "report.xml").read_text(encoding="utf-8"))
    capsys.readouterr()
    assert cli.run(["replay", str(model), str(reports / "c.json")]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_where_a_certificate_breaks_is_no_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = ReplayResult(
        "a", "c", steps=1, replayed=0, recomputed=0, open_steps=((name, name),), where=name, why=name, digest="",
        output=None, same_bytes=None,
    )  # fmt: skip
    for found in (result, replace(result, where="", why="")):
        terminal.say(render_text(replay_report(found), verbose=True))
    assert not obeyed(capsys.readouterr().out)


@pytest.mark.parametrize("which", ["inspect", "inspect -v", "fold -v", "verify -v"])
def test_a_name_of_megabytes_fills_no_terminal(which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a.onnx", LONG)
    save(tmp_path / "b.onnx", LONG, epsilon=0.5)
    places = {"A": tmp_path / "a.onnx", "B": tmp_path / "b.onnx", "OUT": tmp_path / "o.onnx"}
    assert cli.run([str(places.get(part, part)) for part in COMMANDS[which]]) in (0, 1, 4)
    found = capsys.readouterr()
    assert len(found.out) < 100_000
    assert len(found.err) < 2000


def test_an_error_is_one_line_of_some_hundred_characters(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.note(f"error: key {LONG} is unknown; make the model that was trained")
    said = capsys.readouterr().err
    assert len(said) < 1000
    assert said.startswith("biasopt: error: key nnn")
    assert said.endswith("is unknown; make the model that was trained\n")


def test_a_bug_shows_its_lines_and_obeys_none(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError("a\n::stop-commands::x \x1b[2J" + LONG)
    except KeyError as error:
        error.add_note("::stop-commands::x\n##[error]\x1b[2J")
        terminal.bug("1")
    said = capsys.readouterr().err
    assert not obeyed(said)
    assert "Traceback" in said
    assert len(said) < 5000


@pytest.mark.parametrize("name", NAMES)
def test_no_module_is_a_command(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    finding = LintFinding(CODES[0].name, Kind.DEAD, name, name, None, 1, name, name, "", evidence={name: name})
    report = LintReport(name, (finding,), (), 1, 1, 1, "torch.export", (name,))
    for verbose in (False, True):
        terminal.say(render_text(lint_report(report, tmp_path), verbose=verbose))
    assert not obeyed(capsys.readouterr().out)


@pytest.mark.parametrize("name", NAMES)
def test_annotations_are_ours_alone(name: str, tmp_path: Path) -> None:
    finding = LintFinding(CODES[0].name, Kind.DEAD, name, name, None, 1, name, name, "")
    report = LintReport(name, (finding,), (), 1, 1, 1, "torch.export")
    (line,) = workflow_commands(report, tmp_path).splitlines()
    assert line.startswith("::warning title=biasopt")
    assert not set(line) & set("\x1b\u202e\n\r")


def test_strings_that_the_runner_reads_are_the_same_json() -> None:
    assert "##[" not in dumps({"a": "##[error]no"})
    assert json.loads(dumps({"a": "##[error]no"})) == {"a": "##[error]no"}


def test_what_is_broken_up_can_still_be_read() -> None:
    assert wording.break_commands("  ::error::x\na::b ##[x]\n") == "  \\x3a:error::x\na::b #\\x23[x]\n"
    assert wording.break_commands("a: b\n# [x]") == "a: b\n# [x]"
