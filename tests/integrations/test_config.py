"""Settings of a project: what counts for what, in which order, and that a slip is an error with a suggestion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cli
from converter.errors import BiasoptError
from converter.integrations.config import add_settings, find_config

TEXT = """
seed = 7
[verify]
accuracy-margin = "0.5%"
shape = ["x=1,3", "y=2"]
quick = true
[inspect]
skip = "drop-zero-bias"
[models."det/*.onnx"]
provider = "cuda"
[models."det/*.onnx".verify]
accuracy_margin = "2%"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "biasopt.toml").write_text(TEXT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BIASOPT_CONFIG", raising=False)
    return tmp_path


def words(line: str) -> str:
    return " ".join(add_settings(cli.cli, line.split()))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (
            "verify a.onnx b.onnx",
            "verify --seed 7 --accuracy-margin 0.5% --shape x=1,3 --shape y=2 --quick a.onnx b.onnx",
        ),
        (
            "verify a.onnx b.onnx --accuracy-margin 1%",
            "verify --seed 7 --shape x=1,3 --shape y=2 --quick a.onnx b.onnx --accuracy-margin 1%",
        ),
        (
            "verify det/a.onnx b.onnx --shape z=1 --seed 3",
            "verify --accuracy-margin 2% --quick --provider cuda det/a.onnx b.onnx --shape z=1 --seed 3",
        ),
        ("inspect det/a.onnx", "inspect --skip drop-zero-bias det/a.onnx"),
        ("verify --help", "verify --help"),
        ("passes", "passes"),
        ("nonsense x", "nonsense x"),
    ],
)
def test_settings_become_words_and_the_command_line_wins(project: Path, line: str, wanted: str) -> None:
    assert words(line) == wanted


def test_they_count_for_the_command_itself_and_stand_in_its_report(project: Path) -> None:
    import shutil

    shutil.copy(Path(__file__).parents[2] / "models" / "digits_cnn_bn.onnx", "m.onnx")
    (project / "biasopt.toml").write_text('stages = "structure,algebra"\n[verify]\nformats = "json"\n')
    assert cli.run(["verify", "m.onnx", "m.onnx", "--report", "r", "-q"]) == 0
    assert [path.name for path in (project / "r").iterdir()] == ["report.json"]
    command = json.loads((project / "r" / "report.json").read_text())["repro"]["cmd"]
    assert command == "biasopt verify --stages structure,algebra --formats json m.onnx m.onnx --report r -q"


def test_the_nearest_file_counts_up_to_the_repository(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "sub" / "deep").mkdir(parents=True)
    monkeypatch.chdir(project / "sub" / "deep")
    found = find_config(cli.cli)
    assert found is not None
    assert found.path == project / "biasopt.toml"
    (project / "sub" / "pyproject.toml").write_text("[tool.biasopt]\nseed = 9\n[tool.ruff]\nx = 1\n")
    assert words("fold m.onnx") == "fold --seed 9 m.onnx"
    (project / "sub" / "pyproject.toml").write_text("[project]\nname = 'uses-biasopt'\n")
    assert words("fold m.onnx") == "fold --seed 7 m.onnx"


def test_outside_of_a_repository_only_the_folder_itself_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "biasopt.toml").write_text("seed = 7\n")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert find_config(cli.cli) is None
    monkeypatch.chdir(tmp_path)
    assert find_config(cli.cli) is not None


def test_a_variable_names_another_file_or_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "other.toml").write_text("seed = 1\n")
    monkeypatch.setenv("BIASOPT_CONFIG", "other.toml")
    assert words("fold m.onnx") == "fold --seed 1 m.onnx"
    monkeypatch.setenv("BIASOPT_CONFIG", "")
    assert words("fold m.onnx") == "fold m.onnx"
    monkeypatch.setenv("BIASOPT_CONFIG", "none.toml")
    with pytest.raises(BiasoptError, match=r"none\.toml: cannot be read"):
        words("fold m.onnx")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sead = 1", "sead is no option; did you mean seed"),
        ("[verify]\naccuracy-margim = '1%'", r"\[verify\] accuracy-margim is no option; did you mean accuracy-margin"),
        ("[verfy]\nseed = 1", r"\[verfy\] is no command; did you mean verify"),
        ("[models.'*.onnx']\nprovder = 'cpu'", "provder is no option; did you mean provider"),
        ("[models.'*.onnx'.bench]\nstages = 'runtime'", r"bench\] stages is no option"),
        ("models = 3", "no table of globs"),
        ("[verify]\nshape = [[1]]", "holds no text"),
        ("seed = ", "is no TOML"),
    ],
)
def test_a_slip_is_an_error_with_a_suggestion(
    project: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "biasopt.toml").write_text(text)
    with pytest.raises(BiasoptError, match=said):
        find_config(cli.cli)
    assert cli.run(["fold", "m.onnx"]) == 3
    assert "biasopt.toml: " in capsys.readouterr().err


def test_a_value_that_is_none_is_said_by_its_option(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "biasopt.toml").write_text("provider = 'tpu'")
    assert cli.run(["fold", "m.onnx"]) == 2
    assert "'--provider': 'tpu'" in capsys.readouterr().err


def test_show_says_where_each_comes_from(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config", "--show", "det/a.onnx"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["verify", "--accuracy-margin", "2%", '[models."det/*.onnx".verify]'] in lines
    assert ["inspect", "--skip", "drop-zero-bias", "[inspect]"] in lines
    assert ["fold", "--seed", "7", "top"] in lines
    assert cli.run(["config", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["path"].endswith("biasopt.toml")
    assert {"command": "verify", "option": "quick", "value": True, "section": "verify"} in document["settings"]


def test_show_says_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["config"]) == 0
    assert "No biasopt.toml" in capsys.readouterr().out
