"""Single bugs of graded size, one in one place of a net: some show in every output, some on no usual input at all.

Each function takes a model that is its own to change and gives the wrong one, or None where the net has no such
place. Every result computes something else than the original for some input.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from tests.benchmarks.verdict_same import Array, Change, Held, get, put

# -- numbers -----------------------------------------------------------------------------------------


def edit(name: str, change: Callable[[Array], Array]) -> Change:
    """Another value for one constant."""

    def make(model: ModelProto) -> ModelProto | None:
        held = Held(model)
        if name not in held:
            return None
        before = held[name]
        after = np.asarray(change(before.copy())).astype(before.dtype)
        held[name] = after
        return None if np.array_equal(before, after) else model

    return make


def _weights(model: ModelProto, *, bias: bool = False) -> list[str]:
    held, found = Held(model), []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul", "ConvTranspose", "LSTM", "GRU"):
            names = [n for n in node.input[1:] if n in held]
            found += names[1:] if bias else names[:1]
        elif bias and node.op_type == "Add":
            found += [n for n in node.input if n in held and held[n].ndim]
    return [n for n in found if held[n].dtype.kind == "f"]


def spoil(change: Callable[[Array, np.random.Generator], None], *, bias: bool = False) -> Change:
    """One weight (or bias) of the net spoilt in place; which one follows from the net."""

    def make(model: ModelProto) -> ModelProto | None:
        names = _weights(model, bias=bias)
        if not names:
            return None
        held, rng = Held(model), np.random.default_rng(len(names))
        name = names[len(names) // 2]
        value = held[name].copy()
        change(value, rng)
        if np.array_equal(value, held[name]):
            return None
        held[name] = value
        return model

    return make


def _channel(factor: float) -> Callable[[Array, np.random.Generator], None]:
    """One channel by a factor, which must be more than a few roundings of its type."""

    def change(value: Array, rng: np.random.Generator) -> None:
        if abs(factor - 1) < 8 * np.finfo(value.dtype).eps:
            return
        flat = value.reshape(-1, value.shape[-1]) if value.ndim == 2 else value
        at = int(rng.integers(flat.shape[-1 if value.ndim == 2 else 0]))
        if value.ndim == 2:
            value[:, at] = (value[:, at].astype(np.float64) * factor).astype(value.dtype)
        else:
            value[at] = (value[at].astype(np.float64) * factor).astype(value.dtype)

    return change


def _element(make: Callable[[Any], Any]) -> Callable[[Array, np.random.Generator], None]:
    def change(value: Array, rng: np.random.Generator) -> None:
        flat = value.reshape(-1)
        at = int(rng.integers(flat.size))
        flat[at] = make(flat[at])

    return change


def _swap(value: Array, rng: np.random.Generator) -> None:
    if value.ndim >= 2 and value.shape[0] > 1:
        value[[0, 1]] = value[[1, 0]]
    elif value.ndim == 1:
        value[:2] = value[1::-1]


def _to_half(value: Array, rng: np.random.Generator) -> None:
    value[...] = value.astype(np.float16)


# -- operators ---------------------------------------------------------------------------------------


def attribute(op: str, name: str, value: Any, *, last: bool = False) -> Change:
    """Another value for an attribute of the first, or last, operator of a type."""

    def make(model: ModelProto) -> ModelProto | None:
        found = [n for n in model.graph.node if n.op_type == op]
        if not found or get(found[-1 if last else 0], name) == value:
            return None
        node = found[-1 if last else 0]
        kept = [copy.deepcopy(a) for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])
        return model

    return make


def drop(op: str, *, last: bool = False, slot: int = 0) -> Change:
    """An operator left out: what it read goes on."""

    def make(model: ModelProto) -> ModelProto | None:
        found = [n for n in model.graph.node if n.op_type == op and n.input[slot]]
        if not found:
            return None
        node = found[-1 if last else 0]
        return put(model, node, [helper.make_node("Identity", [node.input[slot]], list(node.output[:1]))])

    return make


def exchange(op: str, other: str, **attributes: Any) -> Change:
    """Another operator in one's place."""

    def make(model: ModelProto) -> ModelProto | None:
        node = next((n for n in model.graph.node if n.op_type == op), None)
        if node is None:
            return None
        return put(model, node, [helper.make_node(other, list(node.input), list(node.output), **attributes)])

    return make


