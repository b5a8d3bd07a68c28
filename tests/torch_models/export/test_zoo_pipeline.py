"""docs/zoo.md, and what makes it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import zoo_pipeline

pytestmark = pytest.mark.slow

COUNTS = {"nodes": 69, "batch_norms": 20, "biases": 1}
ROW: dict[str, Any] = {"name": "net", "parameters": 2_500_000, "size": 64, "modules": 20, "ratio": 1.234}
ROW |= {"fold": "PASS", "level": "B", "before": COUNTS, "after": {"nodes": 49, "batch_norms": 0, "biases": 21}}


def test_page(torchvision: None) -> None:
    failed = {"name": "odd", "error": "ExportError: no"}
    page = zoo_pipeline.page([ROW, failed, {"name": "giant", "skipped": "size"}], ["late"])
    assert "| net | 2.5 | 64 | 1.23 | 69 → 49 | 20 → 0 | 1 → 21 | PASS (B) |" in page
    assert "* odd: ExportError: no" in page
    assert "million parameters): giant." in page
    assert "Not run: late." in page
    assert "Batch norms: 20 run in the torch modules, 20 in the exported models, 0 after the fold" in page


def test_no_tensor_of_a_net_is_constant(torchvision: None) -> None:
    net = zoo_pipeline.build("shufflenet_v2_x0_5")
    tensors = {k: v for k, v in net.state_dict().items() if v.dtype.is_floating_point and v.numel() > 1}
    assert all(float(v.std()) > 0 for v in tensors.values())
    assert all(float(v.min()) > 0 for k, v in tensors.items() if k.endswith("running_var"))


def test_what_is_done_is_not_done_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, _: Path) -> dict[str, Any]:
        if name == "bad":
            raise RuntimeError("no\nway")
        return ROW | {"name": name}

    monkeypatch.setattr(zoo_pipeline, "run", run)
    kept = folder / "kept.jsonl"
    first = list(zoo_pipeline.rows(["net", "bad"], kept, float("inf")))
    assert [row["name"] for row in first] == ["net", "bad"]
    assert first[1]["error"] == "RuntimeError: no way"
    monkeypatch.setattr(zoo_pipeline, "run", None)
    assert list(zoo_pipeline.rows(["net", "bad"], kept, float("inf"))) == first
    assert list(zoo_pipeline.rows(["other"], kept, 0.0)) == []
    assert len([json.loads(line) for line in kept.read_text().splitlines()]) == 2


def test_sixty_nets_go_through() -> None:
    """The page that was made, of a run of hours: what is in it holds together."""
    page = zoo_pipeline.PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| .* \| ([\d,]+) → ([\d,]+) \| \S+ → \S+ \| (\w+) \(\w\) \|$", page, re.MULTILINE)
    assert len({name for name, *_ in rows}) >= 60
    assert {verdict for *_, verdict in rows} == {"PASS"}
    before, after = (sum(int(row[k].replace(",", "")) for row in rows) for k in (1, 2))
    assert f"{before:,} in the exported models, {after:,} after the fold" in page
    assert f"{before:,} run in the torch modules" in page  # the export lost none
