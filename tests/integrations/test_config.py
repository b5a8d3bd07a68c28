"""Settings of a project: what counts for what, in which order, and that a slip is an error with a suggestion."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
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
    row = {"command": "verify", "option": "quick", "value": True, "section": "verify", "refused": ""}
    assert row in document["settings"]


def test_show_says_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["config"]) == 0
    assert "No biasopt.toml" in capsys.readouterr().out


# -- a stranger's file -----------------------------------------------------------------------------------

EVIL = "from pathlib import Path\nPath('PWNED').touch()\ndef f(*_):\n    return {}\n"
STRANGE = [
    ("fold m.onnx", "inputs = 'evil.py:f'", "names code"),
    ("fold m.onnx", "inputs = ['x.npz', 'evil.py:f']", "names code"),
    ("ablate m.onnx", "[models.'*.onnx'.ablate]\ninputs = './evil.py:f'", "names code"),
    ("verify m.onnx m.onnx --inputs x.npz", "metric = 'evil.py:f'", "names code"),
    ("verify m.onnx m.onnx", "[verify]\ncustom_ops = 'evil.so'", "can run code"),
    ("bench m.onnx m.onnx", "custom-ops = 'evil.so'", "can run code"),
    ("fold m.onnx", "provider-option = 'trt_extra_plugin_lib_paths=evil.so'", "can run code"),
    ("export evil.pt2 -o o.onnx", "[export]\ntrust = true", "can run code"),
    ("export evil.py:f -o o.onnx", "example = 'evil.py:f'", "can run code"),
    ("batch m.onnx -o out", "scheduler = 'tcp://127.0.0.1:9'", "can run code"),
    ("fold m.onnx", "in-place = true", "replace files"),
    ("fold m.onnx", "[fold]\nforce = true\noutput = 'kept.txt'", "replace files"),
    ("lint evil.py:f", "fix = true\nwrite = true", "replace files"),
    ("lint evil.py:f", "fix-checkpoint = ['a.pt', 'kept.txt']", "replace files"),
    ("fold m.onnx", "report = '../outside'", "leaves the folder"),
    ("fold m.onnx", "out-dir = 'link/sub'", "leaves the folder"),
    ("fold m.onnx", "certificate = '/etc/c.json'", "leaves the folder"),
    ("study", "out = 'loop/x'", "leaves the folder"),
    ("verify m.onnx m.onnx", "inputs = '/etc/hostname'", "leaves the folder"),
    ("verify m.onnx m.onnx", "images = '//host/share/x'", "leaves the folder"),
    ("export evil.py:f -o o.onnx", "weights = '../w.pt'", "leaves the folder"),
]


@pytest.fixture
def checkout(project: Path) -> Path:
    import shutil

    shutil.copy(Path(__file__).parents[2] / "models" / "digits_cnn_bn.onnx", "m.onnx")
    for name, text in (("evil.py", EVIL), ("kept.txt", "kept"), ("evil.so", "no library"), ("evil.pt2", "")):
        (project / name).write_text(text)
    (project / "link").symlink_to(project.parent)
    (project / "loop").symlink_to("loop")
    return project


def look_at(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """What each file is, by its inode, size and time; when it was read does not count."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


@pytest.mark.parametrize(("line", "text", "said"), STRANGE, ids=[text.splitlines()[-1] for _, text, _ in STRANGE])
def test_a_strangers_file_names_no_code_replaces_nothing_and_stays_in_its_folder(
    checkout: Path, line: str, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "biasopt.toml").write_text(text)
    before = look_at(checkout)
    assert cli.run(line.split()) == 3
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and said in told and "biasopt.toml: " in told and "BIASOPT_CONFIG=" in told
    assert look_at(checkout) == before
    (checkout / "biasopt.toml").unlink()
    section = text if text.startswith("[") else f"[tool.biasopt]\n{text}"
    (checkout / "pyproject.toml").write_text(section.replace("[models", "[tool.biasopt.models").replace(
        f"[{line.split()[0]}]", f"[tool.biasopt.{line.split()[0]}]"
    ))  # fmt: skip
    assert cli.run(line.split()) == 3
    assert said in capsys.readouterr().err


def test_a_file_that_the_user_names_is_trusted(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "biasopt.toml").write_text("[verify]\ninputs = 'evil.py:f'\nreport = '../outside'")
    monkeypatch.setenv("BIASOPT_CONFIG", "biasopt.toml")
    assert words("verify m.onnx m.onnx") == "verify --inputs evil.py:f --report ../outside m.onnx m.onnx"
    cli.run(["verify", "m.onnx", "m.onnx"])
    assert (checkout / "PWNED").exists()


def test_what_is_refused_stops_no_other_command_nor_what_the_command_line_overrides(checkout: Path) -> None:
    (checkout / "biasopt.toml").write_text("[verify]\ninputs = 'evil.py:f'\nreport = 'r/../r'\n[fold]\nforce = false")
    assert words("inspect m.onnx") == "inspect m.onnx"
    assert words("fold m.onnx") == "fold m.onnx"
    assert words("verify m.onnx b --inputs x.npz") == "verify --report r/../r m.onnx b --inputs x.npz"


def test_show_says_what_is_refused(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "biasopt.toml").write_text("[verify]\ninputs = 'evil.py:f'\nformats = '\\u001b[31m'")
    assert cli.run(["config"]) == 0
    told = capsys.readouterr().out
    assert "names code" in told and "\x1b" not in told
    assert cli.run(["config", "--json"]) == 0
    assert [row["refused"] for row in json.loads(capsys.readouterr().out)["settings"] if row["option"] == "inputs"] == [
        "names code"
    ]


def test_every_option_that_takes_a_path_or_names_code_is_judged() -> None:
    """One that is new has to be put on one side: what takes free text, and is no path, is listed here."""
    texts = set()
    for command in cli.cli.commands.values():
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden and not getattr(option, "trusted", False):
                judged = isinstance(option.type, click.Path) or getattr(option, "kind", "") in ("data", "metric")
                if not judged and not option.is_flag and isinstance(option.type, click.types.StringParamType):
                    texts.add(option.opts[-1])
    numbers = {"--max-memory", "--alpha", "--latency-margin", "--accuracy-margin", "--allow-growth", "--tolerance"}
    names = {"--only", "--skip", "--allow", "--formats", "--stages", "--gate", "--blocks"}  # of what there is
    ports = {"--shape", "--input-range", "--rename", "--decision", "--output", "--dynamic"}  # of the model's
    nodes = {"--explain", "--keep-bias", "--also-remove"}
    assert texts == numbers | names | ports | nodes


@pytest.mark.parametrize("kind", ["fifo", "long", "folder", "link"])
def test_a_file_of_settings_is_a_short_regular_one(
    kind: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "odd.toml"
    monkeypatch.setenv("BIASOPT_CONFIG", str(path))
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("/dev/zero")
        case _:
            with path.open("wb") as sparse:
                sparse.truncate(30 << 30)
    assert cli.run(["inspect", "m.onnx"]) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_no_file_of_another_users_folder_counts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may put one, and a .git, into a folder such as /tmp."""
    (project / "mine").mkdir()
    monkeypatch.chdir(project / "mine")
    assert find_config(cli.cli) is not None
    real = Path.stat

    def stat_of_two_users(path: Path, **how: bool) -> os.stat_result:
        found = list(real(path, **how))
        found[4] += path == project
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", stat_of_two_users)
    assert find_config(cli.cli) is None
