"""Nets in a file of the user's, and the command on them, in the folder of the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import cli
from converter.errors import RuntimeUnavailable
from converter.torch_models.spec.libraries import need

HERE = Path(__file__).parent
Run = Callable[..., SimpleNamespace]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the nets in it, as a user has it."""
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    shutil.copy(HERE / "user_nets.py", tmp_path / "nets.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line: exit code, stdout, stderr."""

    def run(*argv: str) -> SimpleNamespace:
        code = cli.run([*argv])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


@pytest.fixture
def torchvision() -> None:
    """torchvision, whatever build of torch it was made for."""
    try:
        need("torchvision")
    except RuntimeUnavailable:
        pytest.skip("torchvision is not installed")
