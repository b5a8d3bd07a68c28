"""What each block of a study says, from the rows of its jobs: comparisons over paired seeds, judged as families."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from converter import stats
from converter.dataclass import dataclass
from converter.stats import holm, wilson
from converter.study.multiplier import estimate_multiplier
from converter.study.plan import count_parameters

Row = Mapping[str, Any]
Result = dict[str, Any]
ALPHA = 0.05
EQUIVALENT, DIFFERENT, OPEN = "EQUIVALENT", "DIFFERENT", "INCONCLUSIVE"
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One family member: differences in percentage points, first arm minus second.

    ``low``, ``high`` bound the mean at 95 %, ``low90``, ``high90`` at 90 % (these are what equivalence is read from),
    ``low_new``, ``high_new`` at 95 % for new data of this kind.
    """

    n: int
    mean: float
    sd: float
    median: float
    low: float
    high: float
    low90: float
    high90: float
    low_new: float
    high_new: float
    p_flip: float
    p_tost: float
    p_holm: float
    verdict: str
    needed: int | None


def judge(family: Sequence[Sequence[float]], margin: float, share: float = 1.0) -> list[Comparison]:
    """Judge every member of a family of comparisons; differences are called such only after Holm's correction.

    Parameters
    ----------
    family : sequence of sequences of float
        Differences per seed.
    margin : float
        What counts as no difference, in the same unit.
    share : float
        Test images over training images.
    """
    adjusted = holm([stats.t_test(d) for d in family])
    return [_judge(np.asarray(d, dtype=np.float64), p, margin, share) for d, p in zip(family, adjusted, strict=True)]


def _judge(d: Array, p_holm: float, margin: float, share: float) -> Comparison:
    sd = float(d.std(ddof=1)) if len(d) > 1 else math.nan
    p_tost = stats.tost(d, margin)
    verdict = EQUIVALENT if p_tost <= ALPHA else DIFFERENT if p_holm <= ALPHA else OPEN
    return Comparison(
        len(d),
        float(d.mean()),
        sd,
        float(np.median(d)),
        *stats.t_interval(d, 0.95),
        *stats.t_interval(d, 0.90),
        *stats.nadeau_bengio(d, share, 0.95),
        stats.sign_flip(d),
        p_tost,
        p_holm,
        verdict,
        stats.needed_seeds(sd, margin) if verdict == OPEN and len(d) > 1 else None,
    )


def mean_interval(values: Sequence[float]) -> Result:
    """Mean with its 95 % interval over seeds."""
    low, high = stats.t_interval(values, 0.95)
    return {"n": len(values), "mean": float(np.mean(values)), "low": low, "high": high, "median": median(values)}


def select_arms(rows: Iterable[Row], where: Mapping[str, Any]) -> dict[int, float]:
    """Accuracy by seed of the models that have these values."""
    return {r["seed"]: r["accuracy"] for r in rows if all(r[k] == v for k, v in where.items())}


def pair_differences(first: Mapping[int, float], second: Mapping[int, float]) -> list[float]:
    """First minus second, of the seeds that both have."""
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def list_values(rows: Iterable[Row], key: str) -> list[Any]:
    return sorted({row[key] for row in rows})


def compare_arms(rows: Sequence[Row], keys: Sequence[str], margin: float, share: float) -> list[Result]:
    """With biases against without, for every combination of ``keys``, judged as one family."""
    places = sorted({tuple(row[k] for k in keys) for row in rows}, key=_rank_place)
    pairs = []
    for place in places:
        at = dict(zip(keys, place, strict=True))
        pairs.append((at, select_arms(rows, at | {"bias": "all"}), select_arms(rows, at | {"bias": "head"})))
    family = [pair_differences(a, b) for _, a, b in pairs]
    judged = judge(family, margin, share)
    return [_comparison(at, a, b, j) for (at, a, b), j in zip(pairs, judged, strict=True)]


_FIRST = {"raw": 0, "centred": 1, "batch": 0, "instance": 1, "layer": 2}


