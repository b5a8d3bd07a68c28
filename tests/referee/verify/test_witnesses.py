"""What a failure rests on: two witnesses, or one far beyond; and a quantizer's step that flips is none."""

from __future__ import annotations

import numpy as np
import pytest

from converter.records import OutputCheck, Stage, Verdict
from converter.referee.verify import compare
from converter.referee.verify.verdict import doubt_lone_witness
from tests import tiny
from tests.benchmarks.verdict_same import optimize_extended
from tests.benchmarks.verdict_traps import TRAPS

PASS, FAIL, OPEN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
STEPS = """(float[N,3,8,8] x) => (float[N,3,4,4] y) { q = QuantizeLinear(x, s, z)
 d = DequantizeLinear(q, s, z)
 e = Mul(d, k)
 p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(e)
 r = QuantizeLinear(p, s, z)
 y = DequantizeLinear(r, s, z) }"""


def stage(name: str, verdict: Verdict, score: float | None, limit: float | None = 3.0) -> Stage:
    return Stage(name, verdict, "said", (OutputCheck("y", verdict, score, limit),))


@pytest.mark.parametrize(
    ("stages", "verdict"),
    [
        ([stage("runtime", FAIL, 20.0)], OPEN),
        ([stage("runtime", FAIL, 41.0)], FAIL),
        ([stage("runtime", FAIL, float("inf"))], FAIL),
        ([stage("runtime", FAIL, None)], FAIL),
        ([stage("runtime", FAIL, 2.0)], FAIL),  # by something else than its ratio: a tolerance, integers
        ([stage("runtime", FAIL, 20.0), stage("runtime-deployed", FAIL, 25.0)], OPEN),
        ([stage("runtime", FAIL, 20.0), stage("algebra", OPEN, 6.0)], FAIL),
        ([stage("runtime", FAIL, 20.0), stage("algebra", PASS, 1.0)], OPEN),
        ([stage("parameters", FAIL, 20.0)], FAIL),  # a number is recomputed, not sampled
    ],
)
def test_a_lone_witness_is_a_doubt(stages: list[Stage], verdict: Verdict) -> None:
    found = doubt_lone_witness(stages)
    assert found[0].status is verdict
    assert found[0].outputs[0].status is verdict
    assert (found == tuple(stages)) is (verdict is FAIL)


@pytest.mark.parametrize("seed", [0, 7])
def test_what_float64_tells_apart_is_run_on_onnxruntime(seed: int) -> None:
    parity = compare(*TRAPS["epsilon in a logarithm"].make(), seed=seed)
    assert parity.verdict is FAIL, "the driven inputs are the same ones whatever the seed"


def test_a_bound_that_is_infinite_is_none_to_drive_to() -> None:
    text = """(int32[N,4] x) => (float[N,4] y) { f = Cast<to=1>(x)
 y = Max(f, least) }"""
    a, b = (tiny.model(text, {"least": np.asarray(v, np.float32)}) for v in (-np.inf, 0.0))
    assert compare(a, b).verdict is not PASS


def test_inputs_in_half_precision_are_not_driven_beyond_their_type() -> None:
    text = """(float16[N,4] x) => (float16[N,4] y) { a = Mul(x, k)
 y = Clip(a, low, high) }"""
    held = {"k": np.asarray(0.5, np.float16), "low": np.asarray(-3, np.float16)}
    a, b = (tiny.model(text, {**held, "high": np.asarray(v, np.float16)}) for v in (9.0, 12.0))
    assert compare(a, b).verdict is FAIL


def _steps(k: float) -> dict[str, np.ndarray]:
    return {"s": np.asarray(0.05, np.float32), "z": np.asarray(0, np.int8), "k": np.asarray(k, np.float32)}


def test_a_step_that_flips_is_no_difference() -> None:
    text = STEPS.replace("e = Mul(d, k)\n", "").replace("(e)", "(d)")
    model = tiny.model(text, {n: v for n, v in _steps(1).items() if n != "k"})
    fused = optimize_extended(model)
    assert fused is not None
    assert [n.op_type for n in fused.graph.node][1] == "QLinearAveragePool"
    parity = compare(model, fused)
    assert parity.verdict is PASS, parity.why
    runtime = next(s for s in parity.stages if s.id == "runtime")
    assert 0 < runtime.outputs[0].detail["flipped"] < 48, "the two kernels part at ties, and those are counted"


def test_another_factor_between_quantizers_is_one() -> None:
    parity = compare(tiny.model(STEPS, _steps(1.0)), tiny.model(STEPS, _steps(1.02)))
    assert parity.verdict is FAIL
