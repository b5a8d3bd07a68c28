"""Attention with separate query, key and value biases, as exporters write it, and what becomes of them.

Letters: 2 sequences of 5 positions, 8 features, 2 heads of 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from tests.rewrite.bias_flow.judge import model

OPEN = np.tril(np.ones((5, 5), bool))
MINUS_INFINITY = np.float64(-np.inf)

WEIGHTS: dict[str, Any] = {
    **{f"W{p}": (8, 8) for p in "qkvo"},
    **{f"b{p}": (8,) for p in "qkvo"},
    "heads": np.int64([0, 0, 2, 4]),
    "flat": np.int64([0, 0, 8]),
    "scale": np.float64(0.5),
}
PROJECT = """
    mq = MatMul(x, Wq) q = Add(mq, bq) q1 = Reshape(q, heads) Q = Transpose<perm=[0,2,1,3]>(q1)
    mk = MatMul(x, Wk) k = Add(bk, mk) k1 = Reshape(k, heads) K = Transpose<perm=[0,2,1,3]>(k1)
    mv = MatMul(x, Wv) v = Add(mv, bv) v1 = Reshape(v, heads) V = Transpose<perm=[0,2,1,3]>(v1)
"""
SCORES = "KT = Transpose<perm=[0,1,3,2]>(K) s0 = MatMul(Q, KT) s = Mul(s0, scale)"
SOFTMAX = "P = Softmax<axis=-1>(s)"
WEIGH = "z = MatMul(P, V)"
OUT = "z1 = Transpose<perm=[0,2,1,3]>(z) z2 = Reshape(z1, flat) mo = MatMul(z2, Wo) y = Add(mo, bo)"


@dataclass(frozen=True)
class Row:
    """Nodes `q`, `k`, `v` add the biases: ``gone`` of them leave, ``kept`` stay."""

    name: str
    gone: str = ""
    kept: str = ""
    project: str = PROJECT
    scores: str = SCORES
    softmax: str = SOFTMAX
    weigh: str = WEIGH
    out: str = OUT
    inputs: str = ""
    outputs: str = ""
    constants: dict[str, Any] = field(default_factory=dict)
    opset: int = 17

    def build(self) -> onnx.ModelProto:
        """The model."""
        body = " ".join((self.project, self.scores, self.softmax, self.weigh, self.out))
        text = f"(double[2,5,8] x{self.inputs}) => (double[2,5,8] y{self.outputs}) {{ {body} }}"
        used = {n: c for n, c in {**WEIGHTS, **self.constants}.items() if c is not None}
        proto = model(text, self.opset, **used)
        read = {name for node in proto.graph.node for name in node.input}
        kept = [t for t in proto.graph.initializer if t.name in read]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
        return proto


def _rotated(name: str) -> str:
    """RoPE on one tensor: x cos + rotate_half(x) sin, then renamed."""
    return (
        f"{name}a = Slice({name}, two, four, last) {name}b = Slice({name}, nought, two, last) {name}n = Neg({name}a) "
        f"{name}r = Concat<axis=-1>({name}n, {name}b) {name}c = Mul({name}, cos) {name}s = Mul({name}r, sin) "
        f"{name}R = Add({name}c, {name}s)"
    )


_ANGLES = np.arange(5.0)[:, None] * np.tile([1.0, 0.1], 2)
ROPE = {
    "cos": np.cos(_ANGLES),
    "sin": np.sin(_ANGLES),
    "nought": np.int64([0]),
    "two": np.int64([2]),
    "four": np.int64([4]),
    "last": np.int64([-1]),
}
ROTATED_SCORES = (
    f"{_rotated('Q')} {_rotated('K')} KT = Transpose<perm=[0,1,3,2]>(KR) s0 = MatMul(QR, KT) s = Mul(s0, scale)"
)
NORMED_SCORES = (
    "Qn = LayerNormalization(Q, lg, lb) Kn = LayerNormalization(K, lg, lb) "
    "KT = Transpose<perm=[0,1,3,2]>(Kn) s0 = MatMul(Qn, KT) s = Mul(s0, scale)"
)
GUARD = "P0 = Softmax<axis=-1>(s) bad = IsNaN(P0) P = Where(bad, nought, P0)"
TURNED = """
    VT = Transpose<perm=[0,1,3,2]>(V) PT = Transpose<perm=[0,1,3,2]>(P)
    zT = MatMul(VT, PT) z = Transpose<perm=[0,1,3,2]>(zT)