def drop_bias_add(model: ModelProto) -> ModelProto | None:
    held = Held(model)
    node = next(
        (n for n in model.graph.node if n.op_type == "Add" and n.input[1] in held and held[n.input[1]].ndim), None
    )
    return (
        None if node is None else put(model, node, [helper.make_node("Identity", [node.input[0]], list(node.output))])
    )


def drop_limit(slot: int, *, last: bool = False) -> Change:
    """A Clip without one of its bounds."""

    def make(model: ModelProto) -> ModelProto | None:
        found = [n for n in model.graph.node if n.op_type == "Clip"]
        if not found:
            return None
        node = found[-1 if last else 0]
        if slot == 2:
            del node.input[2:]
        else:
            node.input[1] = ""
        return model

    return make


def move_limit(slot: int, by: float, *, last: bool = False) -> Change:
    """One Clip's bound moved; others that read the same constant keep theirs."""

    def make(model: ModelProto) -> ModelProto | None:
        found = [n for n in model.graph.node if n.op_type == "Clip"]
        if not found:
            return None
        held, node = Held(model), found[-1 if last else 0]
        value = held[node.input[slot]]
        moved = (value + by).astype(value.dtype)
        if moved == value:
            return None
        held["moved_limit"] = moved
        node.input[slot] = "moved_limit"
        return model

    return make


def _branch(model: ModelProto) -> NodeProto | None:
    return next((n for n in model.graph.node if n.op_type == "If"), None)


def swap_branches(model: ModelProto) -> ModelProto | None:
    node = _branch(model)
    if node is None:
        return None
    for a in node.attribute:
        a.name = "else_branch" if a.name == "then_branch" else "then_branch"
    return model


def drop_rare_bias(model: ModelProto) -> ModelProto | None:
    node = _branch(model)
    if node is None:
        return None
    inner = next(a.g for a in node.attribute if a.name == "then_branch").node[0]
    inner.op_type = "Identity"
    del inner.input[1:]
    return model


def swap_concat(model: ModelProto) -> ModelProto | None:
    node = next((n for n in model.graph.node if n.op_type == "Concat"), None)
    if node is None:
        return None
    node.input[:] = node.input[::-1]
    return model


def swap_norm(first: int, second: int) -> Change:
    def make(model: ModelProto) -> ModelProto | None:
        node = next((n for n in model.graph.node if n.op_type == "BatchNormalization"), None)
        if node is None or any(n.op_type == "InstanceNormalization" for n in model.graph.node):  # takes shifts away
            return None
        node.input[first], node.input[second] = node.input[second], node.input[first]
        return model

    return make


def _row(at: int, factor: float) -> Callable[[Array], Array]:
    def change(value: Array) -> Array:
        value[at] = value[at] * factor
        return value

    return change


def _column(at: int, factor: float) -> Callable[[Array], Array]:
    def change(value: Array) -> Array:
        value[:, at] = value[:, at] * factor
        return value

    return change


def _of_dead_unit(change: Change) -> Change:
    """The change of a net whose sixth hidden unit is never on."""

    def make(model: ModelProto) -> ModelProto | None:
        held = Held(model)
        return change(model) if "b1" in held and held["b1"].min() < -50 else None

    return make


