"""How latency was measured, in words: on what the interval rests, when measuring ended, what beside it was seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from converter.records import Latency
from converter.report import rebuilt, wording

_ENDED = {
    "narrow": "when the interval was narrow enough",
    "time": "when the time was over",
    "most blocks": "after as many blocks as there may be",
    "noise": "early, because A beside itself was too uneven to go on",
    "quick": "as planned for --quick",
    "as planned": "as planned",
}


def told(latency: Latency) -> Iterator[tuple[str, str]]:
    """Each fact with its name; what a document lacks is left out."""
    design = latency.design
    if latency.unoptimised is not None:
        yield "Unoptimised", f"{wording.speed(latency.unoptimised, 'B')}, with onnxruntime's optimisations off"
    if rests := _rests(latency, design):
        yield "Rests on", rests
    if said := _robust(_numbers(design.get("robustness"))):
        yield "Extremes", said
    if said := _load(_numbers(design.get("load"))):
        yield "Loading", said
    if latency.aa.get("ratio") is not None:
        yield "Control", f"A beside A: {control(latency)}"
    if design.get("stopped"):
        took = f", after {wording.duration(1000 * design['seconds'])}" if design.get("seconds") else ""
        yield "Ended", _ENDED.get(design["stopped"], str(design["stopped"])) + took


def control(latency: Latency) -> str:
    """What A beside itself gave: how far the machine alone can be off."""
    return f"{wording.ratio(latency.aa['ratio'])} x the time{_band(latency.aa)}"


def _numbers(found: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return rebuilt.numbers(found) if found else None


def _rests(latency: Latency, design: Mapping[str, Any]) -> str:
    """The data of the interval: blocks, or sessions where these differ more than their blocks do."""
    discarded = sum(bool(block.detail.get("discarded")) for block in latency.blocks)
    counted = wording.count(len(latency.blocks) - discarded, "block")
    if latency.blocks and design.get("unit") == "session":
        counted += f" in {wording.count(design['units'], 'session')}, which differ more than their blocks do"
    again = f"; {wording.count(discarded, 'block')} left out and made again, the GPU was unsteady" if discarded else ""
    return counted + again if latency.blocks else ""


def _robust(found: Mapping[str, Any] | None) -> str:
    """What the ratio would be by estimates that extremes do not move."""
    if not found:
        return ""
    far = wording.count(found["outliers"], "block") if found["outliers"] else "no block"
    trimmed, middle = wording.ratio(found["trimmed_ratio"]), wording.ratio(found["median_ratio"])
    return f"{far} far from the rest; without the extremes {trimmed} x the time, the middle block {middle} x"


def _load(found: Mapping[str, Any] | None) -> str:
    return f"B takes {wording.ratio(found['ratio'])} x the time of A{_band(found)}" if found else ""


def _band(found: Mapping[str, Any]) -> str:
    return (
        f" ({wording.ratio(found['low'])} to {wording.ratio(found['high'])})" if {"low", "high"} <= found.keys() else ""
    )
