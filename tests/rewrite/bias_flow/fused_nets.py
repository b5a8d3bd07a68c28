"""One projection for query, key and value, and ONNX's own Attention operator.

Letters: 2 sequences of 5 positions, 8 features, 2 heads of 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from tests.rewrite.bias_flow.attention_nets import OUT, SCORES, SOFTMAX, WEIGH
from tests.rewrite.bias_flow.judge import model

PICKED = f"{SCORES} {SOFTMAX} {WEIGH} {OUT}"
JOINT = "m = MatMul(x, W) f = Add(m, b)"
CONSTANTS: dict[str, Any] = {
    "W": (8, 24),
    "b": (24,),
    "Wo": (8, 8),
    "bo": (8,),
    "scale": np.float64(0.5),
    "flat": np.int64([0, 0, 8]),
    "heads": np.int64([0, 0, 2, 4]),
}
EACH = """
    q1 = Reshape(q, heads) Q = Transpose<perm=[0,2,1,3]>(q1) k1 = Reshape(k, heads) K = Transpose<perm=[0,2,1,3]>(k1)
    v1 = Reshape(v, heads) V = Transpose<perm=[0,2,1,3]>(v1)
"""
STEPS = {f"e{i}": np.int64([8 * i]) for i in range(4)} | {f"i{i}": np.int64(i) for i in range(3)}


@dataclass(frozen=True)
class Fused:
    """``zero`` names the parts of the joint bias that go: letters of q, k, v; ``heads``: by head; or ``all``."""

    name: str
    body: str
    zero: str
    constants: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    inputs: str = ""

    def build(self) -> onnx.ModelProto:
        """The model: node `f` adds the joint bias of 24."""
        text = f"(double[2,5,8] x{self.inputs}) => (double[2,5,8] y) {{ {JOINT} {self.body} }}"
        proto = model(text, self.opset, **{**CONSTANTS, **self.constants})
        read = {name for node in proto.graph.node for name in node.input}
        kept = [t for t in proto.graph.initializer if t.name in read]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
        return proto


GUARDED = PICKED.replace(SOFTMAX, "P0 = Softmax<axis=-1>(w) bad = IsNaN(P0) P = Where(bad, nought, P0)").replace(
    "s = Mul(s0, scale)", "s = Mul(s0, scale) w = Where(open, s, closed)"
)
FUSED = [
    Fused("split", f"q, k, v = Split<axis=-1>(f, sizes) {EACH} {PICKED}", "kv", {"sizes": np.int64([8, 8, 8])}),
    Fused("split in equal parts", f"q, k, v = Split<axis=2, num_outputs=3>(f) {EACH} {PICKED}", "kv", opset=18),
    Fused(
        "slices",
        f"q = Slice(f, e0, e1, axis) k = Slice(f, e1, e2, axis) v = Slice(f, e2, far, axis) {EACH} {PICKED}",
        "kv",
        {**STEPS, "axis": np.int64([-1]), "far": np.int64([2**63 - 1])},
    ),
    Fused(
        "reshape, transpose, gather",
        "r = Reshape(f, five) t = Transpose<perm=[2,0,3,1,4]>(r) "
        f"Q = Gather<axis=0>(t, i0) K = Gather<axis=0>(t, i1) V = Gather<axis=0>(t, i2) {PICKED}",
        "kv",
        {**STEPS, "five": np.int64([0, 0, 3, 2, 4])},
    ),
    Fused(
        "reshape, transpose, split, squeeze",
        "r = Reshape(f, five) t = Transpose<perm=[2,0,3,1,4]>(r) a, b1, c = Split<axis=0>(t) "
        f"Q = Squeeze(a, at) K = Squeeze(b1, at) V = Squeeze(c, at) {PICKED}",
        "kv",
        {"at": np.int64([0]), "five": np.int64([0, 0, 3, 2, 4])},
    ),
    Fused(
        "heads before parts",  # as GPT-NeoX lays them out: each head has its query, key and value
        "r = Reshape(f, five) t = Transpose<perm=[0,2,1,3]>(r) Q, K, V = Split<axis=-1>(t, fours) " + PICKED,
        "heads",
        {"five": np.int64([0, 0, 2, 12]), "fours": np.int64([4, 4, 4])},
    ),
    Fused(
        "guarded",
        f"q, k, v = Split<axis=-1>(f, sizes) {EACH} {GUARDED}",
        "k",
        {"sizes": np.int64([8, 8, 8]), "nought": np.float64(0), "closed": np.float64(-np.inf)},
        inputs=", bool[2,1,5,5] open",
    ),
    Fused(
        "keys and values only",
        "q0 = MatMul(x, Wq) q = Identity(q0) k, v = Split<axis=-1>(f, sizes) " + EACH + PICKED,
        "all",
        {"W": (8, 16), "b": (16,), "Wq": (8, 8), "sizes": np.int64([8, 8])},
    ),
]

SEPARATE = "mq = MatMul(x, Wq) q = Add(mq, bq) mk = MatMul(x, Wk) k = Add(mk, bk) mv = MatMul(x, Wv) v = Add(mv, bv)"


@dataclass(frozen=True)
class Operator:
    """ONNX's Attention: nodes `q`, `k`, `v` add the biases."""

    name: str
    gone: str
    kept: str
    attributes: str = "q_num_heads=2, kv_num_heads=2"
    arguments: str = "q, k, v"
    before: str = SEPARATE
    inputs: str = ""
    outputs: str = "z2"
    constants: dict[str, Any] = field(default_factory=dict)
    opset: int = 23
    four: bool = False
    heads: str = "heads"  # the query's

    def build(self) -> onnx.ModelProto:
        """The model."""
        attention = f"{self.outputs.replace('z2', 'z')} = Attention<{self.attributes}>({self.arguments})"
        shape = "z1 = Transpose<perm=[0,2,1,3]>(z) z2 = Reshape(z1, flat)" if self.four else "z2 = Identity(z)"
        split = EACH.replace("(q, heads)", f"(q, {self.heads})") if self.four else ""
        body = f"{self.before} {split} {attention} {shape} mo = MatMul(z2, Wo) y = Add(mo, bo)"
        text = f"(double[2,5,8] x{self.inputs}) => (double[2,5,8] y) {{ {body} }}"
        values = {**{f"W{p}": (8, 8) for p in "qkvo"}, **{f"b{p}": (8,) for p in "qkvo"}}
        values |= {"flat": np.int64([0, 0, 8]), "heads": np.int64([0, 0, 2, 4])}
        proto = model(text, self.opset, **{**values, **self.constants})
        read = {name for node in proto.graph.node for name in node.input}
        kept = [t for t in proto.graph.initializer if t.name in read]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
        return proto


