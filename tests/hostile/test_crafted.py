"""Models that are written to hurt: inspected, folded with the proof and in place, each ends in one line or is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cli
from tests.hostile.crafted import make_crafted

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_CRAFTED = make_crafted()


@pytest.mark.slow
@pytest.mark.parametrize("name", _CRAFTED)
def test_it_ends_in_one_line_or_is_right(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    model.write_bytes(_CRAFTED[name])
    (tmp_path / "d.bin").write_bytes(bytes(432))
    (tmp_path / "link.data").symlink_to("link.data")
    before = {path.name for path in tmp_path.iterdir()}
    quick = ["--quick", "--max-time", "2", "--timeout", "20"]
    codes = []
    for command in (
        ["inspect", str(model)],
        ["fold", str(model), "-o", str(out), *quick],
        ["fold", str(model), "--in-place", *quick],
    ):
        codes.append(cli.run(command))
        said, told = capfd.readouterr()
        assert codes[-1] in (0, 3, 4), told
        assert codes[-1] != 3 or len(told.splitlines()) == 1, told
        assert not _CONTROL.search(said + told)
        assert max(map(len, (said + told).splitlines()), default=0) < 4000
        if codes[-1]:
            assert model.read_bytes() == _CRAFTED[name]
    assert codes[1] == codes[2]
    assert {path.name for path in tmp_path.iterdir()} - before == ({"out.onnx"} if codes[1] == 0 else set())
