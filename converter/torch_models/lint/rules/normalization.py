"""Rules of norms and attention, where a change ends; and of recurrent layers: two biases, and an LSTM's memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from converter.dataclass import dataclass
from converter.torch_models.lint.shift import Call, Effect, Shift, add_effects, bind_arguments, op_name, shape_of
from converter.torch_models.lint.trace import TracedModule

Rule = Callable[[Call], Any]


def _offset(call: Call, axes: tuple[int, ...]) -> Effect:
    """The change of the norm's own offset (its beta)."""
    change = call.change("bias")
    if not isinstance(change, Shift):
        return change  # type: ignore[no-any-return]
    return change.move_axes(lambda axis: axes[axis])


def _end_at_norm(call: Call, over: set[int], kind: str, own: tuple[int, ...]) -> Effect:
    """A norm that subtracts the mean over the axes `over`."""
    change = call.change("input")
    if call.change("weight") is not None:
        return call.block("scales")
    if isinstance(change, Shift) and (change.touches(over) or change.masked):
        return call.block("the norm's mean is not what is added to each element")
    if change is not None and not isinstance(change, Shift):
        return call.block()
    if change is not None:
        call.cancel(kind, (call.node,))
    return _offset(call, own)


def _batch_norm(call: Call) -> Effect:
    rank = call.rank
    training = call.args.get("training", call.args.get("use_input_stats"))
    if training:
        return _end_at_norm(call, {0, *range(2, rank)}, "batch-norm", (1,))
    return _fixed_norm(call)


def _instance_norm(call: Call) -> Effect:
    if call.args["use_input_stats"]:
        return _end_at_norm(call, set(range(2, call.rank)), "instance-norm", (1,))
    return _fixed_norm(call)


def _fixed_norm(call: Call) -> Effect:
    """Statistics that are stored: scale and offset by channel, nothing that a change could hide from."""
    change = call.change("input")
    if call.change("weight") is not None or any(call.change(n) is not None for n in ("running_mean", "running_var")):
        return call.block("scales")
    if isinstance(change, Shift) and not change.masked:
        others = {0, *range(2, call.rank)}
        if call.absorb_frozen and call.args.get("bias") is not None and not change.touches(others):
            call.cancel("frozen-norm", (call.node,))
            change = None
        else:
            change = change.with_new_values(change.varies | {1})
    return add_effects(change, _offset(call, (1,)))


def _group_norm(call: Call) -> Effect:
    channels = call.out_shape[1]
    spatial = set(range(2, call.rank))
    each = call.args["num_groups"] == channels
    return _end_at_norm(call, spatial if each else {1, *spatial}, "group-norm", (1,))


def _layer_norm(call: Call) -> Effect:
    n = len(call.args["normalized_shape"])
    axes = tuple(range(call.rank - n, call.rank))
    return _end_at_norm(call, set(axes), "layer-norm", axes)


def _attention(call: Call) -> Effect:
    """Scores are shifted alike for every key if the keys are; then the softmax does not see it."""
    rank = call.rank
    keys = rank - 2
    q, k, v = (call.change(name) for name in ("query", "key", "value"))
    if call.others_changed("query", "key", "value") or q is not None:
        return call.block("the query depends on it")
    if k is not None:
        if not isinstance(k, Shift) or k.touches([keys]) or k.masked:
            return call.block("it differs from key to key")
        call.cancel("attention", (call.node,))
    if v is None:
        return None
    whole = call.args.get("attn_mask") is None and not call.args.get("dropout_p")
    if not isinstance(v, Shift) or v.touches([keys]) or not whole or call.args.get("enable_gqa"):
        return call.block("rows of weights need not sum to 1 over it")
    return v.with_new_values(v.varies)


RULES: dict[str, Rule] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "scaled_dot_product_attention": _attention,
}


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
