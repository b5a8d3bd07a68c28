"""The examples of docs/ci.md: they parse, and what they call is what the command line has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

import cli
from converter.report.save import NAMES

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
# a command ends where its line, its quotes or its `&&` end
COMMANDS = sorted(
    set(re.findall(r"\bbiasopt ((?:fold|verify|bench|report|inspect)\b[^'\n&]*)", "".join(b for _, b in BLOCKS)))
)


def yaml() -> Any:
    return pytest.importorskip("yaml", reason="PyYAML is not installed")


def test_there_is_something_to_check() -> None:
    assert len(COMMANDS) >= 8
    assert {language for language, _ in BLOCKS} == {"yaml", "groovy", "sh"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command: str) -> None:
    name, *argv = shlex.split(command)
    found = cli.cli.commands[name]
    with click.Context(found, info_name=name, **cli.cli.context_settings) as context:  # click keeps its help option
        found.parse_args(context, argv)  # an unknown option, or a value that is none, raises


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "yaml"])
def test_yaml_parses(text: str) -> None:
    assert isinstance(yaml().safe_load(text), dict)


def test_github_jobs_have_what_github_asks_for() -> None:
    document = yaml().safe_load(next(text for _, text in BLOCKS if "runs-on" in text))
    assert document[True] == ["pull_request"]  # YAML reads `on` as a truth value
    for job in document["jobs"].values():
        assert job["runs-on"]
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


def test_what_is_published_is_what_is_written() -> None:
    assert f"parity/{NAMES['junit']}" in TEXT
    assert f"parity/{NAMES['md']}" in TEXT
    assert f"*/{NAMES['junit']}" in TEXT
    assert f"parity/{NAMES['json']}" in TEXT


def test_groovy_is_balanced() -> None:
    (text,) = (text for language, text in BLOCKS if language == "groovy")
    assert all(text.count(a) == text.count(b) for a, b in ("{}", "()"))
    assert text.count("'") % 2 == 0


def test_every_exit_code_is_explained() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, flags=re.MULTILINE)}
    epilog = cli.cli.epilog or ""
    assert told == {int(code) for code in re.findall(r"\b\d+\b", epilog)}


def test_the_hook_is_a_command_that_takes_several_models() -> None:
    (hook,) = yaml().safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert hook["id"] == "biasopt-inspect"
    assert "- id: biasopt-inspect" in TEXT
    program, name, *argv = shlex.split(hook["entry"])
    assert program == "biasopt"
    found = cli.cli.commands[name]
    with click.Context(found, info_name=name, **cli.cli.context_settings) as context:  # click keeps its help option
        found.parse_args(context, [*argv, "a.onnx", "b.onnx"])
    assert re.search(hook["files"], "models/a.onnx")
    assert not re.search(hook["files"], "models/a.onnx.data")
