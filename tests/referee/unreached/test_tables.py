"""Rows of a table: which are others, and that they are read where an input can read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from converter.records import Verdict
from converter.referee.proto.source import LoadedModel
from converter.referee.unreached.tables import find_other_rows
from converter.referee.unreached.thresholds import Constants
from converter.referee.verify import compare
from tests import tiny

TABLE = np.random.default_rng(3).standard_normal((97, 5)).astype(np.float32)
TEXT = "(int64[N,4] ids) => (float[N,4,5] y) { p = Add(ids, two)\n e = Gather(table, p)\n y = Neg(e) }"


def made(table: np.ndarray[Any, Any]) -> ModelProto:
    return tiny.model(TEXT, {"table": table, "two": np.array(2)})


def rows(other: np.ndarray[Any, Any]) -> list[int]:
    a, b = (LoadedModel.open(made(t), None, "model") for t in (TABLE, other))
    return sorted(n for bound in find_other_rows(a, b, Constants(a), Constants(b)) for n in bound.rows)


def changed(*at: int) -> np.ndarray[Any, Any]:
    other = TABLE.copy()
    other[list(at)] *= np.float32(1.01)
    return other


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t.copy(), []),
        (lambda t: changed(90, 95), [90, 95]),
        (lambda t: t * np.linspace(0.5, 2, 5, dtype=np.float32), []),
        (lambda t: t + np.float32(0.3), []),
        (lambda t: changed(7) * np.float32(3), [7]),
    ],
)
def test_rows_that_are_not_what_the_others_become(change: Callable[[Any], Any], found: list[int]) -> None:
    assert rows(change(TABLE)) == found


def test_a_row_behind_arithmetic_is_read() -> None:
    assert compare(made(TABLE), made(changed(96))).verdict is Verdict.FAIL
    assert compare(made(TABLE), made(TABLE.copy())).verdict is Verdict.PASS


def test_rows_are_left_until_they_were_read() -> None:
    a, b = (LoadedModel.open(made(t), None, "model") for t in (TABLE, changed(3, 96)))
    (bound,) = find_other_rows(a, b, Constants(a), Constants(b))
    assert not bound.find_sides({"p": np.array([[3, 4]])})
    assert bound.find_sides({"p": np.array([[-1]])}) == bound.sides
