"""What is said of forget gates and update gates is what a run of the operator shows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converter.model.graph import load
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.recurrent import Gate, find_gates
from tests.harness import run_ort
from tests.rewrite.passes import recurrence
from tests.rewrite.passes.rnn_nets import STEPS, H, cell, merge
from tests.tiny import model, sub

ROOT = Path(__file__).resolve().parents[3]
FORGET, UPDATE, INPUT = 2, 0, 0  # where ONNX keeps them: i o f c, and z r h


def seen(proto: onnx.ModelProto) -> tuple[Gate, ...]:
    return find_gates(Facts(load(proto)))


def biased(op: str, *rest: tuple[int, float], dtype: Any = np.float32, **attrs: Any) -> onnx.ModelProto:
    """Return a cell whose gates have these biases, half in Wb and half in Rb, one pair (gate, bias) a direction."""
    n = recurrence.GATES[op]
    bias = np.zeros((len(rest), 2, n, H))
    for k, (gate, value) in enumerate(rest):
        bias[k, :, gate] = value / 2
    return cell(op, dtype, bias=bias.reshape(len(rest), -1).astype(dtype), **attrs)


def remembered(proto: onnx.ModelProto) -> np.ndarray:
    """Return the share of the first state that is left after STEPS steps of nothing, by direction."""
    (node,) = proto.graph.node
    d = len(seen(proto))
    state = "c0" if node.op_type == "LSTM" else "h0"
    still = {k.name: np.zeros(tuple(k.dims), np.float32) for k in proto.graph.initializer if k.name in ("w", "r", "h0")}
    proto = sub(proto, **{**still, state: np.ones((d, 2, H), np.float32)})
    last = run_ort(proto, {"x": np.zeros((STEPS, 2, 3), np.float32)})[-1]
    assert np.ptp(last.reshape(d, -1), axis=1).max() == 0
    return last[:, 0, 0]


@pytest.mark.parametrize("bias", [-2.0, 0.0, 1.0, 3.5])
@pytest.mark.parametrize(
    ("op", "at", "attrs"),
    [
        ("LSTM", FORGET, {}),
        ("LSTM", INPUT, {"input_forget": 1}),
        ("GRU", UPDATE, {}),
        ("GRU", UPDATE, {"linear_before_reset": 1}),
    ],
    ids=["lstm", "coupled", "gru", "gru-linear"],
)
def test_keeps_what_it_says(op: str, at: int, attrs: dict[str, Any], bias: float) -> None:
    """With no input, a state decays by ``kept`` a step."""
    sign = -1 if attrs.get("input_forget") else 1
    proto = biased(op, (at, sign * bias), states=True, **attrs)
    (gate,) = seen(proto)
    assert gate.mean == pytest.approx(bias)
    assert gate.std == pytest.approx(0)
    assert gate.kept == pytest.approx(1 / (1 + math.exp(-bias)))
    assert gate.memory_steps == pytest.approx(1 + math.exp(bias))
    assert gate.memory_steps == pytest.approx(1 / (1 - gate.kept))
    assert remembered(proto)[0] == pytest.approx(gate.kept**STEPS, rel=1e-5)


@pytest.mark.parametrize(("op", "at", "name"), [("LSTM", FORGET, "forget"), ("GRU", UPDATE, "update")])
def test_each_direction_on_its_own(op: str, at: int, name: str) -> None:
    proto = biased(op, (at, 2.0), (at, -1.0), direction="bidirectional", states=True)
    found = seen(proto)
    assert [(g.node, g.op, g.gate, g.direction, g.units) for g in found] == [
        ("cell", op, name, "forward", H),
        ("cell", op, name, "reverse", H),
    ]
    assert [g.mean for g in found] == pytest.approx([2.0, -1.0])
    assert remembered(proto) == pytest.approx([g.kept**STEPS for g in found if g.kept], rel=1e-5)


def test_mean_and_deviation_are_over_units() -> None:
    bias = np.zeros((1, 2, 4, H))
    bias[0, :, FORGET] = [[1, 2, 3, 4, 5], [0.5, 0, 0, 0, -0.5]]
    (gate,) = seen(cell("LSTM", bias=bias.reshape(1, -1)))
    assert gate.mean == pytest.approx(3.0)
    assert gate.std == pytest.approx(np.std([1.5, 2, 3, 4, 4.5]))


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_without_a_bias_a_gate_rests_half_open(op: str) -> None:
    (gate,) = seen(cell(op, bias=None))
    assert (gate.mean, gate.std, gate.kept, gate.memory_steps) == (0.0, 0.0, 0.5, 2.0)
    assert "has no bias" in gate.note


@pytest.mark.parametrize(
    ("bias", "spread", "said"),
    [(0, 0, True), (0.2, 0.3, True), (-0.2, 0.3, True), (1, 0, False), (-1, 0, False), (0, 1, False)],
)
def test_a_bias_near_zero_is_said(bias: float, spread: float, said: bool) -> None:
    value = np.zeros((1, 2, 4, H))
    value[0, 0, FORGET] = bias + spread * np.array([-1, -1, 0, 1, 1])
    (gate,) = seen(cell("LSTM", bias=value.reshape(1, -1)))
    assert bool(gate.note) == said
    if said:
        assert gate.note == (
            "The forget gate has a bias near 0, so it rests half open: "
            "unless its inputs open it, what it remembers fades within about 2 steps."
        )


def test_plain_rnns_have_no_gate() -> None:
    assert seen(cell("RNN")) == ()


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_the_merge_changes_nothing_here(op: str) -> None:
    proto = cell(op, np.float64, direction="bidirectional")
    assert seen(merge(proto).model) == seen(proto)


def test_a_huge_bias_is_a_number() -> None:
    (gate,) = seen(biased("LSTM", (FORGET, 1e5)))
    assert gate.kept == 1
    assert gate.memory_steps is not None
    assert math.isfinite(gate.memory_steps)
    (gate,) = seen(biased("LSTM", (FORGET, -1e5)))
    assert gate.kept == pytest.approx(0)
    assert gate.memory_steps == 1


# ---- what is not known is said -------------------------------------------------------------------


def run_time_bias() -> onnx.ModelProto:
    proto = cell("LSTM")
    proto.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 8 * H]))
    kept = [t for t in proto.graph.initializer if t.name != "b"]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return proto


def in_function() -> onnx.ModelProto:
    rest = """<domain: "loc", opset_import: ["" : 17]>
    f <n> (x, w, r) => (y) { y = GRU <hidden_size: int = @n> (x, w, r) }"""
    return model("(float[7,2,3] x, float[1,15,3] w, float[1,15,5] r) => (y) { y = loc.f <n = 5> (x, w, r) }", rest=rest)


@pytest.mark.parametrize(
    ("proto", "note"),
    [
        (run_time_bias(), "Its bias is not known: 'b' is known at run time only."),
        (in_function(), "Its attributes hidden_size come from each call of its function."),
        (cell("GRU", bias=np.ones((1, 8 * H), np.float32)), "Its bias is not known: B has shape [1, 40], not"),
        (cell("LSTM", bias=np.full((1, 8 * H), np.nan, np.float32)), "Its bias is not finite."),
        (biased("LSTM", (FORGET, 1.0), direction="sideways"), "Its bias is not known: its direction is 'sideways'."),
    ],
    ids=["run-time", "function-attribute", "shape", "nan", "direction"],
)
def test_says_why_there_is_no_number(proto: onnx.ModelProto, note: str) -> None:
    (gate,) = seen(proto)
    assert gate.note.startswith(note)
    assert (gate.mean, gate.std, gate.kept, gate.memory_steps) == (None,) * 4


def test_only_a_sigmoid_has_this_memory() -> None:
    """Activations stand direction by direction; the first of each is the gates'."""
    names = ["sigmoid", "Tanh", "Tanh", "HardSigmoid", "Tanh", "Tanh"]
    proto = biased("LSTM", (FORGET, 1.0), (FORGET, 1.0), direction="bidirectional", activations=names)
    forward, reverse = seen(proto)
    assert forward.kept == pytest.approx(1 / (1 + math.exp(-1)))
    assert (reverse.mean, reverse.kept, reverse.memory_steps) == (pytest.approx(1.0), None, None)
    assert reverse.note == "Its gates are HardSigmoid, not Sigmoid, so its bias alone does not tell its memory."


# ---- real models ---------------------------------------------------------------------------------


def test_digits_lstm_started_at_zero() -> None:
    """torch draws both biases around 0; training moved them little."""
    (gate,) = seen(onnx.load(ROOT / "models" / "digits_lstm.onnx"))
    assert gate.units == 48
    assert gate.memory_steps == pytest.approx(2.07, abs=0.01)
    assert "near 0" in gate.note


def test_keras_starts_at_one(corpus: Path) -> None:
    """``unit_forget_bias``: the two LSTMs of DTLN rest near a bias of 1, at 3.6 to 3.9 steps."""
    found = seen(onnx.load(corpus / "dtln_model_1.onnx"))
    assert [g.mean for g in found] == pytest.approx([1.057, 0.952], abs=1e-3)
    assert [g.memory_steps for g in found] == pytest.approx([3.88, 3.59], abs=0.01)
    assert not any(g.note for g in found)


def test_every_gru_of_gtcrn_has_its_lines(corpus: Path) -> None:
    found = seen(onnx.load(corpus / "gtcrn_simple.onnx"))
    assert len(found) == 18  # 14 nodes, 4 of them in both directions
    assert all(g.gate == "update" and g.kept for g in found)
