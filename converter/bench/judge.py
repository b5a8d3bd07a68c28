"""From times to a verdict, with the sentence that says why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from converter.bench import design as gates
from converter.bench.design import Design
from converter.bench.interleaved import Measurement, Mode, ModelTimes, is_steady
from converter.records import Latency, Timing, Verdict
from converter.runtime.gpu import POWER_CAP
from converter.stats import Array, Interval, bound_quantile, estimate_interval, measure_robustness

P99_RUNS = 299  # from here on the largest sample bounds the 99th percentile with 95 % confidence
P99_GATE_RUNS = 662  # MLPerf LoadGen's early stopping: 99 % confidence with one sample above
_BINS = 40


def summarize_times(found: Measurement) -> tuple[Timing, Timing]:
    """Both models' times; the histograms share their edges."""
    samples = [np.concatenate([getattr(s, side) for s in found.samples]) for side in ("a", "b")]
    edges = _find_edges(samples)
    a, b = (_summarize(values, side, edges, found.repeat) for values, side in zip(samples, found.sides, strict=True))
    return a, b


def _summarize(values: Array, side: ModelTimes, edges: Array, repeat: int) -> Timing:
    p25, p50, p75, p90, p99 = (float(q) for q in np.percentile(values, [25, 50, 75, 90, 99]))
    # The mean of several runs in a row hides the slow one among them: no tail can be read off it.
    tail = len(values) >= P99_RUNS and repeat == 1
    return Timing(
        n=len(values) * repeat,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99 if tail else None,
        mean_ms=float(values.mean()),
        min_ms=float(values.min()),
        iqr_ms=p75 - p25,
        load_ms=median(side.loads),
        first_run_ms=median(side.firsts),
        peak_bytes=side.peak_bytes,
        detail=_describe_times(values, side, edges, repeat, tail=tail),
    )


def _describe_times(values: Array, side: ModelTimes, edges: Array, repeat: int, *, tail: bool) -> dict[str, Any]:
    counts, _ = np.histogram(values, edges)
    detail: dict[str, Any] = {
        "histogram": {
            "edges_ms": [round(float(e), 6) for e in edges],
            "counts": [int(c) for c in counts],
            "above": int(np.count_nonzero(values > edges[-1])),
        },
        "samples": len(values),
        "runs_per_sample": repeat,
        "loads_ms": [round(x, 3) for x in side.loads],
        "first_runs_ms": [round(x, 3) for x in side.firsts],
        "warm_up_runs": [w.runs for w in side.warm_ups],
    }
    if tail:
        gated = len(values) >= P99_GATE_RUNS
        detail["p99_upper_ms"] = bound_quantile([float(v) for v in values], 0.99, 0.99 if gated else 0.95)
        detail["p99_may_gate"] = gated
    if side.builds:
        detail["build_ms"] = median(side.builds)
        detail["builds_ms"] = [round(x, 3) for x in side.builds]
    if side.submits:
        detail["submit_ms"], detail["total_ms"] = (float(median(x)) for x in zip(*side.submits, strict=True))
    return detail


def _find_edges(samples: Sequence[Array]) -> Array:
    """From the fastest to the slower 99th percentile; what lies above is counted, not drawn."""
    low = min(float(s.min()) for s in samples)
    high = max(float(np.percentile(s, 99)) for s in samples)
    return np.linspace(low, high if high > low else low * 1.01 + 1e-9, _BINS + 1)


_WORDS = {"FASTER": "faster", "NOT-SLOWER": "not slower", "SLOWER": "slower", "EQUIVALENT": "as fast"}
_LOAD_ALPHA = 0.005  # loads follow one another closely, and nobody asked: say something only if it is plain
_MORE = {
    "time": "give more time with {time}",
    "most blocks": "this machine needs a wider {margin}",
    "quick": "measure without --quick",
    "as planned": "give more time with {time}",
    "narrow": "the difference is about as large as the margin",
}