"""
CACHE = """
    K0 = Concat<axis=2>(past_k, K) V0 = Concat<axis=2>(past_v, V) KT = Transpose<perm=[0,1,3,2]>(K0)
    s0 = MatMul(Q, KT) s = Mul(s0, scale)
"""


def masked(how: str) -> str:
    """The scores, with a mask node between them and softmax."""
    return f"{SCORES.replace('s = Mul', 's1 = Mul')} {how}"


ROWS = [
    Row("plain", "k v", "q y"),
    Row(
        "key transposed in one step",
        "k v",
        "q",
        PROJECT.replace("K = Transpose<perm=[0,2,1,3]>", "KT = Transpose<perm=[0,2,3,1]>"),
        SCORES.replace("KT = Transpose<perm=[0,1,3,2]>(K)", ""),
    ),
    Row("scaled by division", "k v", "q", scores=SCORES.replace("s = Mul", "s = Div")),
    Row(
        "causal, added", "k v", "q", scores=masked("s = Add(s1, mask)"), constants={"mask": np.where(OPEN, 0, -np.inf)}
    ),
    Row(
        "causal, chosen",
        "k v",
        "q",
        scores=masked("s = Where(open, s1, closed)"),
        constants={"open": OPEN, "closed": MINUS_INFINITY},
    ),
    Row("position bias", "k v", "q", scores=masked("s = Add(s1, bias)"), constants={"bias": (1, 2, 5, 5)}),
    Row("mask at run time, added", "k v", "q", scores=masked("s = Add(s1, mask)"), inputs=", double[2,1,5,5] mask"),
    Row(
        "mask at run time, minus infinity chosen",
        "k",
        "q",
        scores=masked("s = Where(open, s1, closed)"),
        inputs=", bool[2,1,5,5] open",
        constants={"closed": MINUS_INFINITY},
    ),
    Row(
        "mask at run time, guarded",
        "k",
        "q v",
        scores=masked("s = Where(open, s1, closed)"),
        softmax=GUARD,
        inputs=", bool[2,1,5,5] open",
        constants={"closed": MINUS_INFINITY, "nought": np.float64(0)},
    ),
    Row(
        "mask at run time, finite",
        "v",
        "q k",
        scores=masked("s = Where(open, s1, closed)"),
        inputs=", bool[2,1,5,5] open",
        constants={"closed": np.float64(-10)},
    ),
    Row("rotary", "v", "q k", scores=ROTATED_SCORES, constants=ROPE),
    Row("norms on query and key", "v", "q k", scores=NORMED_SCORES, constants={"lg": (4,), "lb": (4,)}),
    Row("sigmoid", "", "q k v", softmax="P = Sigmoid(s)"),
    Row(
        "sink column",
        "",
        "q k v",
        softmax="s2 = Concat<axis=-1>(s, sink) P0 = Softmax<axis=-1>(s2) P = Slice(P0, nought, five, last)",
        constants={
            "sink": np.zeros((2, 2, 5, 1)),
            "nought": np.int64([0]),
            "five": np.int64([5]),
            "last": np.int64([-1]),
        },
    ),
    Row(
        "softmax with one added to the sum",
        "",
        "q k v",
        softmax="E = Exp(s) S = ReduceSum<keepdims=1>(E, last) S1 = Add(S, one) P = Div(E, S1)",
        constants={"last": np.int64([-1]), "one": np.float64(1)},
    ),
    Row("softmax over queries", "q", "k v", softmax="P = Softmax<axis=-2>(s)"),
    Row("softcap", "v", "q k", scores=masked("t = Tanh(s1) s = Mul(t, cap)"), constants={"cap": np.float64(5)}),
    Row(
        "cache",
        "",
        "q k v",
        scores=CACHE,
        weigh=WEIGH.replace("V", "V0"),
        inputs=", double[2,2,3,4] past_k, double[2,2,3,4] past_v",
    ),
    Row(
        "cache that is handed back",
        "",
        "q k v",
        scores=CACHE,
        weigh=WEIGH.replace("V", "V0"),
        inputs=", double[2,2,3,4] past_k, double[2,2,3,4] past_v",
        outputs=", double[2,2,8,4] K0, double[2,2,8,4] V0",
    ),
    Row("keys are an output", "v", "q k", outputs=", double[2,2,5,4] K"),
    Row("weights are an output", "k v", "q", outputs=", double[2,2,5,5] P"),
    Row("scores are an output", "v", "q k", outputs=", double[2,2,5,5] s"),
    Row(
        "dropout that is off",
        "k v",
        "q",
        softmax="P0 = Softmax<axis=-1>(s) P = Dropout(P0, rate)",
        constants={"rate": np.float64(0.1)},
    ),
    Row("values before weights, as in diffusion", "k v", "q", weigh=TURNED),
    Row("values before weights that are not turned", "k", "q v", weigh=TURNED.replace("(VT, PT)", "(VT, P)")),
    Row("softmax over queries, turned", "q", "k v", softmax="P = Softmax<axis=-2>(s)", weigh=TURNED),
    Row(
        "values read twice",
        "k",
        "q v",
        weigh="z0 = MatMul(P, V) z3 = Relu(V) z = Add(z0, z3)",
    ),
    Row(
        "two key heads for four query heads",
        "k v",
        "q",
        project=PROJECT.replace("(q, heads)", "(q, four)").replace("K = ", "K2 = ").replace("V = ", "V2 = "),
        scores="K3 = Unsqueeze(K2, at) K4 = Expand(K3, twice) K = Reshape(K4, apart) "
        "V3 = Unsqueeze(V2, at) V4 = Expand(V3, twice) V = Reshape(V4, apart) " + SCORES,
        constants={
            **{f"W{p}": (8, 4) for p in "kv"},
            **{f"b{p}": (4,) for p in "kv"},
            "heads": np.int64([0, 0, 2, 2]),
            "four": np.int64([0, 0, 4, 2]),
            "at": np.int64([2]),
            "twice": np.int64([2, 2, 2, 5, 2]),
            "apart": np.int64([2, 4, 5, 2]),
        },
    ),
    Row(
        "einsum",
        "k v",
        "q",
        project=PROJECT.replace("Q = Transpose<perm=[0,2,1,3]>(q1)", "")
        .replace("K = Transpose<perm=[0,2,1,3]>(k1)", "")
        .replace("V = Transpose<perm=[0,2,1,3]>(v1)", ""),
        scores='s0 = Einsum<equation="bqhd,bkhd->bhqk">(q1, k1) s = Mul(s0, scale)',
        weigh='z1 = Einsum<equation="bhqk,bkhd->bqhd">(P, v1)',
        out=OUT.replace("z1 = Transpose<perm=[0,2,1,3]>(z)", ""),
    ),
    Row(
        "keys and values of another sequence",
        "k v",
        "q",
        project=PROJECT.replace("MatMul(x, Wk)", "MatMul(memory, Wk)").replace("MatMul(x, Wv)", "MatMul(memory, Wv)"),
        inputs=", double[2,7,8] memory",
    ),
    Row(
        "keys that are also values",
        "k",
        "q",
        project=PROJECT[: PROJECT.index("mv =")],
        weigh=WEIGH.replace("V", "K"),
    ),
]
