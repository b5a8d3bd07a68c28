"""What folding does on a GPU, measured on one: errors under its kinds of arithmetic, times, load times.

    python -m tests.benchmarks.cuda_results                         # writes docs/results-cuda.{json,md}
    python -m tests.benchmarks.cuda_results --nets ResNet-50 --batches 1
    python -m tests.benchmarks.cuda_results --provider cpu --small --out rehearsal

Results are added to the JSON that is there, so that it can be made in pieces. Without a GPU it refuses to run, but
for a rehearsal on the CPU, which writes nothing into docs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import re
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

import converter
from converter.errors import BiasoptError
from converter.records import Latency
from converter.referee.reference.evaluator import Reference
from converter.runtime import Session
from converter.runtime.machine import describe_environment
from tests.benchmarks import cuda_bias, cuda_nets, cuda_tables

DOCS = Path(__file__).resolve().parents[2] / "docs"
INPUTS = 4  # that errors are measured on, each of batch 1
Options = dict[str, str]

# Names as in the table; what CUDA's provider is told.
ARITHMETIC: dict[str, Options] = {
    "float32, heuristic A": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
    "float32, heuristic B": {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"},
    "float32, fuse_conv_bias": {"use_tf32": "0", "fuse_conv_bias": "1"},
    "TF32 (as deployed)": {},
    "float16": {},
}
LATENCY: dict[str, dict[str, Any]] = {
    "as deployed": {"show_unoptimised": True},
    "fuse_conv_bias": {"provider_options": {"fuse_conv_bias": "1"}},
    "CUDA graph": {"cuda_graph": True},
    "float16": {},
}
ON_CPU = ("as deployed",)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--provider", choices=["cuda", "cpu"], default="cuda")
    asked.add_argument("--small", action="store_true", help="small nets, quick measurements: a rehearsal")
    asked.add_argument("--nets", nargs="+", choices=list(cuda_nets.NETS), default=list(cuda_nets.NETS))
    asked.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    asked.add_argument("--limit", type=float, default=math.inf, help="seconds after which no further step is begun")
    asked.add_argument("--max-time", type=float, default=30.0, help="seconds for one pair of models")
    asked.add_argument("--out", type=Path, default=DOCS)
    given = asked.parse_args()
    if given.provider == "cpu" and given.out.resolve() == DOCS:
        asked.error("--provider cpu is a rehearsal: give another folder with --out")
    try:
        probe(given.provider)
    except BiasoptError as exc:
        print(f"no results: {exc}", file=sys.stderr)
        return 3
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "results-cuda.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"nets": {}}
    results["date"] = datetime.date.today().isoformat()
    results["rehearsal"] = given.provider == "cpu" or given.small
    results["env"] = asdict(describe_environment(given.provider))
    results.setdefault("skipped", [])
    begun, files = time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="biasopt-cuda-") as folder:
        steps = list_steps(given)
        for k, step in enumerate(steps):
            if time.monotonic() - begun > given.limit:
                results["skipped"] = [", ".join(map(str, left)) for left in steps[k:]]
                print(f"the time is over: {len(steps) - k} of {len(steps)} steps are left out", file=sys.stderr)
                break
            name, batch, what, kind = step
            print(f"{k + 1} of {len(steps)}: {name}, batch {batch}, {what} {kind}", file=sys.stderr, flush=True)
            found = results["nets"].setdefault(name, {}).setdefault(str(batch), {"latency": {}, "bias": {}})
            value = measure(step, files, given, Path(folder))
            found["nodes"] = files[name, batch]["nodes"]
            if kind:
                found[what][kind] = value
            else:
                found[what] = value
            write(results, given.out)
    write(results, given.out)
    return 0


def write(results: dict[str, Any], folder: Path) -> None:
    """Both documents, after every step: a machine that is lent may be taken back at any time."""
    for name, text in (
        ("results-cuda.json", json.dumps(results, indent=1) + "\n"),
        ("results-cuda.md", cuda_tables.markdown(results)),
    ):
        partial = folder / f"{name}.part"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)


def probe(provider: str) -> None:
    """Raise unless this provider runs a convolution here."""
    tiny = cuda_nets.build("U-Net", 1, small=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        onnx.save(tiny, path)
        Session(path, provider).run({"x": np.zeros((1, 3, 64, 64), np.float32)})


Step = tuple[str, int, str, str]  # net, batch, what, kind


def list_steps(given: argparse.Namespace) -> list[Step]:
    """What is to be measured, in the order of its value: the main numbers of every net before the rest of any."""
    grid, kinds = list(cuda_bias.list_grid(given.provider)), [k for k in LATENCY if given.provider == "cuda"]
    kinds = kinds or list(ON_CPU)
    levels: list[list[tuple[str, str]]] = [
        [("errors", ""), ("latency", kinds[0]), *(("bias", kind) for kind in grid[:2])],
        [("removal", ""), *(("latency", kind) for kind in kinds[1:]), *(("bias", kind) for kind in grid[2:])],
    ]
    return [
        (name, batch, what, kind)
        for level in levels
        for name in given.nets
        for batch in given.batches
        for what, kind in level
        if what not in ("errors", "removal") or batch == given.batches[0]
    ]


def measure(step: Step, files: dict[tuple[str, int], dict[str, Any]], given: argparse.Namespace, work: Path) -> Any:
    """One step's result; what cannot be had says why."""
    name, batch, what, kind = step
    if (name, batch) not in files:
        files[name, batch] = make_pair(name, batch, work, small=given.small)
    pair = files[name, batch]
    a, b = pair["a"], pair["b"]
    try:
        if what == "errors":
            return errors(a, b, given.provider)
        if what == "latency":
            return cuda_tables.latency_record(latency(kind, a, b, given, LATENCY[kind]))
        if what == "removal":
            out = work / f"{a.stem}-removed.onnx"
            gone = cuda_bias.remove_by_data(a, out, exact_shape(a), given.provider)
            found = cuda_tables.latency_record(latency("as deployed", b, out, given, {})) if gone else {}
            return {"biases": gone, **found}
        options, dtype = cuda_bias.list_grid(given.provider)[kind], np.float16 if kind[:7] == "float16" else np.float32
        told = latency(kind, b, pair["twin"], given, {"provider_options": options})
        models = [half(path) if dtype is np.float16 else path for path in (b, pair["twin"])]
        counts = [cuda_bias.count_kernels(m, given.provider, options, dtype, exact_shape(a)) for m in models]
        cost = cuda_bias.tell_cost(told, pair["biases"])
        return cuda_tables.latency_record(told) | {
            "cost": cost,
            "counts": dict(zip(("folded", "twin"), counts, strict=True)),
        }
    except BiasoptError as exc:
        return {"error": str(exc)}


