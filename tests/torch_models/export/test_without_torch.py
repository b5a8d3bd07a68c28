"""Without torch everything else works, and what needs it says how to install it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("missing", ["torch", "onnxscript"])
def test_one_line_names_the_extra(
    missing: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    code = cli.run(["export", "nets.py:block", "-o", "net.onnx", "--input", "1,3,7,9"])
    err = capsys.readouterr().err
    assert code == 3
    assert err.startswith(f"biasopt: error: {missing} is not installed")
    assert err.endswith("install the extra: pip install 'biasopt[torch]'\n")
    assert err.count("\n") == 1
    assert not (folder / "net.onnx").exists()


def test_nothing_but_the_command_loads_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import cli, converter, converter.torch_models.spec; "
        "import converter.torch_models.export; "
        "converter.export_model; assert cli.run(['export', '--help']) == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
