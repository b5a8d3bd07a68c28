"""Results of the blocks that compare something else than two arms: controls, LSTMs, trained nets, optimisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from converter.study import statistics as stats
from converter.study.compared import Result, Row, arms, compared, mean_interval, values
from converter.verify.paired import holm, wilson


def contrast(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {
        "accuracy": [
            {"width": w, "bias": b, **mean_interval(seen), "worst": max(seen) if b == "none" else min(seen)}
            for w in values(rows, "width")
            for b in ("all", "head", "none")
            if (seen := list(arms(rows, {"width": w, "bias": b}).values()))
        ]
    }


def identity(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {
        "checks": [
            {
                "norm": norm,
                "n": len(mine),
                "apart": max(r["apart"] for r in mine),
                "difference": max(abs(r["accuracy"] - r["accuracy_without"]) for r in mine),
            }
            for norm in values(rows, "norm")
            for mine in [[r for r in rows if r["norm"] == norm]]
        ]
    }


def recall(rows: Sequence[Row], margin: float, share: float) -> Result:
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


def ablation(rows: Sequence[Row], margin: float, share: float) -> Result:
    nets = []
    for norm in ("none", "batch"):
        for width in values(rows, "width"):
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


def drift(rows: Sequence[Row], margin: float, share: float) -> Result:
    found = []
    for name in values(rows, "optimiser"):
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


def rates(rows: Sequence[Row], margin: float, share: float) -> Result:
    found = compared(rows, ("width", "rate"), margin, share)
    best = {}
    for width in values(rows, "width"):
        mine = [c for c in found if c["width"] == width]
        pick = {arm: max(mine, key=lambda c, arm=arm: c[arm]["mean"])["rate"] for arm in ("with", "without")}  # type: ignore[misc]
        best[str(width)] = pick
    return {"comparisons": found, "best": best}


def exact(rows: Sequence[Row], margin: float, share: float) -> Result:
    drop = ("job", "of", "block", "check")
    return {
        check: [{k: v for k, v in row.items() if k not in drop} for row in rows if row["check"] == check]
        for check in ("replaceability", "first layer", "dead", "constant channel", "update")
    }
