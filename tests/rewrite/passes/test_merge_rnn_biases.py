"""LSTM, GRU and RNN: one bias a gate instead of two, and only where the operator adds the two."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from converter.model.graph import DropInput, Node, SetConst, load
from converter.records import FateKind
from converter.referee.reference.evaluator import Reference
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.passes.recurrent import PASS
from tests.harness import assert_close, assert_declines, assert_folds, feeds_of, run_fold, run_ort
from tests.rewrite.passes import recurrence
from tests.rewrite.passes.recurrence import GATES
from tests.rewrite.passes.rnn_nets import (
    NAME,
    H,
    cell,
    directions,
    halves,
    merge,
    read_elsewhere,
    rnn_net,
    shared,
    zeros,
)
from tests.rewrite.passes.walk import PassRows
from tests.tiny import Draw

ROOT = Path(__file__).resolve().parents[3]


class TestMergeRnnBiases(PassRows):
    name = NAME
    folds = "lstm-wb-rb"
    declines = "overridable: lstm-overridable"


WAYS = ("forward", "reverse", "bidirectional")
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTM", {}),
    ("LSTM", {"peepholes": True, "states": True, "lens": [7, 4]}),
    ("LSTM", {"clip": 0.5}),
    ("LSTM", {"input_forget": 1}),
    ("RNN", {}),
    ("RNN", {"activations": ["Relu"], "states": True}),
    ("GRU", {}),
    ("GRU", {"linear_before_reset": 1}),
    ("GRU", {"linear_before_reset": 0, "clip": 0.5, "states": True}),
    ("GRU", {"linear_before_reset": 2, "lens": [4, 7]}),
)
EVERY = [(op, {**attrs, "direction": way}) for (op, attrs), way in itertools.product(KINDS, WAYS)]


def build_cell(op: str, attrs: dict[str, Any], dtype: Any = np.float32, **more: Any) -> onnx.ModelProto:
    """Return a cell; each direction has activations of its own."""
    attrs = dict(attrs)
    if "activations" in attrs:
        attrs["activations"] = attrs["activations"] * directions(attrs)
    return cell(op, dtype, **attrs, **more)


def gates_kept_apart(proto: onnx.ModelProto) -> list[int]:
    """Return the gates that keep both biases."""
    attrs = {a.name: a.i for a in proto.graph.node[0].attribute}
    return [2] if proto.graph.node[0].op_type == "GRU" and attrs.get("linear_before_reset") else []


# ---- the values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "attrs"), EVERY, ids=str)
def test_equal_in_float64(op: str, attrs: dict[str, Any]) -> None:
    before = build_cell(op, attrs, np.float64)
    after = merge(before).model
    was, now = halves(before), halves(after)
    kept = gates_kept_apart(before)
    assert not np.delete(now[:, 1], kept, axis=1).any()
    np.testing.assert_array_equal(now[:, 1, kept], was[:, 1, kept])
    np.testing.assert_array_equal(now[:, 0, kept], was[:, 0, kept])
    for feeds in feeds_of(before):
        pairs = zip(recurrence.run(before, feeds["x"]), recurrence.run(after, feeds["x"]), strict=True)
        for ref, got in pairs:
            assert_close(ref, got, 1e-13, op)


@pytest.mark.parametrize(("op", "attrs"), EVERY, ids=str)
def test_equal_on_onnxruntime(op: str, attrs: dict[str, Any]) -> None:
    before = build_cell(op, attrs)
    after = merge(before).model
    for feeds in feeds_of(before):
        exact, was, now = recurrence.run(before, feeds["x"]), run_ort(before, feeds), run_ort(after, feeds)
        for truth, ref, got in zip(exact, was, now, strict=True):
            assert_close(truth, ref.astype(np.float64), 2e-6, "the oracle itself")
            assert_close(ref, got, 2e-6, op)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("way", WAYS)
def test_batch_first(op: str, way: str) -> None:
    """``layout = 1`` turns X, Y and the states around, never B; onnxruntime has no kernel for it."""
    before = cell(op, np.float64, direction=way, layout=1, states=True, sizes=(7, 2, 3, 5))
    after = merge(before).model
    assert not halves(after)[:, 1].any()
    x = feeds_of(before)[0]["x"]
    for ref, got in zip(recurrence.run(before, x), recurrence.run(after, x), strict=True):
        assert_close(ref, got, 1e-13, op)


@pytest.mark.parametrize("linear", [0, 1])
@pytest.mark.parametrize("op", GATES)
def test_equal_in_the_reference(op: str, linear: int) -> None:
    before = cell(op, np.float64, **({"linear_before_reset": linear} if op == "GRU" else {}))
    after, x = merge(before).model, feeds_of(before)[0]
    oracle = recurrence.run(before, x["x"])
    pairs = zip(oracle, Reference(before).run(x).values(), Reference(after).run(x).values(), strict=True)
    for truth, ref, got in pairs:
        assert_close(truth, ref, 1e-12, "the oracle itself")
        assert_close(ref, got, 1e-13, op)


def test_the_reset_gate_keeps_two_biases_apart() -> None:
    """Adding all of Rb into Wb would be wrong with linear_before_reset: the reason for the exception."""
    before = cell("GRU", np.float64, linear_before_reset=1)
    value = halves(before)
    summed = np.stack([value.sum(axis=1), np.zeros_like(value[:, 0])], axis=1)
    wrong = cell("GRU", np.float64, linear_before_reset=1, bias=summed.reshape(1, -1))
    x = feeds_of(before)[0]["x"]
    assert np.abs(recurrence.run(before, x)[0] - recurrence.run(wrong, x)[0]).max() > 0.1
    assert (halves(merge(before).model)[:, :, 2] == value[:, :, 2]).all()


@given(
    op=st.sampled_from(list(GATES)),
    way=st.sampled_from(WAYS),
    sizes=st.tuples(*[st.integers(1, 6)] * 4),
    linear=st.integers(0, 1),
    seed=st.integers(0, 2**20),
    thin=st.floats(0, 1),
)
@settings(max_examples=40)
def test_any_size(op: str, way: str, sizes: Any, linear: int, seed: int, thin: float) -> None:
    attrs = {"linear_before_reset": linear} if op == "GRU" else {}
    shape = (2 if way == "bidirectional" else 1, 2 * GATES[op] * sizes[3])
    rng = np.random.default_rng(seed)
    bias = rng.standard_normal(shape) * (rng.random(shape) < thin)  # from no zeros to nothing but zeros
    before = cell(op, np.float64, seed=seed, direction=way, sizes=sizes, bias=bias, **attrs)
    result = merge(before)
    x = feeds_of(before)[0]["x"]
    for ref, got in zip(recurrence.run(before, x), recurrence.run(result.model, x), strict=True):
        assert_close(ref, got, 1e-12, op)
    if not bias.any():
        assert len(result.model.graph.node[0].input) == 3
    assert not merge(result.model).rewrites


# ---- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "linear", "left"), [("LSTM", 0, 0), ("RNN", 0, 0), ("GRU", 0, 0), ("GRU", 1, H)], ids=str
)
def test_e44(op: str, linear: int, left: int) -> None:
    """The rows of the table of edge cases: all of Rb goes, but for gate h of one kind of GRU."""
    proto = cell(op, **({"linear_before_reset": linear} if op == "GRU" else {}))
    result = assert_folds(proto, NAME, ops=op, only=[NAME])
    assert np.count_nonzero(halves(result.model)[:, 1]) == left
    assert result.rewrites[0].delta.bytes_added == 0  # said in the pass's own words: the file keeps its size
    assert result.rewrites[0].output == "y"


@pytest.mark.parametrize(("dtype", "tol"), [(np.float16, 1e-3), (ml_dtypes.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("op", GATES)
def test_small_types(op: str, dtype: Any, tol: float) -> None:
    """Wb + Rb is rounded once, to nearest; onnxruntime has no kernel for these types."""
    before = cell(op, dtype, opset=22)
    after = merge(before).model
    was, now = halves(before).astype(np.float64), halves(after)
    assert now.dtype == dtype
    np.testing.assert_array_equal(now[:, 0], was.sum(axis=1).astype(dtype))
    x = feeds_of(before)[0]["x"]
    for ref, got in zip(recurrence.run(before, x), recurrence.run(after, x), strict=True):
        assert_close(ref, got, tol, op)


@pytest.mark.parametrize("opset", [7, 14, 22])
@pytest.mark.parametrize("op", GATES)
def test_every_version(op: str, opset: int) -> None:
    assert_folds(cell(op, opset=opset, lens=[7, 7]), NAME, ops=op, only=[NAME])


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", GATES)
def test_a_bias_of_zeros_goes(op: str, way: str, sign: float) -> None:
    before = zeros(op, sign, direction=way)
    result = merge(before)
    assert list(result.model.graph.node[0].input) == ["x", "w", "r"]
    assert [t.name for t in result.model.graph.initializer] == ["w", "r"]
    feeds = feeds_of(before)[0]
    for ref, got in zip(run_ort(before, feeds), run_ort(result.model, feeds), strict=True):
        np.testing.assert_array_equal(ref, got)


def test_later_inputs_keep_their_places() -> None:
    before = zeros("LSTM", states=True, peepholes=True)
    result = assert_folds(before, NAME, ops="LSTM", only=[NAME])
    assert list(result.model.graph.node[0].input) == ["x", "w", "r", "", "", "h0", "c0", "p"]


def test_biases_that_cancel_go() -> None:
    half = np.asarray(np.random.default_rng(1).standard_normal((1, 3 * H)), np.float32)
    result = assert_folds(cell("GRU", bias=np.hstack([half, -half])), NAME, ops="GRU", only=[NAME])
    assert len(result.model.graph.node[0].input) == 3
    kept = merge(cell("GRU", bias=np.hstack([half, -half]), linear_before_reset=1)).model
    assert halves(kept)[:, :, 2].all()  # gate h has both
    assert not halves(kept)[:, :, :2].any()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", GATES)
def test_says_nothing_where_nothing_is_to_do(op: str, way: str) -> None:
    """No bias; or one whose recurrent half is zero, or zero in every gate that adds the two."""
    attrs = {"linear_before_reset": 1} if op == "GRU" else {}
    once = merge(cell(op, direction=way, **attrs))
    assert len(once.rewrites) == 1
    for quiet in (cell(op, direction=way, bias=None), once.model):
        again = merge(quiet)
        assert not again.findings
        assert again.model == quiet


def test_one_direction_is_enough() -> None:
    value = np.asarray(np.random.default_rng(2).standard_normal((2, 2, 4, H)), np.float32)
    value[0, 1] = 0
    now = halves(merge(cell("LSTM", bias=value.reshape(2, -1), direction="bidirectional")).model)
    np.testing.assert_array_equal(now[0], value[0])
    np.testing.assert_array_equal(now[1, 0], value[1].sum(axis=0))


def test_the_first_output_may_be_missing() -> None:
    proto = cell("LSTM")
    proto.graph.node[0].output[0] = ""
    del proto.graph.output[0]
    assert merge(proto).rewrites[0].output == "y_h"


def test_one_merged_bias_serves_all_that_shared_it() -> None:
    result = assert_folds(shared(), NAME, ops="RNN Squeeze RNN", only=[NAME])
    assert sum(r.delta.bytes_added for r in result.rewrites) == 0


def test_acts_where_batch_norms_are_to_stay() -> None:
    assert run_fold(cell("LSTM"), keep_bn=True).rewrites


# ---- what becomes of the bias --------------------------------------------------------------------


def match_of(proto: onnx.ModelProto) -> tuple[Facts, Any]:
    facts = Facts(load(proto))
    (node,) = [n for n in facts.graph.nodes() if n.op in PASS.ops]
    assert isinstance(node, Node)
    return facts, PASS.find(facts, node)


@pytest.mark.parametrize(
    ("proto", "kind", "gone", "edit"),
    [
        (cell("LSTM"), FateKind.MERGED, 4 * H, SetConst),
        (cell("GRU"), FateKind.MERGED, 3 * H, SetConst),
        (cell("GRU", linear_before_reset=1), FateKind.MERGED, 2 * H, SetConst),
        (cell("RNN", direction="bidirectional"), FateKind.MERGED, 2 * H, SetConst),
        (zeros("LSTM"), FateKind.ZERO, 8 * H, DropInput),
    ],
    ids=["lstm", "gru", "gru-linear", "rnn-both-ways", "zeros"],
)
def test_tells_the_fate(proto: onnx.ModelProto, kind: FateKind, gone: int, edit: type) -> None:
    facts, match = match_of(proto)
    assert PASS.bias_change is not None
    change = PASS.bias_change(match)
    assert (change.node, change.kind, change.removed) == ("cell", kind, gone)
    assert [type(e) for e in PASS.plan(facts, match)] == [edit]
    assert PASS.decline(facts, match) is None


# ---- what stops it: each model breaks one condition, and each has a twin that is merged ------------


def run_time_bias() -> onnx.ModelProto:
    return rnn_net("y = RNN <hidden_size = 5> (x, w, r, b)", head="float[7,2,3] x, float[1,10] b")


def overridable() -> onnx.ModelProto:
    proto = cell("LSTM")
    proto.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 8 * H]))
    return proto


def quantized() -> onnx.ModelProto:
    q = np.arange(1, 11, dtype=np.int8).reshape(1, 10)
    text = "d = DequantizeLinear (b, s) y = RNN <hidden_size = 5> (x, w, r, d)"
    return rnn_net(text, b=q, s=np.array(0.1, np.float32))


def in_function(given_bias: bool = False, attribute: bool = False) -> onnx.ModelProto:
    """A recurrent node in a function whose bias, or whose hidden_size, each call may give.

    Of another operator set than the model's, so that it is not written out.
    """
    held = ", ".join(f"{v:.4f}" for v in Draw().normal(10))
    inputs, bias = (
        ("x, w, r, b", "") if given_bias else ("x, w, r", f"b = Constant <value = float[1,10] {{{held}}}> ()")
    )
    size = "hidden_size: int = @n" if attribute else "hidden_size = 5"
    rest = f"""<domain: "loc", opset_import: ["" : 16]>
    f <n> ({inputs}) => (y) {{ {bias} y = RNN <{size}> (x, w, r, b) }}"""
    return rnn_net(f"y = loc.f <n = 5> ({inputs})", rest=rest)


def odd_shape() -> onnx.ModelProto:
    return cell("GRU", bias=np.ones((1, 8 * H), np.float32))


def with_bias(value: Any, dtype: Any = np.float32) -> onnx.ModelProto:
    bias = np.ones((1, 8 * H), dtype)
    bias[0, [7, 7 + 4 * H]] = value
    return cell("LSTM", np.float32 if dtype == np.int32 else dtype, bias=bias)


DECLINES: dict[str, tuple[Any, dict[str, Any]]] = {
    "function-attribute": (lambda: in_function(attribute=True), {}),
    "overridable": (overridable, {}),
    "function-input": (lambda: in_function(given_bias=True), {}),
    "not-constant": (run_time_bias, {}),
    "weight-quantized": (quantized, {}),
    "bias-shape": (odd_shape, {}),
    "not-float": (lambda: with_bias(2, np.int32), {}),
    "not-finite": (lambda: with_bias(np.nan), {}),
    "overflow": (lambda: with_bias(6e4, np.float16), {}),
    "weight-shared": (read_elsewhere, {"no_growth": True}),
}
TWINS: dict[str, Any] = {
    "function-attribute": lambda: merge(in_function()),
    "overridable": lambda: merge(overridable(), freeze_overridable=True),
    "function-input": lambda: merge(in_function()),
    "not-constant": lambda: merge(rnn_net("y = RNN <hidden_size = 5> (x, w, r, b)")),
    "weight-quantized": lambda: merge(rnn_net("d = Identity (b) y = RNN <hidden_size = 5> (x, w, r, d)")),
    "bias-shape": lambda: merge(cell("GRU")),
    "not-float": lambda: merge(with_bias(2)),
    "not-finite": lambda: merge(with_bias(2)),
    "overflow": lambda: merge(with_bias(3e4, np.float16)),
    "weight-shared": lambda: merge(read_elsewhere()),
}


@pytest.mark.parametrize(("slot", "name"), [(1, "W"), (2, "R")])
def test_weights_of_another_rank_are_left_alone(slot: int, name: str) -> None:
    """No runtime takes them; nothing about their bias can be recomputed."""
    model = cell("LSTM", np.float32)
    held = {t.name: t for t in model.graph.initializer}
    weight = held[model.graph.node[0].input[slot]]
    weight.dims[:] = weight.dims[1:]
    assert_declines(model, NAME, "bias-shape", says=f"{name} has shape")


def test_every_guard_has_a_test() -> None:
    assert {g.code for g in PASS.guards} == set(DECLINES) == set(TWINS)


@pytest.mark.parametrize("code", DECLINES)
def test_declines(code: str) -> None:
    build, options = DECLINES[code]
    assert_declines(build(), NAME, code, **options)


@pytest.mark.parametrize("code", TWINS)
def test_twin_is_merged(code: str) -> None:
    assert TWINS[code]().rewrites


def test_a_quantized_bias_of_zeros_goes() -> None:
    text = "d = DequantizeLinear (b, s) y = RNN <hidden_size = 5> (x, w, r, d)"
    proto = rnn_net(text, b=np.zeros((1, 10), np.int8), s=np.array(0.1, np.float32))
    assert_folds(proto, NAME, ops="RNN", only=[NAME])


def test_a_chain_of_constants_is_a_bias() -> None:
    """torch without constant folding: B = Unsqueeze(Concat(b_ih, b_hh))."""
    draw = Draw()
    text = "c = Concat <axis = 0> (p, q) d = Unsqueeze (c, a) y = RNN <hidden_size = 5> (x, w, r, d)"
    proto = rnn_net(text, p=draw.normal(5), q=draw.normal(5), a=np.array([0]))
    assert_folds(proto, NAME, ops="RNN", only=[NAME])


# ---- models of the world -------------------------------------------------------------------------


def n_recurrent(proto: onnx.ModelProto) -> int:
    return sum(n.op_type in GATES for n in proto.graph.node)


def test_digits_lstm() -> None:
    proto = onnx.load(ROOT / "models" / "digits_lstm.onnx")
    result = run_fold(proto, only=[NAME], verify=True)
    assert result.parity.verdict == "PASS"
    assert len(result.rewrites) == n_recurrent(proto) == 1
    assert not halves(result.model)[:, 1].any()


def test_dtln(corpus: Path) -> None:
    """Keras has one bias: nothing is left to merge, and nothing is said."""
    proto = onnx.load(corpus / "dtln_model_1.onnx")
    result = run_fold(proto, only=[NAME])
    assert n_recurrent(proto) == 2
    assert not result.findings


def test_gtcrn(corpus: Path) -> None:
    """torch's GRUs, of one and of both directions, have linear_before_reset: gate h keeps its two biases."""
    proto = onnx.load(corpus / "gtcrn_simple.onnx")
    result = run_fold(proto, only=[NAME], verify=True, max_time=5)
    assert result.parity.verdict == "PASS"
    assert len(result.rewrites) == n_recurrent(proto) == 14
    for feeds in feeds_of(proto, 0.1):
        for ref, got in zip(run_ort(proto, feeds), run_ort(result.model, feeds), strict=True):
            assert_close(ref, got, 1e-5, "gtcrn")
