"""Forms for programs: numbers that are those of the document, in the shape that each program asks for."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import cli
from converter.report.render import DATA_FORMS
from converter.report.render.pipeline import flatten
from converter.report.save import NAMES
from converter.report.serialize import SCHEMAS, schema
from tests.report import made_evidence

ROOT = Path(__file__).resolve().parents[3]
FOLD = json.loads((ROOT / "tests" / "golden" / "inputs" / "fold-removal.json").read_text(encoding="utf-8"))
MODEL = ROOT / "models" / "digits_cnn_bn.onnx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the forms of a real fold."""
    folder = tmp_path_factory.mktemp("reports")
    argv = ["fold", str(MODEL), "-o", str(folder / "o.onnx"), "--report", str(folder), "-q"]
    assert cli.run([*argv, "--formats", "json,metrics,bmf,openmetrics,card"]) == 0
    return folder


def read(folder: Path, form: str) -> str:
    return (folder / NAMES[form]).read_text(encoding="utf-8")


def test_metrics_are_flat_numbers_of_the_document(folder: Path) -> None:
    document, found = json.loads(read(folder, "json")), json.loads(read(folder, "metrics"))
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in found.values())
    assert all(re.fullmatch(r"[\w ./-]+", name) for name in found)  # what MLflow allows
    assert not {str(part) for name in found for part in PurePosixPath(name).parents} & set(found)  # its file store
    assert found["parity/passed"] == 1
    assert found["batch_norms/before"] == document["counts"]["before"]["batch_norms"] > 0
    assert found["batch_norms/after"] == 0
    assert found["size_bytes/b"] == (folder / "o.onnx").stat().st_size
    assert found["exit_code"] == 0
    kept = [fate for fate in document["fates"] if fate["fate"] == "kept"]
    assert found["biases/before"] == len(document["fates"]) > 0  # as the page counts them, batch norms' among them
    assert found["biases/after"] == len(kept) <= found["biases/before"]


def test_stages_give_their_worst_output() -> None:
    found = flatten(FOLD)
    runtime = next(stage for stage in FOLD["parity"]["stages"] if stage["id"] == "runtime")
    assert found["parity/runtime/score"] == max(out["score"] for out in runtime["outputs"])
    assert found["parity/runtime/max_abs"] == max(out["max_abs"] for out in runtime["outputs"])


def test_what_was_not_decided_is_no_number() -> None:
    document = {**FOLD, "parity": {**FOLD["parity"], "verdict": "INCONCLUSIVE"}}
    assert "parity/passed" not in flatten(document)
    assert flatten({**FOLD, "parity": {**FOLD["parity"], "verdict": "FAIL"}})["parity/passed"] == 0


def bench_document() -> dict[str, Any]:
    from converter.report.documents import bench_document

    return bench_document(made_evidence.latency(), argv=("bench", "a.onnx", "b.onnx"), version="1")


def test_bencher_gets_measures_by_model_with_the_interval(folder: Path) -> None:
    (measures,) = json.loads(DATA_FORMS["bmf"].render(bench_document())).values()
    latency = made_evidence.latency()
    assert measures["latency-ratio"] == {
        "value": latency.ratio,
        "lower_value": latency.low,
        "upper_value": latency.high,
    }
    assert measures["latency"]["value"] == pytest.approx(latency.b.p50_ms * 1e6)
    assert json.loads(read(folder, "bmf"))["digits_cnn_bn.onnx"]["file-size"]["value"] > 0


def test_openmetrics_is_a_line_a_sample_and_ends(folder: Path) -> None:
    lines = read(folder, "openmetrics").splitlines()
    assert lines[-1] == "# EOF"
    types, samples = lines[:-1:2], lines[1:-1:2]
    for kind, sample in zip(types, samples, strict=True):
        found = re.fullmatch(r'(biasopt_\w+)\{model="digits_cnn_bn\.onnx"\} (-?[\d.e+-]+)', sample)
        assert found, sample
        assert kind == f"# TYPE {found[1]} gauge"
        float(found[2])


def test_a_card_has_digest_verdict_and_command(folder: Path) -> None:
    document, card = json.loads(read(folder, "json")), read(folder, "card")
    assert card.startswith("## Equivalence\n")
    digests = {side: document["models"][side]["sha256"] for side in ("a", "b")}
    assert f"| made from | `sha256:{digests['a']}` |" in card
    assert f"| this model | `sha256:{digests['b']}` |" in card
    assert "| same answers | PASS, level " in card
    assert document["repro"]["cmd"] in card


def test_names_of_a_stranger_give_no_orders() -> None:
    hostile = 'a::error::"x"|`\n##[b]'
    document = {**FOLD, "models": {"a": {"path": hostile}, "b": None}, "repro": {"cmd": hostile}}
    for form in DATA_FORMS.values():
        said = form.render(document)
        assert "\n::" not in said
        assert "\n##[" not in said
    assert json.loads(DATA_FORMS["bmf"].render(document)).keys() == {Path(hostile).name}


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_id_of_a_schema_is_its_file(name: str) -> None:
    found = schema(name)
    assert json.loads((ROOT / found["$id"]).read_text(encoding="utf-8"))["$id"] == found["$id"]


def test_reports_can_be_made_again_in_these_forms(folder: Path) -> None:
    assert (
        cli.run(["report", str(folder / "report.json"), "--formats", "metrics,card", "-o", str(folder / "again")]) == 0
    )
    assert read(folder / "again", "metrics") == read(folder, "metrics")
    assert read(folder / "again", "card") == read(folder, "card")
