"""What a tool left in a model and how far its outputs are off: ``python -m tests.benchmarks.score BEFORE AFTER``.

Written without biasopt's own reader and counter: the benchmark must not believe what it measures. Prints one
line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

WITH_BIAS = {"Conv", "ConvTranspose", "Gemm", "FusedConv", "FusedGemm"}  # the last two are onnxruntime's own


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of the main graph, of every nested graph and of every function."""
    todo = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while todo:
        node = todo.pop()
        yield node
        for attribute in node.attribute:
            for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                todo += graph.node


def counts(path: Path) -> dict[str, int]:
    """Count nodes, BatchNormalization nodes, and third inputs of Conv, ConvTranspose and Gemm."""
    found = list(nodes(onnx.load(path, load_external_data=False)))
    return {
        "nodes": len(found),
        "bn": sum(node.op_type == "BatchNormalization" for node in found),
        "bias": sum(node.op_type in WITH_BIAS and len(node.input) > 2 and node.input[2] != "" for node in found),
    }


def overridable(path: Path) -> bool:
    """Tell whether the caller may override a weight: listed as an input, from IR version 4 on."""
    model = onnx.load(path, load_external_data=False)
    names = {tensor.name for tensor in model.graph.initializer}
    return model.ir_version >= 4 and any(value.name in names for value in model.graph.input)


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(before: ort.InferenceSession) -> dict[str, np.ndarray[Any, Any]]:
    """Make seeded inputs; a size that the model leaves open is 1."""
    rng = np.random.default_rng(0)
    dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    made = {}
    for value in before.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        if value.type in dtypes:
            made[value.name] = rng.standard_normal(shape).astype(dtypes[value.type])
        else:
            made[value.name] = np.zeros(shape, {"tensor(int64)": np.int64, "tensor(int32)": np.int32}[value.type])
    return made


def max_error(before: Path, after: Path) -> float:
    """Compare outputs, both run without onnxruntime's own optimisations.

    Returns
    -------
    float
        The largest ``max|a - b| / max|a|`` of any output; infinite where an output is not finite.
    """
    reference, other = session(before), session(after)
    inputs = feeds(reference)
    worst = 0.0
    kept = {value.name for value in other.get_inputs()}
    pairs = zip(
        reference.run(None, inputs),
        other.run(None, {name: array for name, array in inputs.items() if name in kept}),
        strict=True,
    )
    for want, got in pairs:
        want, got = np.asarray(want, np.float64), np.asarray(got, np.float64)
        off = np.abs(want - got).max(initial=0.0) / max(np.abs(want).max(initial=0.0), 1e-30)
        worst = max(worst, float(off) if np.isfinite(off) else float("inf"))
    return worst


def main(before: Path, after: Path) -> dict[str, Any]:
    result: dict[str, Any] = {"before": counts(before), "after": counts(after), "overridable": overridable(before)}
    try:
        result["error"] = max_error(before, after)
    except Exception as exc:
        result["error"] = None
        result["why"] = f"{type(exc).__name__}: {exc}"[:300]
    return result


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
