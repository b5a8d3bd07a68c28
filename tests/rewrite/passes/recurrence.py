"""LSTM, GRU and RNN written out in float64 after the text of their specification.

Owes nothing to the code under test or to onnx.reference, which leaves clip, input_forget, other
activations and sequences of several lengths out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SLOTS = ("x", "w", "r", "b", "lens", "h0", "c0", "p")
FUNCTIONS = {
    "Sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "Tanh": np.tanh,
    "Relu": lambda v: np.maximum(v, 0.0),
    "HardSigmoid": lambda v: np.clip(0.2 * v + 0.5, 0.0, 1.0),
}
USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def run(model: onnx.ModelProto, x: Array) -> list[Array]:
    """Return the outputs of a model made by ``cell``, in float64."""
    (node,) = model.graph.node
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values = dict(zip(SLOTS, (held.get(i) for i in node.input), strict=False))
    return forward(node.op_type, attributes(node), {**values, "x": x})


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    found["direction"] = found.get("direction", b"forward").decode()
    found["activations"] = [a.decode() for a in found.get("activations", [])]
    return found


def forward(op: str, attrs: dict[str, Any], values: dict[str, Any]) -> list[Array]:
    wide = {k: None if v is None else np.asarray(v, np.float64) for k, v in values.items()}
    x, (d, rows, _) = wide["x"], wide["w"].shape
    hidden = rows // GATES[op]
    if attrs.get("layout"):
        x = x.swapaxes(0, 1)
        wide |= {k: wide[k].swapaxes(0, 1) for k in ("h0", "c0") if wide.get(k) is not None}
    lens = values.get("lens")
    lens = [x.shape[0]] * x.shape[1] if lens is None else list(lens)
    y = np.zeros((x.shape[0], d, x.shape[1], hidden))
    last = np.zeros((2, d, x.shape[1], hidden))
    for k, n in np.ndindex(d, x.shape[1]):
        part = {name: None if v is None else v[k] for name, v in wide.items() if name in ("w", "r", "b", "p")}
        state = [np.zeros(hidden) if wide.get(s) is None else wide[s][k, n] for s in ("h0", "c0")]
        order = range(lens[n])
        backward = attrs["direction"] == "reverse" or k == 1
        for t in reversed(order) if backward else order:
            state = step(op, attrs, k, part, x[t, n], *state)
            y[t, k, n] = state[0]
        last[:, k, n] = state
    if attrs.get("layout"):
        y, last = y.transpose(2, 0, 1, 3), last.swapaxes(1, 2)
    return [y, last[0], last[1]] if op == "LSTM" else [y, last[0]]


def step(op: str, attrs: dict[str, Any], k: int, part: dict[str, Any], x: Array, h: Array, c: Array) -> list[Array]:
    """One step of one direction for one sequence."""
    g, hidden = GATES[op], h.size
    w, r = part["w"].reshape(g, hidden, -1), part["r"].reshape(g, hidden, hidden)
    b = np.zeros((2, g, hidden)) if part.get("b") is None else part["b"].reshape(2, g, hidden)
    names = (attrs["activations"] or USUAL[op] * 2)[k * len(USUAL[op]) :]
    clip = attrs.get("clip") or np.inf
    plain = [FUNCTIONS[n] for n in names[: len(USUAL[op])]]
    f, *rest = [lambda v, a=a: a(np.clip(v, -clip, clip)) for a in plain]
    if op == "RNN":
        return [f(w[0] @ x + r[0] @ h + b[0, 0] + b[1, 0]), c]
    if op == "GRU":
        z, reset = (f(w[j] @ x + r[j] @ h + b[0, j] + b[1, j]) for j in (0, 1))
        inner = reset * (r[2] @ h + b[1, 2]) if attrs.get("linear_before_reset") else r[2] @ (reset * h) + b[1, 2]
        return [(1 - z) * rest[0](w[2] @ x + inner + b[0, 2]) + z * h, c]
    peep = np.zeros((3, hidden)) if part.get("p") is None else part["p"].reshape(3, hidden)
    gate = [w[j] @ x + r[j] @ h + b[0, j] + b[1, j] for j in range(4)]
    i = f(gate[0] + peep[0] * c)
    forget = 1 - i if attrs.get("input_forget") else f(gate[2] + peep[2] * c)
    c = forget * c + i * rest[0](gate[3])
    return [f(gate[1] + peep[1] * c) * plain[2](c), c]
