"""Biases before norms: absorbed, dead or live, in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import converter
from tests.rewrite.bias_flow.judge import depends_on, feeds_of, judged, ops
from tests.rewrite.bias_flow.norm_nets import ABSORBED, DEAD, LIVE, SPECIAL, Row


def by_name(rows: list[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows, ids=[row.name for row in rows])


@by_name([*ABSORBED, *DEAD, *LIVE, *SPECIAL])
def test_inference_graphs(row: Row) -> None:
    result = judged(row.build(), gone=row.gone, kept=row.kept, skip=row.skip)
    assert ops(result.model).count("BatchNormalization") == row.norms


@by_name([*ABSORBED, *DEAD, *LIVE, *SPECIAL])
def test_the_norm_goes_back_through_what_lies_between(row: Row) -> None:
    """With every pass: what was left out above takes it back, and elsewhere it is where it was."""
    left = ops(judged(row.build()).model).count("BatchNormalization")
    assert left == (0 if row.skip else row.norms)


@by_name(LIVE)
def test_live_rows_feel_their_bias(row: Row) -> None:
    proto = row.build()
    assert depends_on(proto, ["c"], feeds_of(proto))


@by_name(DEAD)
def test_dead_rows_do_not_feel_their_bias(row: Row) -> None:
    proto = row.build()
    assert not depends_on(proto, ["c"], feeds_of(proto))


@by_name(DEAD)
def test_nothing_takes_the_place_of_a_dead_bias(row: Row) -> None:
    """One bias vector fewer, and every other node as it was."""
    proto = row.build()
    result = judged(proto, gone=row.gone, skip=("hoist-affine",))
    assert result.after.biases == result.before.biases - 1
    assert ops(result.model) == ops(proto)


@by_name([row for row in DEAD if "instance" in row.name])
def test_a_second_reader_that_feels_it_keeps_it(row: Row) -> None:
    proto = replace(row, body=f"{row.body} z = Relu(c)").build()
    rank = len(row.out.split(",")) + 1
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.DOUBLE, [None] * rank))
    assert depends_on(proto, ["c"], feeds_of(proto))
    judged(proto, kept="c")


def test_a_mean_of_integers_takes_no_bias_over() -> None:
    """No standard allows it, and no checker finds it: what would be absorbed would be cut to a whole number."""
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[2, 3, 6, 7] x) => (float[2, 5, 4, 5] y)
    { c = Conv(x, w, b) y = BatchNormalization(c, g, be, m, v) }"""
    draw = np.random.default_rng(3)
    values = {"w": draw.normal(size=(5, 3, 3, 3)), "b": draw.normal(size=5), "g": draw.uniform(0.5, 2, 5)}
    values |= {"be": draw.normal(size=5), "v": draw.uniform(0.5, 2, 5)}
    for mean, n_rewrites in ((np.zeros(5, np.float32), 1), (np.zeros(5, np.int8), 0)):
        model = onnx.parser.parse_model(text)
        arrays = {name: value.astype(np.float32) for name, value in values.items()} | {"m": mean}
        model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in arrays.items())
        result = converter.fold(model, verify=False, keep_bn=True)
        assert len(result.rewrites) == n_rewrites
