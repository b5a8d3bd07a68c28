"""What constants are computed from others, how precisely, and what is not computed."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import converter
from converter.model.graph import Graph, Tensor, load
from converter.rewrite.analysis.constants import Constants
from tests.tiny import Draw, X, model

W = Draw().normal(5, 3, 3, 2)


def find_output(graph: Graph) -> Tensor:
    return next(t for n in graph.nodes() for t in n.outputs if t.name == "u")


def value(text: str, opset: int = 18, **consts: np.ndarray) -> np.ndarray | None:
    """Return the stored value of ``u``; None if it is not constant."""
    graph = load(model(f"{X} => (float[2,3,11,13] y) {{ {text} y = Add (x, u) }}", consts, opset=opset, ir=10))
    found = Constants(graph).weight(find_output(graph))
    return None if found is None else found.load()


def test_rounds_once() -> None:
    wide = W.astype(np.float64)
    want = wide / np.sqrt((wide**2).sum(axis=(1, 2, 3), keepdims=True) + np.float64(np.float32(1e-3)))
    got = value(
        "q = Mul (w, w) s = ReduceSum <keepdims = 1> (q, ax) e = Add (s, eps) r = Sqrt (e) u = Div (w, r)",
        w=W,
        ax=np.array([1, 2, 3]),
        eps=np.array(1e-3, np.float32),
    )
    assert got is not None
    assert got.dtype == np.float32
    assert np.array_equal(got, want.astype(np.float32))


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_keeps_its_type(kind: type) -> None:
    got = value("e = Mul (w, w) u = Sqrt (e)", w=W.astype(kind))
    assert got is not None
    assert got.dtype == kind
    assert np.array_equal(got, np.abs(W.astype(kind)))


@pytest.mark.parametrize(
    ("start", "end", "step"), [(-1, -100, -1), (3, 0, -2), (100, -3, -1), (0, 100, 2), (-2, 100, 1)]
)
def test_slices_go_either_way(start: int, end: int, step: int) -> None:
    v = np.arange(5, dtype=np.float32)
    got = value(
        "u = Slice (w, b, e, a, s)",
        w=v,
        **{k: np.array([n]) for k, n in zip("beas", (start, end, 0, step), strict=True)},
    )
    want = [v[k] for k in range(5) if k in range(*slice(start, None if end == -100 else end, step).indices(5))]
    assert got is not None
    assert got.tolist() == (want if step > 0 else want[::-1])


def test_integers_are_computed_as_a_runtime_does() -> None:
    got = value("d = Div (a, b) u = Add (d, a)", a=np.array([7, -7]), b=np.array([2, 2]))
    assert got is not None
    assert got.tolist() == [10, -10]


@pytest.mark.parametrize(
    "text",
    [
        "u = RandomNormalLike <seed = 1.0> (w)",
        "u, mask = Dropout (w, half, yes)",
        "s = Shape (x) r = ReduceMean <keepdims = 0> (x) u = Mul (w, r)",
        "u = Reshape (w, wrong)",
        "u = Tile (w, many)",
        "u = Expand (w, wide)",
        "a = MatMul (w, w2) u = Neg (a)",
    ],
)
def test_is_not_constant(text: str) -> None:
    consts = {
        "w": W,
        "w2": Draw().normal(3, 3),
        "half": np.array(0.5, np.float32),
        "yes": np.array(True),
        "wrong": np.array([4, 4]),
        "many": np.array([1 << 20, 1, 1, 1]),
        "wide": np.array([1 << 20, 5, 3, 3, 2]),
    }
    assert value(text, **consts) is None


def test_a_product_that_is_much_work_is_left() -> None:
    rows, wide = np.zeros((1, 1 << 12, 1), np.float32), np.zeros((1, 1, 1 << 12), np.float32)
    # 2^12 x 2^12 of 2^8 terms.
    text = "a = Expand (r, n) b = Expand (c, k) p = MatMul (a, b) u = ReduceMean <keepdims = 0> (p)"
    n, k = np.array([1, 1 << 12, 1 << 8]), np.array([1, 1 << 8, 1 << 12])
    assert value(text, r=rows, c=wide, n=n, k=k) is None


def test_chains_that_double_are_computed_once() -> None:
    text = "u0 = Mul (w, w) " + " ".join(f"u{i} = Add (u{i - 1}, v{i - 1}) v{i} = Neg (u{i})" for i in range(1, 50))
    text = text.replace("v0", "u0") + " u = Abs (u49)"
    assert value(text, w=W) is not None


def test_a_range_is_a_constant() -> None:
    text = "(float[2,3] x) => (float[2,5] y) { c = Gemm(x,w) r = Range(one,six,one) y = Mul(c,r) }"
    consts = {"w": Draw().normal(3, 5), "one": np.float32(1), "six": np.float32(6)}
    assert [n.op_type for n in converter.fold(model(text, consts)).model.graph.node] == ["Gemm"]
