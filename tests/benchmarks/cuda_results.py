"""What folding does on a GPU, measured on one: errors under its kinds of arithmetic, times, load times.

    python -m tests.benchmarks.cuda_results                         # writes docs/results-cuda.{json,md}
    python -m tests.benchmarks.cuda_results --nets ResNet-50 --batches 1
    python -m tests.benchmarks.cuda_results --provider cpu --small --out /tmp/rehearsal

Results are added to the JSON that is there, so that it can be made in pieces. Without a GPU it refuses to run, but
for a rehearsal on the CPU, which writes nothing into docs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

import converter
from converter.errors import BiasoptError
from converter.referee.reference.evaluator import Reference
from converter.runtime import Session
from converter.runtime.machine import describe_environment
from tests.benchmarks import cuda_nets, cuda_tables

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
    for name in given.nets:
        for batch in given.batches:
            print(f"{name}, batch {batch}", file=sys.stderr, flush=True)
            results["nets"].setdefault(name, {})[str(batch)] = measured(name, batch, given)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            (given.out / "results-cuda.md").write_text(cuda_tables.markdown(results), encoding="utf-8")
    return 0


def probe(provider: str) -> None:
    """Raise unless this provider runs a convolution here."""
    tiny = cuda_nets.build("U-Net", 1, small=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        onnx.save(tiny, path)
        Session(path, provider).run({"x": np.zeros((1, 3, 64, 64), np.float32)})


def measured(name: str, batch: int, given: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with pair(name, batch, small=given.small) as (a, b):
        if batch == 1:
            found["errors"] = errors(a, b, given.provider)
        found["latency"] = {
            kind: latency(kind, a, b, given) for kind in LATENCY if given.provider == "cuda" or kind in ON_CPU
        }
        counts = [len(onnx.load(path, load_external_data=False).graph.node) for path in (a, b)]
        found["nodes"] = dict(zip("ab", counts, strict=True))
    return found


@contextmanager
def pair(name: str, batch: int, *, small: bool) -> Iterator[tuple[Path, Path]]:
    """Give a net and what ``fold`` makes of it, as files."""
    with tempfile.TemporaryDirectory(prefix="biasopt-cuda-") as folder:
        a, b = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        onnx.save(cuda_nets.build(name, batch, small=small), a)
        converter.fold(a, out=b, verify=False)
        yield a, b


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


def latency(kind: str, a: Path, b: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One pair's times, without the single samples."""
    models = [half(path) if kind == "float16" else path for path in (a, b)]
    try:
        found = converter.measure_latency(
            *models,
            provider=given.provider,
            quick=given.small,
            max_time=given.max_time,
            gate="none",
            progress=lambda stage: print(f"  {kind}: {stage}".ljust(79), end="\r", file=sys.stderr, flush=True),
            **LATENCY[kind],
        )
    except BiasoptError as exc:
        return {"error": str(exc)}
    return cuda_tables.latency_record(found)


if __name__ == "__main__":
    sys.exit(main())
