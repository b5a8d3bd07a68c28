"""How often does the referee doubt a correct fold, and miss a wrong one?

``python -m tests.benchmarks.false_alarms --count 100`` folds seeded nets of several architectures with this tool,
judges every pair, and then judges the same pairs with one bug in one layer. It prints the verdicts and the
largest scores, and exits 1 if a correct fold did not pass.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

import converter
from converter.records import Parity, Verdict
from converter.referee.verify import compare
from tests.referee.verify import nets

SIZES = {"plain": nets.plain, "mobile": nets.mobile, "residual": nets.residual}


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.load_from_string(converter.fold(model, verify=False).to_bytes())


def spoiled(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """One channel of one folded weight times 1.01, the smallest of the injected bugs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rng = np.random.default_rng(seed)
    held = [t for t in copy.graph.initializer if len(t.dims) == 4]
    tensor = held[rng.integers(len(held))]
    value = numpy_helper.to_array(tensor).copy()
    value[rng.integers(len(value))] *= np.float32(1.01)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return copy


def score(parity: Parity, stage: str) -> float:
    checks = [c for s in parity.stages if s.id == stage for c in s.outputs]
    return max((c.score or 0.0 for c in checks), default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="folds")
    parser.add_argument("--start", type=int, default=0, help="first seed")
    asked = parser.parse_args()
    right, wrong, top = Counter[str](), Counter[str](), Counter[str]()
    begun = time.monotonic()
    for seed in range(asked.start, asked.start + asked.count):
        name, make = list(SIZES.items())[seed % len(SIZES)]
        model = make(seed)
        result = folded(model)
        parity = compare(model, result, seed=seed)
        right[parity.verdict.value] += 1
        for stage in ("algebra", "parameters", "local", "runtime", "runtime-deployed"):
            top[stage] = max(top[stage], score(parity, stage))  # type: ignore[assignment]
        if parity.verdict is not Verdict.PASS:
            print(f"seed {seed} ({name}): {parity.verdict.value}: {parity.why}")
        wrong[compare(model, spoiled(result, seed), seed=seed).verdict.value] += 1
    print(f"{asked.count} correct folds: {dict(right)}; largest scores: { {k: round(v, 3) for k, v in top.items()} }")
    print(f"{asked.count} with one channel x1.01: {dict(wrong)}; {time.monotonic() - begun:.0f} s")
    return int(right[Verdict.PASS.value] != asked.count)


if __name__ == "__main__":
    sys.exit(main())
