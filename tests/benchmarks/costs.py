"""What a fold with its check takes of the processor and the memory: ``python -m tests.benchmarks.costs [MODEL...]``.

Each model is folded by the command, in a process of its own, whose user and system seconds are counted with those of
its children, as is its largest resident size. Without a model, nets made here: deep ones, of constant chains too, one
with tied weights, wide ones; and those that BIASOPT_CORPUS names. Of several rounds (``--rounds N``) the least counts.
``--write`` puts the table, beside what was aimed at, into docs/scale.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from converter.report.docs import fill
from tests.benchmarks.run_log import machine

OPSET = 17
ROOT = Path(__file__).parents[2]


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


def unet(widths: tuple[int, ...] = (80, 160, 320, 608), side: int = 96) -> onnx.ModelProto:
    """Down and up again, with what was on the way down joined on the way up; batch norms behind each convolution."""
    rng, nodes, constants, skips = np.random.default_rng(0), [], {}, []

    def add(op: str, inputs: list[str], **given: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], f"node{len(nodes)}", **given))
        return str(nodes[-1].output[0])

    def block(x: str, before: int, width: int) -> str:
        for channels in (before, width):
            k = len(nodes)
            constants[f"w{k}"] = rng.normal(0, (2 / (9 * channels)) ** 0.5, (width, channels, 3, 3))
            constants.update({f"{n}{k}": rng.uniform(0.8, 1.2, width) for n in "gv"})
            constants.update({f"{n}{k}": rng.normal(0, 0.1, width) for n in "bm"})
            x = add("Conv", [x, f"w{k}"], pads=[1] * 4)
            x = add("BatchNormalization", [x, *(f"{n}{k}" for n in "gbmv")])
            x = add("Mul", [x, add("Sigmoid", [x])])
        return x

    x, before = "x", 4
    for width in widths[:-1]:
        x = block(x, before, width)
        skips.append((x, width))
        x, before = add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2]), width
    x, before = block(x, before, widths[-1]), widths[-1]
    for skip, width in reversed(skips):
        constants[f"u{len(nodes)}"] = rng.normal(0, (1 / before) ** 0.5, (before, width, 2, 2))
        x = add("ConvTranspose", [x, f"u{len(nodes)}"], kernel_shape=[2, 2], strides=[2, 2])
        x, before = block(add("Concat", [x, skip], axis=1), 2 * width, width), width
    constants["last"] = rng.normal(0, 0.1, (4, before, 1, 1))
    nodes.append(helper.make_node("Conv", [x, "last"], ["y"], "head"))
    return _model(nodes, [1, 4, side, side], [1, 4, side, side], **constants)


VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
NETS = {
    "deep20k": deep,
    "constants20k": long_constants,
    "tied": tied,
    "vgg16": lambda: convolutions(VGG16, 224),
    "unet": unet,
}
# Seconds of the processor, and megabytes, that a fold with its check is to stay below.
GOALS: dict[str, tuple[float, float | None]] = {
    "deep20k": (10, None),
    "vgg16": (8, None),
    "unet": (10, None),
    "rxnmap": (8, 500),
    "style_mosaic": (6, None),
    "silero_vad": (3, None),
    "sig_bak_ovr": (3, None),
}


def measure(model: Path, *options: str) -> tuple[float, float, int]:
    """CPU seconds, megabytes, and the exit code of one fold."""
    with tempfile.TemporaryDirectory() as folder:
        script = (
            "import resource, subprocess, sys; rc = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode;"
            "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime, u.ru_maxrss / 1000, rc)"
        )
        command = [sys.executable, "-m", "biasopt", "fold", "-q", str(model), "-o", f"{folder}/o.onnx", *options]
        left_out = {"PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}  # as a user has it
        given = {name: value for name, value in os.environ.items() if name not in left_out}
        made = [sys.executable, "-c", script, *command]
        done = subprocess.run(made, capture_output=True, text=True, check=True, env=given)
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


def _measure_rounds(model: Path, rounds: int, *options: str) -> tuple[float, float, int]:
    done = [measure(model, *options) for _ in range(rounds)]
    return min(d[0] for d in done), min(d[1] for d in done), max(d[2] for d in done)


def markdown(names: list[str], rounds: int) -> str:
    """The table, and the median of the models in it."""
    head = ("model", "MB", "`--no-verify`, s", "with the check, s", "goal", "memory, MB", "goal", "exit code")
    rows, checks = [head, ("---", *["---:"] * 7)], []
    with tempfile.TemporaryDirectory() as folder:
        for path in _list_models(Path(folder), names):
            bare, _, _ = _measure_rounds(path, rounds, "--no-verify")
            checked, megabytes, code = _measure_rounds(path, rounds)
            seconds, most = GOALS.get(path.stem, (None, None))
            goals = ["" if goal is None else f"{goal:g}" for goal in (seconds, most)]
            size = f"{path.stat().st_size / 1e6:.1f}"
            row = (path.stem, size, f"{bare:.2f}", f"{checked:.2f}", goals[0], f"{megabytes:.0f}", goals[1], str(code))
            sys.stderr.write(" ".join(row) + "\n")
            rows.append(row)
            checks.append(checked)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\nThe median with the check is {median(checks):.2f} s. {machine()}."


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("models", nargs="*", help=f"files, or of {', '.join(NETS)}")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="the table into docs/scale.md")
    asked = parser.parse_args()
    corpus = os.environ.get("BIASOPT_CORPUS")
    found = [*NETS, *map(str, sorted(Path(corpus).glob("*.onnx")) if corpus else [])]
    made = markdown(asked.models or found, asked.rounds)
    sys.stdout.write(f"{made}\n")
    if asked.write:
        page = ROOT / "docs" / "scale.md"
        page.write_text(fill(page.read_text(encoding="utf-8"), "costs", made), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
