"""The table of what each tool leaves: counted net by net, kept between runs, and who is behind is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import left

NET = Path(__file__).resolve().parents[2] / "models" / "digits_cnn_bn.onnx"


def row(ours: int, other: int | None) -> dict[str, left.Counts | None]:
    """Counts of one net, of which all other tools leave as many batch norms."""
    counts = None if other is None else {"bn": other, "nodes": 5, "bias": 0}
    found: dict[str, left.Counts | None] = {"before": {"bn": 9, "nodes": 1200, "bias": 0}}
    return found | {t: {"bn": ours, "nodes": 7, "bias": 0} if t == left.OURS else counts for t in left.TOOLS}


def test_counts_what_biasopt_leaves() -> None:
    found = left.measure("net", NET, [left.OURS])
    before, after = found["before"], found[left.OURS]
    assert before is not None
    assert after is not None
    assert (before["bn"], after["bn"]) == (3, 0)


def test_says_who_is_ahead() -> None:
    assert left.behind(row(2, 2)) == []
    assert left.behind(row(2, None)) == []
    assert len(left.behind(row(2, 1))) == len(left.TOOLS) - 1
    page = left.markdown({"a": row(2, 1), "b": row(0, None)})
    assert "leaves fewer batch norms: a." in page
    assert "| `b` | 9 / 1,200 | 0 / 7 | - | - | - | - | - | - |" in page


def test_keeps_its_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, asked = tmp_path / "kept.json", []

    def measure(label: str, source: Path, tools: object) -> dict[str, left.Counts | None]:
        asked.append((label, tools))
        return row(0, 0)

    monkeypatch.setattr(left, "measure", measure)
    named = [("net", NET)]
    left.measure_all(named, kept, [])
    left.measure_all(named, kept, [])
    left.measure_all(named, kept, ["biasopt"])
    assert asked == [("net", left.TOOLS), ("net", ("biasopt",))]
    assert list(json.loads(kept.read_text(encoding="utf-8"))) == ["net"]
