"""Biases before norms: absorbed, dead or live, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
from onnx import TensorProto, helper

from tests.rewrite.bias_flow.judge import feeds_of, feels, judged, ops
from tests.rewrite.bias_flow.norm_nets import ABSORBED, DEAD, LIVE, SPECIAL, Row


def by_name(rows: list[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows, ids=[row.name for row in rows])


@by_name([*ABSORBED, *DEAD, *LIVE, *SPECIAL])
def test_inference_graphs(row: Row) -> None:
    result = judged(row.build(), gone=row.gone, kept=row.kept)
    assert ops(result.model).count("BatchNormalization") == row.norms


@by_name(LIVE)
def test_live_rows_feel_their_bias(row: Row) -> None:
    proto = row.build()
    assert feels(proto, ["c"], feeds_of(proto))


@by_name(DEAD)
def test_dead_rows_do_not_feel_their_bias(row: Row) -> None:
    proto = row.build()
    assert not feels(proto, ["c"], feeds_of(proto))


@by_name(DEAD)
def test_nothing_takes_the_place_of_a_dead_bias(row: Row) -> None:
    """One bias vector fewer, and every other node as it was."""
    proto = row.build()
    result = judged(proto, gone=row.gone)
    assert result.after.biases == result.before.biases - 1
    assert ops(result.model) == ops(proto)


@by_name([row for row in DEAD if "instance" in row.name])
def test_a_second_reader_that_feels_it_keeps_it(row: Row) -> None:
    proto = replace(row, body=f"{row.body} z = Relu(c)").build()
    rank = len(row.out.split(",")) + 1
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.DOUBLE, [None] * rank))
    assert feels(proto, ["c"], feeds_of(proto))
    judged(proto, kept="c")
