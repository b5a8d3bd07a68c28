"""Every bias has one fate: where it went, or why it is kept, and the way of its shift."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import converter
from converter.model.graph import load
from converter.records import Fate, FateKind, count_biases
from converter.rewrite import pipeline
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import LINEAR
from converter.rewrite.bias_flow.trace import Trace, _Tracer
from models import zoo
from tests.tiny import Draw, as_inputs, model

DRAW = Draw()
X = "(float[2,3,11,13] x)"
MODELS = sorted(zoo.HERE.glob("*.onnx"))


def conv(tag: str, o: int = 3, i: int = 3, k: int = 1, bias: bool = True) -> dict[str, Any]:
    return DRAW.conv(o, i, k, k, bias=o if bias else 0, tag=tag)


def net(body: str, *consts: dict[str, Any], out: str = "(float[2,3,h,v] y)", **options: Any) -> onnx.ModelProto:
    merged: dict[str, Any] = {}
    for part in consts:
        merged |= part
    return model(f"{X} => {out} {{ {body} }}", merged, **options)


def fates(proto: onnx.ModelProto, **options: Any) -> dict[str, Fate]:
    return {fate.node: fate for fate in converter.inspect(proto, allow_growth=math.inf, **options).fates}


def hops(fate: Fate) -> list[tuple[str, str, str]]:
    return [(hop.verb, hop.op, hop.node) for hop in fate.path]


# ---- each kind -------------------------------------------------------------------------------------


def test_dead_before_a_norm() -> None:
    norm = {"s": DRAW.positive(3), "t": DRAW.normal(3)}
    proto = net("c = Conv(x, w, b) y = InstanceNormalization(c, s, t)", conv(""), norm)
    fate = fates(proto)["conv_c"]
    assert (fate.kind, fate.elements, fate.removed, fate.where) == (FateKind.DEAD, 3, 3, "instancenormalization_y")
    assert hops(fate) == [("annihilates", "InstanceNormalization", "instancenormalization_y")]


def test_zero() -> None:
    consts = conv("") | {"b": np.zeros(3, np.float32)}
    fate = fates(net("c = Conv(x, w, b) y = Relu(c)", consts))["conv_c"]
    assert (fate.kind, fate.elements, fate.removed, fate.where) == (FateKind.ZERO, 3, 3, "")


def test_zero_of_a_matmul_is_the_matmuls() -> None:
    consts = {"w": DRAW.normal(3, 5), "b": np.zeros(5, np.float32)}
    proto = model("(float[7,3] x) => (float[7,5] y) { p = MatMul(x, w) a = Add(p, b) y = Relu(a) }", consts)
    fate = fates(proto)["matmul_p"]
    assert (fate.op, fate.kind, fate.elements, fate.removed) == ("MatMul", FateKind.ZERO, 5, 5)


def test_arithmetic_that_is_no_bias_has_no_fate() -> None:
    consts = {"z": np.zeros(3, np.float32), "w": DRAW.normal(3, 5)}
    proto = model("(float[7,3] x) => (float[7,5] y) { a = Add(x, z) r = Relu(a) y = MatMul(r, w) }", consts)
    assert fates(proto) == {}


def test_absorbed_by_the_next() -> None:
    found = fates(net("c = Conv(x, w, b) d = Conv(c, w2, b2) y = Relu(d)", conv(""), conv("2", k=3)))
    assert (found["conv_c"].kind, found["conv_c"].where) == (FateKind.ABSORBED, "conv_d")
    assert hops(found["conv_c"]) == [("absorbs", "Conv", "conv_d")]
    assert found["conv_d"].kind is FateKind.KEPT


def test_merged_with_the_one_beside_it() -> None:
    body = "c = Conv(x, w, b) d = Conv(x, w2, b2) s = Add(c, d) y = Relu(s)"
    found = fates(net(body, conv(""), conv("2")), skip=("merge-parallel-convs",))
    (gone,) = [fate for fate in found.values() if fate.kind is FateKind.MERGED]
    (left,) = [fate for fate in found.values() if fate.kind is FateKind.KEPT]
    assert gone.where == left.node
    assert hops(gone) == [("absorbs", "Add", "add_s")]


def test_absorbed_by_a_batch_norm_that_is_to_stay() -> None:
    proto = net("c = Conv(x, w, b) n = BatchNormalization(c, g, be, m, v) y = Relu(n)", conv(""), DRAW.bn(3))
    found = fates(proto, keep_bn=True)
    assert (found["conv_c"].kind, found["conv_c"].where) == (FateKind.ABSORBED, "batchnormalization_n")
    assert hops(found["conv_c"]) == [("absorbs", "BatchNormalization", "batchnormalization_n")]
    left = found["batchnormalization_n"]
    assert (left.kind, left.code, left.elements) == (FateKind.KEPT, "keep-bn", 3)
    ids = [f.id for f in converter.inspect(proto, keep_bn=True).findings]
    assert len(ids) == len(set(ids)) == 1  # what was done is not declined as well


def test_what_a_fold_of_arithmetic_moves_on_is_absorbed() -> None:
    consts = {"w": DRAW.normal(3, 5), "b": DRAW.normal(5), "w2": DRAW.normal(5, 7), "b2": DRAW.normal(7)}
    body = "p = MatMul(x, w) a = Add(p, b) q = MatMul(a, w2) c = Add(q, b2) y = Relu(c)"
    proto = model(f"(float[2,11,3] x) => (float[2,11,7] y) {{ {body} }}", consts)
    found = fates(proto)
    assert (found["matmul_p"].kind, found["matmul_p"].where) == (FateKind.ABSORBED, "matmul_q")
    assert hops(found["matmul_p"]) == [("absorbs", "MatMul", "matmul_q")]
    assert found["matmul_q"].kind is FateKind.KEPT


# ---- why it is kept --------------------------------------------------------------------------------


def test_kept_where_it_is_felt() -> None:
    fate = fates(net("c = Conv(x, w, b) m = MaxPool<kernel_shape=[2,2]>(c) y = Relu(m)", conv("")))["conv_c"]
    assert (fate.kind, fate.removed, fate.code, fate.why) == (FateKind.KEPT, 0, "stops", "Relu (relu_y) depends on it")
    assert hops(fate) == [("carries", "MaxPool", "maxpool_m"), ("stops", "Relu", "relu_y")]
    assert [hop.sources for hop in fate.path] == [("conv_c",), ("maxpool_m",)]


def test_the_reason_is_told_where_it_is_not_plain() -> None:
    fate = fates(net("c = Conv(x, w, b) d = Conv<pads=[1,1,1,1]>(c, w2, b2) y = Relu(d)", conv(""), conv("2", k=3)))
    why = "Conv (conv_d) depends on it: it reads padded zeros, which the shift does not reach"
    assert (fate["conv_c"].code, fate["conv_c"].why) == ("padding", why)


def test_kept_for_an_output() -> None:
    fate = fates(net("y = Conv(x, w, b)", conv("")))["conv_y"]
    assert (fate.code, fate.why) == ("output-is-graph-output", "it reaches output 'y'")
    assert hops(fate) == [("stops", "output", "y")]


def test_an_output_on_the_way_keeps_it_too() -> None:
    body = "c = Conv(x, w, b) m = MaxPool<kernel_shape=[2,2]>(c) d = Conv(m, w2, b2) y = Relu(d)"
    outs = "(float[2,3,h,v] y, float[2,3,h,v] m)"
    fate = fates(net(body, conv(""), conv("2"), out=outs))["conv_c"]
    assert hops(fate) == [("carries", "MaxPool", "maxpool_m"), ("stops", "output", "m")]
    assert fate.path[-1].sources == ("maxpool_m",)


def test_kept_since_a_caller_may_replace_it() -> None:
    proto = as_inputs(net("c = Conv(x, w, b) d = Conv(c, w2, b2) y = Relu(d)", conv(""), conv("2")), "b")
    fate = fates(proto)["conv_c"]
    assert (fate.kind, fate.code) == (FateKind.KEPT, "overridable")
    assert fates(proto, freeze_overridable=True)["conv_c"].kind is FateKind.ABSORBED


def test_what_nothing_reads_is_kept() -> None:
    """Where it is not to be taken away."""
    proto = net("c = Conv(x, w, b) y = Relu(x)", conv(""), out="(float[2,3,11,13] y)")
    fate = fates(proto, skip=("drop-unread-node",))["conv_c"]
    assert (fate.kind, fate.code) == (FateKind.KEPT, "unread")
    assert fates(proto)["conv_c"].kind is FateKind.DEAD


def test_what_no_pass_was_asked_about_is_kept() -> None:
    proto = net("c = Conv(x, w, b) d = Conv(c, w2, b2) y = Relu(d)", conv(""), conv("2"))
    fate = fates(proto, skip=["sink-bias", "fold-affine-into-next-conv"])["conv_c"]
    assert (fate.kind, fate.code) == (FateKind.KEPT, "not-asked")
    assert hops(fate) == [("absorbs", "Conv", "conv_d")]


def test_what_a_pass_declines_is_told_in_its_words() -> None:
    body = "c = Conv(x, w, b) d = Conv(c, w2) e = Conv(c, w3) s = Relu(d) t = Relu(e) y = Add(s, t)"
    proto = net(body, conv(""), conv("2", bias=False), conv("3", bias=False))
    fate = fates(proto)["conv_c"]
    assert (fate.kind, fate.code) == (FateKind.KEPT, "model-grows")
    assert "2 bias vectors" in fate.why
    assert [hop.verb for hop in fate.path] == ["absorbs", "absorbs"]
    one = net("c = Conv(x, w, b) d = Conv(c, w2) y = Relu(d)", conv(""), conv("2", bias=False))
    fate = fates(one, skip=["fold-affine-into-next-conv"])["conv_c"]
    assert fate.why.startswith("it would give a bias vector to a layer without one (")


def test_an_opset_that_is_not_known_is_the_reason() -> None:
    proto = net("c = Conv(x, w, b) d = Conv(c, w2, b2) y = Relu(d)", conv(""), conv("2"), opset=5)
    assert {fate.code for fate in fates(proto).values()} == {"opset"}


def test_a_weight_that_is_computed_is_the_reason() -> None:
    consts = {"b": DRAW.normal(3)}
    body = "c = Conv(x, w, b) d = Conv(c, w, b) y = Relu(d)"
    proto = model(f"(float[2,3,11,13] x, float[3,3,1,1] w) => (float[2,3,h,v] y) {{ {body} }}", consts)
    assert fates(proto)["conv_c"].code == "not-constant"


# ---- batch norms -----------------------------------------------------------------------------------


def test_a_fold_gives_a_bias_that_then_goes_on() -> None:
    body = "c = Conv(x, w) n = BatchNormalization(c, g, be, m, v) d = Conv(n, w2, b2) y = Relu(d)"
    found = fates(net(body, conv("", bias=False), conv("2"), DRAW.bn(3)))
    assert {name: fate.kind for name, fate in found.items()} == {
        "conv_c": FateKind.ABSORBED,
        "conv_d": FateKind.KEPT,
    }


def test_a_batch_norm_that_is_left_keeps_its_shift_for_the_reason_that_it_is_left() -> None:
    found = fates(net("r = Relu(x) n = BatchNormalization(r, g, be, m, v) y = Tanh(n)", DRAW.bn(3)))
    assert [(fate.op, fate.kind, fate.code) for fate in found.values()] == [
        ("BatchNormalization", FateKind.KEPT, "no-linear-op")
    ]


def test_a_batch_norm_without_a_shift_has_no_bias() -> None:
    still = {"be": np.zeros(3, np.float32), "m": np.zeros(3, np.float32)}
    assert fates(net("r = Relu(x) n = BatchNormalization(r, g, be, m, v) y = Tanh(n)", DRAW.bn(3) | still)) == {}


# ---- parts -----------------------------------------------------------------------------------------


def fused(rows: int = 4, width: int = 6) -> onnx.ModelProto:
    """Self-attention of one head: one Gemm gives query, key and value, a projection follows."""
    body = """q3 = Gemm(x, w, b) q, k, v = Split<axis=1>(q3, parts) kt = Transpose(k) s = MatMul(q, kt)
              p = Softmax<axis=-1>(s) o = MatMul(p, v) y0 = Gemm(o, wo, bo) y = Relu(y0)"""
    consts = {"w": DRAW.normal(width, 3 * width), "b": DRAW.normal(3 * width)}
    consts |= {"wo": DRAW.normal(width, width), "bo": DRAW.normal(width), "parts": np.full(3, width, np.int64)}
    return model(f"(float[{rows},{width}] x) => (float[{rows},{width}] y) {{ {body} }}", consts)


def test_a_fused_bias_goes_in_parts() -> None:
    fate = fates(fused())["gemm_q3"]
    assert (fate.kind, fate.elements, fate.removed) == (FateKind.KEPT, 18, 12)
    assert fate.where == "softmax_p, gemm_y0"
    assert fate.why == (
        "Softmax (softmax_p) depends on its query part: its entries are shifted differently; "
        "its key part is dead; its value part went to gemm_y0"
    )
    parts = dict.fromkeys(hop.part for hop in fate.path)
    assert list(parts) == ["key part, elements 6 to 11", "value part, elements 12 to 17", "query part"]


def test_half_of_a_recurrent_bias_is_added_to_the_other() -> None:
    found = converter.inspect(zoo.HERE / "digits_lstm.onnx").fates[0]
    assert (found.op, found.kind, found.code) == ("LSTM", FateKind.KEPT, "recurrent-gates")
    assert found.removed == found.elements // 2


# ---- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_fates_add_up_to_the_counts(path: Path) -> None:
    result = converter.fold(path, verify=False)
    linear = [fate for fate in result.fates if fate.op in LINEAR]
    # what stands in the folded graph, counted without the fates
    assert sum(fate.kind is FateKind.KEPT for fate in linear) == pipeline.count(Facts(result.graph)).biases
    assert (result.before.biases, result.after.biases) == count_biases(result.fates)
    assert all(fate.removed == fate.elements for fate in result.fates if fate.kind is not FateKind.KEPT)
    assert all(fate.code and fate.why for fate in result.fates if fate.kind is FateKind.KEPT)
    assert len({fate.node for fate in result.fates}) == len(result.fates)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_fold_and_inspect_tell_the_same(path: Path) -> None:
    assert converter.fold(path, verify=False).fates == converter.inspect(path).fates


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_paths_hang_together(path: Path) -> None:
    for fate in converter.inspect(path).fates:
        known = {fate.node}
        for hop in fate.path:
            assert set(hop.sources) <= known, fate.node
            known.add(hop.node)


def test_nothing_is_traced_twice_in_one_state_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks why a bias is kept sees the trace by which a pass declined it."""
    traced: list[tuple[object, ...]] = []
    run = _Tracer.run

    def counted(self: _Tracer, value: NDArray[np.float64]) -> Trace:
        traced.append((self.facts.graph.version, self.trace.bias.tensor.name, self.options, value.tobytes()))
        return run(self, value)

    monkeypatch.setattr(_Tracer, "run", counted)
    graph = load(zoo.HERE / "digits_mobilenet.onnx")
    assert len(pipeline.run(graph, pipeline.Options()).fates) == 15
    assert len(traced) == len(set(traced)) > 15


def test_a_site_that_is_given_a_bias_again_is_kept() -> None:
    consts = conv("2", o=2, k=1) | {"b2": np.zeros(2, np.float32)}
    proto = net("c = Conv(x, w, b) d = Conv(c, w2, b2) y = Relu(d)", conv(""), consts, out="(float[2,2,h,v] y)")
    found = fates(proto)
    assert (found["conv_c"].kind, found["conv_c"].where) == (FateKind.ABSORBED, "conv_d")
    assert (found["conv_d"].kind, found["conv_d"].removed, found["conv_d"].elements) == (FateKind.KEPT, 0, 2)
