"""Query, key and value biases of attention: which leave and which stay, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from tests.flow.attention_cases import ROWS, Row
from tests.flow.fused_cases import FUSED, OPERATORS, Fused, Operator
from tests.flow.judge import biases, feeds_of, feels, judged

rows = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@rows
def test_attention(row: Row) -> None:
    result = judged(row.build(), gone=row.gone, kept=row.kept)
    assert result.after.biases <= result.before.biases - len(row.gone.split())
    assert not {n.name for n in result.model.graph.node} & set(row.gone.split()), "an Add is left"


@rows
def test_what_is_kept_is_felt(row: Row) -> None:
    proto = row.build()
    for name in row.kept.split():
        assert feels(proto, [name], feeds_of(proto)), name


@pytest.mark.parametrize("row", FUSED, ids=[row.name for row in FUSED])
def test_fused_projections(row: Fused) -> None:
    """The key's and the value's part of the joint bias becomes zero, and everything else stays as it was."""
    proto = row.build()
    result = judged(proto)
    was, now = biases(proto)["f"], biases(result.model).get("f")
    parts = np.arange(was.size) // 8
    match row.zero:
        case "all":
            assert now is None
            return
        case "heads":
            dead = np.arange(was.size) % 12 >= 4
        case letters:
            dead = np.isin(parts, ["qkv".index(c) for c in letters])
    assert now is not None
    assert not now[dead].any()
    assert np.array_equal(now[~dead], was[~dead])
    assert result.after.biases == result.before.biases


@pytest.mark.parametrize("row", OPERATORS, ids=[row.name for row in OPERATORS])
def test_attention_operator(row: Operator) -> None:
    result = judged(row.build(), gone=row.gone, kept=row.kept)
    assert result.after.biases == result.before.biases - len(row.gone.split())