def judge(found: Measurement) -> Latency:
    """Conclude from what was measured; facts about models, inputs and machine are the caller's to add."""
    design, counted = found.design, found.counted
    main = estimate_interval([b.log_ratio for b in counted], [b.session for b in counted], design.alpha)
    control = estimate_interval(found.aa, range(len(found.aa)), design.alpha)
    noise = 0.0 if is_steady(found.aa, design) else abs(control.theta) + control.half_width
    sure = gates.widen_interval(main.low, main.high, noise)
    outcome = gates.conclude_outcome(*sure, design.margin, design.gate)
    verdict = gates.judge_gate(*sure, design.margin, design.gate)
    open_ = "INCONCLUSIVE" in (outcome, verdict.value)
    doubt = _explain_noise(control, design) if noise and open_ else _compare_cycles(found, main)
    if doubt:
        outcome = "INCONCLUSIVE"
        verdict = Verdict.SKIPPED if verdict is Verdict.SKIPPED else Verdict.INCONCLUSIVE
    a, b = summarize_times(found)
    latency = Latency(
        verdict,
        outcome,
        ratio=math.exp(main.theta),
        low=math.exp(main.low),
        high=_exp(main.high),
        margin=design.margin,
        gate=str(design.gate),
        why="",
        a=a,
        b=b,
        blocks=tuple(found.blocks),
        aa=_describe_control(control, found),
        design=_describe_design(found, main),
        warnings=tuple(
            found.warnings + _find_warnings(found, a) + [_warn_of_noise(control, design)] * bool(noise and not open_)
        ),
    )
    return replace(latency, why=_explain(latency, doubt, found.stopped, design))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # above, exp overflows


def _explain_noise(control: Interval, design: Design) -> str:
    """Why the machine cannot be trusted with this margin, by what A beside A showed."""
    return f"machine too noisy ({_format_control(control, design)})"


def _warn_of_noise(control: Interval, design: Design) -> str:
    """A difference that is larger than what A beside A showed is one all the same."""
    return (
        f"the machine is noisy ({_format_control(control, design)}); the verdict holds with that added to the interval"
    )


def _format_control(control: Interval, design: Design) -> str:
    if control.half_width > math.log1p(design.margin):
        return f"A/A ±{_format_percent(control.half_width)}"
    return f"A/A {'+' if control.theta > 0 else '-'}{_format_percent(abs(control.theta))}"


def _compare_cycles(found: Measurement, main: Interval) -> str:
    """Whether counting cycles in place of seconds says something else: then clocks made the difference."""
    design, counted = found.design, found.counted
    cycles = [b.cycles_log_ratio for b in counted]
    known = [float(c) for c in cycles if c is not None]
    if not known or len(known) < len(counted):
        return ""
    other = estimate_interval(known, [b.session for b in counted], design.alpha)
    said, again = (gates.conclude_outcome(i.low, i.high, design.margin, design.gate) for i in (main, other))
    return "" if said == again else f"the GPU's clock moved: {said} in seconds, {again} in cycles"


def _format_percent(log: float) -> str:
    return f"{100 * math.expm1(log):.1f} %" if log < 5 else "more than 100 times"


def _describe_control(control: Interval, found: Measurement) -> dict[str, Any]:
    return {
        "ratio": math.exp(control.theta),
        "low": math.exp(control.low),
        "high": _exp(control.high),
        "half_width": control.half_width,
        "blocks": len(found.aa),
        "steady": is_steady(found.aa, found.design),
    }


def _describe_design(found: Measurement, main: Interval) -> dict[str, Any]:
    sessions = {b.session for b in found.blocks}
    return found.design.record() | {
        "sessions": len(sessions),
        "blocks": len(found.counted),
        "blocks_per_session": found.design.blocks,
        "discarded": len(found.blocks) - len(found.counted),
        "runs_per_sample": found.repeat,
        "mode": found.mode.value,
        "unit": main.unit,
        "units": main.n,
        "icc": round(main.icc, 4),
        "p_sessions": None if main.p_sessions is None else round(main.p_sessions, 6),
        "confidence": 1 - 2 * found.design.alpha,
        "half_width": main.half_width,
        "stopped": found.stopped,
        "seconds": round(found.seconds, 1),
        "load": compute_load_ratio(found),
        "robustness": measure_robustness([b.log_ratio for b in found.counted]),
    }


