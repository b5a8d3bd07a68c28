"""docs/lint.md says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from converter.records.lint import CODES

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "lint.md").read_text(encoding="utf-8")


def test_table_of_codes_is_the_codes() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    assert rows == [(code.name, code.kind.value, code.summary, code.fix) for code in CODES]


@pytest.mark.parametrize("option", sorted(set(re.findall(r"--[a-z]+(?:-[a-z]+)*", PAGE))))
def test_options_exist(option: str) -> None:
    assert option in CliRunner().invoke(cli.cli, ["lint", "--help"]).output


def test_names_of_the_library_exist() -> None:
    import converter.torch_models.lint as training

    named = set(re.findall(r"from converter\.torch_models\.lint import ([\w, ]+)", PAGE)[0].split(", "))
    named |= {name for name in re.findall(r"`(\w+)\(", PAGE) if name in ("strip", "checkpoints", "original_state_dict")}
    assert named <= set(training.__all__)
    assert all(hasattr(training, name) for name in named)
