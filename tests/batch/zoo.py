"""Small models in a folder, and children that crash, hang or blow up on those of some names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from converter.batch.run import Request

# What a child does to a model of some name before it is folded; the rest of it is the real one.
FAULTS = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from converter.batch import child
real = child.fold_task
def fold_task(task, row):
    stem = os.path.basename(task.model)
    if stem.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if stem.startswith("hang"):
        time.sleep(1000)
    if stem.startswith("eat"):
        held = []
        while True:
            held.append(bytearray(1 << 26))
    if stem.startswith("bug"):
        raise KeyError("what nobody mapped")
    if stem.startswith("slow"):
        time.sleep(0.2)
    return real(task, row)
child.fold_task = fold_task
child.main()
"""


def make_model(seed: int, channels: int = 3) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu with weights of a seed."""
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.standard_normal((4, channels, 3, 3)),
        **{name: rng.uniform(0.5, 1.5, 4) for name in ("g", "b", "m", "v")},
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_zoo(folder: Path, count: int, *more: str) -> Path:
    """So many models in folders of ten; ``more`` are further names."""
    for k in range(count):
        path = folder / f"part{k // 10}" / f"m{k:03}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(make_model(k), path)
    for k, name in enumerate(more):
        onnx.save(make_model(1000 + k), folder / name)
    return folder


def ask(zoo: Path, out: Path, **more: Any) -> Request:
    """What is asked in these tests, unless something else is."""
    asked: dict[str, Any] = {"patterns": [str(zoo)], "output": out, "jobs": 2, "options": {}, "verify": {"quick": True}}
    return Request(**asked | more)


def tell(path: Path) -> Any:
    """A summary without what differs from run to run: times, hosts, how often, and how it was run."""
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "host", "attempts")} for row in found["rows"]]
    return rows, found["counts"], found["exit_code"]


def read_models(folder: Path) -> dict[str, bytes]:
    """The bytes of every model below a folder, by its place there."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.onnx")) if p.is_file()}