def compute_load_ratio(found: Measurement) -> dict[str, float]:
    """Time to load B over that of A, from loads that followed one another."""
    pairs = zip(found.sides[0].loads, found.sides[1].loads, strict=True)
    logs = [math.log(b / a) for a, b in pairs if a > 0 and b > 0]
    of = estimate_interval(logs, range(len(logs)), _LOAD_ALPHA)
    return {"ratio": math.exp(of.theta), "low": math.exp(of.low), "high": _exp(of.high)}


def _find_warnings(found: Measurement, a: Timing) -> list[str]:
    said = []
    unsettled = sum(not w.settled for side in found.sides for w in side.warm_ups)
    total = sum(len(side.warm_ups) for side in found.sides)
    if unsettled:
        said.append(f"{unsettled} of {total} warm-ups ended before the times agreed within 3 %")
    kept = [b for b in found.counted if b.unsteady]
    if kept:
        reasons = sorted({why for b in kept for why in b.throttle or ()}) or ["its clock drifts"]
        said.append(f"the GPU was unsteady in {len(kept)} blocks that count ({', '.join(reasons)})")
    capped = sum(POWER_CAP in (b.throttle or ()) and not b.unsteady for b in found.counted)
    if capped:
        said.append(f"the GPU was at its power cap, with a steady clock, in {capped} blocks")
    outliers = measure_robustness([b.log_ratio for b in found.counted])["outliers"]
    if outliers:
        blocks = "block lies" if outliers == 1 else "blocks lie"
        said.append(f"{outliers} {blocks} far from the rest; none is left out")
    if found.mode is Mode.TWO_PROCESSES:
        said.append("memory does not hold both models: each block ran them in processes of their own")
    if a.detail["samples"] < 100:
        said.append(f"only {a.detail['samples']} samples of each model")
    return said


def _explain(latency: Latency, doubt: str, stopped: str, design: Design) -> str:
    head = latency.numbers
    if doubt:
        return f"{head}: {doubt}"
    margin = f"{100 * latency.margin:g} %"
    if latency.outcome == "INCONCLUSIVE":
        more = _MORE.get(stopped, "measure longer").format(time=design.advice.time, margin=design.advice.margin)
        return f"{head}: cannot be told apart from the margin of {margin}; {more}"
    said = f"{head}: {_WORDS[latency.outcome]}"
    if latency.outcome == "NOT-SLOWER":
        said += f" (by {margin} at most)" if latency.high > 1 else ""
    if design.gate.kind == "faster" and latency.verdict is not Verdict.PASS:
        wanted = f"by {100 * design.gate.amount:g}%"
        if latency.outcome == "SLOWER":
            return f"{said}, and faster {wanted} was asked for"
        not_ = "not" if latency.verdict is Verdict.FAIL else "perhaps not"
        said += f", but {not_} {'faster ' * (latency.outcome != 'FASTER')}{wanted}"
    return said


def explain_context(latency: Latency) -> str:
    """What a reader should know beside the ratio: why it is near one, and what loading takes."""
    said = []
    a, b = latency.model_a, latency.model_b
    nodes = latency.design["nodes_run"]
    if a is not None and b is not None and latency.design["opt_level"] != "off":
        gone = a.nodes.get("BatchNormalization", 0) > b.nodes.get("BatchNormalization", 0)
        if gone and nodes["a"] == nodes["b"]:
            said.append("onnxruntime folds the batch norms of A itself at load, so a gain at run time is not expected")
    load = latency.design["load"]
    if load["low"] > 1 or load["high"] < 1:
        said.append(f"load time {load['ratio']:.2f}x")
    return "".join(f"; {each}" for each in said)
