"""Models whose weights lie in other files, for the referee and for a fold that is checked."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import converter
from converter.records import Verdict
from converter.referee.verify import compare
from tests.referee.verify import nets


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    """Folders of a model and of its fold, each an m.onnx with its own m.data."""
    homes = [tmp_path / "a", tmp_path / "b"]
    for home, proto in zip(homes, (nets.plain(), nets.fold(nets.plain())), strict=True):
        home.mkdir()
        onnx.save(proto, home / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return homes


def bare(home: Path) -> onnx.ModelProto:
    return onnx.load(home / "m.onnx", load_external_data=False)


def test_each_model_may_have_its_data_elsewhere(homes: list[Path], tmp_path: Path) -> None:
    a, b = map(bare, homes)
    onnx.save(a, tmp_path / "moved.onnx")
    for ref in (a, tmp_path / "moved.onnx"):
        assert compare(ref, b, data=homes[0], got_data=homes[1]).level == "P"
        assert compare(ref, homes[1] / "m.onnx", data=homes[0]).level == "P"
    assert compare(a, a, data=homes[0]).scope == "identical"


def test_data_lies_beside_a_link_or_beside_what_it_leads_to(homes: list[Path], tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(homes[0] / "m.onnx")
    assert compare(tmp_path / "link.onnx", homes[1] / "m.onnx").level == "P"
    (homes[0] / "m.data").rename(tmp_path / "m.data")
    assert compare(tmp_path / "link.onnx", homes[1] / "m.onnx").level == "P"


@pytest.mark.parametrize("kind", ["proto", "path", "link"])
@pytest.mark.parametrize("written", [True, False])
def test_a_fold_is_checked_with_data_from_elsewhere(
    homes: list[Path], tmp_path: Path, kind: str, written: bool
) -> None:
    onnx.save(bare(homes[0]), tmp_path / "moved.onnx")
    (tmp_path / "link.onnx").symlink_to(homes[0] / "m.onnx")
    model = {"proto": bare(homes[0]), "path": tmp_path / "moved.onnx", "link": tmp_path / "link.onnx"}[kind]
    out = tmp_path / "c" / "out.onnx" if written else None
    (tmp_path / "c").mkdir()
    result = converter.fold(model, data=None if kind == "link" else homes[0], out=out)
    assert result.rewrites
    assert result.parity is not None
    assert (result.parity.verdict, result.parity.level) == (Verdict.PASS, "P")
    assert out is None or out.exists()
