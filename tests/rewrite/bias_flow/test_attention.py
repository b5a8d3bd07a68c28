"""Query, key and value biases of attention: which leave and which stay, in float64."""

from __future__ import annotations

import numpy as np
import pytest

import converter
from converter.records import Verdict
from tests.rewrite.bias_flow.attention_nets import ROWS, Row
from tests.rewrite.bias_flow.fused_nets import FUSED, OPERATORS, Fused, Operator
from tests.rewrite.bias_flow.judge import biases, depends_on, feeds_of, judged, model

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
        assert depends_on(proto, [name], feeds_of(proto)), name


@pytest.mark.parametrize("row", FUSED, ids=[row.name for row in FUSED])
def test_fused_projections(row: Fused) -> None:
    """The key's and the value's part of the joint bias becomes zero, and everything else stays as it was."""
    proto = row.build()
    result = judged(proto, skip=("hoist-affine",))  # which would scale the query's part
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


@pytest.mark.parametrize("row", FUSED, ids=[row.name for row in FUSED])
def test_parts_become_zero_without_a_byte_more(row: Fused) -> None:
    """A vector with zeros in it is as long as before: nothing is to be allowed for it, and nothing is left to do."""
    proto = row.build()
    result = converter.fold(proto)
    assert result.parity is not None and result.parity.verdict is Verdict.PASS
    taken = next(fate.removed for fate in result.fates if "f" in fate.names)
    assert taken == (16 if row.zero in ("all", "heads") else 8 * len(row.zero))
    assert len(result.to_bytes()) <= proto.ByteSize()
    assert not converter.fold(result.model, verify=False).rewrites


@pytest.mark.parametrize("row", OPERATORS, ids=[row.name for row in OPERATORS])
def test_attention_operator(row: Operator) -> None:
    result = judged(row.build(), gone=row.gone, kept=row.kept)
    assert result.after.biases == result.before.biases - len(row.gone.split())


ANY_BATCH = """
    (double[L,N,8] x) => (double[?,8] y) {
        s = Shape(x) five = Slice(s, nought, first) n = Gather(s, one) m = Mul(n, two) m1 = Unsqueeze(m, nought)
        heads = Concat<axis=0>(five, m1, four)
        mq = MatMul(x, Wq) q = Add(mq, bq) q1 = Reshape(q, heads) Q = Transpose<perm=[1,0,2]>(q1)
        mk = MatMul(x, Wk) k = Add(mk, bk) k1 = Reshape(k, heads) K = Transpose<perm=[1,2,0]>(k1)
        mv = MatMul(x, Wv) v = Add(mv, bv) v1 = Reshape(v, heads) V = Transpose<perm=[1,0,2]>(v1)
        w = MatMul(Q, K) P = Softmax<axis=-1>(w) z = MatMul(P, V)
        z1 = Transpose<perm=[1,0,2]>(z) z2 = Reshape(z1, flat) y = Gemm(z2, Wo, bo)
    }
"""


@pytest.mark.parametrize("length", ["5", "L"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_batch_and_heads_as_one_axis_of_any_length(n: int, length: str) -> None:
    """As torch's own encoder lays them out: the value's shift repeats along that axis."""
    weights = {f"W{p}": (8, 8) for p in "qkvo"} | {f"b{p}": (8,) for p in "qkvo"}
    sizes = {"one": np.int64(1), "two": np.int64(2), "nought": np.int64([0]), "flat": np.int64([-1, 8])}
    sizes |= {"first": np.int64([1]), "four": np.int64([4])}
    proto = model(ANY_BATCH.replace("[L", f"[{length}"), **weights, **sizes)
    feeds = {"x": np.random.default_rng(n).normal(size=(5, n, 8))}
    result = judged(proto, gone="k v", kept="q y", feeds=feeds)
    assert result.after.biases == 2
