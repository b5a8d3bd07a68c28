"""``import biasopt`` as the API: its names, what it prints, and that it leaves alone what is the user's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import biasopt
import converter
from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
THEIRS = "NAME = 'theirs'\n"


def python(code: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{code}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_has_the_names_of_the_package_and_they_are_the_same() -> None:
    assert set(dir(biasopt)) == {*converter.__all__, "main"}
    assert all(getattr(biasopt, name) is getattr(converter, name) for name in converter.__all__)
    assert {"fold", "inspect", "compare", "assert_same"} <= set(dir(converter))


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'biasopt' has no attribute 'fould'"):
        biasopt.fould  # noqa: B018


def test_its_submodules_are_those_of_the_package() -> None:
    import biasopt.errors

    import converter.errors

    assert biasopt.errors is converter.errors


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A user's folder with a `converter.py` and a `cli.py` of their own, and a model."""
    for name in ("converter.py", "cli.py"):
        (tmp_path / name).write_text(THEIRS, encoding="utf-8")
    onnx.save(tiny.conv_bn(), tmp_path / "m.onnx")
    return tmp_path


@pytest.mark.parametrize("first", ["import biasopt", "import converter, cli", "import biasopt.errors"])
def test_a_converter_and_a_cli_of_the_users_work_beside_it(first: str, theirs: Path) -> None:
    code = (
        f"{first}\nimport biasopt, cli, converter\nassert (cli.NAME, converter.NAME) == ('theirs', 'theirs')\n"
        "result = biasopt.fold('m.onnx')\nassert converter.NAME == 'theirs'\n"
        "print(result.parity.verdict, len(result.rewrites), isinstance(result, biasopt.FoldResult))"
    )
    assert python(code, theirs).split() == ["PASS", "1", "True"]


def test_importing_it_leaves_the_search_path_alone(tmp_path: Path) -> None:
    code = "before = list(sys.path)\nimport biasopt; biasopt.fold\nprint(sys.path == before)"
    assert python(code, tmp_path).split() == ["True"]


def test_the_command_runs_beside_a_converter_of_the_users(theirs: Path) -> None:
    (theirs / "data.py").write_text(
        "import cli, converter, numpy as np\n"
        "def load():\n    assert (cli.NAME, converter.NAME) == ('theirs', 'theirs')\n"
        "    yield {'x': np.ones((2, 3, 11, 13), np.float32)}\n"
    )
    code = "import biasopt; sys.argv[1:] = ['fold', 'm.onnx', '--inputs', 'data.py:load']; biasopt.main()"
    assert "PASS: same outputs" in python(code, theirs)


def test_a_result_prints_as_a_line(tmp_path: Path) -> None:
    result = biasopt.fold(tiny.conv_bn())
    assert len(repr(result)) < 500
    assert repr(result).startswith("FoldResult(")
    assert "verdict=PASS" in repr(result)
    assert len(repr(biasopt.inspect(tiny.conv_bn()))) < 500


def test_a_notebook_shows_the_page() -> None:
    result = biasopt.fold(tiny.conv_bn())
    page = result._repr_html_()
    assert page.startswith("<iframe srcdoc=")
    assert "Same answers." in page
    assert "<script" not in page
    assert "fold-bn-into-conv" in biasopt.inspect(tiny.conv_bn())._repr_html_()
    assert result.parity is not None
    assert "Same answers." in result.parity._repr_html_()


def test_the_old_name_of_the_folder_of_external_data_still_works(tmp_path: Path) -> None:
    proto = tiny.conv_bn()
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    new = biasopt.fold(proto, data_dir=tmp_path, verify=False)
    old = biasopt.fold(proto, data=tmp_path, verify=False)
    assert new.to_bytes() == old.to_bytes()
    assert len(new.rewrites) == 1
    with pytest.raises(TypeError, match="data and data_dir"):
        biasopt.fold(proto, data=tmp_path, data_dir=tmp_path)


def test_python_and_the_command_call_inputs_alike(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3, 11, 13), np.float32))
    result = biasopt.fold(tiny.conv_bn(), inputs=tmp_path / "x.npz")
    assert result.parity is not None
    assert result.parity.inputs is not None
    assert result.parity.inputs.kind == "npz"
