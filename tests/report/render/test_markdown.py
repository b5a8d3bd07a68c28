from __future__ import annotations

import re

import pytest

from converter.records import OutputCheck, Stage, Verdict
from converter.report.documents import fold_document
from converter.report.render.markdown import prose
from tests.report import made_evidence
from tests.report.made import FATES, SAID, Result, declined, folded, markdown, parity


def told(result: Result) -> str:
    return markdown(fold_document(result, "9.9", said=SAID))


def test_the_verdict_comes_first() -> None:
    lines = told(folded()).splitlines()
    assert lines[0] == "## biasopt fold: `net.onnx`"
    assert lines[2].startswith("✅ **Parity PASS**: same outputs, against a float64")
    assert lines[-1] == "<sub>biasopt 9.9</sub>"


def test_counts_passes_and_reasons_are_tables() -> None:
    said = told(folded())
    assert "| BatchNormalization | 53 | 0 |\n" in said
    assert "| `fold-bn-into-conv` | 2 | equal up to float rounding |\n" in said
    assert "| `output-shared` | 2 | another node reads it | `bn3`, `mul4` |\n" in said
    assert "### Not folded\n\n<details><summary>2 reasons</summary>" in said
    assert "| `algebra` | PASS | float64: the change against the rounding of weights |  |" in said


def test_biases_are_a_table() -> None:
    said = told(folded(fates=FATES))
    assert "### Biases\n\n3 of 6 vectors go (50 %), 20 of 38 elements (53 %)\n\n| fate | biases | why |" in said
    assert "| absorbed | 2 | Conv downstream takes it over | `conv1`, `conv5` |\n" in said
    assert "| kept | 1 | blocked by Relu: it is not linear | `conv2` |\n" in said
    assert "### Biases" not in told(folded())


def test_failure_and_no_check_are_marked() -> None:
    check = OutputCheck("y", Verdict.FAIL, score=120.0, limit=4.0)
    failed = parity(Verdict.FAIL, why="output y differs", stages=(Stage("algebra", Verdict.FAIL, "", (check,)),))
    said = told(folded(parity=failed, output=None, exit_code=1))
    assert "❌ **Parity FAIL**: the outputs differ" in said
    assert "output y differs" in said
    assert "No model was written." in said
    assert "⚠️ **Parity was not checked.**" in told(folded(parity=None))


@pytest.mark.parametrize("name", ["a|b", "`x`", "``", "<b>&", "a`|`b", "@user #1", "x\ny"])
def test_a_name_cannot_break_out_of_its_cell(name: str) -> None:
    said = told(folded(findings=(declined("p", name, "code", name),)))
    (row,) = [line for line in said.splitlines() if line.startswith("| `code`")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert row.count("`") % 2 == 0 or "\\`" in row


def test_prose_holds_no_markup() -> None:
    assert prose("a_b *c* <d> @e") == "a\\_b \\*c\\* \\<d\\> \\@e"


def test_frozen_inputs_are_named() -> None:
    said = told(folded(frozen=("w",)))
    assert "No longer inputs of the model: 1 initializer</summary>\n\n`w`\n" in said


def test_a_pair_has_its_verdict_a_table_per_stage_and_how_to_see_it_again() -> None:
    said = markdown(made_evidence.verify_json(made_evidence.failing(), made_evidence.latency()))
    lines = said.splitlines()
    assert lines[0] == "## biasopt verify: `resnet50.onnx`"
    assert lines[2] == "❌ **Parity FAIL**: the outputs differ (level B)."
    assert "First difference at `/layer2/Conv`" in lines
    assert "✅ **Latency PASS**: B is not slower: 0.998 x the time (0.993 to 1.003, allowed 1.020)." in lines
    assert "| A | `resnet50.onnx` | 102 MB | 17 | 171 | `aaaaaaaaaaaa` |" in lines
    assert "| load | 240 ms | 199 ms |  |" in lines
    assert "<details><summary>local: 53 comparisons</summary>" in lines
    local = said.partition("local: 53")[2]
    assert local.index("/layer2/Conv") < local.index("/layer51/Conv")
    assert "The worst 20 of 53; --verbose and" in local
    assert "biasopt verify models/resnet50.onnx out/resnet50.folded.onnx" in lines
    assert "* Failing inputs: `out/failing.npz`" in lines


def test_a_benchmark_has_its_figures() -> None:
    said = markdown(made_evidence.bench_json(made_evidence.latency(1.08)))
    assert "❌ **Latency FAIL**: B is slower: 1.080 x the time (1.075 to 1.085, allowed 1.020)." in said
    assert "| median | 41.0 ms | 44.3 ms | 1.080 |" in said
    assert "Parity" not in said


def test_a_comment_holds_it() -> None:
    checks = tuple(OutputCheck("x" * 2000 + str(k), Verdict.PASS, 0.1, 4.0) for k in range(30))
    stages = tuple(Stage(name, Verdict.PASS, "", checks) for name in ("local", "parameters"))
    said = markdown(made_evidence.verify_json(made_evidence.parity(stages=stages)))
    assert len(said) < 65_536
    assert "| `local` | PASS | each rewrite on its own |  |" in said