OPERATORS = [
    Operator("three axes", "k v", "q"),
    Operator("four axes", "k v", "q", "scale=0.5", "Q, K, V", four=True),
    Operator("causal", "k v", "q", "q_num_heads=2, kv_num_heads=2, is_causal=1"),
    Operator("scaled", "k v", "q", "q_num_heads=2, kv_num_heads=2, scale=0.3"),
    Operator("softcap", "v", "q k", "q_num_heads=2, kv_num_heads=2, softcap=2.0"),
    Operator("mask at run time", "k", "q v", arguments="q, k, v, open", inputs=", bool[5,5] open"),
    Operator(
        "mask at run time, four axes",
        "k",
        "q v",
        "scale=0.5",
        "Q, K, V, mask",
        inputs=", double[2,1,5,5] mask",
        four=True,
    ),
    Operator(
        "cache",
        "",
        "q k v",
        "scale=0.5",
        "Q, K, V, , past_k, past_v",
        inputs=", double[2,2,3,4] past_k, double[2,2,3,4] past_v",
        outputs="z2, all_k, all_v",
        four=True,
    ),
    Operator(
        "grouped heads",
        "k v",
        "q",
        "q_num_heads=4, kv_num_heads=2",
        constants={**{f"W{p}": (8, 4) for p in "kv"}, **{f"b{p}": (4,) for p in "kv"}},
    ),
    Operator(
        "grouped heads, four axes",
        "k v",
        "q",
        "scale=0.5",
        "Q, K, V",
        four=True,
        constants={
            "Wq": (8, 16),
            "bq": (16,),
            "Wo": (16, 8),
            "flat": np.int64([0, 0, 16]),
            "four": np.int64([0, 0, 4, 4]),
        },
        heads="four",
    ),
]
