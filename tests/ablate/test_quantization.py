"""What is said for a quantisation: findings, with their figures."""

from __future__ import annotations

import numpy as np
import pytest

from converter.commands.ablate import score_biases as ablate
from converter.report import save
from tests.ablate.made import draw
from tests.tiny import model


def test_a_channel_that_never_reaches_zero_is_a_finding() -> None:
    consts = {"w": draw(3, 2, 1, 1, seed=1), "b": np.array([0, 40, 0], np.float32), "v": draw(4, 3, 1, 1, seed=2)}
    text = """(float[N,2,4,4] x) => (float[N,4,4,4] y) { h = Conv<kernel_shape=[1,1]>(x, w, b)
     r = Relu(h)  y = Conv<kernel_shape=[1,1]>(r, v) }"""
    document = ablate(model(text, consts), inputs={"x": draw(40, 2, 4, 4)}).document()
    (found,) = [f for f in document["findings"] if f["code"] == "high-bias"]
    assert (found["channels"], found["of"]) == (1, 3)
    assert found["range_after"] < 20 < 40 < found["range_before"]
    assert "11,604,987" in document["note"]
    assert "11,604,987" in save.render_document(document, "text")


def test_a_range_that_would_not_shrink_is_none() -> None:
    """The channel that never reaches zero is not the one that is largest."""
    consts = {"w": np.array([[1, 0], [0, 100]], np.float32).reshape(2, 2, 1, 1), "b": np.array([9, 0], np.float32)}
    text = "(float[N,2,4,4] x) => (float[N,2,4,4] y) { h = Conv<kernel_shape=[1,1]>(x, w, b)  y = Relu(h) }"
    document = ablate(model(text, consts), inputs={"x": draw(40, 2, 4, 4)}).document()
    assert [f for f in document["findings"] if f["code"] == "high-bias"] == []


def test_eight_bits_shift_a_mean_as_computed() -> None:
    weight = np.array([[1.0], [0.0035]], np.float32)  # the second is less than half a step of 1/127: it becomes 0
    text = "(float[N,1] x) => (float[N,2] y) { y = Gemm<transB=1>(x, w, b) }"
    proto = model(text, {"w": weight, "b": np.zeros(2, np.float32) + 1})
    x = draw(400, 1, shift=3.0)
    (found,) = ablate(proto, inputs={"x": x}).document()["findings"]
    assert (found["code"], found["channels"]) == ("int8-shift", 1)
    assert found["largest_in_deviations"] == pytest.approx(float(x.mean() / x.std()), rel=1e-4)
