"""What following biases costs: trunks of 500, 1,000 and 2,000 nodes, and how the time grows from one to the next.

``python -m tests.benchmarks.flow_cost``. Each block is Conv, Add, Identity or Relu, MaxPool: the worst case is a long
stretch without an activation, along which every bias travels.
"""

from __future__ import annotations

import time

import numpy as np
import onnx
from onnx import helper, numpy_helper

from converter.model.graph import load
from converter.rewrite import pipeline

CHANNELS = 16


def trunk(n_blocks: int, relu_every: int) -> onnx.ModelProto:
    """Make a residual trunk of four nodes a block."""
    rng = np.random.default_rng(0)
    nodes, initializers, x = [], [], "x"
    for i in range(n_blocks):
        for name, shape in ((f"w{i}", (CHANNELS, CHANNELS, 1, 1)), (f"b{i}", (CHANNELS,))):
            initializers.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
        last = "Identity" if (i + 1) % relu_every else "Relu"
        nodes += [
            # Padding by size: the Add stays, which would become part of the kernel.
            helper.make_node("Conv", [x, f"w{i}", f"b{i}"], [f"c{i}"], name=f"conv{i}", auto_pad="SAME_UPPER"),
            helper.make_node("Add", [x, f"c{i}"], [f"a{i}"], name=f"add{i}"),
            helper.make_node(last, [f"a{i}"], [f"r{i}"], name=f"last{i}"),
            helper.make_node("MaxPool", [f"r{i}"], [f"p{i}"], name=f"pool{i}", kernel_shape=[1, 1]),
        ]
        x = f"p{i}"
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, CHANNELS, 8, 8]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "trunk", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def seconds(model: onnx.ModelProto) -> float:
    """Time of all passes, without reading or writing."""
    best = float("inf")
    for _ in range(3):
        graph = load(model)
        start = time.perf_counter()
        pipeline.run(graph, pipeline.Options())
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Print the table."""
    print("Relu every      500 nodes     1,000 nodes     2,000 nodes")
    for every in (1, 8, 64, 256, 10_000):
        a, b, c = (seconds(trunk(n, every)) for n in (125, 250, 500))
        print(f"{every:>6} blocks {a:>8.2f} s {b:>8.2f} s {b / a:.1f} x {c:>8.2f} s {c / b:.1f} x")


if __name__ == "__main__":
    main()
