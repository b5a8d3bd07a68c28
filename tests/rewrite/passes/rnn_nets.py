"""Tiny models of one recurrent node, their bias as numbers, and a fold by this pass alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.harness import run_fold
from tests.rewrite.passes.recurrence import GATES, SLOTS, Array
from tests.tiny import Draw, all_nodes, model

NAME = "merge-rnn-biases"
STEPS, BATCH, INPUTS, H = 7, 2, 3, 5


def directions(attrs: dict[str, Any]) -> int:
    return 2 if attrs.get("direction") == "bidirectional" else 1


def cell(op: str, dtype: Any = np.float32, *, seed: int = 5, opset: int = 17, **attrs: Any) -> onnx.ModelProto:
    """Return a model of one recurrent node with all its outputs; every constant is drawn.

    ``bias`` replaces B (None: no B), ``peepholes``, ``states`` and ``lens`` add the other inputs;
    everything else becomes an attribute.
    """
    given = {k: attrs.pop(k) for k in ("bias", "peepholes", "states", "lens", "sizes") if k in attrs}
    steps, batch, n_in, hidden = given.get("sizes", (STEPS, BATCH, INPUTS, H))
    rng, d, g = np.random.default_rng(seed), directions(attrs), GATES[op]
    shape_x, shape_h = (steps, batch, n_in), (d, batch, hidden)
    if attrs.get("layout"):
        shape_x, shape_h = (batch, steps, n_in), (batch, d, hidden)
    shapes = {"w": (d, g * hidden, n_in), "r": (d, g * hidden, hidden), "b": (d, 2 * g * hidden)}
    if given.get("peepholes"):
        shapes["p"] = (d, 3 * hidden)
    if given.get("states"):
        shapes |= {"h0": shape_h, **({"c0": shape_h} if op == "LSTM" else {})}
    consts = {k: np.asarray(rng.standard_normal(v) * 0.8).astype(dtype) for k, v in shapes.items()}
    if "bias" in given:
        consts.pop("b")
        consts |= {} if given["bias"] is None else {"b": np.asarray(given["bias"])}
    if given.get("lens") is not None:
        consts["lens"] = np.asarray(given["lens"], np.int32)
    return proto(op, consts, shape_x, hidden, opset, np.dtype(dtype), attrs)


def proto(
    op: str, consts: dict[str, Array], shape_x: Any, hidden: int, opset: int, dtype: Any, attrs: dict[str, Any]
) -> onnx.ModelProto:
    inputs = [k if k == "x" or k in consts else "" for k in SLOTS]
    while not inputs[-1]:
        inputs.pop()
    outputs = ["y", "y_h", "y_c"] if op == "LSTM" else ["y", "y_h"]
    node = helper.make_node(op, inputs, outputs, name="cell", hidden_size=hidden, **attrs)
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    graph = helper.make_graph(
        [node],
        "tiny",
        [helper.make_tensor_value_info("x", kind, shape_x)],
        [helper.make_tensor_value_info(o, kind, None) for o in outputs],
        [numpy_helper.from_array(v, k) for k, v in consts.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def merge(proto: onnx.ModelProto, **options: Any) -> Any:
    """Fold with this pass alone; return the FoldResult."""
    return run_fold(proto, only=[NAME], **options)


def halves(proto: onnx.ModelProto) -> np.ndarray:
    """Return B of the one recurrent node, shape [D, 2, G, H]."""
    (node,) = [n for n in all_nodes(proto) if n.op_type in GATES]
    (b,) = [numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == node.input[3]]
    return b.reshape(b.shape[0], 2, GATES[node.op_type], -1)


def zeros(op: str, sign: float = 1.0, **attrs: Any) -> onnx.ModelProto:
    """Return a cell with a bias of zeros."""
    bias = np.copysign(np.zeros((directions(attrs), 2 * GATES[op] * H), np.float32), sign)
    return cell(op, bias=bias, **attrs)


def rnn_net(
    text: str, *, head: str = "float[7,2,3] x", rest: str = "", more_outputs: str = "", **more: np.ndarray
) -> onnx.ModelProto:
    """Return a graph over RNN constants w, r, b and what is given."""
    draw = Draw()
    consts = {"w": draw.normal(1, 5, 3), "r": draw.normal(1, 5, 5), "b": draw.normal(1, 10)} | more
    named = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split()) - set(head.split())
    return model(
        f"({head}) => (float[7,1,2,5] y{more_outputs}) {{ {text} }}",
        {k: v for k, v in consts.items() if k in named},
        rest=rest,
    )


def read_elsewhere() -> onnx.ModelProto:
    """A node, and what shows the bias itself, read one bias."""
    return rnn_net("y = RNN <hidden_size = 5> (x, w, r, b) z = Neg (b)", more_outputs=", float[1,10] z")


def shared() -> onnx.ModelProto:
    """Two nodes read one bias."""
    text = "h = RNN <hidden_size = 5> (x, w, r, b) s = Squeeze (h, a) y = RNN <hidden_size = 5> (s, u, r, b)"
    return rnn_net(text, a=np.array([1]), u=Draw(seed=7).normal(1, 5, 5))