SHOWN: dict[str, Change] = {
    **{f"channel of a weight x{f:g}": spoil(_channel(f)) for f in (1.1, 1.01, 1.003, 0.97, 0.0)},
    "one weight x2": spoil(_element(lambda v: 2 * v)),
    "one weight's sign": spoil(_element(lambda v: -v)),
    "one bias 0": spoil(_element(lambda v: 0 * v), bias=True),
    "one bias + 0.01": spoil(_element(lambda v: v + type(v)(0.01)), bias=True),
    "two channels swapped": spoil(_swap),
    "weights in half precision": spoil(_to_half),
    "epsilon 1e-5 to 1e-2": attribute("BatchNormalization", "epsilon", 1e-2),
    "mean and shift swapped": swap_norm(2, 3),
    "scale and variance swapped": swap_norm(1, 4),
    "bias left out": drop_bias_add,
    "Relu left out": drop("Relu"),
    "last Relu left out": drop("Relu", last=True),
    "Sigmoid left out": drop("Sigmoid", last=True),
    "Softmax left out": drop("Softmax", last=True),
    "Tanh left out": drop("Tanh"),
    "Elu as Relu": exchange("Elu", "Relu"),
    "Relu as LeakyRelu": exchange("Relu", "LeakyRelu", alpha=0.01),
    "LeakyRelu's slope": attribute("LeakyRelu", "alpha", 0.11),
    "HardSigmoid's slope": attribute("HardSigmoid", "alpha", 1 / 6),
    "HardSwish as Relu": exchange("HardSwish", "Relu"),
    "padding counted": attribute("AveragePool", "count_include_pad", 0),
    "largest, smallest": attribute("TopK", "largest", 0),
    "reset before": attribute("GRU", "linear_before_reset", 0),
    "last of equals": attribute("ArgMax", "select_last_index", 1),
    "Concat's order": swap_concat,
    "Erf as Tanh": exchange("Erf", "Tanh"),
    "Floor as Round": exchange("Floor", "Round"),
    "Abs as Relu": exchange("Abs", "Relu"),
    "lower bound left out": drop_limit(1),
    "lower bound moved": move_limit(1, -0.5),
    "slope of one channel": edit("slope", _row(3, 1.02)),
    "scores 7 % off": edit("bc", lambda v: v + np.log(1.07)),
    "one score 7 % off": edit("bc", lambda v: v + np.eye(len(v))[2] * np.log(1.07)),
    "quantized weight one step": edit("q1", lambda v: np.where(np.arange(v.size).reshape(v.shape) == 40, v // 2, v)),
    "scale of one channel": edit("s1", _row(2, 1.01)),
    "step of the inputs": edit("sx", lambda v: v * 1.02),
    "zero point": edit("zx", lambda v: v + 1),
    "layer norm's epsilon": edit("eps", lambda v: v * 1000),
    "scores' divisor": edit("k4", lambda v: v * 1.01),
    "threshold 4 to 3.5": edit("thr", lambda v: v - 0.5),
    "divisor of a remainder": edit("three", lambda v: v + 0.1),
}
UNREACHED: dict[str, Change] = {
    "upper bound left out": drop_limit(2),
    "last upper bound left out": drop_limit(2, last=True),
    **{f"upper bound {by:+g}": move_limit(2, by) for by in (0.5, 2, 90)},
    "last upper bound +2": move_limit(2, 2, last=True),
    "lower bound far off": move_limit(1, -70),
    **{f"threshold of an If {by:+g}": edit("limit", lambda v, by=by: v + by) for by in (0.5, 20, 1e4)},  # type: ignore[misc]
    "rare bias x2": edit("rare", lambda v: v * 2),
    "rare bias left out": drop_rare_bias,
    "branches swapped": swap_branches,
    **{f"row {k} of a table": edit("table", _row(k, 1.05)) for k in (3, 217, 299)},
    "dead unit's weights": _of_dead_unit(edit("w1", _column(5, 2))),
    "dead unit's reader": _of_dead_unit(edit("w2", _row(5, 2))),
    "dead unit's bias": edit("b1", lambda v: np.where(v < -50, -30, v)),
    "dead unit's sign": _of_dead_unit(edit("w1", _column(5, -1))),
    "floor 1e-3 to 1e-5": edit("floor", lambda v: v / 100),
    "floor left out": drop("Max"),
    "threshold 4 to 4.001": edit("thr", lambda v: v + 0.001),
    "remainder of negatives": attribute("Mod", "fmod", 1),
    "Greater as GreaterOrEqual": exchange("Greater", "GreaterOrEqual"),
    "Greater as Less": exchange("Greater", "Less"),
}
BUGS = SHOWN | UNREACHED
