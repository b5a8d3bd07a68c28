from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import pytest

from converter.records import OutputCheck, Stage, Verdict
from converter.report import documents, serialize
from converter.rewrite.analysis.recurrent import Gate
from tests.report.made import FATES, Guard, Pass, Result, folded, parity


def parsed(result: Result) -> dict[str, object]:
    document = json.loads(serialize.dumps(documents.fold_document(result, "9.9")))
    assert isinstance(document, dict)
    return document


def test_fold_schema_one() -> None:
    document = parsed(folded())
    assert list(document) == [
        "schema",
        "version",
        "tool",
        "input",
        "output",
        "models",
        "counts",
        "rewrites",
        "findings",
        "reasons",
        "fates",
        "overridable_blocked",
        "overridable_names",
        "problem",
        "parity",
        "bench",
        "env",
        "inputs",
        "certificate",
        "repro",
        "exit_code",
    ]
    assert document["schema"] == "biasopt.fold/1"
    assert document["version"] == "9.9"
    assert document["input"] == str(Path("models/net.onnx"))
    assert document["output"] == str(Path("models/net.folded.onnx"))
    assert document["counts"] == {
        "before": {"nodes": 175, "batch_norms": 53, "biases": 1, "parameter_bytes": 102_000_000},
        "after": {"nodes": 122, "batch_norms": 0, "biases": 54, "parameter_bytes": 101_900_000},
    }
    assert document["fates"] == []
    assert document["exit_code"] == 0


def test_fates_are_in_both() -> None:
    document = parsed(folded(fates=FATES))
    fates = document["fates"]
    assert isinstance(fates, list)
    ends = [fate.pop("ends") for fate in fates]
    assert fates == documents.inspect_document(folded(fates=FATES), "9.9", 0)["fates"]
    assert ends[0] == [{"node": "conv2", "op": "Conv", "verb": "absorbs", "how": "its bias 'b' takes it over"}]
    assert fates[0] == {
        "node": "conv1",
        "op": "Conv",
        "fate": "absorbed",
        "elements": 8,
        "removed": 8,
        "where": "conv2",
        "code": "",
        "why": "",
    }
    assert [(row["fate"], row["code"]) for row in fates[2:4]] == [("zero", ""), ("kept", "overridable")]


def test_gates_are_in_inspect() -> None:
    document = documents.inspect_document(folded(gates=(Gate("n", "GRU", "update", "forward", note="why"),)), "9.9", 0)
    assert document["gates"] == [
        {
            "node": "n",
            "op": "GRU",
            "gate": "update",
            "direction": "forward",
            "units": None,
            "mean": None,
            "std": None,
            "kept": None,
            "memory_steps": None,
            "note": "why",
        }
    ]


def test_rewrites_and_findings_carry_their_ids() -> None:
    document = json.loads(serialize.dumps(documents.fold_document(folded(), "9.9")))
    assert document["rewrites"][2] == {
        "id": "fold-bn-into-conv@bn2",
        "pass": "fold-bn-into-conv",
        "node": "bn2",
        "safety": "rounding",
        "output": "bn2_out",
        "removed_nodes": [],
        "changed_nodes": [],
        "removed_tensors": [],
        "added_tensors": [],
        "bytes_added": 1_230_000,
    }
    assert document["findings"][0] == {"id": "fold-bn-into-conv@bn1", "status": "act", "code": "", "why": ""}
    assert document["findings"][3] == {
        "id": "fold-bn-into-next-conv@bn3",
        "status": "declined",
        "code": "padded",
        "why": "the convolution reads padding",
    }


def test_parity_is_whole_or_null() -> None:
    document = json.loads(serialize.dumps(documents.fold_document(folded(), "9.9")))
    assert document["parity"] == {
        "verdict": "PASS",
        "level": "B",
        "scope": "whole-model",
        "why": "",
        "warnings": [],
        "blame": "",
        "stages": [
            {
                "id": "algebra",
                "status": "PASS",
                "why": "",
                "detail": {},
                "seconds": None,
                "outputs": [
                    {
                        "name": "logits",
                        "status": "PASS",
                        "score": 0.63,
                        "limit": 4.0,
                        "max_abs": 1e-6,
                        "why": "",
                        "detail": {},
                    }
                ],
            }
        ],
    }
    assert parsed(folded(parity=None))["parity"] is None


def test_numbers_that_json_lacks_are_strings() -> None:
    detail = {"list": [math.inf, 1.0], "nested": {"x": -math.inf}}
    check = OutputCheck("y", Verdict.FAIL, score=math.nan, limit=4.0, max_abs=math.inf, detail=detail)
    failed = parity(Verdict.FAIL, stages=(Stage("runtime", Verdict.FAIL, "", (check,)),))
    document = json.loads(serialize.dumps(documents.fold_document(folded(parity=failed), "9.9")))
    output = document["parity"]["stages"][0]["outputs"][0]
    assert output["score"] == "NaN"
    assert output["max_abs"] == "Infinity"
    assert output["detail"] == {"list": ["Infinity", 1.0], "nested": {"x": "-Infinity"}}


def test_json_is_ascii_and_ends_in_a_newline() -> None:
    said = serialize.dumps(documents.fold_document(folded(path=Path("größe\udcff.onnx")), "9.9"))
    assert said.isascii()
    assert said.endswith("}\n")
    assert json.loads(said)["input"] == "größe\udcff.onnx"


def test_frozen_inputs_are_there_when_there_are_any() -> None:
    assert "frozen" not in parsed(folded())
    assert parsed(folded(frozen=("w",)))["frozen"] == ["w"]


def test_inspect_has_the_findings_and_the_counts_of_fold() -> None:
    document = documents.inspect_document(folded(), "9.9", 1)
    assert document["schema"] == "biasopt.inspect/1"
    assert document["counts"] == documents.fold_document(folded(), "9.9")["counts"]
    assert document["findings"] == documents.fold_document(folded(), "9.9")["findings"]
    assert document["exit_code"] == 1


@pytest.mark.parametrize("name", ["inspect", "explain", "passes", "lint", "export", "replay"])
def test_documents_without_a_schema_are_described_field_by_field(name: str) -> None:
    root = Path(__file__).parents[2]
    told = (root / "docs" / "report-schema.md").read_text(encoding="utf-8")
    row = next(line for line in told.splitlines() if line.startswith(f"| `biasopt.{name}/1` |"))
    tree = ast.parse(Path(documents.__file__).read_text(encoding="utf-8"))
    made = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == f"{name}_document")
    returned = next(n for n in ast.walk(made) if isinstance(n, ast.Return))
    assert isinstance(returned.value, ast.Dict)
    keys = {key.value for key in returned.value.keys if isinstance(key, ast.Constant)} - {"schema"}
    assert len(keys) > 1
    assert {key for key in keys if f"`{key}`" not in row} == set()


def test_passes_hold_their_guards_and_their_place() -> None:
    rows = [Pass("a"), Pass("b", guards=(Guard("shared", "another node reads it"),), after=("a",))]
    document = documents.passes_document(rows[1:], rows, "9.9")
    assert document["schema"] == "biasopt.passes/1"
    (row,) = document["passes"]
    assert row["docstring"] == "One becomes the other."
    del row["docstring"]
    assert row == {
        "name": "b",
        "summary": "one becomes the other",
        "safety": "rounding",
        "order": 2,
        "after": ["a"],
        "guards": [{"code": "shared", "why": "another node reads it"}],
    }
