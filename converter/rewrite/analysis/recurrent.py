"""LSTM, GRU and RNN: their bias as numbers, and how long a gate remembers on its bias alone.

Letters: D directions, G gates, H hidden units. A bias B [D, 2 * G * H] holds, for each direction, the
input biases Wb of all gates and then the recurrence biases Rb of all gates.
Source: ONNX operators LSTM, GRU and RNN; Jozefowicz, Zaremba and Sutskever 2015, section 2.2 (the forget
bias); Tallec and Ollivier 2018, section 2 (a gate's time constant).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass
from converter.model.graph import Node, Tensor
from converter.records import Gate
from converter.rewrite.analysis.facts import Facts

Array = NDArray[np.float64]

RECURRENT = LSTM, GRU, RNN = "LSTM", "GRU", "RNN"
QUANTIZED = "DynamicQuantizeLSTM"  # onnxruntime's own: its bias is that of an LSTM
BIAS = 3  # input slot of B

_GATES = {LSTM: "iofc", GRU: "zrh", RNN: "i"}  # in the order in which W, R and B hold them
_DIRECTIONS = {"forward": ("forward",), "reverse": ("reverse",), "bidirectional": ("forward", "reverse")}
_FUNCTIONS = {LSTM: 3, GRU: 2}  # activation functions for each direction; the first is the gates'
_NEAR_ZERO, _CLOSE = 0.25, 0.5  # mean and deviation: about 2 steps (1.8 to 2.3), and for most units alike
_LARGEST = 700.0  # e to this is still finite


@dataclass(frozen=True, slots=True)
class Recurrent:
    """An LSTM, GRU or RNN."""

    node: Node

    @property
    def op(self) -> str:
        """LSTM, GRU or RNN."""
        return LSTM if self.node.op == QUANTIZED else str(self.node.op)

    @property
    def gates(self) -> str:
        """Letters of the gates, in the order of B."""
        return _GATES[self.op]

    @property
    def directions(self) -> tuple[str, ...]:
        """One or both of ``forward`` and ``reverse``; empty where the attribute says neither."""
        return _DIRECTIONS.get(str(self.node.attr("direction", "forward")), ())

    @property
    def bias(self) -> Tensor | None:
        """B; None where there is none."""
        return self.node.tensor_in(BIAS)

    @property
    def is_summed(self) -> NDArray[np.bool_]:
        """Which gates add Wb and Rb with nothing between them, shape [G, 1].

        A GRU that applies its reset gate after the product adds r * (h R + Rb) to Wb in gate h.
        """
        apart = "h" if self.op == GRU and self.node.attr("linear_before_reset", 0) else ""
        return np.array([[g not in apart] for g in self.gates])


def recurrent_at(node: Node) -> Recurrent | None:
    """The recurrent operator that `node` is; None if it is none."""
    return Recurrent(node) if is_recurrent(node) else None


def is_recurrent(node: Node) -> bool:
    """Whether the node is an LSTM, GRU or RNN, quantized or not."""
    return node.is_op(*RECURRENT) or node.is_microsoft(QUANTIZED)


def shape_problem(cell: Recurrent, shape: tuple[int, ...]) -> str | None:
    """Why B cannot have this shape; None if it can."""
    n_directions, per_unit = len(cell.directions), 2 * len(cell.gates)
    if not n_directions:
        return f"its direction is {cell.node.attr('direction')!r}"
    hidden = cell.node.attr("hidden_size", shape[1] // per_unit if len(shape) == 2 else 0)
    if hidden > 0 and shape == (n_directions, per_unit * hidden):
        return None
    return f"B has shape {list(shape)}, not [{n_directions}, {2 * len(cell.gates)} * hidden_size]"


def weight_problem(facts: Facts, cell: Recurrent) -> str | None:
    """Why W or R cannot have the shape that it is known to have: both are [D, G * H, ...]; None if they can."""
    for slot, name in ((1, "W"), (2, "R")):
        weight = cell.node.tensor_in(slot)
        shape = None if weight is None else facts.shape(weight)
        fits = shape is None or (
            len(shape) == 3 and (shape[0] == len(cell.directions) or not isinstance(shape[0], int))
        )
        if shape is not None and not fits:
            last = "input_size" if name == "W" else "hidden_size"
            return (
                f"{name} has shape {list(shape)}, not [{len(cell.directions)}, {len(cell.gates)} * hidden_size, {last}]"
            )
    return None


def bias_value(facts: Facts, cell: Recurrent) -> Array | None:
    """B in float64, shape [D, 2, G, H]; None where it is not constant or has another shape."""
    weight = None if cell.bias is None else facts.constants.weight(cell.bias)
    if weight is None or cell.node.function_attrs or shape_problem(cell, weight.shape):
        return None
    return weight.float64().reshape(weight.shape[0], 2, len(cell.gates), -1)


def merge_biases(cell: Recurrent, value: Array) -> Array:
    """B with Rb added into Wb where that changes nothing, shape [D, 2, G, H] as `value`."""
    with np.errstate(over="ignore", invalid="ignore"):  # guards look at the result
        total = value.sum(axis=1)
    new = value.copy()
    new[:, 0] = np.where(cell.is_summed, total, value[:, 0])
    new[:, 1] = np.where(cell.is_summed, 0.0, value[:, 1])
    return new


# -- how long a gate remembers ---------------------------------------------------------------


def find_gates(facts: Facts) -> tuple[Gate, ...]:
    """The forget gate of every LSTM and the update gate of every GRU, one for each direction."""
    cells = [recurrent_at(n) for n in facts.graph.nodes() if is_recurrent(n) and n.op != RNN]
    return tuple(g for cell in cells if cell is not None for g in _gates_of(facts, cell))


def _gates_of(facts: Facts, cell: Recurrent) -> list[Gate]:
    """One Gate for each direction."""
    name = "forget" if cell.op == LSTM else "update"
    directions = cell.directions or (str(cell.node.attr("direction")),)
    blank = [Gate(cell.node.label, cell.op, name, d, _units(facts, cell)) for d in directions]
    why_not = _why_unknown(facts, cell)
    if why_not:
        return [replace(g, note=why_not) for g in blank]
    value = None if cell.bias is None else bias_value(facts, cell)
    if value is None:
        return [_describe_gate(cell, g, k, 0.0, 0.0) for k, g in enumerate(blank)]
    with np.errstate(over="ignore", invalid="ignore"):
        bias = _gate_opening(cell, value.sum(axis=1))
        means, stds = bias.mean(axis=1), bias.std(axis=1)
    return [_describe_gate(cell, g, k, float(means[k]), float(stds[k])) for k, g in enumerate(blank)]


def _units(facts: Facts, cell: Recurrent) -> int | None:
    recurrence = cell.node.tensor_in(2)  # R [D, G * H, H]
    shape = None if recurrence is None else facts.shape(recurrence)
    found = cell.node.attr("hidden_size", shape[-1] if shape else None)
    return found if isinstance(found, int) else None


def _why_unknown(facts: Facts, cell: Recurrent) -> str:
    """Why the bias is not known, as a sentence; empty if it is."""
    if cell.node.function_attrs:
        return f"Its attributes {', '.join(cell.node.function_attrs)} come from each call of its function."
    if cell.bias is None:
        return ""
    problem = facts.constants.problem(cell.bias)
    if problem is not None and problem[0] != "weight-quantized":
        return f"Its bias is not known: {problem[1]}."
    weight = facts.constants.weight(cell.bias)
    wrong = "B cannot be computed ahead" if weight is None else shape_problem(cell, weight.shape)
    return f"Its bias is not known: {wrong}." if wrong else ""


def _gate_opening(cell: Recurrent, total: Array) -> Array:
    """What opens the gate, shape [D, H], of Wb + Rb, shape [D, G, H]."""
    if cell.op == LSTM and cell.node.attr("input_forget", 0):
        return np.asarray(-total[:, cell.gates.index("i")])  # coupled: f = 1 - sigma(i) = sigma(-i)
    return np.asarray(total[:, cell.gates.index("f" if cell.op == LSTM else "z")])


def _describe_gate(cell: Recurrent, gate: Gate, k: int, mean: float, std: float) -> Gate:
    """The gate of direction number `k` at a bias of this mean and deviation."""
    if not (math.isfinite(mean) and math.isfinite(std)):
        return replace(gate, note="Its bias is not finite.")
    function = _function(cell, k)
    if function.lower() != "sigmoid":
        note = f"Its gates are {function}, not Sigmoid, so its bias alone does not tell its memory."
        return replace(gate, mean=mean, std=std, note=note)
    memory = 1.0 + math.exp(min(mean, _LARGEST))
    note = _half_open_note(cell, gate) if abs(mean) < _NEAR_ZERO and std < _CLOSE else ""
    return replace(gate, mean=mean, std=std, kept=_sigmoid(mean), memory_steps=memory, note=note)


def _half_open_note(cell: Recurrent, gate: Gate) -> str:
    bias = "has no bias" if cell.bias is None else "has a bias near 0"
    return (
        f"The {gate.gate} gate {bias}, so it rests half open: "
        "unless its inputs open it, what it remembers fades within about 2 steps."
    )


def _function(cell: Recurrent, k: int) -> str:
    """Name of the gates' activation function in direction number `k`."""
    names, at = cell.node.attr("activations", ()), k * _FUNCTIONS[cell.op]
    if at >= len(names):
        return "Sigmoid"
    name = names[at]
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(x, -_LARGEST)))
