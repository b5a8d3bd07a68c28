"""What a bias costs at run time: a folded net beside the same net without any bias, kind by kind of arithmetic.

With onnxruntime's defaults (``fuse_conv_bias=0``) each bias of a convolution is a second kernel over its whole output.
The twin without biases gives other answers; it is there to be timed alone.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import converter
from converter.records import Latency
from converter.runtime import Session

Options = dict[str, str]
_THIRD = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
PRECISIONS: dict[str, Options] = {"TF32": {}, "float32": {"use_tf32": "0"}, "float16": {}}


def list_grid(provider: str) -> dict[str, Options]:
    """Kinds of runs by name, those that matter most first."""
    if provider == "cpu":
        return {"float32": {}}
    grid = {}
    for (precision, options), nhwc, fused in itertools.product(PRECISIONS.items(), "01", "01"):
        name = ", ".join([precision, *["NHWC"] * int(nhwc), *["fuse_conv_bias"] * int(fused)])
        grid[name] = options | {"prefer_nhwc": nhwc, "fuse_conv_bias": fused}
    return grid


def strip_biases(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """The model without any bias of its convolutions and products, and how many vectors that were."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    graph, gone = twin.graph, 0
    constant = {t.name: len(t.dims) for t in graph.initializer}
    products = {node.output[0] for node in graph.node if node.op_type == "MatMul"}
    other: dict[str, str] = {}
    kept = []
    for node in graph.node:
        slot = _THIRD.get(node.op_type, 0)
        if slot and len(node.input) > slot and node.input[slot]:
            del node.input[slot:]
            gone += 1
        vector = next((name for name in node.input if constant.get(name) == 1), None)
        if node.op_type == "Add" and vector and products & set(node.input):
            other[node.output[0]] = next(name for name in node.input if name != vector)
            gone += 1
        else:
            kept.append(node)
    for node in kept:
        for k, name in enumerate(node.input):
            node.input[k] = other.get(name, name)
    made = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    last = {new: old for old, new in other.items() if old in {o.name for o in graph.output}}
    for node in made:  # an output keeps its name
        for k, name in enumerate(node.output):
            node.output[k] = last.get(name, name)
    used = {name for node in made for name in node.input}
    weights = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(made)
    graph.initializer.extend(weights)
    return twin, gone


def tell_cost(found: Latency, biases: int) -> dict[str, float | int | None]:
    """Microseconds that each bias takes, with the interval of the ratio."""
    scale = 1e3 * found.a.p50_ms / biases if biases else 0.0
    cost = {"us": scale * (1 - found.ratio), "low": scale * (1 - found.high), "high": scale * (1 - found.low)}
    return {"biases": biases, **{key: value if np.isfinite(value) else None for key, value in cost.items()}}


def count_kernels(model: Path | bytes, provider: str, options: Options, dtype: Any, shape: Any) -> dict[str, int]:
    """Nodes and kernels of one run, by onnxruntime's profile; a build without CUPTI tells no kernels."""
    with tempfile.TemporaryDirectory(prefix="biasopt-kernels-") as folder:
        prefix = Path(folder) / "p"
        session = Session(model, provider, optimize=True, options=options, strict=False, profile=prefix)
        feeds = {"x": np.zeros(shape, dtype)}
        session.run(feeds)
        session.run(feeds)
        events = json.loads(session.end_profile().read_text(encoding="utf-8"))
    kinds = [event.get("cat") for event in events if not event.get("name", "").endswith(("_before", "_after"))]
    return {"nodes": kinds.count("Node") // 2, "kernels": kinds.count("Kernel") // 2}


def remove_by_data(a: Path, out: Path, shape: tuple[int, ...], provider: str, rows: int = 192) -> int:
    """Fold with ``--allow remove-biases`` on random rows; how many biases went. Nothing is written where none may."""
    x = np.random.default_rng(5).standard_normal((rows // shape[0] * shape[0], *shape[1:])).astype(np.float32)
    removal = {"inputs": {"x": x}, "budget": 0.05, "provider": provider, "max_time": 60.0}
    found = converter.fold(a, out=out, force=True, verify=False, removal=removal)
    return len(found.removed.fits) if found.removed is not None and found.output is not None else 0
