"""The examples of docs/ci.md: they parse, and what they call is what the command line has."""

from __future__ import annotations

import re
import shlex
import shutil
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
    assert {language for language, _ in BLOCKS} == {"yaml", "groovy", "sh", "python"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command: str) -> None:
    name, *argv = shlex.split(command)
    found = cli.cli.commands[name]
    with click.Context(found, info_name=name, **cli.cli.context_settings) as context:  # click keeps its help option
        found.parse_args(context, argv)  # an unknown option, or a value that is none, raises


def test_the_commands_of_gitlab_and_jenkins_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As their shells would, one after the other; a benchmark takes minutes, and others need a GPU or images."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "models" / "digits_cnn_bn.onnx", tmp_path / "model.onnx")
    blocks = [text for language, text in BLOCKS if language in ("yaml", "groovy")]
    found = [shlex.split(line) for text in blocks for line in re.findall(r"biasopt ((?:fold|verify)\b[^'\n&]*)", text)]
    ran = [argv for argv in found if not {"--bench", "cuda", "--images"} & set(argv)]
    assert {argv[0] for argv in ran} == {"fold", "verify"}
    for argv in sorted(ran):
        assert cli.run([*argv, "-q", *(["--force"] if argv[0] == "fold" else [])]) == 0, argv
    assert (tmp_path / "parity" / NAMES["junit"]).exists()
    assert (tmp_path / "report" / NAMES["openmetrics"]).exists()


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "yaml"])
def test_yaml_parses(text: str) -> None:
    assert isinstance(yaml().safe_load(text), dict)


def test_github_jobs_have_what_github_asks_for() -> None:
    document = yaml().safe_load(next(text for _, text in BLOCKS if "runs-on" in text))
    assert document[True] == ["pull_request"]  # YAML reads `on` as a truth value
    for job in document["jobs"].values():
        assert job["runs-on"]
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    action = yaml().safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    ours = [step for job in document["jobs"].values() for step in job["steps"] if "/biasopt@" in step.get("uses", "")]
    assert ours
    assert all(set(step["with"]) <= set(action["inputs"]) for step in ours)
    told = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| `.*?\|(?!-)", TEXT, flags=re.MULTILINE))))
    assert set(action["inputs"]) <= told


def test_what_is_published_is_what_is_written() -> None:
    assert f"parity/{NAMES['junit']}" in TEXT
    assert f"report/{NAMES['openmetrics']}" in TEXT
    assert f"report/{NAMES['metrics']}" in TEXT
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
