"""What a fold with its check takes of the processor and the memory: ``python -m tests.benchmarks.costs [MODEL...]``.

Each model is folded by the command, in a process of its own, whose user and system seconds are counted with those of
its children, as is its largest resident size. Without a model, nets made here: deep ones, of constant chains too, one
with tied weights, a wide one; and those that BIASOPT_CORPUS names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def _model(nodes: list[onnx.NodeProto], shape: list[int], out: list[int], **constants: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def deep(n_nodes: int = 20_000) -> onnx.ModelProto:
    """A trunk of matrix products, each with a batch norm in four operators and a ReLU."""
    rng, width, before = np.random.default_rng(0), 8, "x"
    nodes, constants = [], {}
    for k in range(n_nodes // 5):
        constants[f"w{k}"] = rng.normal(0, (2 / width) ** 0.5, (width, width))
        constants |= {f"m{k}": rng.normal(0, 0.1, width), f"g{k}": rng.uniform(0.8, 1.2, width)}
        constants[f"t{k}"] = rng.normal(0, 0.1, width)
        last = "y" if k == n_nodes // 5 - 1 else f"r{k}"
        nodes += [
            helper.make_node("MatMul", [before, f"w{k}"], [f"p{k}"], f"mm{k}"),
            helper.make_node("Sub", [f"p{k}", f"m{k}"], [f"s{k}"], f"sub{k}"),
            helper.make_node("Mul", [f"s{k}", f"g{k}"], [f"q{k}"], f"mul{k}"),
            helper.make_node("Add", [f"q{k}", f"t{k}"], [f"a{k}"], f"add{k}"),
            helper.make_node("Relu", [f"a{k}"], [last], f"relu{k}"),
        ]
        before = last
    return _model(nodes, [2, width], [2, width], **constants)


def long_constants(n_nodes: int = 20_000) -> onnx.ModelProto:
    """One product whose weight comes out of a chain of nodes over constants, thousands of them deep."""
    rng, width = np.random.default_rng(0), 8
    nodes, before = [], "w"
    for k in range(n_nodes - 2):
        nodes.append(helper.make_node(("Neg", "Abs", "Identity", "Neg")[k % 4], [before], [f"c{k}"], f"n{k}"))
        before = f"c{k}"
    nodes += [
        helper.make_node("MatMul", ["x", before], ["p"], "mm"),
        helper.make_node("Mul", ["p", "g"], ["y"], "mul"),
    ]
    weights = {"w": rng.normal(0, 1, (width, width)), "g": rng.uniform(0.5, 2, width)}
    return _model(nodes, [2, width], [2, width], **weights)


def tied(n_layers: int = 12, width: int = 512) -> onnx.ModelProto:
    """Layers of one weight, under names of their own, each behind the same factor."""
    rng, before = np.random.default_rng(0), "x"
    nodes = []
    for k in range(n_layers):
        last = "y" if k == n_layers - 1 else f"r{k}"
        nodes += [
            helper.make_node("Identity", ["w"], [f"w{k}"], f"id{k}"),
            helper.make_node("Mul", [before, "f"], [f"s{k}"], f"mul{k}"),
            helper.make_node("MatMul", [f"s{k}", f"w{k}"], [f"p{k}"], f"mm{k}"),
            helper.make_node("Relu", [f"p{k}"], [last], f"relu{k}"),
        ]
        before = last
    return _model(nodes, [4, width], [4, width], w=rng.normal(0, 0.06, (width, width)), f=np.float32(0.5))


def convolutions(plan: tuple[int, ...], side: int) -> onnx.ModelProto:
    """Convolutions 3x3 with batch norms, as VGG has them (0: a pool), and one product in the end."""
    rng, before, channels = np.random.default_rng(0), "x", 3
    nodes, constants, size = [], {}, side
    for k, width in enumerate(plan):
        if not width:
            size //= 2
            pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
            nodes.append(helper.make_node("MaxPool", [before], [f"r{k}"], f"pool{k}", **pool))
        else:
            constants[f"w{k}"] = rng.normal(0, (2 / (9 * channels)) ** 0.5, (width, channels, 3, 3))
            constants |= {f"g{k}": rng.uniform(0.8, 1.2, width), f"v{k}": rng.uniform(0.8, 1.2, width)}
            constants |= {f"m{k}": rng.normal(0, 0.1, width), f"t{k}": rng.normal(0, 0.1, width)}
            norm = [f"c{k}", f"g{k}", f"t{k}", f"m{k}", f"v{k}"]
            nodes += [
                helper.make_node("Conv", [before, f"w{k}"], [f"c{k}"], f"conv{k}", pads=[1] * 4),
                helper.make_node("BatchNormalization", norm, [f"b{k}"], f"bn{k}"),
                helper.make_node("Relu", [f"b{k}"], [f"r{k}"], f"relu{k}"),
            ]
            channels = width
        before = f"r{k}"
    constants["wd"] = rng.normal(0, 0.01, (channels, 1000))
    nodes += [
        helper.make_node("GlobalAveragePool", [before], ["gap"], "gap"),
        helper.make_node("Flatten", ["gap"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "wd"], ["y"], "head"),
    ]
    return _model(nodes, [1, 3, side, side], [1, 1000], **constants)


VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
NETS = {
    "deep20k": deep,
    "constants20k": long_constants,
    "tied": tied,
    "vgg16": lambda: convolutions(VGG16, 224),
}


def measure(model: Path, *options: str) -> tuple[float, float, int]:
    """CPU seconds, megabytes, and the exit code of one fold."""
    with tempfile.TemporaryDirectory() as folder:
        script = (
            "import resource, subprocess, sys; rc = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode;"
            "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime, u.ru_maxrss / 1000, rc)"
        )
        command = [sys.executable, "-m", "biasopt", "fold", "-q", str(model), "-o", f"{folder}/o.onnx", *options]
        done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
    seconds, megabytes, code = done.stdout.split()
    return float(seconds), float(megabytes), int(code)


def _list_models(folder: Path, names: list[str]) -> Iterator[Path]:
    for name in names:
        if name in NETS:
            path = folder / f"{name}.onnx"
            onnx.save(NETS[name](), path)
            yield path
        else:
            yield Path(name)


def main(names: list[str]) -> None:
    """Print a table in Markdown."""
    if not names:
        corpus = os.environ.get("BIASOPT_CORPUS")
        names = [*NETS, *map(str, sorted(Path(corpus).glob("*.onnx")) if corpus else [])]
    print("| model | MB | bare, CPU s | with the check, CPU s | memory, MB | exit code |\n|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for path in _list_models(Path(folder), names):
            bare, _, _ = measure(path, "--no-verify")
            checked, megabytes, code = measure(path)
            size = path.stat().st_size / 1e6
            print(f"| {path.stem} | {size:.1f} | {bare:.2f} | {checked:.2f} | {megabytes:.0f} | {code} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
