"""What a shell is told when it completes: commands, options, choices, passes, files; and the help by another way."""

from __future__ import annotations

import pytest

import cli


def complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str) -> list[str]:
    words = line.split(" ")
    monkeypatch.setenv("_BIASOPT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    assert cli.run([]) == 0
    return [row.partition(",")[2] for row in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("biasopt ver", ["verify"]),
        ("biasopt verify --accuracy", ["--accuracy-margin"]),
        ("biasopt fold m.onnx --provider cu", ["cuda"]),
        ("biasopt fold m.onnx --only fold-bn-into-c", ["fold-bn-into-conv", "fold-bn-into-conv-transpose"]),
        ("biasopt passes merge-r", ["merge-rnn-biases"]),
    ],
)
def test_completes(
    line: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complete(monkeypatch, capsys, line) == wanted


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_this_command(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_BIASOPT_COMPLETE", f"{shell}_source")
    assert cli.run([]) == 0
    said = capsys.readouterr().out
    assert "_BIASOPT_COMPLETE" in said
    assert "biasopt" in said


def test_help_of_a_command_is_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["help", "bench"]) == 0
    by_name = capsys.readouterr().out
    assert cli.run(["bench", "--help"]) == 0
    assert by_name == capsys.readouterr().out
    assert cli.run(["help"]) == 0
    assert "Commands:" in capsys.readouterr().out
    assert cli.run(["help", "benhc"]) == 2


def test_version_has_a_short_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["-V"]) == 0
    assert capsys.readouterr().out.startswith("biasopt ")
