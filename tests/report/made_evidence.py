"""Evidence made by hand: pairs of models that pass, fail and stay open, and latencies, as records and documents."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

from converter.records import (
    Block,
    Environment,
    InputSet,
    Latency,
    ModelFacts,
    OutputCheck,
    Parity,
    Stage,
    Timing,
    Verdict,
)
from converter.report.documents import bench_document, verify_document

VERSION = "9.9"
A = ModelFacts(
    "models/resnet50.onnx", "a" * 64, 102_000_000, 8, 17, {"Conv": 53, "BatchNormalization": 53, "Relu": 49, "Add": 16}
)
B = ModelFacts("out/resnet50.folded.onnx", "b" * 64, 101_900_000, 8, 17, {"Conv": 53, "Relu": 49, "Add": 16})
MACHINE = Environment(
    versions={"biasopt": VERSION, "python": "3.11.2", "onnx": "1.23.2", "onnxruntime": "1.32.0", "numpy": "2.3.0"},
    ort_dists=("onnxruntime",),
    machine={"os": "Linux 6.1", "cpu": "AMD EPYC 7763", "cores": 2, "memory_bytes": 8_000_000_000},
    providers_active=("CPUExecutionProvider",),
    nodes_by_ep={"CPUExecutionProvider": 122},
)
INPUTS = InputSet("random", n=2, sha256="c" * 64, shapes={"input": (1, 3, 224, 224)}, seed=0)


def places(n: int = 53, worst: float = 0.28) -> tuple[OutputCheck, ...]:
    """Scores of ``n`` rewritten places, the third of them the worst."""
    rng = random.Random(7)
    scores = [worst if k == 2 else rng.uniform(0.02, 0.9) * min(worst, 0.28) for k in range(n)]
    return tuple(
        OutputCheck(
            f"/layer{k}/Conv",
            Verdict.PASS if score <= 1 else Verdict.FAIL,
            score,
            1.0,
            score * 1e-6,
            why="" if score <= 1 else f"its error is {score:.3g} times what rounding allows (channel 12)",
        )
        for k, score in enumerate(scores)
    )


def runtime(ratio: float = 0.95, status: Verdict = Verdict.PASS) -> Stage:
    """One output on onnxruntime."""
    detail: dict[str, Any] = {
        "error_before": 9.6e-6,
        "error_after": 9.6e-6 * ratio,
        "nonfinite": 0,
        "elements": 2000,
        "classic": {"max_abs": 3.2e-5, "mean_abs": 6e-6, "cosine": 0.9999999999, "snr_db": 97.4, "max_ulp": 512},
        "hist_log10_abs": {"low": -9.0, "step": 0.5, "counts": [3, 40, 300, 900, 620, 130, 7, 0, 0, 0], "zeros": 0},
    }
    why = "" if status is Verdict.PASS else f"its error is {ratio:.3g} times the original's"
    check = OutputCheck("logits", status, ratio, 3.0, 3.2e-5, detail=detail, why=why)
    return Stage("runtime", status, why or f"error at most {ratio:.3g} times the original's", (check,), seconds=4.2)


def decision(status: Verdict = Verdict.PASS, n: int = 5000, k: int = 0) -> Stage:
    """How often the two decide otherwise."""
    detail = {"n": n, "k": k, "upper95": 0.0006 if n > 2995 else 0.006, "margin": 0.001, "needed_n": 2995}
    why = f"{k} of {n} decisions differ" + ("" if status is Verdict.PASS else "; 2,995 inputs are needed")
    return Stage("decision", status, why, (), detail | {"metric": "top1_disagreement", "alpha": 0.05}, 60.0)


def parity(**changes: Any) -> Parity:
    """A pair that passes."""
    algebra = OutputCheck("logits", Verdict.PASS, 0.63, 4.0, 1.6e-6, detail={"e": 1.6e-6, "e_pert": 2.5e-6})
    weights = tuple(OutputCheck(f"/layer{k}/Conv weight", Verdict.PASS, 0.5, 1.0) for k in range(53))
    stages = (
        Stage("environment", Verdict.PASS, "all nodes ran on CPUExecutionProvider", seconds=0.3),
        Stage("structure", Verdict.PASS, "1 inputs and 1 outputs keep name, type and shape", seconds=0.1),
        Stage("algebra", Verdict.PASS, "changed 0.63 times as much as rounding would (limit 4)", (algebra,), seconds=5),
        Stage("parameters", Verdict.PASS, "53 folded weights computed again, at most 0.5 ulp off", weights, seconds=2),
        Stage("local", Verdict.PASS, "53 of 53 rewritten places, score at most 0.28 (limit 1)", places(), seconds=6),
        runtime(),
    )
    values: dict[str, Any] = {"level": "B", "stages": stages, "a": A, "b": B, "environment": MACHINE, "inputs": INPUTS}
    return Parity(**({"verdict": Verdict.PASS} | values | changes))


def failing() -> Parity:
    """One layer of 53 is wrong, and it shows."""
    found = list(parity().stages)
    why = "/layer2/Conv: its error is 811 times what rounding allows (channel 12)"
    found[4] = Stage("local", Verdict.FAIL, why, places(worst=811.0), seconds=6)
    found[5] = runtime(60.0, Verdict.FAIL)
    return parity(
        verdict=Verdict.FAIL,
        stages=tuple(found),
        why=f"local: {why}",
        blame="/layer2/Conv",
        warnings=("3 inputs gave numbers that are not finite in both models",),
        failing_inputs="out/failing.npz",
    )


def undecided() -> Parity:
    """Too few inputs for the margin."""
    found = (*parity().stages, decision(Verdict.INCONCLUSIVE, 500))
    why = "decision: 500 inputs are too few for a margin of 0.1 %; 2,995 are needed"
    return parity(verdict=Verdict.INCONCLUSIVE, stages=found, why=why, level="B")


COUNTS = [10, 60, 120, 100, 60, 30, 8, 4, 2, 2]


def timing(median: float, **changes: Any) -> Timing:
    """Four hundred runs around a median."""
    values: dict[str, Any] = {
        "n": 400,
        "p50_ms": median,
        "p90_ms": 1.08 * median,
        "p99_ms": 1.3 * median,
        "mean_ms": 1.02 * median,
        "min_ms": 0.97 * median,
        "iqr_ms": 0.05 * median,
        "load_ms": 240.0,
        "first_run_ms": 2 * median,
        "peak_bytes": 310_000_000,
        "detail": {"histogram": {"edges_ms": [38.0 + k for k in range(11)], "counts": COUNTS, "above": 4}},
    }
    return Timing(**(values | changes))


def latency(ratio: float = 0.998, half: float = 0.005, margin: float = 0.02, **changes: Any) -> Latency:
    """Twenty blocks of twenty pairs; the verdict follows from the interval."""
    rng = random.Random(11)
    logs = [math.log(ratio) + rng.gauss(0, 2 * half) for _ in range(20)]
    blocks = tuple(Block(k // 4, x, 41.0, 41.0 * math.exp(x)) for k, x in enumerate(logs))
    low, high = ratio * math.exp(-half), ratio * math.exp(half)
    slower, sure = low > 1 + margin, high < 1 + margin
    outcome = "SLOWER" if slower else "NOT-SLOWER" if sure else "INCONCLUSIVE"
    verdict = Verdict.FAIL if slower else Verdict.PASS if sure else Verdict.INCONCLUSIVE
    values: dict[str, Any] = {
        "aa": {"ratio": 1.001, "low": 0.997, "high": 1.005, "half_width": 0.004},
        "design": {"sessions": 5, "blocks": 20, "pairs": 20, "seed": 0, "threads": 1, "opt_level": "all"},
        "why": "" if sure else f"the interval is [{low:.3f}, {high:.3f}] and the limit {1 + margin:g}",
        "environment": MACHINE,
        "model_a": A,
        "model_b": B,
        "inputs": replace(INPUTS, n=1),
    }
    a, b = timing(41.0), timing(41.0 * ratio, load_ms=199.0, peak_bytes=300_000_000)
    made = Latency(verdict, outcome, ratio, low, high, margin, "not-slower", a=a, b=b, blocks=blocks, **values)
    return replace(made, **changes)


def verify_json(given: Parity | None = None, bench: Latency | None = None) -> dict[str, Any]:
    """A ``biasopt.verify/1``."""
    argv = ["verify", A.path, B.path]
    return verify_document(parity() if given is None else given, argv=argv, version=VERSION, bench=bench)


def bench_json(given: Latency | None = None) -> dict[str, Any]:
    """A ``biasopt.bench/1``."""
    argv = ["bench", A.path, B.path]
    return bench_document(latency() if given is None else given, argv=argv, version=VERSION)
