from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converter.records import Verdict
from converter.report import serialize
from converter.report.documents import bench_document, fold_document, verify_document
from converter.report.serialize import dumps
from tests.report import made_evidence as made
from tests.report.made import FATES, SAID, folded


def made_fold(**changes: Any) -> dict[str, Any]:
    result = folded(**({"fates": FATES, "parity": made.parity()} | changes))
    return fold_document(result, "9.9", argv=["fold", "net.onnx"], said=SAID, bench=made.latency())


DOCUMENTS = {
    "verify": lambda: made.verify_json(),
    "failing": lambda: made.verify_json(made.failing()),
    "open, with latency": lambda: made.verify_json(made.undecided(), made.latency()),
    "bench": lambda: made.bench_json(),
    "bench, unoptimised too": lambda: made.bench_json(made.latency(unoptimised=made.latency(0.8))),
    "fold": made_fold,
    "fold, unverified": lambda: fold_document(folded(parity=None), "9.9"),
    "fold, frozen": lambda: made_fold(frozen=("w",)),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_keep_their_schema(name: str) -> None:
    document = json.loads(dumps(DOCUMENTS[name]()))
    serialize.check(document)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_says_what_its_records_say(name: str) -> None:
    document = json.loads(dumps(DOCUMENTS[name]()))
    parity, latency = serialize.parity_of(document), serialize.latency_of(document)
    if document["schema"] == "biasopt.verify/1":
        assert parity is not None
        again = verify_document(parity, argv=document["tool"]["argv"], version="9.9", bench=latency)
    elif document["schema"] == "biasopt.bench/1":
        assert latency is not None
        again = bench_document(latency, argv=document["tool"]["argv"], version="9.9")
    else:
        argv, said = document["tool"]["argv"], document["reasons"]
        again = fold_document(serialize.fold_of(document), "9.9", argv=argv, said=said, bench=latency)
    assert json.loads(dumps(again)) == document


def test_verify_names_what_parity_md_names() -> None:
    document = made.verify_json(made.failing())
    assert document["schema"] == "biasopt.verify/1"
    assert document["tool"] == {"name": "biasopt", "version": "9.9", "argv": ["verify", made.A.path, made.B.path]}
    assert (document["verdict"], document["claim_level"], document["exit_code"]) == ("FAIL", "B", 1)
    assert document["models"]["a"]["nodes"]["BatchNormalization"] == 53
    assert document["env"]["provider_requested"] == "cpu"
    assert document["env"]["nodes_by_ep"] == {"CPUExecutionProvider": 122}
    assert document["inputs"]["shapes"] == {"input": [1, 3, 224, 224]}
    assert document["stages"][4]["outputs"][2]["name"] == "/layer2/Conv"
    assert document["blame"] == "/layer2/Conv"
    assert document["bench"] is None
    assert document["repro"] == {
        "cmd": "biasopt verify models/resnet50.onnx out/resnet50.folded.onnx",
        "failing_inputs": "out/failing.npz",
    }


@pytest.mark.parametrize(
    ("verdict", "code"),
    [(Verdict.PASS, 0), (Verdict.FAIL, 1), (Verdict.INCONCLUSIVE, 4), (Verdict.SKIPPED, 0)],
)
def test_the_exit_code_follows_from_the_verdict(verdict: Verdict, code: int) -> None:
    assert made.verify_json(replace(made.parity(), verdict=verdict))["exit_code"] == code
    assert made.bench_json(replace(made.latency(), verdict=verdict))["exit_code"] == code
    document = verify_document(replace(made.parity(), verdict=verdict), argv=(), version="9.9", exit_code=0)
    assert (document["exit_code"], document["repro"]["cmd"]) == (0, None)


def test_a_command_line_can_be_pasted() -> None:
    argv = ["verify", "my model.onnx", "b;rm.onnx"]
    assert verify_document(made.parity(), argv=argv, version="1")["repro"]["cmd"] == (
        "biasopt verify 'my model.onnx' 'b;rm.onnx'"
    )


def test_numbers_that_json_lacks_come_back() -> None:
    latency = made.latency(high=math.inf, aa={"ratio": 1.0, "high": math.inf})
    again = serialize.latency_of(json.loads(dumps(made.bench_json(latency))))
    assert again is not None
    assert again.high == math.inf
    assert again.aa["high"] == math.inf
    check = replace(made.runtime().outputs[0], score=math.nan)
    stage = replace(made.runtime(), outputs=(check,))
    parity = serialize.parity_of(json.loads(dumps(made.verify_json(made.parity(stages=(stage,))))))
    assert parity is not None
    score = parity.stages[0].outputs[0].score
    assert score is not None
    assert math.isnan(score)


def test_a_document_of_an_older_version_reads_too() -> None:
    document = json.loads(dumps(made_fold()))
    for name in ("tool", "models", "reasons", "env", "inputs", "repro", "certificate", "bench"):
        del document[name]
    for stage in document["parity"]["stages"]:
        del stage["seconds"], stage["detail"]
    serialize.check(document)
    fold = serialize.fold_of(document)
    assert (fold.path, fold.exit_code) == (Path("models/net.onnx"), 0)
    assert fold.parity is not None


# ---- the check itself ------------------------------------------------------------------------------


def broken(path: str, value: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(dumps(made.verify_json(bench=made.latency())))
    *way, last = path.split("/")
    part: Any = document
    for step in way:
        part = part[int(step) if step.isdigit() else step]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("verdict", None, "$: object missing required field `verdict`"),
        ("verdict", "MAYBE", "$.verdict: invalid enum value 'MAYBE'"),
        ("exit_code", 2, "$.exit_code: invalid enum value 2"),
        ("exit_code", True, "$.exit_code: expected `int`, got `bool`"),
        ("stages", {}, "$.stages: expected `array`, got `object`"),
        ("stages/0/status", "ok", "$.stages[0].status: invalid enum value 'ok'"),
        ("stages/2/outputs/0/score", "a lot", "$.stages[2].outputs[0].score: expected `float | null`, got `str`"),
        ("models/a/size_bytes", "big", "$.models.a.size_bytes: expected `int`, got `str`"),
        ("inputs/shapes/input", [1.5], "$.inputs.shapes[...][0]: expected `int`, got `float`"),
        ("env/versions/onnx", 1, "$.env.versions[...]: expected `str`, got `int`"),
        ("bench/blocks/3/log_ratio", None, "$.bench.blocks[3]: object missing required field `log_ratio`"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(path: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        serialize.check(broken(path, value))


def test_an_integer_that_is_a_truth_value_is_none() -> None:
    with pytest.raises(ValueError, match=re.escape("$.models.a.opset: expected `int`, got `bool`")):
        serialize.check(broken("models/a/opset", True))


def test_every_reference_and_field_of_the_schemas_is_described() -> None:
    told = (Path(__file__).parents[2] / "docs" / "report-schema.md").read_text(encoding="utf-8")
    for name in serialize.DOCUMENTS:
        objects = serialize.schema(name)["$defs"].values()
        fields = {field for part in objects for field in part.get("properties", {})}
        assert {field for field in fields if f"`{field}`" not in told} == set(), name
