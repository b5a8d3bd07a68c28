"""Open sizes that a model fixes inside are solved for, so that it runs at all."""

from __future__ import annotations

import numpy as np
import pytest

from converter.records import Verdict
from converter.referee.proto.random_inputs import solve_sizes
from converter.referee.verify import compare
from tests import tiny

RNG = np.random.default_rng(2)


def normal(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / 4).astype(np.float32)


AUDIO = """(float[N,1,L] x) => (float[N,5] y) { c = Conv<kernel_shape=[9], strides=[4]>(x, k)
 f = Flatten(c)
 y = MatMul(f, w) }"""
IMAGE = """(float[N,3,H,W] x) => (float[N,5] y) { c = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x, k)
 p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
 f = Flatten(p)
 y = Gemm<transB=1>(f, w) }"""
FRAMES = """(float[N,L] x) => (float[N,M,160] y) { r = Reshape(x, shape)
 y = Mul(r, g) }"""
PLACES = """(float[N,L,6] x) => (float[N,L,6] y) { m = MatMul(x, q)
 a = Add(m, p)
 y = Relu(a) }"""


@pytest.mark.parametrize(
    ("text", "held", "start", "fits"),
    [
        (AUDIO, {"k": normal(4, 1, 9), "w": normal(4 * 1997, 5)}, (1, 1, 64), range(7993, 7997)),
        (IMAGE, {"k": normal(4, 3, 3, 3), "w": normal(5, 4 * 17 * 17)}, (1, 3, 64, 64), range(67, 71)),
        (FRAMES, {"shape": np.array([1, -1, 160]), "g": normal(160)}, (1, 64), range(160, 161)),
        (PLACES, {"q": normal(6, 6), "p": normal(1, 197, 6)}, (1, 64, 6), range(197, 198)),
    ],
)
def test_a_size_that_fits_is_found(text: str, held: dict[str, np.ndarray], start: tuple[int, ...], fits: range) -> None:
    model = tiny.model(text, held)
    assert any(set(shape["x"][1:]) & set(fits) for shape in solve_sizes(model, None, {"x": start}))
    weight = next(n for n in ("w", "g", "p") if n in held)
    parity = compare(model, tiny.model(text, {**held, weight: held[weight] * np.float32(1.1)}))
    assert parity.verdict is Verdict.FAIL, parity.why
    assert parity.inputs is not None, "it was run whole"
    assert set(parity.inputs.shapes["x"][1:]) & set(fits)


def test_where_nothing_is_open_there_is_nothing_to_solve() -> None:
    model = tiny.model("(float[2,8] x) => (float[2,5] y) { y = MatMul(x, w) }", {"w": normal(8, 5)})
    assert not list(solve_sizes(model, None, {"x": (2, 8)}))
