"""Fold a model that is larger than the memory it may use: ``python -m tests.benchmarks.big``.

Writes Conv + BatchNormalization pairs with their weights in external data (3 GB unless told otherwise), folds
them in a process of its own, and prints that process's peak memory as a multiple of the largest tensor.

``[--pairs 12] [--channels 2048] [--folder DIR]``
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.benchmarks.proc import run

KERNEL = 4  # 2048 x 2048 x 4 x 4 floats are 268 MB


def _external(name: str, shape: Sequence[int], offset: int, size: int) -> onnx.TensorProto:
    """Describe a tensor whose bytes stand in the data file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "model.onnx.data"), ("offset", offset), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _weight(data: BinaryIO, name: str, channels: int, rng: np.random.Generator) -> onnx.TensorProto:
    """Write one convolution weight a filter bank at a time, so that no whole tensor is ever held."""
    offset = data.tell()
    for _ in range(channels):
        data.write((rng.standard_normal(channels * KERNEL**2, np.float32) / (channels * KERNEL)).tobytes())
    return _external(name, (channels, channels, KERNEL, KERNEL), offset, data.tell() - offset)


def write(folder: Path, pairs: int, channels: int) -> Path:
    """Write the model and its data file."""
    rng = np.random.default_rng(0)
    nodes, tensors, last = [], [], "x"
    with (folder / "model.onnx.data").open("wb") as data:
        for i in range(pairs):
            tensors.append(_weight(data, f"w{i}", channels, rng))
            for name in ("scale", "shift", "mean", "var"):
                values = rng.uniform(0.5, 2, channels).astype(np.float32)
                tensors.append(onnx.numpy_helper.from_array(values, f"{name}{i}"))
            nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"conv{i}"], name=f"conv_{i}", pads=[1, 2, 2, 1]))
            statistics = [f"{name}{i}" for name in ("scale", "shift", "mean", "var")]
            last = f"bn{i}"
            nodes.append(helper.make_node("BatchNormalization", [f"conv{i}", *statistics], [last], name=f"norm_{i}"))
    shape = [1, channels, 8, 8]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", last)]
    graph = helper.make_graph(nodes, "big", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def left(path: Path) -> int:
    """Count the BatchNormalization nodes of a file."""
    return sum(node.op_type == "BatchNormalization" for node in onnx.load(path, load_external_data=False).graph.node)


def measure(folder: Path, pairs: int, channels: int) -> str:
    """Write, fold and say what it took; a child's peak counts from its parent's, so that must be smaller."""
    source, target = write(folder, pairs, channels), folder / "out.onnx"
    size = source.with_name("model.onnx.data").stat().st_size
    cost = run([sys.executable, "-m", "biasopt", "fold", str(source), "-o", str(target), "--no-verify"])
    if cost.exit_code:
        raise SystemExit(f"biasopt exited with {cost.exit_code}: {cost.said}")
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if own >= cost.peak_bytes:
        raise SystemExit("the measuring process was larger than the measured one: the peak is not biasopt's")
    seconds, peak = cost.seconds, cost.peak_bytes
    largest = 4 * channels * channels * KERNEL**2
    return (
        f"{pairs} Conv+BN, {size / 1e9:.2f} GB: {seconds:.1f} s, peak {peak / 1e6:.0f} MB = "
        f"{peak / largest:.2f} x the largest tensor ({largest / 1e6:.0f} MB); {left(target)} BatchNormalization left"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder, removed at the end)")
    args = parser.parse_args(argv)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="biasopt-big-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        print(measure(folder, args.pairs, args.channels))
    finally:
        if args.folder is None:
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
