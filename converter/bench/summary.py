"""How long one model takes: quantiles that the number of samples allows, and a histogram for the report."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from converter.bench.measured import Measured, Side
from converter.bench.statistics import Array, upper_quantile
from converter.records import Timing

P99_RUNS = 299  # from here on the largest sample bounds the 99th percentile with 95 % confidence
P99_GATE_RUNS = 662  # MLPerf LoadGen's early stopping: 99 % confidence with one sample above
_BINS = 40


def timings(found: Measured) -> tuple[Timing, Timing]:
    """Both models' times; the histograms share their edges."""
    samples = [np.concatenate([getattr(s, side) for s in found.samples]) for side in ("a", "b")]
    edges = _edges(samples)
    a, b = (_timing(values, side, edges, found.repeat) for values, side in zip(samples, found.sides, strict=True))
    return a, b


def _timing(values: Array, side: Side, edges: Array, repeat: int) -> Timing:
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
        detail=_detail(values, side, edges, repeat, tail=tail),
    )


def _detail(values: Array, side: Side, edges: Array, repeat: int, *, tail: bool) -> dict[str, Any]:
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
        detail["p99_upper_ms"] = upper_quantile([float(v) for v in values], 0.99, 0.99 if gated else 0.95)
        detail["p99_may_gate"] = gated
    if side.submits:
        detail["submit_ms"], detail["total_ms"] = (float(median(x)) for x in zip(*side.submits, strict=True))
    return detail


def _edges(samples: Sequence[Array]) -> Array:
    """From the fastest to the slower 99th percentile; what lies above is counted, not drawn."""
    low = min(float(s.min()) for s in samples)
    high = max(float(np.percentile(s, 99)) for s in samples)
    return np.linspace(low, high if high > low else low * 1.01 + 1e-9, _BINS + 1)
