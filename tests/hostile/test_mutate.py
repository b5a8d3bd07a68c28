"""The fuzz driver: reproducible, and it finds what is BAD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.hostile.mutate import LOG, ROOT, Tally, Worker, compare, fuzz, make_table, mutate, valid_models


def test_the_models_that_it_starts_from_are_valid() -> None:
    for model in valid_models():
        onnx.checker.check_model(onnx.ModelProto.FromString(model), full_check=True)


def test_the_same_seed_makes_the_same_files() -> None:
    valid = valid_models()[0]
    assert mutate(valid, np.random.default_rng([1, 2])) == mutate(valid, np.random.default_rng([1, 2])) != valid


def test_a_few_mutated_models_end_well() -> None:
    tally = fuzz(24, 5, ["inspect", "fold", "verify", "certify"], n_workers=1)
    compared = tally.counts["certify exit 0"]  # what is folded without a proof is run as well
    assert compared and not tally.bad and sum(tally.counts.values()) == 24 * 4 + compared


def test_a_hang_is_noticed_and_the_next_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    monkeypatch.setattr("tests.hostile.mutate.SECONDS", 0.0)
    assert worker.run(["inspect", "x"])[0] == "hang"
    monkeypatch.setattr("tests.hostile.mutate.SECONDS", 60.0)
    found: tuple[Any, str] = worker.run(["inspect", "there-is-none.onnx"])
    worker.close()
    assert found[0] == 3 and "no such file" in found[1]


def test_a_folded_model_with_other_outputs_is_noticed(tmp_path: Path) -> None:
    valid = valid_models()[0]
    model = onnx.ModelProto.FromString(valid)
    weight = next(t for t in model.graph.initializer if t.name == "b")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, "b"))
    (tmp_path / "a.onnx").write_bytes(valid)
    (tmp_path / "b.onnx").write_bytes(model.SerializeToString())
    a, b = str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")
    assert (compare(a, a), compare(a, b), compare(a, str(tmp_path / "none"))) == (0, 1, 4)


def test_what_is_bad_is_told_from_what_is_right() -> None:
    tally = Tally()
    for operation, code, told in (
        ("prove", 1, ""),
        ("verify", 1, ""),
        ("compare", 1, ""),
        ("versus", 1, ""),
        ("prove", 71, ""),
        ("prove", 3, "two\nlines"),
        ("prove", 3, "one line"),
    ):
        tally.add(operation, b"model", code, told, [])
    kinds = ("prove-FAIL", "verify-FAIL", "compare-wrong outputs", "prove-control character")
    assert set(tally.how_often) == {*kinds, "prove-more than one line of error"}


def test_the_table_of_the_page_is_that_of_the_log() -> None:
    assert make_table(LOG.read_text()) in (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
