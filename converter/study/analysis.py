"""Rows become results, block by block: what was measured, with intervals. Plain JSON values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from converter.study import statistics as stats
from converter.study.plan import parameters
from converter.study.statistics import Judged
from converter.verify.paired import holm, wilson

Row = Mapping[str, Any]
Result = dict[str, Any]


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


def mean_interval(values: Sequence[float]) -> Result:
    """Mean with its 95 % interval over seeds."""
    low, high = stats.t_interval(values, 0.95)
    return {"n": len(values), "mean": float(np.mean(values)), "low": low, "high": high, "median": median(values)}


def arms(rows: Iterable[Row], where: Mapping[str, Any]) -> dict[int, float]:
    """Accuracy by seed of the models that have these values."""
    return {r["seed"]: r["accuracy"] for r in rows if all(r[k] == v for k, v in where.items())}


def differences(first: Mapping[int, float], second: Mapping[int, float]) -> list[float]:
    """First minus second, of the seeds that both have."""
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def _values(rows: Iterable[Row], key: str) -> list[Any]:
    return sorted({row[key] for row in rows})


def compared(rows: Sequence[Row], keys: Sequence[str], margin: float, share: float) -> list[Result]:
    """With biases against without, for every combination of ``keys``, judged as one family."""
    places = sorted({tuple(row[k] for k in keys) for row in rows}, key=_rank)
    pairs = []
    for place in places:
        at = dict(zip(keys, place, strict=True))
        pairs.append((at, arms(rows, at | {"bias": "all"}), arms(rows, at | {"bias": "head"})))
    family = [differences(a, b) for _, a, b in pairs]
    judged = stats.judge(family, margin, share)
    return [_comparison(at, a, b, j) for (at, a, b), j in zip(pairs, judged, strict=True)]


_FIRST = {"raw": 0, "centred": 1, "batch": 0, "instance": 1, "layer": 2}


def _rank(place: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_FIRST.get(v, v) if isinstance(v, str) else v for v in place)


def _comparison(at: Result, a: Mapping[int, float], b: Mapping[int, float], judged: Judged) -> Result:
    wrong = [100 - float(np.mean(list(arm.values()))) for arm in (a, b)]
    ratio = wrong[1] / wrong[0] if wrong[0] > 0 else math.nan
    both = {"with": mean_interval(list(a.values())), "without": mean_interval(list(b.values()))}
    return at | both | {"error_ratio": ratio} | asdict(judged)


def _widths(rows: Sequence[Row], margin: float, share: float) -> Result:
    main = [row for row in rows if row["bias"] != "none"]
    found = compared(main, ("input", "width"), margin, share)
    nowhere = [
        {"input": i, "width": w, **mean_interval(list(seen.values()))}
        for i in _values(rows, "input")
        for w in _values(rows, "width")
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
    for width in _values(rows, "width"):
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
    widths, decays = _values(rows, "width"), _values(rows, "weight_decay")
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


def _contrast(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {
        "accuracy": [
            {"width": w, "bias": b, **mean_interval(seen), "worst": max(seen) if b == "none" else min(seen)}
            for w in _values(rows, "width")
            for b in ("all", "head", "none")
            if (seen := list(arms(rows, {"width": w, "bias": b}).values()))
        ]
    }


def _identity(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {
        "checks": [
            {
                "norm": norm,
                "n": len(mine),
                "apart": max(r["apart"] for r in mine),
                "difference": max(abs(r["accuracy"] - r["accuracy_without"]) for r in mine),
            }
            for norm in _values(rows, "norm")
            for mine in [[r for r in rows if r["norm"] == norm]]
        ]
    }


def _recall(rows: Sequence[Row], margin: float, share: float) -> Result:
    steps, lag = max(row["steps"] for row in rows), rows[0]["lag"]
    found = []
    for arm in ("none", "0", "1", "2", "chrono"):
        mine = [row for row in rows if row["forget_bias"] == arm]
        done = [row["solved_at"] for row in mine]
        solved = sum(at is not None for at in done)
        low, high = wilson(solved, len(mine))
        middle = median(math.inf if at is None else at for at in done)
        checks = mine[0]["checks"]
        means = [float(np.mean([row["curve"][k] for row in mine])) for k in range(len(checks))]
        found.append({
            "forget_bias": arm,
            "n": len(mine),
            "solved": solved,
            "low": low,
            "high": high,
            "median_steps": None if math.isinf(middle) else middle,
            "solved_at": done,
            "accuracy": float(np.mean([row["accuracy"] for row in mine])),
            "curve": means,
            "checks": checks,
            "time_constant": None if arm == "chrono" else 1 + math.exp(0.0 if arm == "none" else float(arm)),
        })  # fmt: skip
    return {"lag": lag, "steps": steps, "arms": found, "tests": _against(found)}


def _against(found: Sequence[Result]) -> list[Result]:
    """Fisher's test of every other start against a forget bias of 0, with Holm's correction."""
    by_name = {f["forget_bias"]: f for f in found}
    zero, others = by_name["0"], ("1", "2", "chrono")
    p = [stats.fisher(by_name[o]["solved"], by_name[o]["n"], zero["solved"], zero["n"]) for o in others]
    adjusted = holm(p)
    return [{"forget_bias": o, "p": v, "p_holm": h} for o, v, h in zip(others, p, adjusted, strict=True)]


METHODS = ("original", "zero", "head", "independent", "sequential")


def _ablation(rows: Sequence[Row], margin: float, share: float) -> Result:
    nets = []
    for norm in ("none", "batch"):
        for width in _values(rows, "width"):
            mine = [row for row in rows if row["norm"] == norm and row["width"] == width]
            if mine:
                nets.append({"norm": norm, "width": width, "n": len(mine)} | _ablated(mine))
    return {"nets": nets}


def _ablated(rows: Sequence[Row]) -> Result:
    def over(pick: Callable[[Row], float]) -> Result:
        return mean_interval([pick(row) for row in rows])

    methods = {
        m: {
            "accuracy": over(lambda r, m=m: r["methods"][m]["accuracy"]),  # type: ignore[misc]
            "lost": over(lambda r, m=m: r["methods"]["original"]["accuracy"] - r["methods"][m]["accuracy"]),  # type: ignore[misc]
            "agreement": over(lambda r, m=m: r["methods"][m]["agreement"]),  # type: ignore[misc]
            "error": over(lambda r, m=m: r["methods"][m]["error"]),  # type: ignore[misc]
            "contrast": {
                c: float(np.mean([r["methods"][m]["contrast"][c] for r in rows]))
                for c in rows[0]["methods"][m]["contrast"]
            },
        }
        for m in METHODS
    }
    count = len(rows[0]["layers"])
    layers = [{k: float(np.mean([r["layers"][i][k] for r in rows])) for k in ("r", "size")} for i in range(count)]
    return {"methods": methods, "layers": layers}


def _drift(rows: Sequence[Row], margin: float, share: float) -> Result:
    found = []
    for name in _values(rows, "optimiser"):
        mine = [row for row in rows if row["optimiser"] == name]
        of = {k: [row[k] for row in mine] for k in ("largest", "rms", "gradient_bias", "gradient_weight")}
        apart = [row["accuracy"] - row["accuracy_without"] for row in mine]
        found.append({
            "optimiser": name,
            "n": len(mine),
            "rate": mine[0]["rate"],
            "largest": max(of["largest"]),
            "rms": median(of["rms"]),
            "gradient_bias": median(of["gradient_bias"]),
            "gradient_weight": median(of["gradient_weight"]),
            "difference": mean_interval(apart),
        })  # fmt: skip
    return {"optimisers": found}


def _rates(rows: Sequence[Row], margin: float, share: float) -> Result:
    found = compared(rows, ("width", "rate"), margin, share)
    best = {}
    for width in _values(rows, "width"):
        mine = [c for c in found if c["width"] == width]
        pick = {arm: max(mine, key=lambda c, arm=arm: c[arm]["mean"])["rate"] for arm in ("with", "without")}  # type: ignore[misc]
        best[str(width)] = pick
    return {"comparisons": found, "best": best}


def _exact(rows: Sequence[Row], margin: float, share: float) -> Result:
    drop = ("job", "of", "block", "check")
    return {
        check: [{k: v for k, v in row.items() if k not in drop} for row in rows if row["check"] == check]
        for check in ("replaceability", "first layer", "dead", "constant channel", "update")
    }


_MADE: dict[str, Callable[[Sequence[Row], float, float], Result]] = {
    "exact": _exact,
    "identity": _identity,
    "contrast": _contrast,
    "widths": _widths,
    "recall": _recall,
    "ablation": _ablation,
    "norms": _norms,
    "capacity": _capacity,
    "depth": _depth,
    "drift": _drift,
    "rates": _rates,
}
