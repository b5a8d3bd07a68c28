"""Rows become results, block by block: what was measured, with intervals. Plain JSON values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from converter.study import analysis_other as other
from converter.study import statistics as stats
from converter.study.compared import Result, Row, arms, compared, differences, mean_interval, values
from converter.study.plan import parameters


def results(rows: Sequence[Row], margin: float, share: float) -> dict[str, Any]:
    """Every block that has rows.

    Parameters
    ----------
    margin : float
        In percentage points.
    share : float
        Test images over training images of a split.
    """
    by_block: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_block[row["block"]].append(row)
    found: dict[str, Any] = {}
    for block, make in _MADE.items():
        if by_block[block]:
            found[block] = make(by_block[block], margin, share)
    return found


def in_parameters(widths: Result, image: Sequence[int], classes: int) -> None:
    """Add to each multiplier in channels what it is in parameters of the whole net."""
    for made in filter(None, widths["multiplier"].values()):
        for at in made["widths"]:
            w, factor = at["width"], at["factor"]
            before = parameters(w, image, classes, biases=True)
            after = None if factor is None else parameters(factor * w, image, classes, biases=False)
            at["parameters"] = None if after is None else after / before


def _widths(rows: Sequence[Row], margin: float, share: float) -> Result:
    main = [row for row in rows if row["bias"] != "none"]
    found = compared(main, ("input", "width"), margin, share)
    nowhere = [
        {"input": i, "width": w, **mean_interval(list(seen.values()))}
        for i in values(rows, "input")
        for w in values(rows, "width")
        if (seen := arms(rows, {"input": i, "width": w, "bias": "none"}))
    ]
    inputs = [i for i in ("raw", "centred", "pixel") if any(c["input"] == i for c in found)]
    return {
        "comparisons": found,
        "nowhere": nowhere,
        "sequence": {i: _sequence([c for c in found if c["input"] == i]) for i in inputs},
        "multiplier": {i: _multiplier([r for r in main if r["input"] == i], found, i) for i in inputs},
    }


def _sequence(found: list[Result]) -> Result:
    """Equivalence tested from the widest down, as far as it goes."""
    wide = sorted(found, key=lambda c: -c["width"])
    held = stats.fixed_sequence([c["p_tost"] for c in wide])
    widths = [c["width"] for c in wide]
    return {"equivalent": widths[:held], "stopped_at": widths[held] if held < len(widths) else None}


def _multiplier(rows: Sequence[Row], found: Sequence[Result], kind: str) -> Result | None:
    from converter.study.multiplier import multiplier

    errors = {}
    for width in values(rows, "width"):
        a, b = (arms(rows, {"width": width, "bias": bias}) for bias in ("all", "head"))
        seeds = sorted(a.keys() & b.keys())
        errors[width] = tuple(1 - np.array([arm[s] for s in seeds]) / 100 for arm in (a, b))
    made = multiplier(errors, 0.5 / 1000)  # type: ignore[arg-type]
    if made is None:
        return None
    widths = [asdict(w) | {"at_ceiling": w.at_ceiling} for w in made.widths]
    return {"factor": made.factor, "low": made.low, "high": made.high, "widths": widths}


def _norms(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {"comparisons": compared(rows, ("norm", "width"), margin, share)}


def _depth(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {"comparisons": compared(rows, ("depth", "width"), margin, share)}


def _capacity(rows: Sequence[Row], margin: float, share: float) -> Result:
    """What 2 and 4 times the channels do to accuracy, and the bias with and without weight decay."""
    widths, decays = values(rows, "width"), values(rows, "weight_decay")
    places = [(d, b, w) for d in decays for b in ("all", "head") for w in widths[1:]]
    family, base = [], {}
    for decay, bias, width in places:
        base = {"weight_decay": decay, "bias": bias}
        family.append(differences(arms(rows, base | {"width": width}), arms(rows, base | {"width": widths[0]})))
    gains = [
        {"weight_decay": d, "bias": b, "width": w, "times": w / widths[0], **asdict(j)}
        for (d, b, w), j in zip(places, stats.judge(family, margin, share), strict=True)
    ]
    accuracy = [
        {"weight_decay": d, "bias": b, "width": w, **mean_interval(list(seen.values()))}
        for d in decays
        for b in ("all", "head")
        for w in widths
        if (seen := arms(rows, {"weight_decay": d, "bias": b, "width": w}))
    ]
    comparisons = compared(rows, ("weight_decay", "width"), margin, share)
    return {"base": widths[0], "gains": gains, "accuracy": accuracy, "comparisons": comparisons}


_MADE: dict[str, Callable[[Sequence[Row], float, float], Result]] = {
    "exact": other.exact,
    "identity": other.identity,
    "contrast": other.contrast,
    "widths": _widths,
    "recall": other.recall,
    "ablation": other.ablation,
    "norms": _norms,
    "capacity": _capacity,
    "depth": _depth,
    "drift": other.drift,
    "rates": other.rates,
}
