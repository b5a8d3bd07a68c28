"""The table of biases in docs/fold.md says what `inspect` says, and what is not there is said to be missing."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from converter.records import Fate, FateKind
from models import zoo
from tests import tiny
from tests.benchmarks import zoo_table
from tests.report.made import FATES, kept


def test_a_line_of_the_table() -> None:
    more = (Fate("bn", "BatchNormalization", FateKind.KEPT, 8, code="keep-bn", why="to be kept"), kept("c9", "Clip"))
    assert zoo_table.row("net", (*FATES, *more)) == (
        "`net`",
        "7",
        "4",
        "",
        "2",
        "",
        "1",
        "43 %",
        "Clip 1, Relu 1, output 1, others 1",
    )


def test_the_small_models_are_in_it() -> None:
    found = list(zoo_table.small_models())
    assert [entry.path for entry in found] == sorted(zoo.HERE.glob("*.onnx"))
    results = zoo_table.inspect_all([entry for entry in found if entry.path.stem == "digits_unet_in"])
    line = zoo_table.markdown(results).splitlines()[2]
    assert line == "| `models/digits_unet_in.onnx` | 8 | 3 | 5 |  |  |  | 76 % | Conv 2, output 1 |"


def test_weights_listed_as_inputs_are_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = tiny.Draw()
    text = f"{tiny.X} => (float[2,5,9,11] y) {{ c = Conv(x, w, b) y = Relu(c) }}"
    onnx.save(tiny.as_inputs(tiny.model(text, draw.conv(5, 3, 3, 3, bias=5))), tmp_path / "m.onnx")
    listed = {"models": [{"file": "m.onnx", "initializers_also_graph_inputs": 2}]}
    (tmp_path / "MANIFEST.json").write_text(json.dumps(listed), encoding="utf-8")
    monkeypatch.setenv("BIASOPT_CORPUS", str(tmp_path))
    (entry,) = zoo_table.real_models()
    assert entry == zoo_table.Entry("m.onnx", tmp_path / "m.onnx", frozen=True)
    assert "| Relu 1 |" in zoo_table.markdown(zoo_table.inspect_all([entry]))


def test_what_goes_by_each_pass() -> None:
    entry = next(e for e in zoo_table.small_models() if e.path.stem == "digits_mobilenet")
    first, _, *lines = zoo_table.shares(zoo_table.inspect_all([entry])).splitlines()
    assert first == "Of 1 models with 64 nodes, 50 are left."
    assert lines[0] == "| pass | models | rewrites | of all | nodes gone | of all |"
    assert lines[2] == "| `fold-bn-into-conv` | 1 | 14 | 78 % | 14 | 100 % |"
    assert lines[3] == "| `sink-bias` | 1 | 4 | 22 % | 0 | 0 % |"


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIASOPT_CORPUS", raising=False)
    monkeypatch.setattr(zoo_table, "SORTS", {"the corpus": zoo_table.real_models, "models/": zoo_table.small_models})
    said: list[str] = []
    assert len(zoo_table.entries(said.append)) == len(list(zoo_table.small_models()))
    assert [line.split(":")[0] for line in said] == ["the corpus is left out"]


def test_it_is_written_between_its_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zoo_table, "SORTS", {})
    readme = tmp_path / "README.md"
    marks = "<!-- BEGIN:passes -->\n<!-- END:passes -->\n"
    readme.write_text(f"a\n<!-- BEGIN:zoo -->\nof last year\n<!-- END:zoo -->\n{marks}b\n", encoding="utf-8")
    assert zoo_table.main([], readme) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("a\n<!-- BEGIN:zoo -->\n| model | biases | left |")
    assert text.endswith("<!-- END:passes -->\nb\n")
    assert "of last year" not in text
    assert zoo_table.main(["--print"], tmp_path / "none") == 0
    assert capsys.readouterr().out.startswith("| model |")
    readme.write_text("no marks", encoding="utf-8")
    assert zoo_table.main([], readme) == 3
    assert "needs <!-- BEGIN:zoo -->" in capsys.readouterr().err
