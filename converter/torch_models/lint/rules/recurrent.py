"""Recurrent layers: two biases that are only ever added, and how long an LSTM remembers at first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from converter.dataclass import dataclass
from converter.torch_models.lint.shift import bind_arguments, op_name, shape_of
from converter.torch_models.lint.trace import TracedModule

# What of b_hh may be added to b_ih. A GRU's candidate multiplies W_hn h + b_hn by the reset gate before
# it adds the input's part, so its third of b_hh stays (Cho et al. 2014, as cuDNN and torch compute it).
_GATES = {"lstm": (4, 4), "gru": (2, 3), "rnn_tanh": (1, 1), "rnn_relu": (1, 1)}
_NEAR_ZERO = 0.5  # of a forget bias: torch's own initialisation is within 2/sqrt(hidden) of 0, one that means it is 1
_SHORT = 4  # steps for which a memory of two is enough


@dataclass(frozen=True, slots=True)
class Cell:
    """One direction of one layer of a recurrent module."""

    op: str  # lstm | gru | rnn_tanh | rnn_relu
    input_bias: str  # qualified names
    hidden_bias: str
    hidden: int
    steps: int | None  # length of the sequence in the example; None for a single cell

    @property
    def mergeable(self) -> int:
        """How many elements of the hidden bias the other can take over, from the first on."""
        merged, _ = _GATES[self.op]
        return merged * self.hidden


# Jozefowicz, Zaremba & Sutskever 2015, "a large value such as 1 or 2"; `biasopt study` finds 2 right up to a lag of 80.
ADVISED = 2.0


@dataclass(frozen=True, slots=True)
class Forget:
    """The forget gate of an LSTM as it starts."""

    bias: float  # mean of b_ih + b_hh over the gate's elements
    memory: float  # steps: 1 / (1 - sigmoid(b)) = 1 + e^b
    advised: float | None  # to start from, where the example is longer than the memory


def find_cells(traced: TracedModule) -> Iterator[Cell]:
    """The recurrent cells that a traced module runs, each once."""
    seen: set[str] = set()
    for node in traced.graph.nodes:
        op = op_name(node) if node.op == "call_function" else ""
        kind = op.removesuffix("_cell")
        if kind not in _GATES:
            continue
        for cell in _read_cell(traced, node, kind) if op.endswith("_cell") else _read_layers(traced, node, kind):
            if cell.hidden_bias not in seen:
                seen.add(cell.hidden_bias)
                yield cell


def _read_layers(traced: TracedModule, node: Any, kind: str) -> Iterator[Cell]:
    args = bind_arguments(node)
    if not args.get("has_biases") or "input" not in args or "batch_first" not in args:
        return  # packed sequences have no lengths here
    names = [traced.names.get(value, "") for value in args["params"]]
    each = 4 if len(shape_of(args["params"][1])) == 2 and _is_bias(args["params"][2:4]) else 0
    if not each or len(names) % _parameter_stride(args):
        return
    stride, shape = _parameter_stride(args), shape_of(args["input"])
    steps = shape[1 if args["batch_first"] and len(shape) == 3 else 0]
    for start in range(0, len(names), stride):
        _, _, b_ih, b_hh = names[start : start + 4]
        if b_ih and b_hh:
            yield Cell(kind, b_ih, b_hh, shape_of(args["params"][start + 3])[0] // _GATES[kind][1], steps)


def _parameter_stride(args: dict[str, Any]) -> int:
    """Parameters of one direction: five with a projection, else four."""
    rest = args["params"]
    return 5 if len(rest) > 4 and len(rest) % 5 == 0 and len(shape_of(rest[4])) == 2 and _is_projection(rest) else 4


def _is_projection(params: list[Any]) -> bool:
    return shape_of(params[4])[1] * 4 == shape_of(params[0])[0] and shape_of(params[4])[0] == shape_of(params[1])[1]


def _is_bias(pair: list[Any]) -> bool:
    return all(len(shape_of(value)) == 1 for value in pair)


def _read_cell(traced: TracedModule, node: Any, kind: str) -> Iterator[Cell]:
    args = bind_arguments(node)
    if args.get("b_ih") is None or args.get("b_hh") is None:
        return
    b_ih, b_hh = (traced.names.get(args[name], "") for name in ("b_ih", "b_hh"))
    if b_ih and b_hh:
        yield Cell(kind, b_ih, b_hh, shape_of(args["b_hh"])[0] // _GATES[kind][1], None)


def measure_forget_gate(cell: Cell, parameters: dict[str, Any]) -> Forget | None:
    """The forget gate of an LSTM, if it starts near one half and the sequence is longer than that remembers."""
    if cell.op != "lstm" or (cell.steps is not None and cell.steps < _SHORT):
        return None
    gate = slice(cell.hidden, 2 * cell.hidden)  # torch's order is i, f, g, o
    total = parameters[cell.input_bias].detach().double()[gate] + parameters[cell.hidden_bias].detach().double()[gate]
    mean = float(total.mean())
    if abs(mean) >= _NEAR_ZERO:
        return None
    return Forget(mean, 1 + math.exp(mean), ADVISED if cell.steps else None)
