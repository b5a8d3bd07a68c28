"""The package as a user gets it: what is in the wheel, what it needs, and that the command finds its own code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from converter._version import __version__
from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SHIPPED = ("converter", "biasopt.py", "cli.py", "pyproject.toml", "README.md", "LICENSE")
SHADOW = "raise RuntimeError('this file is the user\\'s, not biasopt\\'s')\n"


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that no build folder is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = ("wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "-w", out, source)
    done = run(sys.executable, "-m", "pip", *build, cwd=source)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment of its own, which borrows this one's libraries."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    paths = sysconfig.get_paths("venv", vars={"base": str(home), "platbase": str(home)})
    installer = (sys.executable, "-m", "pip", "--python", home)
    done = run(*installer, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=home)
    assert done.returncode == 0, done.stderr
    Path(paths["purelib"], "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return Path(paths["scripts"]) / ("biasopt.exe" if os.name == "nt" else "biasopt")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder with a `cli.py` and a `converter/` of its own, as pipelines have."""
    (tmp_path / "converter").mkdir()
    (tmp_path / "cli.py").write_text(SHADOW, encoding="utf-8")
    (tmp_path / "converter" / "__init__.py").write_text(SHADOW, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_installed_command_ignores_the_users_cli_and_converter(command: Path, project: Path) -> None:
    (project / "model.onnx").write_bytes(tiny.conv_bn().SerializeToString())
    done = run(command, "fold", "model.onnx", cwd=project, PYTHONPATH=str(project))
    assert done.returncode == 0, done.stderr
    assert (project / "model.folded.onnx").is_file()


@pytest.mark.slow
def test_users_folder_would_have_won_without_the_launcher(command: Path, project: Path) -> None:
    python = command.with_name("python")
    done = run(python, "-c", "import cli", cwd=project, PYTHONPATH=str(project))
    assert "this file is the user's" in done.stderr


@pytest.mark.slow
def test_installed_command_knows_its_version(command: Path, tmp_path: Path) -> None:
    assert run(command, "--version", cwd=tmp_path).stdout.split() == ["biasopt", __version__]


def test_wheel_holds_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "converter").rglob("*")
        if path.suffix in (".py", ".json") or path.name == "py.typed" or path.parent.name == "templates"
    }
    assert names == package | {"biasopt.py", "cli.py"}


def test_wheel_is_small_and_brings_the_plugin(wheel: Path) -> None:
    assert wheel.stat().st_size <= 1_500_000
    archive = zipfile.ZipFile(wheel)
    points = next(archive.read(n).decode() for n in archive.namelist() if n.endswith("entry_points.txt"))
    assert "biasopt = biasopt:main" in points
    assert "biasopt = biasopt.integrations.pytest_plugin" in points


def test_importing_it_is_quick(tmp_path: Path) -> None:
    def cost(code: str) -> float:
        timed = f"import time; a = time.process_time()\n{code}\nprint(time.process_time() - a)"
        return min(float(run(sys.executable, "-c", timed, cwd=tmp_path, PYTHONPATH=str(ROOT)).stdout) for _ in range(3))

    assert cost("import converter") < 0.1
    assert cost("import biasopt") < 0.1


@pytest.mark.parametrize("module", ["converter", "biasopt"])
def test_it_runs_as_a_module(module: str, project: Path) -> None:
    (project / "converter").rename(project / "other")
    done = run(sys.executable, "-m", module, "--version", cwd=project, PYTHONPATH=str(ROOT))
    assert done.stdout.split() == ["biasopt", __version__], done.stderr


def test_wheel_says_what_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    inside = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    head = HeaderParser().parsestr(archive.read(inside).decode())
    assert (head["Name"], head["Version"], head["License-Expression"]) == ("biasopt", __version__, "Apache-2.0")
    assert head["Requires-Python"] == ">=3.11"
    assert {"torch", "cuda", "test", "dev"} <= set(head.get_all("Provides-Extra"))


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("win32", "ARM64", "onnxruntime"),
        ("linux", "aarch64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
        ("darwin", "x86_64", "onnxruntime"),
    ],
)
def test_core_needs_exactly_one_onnxruntime(system: str, machine: str, wanted: str) -> None:
    needs = [Requirement(text) for text in PYPROJECT["project"]["dependencies"]]
    place = {"sys_platform": system, "platform_machine": machine}
    found = [need.name for need in needs if need.marker is None or need.marker.evaluate(place)]
    assert [name for name in found if name.startswith("onnxruntime")] == [wanted]


def test_core_install_needs_no_torch() -> None:
    needs = {Requirement(text).name for text in PYPROJECT["project"]["dependencies"]}
    assert not needs & {"torch", "torchvision", "onnxscript", "scikit-learn"}


def test_every_pinned_version_is_allowed() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    needs = [Requirement(text) for part in [PYPROJECT["project"]["dependencies"], *extras] for text in part]
    unpinned = {need.name for need in needs} - pins.keys()
    assert not unpinned
    assert not [str(need) for need in needs if pins[need.name] not in need.specifier]


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['biasopt', '--help']\n"
        "try:\n    import biasopt; biasopt.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'onnx', 'onnx_graphsurgeon', 'onnxruntime', 'torch'} & sys.modules.keys()))"
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_readme_names_only_commands_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"\bmake ([a-z]+)`", (ROOT / page).read_text(encoding="utf-8")))
        assert named, page
        assert named <= targets, page


def test_readme_shows_what_the_demo_prints(tmp_path: Path) -> None:
    model = re.search(r"^MODEL \?= (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    shown = re.search(
        r"What `make demo` prints:\n\n```text\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL
    )
    assert model
    assert shown
    done = run(sys.executable, "-m", "biasopt", "fold", model[1], "-o", tmp_path / "folded.onnx", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    steady = done.stdout.partition("\n         out:")[0]  # how far outputs differ depends on the processor
    assert shown[1].startswith(steady)


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(tiny.conv_bn().SerializeToString())
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


def test_changelog_tells_of_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_ci_script_is_executable_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert run("bash", "-n", script, cwd=ROOT).returncode == 0