def _rank_place(place: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_FIRST.get(v, v) if isinstance(v, str) else v for v in place)


def _comparison(at: Result, a: Mapping[int, float], b: Mapping[int, float], judged: Comparison) -> Result:
    wrong = [100 - float(np.mean(list(arm.values()))) for arm in (a, b)]
    ratio = wrong[1] / wrong[0] if wrong[0] > 0 else math.nan
    both = {"with": mean_interval(list(a.values())), "without": mean_interval(list(b.values()))}
    return at | both | {"error_ratio": ratio} | asdict(judged)


def summarize_contrast(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {
        "accuracy": [
            {"width": w, "bias": b, **mean_interval(seen), "worst": max(seen) if b == "none" else min(seen)}
            for w in list_values(rows, "width")
            for b in ("all", "head", "none")
            if (seen := list(select_arms(rows, {"width": w, "bias": b}).values()))
        ]
    }


def summarize_identity(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {
        "checks": [
            {
                "norm": norm,
                "n": len(mine),
                "apart": max(r["apart"] for r in mine),
                "difference": max(abs(r["accuracy"] - r["accuracy_without"]) for r in mine),
            }
            for norm in list_values(rows, "norm")
            for mine in [[r for r in rows if r["norm"] == norm]]
        ]
    }


def summarize_recall(rows: Sequence[Row], margin: float, share: float) -> Result:
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
    return {"lag": lag, "steps": steps, "arms": found, "tests": _test_against_zero(found)}


def _test_against_zero(found: Sequence[Result]) -> list[Result]:
    """Fisher's test of every other start against a forget bias of 0, with Holm's correction."""
    by_name = {f["forget_bias"]: f for f in found}
    zero, others = by_name["0"], ("1", "2", "chrono")
    p = [stats.fisher(by_name[o]["solved"], by_name[o]["n"], zero["solved"], zero["n"]) for o in others]
    adjusted = holm(p)
    return [{"forget_bias": o, "p": v, "p_holm": h} for o, v, h in zip(others, p, adjusted, strict=True)]


METHODS = ("original", "zero", "head", "independent", "sequential")


def summarize_ablation(rows: Sequence[Row], margin: float, share: float) -> Result:
    nets = []
    for norm in ("none", "batch"):
        for width in list_values(rows, "width"):
            mine = [row for row in rows if row["norm"] == norm and row["width"] == width]
            if mine:
                nets.append({"norm": norm, "width": width, "n": len(mine)} | _summarize_net(mine))
    return {"nets": nets}


def _summarize_net(rows: Sequence[Row]) -> Result:
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


def summarize_drift(rows: Sequence[Row], margin: float, share: float) -> Result:
    found = []
    for name in list_values(rows, "optimiser"):
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


def summarize_rates(rows: Sequence[Row], margin: float, share: float) -> Result:
    found = compare_arms(rows, ("width", "rate"), margin, share)
    best = {}
    for width in list_values(rows, "width"):
        mine = [c for c in found if c["width"] == width]
        pick = {arm: max(mine, key=lambda c, arm=arm: c[arm]["mean"])["rate"] for arm in ("with", "without")}  # type: ignore[misc]
        best[str(width)] = pick
    return {"comparisons": found, "best": best}


def summarize_exact(rows: Sequence[Row], margin: float, share: float) -> Result:
    drop = ("job", "of", "block", "check")
    return {
        check: [{k: v for k, v in row.items() if k not in drop} for row in rows if row["check"] == check]
        for check in ("replaceability", "first layer", "dead", "constant channel", "update")
    }


def summarize_blocks(rows: Sequence[Row], margin: float, share: float) -> dict[str, Any]:
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


def add_parameters(widths: Result, image: Sequence[int], classes: int) -> None:
    """Add to each multiplier in channels what it is in parameters of the whole net."""
    for made in filter(None, widths["multiplier"].values()):
        for at in made["widths"]:
            w, factor = at["width"], at["factor"]
            before = count_parameters(w, image, classes, biases=True)
            after = None if factor is None else count_parameters(factor * w, image, classes, biases=False)
            at["parameters"] = None if after is None else after / before


def _summarize_widths(rows: Sequence[Row], margin: float, share: float) -> Result:
    main = [row for row in rows if row["bias"] != "none"]
    found = compare_arms(main, ("input", "width"), margin, share)
    nowhere = [
        {"input": i, "width": w, **mean_interval(list(seen.values()))}
        for i in list_values(rows, "input")
        for w in list_values(rows, "width")
        if (seen := select_arms(rows, {"input": i, "width": w, "bias": "none"}))
    ]
    inputs = [i for i in ("raw", "centred", "pixel") if any(c["input"] == i for c in found)]
    return {
        "comparisons": found,
        "nowhere": nowhere,
        "sequence": {i: _test_sequence([c for c in found if c["input"] == i]) for i in inputs},
        "multiplier": {i: _pool_multiplier([r for r in main if r["input"] == i], found, i) for i in inputs},
    }


def _test_sequence(found: list[Result]) -> Result:
    """Equivalence tested from the widest down, as far as it goes."""
    wide = sorted(found, key=lambda c: -c["width"])
    held = stats.fixed_sequence([c["p_tost"] for c in wide])
    widths = [c["width"] for c in wide]
    return {"equivalent": widths[:held], "stopped_at": widths[held] if held < len(widths) else None}


def _pool_multiplier(rows: Sequence[Row], found: Sequence[Result], kind: str) -> Result | None:

    errors = {}
    for width in list_values(rows, "width"):
        a, b = (select_arms(rows, {"width": width, "bias": bias}) for bias in ("all", "head"))
        seeds = sorted(a.keys() & b.keys())
        errors[width] = tuple(1 - np.array([arm[s] for s in seeds]) / 100 for arm in (a, b))
    made = estimate_multiplier(errors, 0.5 / 1000)  # type: ignore[arg-type]
    if made is None:
        return None
    widths = [asdict(w) | {"at_ceiling": w.at_ceiling} for w in made.widths]
    return {"factor": made.factor, "low": made.low, "high": made.high, "widths": widths}


def _summarize_norms(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {"comparisons": compare_arms(rows, ("norm", "width"), margin, share)}


def _summarize_depth(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {"comparisons": compare_arms(rows, ("depth", "width"), margin, share)}


def _summarize_capacity(rows: Sequence[Row], margin: float, share: float) -> Result:
    """What 2 and 4 times the channels do to accuracy, and the bias with and without weight decay."""
    widths, decays = list_values(rows, "width"), list_values(rows, "weight_decay")
    places = [(d, b, w) for d in decays for b in ("all", "head") for w in widths[1:]]
    family, base = [], {}
    for decay, bias, width in places:
        base = {"weight_decay": decay, "bias": bias}
        family.append(
            pair_differences(select_arms(rows, base | {"width": width}), select_arms(rows, base | {"width": widths[0]}))
        )
    gains = [
        {"weight_decay": d, "bias": b, "width": w, "times": w / widths[0], **asdict(j)}
        for (d, b, w), j in zip(places, judge(family, margin, share), strict=True)
    ]
    accuracy = [
        {"weight_decay": d, "bias": b, "width": w, **mean_interval(list(seen.values()))}
        for d in decays
        for b in ("all", "head")
        for w in widths
        if (seen := select_arms(rows, {"weight_decay": d, "bias": b, "width": w}))
    ]
    comparisons = compare_arms(rows, ("weight_decay", "width"), margin, share)
    return {"base": widths[0], "gains": gains, "accuracy": accuracy, "comparisons": comparisons}


_MADE: dict[str, Callable[[Sequence[Row], float, float], Result]] = {
    "exact": summarize_exact,
    "identity": summarize_identity,
    "contrast": summarize_contrast,
    "widths": _summarize_widths,
    "recall": summarize_recall,
    "ablation": summarize_ablation,
    "norms": _summarize_norms,
    "capacity": _summarize_capacity,
    "depth": _summarize_depth,
    "drift": summarize_drift,
    "rates": summarize_rates,
}
