"""What stops the merge of recurrent biases, and real models with recurrent nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converter.rewrite.passes.recurrent import PASS
from tests.harness import assert_close, assert_declines, assert_folds, feeds_of, run_fold, run_ort
from tests.rewrite.passes.recurrence import GATES
from tests.rewrite.passes.rnn_nets import NAME, H, cell, halves, merge, rnn_net, shared
from tests.tiny import Draw

ROOT = Path(__file__).resolve().parents[3]

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
    """A recurrent node in a function whose bias, or whose hidden_size, each call may give."""
    held = ", ".join(f"{v:.4f}" for v in Draw().normal(10))
    inputs, bias = (
        ("x, w, r, b", "") if given_bias else ("x, w, r", f"b = Constant <value = float[1,10] {{{held}}}> ()")
    )
    size = "hidden_size: int = @n" if attribute else "hidden_size = 5"
    rest = f"""<domain: "loc", opset_import: ["" : 17]>
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
    "weight-shared": (shared, {"no_growth": True}),
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
    "weight-shared": lambda: merge(shared()),
}


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
