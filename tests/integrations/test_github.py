"""The GitHub action, executed as far as it goes without the service; images, hooks and snippets."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import cli
from converter.integrations import github

ROOT = Path(__file__).resolve().parents[2]
MODEL, OTHER = ROOT / "models" / "digits_cnn_bn.onnx", ROOT / "models" / "digits_cnn_plain_bn.onnx"
posix = pytest.mark.skipif(os.name != "posix", reason="needs bash")


@pytest.fixture
def action() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    return found


class Runner:
    """A folder of a job, with the files and programs that GitHub's runner has."""

    def __init__(self, home: Path, action: dict[str, Any]) -> None:
        self.home, self.action, self.bin = home, action, home / "bin"
        self.bin.mkdir()
        self.program("biasopt", f'exec "{sys.executable}" "{ROOT / "biasopt.py"}" "$@"')
        self.program(
            "python",
            f'[[ "$*" != *"-m pip "* ]] || {{ printf "%s\\n" "$@" > pip.txt; exit 0; }}\n'
            f'PYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"',
        )
        for name in ("output", "summary"):
            (home / name).touch()
        shutil.copy(MODEL, home / "a model.onnx")

    def program(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def step(self, name: str, **inputs: str) -> subprocess.CompletedProcess[str]:
        """Execute one step, its expressions replaced as the runner does."""
        step = next(step for step in self.action["runs"]["steps"] if step["name"] == name)
        given = {key: str(value.get("default", "")) for key, value in self.action["inputs"].items()} | inputs
        env = {
            key: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda m: given[m[1]], value)
            for key, value in step.get("env", {}).items()
        }
        env = {key: re.sub(r"\$\{\{.*?\}\}", "7", value) for key, value in env.items()}
        env |= {"GITHUB_OUTPUT": str(self.home / "output"), "GITHUB_STEP_SUMMARY": str(self.home / "summary")}
        env |= {"GITHUB_ACTION_PATH": "/the action", "GITHUB_REPOSITORY": "me/mine"}
        env |= {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.home,
            env=os.environ | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    @property
    def outputs(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in (self.home / "output").read_text().splitlines())


@pytest.fixture
def runner(tmp_path: Path, action: dict[str, Any]) -> Runner:
    return Runner(tmp_path, action)


@posix
def test_install_takes_the_action_itself_by_its_constraints(runner: Runner) -> None:
    assert runner.step("Install").returncode == 0
    said = (runner.home / "pip.txt").read_text().splitlines()
    assert said[:4] == ["-P", "-m", "pip", "install"]
    assert said[-1] == "/the action"
    assert "/the action/constraints.txt" in said


@posix
def test_a_pass_has_outputs_and_a_summary(runner: Runner) -> None:
    done = runner.step(
        "Run", model="a model.onnx", reference="a model.onnx", args="--samples 1 --stages 'structure,runtime'"
    )
    assert done.returncode == 0, done.stderr
    assert runner.outputs == {"verdict": "PASS", "ratio": "", "report": "biasopt-report"}
    assert "PASS" in (runner.home / "summary").read_text()
    made = {path.name for path in (runner.home / "biasopt-report").iterdir()}
    assert {"report.json", "report.md", "report.html", "report.xml", "metrics.json"} <= made
    assert "::error" not in done.stdout
    assert (
        "--stages structure,runtime"
        in json.loads((runner.home / "biasopt-report" / "report.json").read_text())["repro"]["cmd"]
    )


@posix
def test_a_failure_is_annotated_and_has_the_commands_exit_code(runner: Runner) -> None:
    shutil.copy(OTHER, runner.home / "b.onnx")
    done = runner.step("Run", model="b.onnx", reference="a model.onnx", args="--quick")
    assert done.returncode == 1, done.stderr
    assert runner.outputs["verdict"] == "FAIL"
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert line.startswith("::error title=biasopt verify::")


@posix
def test_inspect_takes_several_models_and_a_missing_one_is_an_error(runner: Runner) -> None:
    shutil.copy(MODEL, runner.home / "b.onnx")
    done = runner.step("Run", command="inspect", model="a model.onnx\nb.onnx\n")
    assert (done.returncode, runner.outputs["verdict"]) == (1, "FAIL")
    assert done.stdout.count("Would do") == 2
    assert runner.step("Run", command="inspect", model="none.onnx").returncode == 3
    assert runner.outputs["verdict"] == "ERROR"
    assert runner.step("Run", command="explode", model="b.onnx").returncode == 2


@posix
def test_arguments_are_words_and_never_code(runner: Runner) -> None:
    done = runner.step("Run", command="inspect", model="a model.onnx", args="--skip '$(touch broken)' ; touch broken")
    assert done.returncode == 2
    assert not (runner.home / "broken").exists()


@posix
@pytest.mark.parametrize(
    ("there", "method"),
    [("", "POST repos/me/mine/issues/7/comments"), ("41", "PATCH repos/me/mine/issues/comments/41")],
)
def test_one_comment_is_made_and_then_edited(runner: Runner, there: str, method: str) -> None:
    runner.program("gh", f'[[ "$*" != *--paginate* ]] || {{ echo "{there}"; exit 0; }}\nprintf "%s\\n" "$@" > gh.txt')
    (runner.home / "biasopt-report").mkdir()
    (runner.home / "biasopt-report" / "report.md").write_text("# All is well\n")
    done = runner.step("Comment", comment="true")
    assert done.returncode == 0, done.stderr
    said = (runner.home / "gh.txt").read_text().splitlines()
    assert f"{said[2]} {said[3]}" == method
    assert (runner.home / "biasopt-report" / "comment.md").read_text() == "<!-- biasopt verify -->\n# All is well\n"


@posix
@pytest.mark.parametrize("report", ["away", "away/report", "away/a/b", "{home}/away/report", "./away/../kept/report"])
def test_a_link_anywhere_in_the_reports_path_is_refused(runner: Runner, tmp_path_factory: Any, report: str) -> None:
    """A pull request brings a link to where the runner keeps other things."""
    target = tmp_path_factory.mktemp("elsewhere")
    for folder in (target, target / "report", target / "a" / "b"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text("mine")
    (runner.home / "kept").mkdir()
    (runner.home / "away").symlink_to(target)
    name = report.format(home=runner.home)
    done = runner.step("Run", command="fold", model="a model.onnx", args="--no-verify", report=name)
    assert done.returncode == 2
    assert "is a link; name a folder" in done.stderr
    assert {file.read_text() for file in target.rglob("report.json")} == {"mine"}
    assert not list(target.rglob("report.html"))


@posix
def test_a_report_may_lie_in_folders_and_outside_of_the_checkout(runner: Runner, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("temporary")
    for index, report in enumerate(("made/here", str(outside / "report"))):
        done = runner.step(
            "Run", command="fold", model="a model.onnx", args=f"--no-verify -o {index}.onnx", report=report
        )
        assert done.returncode == 0, done.stderr
        assert (runner.home / report / "report.html").is_file()


@posix
def test_what_lies_in_the_checkout_is_neither_run_nor_taken_for_a_result(
    runner: Runner, action: dict[str, Any]
) -> None:
    """A pull request brings modules by the names of ours and of pip's, a report, and models called like options."""
    for name in ("biasopt", "pip", "json", "converter"):
        (runner.home / name).mkdir()
        (runner.home / name / "__init__.py").write_text("open('PWNED', 'w')")
    there = runner.home / "biasopt-report"
    there.mkdir()
    (there / "report.json").write_text('{"verdict": "PASS"}')
    (there / "report.md").write_text("# PASS")
    (there / "comment.md").symlink_to(runner.home / "a model.onnx")
    runner.step("Install")
    done = runner.step("Run", model="--custom-ops=x.so", reference="a model.onnx")
    assert done.returncode == 3 and "--custom-ops=x.so: " in done.stderr
    assert runner.outputs["verdict"] == "ERROR" and not (runner.home / "summary").read_text()
    assert not (there / "comment.md").exists() and not (runner.home / "PWNED").exists()
    steps = {step["name"]: step for step in action["runs"]["steps"]}
    assert "steps.run.outputs.report != ''" in steps["Comment"]["if"]
    (runner.home / "link").symlink_to("/tmp")
    assert runner.step("Run", model="a model.onnx", reference="a model.onnx", report="link").returncode == 2


def test_no_expression_stands_in_a_script(action: dict[str, Any]) -> None:
    """What a stranger named a branch or a file would be run."""
    assert all("${{" not in step["run"] for step in action["runs"]["steps"])
    assert set(action["outputs"]) == {"verdict", "ratio", "report"}


@pytest.mark.parametrize(
    ("document", "code", "verdict"),
    [
        ({"verdict": "PASS", "bench": {"verdict": "FAIL", "why": "slow"}}, 1, "FAIL"),
        ({"parity": {"verdict": "INCONCLUSIVE", "why": "noise"}}, 4, "INCONCLUSIVE"),
        ({}, 3, "ERROR"),
        ({}, 0, "PASS"),
    ],
)
def test_the_gravest_verdict_counts(document: dict[str, Any], code: int, verdict: str) -> None:
    assert github.find_verdict(document, code) == verdict


def test_an_annotation_is_one_command_whatever_the_reason_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"verdict": "FAIL", "why": "50 %\n::set-output name=x::y"}))
    github.main([str(tmp_path), "1"])
    assert capsys.readouterr().out.splitlines() == ["::error title=biasopt::50 %25%0A%3A%3Aset-output name=x%3A%3Ay"]


