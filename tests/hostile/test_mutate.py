"""The fuzz driver: reproducible, and it finds what is BAD."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.hostile.mutate import Worker, fuzz, mutate, valid_models


def test_the_models_that_it_starts_from_are_valid() -> None:
    for model in valid_models():
        onnx.checker.check_model(onnx.ModelProto.FromString(model), full_check=True)


def test_the_same_seed_makes_the_same_files() -> None:
    valid = valid_models()[0]
    assert mutate(valid, np.random.default_rng([1, 2])) == mutate(valid, np.random.default_rng([1, 2])) != valid


def test_a_few_mutated_models_end_well() -> None:
    tally = fuzz(24, 5, ["inspect", "fold", "verify", "certify"], n_workers=1)
    assert not tally.bad and sum(tally.counts.values()) == 24 * 4


def test_a_hang_is_noticed_and_the_next_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    monkeypatch.setattr("tests.hostile.mutate.SECONDS", 0.0)
    assert worker.run(["inspect", "x"])[0] == "hang"
    monkeypatch.setattr("tests.hostile.mutate.SECONDS", 60.0)
    found: tuple[Any, str] = worker.run(["inspect", "there-is-none.onnx"])
    worker.close()
    assert found[0] == 3 and "no such file" in found[1]
