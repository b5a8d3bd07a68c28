"""docs/export.md does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.torch_models.export.conftest import Run

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[3] / "docs" / "export.md"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
CODE = [block for kind, block in BLOCKS if kind == "python"]


@pytest.fixture(autouse=True)
def nets(folder: Path) -> None:
    """The user's file of the page."""
    import torch

    from tests.torch_models.export import user_nets

    with (folder / "nets.py").open("a") as file:
        file.write("\nmake_net, make_text, text_inputs = block, many, many_inputs\n")
    torch.save(user_nets.block().state_dict(), folder / "net.pt")


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("biasopt export")])
def test_commands(run: Run, line: str) -> None:
    done = run(*shlex.split(line)[1:])
    assert done.code == 0, done.out + done.err


def test_every_command_is_tried() -> None:
    assert len(COMMANDS) == 6
    assert [line for line in COMMANDS if not line.startswith("biasopt export")] == ["biasopt fold net.onnx"]


def test_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(CODE) == 1
    exec(compile(CODE[0], "docs/export.md", "exec"), {})
    assert capsys.readouterr().out == "PASS 1\n"
