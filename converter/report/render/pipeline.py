"""Reports for programs beside CI: flat metrics, Bencher's JSON, OpenMetrics and a block for a model card; documents in.

``metrics`` is one flat JSON of numbers, as DVC's ``metrics:``, `mlflow.log_metrics` and W&B's summaries take it. A gate
is 1 where it passed, 0 where it failed, and is left out where it was not decided: a number that means nothing is worse
than none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from converter.report.wording import break_commands, plain

Document = Mapping[str, Any]
Number = int | float
_PASSED = {"PASS": 1, "FAIL": 0}


# -- numbers -----------------------------------------------------------------------------------------------


def flatten(document: Document) -> dict[str, Number]:
    """Every number of a document that somebody may want to follow over time, by a name with slashes."""
    return {name: value for name, value in _numbers(document) if isinstance(value, int | float) and value == value}


def _numbers(document: Document) -> Iterator[tuple[str, Any]]:
    yield "exit_code", document.get("exit_code")
    counts = document.get("counts") or {}
    for when, found in counts.items():
        for name, value in found.items():
            yield f"{name}/{when}", value
    if "rewrites" in document:
        yield "rewrites", len(document["rewrites"])
    for side, model in (document.get("models") or {}).items():
        yield f"size_bytes/{side}", (model or {}).get("size_bytes")
    parity = document.get("parity") or (document if "stages" in document else None)
    if parity is not None:
        yield from _parity(parity)
    if (latency := document.get("bench")) is not None:
        yield from _latency(latency)


def _parity(parity: Document) -> Iterator[tuple[str, Any]]:
    yield "parity/passed", _PASSED.get(parity["verdict"])
    for stage in parity.get("stages") or ():
        name = f"parity/{stage['id']}"
        yield f"{name}/passed", _PASSED.get(stage["status"])
        for key in ("score", "max_abs"):
            found = [v for out in stage["outputs"] if isinstance(v := out.get(key), int | float)]
            if found:
                yield f"{name}/{key}", max(found)


def _latency(latency: Document) -> Iterator[tuple[str, Any]]:
    yield "latency/passed", _PASSED.get(latency["verdict"])
    for key in ("ratio", "low", "high", "margin"):
        yield f"latency/{key}", latency.get(key)
    for side in ("a", "b"):
        for key in ("p50_ms", "p90_ms", "load_ms", "peak_bytes"):
            yield f"latency/{side}/{key}", (latency.get(side) or {}).get(key)


# -- forms -------------------------------------------------------------------------------------------------


def render_metrics(document: Document) -> str:
    """One flat JSON object of numbers."""
    return _dump(flatten(document))


def render_bmf(document: Document) -> str:
    """Bencher Metric Format: measures of one benchmark, which has the model's name; times in nanoseconds."""
    found = flatten(document)
    measures: dict[str, dict[str, Number]] = {}
    if "latency/ratio" in found:
        bounds = {"lower_value": found["latency/low"], "upper_value": found["latency/high"]}
        measures["latency-ratio"] = {"value": found["latency/ratio"], **bounds}
        measures["latency"] = {"value": found["latency/b/p50_ms"] * 1e6}
    names = {"size_bytes/b": "file-size", "nodes/after": "nodes", "parameter_bytes/after": "parameter-bytes"}
    names |= {"latency/b/peak_bytes": "peak-memory", "parity/runtime/score": "error-ratio"}
    measures |= {to: {"value": found[name]} for name, to in names.items() if name in found}
    return _dump({_name_model(document): measures})


def render_openmetrics(document: Document) -> str:
    """OpenMetrics text, as GitLab's ``metrics`` reports and Prometheus read it."""
    label = re.sub(r'([\\"])', r"\\\1", _name_model(document)).replace("\n", " ")
    lines = []
    for name, value in flatten(document).items():
        metric = "biasopt_" + re.sub(r"\W+", "_", name)
        lines += [f"# TYPE {metric} gauge", f'{metric}{{model="{label}"}} {value}']
    return "\n".join([*lines, "# EOF", ""])


def render_card(document: Document) -> str:
    """A block of Markdown for a model card: what was done, what was checked, and with what."""
    found, tool = flatten(document), document.get("tool") or {}
    models = document.get("models") or {}
    parity = document.get("parity") or (document if "stages" in document else None)
    rows: list[tuple[str, str]] = []
    for title, side in (("made from", "a"), ("this model", "b")):
        if digest := (models.get(side) or {}).get("sha256"):
            rows.append((title, f"`sha256:{digest}`"))
    if parity is not None:
        rows.append(
            ("same answers", f"{parity['verdict']}, level {parity.get('level') or document.get('claim_level')}")
        )
    if "latency/ratio" in found:
        interval = f"[{found['latency/low']:.3f}, {found['latency/high']:.3f}]"
        rows.append(("time, as a multiple of the original's", f"{found['latency/ratio']:.3f} {interval}"))
    for title, name in (("batch norms", "batch_norms"), ("nodes", "nodes"), ("parameters, bytes", "parameter_bytes")):
        if f"{name}/after" in found:
            rows.append((title, f"{found[f'{name}/after']:,} (before: {found[f'{name}/before']:,})"))
    if command := (document.get("repro") or {}).get("cmd"):
        rows.append(("command", f"`{command.replace('`', '')}`"))
    lines = ["## Equivalence", "", f"Checked by biasopt {tool.get('version', '')}.", "", "| | |", "| --- | --- |"]
    lines += [f"| {title} | {' '.join(plain(value).split()).replace('|', '&#124;')} |" for title, value in rows]
    return break_commands("\n".join([*lines, ""]))


def _name_model(document: Document) -> str:
    models = document.get("models") or {}
    paths = [(models.get(side) or {}).get("path") for side in ("a", "b")]
    return next((PurePath(path).name for path in [*paths, document.get("input")] if path), "model")


def _dump(value: Any) -> str:
    # A job that prints the file gives no orders to the CI's runner, and the JSON stays what it is.
    return json.dumps(value, indent=1, allow_nan=False).replace("::", ":\\u003a").replace("##[", "#\\u0023[") + "\n"