# -- images and hooks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Containerfile", "Containerfile.cuda"])
def test_an_image_copies_what_is_there_and_starts_a_command(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / part).exists() for part in line.split())
    assert 'ENTRYPOINT ["biasopt"]' in text
    assert "constraints.txt" in text
    (argv,) = (json.loads(found) for found in re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE))
    assert argv == ["--help"] or argv[0] in cli.cli.commands


def test_the_image_for_the_cpu_installs_all_that_the_package_needs() -> None:
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    named = set(re.search(r"constraints\.txt \\\n\s+(.*?) \\\n", text)[1].split())  # type: ignore[index]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    place = {"sys_platform": "darwin", "platform_machine": "arm64"}  # where the CPU build is the one
    needs = [Requirement(text) for text in project["dependencies"]]
    assert named == {need.name for need in needs if need.marker is None or need.marker.evaluate(place)}


def test_the_hook_is_valid_to_pre_commit_itself() -> None:
    pytest.importorskip("pre_commit", reason="pre-commit is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-manifest", ".pre-commit-hooks.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_hook_stops_what_has_something_to_fold_and_nothing_else(tmp_path: Path) -> None:
    """As pre-commit calls it: the entry, and the files of the commit that fit its pattern."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    program, *asked = shlex.split(hook["entry"])
    assert program == "biasopt"
    assert [name for name in ("a/b.onnx", "b.onnx.data", "onnx.py") if re.search(hook["files"], name)] == ["a/b.onnx"]
    folded = tmp_path / "folded.onnx"
    assert cli.run(["fold", str(MODEL), "-o", str(folded), "--no-verify", "-q"]) == 0
    assert cli.run([*asked, str(folded)]) == 0
    assert cli.run([*asked, str(folded), str(MODEL)]) == 1