def make_pair(name: str, batch: int, work: Path, *, small: bool) -> dict[str, Any]:
    """A net, what ``fold`` makes of it, and that without any bias, as files."""
    stem = re.sub(r"\W", "", name) + f"-{batch}"
    a, b, twin = (work / f"{stem}-{letter}.onnx" for letter in ("a", "b", "twin"))
    onnx.save(cuda_nets.build(name, batch, small=small), a)
    converter.fold(a, out=b, verify=False)
    bare, biases = cuda_bias.strip_biases(onnx.load(b))
    onnx.save(bare, twin)
    counts = dict(zip("ab", (len(onnx.load(path).graph.node) for path in (a, b)), strict=True))
    return {"a": a, "b": b, "twin": twin, "biases": biases, "nodes": counts}


def errors(a: Path, b: Path, provider: str) -> dict[str, Any]:
    """Per kind of arithmetic: both models' errors against float64, and their ratio."""
    exact = Reference(onnx.load(a))
    shape = exact_shape(a)
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(INPUTS)]
    truth = [exact.run(feed)["y"] for feed in feeds]
    kinds = ARITHMETIC if provider == "cuda" else {"float32": {}}
    return {kind: _errors(kind, a, b, provider, options, feeds, truth) for kind, options in kinds.items()}


def exact_shape(path: Path) -> tuple[int, ...]:
    return tuple(d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim)


def _errors(
    kind: str, a: Path, b: Path, provider: str, options: Options, feeds: list[dict[str, Any]], truth: list[Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        for letter, path in (("a", a), ("b", b)):
            narrow = kind == "float16"
            session = Session(half(path) if narrow else path, provider, optimize=True, options=options, strict=False)
            gone = [session.run({"x": f["x"].astype(np.float16) if narrow else f["x"]})["y"] for f in feeds]
            pairs = list(zip(gone, truth, strict=True))
            error = float(np.sqrt(sum(((y.astype(np.float64) - t) ** 2).sum() for y, t in pairs)))
            found[letter] = error / float(np.sqrt(sum((t**2).sum() for t in truth)))
    except BiasoptError as exc:
        return {"error": str(exc)}
    return found | {"ratio": found["b"] / found["a"] if found["a"] else None}


def half(path: Path) -> bytes:
    """The model with every float weight, input and output in float16."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    return model.SerializeToString()


def latency(kind: str, a: Path, b: Path, given: argparse.Namespace, options: dict[str, Any]) -> Latency:
    """One pair's times."""
    models = [half(path) if kind[:7] == "float16" else path for path in (a, b)]
    return converter.measure_latency(
        *models,
        provider=given.provider,
        quick=given.small,
        max_time=given.max_time,
        gate="none",
        progress=lambda stage: print(f"  {kind}: {stage}".ljust(79), end="\r", file=sys.stderr, flush=True),
        **options,
    )


if __name__ == "__main__":
    sys.exit(main())
