"""docs/results-cuda.md, from the JSON beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from converter.records import Latency

Json = Mapping[str, Any]


def latency_record(found: Latency) -> dict[str, Any]:
    """What of a latency belongs into the results."""
    record = {
        "outcome": found.outcome,
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "why": found.why,
        "a_ms": found.a.p50_ms,
        "b_ms": found.b.p50_ms,
        "load": found.design["load"],
        "nodes_run": found.design["nodes_run"],
        "submit_ms": [t.detail.get("submit_ms") for t in (found.a, found.b)],
        "peak_bytes": [t.peak_bytes for t in (found.a, found.b)],
        "aa": found.aa,
        "design": {
            k: found.design[k] for k in ("sessions", "blocks", "pairs", "seconds", "stopped", "unit", "discarded")
        },
        "warnings": list(found.warnings),
    }
    return record | ({"unoptimised": latency_record(found.unoptimised)} if found.unoptimised else {})


def markdown(results: Json) -> str:
    """The document."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Json) -> Iterator[str]:
    env = results["env"]
    where = env["gpu"].get("name") or env["machine"].get("cpu")
    yield "# Folding on a GPU"
    yield ""
    if results["rehearsal"]:
        yield "**A rehearsal without a GPU or with small nets: these numbers say nothing about one.**"
        yield ""
    driver, version = env["gpu"].get("driver", "none"), env["versions"]["onnxruntime"]
    yield f"Written by `python -m tests.benchmarks.cuda_results` on {results['date']}. {where}, driver {driver},"
    yield f"onnxruntime {version}. A is the original, B is folded."
    yield ""
    yield "## Errors against float64"
    yield ""
    yield "Relative (2-norm) error of the outputs, four inputs of batch 1; R is B's over A's."
    yield ""
    yield "| net | arithmetic | A | B | R |"
    yield "|---|---|---:|---:|---:|"
    for name, _, found in _each(results):
        for kind, error in found.get("errors", {}).items():
            if "error" in error:
                yield f"| {name} | {kind} | {_cut(error['error'])} | | |"
            else:
                yield f"| {name} | {kind} | {error['a']:.1e} | {error['b']:.1e} | {_number(error['ratio'])} |"
    yield ""
    yield "## Time of B relative to A"
    yield ""
    yield 'Interleaved pairs with a 90 % interval (docs/latency.md); "off" is without onnxruntime\'s own optimisations.'
    yield ""
    yield "| net | batch | how | A | B | B / A | interval | outcome | queueing A, B |"
    yield "|---|---:|---|---:|---:|---:|---|---|---|"
    for name, batch, found in _each(results):
        for kind, latency in found.get("latency", {}).items():
            yield _row(name, batch, kind, latency)
            if "unoptimised" in latency:
                yield _row(name, batch, f"{kind}, off", latency["unoptimised"])
    yield ""
    yield "## What biases cost: the folded net beside the same without any"
    yield ""
    yield "The twin gives other answers; it says what biases take at run time. A node or kernel is one of a run's."
    yield ""
    yield "| net | batch | how | folded | without biases | ratio | biases | µs a bias | interval | nodes | kernels |"
    yield "|---|---:|---|---:|---:|---:|---:|---:|---|---|---|"
    for name, batch, found in _each(results):
        for kind, latency in found.get("bias", {}).items():
            yield _bias_row(name, batch, kind, latency)
    yield ""
    yield "With `--allow remove-biases` on random rows, beside the folded net:"
    yield ""
    yield "| net | batch | biases that went | ratio | interval |"
    yield "|---|---:|---:|---:|---|"
    for name, batch, found in _each(results):
        if removal := found.get("removal"):
            if "ratio" in removal:
                rest = f"{removal['ratio']:.3f} | {removal['low']:.3f} to {removal['high']:.3f} |"
            else:
                rest = f"{_cut(removal.get('error', ''))} | |"
            yield f"| {name} | {batch} | {removal.get('biases', '')} | {rest}"
    yield ""
    if results.get("skipped"):
        yield f"Left out for want of time: {len(results['skipped'])} measurements."
        yield ""
    yield "## Load time and memory of the process, B relative to A"
    yield ""
    yield "| net | batch | load | interval (99 %) | memory |"
    yield "|---|---:|---:|---|---:|"
    for name, batch, found in _each(results):
        latency = found.get("latency", {}).get("as deployed", {})
        if "load" in latency:
            load, (a, b) = latency["load"], latency["peak_bytes"]
            memory = f"{b / a:.2f}" if a and b else ""
            yield f"| {name} | {batch} | {load['ratio']:.2f} | {load['low']:.2f} to {load['high']:.2f} | {memory} |"


def _each(results: Json) -> Iterator[tuple[str, str, Json]]:
    for name, batches in results["nets"].items():
        for batch, found in batches.items():
            yield name, batch, found


def _row(name: str, batch: str, kind: str, found: Json) -> str:
    if "error" in found:
        return f"| {name} | {batch} | {kind} | {_cut(found['error'])} | | | | | |"
    queued = ", ".join(f"{ms:.2f} ms" for ms in found["submit_ms"] if ms is not None)
    return (
        f"| {name} | {batch} | {kind} | {found['a_ms']:.3f} ms | {found['b_ms']:.3f} ms | {found['ratio']:.3f} "
        f"| {found['low']:.3f} to {found['high']:.3f} | {found['outcome']} | {queued} |"
    )


def _bias_row(name: str, batch: str, kind: str, found: Json) -> str:
    if "error" in found:
        return f"| {name} | {batch} | {kind} | {_cut(found['error'])} | | | | | | | |"
    cost, counts = found["cost"], found["counts"]
    low, high = (f"{v:.2f}" if v is not None else "?" for v in (cost["low"], cost["high"]))
    nodes, kernels = (f"{counts['folded'][key]} → {counts['twin'][key]}" for key in ("nodes", "kernels"))
    return (
        f"| {name} | {batch} | {kind} | {found['a_ms']:.3f} ms | {found['b_ms']:.3f} ms | {found['ratio']:.3f} "
        f"| {cost['biases']} | {cost['us'] or 0:.2f} | {low} to {high} | {nodes} | {kernels} |"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cut(text: str) -> str:
    return text.replace("|", "/")[:120]
